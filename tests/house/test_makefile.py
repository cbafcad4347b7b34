"""`make` uses an environment that stands in .venv already, or names it; it removes only its own."""

import shutil
import subprocess
import sys

import pytest
from tiny import ROOT


def make(folder, *words):
    command = ["make", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def clone(tmp_path):
    """A folder with the Makefile, and a .venv with a file of the user's."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "mine").write_text("a plugin of mine\n", "utf-8")
    return tmp_path


def stand_in(clone, has_pip: bool) -> None:
    """Put a program that behaves as a Python, with or without pip, into the environment."""
    python = clone / ".venv" / "bin" / "python"
    without_pip = "" if has_pip else 'case "$*" in "-m pip"*) exit 1;; esac\n'
    answer = 'case "$*" in "-m pip"*) exit 0;; esac\n'
    python.write_text(f'#!/bin/sh\n{without_pip}{answer}exec {sys.executable} "$@"\n', "utf-8")
    python.chmod(0o755)


def test_an_environment_of_the_user_is_used_and_stays(clone):
    stand_in(clone, has_pip=True)

    done = make(clone, ".venv/made")

    assert done.returncode == 0, done.stderr
    assert "Using the environment .venv" in done.stdout
    assert make(clone, "clean").returncode == 0
    assert (clone / ".venv" / "mine").is_file()


@pytest.mark.parametrize("python", ["without pip", "missing"])
def test_what_cannot_be_used_is_named_and_stays(clone, python):
    if python == "without pip":
        stand_in(clone, has_pip=False)

    done = make(clone, ".venv/made")

    assert done.returncode == 2
    assert "It was not changed. Move it away, or name another folder with: make" in done.stderr
    assert make(clone, "clean").returncode == 0
    assert (clone / ".venv" / "mine").is_file()


def test_an_environment_that_make_made_is_removed(clone):
    (clone / ".venv" / "made").touch()

    assert make(clone, "clean").returncode == 0
    assert not (clone / ".venv").exists()


def test_an_environment_that_make_left_half_made_is_made_again(clone):
    (clone / ".venv" / "making").touch()

    make(clone, ".venv/made", "PYTHON=false")

    assert not (clone / ".venv").exists()
