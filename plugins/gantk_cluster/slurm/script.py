"""Writes the text of a SLURM job script, after checking all options."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment

from gantk import checked_recipe
from gantk.errors import UserError
from gantk.recipe.load import LACKING_IN_TRAINING
from gantk.runs.folder import RunFolder
from gantk.runs.models import refuse_packed
from gantk_cluster.sweep.command import command as sweep_command

SWEEP = "sweep.json"  # marks the folder of a sweep
TEMPLATE = Path(__file__).with_name("job.sh.j2")


def job_script(
    what: str,
    *,
    nodes: int,
    gpus: int,
    data: str | None,
    set: Iterable[str],
    profile: str | None,
    out: str | None,
    sweep: list[str] | None,
) -> str:
    """Return a job script that trains a recipe, or resumes a run or a sweep; UserError where an
    option is wrong.

    `gpus` are of each node; `sweep` holds options of `gantk sweep`.
    """
    words = [word for setting in set for word in ("--set", setting)]
    words += ["--data", data] if data else []
    words += ["--profile", profile] if profile else []
    sweeps = sweep is not None
    begun = (Path(what) / SWEEP).is_file()
    if begun or (Path(what) / "recipe.toml").is_file():
        _check_begun(what, [*words, out, sweep], is_run=not begun)
        name = Path(what).absolute().name
        out = what
        sweeps = begun
    else:
        name = checked_recipe(what, data, list(set), profile)[0].name
        words = [what, *words, *(sweep or [])]
        if out and any((Path(out) / begun).exists() for begun in ("recipe.toml", SWEEP)):
            raise UserError(
                f"the folder '{out}' is already in use",
                where="--out",
                remedy=f"name another folder, or resume this one: gantk slurm {shlex.quote(out)}",
            )

    name = re.sub(r"[^\w.]+", "-", name)
    # every value is quoted
    environment = Environment(
        finalize=lambda value: shlex.quote(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        name=name,
        nodes=nodes,
        gpus=gpus,
        ranks=1 if sweeps else gpus or 1,
        out=out,
        new=f"runs/{name}-sweep" if sweeps else f"runs/{name}",
        words=words,
        sweeps=sweeps,
        here=Path.cwd(),
        bin=Path(sys.executable).parent,
    )


def _check_begun(folder: str, settings: Iterable[object], *, is_run: bool) -> None:
    """UserError where settings are given to a begun run or sweep, or a run cannot be resumed."""
    if any(each is not None for each in settings):
        raise UserError(
            f"'{folder}' already exists and resumes with its own settings",
            where=folder,
            remedy="leave --data, --set, --profile, --out and --sweep out",
        )
    if not is_run:
        return
    run = RunFolder.open(folder)
    run.recipe(LACKING_IN_TRAINING).check()
    refuse_packed(run)


def sweep_words(recipe: str, text: str) -> list[str]:
    """Split the options of a sweep into words and check them with its command; UserError where they
    are wrong.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        raise UserError(f"'{text}' has an unclosed quote", where="--sweep") from None

    sweep_command.make_context("gantk sweep", [recipe, *words])
    return words
