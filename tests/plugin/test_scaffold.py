"""`gantk new` writes a package that works as written, or nothing at all; and what the documentation
makes of one.
"""

import re
import sys
from pathlib import Path

import pytest
from packages import install
from tiny import ROOT, python

KINDS = {  # word of the command -> kind of part
    "plugin": "method",
    **{kind: kind for kind in ("loss", "generator", "discriminator", "metric", "source", "format")},
}


def assert_works(package: Path, kind: str, name: str, work: Path) -> None:
    """Installed into `work`, a package passes its contract, is shown, and trains its recipe where
    it has one.
    """
    site = {"PYTHONPATH": str(work / "installed"), "PYTHONDONTWRITEBYTECODE": "1"}
    install(package, work / "installed", work)
    tests = python("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package, **site).ok()
    assert " passed" in tests.out
    shown = python("-m", "gantk", "show", kind, name, cwd=work, **site).ok()
    assert f"{kind} {name}" in shown.out
    if kind in ("source", "format"):  # they show what they are for on files of one's own
        return

    tiny = ["train.steps=2", "data.source.subjects=6", "data.source.slices=2", "data.size=[32, 32]"]
    settings = [word for setting in tiny for word in ("--set", setting)]
    run = ("run", f"{name}_t1t2", "--out", "run", "--device", "cpu", "--precision", "fp32")
    trained = python("-m", "gantk", *run, *settings, cwd=work, **site).ok()
    assert (work / "run" / "report.html").is_file(), trained.err


@pytest.mark.slow
@pytest.mark.parametrize(("word", "kind"), KINDS.items())
def test_the_package_works_as_written(word, kind, gantk, tmp_path):
    gantk("new", word, "My-GAN2", "--folder", tmp_path).ok()
    assert_works(tmp_path / "my-gan2", kind, "my_gan2", tmp_path)


@pytest.mark.parametrize(("word", "kind"), KINDS.items())
def test_every_kind_of_part_is_written_with_next_steps(word, kind, gantk, tmp_path):
    written = gantk("new", word, "My-GAN2", "--folder", tmp_path).ok()
    assert "next     pip install -e '" in written.out
    assert "[dev]' && pytest " in written.out  # pytest comes with the package

    paths = [
        path
        for path in (tmp_path / "my-gan2").rglob("*")
        if path.is_file() and path.parent.name != "recipes"
    ]
    texts = {path.name: path.read_text("utf-8") for path in paths}
    for name, text in texts.items():
        assert "$" not in text and max(map(len, text.splitlines()), default=0) <= 120, name

    (part,) = texts.keys() & {"model.py", *(f"{kind}.py" for kind in KINDS.values())}

    assert "class MyGAN2" in texts[part]
    assert f"class TestMyGAN2({kind.title()}Contract):" in texts["test_contract.py"]
    assert (
        f'add.{kind}("my_gan2", "my_gan2.{part.removesuffix(".py")}:MyGAN2")'
        in texts["__init__.py"]
    )


# ---- the parts that the pages in docs/own-parts/ write


PAGES = {path.stem: path.read_text("utf-8") for path in (ROOT / "docs/own-parts").glob("*.md")}
TITLED_BLOCK = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.M | re.S)
FILES = {block[1]: block[2] for text in PAGES.values() for block in TITLED_BLOCK.finditer(text)}
PARTS = {"ConvNeXt": "generator", "NCC": "loss", "GcGAN": "plugin", "Lab": "source"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "word"), PARTS.items())
def test_each_part_of_the_pages_passes_its_contract_and_trains(name, word, gantk, tmp_path):
    gantk("new", word, name, "--folder", tmp_path).ok()
    package = tmp_path / name.lower()
    for file, text in FILES.items():
        if file.startswith(f"{package.name}/"):
            (tmp_path / file).write_text(text, "utf-8")

    assert_works(package, KINDS[word], package.name, tmp_path)


@pytest.mark.slow
def test_the_command_and_hooks_of_the_page_work(tmp_path):
    for file in ("labtools/pyproject.toml", "labtools/src/labtools/__init__.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(FILES[file], "utf-8")

    site = tmp_path / "installed"
    install(tmp_path / "labtools", site, tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n', "utf-8")

    last = python("-m", "gantk", "last-losses", "run", cwd=tmp_path, PYTHONPATH=str(site)).ok()
    assert '"step": 2' in last.out

    words = ["run", "dualgan_t1t2", "--set", "train.batch=65", "--out", "refused"]
    refused = python("-m", "gantk", *words, cwd=tmp_path, PYTHONPATH=str(site)).refused()
    assert "does not fit into our GPUs" in refused


def test_an_editable_install_needs_hatchling_alone(gantk, tmp_path, monkeypatch):
    build = pytest.importorskip("hatchling.build", reason="needs hatchling: pip install gantk[dev]")
    monkeypatch.setitem(sys.modules, "editables", None)
    gantk("new", "loss", "NCC", "--folder", tmp_path).ok()
    for file in ("labtools/pyproject.toml", "labtools/src/labtools/__init__.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(FILES[file], "utf-8")

    for name in ("ncc", "labtools"):
        monkeypatch.chdir(tmp_path / name)
        assert build.build_editable(str(tmp_path)).startswith(name)
