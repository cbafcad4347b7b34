"""Pipes and devices in the place of files that commands read, planted ledgers and links: one message
or no notice, and no command waits.
"""

import os
import signal

import pytest
from tiny import draw_pictures, write_toml

from gantk import UserError
from gantk.data.cache import Cache


@pytest.fixture(autouse=True)
def no_wait():
    """A command that waits for a pipe fails its test."""

    def stop(*_):
        raise AssertionError("the command waits")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.fixture(params=["pipe", "/dev/zero"])
def planted(request, tmp_path):
    """Puts a pipe, or a link to a device, in the place of a file."""

    def plant(path):
        path.unlink(missing_ok=True)
        if request.param == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(request.param)
        return path

    return plant


def test_options_that_name_a_pipe_are_one_message(planted, tmp_path, tiny_run, tiny_recipe, gantk):
    pipe = planted(tmp_path / "file.csv")
    recipe = tmp_path / "recipe.toml"
    tiny_recipe["data"]["weights"] = str(pipe)
    write_toml(recipe, tiny_recipe)
    commands = {
        "--card": ["pack", tiny_run, tmp_path / "packed", "--card", pipe],
        "--against": ["bench", recipe, "--against", pipe, "--out", tmp_path / "bench"],
        "data.weights": ["run", recipe, "--out", tmp_path / "run", "--device", "cpu"],
        "recipe": ["run", pipe, "--out", tmp_path / "run", "--device", "cpu"],
        "answers": ["study", "score", tmp_path, pipe],
        "translate": ["translate", tiny_run, pipe.with_suffix(""), tmp_path / "out.png"],
    }
    planted(pipe.with_suffix(""))  # a name without a suffix may be a DICOM file

    for words in commands.values():
        assert gantk(*words).refused().count("error ") == 1


@pytest.mark.parametrize("way", ["pipe", "zero", "nested", "link", "folder", "itself", "long"])
def test_a_planted_ledger_does_no_harm(way, tmp_path, tiny_run, gantk):
    draw_pictures(tmp_path / "in", 2)
    ledger = tmp_path / ".out.translation.json"
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    nested = '{"head": ' + "[" * 200_000 + "]" * 200_000 + ', "done": {}}'
    plant = {
        "pipe": lambda: os.mkfifo(ledger),
        "zero": lambda: ledger.symlink_to("/dev/zero"),
        "nested": lambda: ledger.write_text(nested),
        "link": lambda: ledger.symlink_to(kept),
        "folder": ledger.mkdir,
        "itself": lambda: ledger.symlink_to(ledger.name),
        "long": lambda: ledger.write_text('{"done": {"x": ' + "9" * 10_000 + "}}\n"),
    }
    plant[way]()

    gantk("translate", tiny_run, tmp_path / "in", tmp_path / "out", "--device", "cpu").ok()

    assert len([*(tmp_path / "out").glob("*.png")]) == 2
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("folder", [True, False], ids=["a folder", "a file"])
def test_an_output_that_links_to_itself_is_one_message(folder, tmp_path, tiny_run, gantk):
    paths = draw_pictures(tmp_path / "in", 2)
    out = tmp_path / ("out" if folder else "out.png")
    out.symlink_to(out.name)
    source = tmp_path / "in" if folder else paths[0]

    outcome = gantk("translate", tiny_run, source, out, "--device", "cpu")

    assert outcome.code in (1, 2)  # gantk did not make the link
    assert outcome.err.count("error  ") == (outcome.code != 0)
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("size", ["9" * 400, "1e9", "²", "nan", "inf", "-1", "1_000", "9" * 5000])
def test_a_cache_size_that_is_no_number_is_one_message(size, monkeypatch):
    monkeypatch.setenv("GANTK_CACHE_GIB", size)

    with pytest.raises(UserError, match="not a valid cache size"):
        Cache.default()
