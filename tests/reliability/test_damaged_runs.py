"""Run folders with one file damaged, at random: every command ends with one message, or without a
wrong number.

100 mutations (SEED) of every file that a run leaves, each under one command in a fork, with at most
60 seconds and 2 GB more than gantk needs anyway. Exit codes are 0, 1 and 2, there is never a
traceback; where a command ends well and says nothing, its scores or its picture are those of the
whole run. A value that was changed into another one that a run might have written is not noticed in
recipe.toml, split.json, log.jsonl and best.json: these carry no seal, for people edit them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import draw_pictures, read_json
from warm import Warm

pytestmark = pytest.mark.slow
SEED = 20261121
COUNT = 100
SECONDS = 60
MEMORY = 2 * 2**20
STEP = "checkpoints/step-000004"
JSON = [
    f"{STEP}/meta.json",
    f"{STEP}/state.json",
    "best.json",
    "usage.json",
    "metrics.json",
    "split.json",
]
JSON += ["environment.json", "log.jsonl", "samples/index.json", "samples/test/index.json"]
OTHERS = [
    "recipe.toml",
    f"{STEP}/weights.safetensors",
    f"{STEP}/state.safetensors",
    "samples/step-000004/a_to_b-0.png",
    "scores.csv",
]
OTHERS += ["samples/truth/a_to_b-0.png", "samples/test/a_to_b-0-truth.nii.gz"]
COMMANDS = {
    "report": ["report", "run"],
    "eval": ["eval", "run", "--device", "cpu"],
    "resume": ["resume", "run", "--device", "cpu"],
    "translate": ["translate", "run", "in.png", "out.png", "--device", "cpu"],
    "sample": ["sample", "run", "-n", "1", "--out", "samples", "--device", "cpu"],
    "export": ["export", "run", "--out", "out.onnx"],
    "compare": ["report", "run", "other", "--out", "both.html"],
}
READ_BY = {  # which commands, the quick ones more often, look at a file
    "checkpoints": ["translate"] * 3 + ["eval", "resume", "sample", "export"],
    "samples": ["report", "compare"],
    "recipe": ["report", "translate", "eval", "resume"],
    "split": ["report", "compare", "eval", "resume"],
    "log": ["report", "compare", "eval", "resume"],
}
UNSEALED = ("recipe.toml", "split.json", "log.jsonl", "best.json")
VALUES = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    -1e308,
    "x",
    "../../../etc/passwd",
    "",
    [],
    {},
    [1, "x"],
    {"a": {"b": 1}},
]
VALUES += [0.5]


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths to all values inside a JSON document."""
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        parts = ()

    return [path] * bool(path) + [
        each for key, part in parts for each in places(part, (*path, key))
    ]


def changed(text: str, rng: random.Random) -> str:
    """JSON with one value of another kind or size, or gone, or nested without end."""
    found = json.loads(text)
    *above, last = rng.choice(places(found))
    holder = found
    for key in above:
        holder = holder[key]

    kind = rng.randrange(8)
    if kind == 0:
        del holder[last]
    elif kind == 1:
        holder[last] = "DEEP"
    elif kind == 2:
        holder[last] = "long" * 2**18
    elif kind == 3 and isinstance(holder[last], (int, float)):
        holder[last] = -holder[last] * 1e6
    else:
        holder[last] = rng.choice(VALUES)

    return json.dumps(found).replace('"DEEP"', "[" * 100_000 + "]" * 100_000)


