"""Run folders that somebody else prepared: links, pipes and devices in the place of every file and
folder. Nothing is written or removed outside, nothing hangs, and a command ends with one message.

GANTK_MUTATIONS sets the number of folders, GANTK_FUZZ_SEED others.
"""

import os
import pty
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from tiny import draw_pictures
from warm import Warm

pytestmark = pytest.mark.slow
SEED = 20261126
COUNT = 60
SECONDS = 20
MEMORY = 3 * 2**20  # KiB, of which an evaluation needs one
COMMANDS = {
    "report": ["report", "run"],
    "eval": ["eval", "run", "--device", "cpu"],
    "resume": ["resume", "run", "--device", "cpu"],
    "run": ["run", "run/recipe.toml", "--out", "run", "--device", "cpu"],
    "translate": ["translate", "run", "in.png", "out.png", "--device", "cpu"],
    "study": ["study", "new", "run", "--pairs", "2", "--device", "cpu"],
    "card": ["card", "run", "--out", "CARD.md"],
    "pack": ["pack", "run", "packed"],
    "compare": ["report", "run", "whole", "--out", "both.html"],
}
FOLDERS = ["checkpoints", "samples", "study", "data", "samples/test", "samples/truth"]
FOLDERS += ["samples/step-000004", "checkpoints/step-000003", "checkpoints/step-000004"]
# names of unfinished files, of which gantk removes those that ended processes left
PLANTED = ["checkpoints/.step-000003.tmp", "..was.00000000-999999-aaaaaaaa.tmp", ".lock"]
PLANTED += [".x.was.00000000-1-aaaaaaaa.tmp", "card.md", "track-wandb.json"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def prepare_outside(place: Path, run: Path) -> Path:
    """A folder that no command may change: files, and checkpoints like a run's own."""
    outside = place / "outside"
    for step in (1, 2, 3):
        shutil.copytree(run / "checkpoints/step-000002", outside / f"step-{step:06d}")
    (outside / "step-000000").mkdir()
    for path in sorted((run / "samples").rglob("*")):
        if path.is_file():
            shutil.copy(path, outside / path.name)

    for name in ("notes.txt", "metrics.json", "report.html", "key.csv"):
        (outside / name).write_text("not yours")
    return outside


def plant(path: Path, rng: random.Random, outside: Path, terminal: str) -> str:
    """Put a link, a pipe or a device in the place of a file or a folder; says which."""
    way = rng.choice(["outside", "outside", "pipe", "zero", "terminal", "itself", "null", "file"])
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

    path.parent.mkdir(parents=True, exist_ok=True)
    if way == "outside":
        path.symlink_to(outside)
    elif way == "file":
        path.symlink_to(outside / "notes.txt")
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "itself":
        path.symlink_to(path.name)
    else:
        path.symlink_to({"zero": "/dev/zero", "null": "/dev/null", "terminal": terminal}[way])

    return way


def test_a_foreign_run_folder_changes_nothing_outside(tiny_run, tmp_path):
    (picture,) = draw_pictures(tmp_path / "pictures", 1)
    files = [str(path.relative_to(tiny_run)) for path in sorted(tiny_run.rglob("*"))]
    files = [name for name in files if (tiny_run / name).is_file()]
    targets = files + 3 * [name for name in files if "/" not in name] + 3 * (FOLDERS + PLANTED)
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    gantk = Warm(tmp_path)
    rng = random.Random(int(os.environ.get("GANTK_FUZZ_SEED", SEED)))
    wrong = []
    for number in range(int(os.environ.get("GANTK_MUTATIONS", COUNT))):
        place = tmp_path / str(number)
        shutil.copytree(tiny_run, place / "run")
        shutil.copytree(tiny_run, place / "whole")
        shutil.copy(picture, place / "in.png")
        outside = prepare_outside(place, tiny_run)
        before = contents(outside)
        command = rng.choice([*COMMANDS])
        if command == "resume":  # two steps are left
            shutil.rmtree(place / "run/checkpoints/step-000004")
        if command == "run":  # a folder that holds no run yet
            (place / "run/metrics.json").unlink()
            shutil.rmtree(place / "run/checkpoints")
            (place / "run/checkpoints").mkdir()

        planted = rng.sample(targets, rng.choice([1, 1, 2]))
        if any(name.startswith(f"{folder}/") for name in planted for folder in planted):
            planted = planted[:1]
        ways = [plant(place / "run" / name, rng, outside, os.ttyname(slave)) for name in planted]
        code, said, _, memory = gantk(place, *COMMANDS[command], seconds=SECONDS)
        about = f"{number}: {command} with {[*zip(planted, ways, strict=True)]}: exit {code}"
        told = said.count("error  ") + said.count("question  ")
        if code not in (0, 1, 2) or "Traceback" in said or told != (code != 0):
            wrong.append(f"{about}\n{said[-1500:]}")
        if memory > MEMORY:
            wrong.append(f"memory {memory >> 10} MB: {about}")
        if contents(outside) != before or {*os.listdir(outside)} != {
            *(Path(name).parts[0] for name in [*before, "step-000000/x"])
        }:
            wrong.append(f"changed outside: {about}")
        for page in (place / "run/report.html", place / "both.html", place / "CARD.md"):
            if page.is_file() and not page.is_symlink() and "not yours" in page.read_text():
                wrong.append(f"copied from outside: {about}")
        with suppress(BlockingIOError):
            wrong.append(f"written to the terminal: {about}: {os.read(master, 100)!r}")

        shutil.rmtree(place)

    gantk.close()
    os.close(master)
    os.close(slave)
    assert not wrong, f"{len(wrong)}:\n" + "\n\n".join(wrong)
