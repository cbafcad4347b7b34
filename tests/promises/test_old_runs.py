"""What gantk 0.1 wrote stays usable: its runs translate, sample, score and go on, its recipes say
the same.

run_of_0.1 holds two unfinished runs of that version, saved after 8 of 12 steps, and what it made of
them: `at_8` and `at_12` translate input.tif to T2 after 8 and 12 steps, `samples_at_N` is `gantk
sample -n 3 --seed 1`. recipes.json is every bundled recipe as that version wrote it into a run, "@"
before the profile; keys most of them share stand under "most". todays_keys.toml names every key of
that version.
"""

import functools
import json
import math
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from files import HERE, gantk, saved
from PIL import Image

OLD = HERE / "run_of_0.1"
RANGE = 437.5  # of T2 in the old run's training images
RENAMED: dict[str, str] = {  # keys of 0.1 that a later version writes under another name
    **{
        f"train.{name}": f"train.fast.{name}"
        for name in ("channels_last", "fused", "kernels", "benchmark", "compile")
    },
    "train.batched": "train.fast.batched_forward",
    "train.allocator": "train.fast.keep_memory",
    "train.capture": "train.fast.cuda_graph",
    "data.pin": "train.fast.pin",
    "translate.pipelined": "train.fast.pipelined",
    "method.structure": "method.local_ncc",
    "method.flatness": "method.flat_region",
    "method.texture": "method.noise_floor",
    "method.coarse": "method.low_res_warmup",
}
# of the renamed allocator and capture
VALUES = {"keep": True, "system": False, "auto": True, "off": False}
# keys of 0.1 that a later version reads, and does not write any more
DROPPED = {"train.frozen", "train.overlap"}


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested tables; the parts of a list are counted from 0."""
    parts = isinstance(value, list) and any(isinstance(one, dict) for one in value)
    if (isinstance(value, dict) and value) or parts:
        for key, inner in enumerate(value) if parts else value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def nested(leaves: dict[str, Any]) -> Any:
    """The tables that `flat` took apart."""
    found: dict[str, Any] = {}
    for path, value in leaves.items():
        *above, last = path.split(".")
        table = found
        for key in above:
            table = table.setdefault(key, {})
        table[last] = value

    def lists(one: Any) -> Any:
        if not isinstance(one, dict) or not one:
            return one
        inner = {key: lists(value) for key, value in one.items()}
        return list(inner.values()) if all(key.isdigit() for key in inner) else inner

    return lists(found)


@functools.cache
def recipes_of_01() -> dict[str, dict[str, Any]]:
    """name or name@profile -> dotted key -> value."""
    held = json.loads((HERE / "recipes.json").read_text("utf-8"))
    most = held.pop("most")
    found = {}
    for name, own in held.items():
        without = own.pop("without", [])
        found[name] = {key: value for key, value in most.items() if key not in without} | own
    return found


def written_out(recipe: Any, profile: str | None = None) -> dict[str, Any]:
    """The tables that a run of this recipe writes to recipe.toml."""
    from gantk import load_recipe
    from gantk.recipe.load import resolved

    tables = resolved(load_recipe(recipe).override([], profile).check())
    return tomllib.loads(tomli_w.dumps(tables))


def differing(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys of then that are gone or have another value."""
    now = dict(flat(now))
    wanted = {RENAMED.get(key, key): value for key, value in then.items() if key not in DROPPED}
    for key in ("train.fast.keep_memory", "train.fast.cuda_graph"):
        if key in wanted:
            wanted[key] = VALUES[wanted[key]]
    gone = object()
    return [f"{k}: {v} was {wanted[k]}" for k in wanted if (v := now.get(k, gone)) != wanted[k]]


@pytest.fixture(params=["translation", "noise"])
def old(request, tmp_path) -> Path:
    """A copy of an old run."""
    return Path(shutil.copytree(OLD / request.param, tmp_path / request.param))


def made_of(run: Path, out: Path) -> np.ndarray:
    """What `gantk translate` or `gantk sample` makes of a run."""
    if run.name == "translation":
        done = gantk(
            "translate",
            run,
            OLD / "input.tif",
            out.with_suffix(".tif"),
            "--to",
            "T2",
            "--device",
            "cpu",
        )
        files = [out.with_suffix(".tif")]
    else:
        done = gantk("sample", run, "-n", 3, "--out", out, "--seed", 1, "--device", "cpu")
        files = sorted(out.glob("*.png"))
    assert done.code == 0, done.err
    return np.stack([np.asarray(Image.open(file)).astype(np.float64) for file in files])


