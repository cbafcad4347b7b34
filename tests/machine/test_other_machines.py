"""A machine that is not a developer's: no home, folders of others, variables of a launcher, a
certificate that is gone.
"""

import os
import pwd
from pathlib import Path
from threading import Event

import pytest
from several import SRUN

from gantk.data.cache import Cache
from gantk.downloads import NotAnswered, _in_time
from gantk.errors import GantkError, UserError
from gantk.files import expect_replaceable
from gantk.hub import as_gantk_error
from gantk.machine import ranks
from gantk.machine.launch import launch
from gantk.machine.runtime import start
from gantk.plugin.settings import disabled_plugins
from gantk.runs.models import find_model


@pytest.mark.parametrize("home", [None, "/" + 5000 * "x"], ids=["no home", "a home nobody reads"])
def test_a_user_without_a_home_has_no_settings(home, monkeypatch):
    def no_entry(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "GANTK_DISABLE", "GANTK_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    if home:
        monkeypatch.setenv("HOME", home)

    assert disabled_plugins() == {}
    assert (Cache.default() is None) == (home is None)


def test_only_a_training_reads_the_variables_of_a_launcher(monkeypatch):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    assert start("cpu").world == 1  # `translate` would wait for a process that never comes


def test_a_rank_says_for_whom_it_waits(monkeypatch, capsys):
    spoken = Event()
    warn = ranks.warn

    def warn_and_go_on(text):
        warn(text)
        spoken.set()

    def nobody(*where, **options):
        assert spoken.wait(60)
        raise RuntimeError("nobody came")

    monkeypatch.setattr(ranks, "SILENT_SECONDS", 0)
    monkeypatch.setattr(ranks, "rendezvous", nobody)
    monkeypatch.setattr(ranks, "warn", warn_and_go_on)
    monkeypatch.setenv("MASTER_ADDR", "here")
    monkeypatch.setenv("MASTER_PORT", "1500")

    with pytest.raises(UserError, match="rank 0 of 2 cannot connect"):
        ranks.meet(launch(SRUN | {"SLURM_STEP_NODELIST": "node1"}))
    said = " ".join(capsys.readouterr().err.split())
    assert "waits for 1 other process, because SLURM_STEP_NUM_TASKS is 2" in said
    assert "put `env -u RANK SLURM_STEP_NUM_TASKS=1` before the command" in said


def test_a_folder_of_images_does_not_hide_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t1t2").mkdir()
    said: list[str] = []
    assert find_model("t1t2", said.append).is_absolute()
    assert said[0] == "note     './t1t2' is not used: it has no recipe.toml, so it is no run"

    (tmp_path / "t1t2").rmdir()
    (tmp_path / "t1t2").touch()
    assert find_model("t1t2").is_absolute()

    (tmp_path / "t1t2").unlink()
    (tmp_path / "t1t2").mkdir()
    (tmp_path / "t1t2" / "recipe.toml").touch()
    said.clear()
    assert not find_model("t1t2", said.append).is_absolute()
    assert said[0].startswith("note     './t1t2' is used, not the model 't1t2'")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_others_is_named_before_the_work(overwrite, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError) as error:
        expect_replaceable([tmp_path / "new" / "t2.nii.gz"], overwrite)
    assert error.value.what == f"this user may not write to the folder '{tmp_path}'"
    expect_replaceable([Path(os.devnull)])  # written to directly


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_place_of_a_folder_is_named_first(overwrite, tmp_path):
    (tmp_path / "scan").touch()
    with pytest.raises(UserError, match="scan' is a file, not a folder"):
        expect_replaceable([tmp_path / "scan" / "new" / "t2.nii.gz"], overwrite)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            OSError("Could not find a suitable TLS CA certificate bundle, invalid path: /ca.pem"),
            UserError,
            "invalid path: /ca.pem. Correct the variable REQUESTS_CA_BUNDLE",
        ),
        (ConnectionRefusedError(111, "Connection refused"), NotAnswered, "Connection refused"),
    ],
)
def test_an_error_of_a_network_keeps_its_cause(error, kind, said):
    def fail():
        raise error

    with pytest.raises(kind, match=said):
        _in_time(fail)


def test_a_closed_cache_is_no_error_of_the_network():
    with pytest.raises(GantkError) as error, as_gantk_error("'hf://u/m' cannot be downloaded"):
        raise PermissionError(13, "Permission denied", "/root/.cache/token")
    assert "'/root/.cache/token': Permission denied. Write to a folder of" in str(error.value)


def test_settings_work_in_a_folder_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert disabled_plugins() == {}


def test_a_proxy_that_does_not_answer_is_named():
    from requests.exceptions import ProxyError

    words = "(Caused by ProxyError('Unable to connect', OSError('[Errno 111] Connection refused')))"

    def fail():
        raise ProxyError(f"HTTPSConnectionPool(host='hub', port=443): Max retries {words}")

    with pytest.raises(NotAnswered, match="the proxy of the variable HTTPS_PROXY.*refused"):
        _in_time(fail)
