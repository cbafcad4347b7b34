"""What is published works: a wheel holds all of gantk and nothing else, and runs from any folder."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from tiny import ROOT, python

from gantk.runs.folder import RunFolder
from gantk.runs.models import all_models, card, limits_of, pack_record

INFO = f"gantk-{tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['project']['version']}.dist-info"
IGNORED = shutil.ignore_patterns(".git", ".venv", "dist", "__pycache__", ".*_cache", ".hypothesis")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of this checkout, with files in it that must not be shipped."""
    pytest.importorskip("hatchling", reason="needs hatchling: pip install gantk[dev]")
    copy = tmp_path_factory.mktemp("wheel") / "gantk"
    shutil.copytree(ROOT, copy, ignore=IGNORED)
    shutil.rmtree(copy / "runs", ignore_errors=True)  # trainings; gantk/runs is code
    model = copy / "plugins" / "gantk_models" / "shipped" / "model" / "checkpoints" / "step-000001"
    model.mkdir(parents=True)
    (model / "weights.safetensors").touch()
    left = (
        "gantk/__pycache__/left.pyc",
        "plugins/gantk_translation/left.pyc",
        "benchmarks/results/left.json",
    )
    for name in (*left, "benchmarks/left.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).touch()

    return build(copy, "wheel")


def build(checkout: Path, target: str) -> Path:
    """The wheel or sdist of a checkout."""
    words = ("build", "--target", target, "--directory", "dist")
    python("-m", "hatchling", *words, cwd=checkout, PYTHONPATH=str(checkout)).ok()
    (built,) = (checkout / "dist").glob("*.whl" if target == "wheel" else "*.tar.gz")
    return built


def shipped(folder: str, *suffixes: str) -> set[str]:
    """The files below a folder of this checkout that have one of the suffixes, relative to it."""
    paths = (path for suffix in suffixes for path in (ROOT / folder).rglob(f"*{suffix}"))
    return {str(path.relative_to(ROOT / folder)) for path in paths}


def test_wheel_holds_code_recipes_and_licence_only(wheel):
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    wanted = {f"gantk/{name}" for name in shipped("gantk", ".py", ".j2", ".css", ".js", ".in")}
    wanted |= {f"gantk/recipes/{name}" for name in shipped("recipes", ".toml")}
    wanted |= shipped("plugins", ".py", ".toml", ".md", ".csv")
    wanted |= {"gantk/report/page.html.j2", "gantk/scaffold/templates/pyproject.toml.in"}
    wanted |= {"gantk_datasets/phantom/anatomy.npz", "gantk_datasets/phantom/anatomy.npz.LICENSE"}
    wanted |= shipped("plugins", ".safetensors", "card.md", "meta.json", "metrics.json")
    wanted |= shipped("plugins", ".nii.gz")
    wanted |= {"gantk_models/shipped/model/checkpoints/step-000001/weights.safetensors"}

    assert wanted <= names
    plugins = {path.name for path in (ROOT / "plugins").iterdir() if path.is_dir()}
    assert {name.split("/")[0] for name in names} <= {"gantk", "gantk_bench", INFO, *plugins}
    assert not [
        name for name in names if "left." in name or "__pycache__" in name or "_cache/" in name
    ]
    points = archive.read(f"{INFO}/entry_points.txt").decode().splitlines()
    assert {"gantk = gantk.__main__:main", "translation = gantk_translation"} <= set(points)
    assert b"Apache License" in archive.read(f"{INFO}/licenses/LICENSE")
    # whose images the shipped weights are made of
    assert b"Lesjak" in archive.read(f"{INFO}/licenses/NOTICE")


def test_shipped_models_are_small_packed_and_have_cards(capfd):
    for name, folder in (
        (name, folder) for name, (folder, owner) in all_models().items() if owner == "gantk"
    ):
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 2**22
        assert pack_record(RunFolder.open(folder)).name == name
        assert limits_of(folder)
        assert "has not stated" not in card(folder)
        RunFolder.open(folder).recipe().check()
    assert capfd.readouterr() == ("", "")  # this version has all keys of their recipes


@pytest.mark.slow
def test_a_wheel_made_from_the_source_archive_is_the_same(wheel, tmp_path):
    with tarfile.open(build(wheel.parent.parent, "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    again = build(unpacked, "wheel")

    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_an_installed_wheel_works_from_another_folder(wheel, tmp_path):
    environment = tmp_path / "venv"
    python("-m", "venv", "--without-pip", environment).ok()
    (packages,) = (environment / "lib").glob("python*/site-packages")
    options = ("--quiet", "--no-deps", "--no-index", "--target", packages)
    python("-m", "pip", "install", *options, wheel).ok()
    # The libraries of this environment, behind the wheel and without this checkout's own .pth
    # files.
    libraries = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n", "utf-8")

    def said(*words: str) -> str:
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [str(environment / "bin" / "python"), *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("-c", "import gantk; print(gantk.__file__)").startswith(str(packages))

    tiny = ["train.steps=2", "data.source.subjects=6", "data.source.slices=2", "data.size=[64, 64]"]
    settings = [word for setting in tiny for word in ("--set", setting)]
    out = said("-m", "gantk", "run", "dualgan_t1t2", "--out", "run", "--device", "cpu", *settings)

    assert "bundled with gantk" in out.splitlines()[0]
    assert (tmp_path / "run" / "report.html").is_file()


def test_constraints_name_every_tested_package():
    pinned = dict(
        re.findall("^(.+)==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    )
    if distribution("torch").version.split("+")[0] != pinned["torch"]:
        pytest.skip("these packages were not installed with constraints.txt")

    waiting = [Requirement("gantk[dev]")]
    needed = {}
    for wanted in waiting:
        name = canonicalize_name(wanted.name)
        if name in needed and wanted.extras <= needed[name]:
            continue

        needed[name] = needed.get(name, set()) | wanted.extras
        # it pins NVIDIA's
        for each in map(Requirement, distribution(name).requires or [] if name != "torch" else []):
            if not each.marker or any(
                each.marker.evaluate({"extra": extra}) for extra in {"", *wanted.extras}
            ):
                waiting.append(each)
                assert each.specifier.contains(pinned.get(canonicalize_name(each.name), "0.1.0")), (
                    f"{name}: {each}"
                )

    assert needed.keys() - pinned.keys() <= {"gantk"}, needed.keys() - pinned.keys()


def test_each_pinned_version_runs_on_the_oldest_python():
    pinned = re.findall("^(.+)==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    too_new = []
    for name, version in pinned:
        with suppress(PackageNotFoundError):
            package = distribution(name)
            needed = SpecifierSet(package.metadata["Requires-Python"] or "")
            if package.version == version and not needed.contains("3.11.0"):
                too_new.append(f"{name}=={version} needs Python {needed}")

    assert too_new == []
