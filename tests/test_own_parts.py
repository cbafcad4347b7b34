"""The parts that the documentation writes keep every promise, train, and are as short as it says."""

import re

import pytest
from packages import install, python
from tiny import ROOT

from gantk_new import scaffold

PAGE = (ROOT / "docs" / "own-parts.md").read_text("utf-8")
FILES = {m[1]: m[2] for m in re.finditer(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE, re.M | re.S)}
PARTS = {"ConvNeXt": "generator", "NCC": "loss", "GcGAN": "method"}


def test_each_part_of_the_page_is_under_sixty_lines_and_takes_the_place_of_a_written_one(tmp_path):
    for name, kind in PARTS.items():
        assert f"gantk new {kind} {name}" in PAGE
        package = scaffold.new_plugin(name, tmp_path, kind)
        written = {str(path.relative_to(tmp_path)) for path in package.rglob("*")}
        own = [file for file in FILES if file.startswith(f"{name.lower()}/")]
        assert own and set(own) <= written
    assert all(text.count("\n") < 60 for text in FILES.values()), {f: t.count("\n") for f, t in FILES.items()}
    assert all(len(line) <= 120 for text in FILES.values() for line in text.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), PARTS.items())
def test_each_part_of_the_page_passes_its_contract_and_trains(name, kind, tmp_path):
    package = scaffold.new_plugin(name, tmp_path, kind)
    for file, text in FILES.items():
        if file.startswith(f"{package.name}/"):
            (tmp_path / file).write_text(text, "utf-8")
    site = tmp_path / "installed"
    install(package, site, tmp_path)
    tests = python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package, path=site)
    assert tests.returncode == 0 and " passed" in tests.stdout, tests.stdout
    tiny = ["train.steps=4", "data.source.subjects=6", "data.source.slices=2", "data.size=[32, 32]"]
    settings = [word for setting in tiny for word in ("--set", setting)]
    command = ["run", f"{package.name}_t1t2", "--out", "run", "--device", "cpu", *settings]
    trained = python("-m", "gantk", *command, cwd=tmp_path, path=site)
    assert trained.returncode == 0 and (tmp_path / "run" / "report.html").is_file(), trained.stderr
    shown = python("-m", "gantk", "show", kind, package.name, cwd=tmp_path, path=site)
    assert shown.returncode == 0, shown.stderr
