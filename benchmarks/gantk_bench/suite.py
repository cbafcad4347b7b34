"""Suites: TOML files that set the length, time limit and metrics of all recipes, so that their rows
are comparable.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr

from gantk.errors import UserError, did_you_mean
from gantk.plugin.loader import registry
from gantk.plugin.spec import Table, check
from gantk.recipe.load import all_recipes, at_its_key, files_of, place, read_toml


class Scored(Table):
    """Metrics for every recipe of one kind; None: each recipe keeps its own metrics."""

    # methods that translate images; names, or tables with a name
    translate: list[Any] | None = None
    noise: list[Any] | None = None  # methods that generate images from noise


class RecipeTable(Table):
    """Settings of one recipe that replace the suite's."""

    profile: str | None = None  # instead of the suite's profile; "": no profile
    set: dict[str, Any] = {}  # applied after the suite's settings
    tiny: dict[str, Any] = {}  # applied last with --tiny: networks of a few filters
    full_steps: int | None = Field(None, ge=1)  # steps of a training of the published length
    limit: float | None = Field(None, gt=0)  # seconds
    skip: str | None = Field(None, min_length=1)  # the reason why this recipe is left out


class Suite(Table):
    """Settings for all recipes of a bench, and for single recipes in `recipe`."""

    format: Literal[1] = 1
    summary: str = ""
    recipes: list[str] | None = None  # the recipes of --all; None: every installed recipe
    profile: str | None = None  # applied to each recipe that has a profile of this name
    limit: float | None = Field(None, gt=0)  # seconds for one recipe; None: no limit
    # of the whole bench, which trains every recipe for the same time and measures the device
    minutes: float | None = Field(None, gt=0)
    tiny: dict[str, Any] = {}  # settings for every recipe with --tiny
    jobs: int = Field(1, ge=1)  # recipes that train at the same time
    threads: int | None = Field(None, ge=1)  # CPU threads of each training; None: cores / jobs
    # shortens longer trainings and those counted in epochs; `recipe.NAME.set` may choose more
    max_steps: int | None = Field(None, ge=0)
    set: dict[str, Any] = {}  # settings for every recipe, as in `gantk run --set`
    metrics: Scored = Field(default_factory=Scored)
    recipe: dict[str, RecipeTable] = {}  # [recipe.NAME]

    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self._name


def load_suite(name: str) -> Suite:
    """Load a suite by its path or name; raises UserError with the key, the line and the nearest
    valid name.
    """
    path, origin = _find(name)
    text, tables = read_toml(path, origin, "suite", "`gantk bench --help`")
    try:
        suite = check(Suite, tables, "the suite")
    except UserError as error:
        raise at_its_key(error, lambda keys: place(text, origin, keys)) from None
    recipes = all_recipes()
    for name in (*suite.recipe, *(suite.recipes or ())):
        if name not in recipes:
            where = place(text, origin, ("recipe", name) if name in suite.recipe else ("recipes",))
            remedy = did_you_mean(name, recipes) or "see `gantk recipes`"
            raise UserError(f"there is no recipe '{name}'", where=where, remedy=remedy)
    suite._name = path.stem
    return suite


def all_suites() -> dict[str, tuple[Path, str]]:
    """name -> (file, distribution) of every registered suite; of two with one name, gantk's own is
    taken.
    """
    return files_of(sorted(registry().packages["suites"], key=lambda pair: pair[1] != "gantk"))


def _find(name: str) -> tuple[Path, str]:
    if Path(name).is_file():
        return Path(name), name
    suites = all_suites()
    stem = name.removesuffix(".toml")
    if stem not in suites:
        if Path(name).is_dir():
            what = f"'{name}' is a folder, not a suite"
        else:
            what = f"there is no suite '{name}'"
        allowed = ", ".join([*sorted(suites), "or a TOML file"])
        raise UserError(
            what, where="--suite", allowed=allowed, remedy=did_you_mean(Path(stem).name, suites)
        )
    path, owner = suites[stem]
    return path, f"{path.name} (bundled with {owner})"