def expected(run: Path, step: int) -> np.ndarray:
    if run.name == "noise":
        return np.load(OLD / f"samples_at_{step}.npy").astype(np.float64)
    return np.asarray(Image.open(OLD / f"at_{step}.tif")).astype(np.float64)[None]


def test_an_old_run_makes_the_images_it_made(old, tmp_path):
    found = made_of(old, tmp_path / "out")
    assert found.shape == expected(old, 8).shape
    # samples are whole numbers: one may round the other way
    allowed = 1.0 if old.name == "noise" else 1e-5 * RANGE
    assert np.abs(found - expected(old, 8)).max() <= allowed


def close(now: Any, then: Any) -> bool:
    number = isinstance(then, float) and isinstance(now, (int, float))
    return math.isclose(now, then, rel_tol=1e-3, abs_tol=1e-4) if number else now == then


def test_an_old_run_has_the_scores_it_had(old):
    then = json.loads((old / "metrics.json").read_text("utf-8"))
    (old / "metrics.json").unlink()
    done = gantk("eval", old, "--device", "cpu")
    assert done.code == 0, done.err
    now = json.loads((old / "metrics.json").read_text("utf-8"))
    assert now["step"] == 8
    figures = {
        key: value for table in ("metrics", "baselines") for key, value in flat(then[table], table)
    }
    figures = {
        key: value
        for key, value in figures.items()
        if key.rsplit(".", 1)[-1] in ("value", "n", "definition")
    }
    assert any(key.endswith("value") for key in figures)
    found = dict(flat(now))
    wrong = [
        f"{key}: {found.get(key)} was {then}"
        for key, then in figures.items()
        if not close(found.get(key), then)
    ]
    assert not wrong, "\n".join(wrong)


def test_an_old_run_goes_on_as_it_would_have(old, tmp_path):
    done = gantk("resume", old, "--device", "cpu")
    assert done.code == 0, done.err
    assert saved(old)[-1] == "step-000012"
    assert (old / "report.html").is_file()
    steps = [
        json.loads(line)["step"] for line in (old / "log.jsonl").read_text("utf-8").splitlines()
    ]
    assert sorted(set(steps)) == list(range(13))
    assert steps == sorted(steps)
    found = made_of(old, tmp_path / "out")
    then = expected(old, 12)
    before = expected(old, 8)
    span = 300.0 if old.name == "noise" else RANGE
    assert np.abs(found - then).max() <= 5e-3 * span < 3e-2 * span < np.abs(before - then).max()


def test_every_recipe_of_01_says_the_same_by_its_name_and_as_a_run_wrote_it():
    wrong = []
    for name, then in recipes_of_01().items():
        recipe, _, profile = name.partition("@")
        by_name = written_out(recipe, profile or None)
        # to what the report states: other by name
        corrected = recipe == "munit_t1t2" or "stated" in by_name["paper"]
        for now in (*[by_name] * (not corrected), written_out(nested(then))):
            wrong += [f"{name}: {one}" for one in differing(then, now)]
    assert not wrong, f"{len(wrong)} differences:\n" + "\n".join(wrong[:20])


def test_every_key_of_01_is_still_accepted_and_means_the_same():
    file = HERE / "todays_keys.toml"
    then = tomllib.loads(file.read_text("utf-8"))
    del then["profile"]
    # bare names are written out as tables
    parts = ("method.augment", "data.augment", "evaluate.metrics")
    then = {key: value for key, value in flat(then) if not key.startswith(parts)}
    assert not differing(then, written_out(str(file)))
    assert not differing(then | {"train.epochs": 1.0}, written_out(str(file), "small"))


def test_a_run_with_every_key_of_01_trains(tmp_path):
    lines = (HERE / "todays_keys.toml").read_text("utf-8").splitlines(keepends=True)
    # which the phantom has not
    ours = [line for line in lines if not line.startswith(("plane =", "spacing ="))]
    (tmp_path / "keys.toml").write_text("".join(ours), "utf-8")
    # a compiler is not everywhere
    more = ["--set", "train.steps=1", "--set", "train.compile=false"]
    done = gantk("run", "keys.toml", "--out", "run", "--device", "cpu", *more, cwd=tmp_path)
    assert done.code == 0, done.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))["metrics"]
    assert {"a_to_b", "b_to_a"} <= metrics.keys()
    wrote = tomllib.loads((tmp_path / "run" / "recipe.toml").read_text("utf-8"))
    now = written_out(str(tmp_path / "keys.toml"))
    # `written_out` tells the truth
    assert wrote["translate"] == now["translate"]
    assert wrote["method"] == now["method"]
