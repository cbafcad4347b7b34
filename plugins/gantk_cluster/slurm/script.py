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
) -> str:
    """Return a job script that trains a recipe, or resumes a run; UserError where an option is wrong.

    `gpus` are of each node.
    """
    words = [word for setting in set for word in ("--set", setting)]
    words += ["--data", data] if data else []
    words += ["--profile", profile] if profile else []
    if (Path(what) / "recipe.toml").is_file():
        if words or out:
            raise UserError(
                f"'{what}' already exists and resumes with its own settings",
                where=what,
                remedy="leave --data, --set, --profile and --out out",
            )
        run = RunFolder.open(what)
        run.recipe(LACKING_IN_TRAINING).check()
        refuse_packed(run)
        name = Path(what).absolute().name
        out = what
    else:
        name = checked_recipe(what, data, list(set), profile)[0].name
        words = [what, *words]
        if out and (Path(out) / "recipe.toml").exists():
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
        ranks=gpus or 1,
        out=out,
        new=f"runs/{name}",
        words=words,
        here=Path.cwd(),
        bin=Path(sys.executable).parent,
    )
