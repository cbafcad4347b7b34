"""A training that is stopped and killed at random, again and again, ends as the one that nobody
touched.

Each life of a training is a fork of this process, in which torch is loaded already: it is started,
or gone on with, as `gantk run` and `gantk resume` would, and gets a signal after a random share of
the time that a whole training takes. 60 signals in all. Equal are weights, averages and what else a
save holds, scores, samples, the choice of the best save, the split, and every line of the log but
for what a clock says.
"""

from __future__ import annotations

import copy
import json
import math
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import TINY, draw_pictures, read_json

from gantk import api, errors

KILLS = 20  # of each recipe: a minute each on a free core
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
LENGTH = {"steps": 14, "save_every": 3, "sample_every": 4, "keep": 2, "schedule": "cosine"}
NOISE = {
    "name": "dcgan",
    "latent": 8,
    "width": 4,
    "discriminator": {"name": "dcgan", "width": 4, "depth": 3},
}
RECIPES = {  # beside an image pool, dropout, augmentation and a schedule
    # judged by what the last saves say
    "best": {"evaluate": {"checkpoint": "best"}},
    "noise": {"method": NOISE, "evaluate": {"metrics": ["kid"], "images": 8}},
}


def recipe_of(name: str, folder: Path) -> dict:
    """Pictures in two folders, and a recipe that trains on them in about two seconds."""
    tables = copy.deepcopy(TINY)
    for seed, domain in enumerate("AB"):
        draw_pictures(folder / "data" / domain, 12, seed=seed)

    tables["data"] |= {
        "source": {"name": "folders", "path": str(folder / "data")},
        "domains": ["A", "B"],
    }
    tables["data"]["augment"] = ["hflip"]
    tables["method"]["generator"] |= {"dropout": 0.3}
    tables["train"] |= LENGTH
    if name == "noise":
        tables["method"] = {}
        tables["data"]["domains"] = ["A"]
        tables["data"]["source"] = {"name": "images", "path": str(folder / "data" / "A")}

    for table, own in RECIPES[name].items():
        tables[table] |= own

    return tables


def forked(work: Callable[[], object]) -> int:
    """The process that does this work in silence; it ends with gantk's exit code, and with 70 where
    that is none.
    """
    if child := os.fork():
        return child

    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        work()
        code = 0
    except errors.GantkError as error:
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def alive(recipe: dict, run: Path) -> int:
    """The process of a training that begins, or goes on from its last save, or from its start where
    it has none.
    """
    quiet = {"device": "cpu", "say": lambda line: None}
    begun = (run / "split.json").is_file()
    return forked(lambda: api.resume(run, **quiet) if begun else api.run(recipe, out=run, **quiet))


def undisturbed(recipe: dict, folder: Path) -> float:
    """Train in FOLDER/whole, in this process, so that forks find all that is loaded at first use;
    in FOLDER/second, in a fork: the seconds that this one takes.
    """
    api.run(recipe, out=folder / "whole", device="cpu", say=lambda line: None)
    began = time.monotonic()
    assert os.waitpid(alive(recipe, folder / "second"), 0)[1] == 0
    return time.monotonic() - began


def promised(run: Path) -> dict[str, object]:
    """What must be equal, by name."""
    kept = [
        *run.glob("checkpoints/*/*"),
        *run.glob("samples/**/*"),
        run / "best.json",
        run / "split.json",
    ]
    files = [path for path in kept if path.is_file() and not path.name.startswith(".")]
    found: dict[str, object] = {
        path.relative_to(run).as_posix(): path.read_bytes() for path in files
    }
    found["metrics.json"] = read_json(run / "metrics.json") | {"speed": None}
    for number, text in enumerate((run / "log.jsonl").read_text().splitlines()):
        found[f"log.jsonl, line {number}"] = json.loads(text) | {"seconds": 0, "images_per_s": 0}

    return found


def until(child: int, ends: float) -> int | None:
    """The exit code of a process that ended before that time."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended or time.monotonic() > ends:
            return os.waitstatus_to_exitcode(status) if ended else None
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_whatever_stops_a_training_it_ends_alike(name, tmp_path):
    recipe = recipe_of(name, tmp_path)
    chance = random.Random(f"kills of {name}")
    span = undisturbed(recipe, tmp_path)
    whole = promised(tmp_path / "whole")
    kills = 0

    assert promised(tmp_path / "second") == whole

    while kills < KILLS:
        run = tmp_path / f"killed-{kills}"
        lives = []
        code = None
        left = chance.randint(1, 4)
        while code != 0:
            child = alive(recipe, run)
            sent = chance.choice(SIGNALS)
            code = until(child, time.monotonic() + (chance.random() * span if left else math.inf))
            if code is None:
                os.kill(child, sent)
                code = until(child, math.inf)
                kills = kills + 1
                left = left - 1

            lives.append((sent.name, code))
            assert code in (0, 130, -sent), lives

        found = promised(run)
        assert not [each for each in whole | found if whole.get(each) != found.get(each)], lives
        shutil.rmtree(run)
