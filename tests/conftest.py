"""What the tests share: small data, tiny recipes and runs, the command line, instant plugins."""

import atexit
import copy
import gc
import os
import shutil
import tempfile

# Before torch is imported, here and in every child process: tiny networks gain nothing from
# threads, and on a busy machine threads that wait for each other take minutes for what one does in
# seconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the network for weights
if "GANTK_CACHE" not in os.environ:  # the user's own stays as it is
    os.environ["GANTK_CACHE"] = tempfile.mkdtemp(prefix="gantk-cache-")
    atexit.register(shutil.rmtree, os.environ["GANTK_CACHE"], ignore_errors=True)

import sys
from pathlib import Path

import pytest
from packages import put_distribution

# `tiny` is imported where it is used: with it comes torch, which takes seconds, and the process
# that hands out the tests to others runs none.
ROOT = Path(__file__).resolve().parent.parent

# while tests are imported, of which nothing is garbage: searching it took a quarter of that time
gc.disable()


def pytest_collection_finish():
    gc.freeze()  # nor is it garbage later
    gc.set_threshold(10_000)  # and of the tests' own little is, before as many objects are new
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items):
    """Of a test marked `quick_cases`, all other cases are slow."""
    for item in items:
        chosen = item.get_closest_marker("quick_cases")
        if chosen is not None and item.callspec.id not in chosen.args:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images that some tests look at; they are skipped where it is absent."""
    folder = Path(os.environ.get("GANTK_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            f"no test data at '{folder}': set GANTK_TEST_DATA to the folder that holds them"
        )
    return folder


@pytest.fixture(autouse=True, scope="module")
def no_wait_for_the_disk(request):
    """Nothing is forced onto the disk, which takes long and counts after a power cut alone; in
    reliability/ it is.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "reliability" not in request.path.parts:
            patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def tiny_recipe() -> dict:
    """The tables of a recipe that trains in about a second: phantom at 32 px, 6 subjects, networks
    of width 4.
    """
    from tiny import TINY

    return copy.deepcopy(TINY)


@pytest.fixture
def tiny_file(tmp_path, tiny_recipe) -> Path:
    """The tiny recipe as a file."""
    from tiny import write_toml

    return write_toml(tmp_path / "tiny.toml", tiny_recipe)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """The finished run of the tiny recipe, shared by all tests: only to be read. `copied_run` is
    one to change.
    """
    from tiny import TINY

    import gantk

    folder = tmp_path_factory.mktemp("shared") / "run"
    gantk.run(copy.deepcopy(TINY), out=folder, device="cpu", say=lambda line: None)
    return folder


@pytest.fixture
def copied_run(tiny_run, tmp_path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def pictures():
    """`pictures(folder, count)` draws PNG pictures of seeded blobs, no two alike."""
    from tiny import draw_pictures

    return draw_pictures


@pytest.fixture
def gantk(monkeypatch):
    """The command line in this process: `gantk("run", recipe)`; anything but gantk's own endings is
    raised.
    """
    from click.testing import CliRunner
    from tiny import Outcome

    from gantk.cli import attach_commands, cli

    attach_commands(cli)

    def call(*args: object) -> Outcome:
        result = CliRunner().invoke(cli, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def instant_trials(monkeypatch):
    """The planner's trials find steps of 20 ms for every 64 x 64 pixels, without making any."""
    from gantk.training.trial import Trial

    def tried(recipe, device=None):
        model = recipe.check()
        step_s = 0.02 * model.data.size[0] * model.data.size[1] / 4096
        return Trial(True, "cpu", 8.0, 0.5, step_s, model.train.steps * step_s / 3600, 4 / step_s)

    monkeypatch.setattr("gantk.training.trial.predict", tried)


@pytest.fixture
def add_plugin(tmp_path, monkeypatch):
    """Put a distribution with one entry point on the path: `add_plugin("my-package", "my_plugin",
    source)`.

    What is installed is looked at anew afterwards, and again when the test is over.
    """
    import importlib

    from gantk.plugin import loader as plugins

    folder = tmp_path / "installed"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    known = set(sys.modules)

    def add(
        distribution: str, module: str, source: str, *, point: str = "", version: str = "1.0"
    ) -> Path:
        put_distribution(folder, distribution, module, source, point, version)
        importlib.invalidate_caches()
        plugins.load.cache_clear()
        return folder

    yield add
    for name in set(sys.modules) - known:  # the plugin, and packages beside it such as its recipes'
        if any(folder.glob(f"{name.split('.')[0]}*")):
            del sys.modules[name]

    plugins.load.cache_clear()
