"""`gantk slurm` on a real SLURM of two nodes on this machine, where munged, slurmctld and slurmd
are installed.
"""

import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from several import finish, free_port, recipe_file, start
from test_slurm import MIDDLE

from gantk.runs.checkpoint import load_weights
from gantk.runs.folder import RunFolder

CONF = """
ClusterName=two
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthInfo=socket={folder}/socket
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/pid
SlurmdPidFile={folder}/pid-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=all Nodes=ALL Default=YES
"""


def called(*words: object, until: str = "") -> str:
    """What a command prints, once it succeeds and `until` is in it: daemons that begin do not
    answer at once.
    """
    for _ in range(1500):
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
        if done.returncode == 0 and until in done.stdout:
            return done.stdout
        time.sleep(0.2)

    raise AssertionError(done)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Starts SLURM, and ends it."""
    if missing := [name for name in ("munged", "slurmctld", "slurmd") if not shutil.which(name)]:
        pytest.skip(f"{', '.join(missing)} are not installed: apt install slurm-wlm")
    if os.geteuid():
        pytest.skip("a SLURM is started by root")

    folder = tmp_path / "slurm"
    host = os.uname().nodename.partition(".")[0]
    folder.mkdir()
    (folder / "conf").write_text(
        CONF.format(folder=folder, host=host, ports=[free_port() for _ in range(3)])
    )
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o600)
    monkeypatch.setenv("SLURM_CONF", str(folder / "conf"))
    files = {
        "key-file": "key",
        "socket": "socket",
        "log-file": "log",
        "pid-file": "munged",
        "seed-file": "seed",
    }
    daemons = [
        [
            "munged",
            "-F",
            "--force",
            *(f"--{option}={folder / name}" for option, name in files.items()),
        ]
    ]
    daemons += [
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", "n1"],
        ["slurmd", "-D", "-N", "n2"],
    ]
    with ExitStack() as stack:
        for number, words in enumerate(daemons):
            said = stack.enter_context(open(folder / f"said-{number}", "wb"))
            daemon = stack.enter_context(subprocess.Popen(words, stdout=said, stderr=said))
            stack.callback(daemon.terminate)
            called("test", "-S", folder / "socket")
        called("sinfo", "--noheader", "--format=%D %T", until="2 idle")
        yield


@pytest.mark.slow
def test_real_slurm_requeues_two_nodes_to_equal_weights(
    gantk, tiny_recipe, tmp_path, add_plugin, slurm, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(add_plugin("middle", "middle", MIDDLE)))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # n1 is no name of a host
    monkeypatch.chdir(tmp_path)
    script = gantk(
        "slurm", recipe_file(tiny_recipe, tmp_path), "--gpus", 0, "--nodes", 2, "--out", "out"
    ).out
    Path("job.sh").write_text(script)
    job = called("sbatch", "--parsable", "--output=said", "job.sh").strip()
    show = "scontrol", "show", "job", job
    called(*show, until="Restarts=1")
    called(*show, until="JobState=PENDING")
    called("scontrol", "update", f"JobId={job}", "StartTime=now+5")  # not two minutes later
    called(*show, until="JobState=COMPLETED")

    assert "after step 2 of 4" in Path("said").read_text()
    assert {end[0] for end in finish(start(tiny_recipe, tmp_path))} == {0}
    found, expected = (
        load_weights(RunFolder(tmp_path / name).latest()) for name in ("out", "ranks")
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
