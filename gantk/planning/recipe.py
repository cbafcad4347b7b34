"""Plans a recipe for scans: the method of the shipped recipe for scans of this kind, and the largest
images that the time allows, with a reason for each choice.
"""

from __future__ import annotations

import copy
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from math import ceil, prod
from pathlib import Path
from typing import Any, NamedTuple

from gantk.catalog.question import as_setting
from gantk.data.check.findings import Problem
from gantk.data.sources.pairing import too_many_alone
from gantk.errors import UserError, argument
from gantk.formats.files import listed_once
from gantk.lookup.options import options_help
from gantk.lookup.reference import comments_of
from gantk.planning.data import Lines, data_lines, planned_split, proposals
from gantk.planning.look import Scans, domains_to, expect_order, look
from gantk.plugin.loader import registry
from gantk.plugin.spec import toml
from gantk.progress import Work
from gantk.recipe.load import Recipe, load_recipe, mapping, parse_setting
from gantk.terminal import duration

RECIPE_COLUMNS = 120  # columns of the recipe's lines
SIDES = (96, 128, 160, 192, 256, 384)  # longest sides that images are resized to
NOISE_SIDES = (64, 128)  # of images from noise, whose networks need a power of two
MAX_NATIVE_SIDE = 512  # pixels; larger images are resized
USUAL_STEPS = 2400  # of a method that states none
TIME_SHARE = 0.9  # of the time, for the start and all steps; the rest is for pictures and scores
# of the baseline that is trained on pairs; each may take as long as one of the training
MIN_BASELINE_STEPS = 100
MAX_BASELINE_STEPS = 3000
BASELINE_BATCH = 8
# more steps gain little, unless they are fewer than MAX_EPOCHS epochs
MAX_TIMES_USUAL_STEPS = 10
MIN_PLANNED_STEPS = 50  # however little time there is
MAX_EPOCHS = 1000
SHORT_TRAINING_STEPS = 1500  # fewer need a larger learning rate
# problems of `data check` that the recipe solves
SOLVED_PROBLEMS = ("range", "split", "patients", "same-patient")
# keys whose reasons are told above the recipe
TOLD_KEYS = ("method.name", "data.split")
# what the line of the split says, of the plan's own split
FACTS_OF_SPLIT = ("held out", "too few")
# keys of what networks see, not of how scans are read
NETWORK_KEYS = ("data.dims", "data.size", "data.patch", "data.fit")
ADAM = {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]}
FITS = {  # what is done with images of other sizes
    "crop": "nothing is resized",
    "pad": "the aspect ratio is kept, and the rest is filled with background",
}
TABLES = ("method", "data", "train", "evaluate", "translate")


class Size(NamedTuple):
    """An image size and `data.fit` that may be planned, with the reason."""

    sides: tuple[int, ...]
    fit: str
    why: str


class Choice(NamedTuple):
    """What the time allows a method."""

    size: Size
    steps: int
    lines: Callable[[int], Lines]  # all lines, for at most so many steps


def plan(
    scans: str | Path,
    *,
    hours: float = 2.0,  # of a run on this machine
    to: str | None = None,  # the domain to make; None: each of the other
    set: Iterable[str] = (),  # `KEY=VALUE` settings that the caller has decided
    layout: str = "",  # line that says whose each file is and what it shows
    device: str | None = None,  # None: the best there is
) -> str:
    """Plan a recipe for scans and this machine.

    Size and number of steps follow from real training steps that are timed on this
    machine.

    Example:

        Path("my.toml").write_text(gantk.plan("scans", hours=8))

    Args:
        scans: the folder of the images.
        hours: time of a run on this machine, as busy as now: reading, training and scores.
        to: the domain to make, such as "T2", of the most usual other one, or of the other one of
            data.domains. Default: each of two is made of the other, where the method can.
        set: settings that you have decided yourself: `["data.size=[128, 128]"]`.
        layout: the line that says whose each file is and what it shows, as in `gantk.run`.
        device: "cpu", "cuda", "cuda:1" or "mps". Default: the fastest device of this machine.

    Returns:
        The text of the recipe. It starts with facts about the scans, and a comment gives the reason
        for each choice.

    Raises:
        UserError: the scans cannot be used.
    """
    (text,), _ = plan_methods(
        scans, [""], hours=hours, to=to, set=set, layout=layout, device=device
    )
    return text


