"""Packages of third parties, installed by pip beside gantk: they work like ours, and a broken one disturbs nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from packages import install, python

PACKAGES = Path(__file__).parent / "third_party"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that holds the working package and, beside it, the broken one."""
    work = tmp_path_factory.mktemp("third_party")
    for name in ("oneway", "broken"):
        install(PACKAGES / name, work / "installed", work)
    return work / "installed"


@pytest.fixture
def gantk(installed, tmp_path):
    """`gantk(...)` as a process that sees the installed packages."""
    return lambda *arguments: python("-m", "gantk", *arguments, cwd=tmp_path, path=installed)


def test_its_parts_stand_beside_ours(gantk):
    found = gantk("list")
    assert found.returncode == 0, found.stderr
    rows = [line.split() for line in found.stdout.splitlines()]
    for kind, name in (("method", "oneway"), ("generator", "two_layers"), ("loss", "mean_gap")):
        assert [kind, name, "gantk-oneway"] in rows
    assert ["method", "dualgan", "gantk"] in rows


def test_its_recipe_runs_by_name_and_its_model_translates(gantk, tmp_path):
    assert "oneway_t1t2" in gantk("recipes").stdout
    run = gantk("run", "oneway_t1t2", "--out", "run", "--device", "cpu", "--set", "train.steps=2")
    assert run.returncode == 0, run.stderr
    assert "bundled with gantk-oneway" in run.stdout.splitlines()[0]
    assert "a_to_b" in json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))["metrics"]
    assert (tmp_path / "run" / "report.html").is_file()
    translated = gantk("translate", "run", "run/samples/input/a_to_b-0.png", "out.png")
    assert translated.returncode == 0, translated.stderr
    assert (tmp_path / "out.png").is_file()


def test_its_command_is_a_gantk_command(gantk):
    assert "greet" in gantk("--help").stdout
    assert gantk("greet", "Ada").stdout.strip() == "one way, Ada"


def test_a_broken_package_is_listed_with_its_error(gantk):
    listed = gantk("plugins")
    assert listed.returncode == 0
    line = next(line for line in listed.stdout.splitlines() if "gantk-broken" in line)
    assert "did not load" in line
    assert "No module named 'a_library_nobody_has'" in line


def test_a_broken_package_is_quoted_when_its_method_is_asked_for(gantk):
    refused = gantk("run", "oneway_t1t2", "--set", "method=brokengan")
    assert refused.returncode == 2
    assert "there is no method 'brokengan'" in refused.stderr
    assert "No module named 'a_library_nobody_has'" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_name_that_is_taken_is_an_error_that_names_both(tmp_path):
    install(PACKAGES / "taking", tmp_path / "installed", tmp_path)
    refused = python("-m", "gantk", "run", "cyclegan_t1t2_64", cwd=tmp_path, path=tmp_path / "installed")
    assert refused.returncode == 2
    assert "the method 'cyclegan' is offered by 'gantk' and 'gantk-taking'" in refused.stderr
    others = python("-m", "gantk", "list", "method", cwd=tmp_path, path=tmp_path / "installed")
    assert "dualgan" in others.stdout and "cyclegan" not in others.stdout
