"""Commands that run as several processes, as torchrun and srun start them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tiny import write_toml

# Of a process that is one of two tasks of srun.
SRUN = {f"SLURM_{name}": "0" for name in ("STEP_ID", "PROCID", "LOCALID")} | {
    "SLURM_STEP_NUM_TASKS": "2"
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def recipe_file(recipe: dict, folder: Path) -> Path:
    return write_toml(folder / "recipe-of-ranks.toml", recipe)


def begun(command: list[str], **more: str) -> subprocess.Popen:
    """A process on one thread, with more in its environment."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def start(
    recipe: dict,
    folder: Path,
    *options: str,
    world: int = 2,
    own: dict[int, list[str]] | None = None,
) -> list[subprocess.Popen]:
    """`gantk run` once for each rank, into folder/ranks; `own` are further options of single ranks."""
    command = [
        sys.executable,
        "-m",
        "gantk",
        "run",
        str(recipe_file(recipe, folder)),
        "--out",
        str(folder / "ranks"),
    ]
    command += ["--device", "cpu", *options]
    launch = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world))
    return [
        begun([*command, *(own or {}).get(rank, [])], **launch, **each)
        for rank, each in enumerate(ranks)
    ]


def finish(processes: list[subprocess.Popen], timeout: float = 900) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each."""
    try:
        ends = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *end) for process, end in zip(processes, ends, strict=True)]


def torchrun(recipe: dict, folder: Path, out: Path, *options: str) -> subprocess.Popen:
    """`torchrun OPTIONS --nproc-per-node 2 -m gantk run RECIPE --out OUT`."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--master-port",
        str(free_port()),
        *options,
    ]
    run = [
        "--nproc-per-node",
        "2",
        "-m",
        "gantk",
        "run",
        str(recipe_file(recipe, folder)),
        "--out",
        str(out),
    ]
    return begun([*command, *run, "--device", "cpu"])


def children(process: subprocess.Popen) -> list[int]:
    """The processes that it started and that are at work, the last one last."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found]
