"""`gantk slurm`: its jobs save when SLURM says so and go on to the bit; what failed or was
cancelled stays ended.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from several import finish, free_port, recipe_file, start
from tiny import same_weights, weights_of

# In the place of SLURM: srun starts tasks with its variables and, as the real one, kills them at
# SIGTERM.
STAND_IN = f"""#!{sys.executable}
import os, signal, subprocess, sys
(folder, name), words, count = os.path.split(sys.argv[0]), sys.argv[1:], int(os.environ["SLURM_NTASKS"])
if name == "srun":
    words = ["bash", "-c", os.environ["INSTEAD"]] if "INSTEAD" in os.environ else words
    os.environ |= {{"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": str(count), "BATCH": str(os.getppid())}}
    own = ({{"SLURM_PROCID": str(k), "SLURM_LOCALID": str(k)}} for k in range(count))
    tasks = [subprocess.Popen(words, env=os.environ | each) for each in own]
    print(*(task.pid for task in tasks), file=open(folder + "/tasks", "w"))
    signal.signal(signal.SIGTERM, lambda number, frame: [task.kill() for task in tasks])
    sys.exit(max(128 - code if code < 0 else code for code in [task.wait() for task in tasks]))
if [name, *words] == ["scancel", "--signal=USR1", "--batch", "7"]:
    os.kill(int(os.environ["BATCH"]), signal.SIGUSR1)
ends = {{"scancel --signal=TERM 7": "-TERM", "scontrol requeue 7": "-KILL"}}
if end := ends.get(" ".join([name, *words])):
    subprocess.run(["kill", end, *open(folder + "/tasks").read().split()], stderr=subprocess.DEVNULL)
    open(folder + "/queued" + end, "w")
if words == ["show", "job", "7"]:
    print("JobId=7\\n   JobState=" + os.environ["STATE"] + " Reason=None")
"""
# A plugin by which SLURM's signal comes in the middle: after step 2 of 4, whose logging lasts until it
# is heard of.
MIDDLE = """
import os, signal, socket, subprocess
from gantk import hookimpl
@hookimpl
def gantk_step_logged(step):
    if step == 2 and "SLURM_JOB_ID" in os.environ and "SLURM_RESTART_COUNT" not in os.environ:
        heard, told = socket.socketpair()
        told.setblocking(False)
        signal.set_wakeup_fd(told.fileno())
        subprocess.run(["scancel", "--signal=USR1", "--batch", os.environ["SLURM_JOB_ID"]])
        heard.recv(1)
"""


def sbatch(
    script: str, folder: Path, tasks: int = 1, state: str = "RUNNING", **more: str
) -> tuple[int, int, str]:
    """A job's exit code, how often it was queued again, what its last start printed."""
    for name in ("srun", "scancel", "scontrol"):
        (folder / name).write_text(STAND_IN, "utf-8")
        (folder / name).chmod(0o755)

    own = {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": str(tasks),
        "STATE": state,
        "MASTER_PORT": str(free_port()),
    } | more
    own["PATH"] = f"{folder}:{os.environ['PATH']}"
    queued = folder / "queued-KILL"
    for again in range(9):
        done = subprocess.run(
            ["bash", "-c", script],
            env=os.environ | own,
            capture_output=True,
            text=True,
            check=False,
        )
        own["SLURM_RESTART_COUNT"] = str(again + 1)
        if not queued.exists():
            break

        queued.unlink()

    return done.returncode, again, done.stdout + done.stderr


def hasty(script: str, looks: int = 10**6) -> str:
    """The script, which looks every tenth of a second whether its task has ended, and `looks` times
    after a signal.
    """
    return script.replace("sleep 2", "sleep 0.1").replace("left=50", f"left={looks}")


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stopped_job_ends_with_an_undisturbed_ones_weights(
    gantk, tiny_run, tiny_recipe, tmp_path, add_plugin, ranks
):
    recipe = recipe_file(tiny_recipe, tmp_path)
    out = tmp_path / "a 'b' \"$c\" `d`"
    script = gantk("slurm", recipe, "--gpus", 0, "--out", out).out
    code, again, said = sbatch(
        script, tmp_path, ranks, PYTHONPATH=str(add_plugin("middle", "middle", MIDDLE))
    )

    assert (code, again) == (0, 1), said
    assert "after step 2 of 4" in said, said
    assert ranks == 1 or {end[0] for end in finish(start(tiny_recipe, tmp_path))} == {0}

    undisturbed = tiny_run if ranks == 1 else tmp_path / "ranks"
    assert same_weights(weights_of(out), weights_of(undisturbed))


ENDS = [
    ("exit 0", 0),
    ("exit 1", 0),
    ("exit 2", 0),
    ("exit 137", 0),
    ("exit 130", 1),
    ("kill -TERM $$", 1),
]
ENDS += [
    ("trap : TERM; kill -USR1 $BATCH; wait; exit 2", 0),
    ("trap '' TERM; kill -USR1 $BATCH; kill -STOP $$", 1),
]


@pytest.mark.parametrize(
    ("task", "again", "state"), [(*end, "RUNNING") for end in ENDS] + [("exit 130", 0, "OVER")]
)
def test_only_what_was_stopped_is_queued_again(gantk, tmp_path, task, again, state):
    looks = 1 if "-STOP" in task else 10**6  # a task that does not end by itself
    script = hasty(gantk("slurm", "dualgan_t1t2").out, looks)
    first = f"[ ! $SLURM_RESTART_COUNT ] || exit 0; {task}"
    code, times, said = sbatch(script, tmp_path, state=state, INSTEAD=first)

    assert times == again, said
    assert code == 0 if again else f"exit {code}" in task, said


def test_a_run_is_resumed_with_the_cores_of_sbatch(gantk, tiny_run):
    again = gantk("slurm", tiny_run, "--nodes", 3, "--gpus", 2).out
    cores = "${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}"
    assert f"\nout={tiny_run}\n" in again
    assert f'\nsrun {cores} \\\ngantk resume "$out" &' in again
    assert "--nodes=3\n#SBATCH --ntasks-per-node=2\n#SBATCH --gpus-per-node=2\n" in again
    assert not subprocess.run(["bash", "-n"], input=again, text=True, check=False).returncode


WRONG = {
    "t1t3": "t1t2'",
    "t1t2 --set train.stpes=9": "'steps'",
    "t1t2 --data no": "no",
    "RUN --out a": "--out",
}
WRONG |= {
    "t1t2 --out RUN": "slurm",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_is_told_before_a_script_is_written(gantk, tiny_run, words):
    said = WRONG[words]
    command = words.replace("RUN", str(tiny_run)).replace("t1t", "dualgan_t1t")
    end = gantk("slurm", *shlex.split(command))

    assert (end.code, end.out) == (2, ""), end
    assert said in end.err, end
