"""400 mutated recipes and 200 ONNX metadata: one message or a sound model each, in 20 s of
computing and 2 GB, seeded.

Each goes through all that `gantk run` does before its first image is drawn: read, override, check,
count, records, networks. A worker takes one after the other, so that what one leaves behind is met
by the next.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import select
import subprocess
import sys
import time
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import tomli_w

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import PATCHGAN, UNET, small_run

from gantk.recipe.load import all_recipes, load_recipe, resolved

pytestmark = pytest.mark.slow

RECIPES = 400
METADATA = 200
SECONDS = 20.0
GIB = 2.0
# of recipes, of metadata
SEEDS = [int(os.environ.get("GANTK_FUZZ_SEED", seed)) for seed in (22, 8)]
NUMBERS = [
    0,
    -1,
    1,
    3,
    7,
    1e-30,
    -0.5,
    2.0,
    1e308,
    10**5,
    10**7,
    10**9,
    10**18,
    2**63 - 1,
    -(2**63),
    10**40,
]
ODD = [
    float("inf"),
    float("nan"),
    "",
    "x",
    "../..",
    "a\tb",
    "\x1b[31m",
    "é" * 3000,
    True,
    [],
    [1],
    [[]],
    {},
    [{}],
]
ODD += [
    ["T1"] * 3,
    "T1+" * 500 + "T1",
    "(" * 50 + "a+" * 50,
    "name",
    [10**6] * 2,
    [-1, -1],
    [0, 0],
    {"name": "unet"},
]
WORKER = Path(__file__)


def leaves(tables: dict | list, path: tuple = ()) -> list[tuple]:
    """The paths of all values below, tables too."""
    inner = tables.items() if isinstance(tables, dict) else enumerate(tables)
    found = []
    for key, value in inner:
        found += [
            (*path, key),
            *(leaves(value, (*path, key)) if isinstance(value, (dict, list)) else []),
        ]

    return found


def mutated(tables: dict, rng: random.Random) -> dict:
    """Some values, keys or tables changed, lost, doubled or exchanged."""
    tables = copy.deepcopy(tables)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        paths = leaves(tables)
        path = rng.choice(paths)
        inside = reduce(getitem, path[:-1], tables)
        key = path[-1]
        value = inside[key]
        kind = rng.randrange(10)
        if kind < 5 and isinstance(value, (int, float)) and not isinstance(value, bool):
            inside[key] = rng.choice([*NUMBERS, *(value * 10**k for k in (-3, 1, 2, 4)), -value])
        elif kind < 7:
            inside[key] = copy.deepcopy(
                rng.choice(NUMBERS + ODD)
            )  # a list could be put into itself
        elif kind == 7:
            del inside[key]
        elif kind == 8 and isinstance(inside, dict):
            inside[str(key)[:-1] + rng.choice("xyz_")] = inside.pop(key)
        else:
            other = rng.choice(paths)
            inside[key] = copy.deepcopy(reduce(getitem, other, tables))

    return tables


def spoiled(text: str, rng: random.Random) -> bytes:
    """The text as bytes of which some are others: cut off, doubled, nested, or not of its kind."""
    content = text.encode()
    place = rng.randrange(len(text))
    inserts = [
        b"\0",
        b"\xff",
        b"[" * 900,
        b"{a=" * 900,
        b"9" * 5000,
        b"a." * 40000,
        b'"""',
        b" " * 10**5,
        b"1," * 10**5,
    ]
    kind = rng.randrange(4)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content + content[place:]

    if kind == 2:
        return bytes(
            byte ^ (1 << rng.randrange(8)) if rng.random() < 0.003 else byte for byte in content
        )

    line = content.find(b"= ", place) + 2
    return content[:line] + rng.choice(inserts) + content[line:]


class Worker:
    """A process that answers line by line; one that takes too long or dies is another one at the
    next question.
    """

    def __init__(self, kind: str, folder: Path):
        self.command = [sys.executable, str(WORKER), kind]
        self.folder = folder
        self.process = None

    def seconds(self) -> float:
        """What it has computed so far: a busy machine is no hang."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, question: str) -> dict:
        if self.process is None or self.process.poll() is not None:
            pipes = {
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "text": True,
                "bufsize": 1,
            }
            self.process = subprocess.Popen(self.command, cwd=self.folder, **pipes)
            assert self.process.stdout.readline() == "ready\n"

        began = time.monotonic()
        before = self.seconds()
        ready = []
        self.process.stdin.write(question + "\n")
        while (
            not ready
            and self.seconds() - before < SECONDS
            and time.monotonic() - began < 15 * SECONDS
        ):
            ready, _, _ = select.select([self.process.stdout], [], [], 0.5)

        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.process.kill()
            self.process.wait()
            return {"is": "hang" if not ready else f"ended by {self.process.returncode}"}

        return json.loads(line) | {"s": time.monotonic() - began}


def answers(kind: str, questions: dict[str, str], folder: Path) -> dict[str, dict]:
    """A worker's answers to all: each sound or told, and some of either."""
    worker = Worker(kind, folder)
    found = {name: worker.ask(question) for name, question in questions.items()}
    worker.process.kill()
    assert {
        name: each
        for name, each in found.items()
        if each["is"] not in ("sound", "told") or each["gib"] > GIB
    } == {}
    assert sum(each["is"] == "told" for each in found.values()) > len(found) / 3
    assert sum(each["is"] == "sound" for each in found.values()) > len(found) / 10
    return found