def header_changed(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with one value of its header changed, its length kept true."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    tensor = header[rng.choice([name for name in header if name != "__metadata__"])]
    key = rng.choice(list(tensor))
    shapes = [[2**40], [-1], [1], tensor["shape"][::-1]]
    offsets = [rng.randrange(64), 2 ** rng.randrange(60)]
    tensor[key] = {
        "dtype": rng.choice(["I32", "F64", "X"]),
        "shape": rng.choice(shapes),
        "data_offsets": offsets,
    }[key]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def damage(path: Path, rng: random.Random) -> str:
    """Damage a file; what was done to it."""
    whole = path.read_bytes()
    at = rng.randrange(path.stat().st_size)
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.6:
        lines = whole.decode().splitlines() if path.suffix == ".jsonl" else [whole.decode()]
        number = rng.randrange(len(lines))
        lines[number] = changed(lines[number], rng)
        path.write_text("\n".join(lines) + "\n")
        return "a value"

    if path.suffix == ".safetensors" and rng.random() < 0.5:
        path.write_bytes(header_changed(whole, rng))
        return "the header"

    way = rng.choice(
        ["cut", "flip", "empty", "noise", "missing", "folder", "inserted", "link", "pipe"]
    )
    path.unlink()
    match way:
        case "cut":
            path.write_bytes(whole[:at])
        case "flip":
            path.write_bytes(
                whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]
            )
        case "noise":
            path.write_bytes(rng.randbytes(rng.choice([10, 5000])))
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "inserted":
            path.write_bytes(whole[:at] + rng.randbytes(rng.randrange(1, 40)) + whole[at:])
        case "link":
            path.symlink_to("/etc/passwd")
        case "pipe":
            os.mkfifo(path)

    return way


def results(command: str, place: Path) -> Any:
    """What must not be another one without a word: scores, or a picture."""
    if command in ("eval", "resume"):
        found = read_json(place / "run/metrics.json")
        return found["metrics"], found["baselines"]
    return np.asarray(Image.open(place / "out.png")).tolist() if command == "translate" else None


def fresh_place(place: Path, run: Path, picture: Path) -> Path:
    shutil.copytree(run, place / "run")
    shutil.copytree(run, place / "other")
    shutil.copy(picture, place / "in.png")
    return place


def results_of_whole_runs(
    gantk: Warm, tmp_path: Path, run: Path, picture: Path
) -> tuple[dict[str, Any], int]:
    """By command its results with the run undamaged; and the most memory that one needs."""
    whole = {}
    plain = 0
    for command, words in COMMANDS.items():
        place = fresh_place(tmp_path / f"whole-{command}", run, picture)
        expected = 2 if command == "sample" else 0
        if command != "export":  # which leaves threads behind, and no fork has them
            gantk.use(place, *words, code=expected)
        code, said, _, memory = gantk(place, *words)
        assert code == expected, said
        whole[command] = results(command, place)
        plain = max(plain, memory)

    return whole, plain


def commands_for(file: str) -> list[str]:
    for name, commands in READ_BY.items():
        if file.startswith(name):
            return commands
    return ["report", "compare", "eval"]


def is_no_good_end(code: int, said: str) -> bool:
    if code not in (0, 1, 2) or "Traceback" in said or "root:" in said:
        return True
    return code != 0 and said.count("error  ") != 1


def is_silent(code: int, said: str, file: str) -> bool:
    """Whether a command ended well without a word about a file whose damage it must notice."""
    told = "left out" in said or "not known" in said
    return code == 0 and not told and not file.endswith(UNSEALED)


def followed_a_link(page: Path) -> bool:
    # root:x in base64
    return page.is_file() and not page.is_symlink() and "cm9vdDp4" in page.read_text()


def test_a_damaged_run_is_one_message_or_no_harm(tiny_run, tmp_path):
    (picture,) = draw_pictures(tmp_path / "pictures", 1)
    gantk = Warm(tmp_path)
    whole, plain = results_of_whole_runs(gantk, tmp_path, tiny_run, picture)
    rng = random.Random(SEED)
    wrong = []
    for number in range(int(os.environ.get("GANTK_MUTATIONS", COUNT))):
        file = rng.choice(JSON * 2 + OTHERS)
        command = rng.choice(commands_for(file))
        place = fresh_place(tmp_path / str(number), tiny_run, picture)
        way = damage(place / "run" / file, rng)
        code, said, _, memory = gantk(place, *COMMANDS[command], seconds=SECONDS)
        about = (
            f"{number}: {command} with {file}, {way}: exit {code}, {memory >> 10}"
            f" MB\n{said[-1500:]}"
        )
        if is_no_good_end(code, said):
            wrong.append(about)
        elif memory > plain + MEMORY:
            wrong.append(f"memory: {about}")

        if is_silent(code, said, file) and results(command, place) != whole[command]:
            wrong.append(f"silently: {about}")
        if followed_a_link(place / "run/report.html"):
            wrong.append(f"a link was followed: {about}")

        shutil.rmtree(place)

    gantk.close()

    assert not wrong, f"{len(wrong)}:\n" + "\n\n".join(wrong)