@listed_once()
def plan_methods(
    scans: str | Path,
    methods: Sequence[str],  # names; "": the one that suits the scans
    *,
    hours: float = 2.0,
    to: str | None = None,
    set: Iterable[str] = (),
    layout: str = "",
    device: str | None = None,
    folder: Path | None = None,  # of the recipes, which name scans below it by a relative path
) -> tuple[list[str], int]:
    """The text of `plan` for each method, and the folds of `planned_split`, or those of the caller, 0
    where another split is decided. All recipes split, size and map the scans alike: at the largest
    size, and for as many steps, as each method can afford in the time.
    """
    kinds = {registry().get("method", name).load().paired for name in methods if name}
    settings = [*set, as_setting(layout)] if layout else list(set)
    path = Path(scans).absolute()
    plain = Path(os.path.abspath(path))  # without "..", which a link would make another folder
    if plain.exists() and plain.samefile(path):
        path = plain
    decided = dict(map(parse_setting, settings))
    given = decided.get("data.domains", [])
    if to:
        settings.append(f"data.domains={toml(domains_to(path, to, given, settings))}")
    reads = [
        each for each in settings if each.startswith("data.") and not each.startswith(NETWORK_KEYS)
    ]
    seen = look(path, reads)
    if to:
        expect_order(seen, given)
    seen.to = to
    seen.both_kinds = len(kinds) > 1
    sizes = _sizes(seen)
    asked: list[tuple[Scans, list[str]]] = []
    for method in methods:
        own = [*settings, f"method.name={method}"] if method else settings
        asked.append((_scans_for(seen, method or decided.get("method.name", "")), own))
    choices = _choose_alike(asked, sizes, hours, device)
    steps = min(each.steps for each in choices)
    texts = [
        _text(for_method, _with_settings(each.lines(steps), own, folder), hours)
        for each, (for_method, own) in zip(choices, asked, strict=True)
    ]
    return texts, planned_split(seen)[2]


def _scans_for(seen: Scans, method: str) -> Scans:
    """The scans, with all that was measured, for this method; UserError where they do not suit it."""
    scans = copy.copy(seen)
    scans.method = method
    if scans.suits_paired and too_many_alone(seen.records):
        raise UserError(
            f"the method '{method}' needs registered pairs, which these scans lack",
            where="--methods",
            remedy="leave it out; dualgan needs no pairs",
        )
    return scans


def _with_settings(lines: Lines, settings: Iterable[str], folder: Path | None) -> Lines:
    """The lines with the caller's settings; UserError for a mistake in these. Scans below `folder`
    get a relative path.
    """
    recipe = _recipe(lines, settings)
    metrics = recipe.check().evaluate.metrics or ()
    for table in TABLES:
        for key, value in recipe.tables.get(table, {}).items():
            name = f"{table}.{key}"
            if name not in lines or lines[name][0] != value:
                lines[name] = (value, "set by you")
    for metric in metrics:
        if registry().get("metric", metric.name).trains:
            why = f"set by you; {metric.name} trains networks, for which no time is planned"
            lines["evaluate.metrics"] = (lines["evaluate.metrics"][0], why)

    source, why = lines["data.source"]
    path = Path(source.get("path", "."))
    if folder is not None and path.is_relative_to(folder):
        relative = path.relative_to(folder).as_posix()
        lines["data.source"] = (
            source | {"path": relative},
            f"{why}; the path is from this file on",
        )
    return lines


def _recipe(lines: Lines, settings: Iterable[str]) -> Recipe:
    """The lines with the caller's settings as a recipe."""
    tables: dict[str, Any] = {"format": 1}
    for name, (value, _) in lines.items():
        table, key = name.split(".", 1)
        tables.setdefault(table, {}).update({} if value is None else {key: value})
    return Recipe(tables).override(settings)


# ---- size and steps by the time