def test_a_fuzzed_recipe_is_sound_or_told_in_one_message(tmp_path):
    rng = random.Random(SEEDS[0])
    texts = []
    questions = {}
    for name in sorted(all_recipes()):
        recipe = load_recipe(name)
        texts += [
            (name, recipe.tables, recipe.text),
            (f"{name} in full", resolved(recipe.check()), ""),
        ]
        # heads with lesions are drawn when their records are asked for
        for _, tables, _ in texts[-2:]:
            if isinstance(tables["data"]["source"], dict) and "lesions" in tables["data"]["source"]:
                tables["data"]["source"]["subjects"] = 6

    for number in range(RECIPES):
        name, tables, text = texts[number % len(texts)]
        if text and rng.random() < 0.3:
            content = spoiled(re.sub(r"subjects = \d+", "subjects = 6", text), rng)
        else:
            content = tomli_w.dumps(mutated(tables, rng)).encode("utf-8", "replace")

        path = tmp_path / f"{number}.toml"
        path.write_bytes(content)
        profile = rng.choice([None, *tables.get("profile", {})])
        questions[f"{number} {name}"] = json.dumps({"path": str(path), "profile": profile})

    answers("recipe", questions, tmp_path)


def test_fuzzed_model_metadata_are_sound_or_one_message(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    import gantk

    run = small_run(
        tmp_path, {"name": "dualgan", "generator": UNET, "discriminator": PATCHGAN}, steps=2
    )
    model = onnx.load(gantk.export(run, out=tmp_path / "whole.onnx", say=str))
    rng = random.Random(SEEDS[1])
    questions = {}
    meta = json.loads(model.metadata_props[0].value)
    for number in range(METADATA):
        path = tmp_path / f"{number}.onnx"
        text = json.dumps(mutated(meta, rng))
        if rng.random() < 0.2:
            text = (
                spoiled(text.replace(":", "= "), rng).decode("utf-8", "replace").replace("= ", ":")
            )

        model.metadata_props[0].value = text
        path.write_bytes(model.SerializeToString())
        questions[f"{number} {text[:2000]}"] = json.dumps({"path": str(path)})

    answers("onnx", questions, tmp_path)


# ---- the worker's side


def dry_check(question: dict) -> None:
    """All that a training does before it draws its first image."""
    import torch

    from gantk import checked_recipe
    from gantk.data.dataset import source_and_records
    from gantk.machine.runtime import start
    from gantk.method import check_networks
    from gantk.plugin.loader import load
    from gantk.runs.trained import build_method
    from gantk.training.memory import least_memory

    model = checked_recipe(question["path"], None, [], question["profile"])[1]
    resolved(model)
    load().hook.gantk_before_training(model=model)
    source_and_records(model.data, model.method.target)
    if sum(least_memory(model).values()) < 1:  # what is larger has been counted
        count = 2 * model.data.neighbours + 1
        channels = {"image": count, **dict.fromkeys("ab", count)}
        method = build_method(model, channels, ("x", "y"), (-1.0, 1.0), start("cpu", "fp32"))
        for stage in method.stages(model.train.steps or 10):
            check_networks(method, stage.size)

    torch.manual_seed(0)


def translation(question: dict) -> None:
    """A picture and a stack of another size, by a .onnx file."""
    import numpy as np

    import gantk

    model = gantk.load(question["path"])
    for shape in ((32, 32), (3, 41, 50)):
        pixels = np.random.default_rng(0).uniform(0, 500, shape).astype(np.float32)
        assert model.translate(pixels).shape == shape


def main(kind: str) -> None:
    """Answer questions on standard input, a line each."""
    import resource
    import traceback

    from gantk.errors import GantkError

    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what others print is not an answer
    work = {"recipe": dry_check, "onnx": translation}[kind]
    import gantk.runs.trained  # noqa: F401  (torch is there before memory is counted)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("ready", file=out)
    for line in sys.stdin:
        try:
            work(json.loads(line))
            answer = {"is": "sound"}
        except GantkError as error:
            text = str(error)
            answer = {
                "is": "told" if 10 < len(text) < 1500 else "a message of another length",
                "text": text[:600],
            }
        except BaseException:
            answer = {"is": "traceback", "text": traceback.format_exc()[-1500:]}

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(answer | {"gib": (peak - before) / 2**20}), file=out)


if __name__ == "__main__":
    main(sys.argv[1])
