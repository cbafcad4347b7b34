"""Plan of a bench: a job for each recipe, combination of grid values and seed, all checked before
the first runs.
"""

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gantk.data.recipe_data import with_data
from gantk.errors import UserError
from gantk.method import Method
from gantk.plugin.spec import toml
from gantk.recipe.load import Recipe, all_recipes, load_recipe, parse_setting, resolved
from gantk.recipe.published import changes_of_file, published_system
from gantk_bench.suite import RecipeTable, Suite

SEED = "train.seed"  # rows that differ in this key alone repeat the same experiment
OPENING = "[{"
CLOSING = "]}"
TOKEN = re.compile(r""""(?:\\.|[^"\\])*"|'[^']*'|.""", re.S)  # a quoted text, or a character
DESCRIPTIVE_KEYS = ("summary", "paper")  # recipe keys that describe it and do not change a result


@dataclass(frozen=True)
class Value:
    """One value of one key: its text and its parsed TOML value."""

    key: str
    text: str
    value: Any

    @property
    def setting(self) -> str:
        """The argument of `gantk run --set`."""
        return f"{self.key}={self.text}"


@dataclass(frozen=True)
class Job:
    """One row to measure: a recipe with all its settings, or the reason why it cannot run."""

    label: str  # unique: `dualgan_t1t2 structure=1 seed=0`
    recipe: str  # the recipe's name
    source: str  # the recipe argument of `gantk run`: a name or a path
    profile: str | None
    settings: tuple[str, ...]  # `key=value`, in the order in which they apply
    values: tuple[Value, ...] = ()  # grid values and seed; they apply last
    data: str | None = None  # the folder or file that replaces the recipe's source
    limit: float | None = None  # seconds
    # fields of the row that are known before training
    facts: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None  # None: the recipe counts epochs
    skip: str | None = None  # the suite's reason to leave this recipe out
    problem: str | None = None  # error of the check before the run; the row then counts as failed

    @property
    def arguments(self) -> list[str]:
        """The command-line arguments after `gantk run`."""
        settings = [*self.settings, *(value.setting for value in self.values)]
        words = [self.source]
        if self.profile:
            words += ["--profile", self.profile]
        for setting in settings:
            words += ["--set", setting]
        if self.data:
            words += ["--data", self.data]
        return words

    @property
    def folder(self) -> str:
        """The label as a folder name."""
        slug = re.sub(r"[^\w.=+-]+", "-", self.label).strip("-.")
        if slug == self.label.replace(" ", "-") and len(slug) <= 100:
            return slug
        # slugs may collide
        return f"{slug[:90]}-{hashlib.sha256(self.label.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Options:
    """Command-line options that apply to every recipe."""

    grid: tuple[str, ...] = ()
    seeds: int | None = None
    settings: tuple[str, ...] = ()
    data: str | None = None
    limit: float | None = None
    tiny: bool = False


def jobs_for(names: Sequence[str], suite: Suite, opts: Options, *, named: bool) -> list[Job]:
    """Jobs of the recipes `names`; raises UserError for an invalid setting or grid key, or an
    invalid `named` recipe.

    If the recipes come from --all (not `named`), an invalid recipe file becomes a job with a
    `problem`.
    """
    choices = list(combinations(opts.grid, opts.seeds))
    short = short_keys(value.key for value in choices[0])
    jobs = [
        job
        for name in dict.fromkeys(names)
        for job in _jobs_of(name, suite, opts, choices, short, named)
    ]
    labels: dict[str, Job] = {}
    for job in jobs:
        other = labels.setdefault(job.label, job)
        if other is not job:
            what = f"'{other.source}' and '{job.source}' would both be the row '{job.label}'"
            raise UserError(what, where="gantk bench", remedy="rename one of the files")
    return jobs


