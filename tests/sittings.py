"""Trainings that are killed: run as a program, so that processes can be forked, stopped and lost.

`python sittings.py RECIPE FOLDER PLAN` trains RECIPE in one piece in FOLDER/whole, then once more for each row of PLAN
(JSON: name -> list of kills) in FOLDER/NAME: one sitting for each kill, each ended by SIGKILL, and a last one that
reaches the end. Prints a JSON object: name -> how the sittings ended.

A kill is one of
{"step": n, "point": p}  in the step after n finished ones: at its start (0), or once p phases have their gradients
{"save": s, "call": c}   at the c-th call to the disk inside the s-th save of the sitting
{"log": n}               by the parent, as soon as log.jsonl has n lines, wherever the training then is
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

import gantk.api as gantk
from gantk import report
from gantk.metrics.evaluate import Scorer
from gantk.runs import checkpoint
from gantk.training.engine import Engine


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_point(step: int, point: int) -> None:
    """Kill this process at the `point`-th thing that happens in the step that follows `step` finished ones."""
    happened = [0]

    def tapped(original: Callable) -> Callable:
        def call(engine, *args):
            result = original(engine, *args)
            if engine.step == step:
                happened[0] += 1
                if happened[0] == point:
                    kill()
            return result

        return call

    Engine._closure = tapped(Engine._closure)
    train_step = Engine.train_step

    def first(engine, batch):
        if engine.step == step and point == 0:
            kill()
        return train_step(engine, batch)

    Engine.train_step = first


def in_save(save: int, call: int) -> None:
    """Kill this process at the `call`-th call to the disk of the `save`-th save, in the middle of what it writes."""
    count = {"save": 0, "call": 0}
    original = checkpoint.save

    def counted(*args):
        count["save"] += 1
        count["call"] = 0
        return original(*args)

    checkpoint.save = counted

    def tapped(module, name: str) -> None:
        function = getattr(module, name)

        def half(*args, **kwargs):
            count["call"] += 1
            if count["save"] == save and count["call"] == call:
                if name == "save_file":  # half of the weights are on the disk
                    function(*args, **kwargs)
                    os.truncate(args[1], os.path.getsize(args[1]) // 2)
                kill()
            return function(*args, **kwargs)

        setattr(module, name, half)

    for module, name in ((checkpoint, "save_file"), (checkpoint, "write_file"), (os, "rename"), (os, "fsync")):
        tapped(module, name)


def train(folder: Path, recipe: str, planned: dict) -> None:
    """Train from where the folder stands to the end, or to the kill that is planned."""
    if "step" in planned:
        at_point(**planned)
    elif "save" in planned:
        in_save(**planned)
    quiet = {"device": "cpu", "say": lambda line: None}
    if (folder / "recipe.toml").exists() and checkpoint.steps_saved(folder / "checkpoints"):
        gantk.resume(folder, **quiet)
    else:  # it was killed before its first checkpoint
        (folder / "recipe.toml").unlink(missing_ok=True)
        (folder / "log.jsonl").unlink(missing_ok=True)
        gantk.run(recipe, out=folder, **quiet)


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def sitting(folder: Path, recipe: str, planned: dict) -> str:
    """A process of its own that trains; how it ended."""
    child = multiprocessing.get_context("fork").Process(target=train, args=(folder, recipe, planned))
    child.start()
    while "log" in planned and child.exitcode is None:
        if lines_of(folder / "log.jsonl") >= planned["log"]:
            child.kill()
            break
        child.join(timeout=0.001)
    child.join()
    return "killed" if child.exitcode == -signal.SIGKILL else f"exit {child.exitcode}"


def main(recipe: str, folder: Path, plan: dict[str, list[dict]]) -> None:
    torch.set_num_threads(1)  # no thread may be lost in a fork, and the sums are added in one order
    Scorer.test = lambda scorer, *others: {"metrics": {}, "baselines": {}, "verdict": {}}  # only training matters here
    report.write_report = report.write_animation = lambda path: path
    ended = {"whole": [sitting(folder / "whole", recipe, {})]}
    for name, kills in plan.items():
        ended[name] = [sitting(folder / name, recipe, kill) for kill in [*kills, {}]]
    print(json.dumps(ended))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
