"""Reads the rank and the number of processes from the environment that torchrun or SLURM's srun
sets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

from gantk.errors import UserError

TORCHRUN = "torchrun --nproc-per-node N -m gantk run RECIPE --out DIR"
# below the systems' ephemeral ports
FIRST_PORT = 15000
PORTS = 17000


@dataclass(frozen=True)
class Launch:
    """Process `rank` of `world`, the `local`-th on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0
    restarts: int = 0  # how often torchrun, or SLURM, has started all processes again
    may_restart: bool = False  # whether torchrun restarts them after a failure
    elastic: bool = False  # whether torchrun started it
    variable: str = field(default="", compare=False)  # which variable states the number


def launch(environment: MutableMapping[str, str] | None = None) -> Launch:
    """The Launch of this process; UserError if its environment is incomplete.

    srun's variables are also set under torchrun's names, since torch reads RANK,
    MASTER_ADDR and similar ones.
    """
    environment = os.environ if environment is None else environment
    variable = "WORLD_SIZE"
    if variable not in environment:
        environment.update(slurm(environment))
        variable = task_count(environment)

    counts = [
        environment.get(name, "") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    ]
    restarts = sum(int(count) for count in counts if count.isdecimal())
    if environment.get("WORLD_SIZE", "1") == "1" and "RANK" not in environment:
        return Launch(restarts=restarts)

    def number(name: str, least: int, most: int) -> int:
        text = environment[name]
        if not text.isdecimal() or not least <= int(text) <= most:
            raise UserError(
                f"{name} is '{text}'",
                where="environment",
                allowed=f"a whole number from {least} to {most}",
                remedy=f"start with: {TORCHRUN}",
            )
        return int(text)

    needed = "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"
    missing = [name for name in needed if not environment.get(name)]
    if missing:
        raise UserError(
            f"the environment describes one of several processes, but lacks {', '.join(missing)}",
            where="environment",
            remedy=f"start all processes with: {TORCHRUN}; or unset WORLD_SIZE",
        )

    world = number("WORLD_SIZE", 1, 1 << 20)
    rank = number("RANK", 0, world - 1)
    local = number("LOCAL_RANK", 0, world - 1)
    number("MASTER_PORT", 1, 65535)
    may_restart = environment.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    elastic = "TORCHELASTIC_RUN_ID" in environment
    return Launch(rank, world, local, restarts, may_restart, elastic, variable)


def task_count(environment: Mapping[str, str]) -> str:
    """The variable of srun that states the number of tasks."""
    return "SLURM_STEP_NUM_TASKS" if environment.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"


def slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """torchrun's variables derived from srun's; {} outside of a job step of several tasks.

    MASTER_ADDR defaults to the first host of the node list, MASTER_PORT to a function of job and
    step. A batch script is no step: without srun, gantk runs as one process in it.
    """
    step = "SLURM_STEP_NUM_TASKS" in environment or "SLURM_STEP_ID" in environment
    tasks = environment.get(task_count(environment), "1")
    if not step or not tasks.isdecimal() or int(tasks) < 2:
        return {}

    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    job, number = (
        int(environment.get(name, "0") or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")
    )
    return {
        "WORLD_SIZE": tasks,
        "RANK": environment.get("SLURM_PROCID", ""),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", ""),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(nodes),
        "MASTER_PORT": (
            environment.get("MASTER_PORT") or str(FIRST_PORT + (job * 7 + number) % PORTS)
        ),
    }


def first_host(nodes: str) -> str:
    """The first host of SLURM's list: `node[01-04,07],login` is `node01`, `rack[1-2]n[3,4]` is
    `rack1n3`.
    """
    text = re.split(r",(?![^\[\]]*\])", nodes.strip())[0]
    host = re.sub(r"\[([^\]]*)\]", lambda match: re.split("[-,]", match[1])[0], text)
    if not re.fullmatch(r"[\w.-]+", host):
        raise UserError(
            f"the node list of SLURM, '{nodes}', contains no host name",
            where="SLURM_JOB_NODELIST",
            remedy="set MASTER_ADDR to the host of the first task",
        )

    return host