def _jobs_of(
    name: str,
    suite: Suite,
    opts: Options,
    choices: list[tuple[Value, ...]],
    short: dict[str, str],
    named: bool,
) -> list[Job]:
    stem = Path(name).name.removesuffix(".toml")
    own = suite.recipe.get(stem, RecipeTable())
    job = Job(
        label=stem,
        recipe=stem,
        source=name,
        profile=None,
        settings=(),
        data=opts.data,
        limit=opts.limit or own.limit or suite.limit,
        skip=own.skip,
    )
    if own.skip:
        return [job]
    try:
        loaded = load_recipe(name)
        profile = _profile(loaded, suite, own)
        loaded = loaded.override([], profile)
        loaded.check()
        settings = _suite_settings(loaded, suite, own, opts)
        if opts.data is not None:
            loaded = with_data(loaded, opts.data)
    except UserError as error:
        if named:
            raise
        return [replace(job, problem=str(error))]
    job = replace(job, profile=profile, settings=(*settings, *opts.settings))
    return [_combined(loaded, job, values, short) for values in choices]


def _profile(loaded: Recipe, suite: Suite, own: RecipeTable) -> str | None:
    """The profile that the suite sets for this recipe, which must exist, else the suite's where the
    recipe has it.
    """
    if own.profile is not None:
        return own.profile or None
    profiles = loaded.tables.get("profile", {})
    return suite.profile if isinstance(profiles, Mapping) and suite.profile in profiles else None


def _suite_settings(
    loaded: Recipe, suite: Suite, own: RecipeTable, opts: Options
) -> tuple[str, ...]:
    """Settings in order: the suite's, its metrics for this kind of method, its step limit, then
    `recipe.NAME.set`, with --tiny the `tiny` of both.
    """
    settings = list(settings_of(suite.set))
    recipe_settings = list(settings_of(own.set))
    if opts.tiny:
        recipe_settings += [*settings_of(suite.tiny), *settings_of(own.tiny)]
    if opts.data is not None:  # settings for the recipe's original source do not apply
        recipe_settings = [s for s in recipe_settings if not s.startswith("data.source")]
    try:
        model = loaded.override(settings).check()
        metrics = _suite_metrics(model.method.target, suite)
        if metrics:
            settings.append(f"evaluate.metrics={toml(metrics)}")
        has_length = any(s.startswith(("train.steps=", "train.epochs=")) for s in recipe_settings)
        if not has_length and _is_too_long(model.train.steps, suite.max_steps):
            settings.append(f"train.steps={suite.max_steps}")
        loaded.override([*settings, *recipe_settings]).check()
    except UserError as error:
        raise error.at(f"{loaded.name}, suite {suite.name}") from None
    return (*settings, *recipe_settings)


def _suite_metrics(method: type[Method], suite: Suite) -> list[Any]:
    """The suite's metrics for what this method does: translate, generate from noise, or both."""
    metrics: list[Any] = []
    if method.translate is not Method.translate:
        metrics += suite.metrics.translate or []
    if method.sample is not Method.sample:
        metrics += suite.metrics.noise or []
    return metrics


def _is_too_long(steps: int | None, max_steps: int | None) -> bool:
    """Whether a training of `steps`, or counted in epochs if None, exceeds the suite's limit."""
    return max_steps is not None and (steps is None or steps > max_steps)


def _combined(loaded: Recipe, job: Job, values: tuple[Value, ...], short: dict[str, str]) -> Job:
    """The job of one grid combination; raises UserError if the recipe does not accept a setting or
    value.
    """
    try:
        combined = loaded.override([*job.settings, *(value.setting for value in values)])
        model = combined.check()
    except UserError as error:
        raise error.at(job.recipe) from None
    tables = resolved(model)
    system = published_system(tables, changes_of_file(combined, tables))
    texts = [f"{short[value.key]}={''.join(value.text.split())}" for value in values]
    label = " ".join([job.recipe, *texts])
    facts = {
        "summary": model.summary,
        "seed": model.train.seed,
        "method": model.method.name,
        "domains": list(model.data.domains),
        "paired": bool(model.method.target.paired),
        "published": {}
        if system is None or system.other_system
        else system.figures | system.undefined,
        "system": model.paper.get("system"),
        "recipe_hash": recipe_hash(tables, job.data),
        "grid": {value.key: value.value for value in values if value.key != SEED},
    }
    return replace(job, label=label, values=values, facts=facts, steps=model.train.steps)


