"""A command that is killed, or finds the disk full, at any change of any file has lost nothing:
given again, it ends as if that had not been.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dicom_files import head, series
from tiny import TINY, draw_pictures, read_json, write_toml
from volumes import volume
from warm import Warm

pytestmark = pytest.mark.slow
SEED = 20261121
RECIPE = TINY | {"evaluate": TINY["evaluate"] | {"checkpoint": "best"}}
RECIPE["data"] = TINY["data"] | {
    "size": [16, 16],
    "source": {"name": "phantom", "subjects": 6, "slices": 1},
}
TIMES = {"seconds", "images_per_s", "seconds_before", "first_step_s", "peak_memory_gib"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a recipe, three pictures, a volume and a series to translate."""
    folder = tmp_path_factory.mktemp("killed")
    write_toml(folder / "tiny.toml", RECIPE)
    draw_pictures(folder / "in", 3)
    volume(folder / "in" / "head.nii.gz")
    series(folder / "series", head(5))
    return folder


@pytest.fixture(scope="module")
def gantk(tmp_path_factory, place):
    """Runs a command in `place`, which has a finished run `r`, with a fault where one is asked for."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip(
            "faults are put between a process and Linux by a library that a C compiler makes"
        )

    folder = tmp_path_factory.mktemp("faults")
    source = Path(__file__).with_name("faults.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", folder / "faults.so", source, "-ldl"],
        check=True,
    )
    run = Warm(folder, folder / "faults.so")
    run.use(place, "run", "tiny.toml", "--out", "r")
    code, said, *_ = run(place, "run", "tiny.toml", "--out", "r")
    assert code == 0, said
    yield run
    run.close()


def content(path: Path) -> dict[str, bytes]:
    """The bytes of a file, or of all files of a folder, hidden ones too."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def outcome(run: Path) -> dict:
    """What is promised equal of a run: weights, state, choice, scores, samples, the steps of the
    log.
    """
    metrics = read_json(run / "metrics.json")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found = {str(p.relative_to(run)): p.read_bytes() for p in run.glob("samples/**/*.*")}
    found |= {
        str(p.relative_to(run)): p.read_bytes()
        for p in run.glob("checkpoints/*/weights.safetensors")
    }
    found |= {
        "best": (run / "best.json").read_bytes(),
        "metrics": metrics["metrics"],
        "files": sorted(hidden(run)),
    }
    return found | {"log": [{k: v for k, v in line.items() if k not in TIMES} for line in log]}


def hidden(folder: Path) -> list[str]:
    """What was not finished, and is left."""
    return [str(p.relative_to(folder)) for p in folder.rglob(".*.tmp")]


def stop(
    gantk, place: Path, fault: str, count: int, command: tuple, before: Callable, after: Callable
) -> None:
    """Stop a command by a fault at `count` of its changes, each time from the state that `before`
    makes; `after(at)` then looks at what is left.
    """
    before()
    if not {"series", "export"} & {*command}:  # which leave threads behind, and no fork has them
        gantk.use(place, *command)

    code, said, calls, _ = gantk(place, *command)
    assert code == 0, said
    drawn = random.Random(f"{SEED} {fault} {command}").sample(
        range(1, calls + 1), min(count, calls)
    )
    for at in sorted(drawn):
        before()
        code, said, *_ = gantk(place, *command, at=at, full=fault == "full")
        if fault == "full":
            told = code in (1, 2) and "No space left" in said and "Traceback" not in said
            assert told or code == 0, (at, code, said)  # 0: what was left to do took no space
        else:
            assert code == -9, (at, code, said)
        after(at)


@pytest.mark.parametrize(
    ("fault", "start", "count"), [("kill", "run", 230), ("kill", "resume", 60), ("full", "run", 20)]
)
def test_a_training_goes_on_to_the_same_end(gantk, place, fault, start, count):
    run = place / "k"
    expected = outcome(place / "r")
    half = place / "half"
    if start == "resume" and not half.exists():  # as Ctrl-C after step 2 leaves it
        shutil.copytree(place / "r", half)
        shutil.rmtree(half / "checkpoints" / "step-000004")
        (half / "metrics.json").unlink()

    again = ("run", "tiny.toml", "--out", "k")

    def before():
        shutil.rmtree(run, ignore_errors=True)
        if start == "resume":
            shutil.copytree(half, run)

    def after(at):
        way = ("resume", "k") if list(run.glob("checkpoints/step-*/meta.json")) else again
        code, said, *_ = gantk(place, *way)
        assert code == 0, (at, way, said)
        found = outcome(run)
        assert {key for key in expected | found if expected.get(key) != found.get(key)} == set(), at

    stop(gantk, place, fault, count, ("resume", "k") if start == "resume" else again, before, after)


COMMANDS = {
    "translate": (
        80,
        ("translate", "r,r", "in", "out", "--uncertainty"),
        "out",
    ),
    "translate a series": (30, ("translate", "r", "series", "out"), "out"),
    "eval": (60, ("eval", "r", "--json", "out"), "out"),
    "report": (10, ("report", "r"), "r/report.html"),
    "export monai": (20, ("export", "r", "--format", "monai", "--out", "out"), "out"),
    "export onnx": (10, ("export", "r", "--out", "out.onnx"), "out.onnx"),
    "recipes copy": (10, ("recipes", "copy", "dualgan_t1t2", "out.toml"), "out.toml"),
    "new plugin": (40, ("new", "plugin", "out"), "out"),
}


def remove(result: Path) -> None:
    if result.is_dir():
        shutil.rmtree(result)
    else:
        result.unlink(missing_ok=True)


def assert_visible_files_are_whole(result: Path, whole: Path, at: int) -> None:
    expected = content(whole)
    for file, found in content(result).items():
        is_hidden = any(part.startswith(".") for part in Path(file).parts if part != ".")
        if is_hidden or len(found) == len(expected[file]):
            continue
        # UIDs of DICOM are of several lengths
        assert file.endswith(".dcm"), (at, file)
        assert found[-999:] == expected[file][-999:], (at, file)


@pytest.mark.parametrize("fault", ["kill", "full"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_result_is_there_whole_or_not_at_all(gantk, place, name, fault):
    count, command, output = COMMANDS[name]
    if fault == "full":
        count = count // 4

    result = place / output
    whole = place / f"whole {name} {fault}"

    def before():
        remove(result)

    def after(at):
        if result.exists():
            assert_visible_files_are_whole(result, whole, at)

        code, said, *_ = gantk(place, *command)
        assert code == 0, (at, said)
        assert content(result).keys() == content(whole).keys(), at
        assert hidden(place) == [], at

    before()
    code, said, *_ = gantk(place, *command)

    assert code == 0, said

    if result.is_dir():
        shutil.copytree(result, whole)
    else:
        shutil.copy(result, whole)

    stop(gantk, place, fault, count, command, before, after)