@Work("timing training steps")
def _choose(
    seen: Scans, settings: list[str], sizes: Sequence[Size], hours: float, device: str | None
) -> Choice:
    """The largest size with which the method's usual steps fit into the time, by real
    steps with the smallest size; real steps with that size give the number of steps.
    """
    from gantk.training.trial import predict

    smallest = sizes[0]
    of_data = data_lines(seen)
    name = _method_lines(seen, smallest, hours, settings)["method.name"][0]
    usual = registry().get("method", name).usual_steps or USUAL_STEPS

    def lines_of(size: Size, steps: int = usual, why: str = "") -> Lines:
        return {
            **of_data,
            "data.size": (list(size.sides), size.why),
            "data.fit": (size.fit, FITS[size.fit]),
            **_training_lines(seen, steps, why),
            **_method_lines(seen, size, hours, settings),
        }

    def measure(size: Size) -> Any:
        return predict(_recipe(lines_of(size), settings), device=device)

    began = time.perf_counter()
    measured = measure(smallest)
    if not measured.fits:
        what = f"training on these images does not fit into memory ({measured.counted})"
        remedy = "".join(f"--set {each}" for (each,) in measured.lighter[:1])
        raise UserError(what, where="SCANS", remedy=remedy or None)

    # a run reads and matches the images too
    seconds = TIME_SHARE * 3600 * hours - (time.perf_counter() - began)
    most_pixels = seconds / (3600 * measured.hours) * prod(smallest.sides)
    affordable = [each for each in sizes if prod(each.sides) <= most_pixels]
    chosen = [smallest, *affordable][-1]
    if chosen != smallest:
        again = measure(chosen)
        if again.fits:
            measured = again
        else:
            chosen = smallest

    step_s = 3600 * measured.hours / usual
    in_time = seconds / step_s
    if seen.fit and seen.fit.good:
        share = _batch(seen) / (_batch(seen) + BASELINE_BATCH)
        in_time -= _baseline_steps(int(in_time * share))
    enough = max(usual, MAX_EPOCHS * _image_count(seen) // _batch(seen))
    steps = int(min(MAX_TIMES_USUAL_STEPS * usual, enough, max(MIN_PLANNED_STEPS, in_time)))

    def lines(most: int) -> Lines:
        count = min(steps, most)
        why = (
            f"{1000 * step_s:.0f} ms per step, measured on {measured.device}, so they take"
            f" {duration(count * step_s)}; {duration(3600 * hours)} are given, for reading and scores"
            " too"
        )
        if count < steps:
            why = f"the fewest of the methods, so that they compare; {why}"
        return lines_of(chosen, count, why)

    return Choice(chosen, steps, lines)


def _choose_alike(
    asked: Sequence[tuple[Scans, list[str]]],
    sizes: Sequence[Size],
    hours: float,
    device: str | None,
) -> list[Choice]:
    """A choice for each method, all of the largest size that each can afford."""
    choices = [_choose(*each, sizes, hours, device) for each in asked]
    size = min((each.size for each in choices), key=lambda size: prod(size.sides))
    if all(each.size == size for each in choices):
        return choices
    return [_choose(*each, [size], hours, device) for each in asked]


def _sizes(seen: Scans) -> list[Size]:
    """The sizes, smallest first; the last is the scans' own resolution if they share one. At fewer
    pixels than the first no model could be better than an intensity map in whole files.
    """
    sizes = _all_sizes(seen)
    fine = [size for size in sizes if size.fit == "crop" or seen.can_beat_a_map(size.sides)]
    if len(fine) == len(sizes):
        return sizes
    smallest, *larger = fine or sizes[-1:]
    why = f"{smallest.why}; with fewer, no model could be better than an intensity map"
    return [smallest._replace(why=why), *larger]


def _all_sizes(seen: Scans) -> list[Size]:
    """As of `_sizes`, also those that lose too much."""
    if len(seen.domains) == 1:
        why = "networks of images from noise need a power of two"
        return [Size((side, side), "pad", why) for side in NOISE_SIDES]

    whole = [max(each.shape[axis] for each in seen.pixels) for axis in (0, 1)]
    native = " x ".join(map(str, whole))
    why = f"resized from {native}; with more pixels, too few steps would fit into the time"
    sizes = [
        Size(tuple(_round_up(side * each / max(whole) - 4) for each in whole), "pad", why)
        for side in SIDES
        if side < 0.95 * max(whole)
    ]
    if max(whole) > MAX_NATIVE_SIDE:
        return sizes
    if not _share_a_grid(seen):
        why = f"most files have {native} pixels"
        sizes.append(Size(tuple(map(_round_up, whole)), "pad", why))
    else:
        why = f"the pixels of {native} that are not background, at full resolution"
        content = (max(each.content[axis] for each in seen.pixels) for axis in (0, 1))
        sizes.append(Size(tuple(map(_round_up, map(min, whole, content))), "crop", why))
    return sizes


def _share_a_grid(seen: Scans) -> bool:
    """Whether all files that a training reads have one size, or as volumes one grid."""
    files = seen.files
    if seen.source.get("onto") == "a":
        files = [file for file in files if seen.domains[0] in file["domains"]]
    shapes = {tuple(file["shape"][-2:]) for file in files}
    grids = {tuple(file["spacing"] or ()) for file in files}
    return len(shapes) == 1 or (seen.volumes > 0 and len(grids) == 1)


def _round_up(side: float) -> int:
    """The next multiple of 16, which U-Nets at half size need."""
    return 16 * max(2, ceil(side / 16))


def _image_count(seen: Scans) -> int:
    """The number of images of the first record's domain."""
    return sum(record.domain == seen.records[0].domain for record in seen.records)


def _batch(seen: Scans) -> int:
    return max(1, min(16 if len(seen.domains) == 1 else 4, _image_count(seen) // 3))


# ---- the tables


def _method_lines(seen: Scans, size: Size, hours: float, settings: list[str]) -> Lines:
    """[method] of the shipped recipe, by its profile `cpu` if it has one, that the first method which
    suits the scans names. Of a method that the caller asks for, only keys that it has.
    """
    decided = dict(map(parse_setting, settings))
    asked = seen.method
    options = {"hours": hours, "dims": decided.get("data.dims", 2)}
    nothing: Any = ({"method": {"name": asked}}, "", {}) if asked else None
    proposal = next(proposals("method", seen, size.sides, **options), nothing)
    if proposal is None:
        raise UserError(
            "no installed method plans a recipe for these scans",
            where="SCANS",
            remedy="name a method: --set method.name=NAME",
        )

    shipped = load_recipe(proposal[0])
    changed = shipped.override(
        {f"method.{key}": value for key, value in proposal[2].items()},
        "cpu" if "cpu" in mapping(shipped.tables.get("profile")) else None,
    )
    method = {key: value for key, value in changed.tables["method"].items() if value is not None}
    comments = _comments(shipped, method, asked)
    if asked:
        method = {"name": asked} | {key: method[key] for key in comments if key in method}

    lines = {f"method.{key}": (value, comments.get(key, "")) for key, value in method.items()}
    reasons = ["set by you" if asked else "", proposal[1]]
    lines["method.name"] = (method["name"], ". ".join(filter(None, reasons)))
    train = mapping(changed.tables.get("train"))
    if "optimizers" in train and method["name"] == changed.tables["method"]["name"]:
        lines["train.optimizer"] = (None, "each network has its own")
        for key in ("optimizer", "optimizers", "schedule", "ema"):
            if key in train:
                lines[f"train.{key}"] = (train[key], f"as in the recipe '{shipped.name}'")
    if "conditional" in method:
        lines["data.labels"] = (True, "the method gets the class")
    return lines


def _comments(shipped: Recipe, method: dict[str, Any], asked: str) -> dict[str, str]:
    """Option of the method -> the comment of the shipped recipe where its value stays, else that of
    the option; `asked`: another method than the recipe's.
    """
    target = registry().get("method", asked or method["name"]).load()
    comments = {key: comment for key, _, _, comment in options_help(target)}
    written = comments_of(shipped.text)
    for key, value in shipped.tables["method"].items():
        if key in comments and value == method.get(key):
            comments[key] = written.get(("method", key), comments[key])
    return comments


def _baseline_steps(steps: int) -> int:
    """So many steps of a baseline, within what it needs."""
    return min(MAX_BASELINE_STEPS, max(MIN_BASELINE_STEPS, steps))


def _training_lines(seen: Scans, steps: int, why: str) -> Lines:
    """[train], [evaluate] and [translate]."""
    save_every = min(steps, max(100, ceil(steps / 5)))
    lines: Lines = {
        "train.steps": (steps, why),
        "train.batch": (_batch(seen), "small, so that more steps fit into the time"),
        "train.optimizer": (ADAM, "the usual learning rate"),
        "train.schedule": ("linear", "the learning rate falls to 0 in the second half"),
        "train.ema": (0.995, "results use a moving average of the weights"),
        "train.sample_every": (save_every, "steps between sample pictures"),
        "train.save_every": (save_every, "steps between checkpoints"),
    }
    if steps < SHORT_TRAINING_STEPS:
        why = "larger than usual, because there are few steps"
        lines["train.optimizer"] = (ADAM | {"lr": 5e-4}, why)
        lines["train.ema"] = (0.99, "smaller than usual, because there are few steps")

    if len(seen.domains) == 1:
        why = "compares sets of images"
        if any(record.label for record in seen.records):
            why += "; 'classification' trains classifiers on them, and tests these on real images"
        return lines | {"evaluate.metrics": (["kid"], why)}

    if not seen.fit:
        proposed = [("kid", "kid compares sets of images"), *proposals("metric", seen)]
        names, whys = zip(*proposed, strict=True)
        lines["evaluate.metrics"] = ([*names], f"no pairs are known: {', '.join(whys)}")
    elif seen.fit.good:
        why = "steps of a small U-Net without adversary, a baseline, on about as many images"
        batch = lines["train.batch"][0]
        lines["evaluate.regression"] = (_baseline_steps(steps * batch // BASELINE_BATCH), why)
        lines["evaluate.metrics"] = (["psnr", "ssim", "mae"], "compares with the truth")
    if seen.is_masked:
        why = "background of the input stays background in the result"
        lines["translate.masked"] = (True, why)
    if "ct" in seen.kinds and len({*seen.kinds}) > 1:
        why = "fine detail of MR is not that of CT; with it PSNR is 0.1 to 0.2 dB lower"
        lines["translate.detail"] = ("none", why)
    if seen.is_stripped:
        lines["translate.stripped"] = (True, "warn of heads with skull")
    return lines


# ---- the text


def _text(seen: Scans, lines: Lines, hours: float) -> str:
    """The recipe as TOML: facts of the scans, then each table with a comment on every key."""
    summary = seen.report["summary"].items()
    facts = {key: text for key, text in summary if key not in FACTS_OF_SPLIT}
    facts["split"] = lines["data.split"][1]
    joined = " and ".join(seen.domains)
    if seen.to:
        joined = " to ".join(seen.domains)
        both = "" if seen.suits_paired else ". Methods with cycles train and score both directions"
        facts["to"] = f"{joined}, as you asked{both}"
    elif len(seen.domains) == 2 and seen.suits_paired:
        first, last = map(argument, seen.domains)
        facts["to"] = f"both directions; one alone takes less time: --to {first} or --to {last}"
    method, why = lines["method.name"]
    facts["method"] = f"{method}: {why}"
    size = " x ".join(map(str, lines["data.size"][0]))
    steps = lines["train.steps"][0]
    facts["train"] = f"{steps:,} steps at {size} pixels"
    if steps <= MIN_PLANNED_STEPS:
        facts["train"] += ", too few to learn from: they are the fewest; give more --hours"
    out = [f"# Made by `gantk plan` for a run of {duration(3600 * hours)}. It found:"]
    for key, text in facts.items():
        out += _comment(f"{key:7}  {text}")
    for problem in seen.report["problems"]:  # without notes and what the recipe solves
        if problem["severity"] != "note" and problem["kind"] not in SOLVED_PROBLEMS:
            out += _comment(Problem(**problem).line)

    title = f"Planned: {joined}; {method}, not with the published networks and steps."
    out += ["", "format = 1", f"summary = {toml(title)}"]
    for table in TABLES:
        keys = [name for name in lines if name.startswith(f"{table}.")]
        if keys:
            out += ["", f"[{table}]"]
        for name in keys:
            value, why = lines[name]
            if name in TOLD_KEYS:
                why = "see above"
            out += _key_lines(name, value, why)

    return "\n".join(out) + "\n"


def _key_lines(name: str, value: Any, why: str) -> list[str]:
    """One key with its reason as a comment, beside it where that fits; a key without value is a
    comment itself.
    """
    key = name.partition(".")[2]
    if value is None:
        return [f"# {key}: {why}"]

    text = f"{key} = {toml(value)}"
    beside = f"{text} # {why}" if why else text
    if len(beside) <= RECIPE_COLUMNS:
        return [beside]
    return [*_comment(why), text]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, RECIPE_COLUMNS, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False
    )