def recipe_hash(tables: Mapping[str, Any], data: str | None = None) -> str:
    """SHA-256 (hex) of a resolved recipe's canonical JSON without DESCRIPTIVE_KEYS.

    Of `data`, the path that replaces the recipe's source, only the last name is hashed: parent
    folders may differ.
    """
    kept = {key: value for key, value in tables.items() if key not in DESCRIPTIVE_KEYS}
    if data is not None:
        kept["data"] = kept["data"] | {
            "source": {"name": kept["data"]["source"]["name"], "path": Path(data).name}
        }
    return hashlib.sha256(
        json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def recipe_names(names: Iterable[str], everything: bool, suite: Suite) -> tuple[list[str], bool]:
    """(recipes to run, whether they were named one by one); raises UserError for names with --all,
    or neither.
    """
    named = list(names)
    if everything and named:
        raise UserError(
            "--all already means every recipe",
            where="gantk bench",
            remedy="leave the names or --all out",
        )
    if not everything and not named:
        remedy = "name recipes of `gantk recipes`, or say --all"
        raise UserError(
            "no recipe was named", where="gantk bench", allowed="recipes or --all", remedy=remedy
        )
    return (named, True) if named else (suite.recipes or sorted(all_recipes()), False)


def parse_axis(text: str) -> list[Value]:
    """The values of `KEY=V1,V2`; commas inside brackets and quotes belong to a value. UserError for
    invalid text.
    """
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[\w\-]+(\.[\w\-]+)*", key):
        raise UserError(
            f"'{text}' is not key=values",
            where="--grid",
            remedy="for example --grid train.seed=0,1,2",
        )
    parts = [part.strip() for part in _split(raw)]
    if not all(parts):
        what = f"a value is missing in '{text}'"
        raise UserError(what, where="--grid", remedy="write the values with commas between")
    try:
        values = [Value(key, part, parse_setting(f"{key}={part}")[1]) for part in parts]
    except UserError as error:
        error.where = f"--grid {key}"
        raise
    earlier: list[Any] = []
    for value in values:
        if value.value in earlier:
            what = f"the value {value.text} stands twice in '{text}'"
            raise UserError(what, where="--grid", remedy="name each once")
        earlier.append(value.value)
    return values


def combinations(axes: Iterable[str], seeds: int | None = None) -> Iterator[tuple[Value, ...]]:
    """All combinations of the axes' values; seeds (0 to `seeds` - 1) vary fastest. UserError for a
    repeated key.
    """
    parsed = [parse_axis(axis) for axis in axes]
    if seeds is not None:
        parsed.append([Value(SEED, str(seed), seed) for seed in range(seeds)])
    keys = [axis[0].key for axis in parsed]
    twice = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
    if twice == SEED and seeds is not None:
        raise UserError(
            "the seeds are given twice",
            where="--seeds, --grid train.seed",
            remedy="keep one of the two",
        )
    if twice:
        raise UserError(
            f"the key '{twice}' is given twice",
            where="--grid",
            remedy=f"write --grid {twice}=V1,V2 once",
        )
    return itertools.product(*sorted(parsed, key=lambda axis: axis[0].key == SEED))


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """Dotted key -> its last part, or the whole key where others end alike."""
    keys = list(keys)
    last = {key: key.rpartition(".")[2] for key in keys}
    count = Counter(last[key] for key in keys)
    return {key: last[key] if count[last[key]] == 1 else key for key in keys}


def _split(text: str) -> list[str]:
    """Split at commas outside brackets and quotes."""
    parts = [""]
    depth = 0
    for token in TOKEN.findall(text):
        depth += (token in OPENING) - (token in CLOSING)
        if token == "," and not depth:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def settings_of(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`key=value` for every value of nested tables; a table with a `name` (a component) is one
    inline value.
    """
    for key, value in table.items():
        if isinstance(value, Mapping) and "name" not in value:
            yield from settings_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={toml(value)}"
