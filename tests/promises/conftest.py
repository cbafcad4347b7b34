"""Runs that the promises share, each made once: one trained for a step, and one whose network
changes nothing.
"""

import copy
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in every process

import files
import pytest


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run of the tiny recipe: only to be read."""
    import gantk

    folder = tmp_path_factory.mktemp("promises") / "run"
    gantk.run(copy.deepcopy(files.TINY), out=folder, device="cpu", say=lambda line: None)
    return folder


@pytest.fixture(scope="session")
def identity(tmp_path_factory):
    """A folder whose `out` is what a network that changes nothing made of `in`; see through.py for
    what else.
    """
    folder = tmp_path_factory.mktemp("identity")
    files.every_kind(folder / "in")
    installed = files.install_plugin(folder / "installed")
    files.python(
        files.Path(files.__file__).with_name("through.py"), folder, installed=installed
    ).ok()
    return folder
