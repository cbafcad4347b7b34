"""Plans a recipe for scans: the largest images and networks that the time allows, with a reason for
each choice.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from gantk.catalog.question import as_setting
from gantk.errors import UserError, count_noun
from gantk.planning.data import Line, data_of, lines_of, proposals
from gantk.planning.look import Scans, look
from gantk.plugin.loader import registry
from gantk.plugin.spec import options_model, toml
from gantk.recipe.load import Recipe, parse_setting
from gantk.terminal import duration

RECIPE_COLUMNS = 120  # columns of the recipe's lines
SIDES = (96, 128, 160, 192, 256, 384)  # longest sides that images are resized to
USUAL_STEPS = 2400  # of a method that states none
TIME_SHARE = 0.9  # of the time, for the steps; the rest is for pictures and scores
MAX_NATIVE_SIDE = 512  # pixels; larger images are resized
# more steps gain little, unless they are fewer than MAX_EPOCHS epochs
MAX_TIMES_USUAL_STEPS = 10
MAX_EPOCHS = 1000
# problems of `data check` that the recipe solves
SOLVED_PROBLEMS = ("channels", "split", "patients", "same-patient")
# keys whose reasons are told above the recipe
TOLD_KEYS = ("method.name", "data.split")
# kinds of notes that the recipe repeats: how scans were understood
TOLD_NOTES = ("choice", "columns")
# keys of what networks see, not of how scans are read
NETWORK_KEYS = ("data.dims", "data.size", "data.patch", "data.fit")
ADAM = {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]}
TABLES = ("method", "data", "train", "evaluate", "translate")


class Candidate(NamedTuple):
    """Image size, `data.fit` and a factor for the filters that may be planned, with the reason."""

    size: tuple[int, ...]
    fit: str
    width: int
    why: str


def plan(
    scans: str | Path,
    *,
    hours: float = 2.0,  # training time on this machine
    set: Iterable[str] = (),  # `KEY=VALUE` settings that the caller has decided
    layout: str = "",  # line that says whose each file is and what it shows
    device: str | None = None,  # None: the best there is
    # called with the share done and the current step's name
    progress: Callable[[float, str], None] | None = None,
) -> str:
    """Plan a recipe for scans and this machine.

    Size, filters and number of steps follow from real training steps that are timed on this
    machine.

    Example:

        Path("my.toml").write_text(gantk.plan("scans", hours=8))

    Args:
        scans: the folder of the images.
        hours: training time on this machine.
        set: settings that you have decided yourself: `["data.size=[128, 128]"]`.
        layout: the line that says whose each file is and what it shows, as in `gantk.run`.
        device: "cpu", "cuda", "cuda:1" or "mps". Default: the fastest device of this machine.
        progress: called with the share that is done, from 0 to 1, and the current operation.

    Returns:
        The text of the recipe. It starts with facts about the scans, and a comment gives the reason
        for each choice.

    Raises:
        UserError: the scans cannot be used.
    """
    tell = progress or (lambda share, what: None)
    settings = [*set, as_setting(layout)] if layout else list(set)
    reads = [
        each for each in settings if each.startswith("data.") and not each.startswith(NETWORK_KEYS)
    ]
    seen = look(Path(scans).absolute(), reads, tell)
    tell(0.7, "timing training steps")
    lines = _choose_lines(seen, hours, settings, device)
    recipe = Recipe(_tables(lines)).override(settings)
    made = {line.key: line for line in lines}
    recipe.check()
    for table in TABLES:
        for key, value in recipe.tables.get(table, {}).items():
            name = f"{table}.{key}"
            if name not in made or made[name].value != value:
                made[name] = Line(name, value, "set by you")

    return _text(seen, made.values(), hours)


def _method_lines(
    seen: Scans, candidate: Candidate, hours: float, settings: list[str], short: bool
) -> list[Line]:
    """The lines of [method] for a candidate's size and width, by the first method that suits the
    scans; `short`: for a short training. Another method's keys are left out where one is asked for.
    """
    decided = dict(map(parse_setting, settings))
    options = {"hours": hours, "dims": decided.get("data.dims", 2), "short": short}
    proposed = proposals("method", seen, candidate.size, candidate.width, **options)
    lines = [Line(*row) for row in next(proposed, ())]

    asked = str(decided.get("method.name", ""))
    if asked:
        known = options_model(registry().get("method", asked).load()).model_fields
        kept = [line for line in lines[1:] if line.key.partition(".")[2] in known]
        return [Line("method.name", asked, lines[0].why if lines else ""), *kept]
    if not lines:
        raise UserError(
            "no installed method plans a recipe for these scans",
            where="SCANS",
            remedy="name a method: --set method.name=NAME",
        )
    return lines


def _choose_lines(seen: Scans, hours: float, settings: list[str], device: str | None) -> list[Line]:
    """All lines, for the largest candidate whose usual number of steps fits into the time.

    1. Time the smallest candidate with real steps.
    2. Take the largest that fits by its work; where only the smallest does, the training is short.
    3. Time what was taken, which gives the number of steps.
    """
    from gantk.training.trial import predict

    candidates = _candidates(seen)
    smallest = candidates[0]
    of_data = data_of(seen)
    name = _method_lines(seen, smallest, hours, settings, False)[0].value
    usual = registry().get("method", name).usual_steps or USUAL_STEPS

    def lines_of_candidate(candidate: Candidate, steps: int, why: str, short: bool) -> list[Line]:
        of_method = _method_lines(seen, candidate, hours, settings, short)
        return _complete_lines(seen, [*of_method, *of_data], candidate, steps, why)

    def measure(candidate: Candidate, short: bool) -> Any:
        tables = _tables(lines_of_candidate(candidate, usual, "", short))
        return predict(Recipe(tables).override(settings), device=device)

    measured = measure(smallest, short=False)
    if not measured.fits:
        what = f"training on these images does not fit into memory ({measured.counted})"
        remedy = " ".join(f"--set {each}" for each in next(iter(measured.lighter), ()))
        raise UserError(what, where="SCANS", remedy=remedy or None)

    seconds = TIME_SHARE * 3600 * hours
    seconds_per_work = 3600 * measured.hours / _work(smallest)
    affordable = [each for each in candidates if seconds_per_work * _work(each) <= seconds]
    short = len(affordable) < min(2, len(candidates))
    chosen = affordable[-1] if affordable else smallest
    if short or chosen is not smallest:
        again = measure(chosen, short)
        if again.fits:
            measured = again
        else:
            chosen, short = smallest, False

    steps, why = _choose_steps(seen, measured, usual, hours)
    return lines_of_candidate(chosen, steps, why, short)


def _choose_steps(seen: Scans, predicted: Any, usual: int, hours: float) -> tuple[int, str]:
    """The number of steps that fits 90 % of the time, and the reason for it."""
    step = 3600 * predicted.hours / usual
    count = _count(seen)
    enough = max(usual, MAX_EPOCHS * count / _batch(seen))
    most = int(min(MAX_TIMES_USUAL_STEPS * usual, enough))
    steps = int(min(most, max(50, TIME_SHARE * 3600 * hours / step)))
    why = (
        f"{1000 * step:.0f} ms per step, measured on {predicted.device}, so they take"
        f" {duration(steps * step)} of {duration(3600 * hours)}"
    )
    if steps < usual:
        why += f"; {usual} steps are usual, so a longer training would help"
    if steps == most:
        why += f"; with {count_noun(count, 'image')}, more steps gain little"
    if predicted.peak_gib:
        why += f"; {predicted.peak_gib:.1f} GiB of memory"

    return steps, why


def _work(candidate: Candidate) -> float:
    """Relative cost of a step by area and filters; on one core twice the filters took 1.75 times as
    long.
    """
    rows, columns = candidate.size
    return rows * columns * candidate.width**0.8


def _candidates(seen: Scans) -> list[Candidate]:
    """Sizes and widths, cheapest first; the last size is the scans' own resolution if they share
    one.
    """
    if len(seen.domains) == 1:
        why = "networks of images from noise need a power of two"
        pairs = ((64, 1), (64, 2), (128, 1), (128, 2))
        return [Candidate((side, side), "pad", width, why) for side, width in pairs]

    # the shipped recipes' widths: 32 for pairs, which gain more by width, else 16
    width = 2 if seen.suits_paired else 1
    pixels = seen.pixels.values()
    whole = [max(each.shape[axis] for each in pixels) for axis in (0, 1)]
    native = " x ".join(map(str, whole))
    one_grid = _one_grid(seen)
    why = (
        f"resized from {native} in {'all' if one_grid else 'most'} files; with more pixels, too"
        " few steps would fit into the time"
    )
    sizes = [
        Candidate(tuple(_up(side * each / max(whole), 4) for each in whole), "pad", width, why)
        for side in SIDES
        if side < 0.95 * max(whole)
    ]
    if max(whole) <= MAX_NATIVE_SIDE and not one_grid:
        why = f"most files have {native} pixels"
        sizes.append(Candidate(tuple(map(_up, whole)), "pad", width, why))
    elif max(whole) <= MAX_NATIVE_SIDE:
        widest = [max(each.content[axis] for each in pixels) for axis in (0, 1)]
        content = list(map(min, whole, widest))
        why = "all pixels, at full resolution"
        if content != whole:
            why = f"the part of {native} pixels that is not background, at full resolution"
        sizes.append(Candidate(tuple(map(_up, content)), "crop", width, why))

    narrow = sizes[0]._replace(width=1)
    return [narrow, *sizes[width == 1 :], sizes[-1]._replace(width=2 * width)]


def _one_grid(seen: Scans) -> bool:
    """Whether all files that a training reads have one size, or as volumes one grid."""
    files = seen.files
    if seen.source.get("onto") == "a":
        files = [file for file in files if seen.domains[0] in file["domains"]]
    shapes = {tuple(file["shape"][-2:]) for file in files}
    grids = {tuple(file["spacing"] or ()) for file in files}
    return len(shapes) == 1 or (seen.volumes > 0 and len(grids) == 1)


def _up(side: float, less: int = 0) -> int:
    """Round up to a multiple of 16, which U-Nets at half size need; up to `less` pixels may be cut
    off.
    """
    return 16 * max(2, ceil((side - less) / 16))


def _count(seen: Scans) -> int:
    """The number of images of the first record's domain."""
    return sum(record.domain == seen.records[0].domain for record in seen.records)


def _batch(seen: Scans) -> int:
    return max(1, min(16 if len(seen.domains) == 1 else 4, _count(seen) // 3))


def _complete_lines(
    seen: Scans, lines: list[Line], candidate: Candidate, steps: int, why: str
) -> list[Line]:
    """The lines with the size, widths and number of steps of a candidate, and all of [train] and
    [evaluate].
    """
    noise = len(seen.domains) == 1
    fit = {
        "crop": "nothing is resized",
        "pad": "the aspect ratio is kept, and the rest is filled with background",
    }[candidate.fit]
    data = [(True, "size", list(candidate.size), candidate.why), (True, "fit", candidate.fit, fit)]
    translate = [
        (
            not noise and seen.is_masked,
            "masked",
            True,
            "background of the input stays background in the result",
        ),
        (not noise and seen.is_stripped, "stripped", True, "warn of heads with skull"),
        (
            not noise and seen.is_masked and seen.is_stripped is None,
            "stripped",
            None,
            "not set, because it is unclear whether these show skulls. If they are skull-stripped"
            " heads, set it to true, and `gantk translate` warns of heads with skull",
        ),
    ]
    return [
        *lines,
        *lines_of("data", data),
        *lines_of("train", _train_lines(seen, steps, why)),
        *lines_of("evaluate", _evaluate_lines(seen)),
        *lines_of("translate", translate),
    ]


def _train_lines(seen: Scans, steps: int, why: str) -> list[tuple[bool, str, Any, str]]:
    """(wanted, key, value, reason) of the table [train]."""
    noise = len(seen.domains) == 1
    short = steps < 1500
    if short:
        rate = 5e-4
        reason = "larger than usual, because there are few steps"
    else:
        rate = 2e-4
        reason = "the usual learning rate"

    average = 0.99 if short else 0.995
    mean = f"results use the mean weights of about {100 if short else 200} steps"
    sampling = "at most ten sets of sample pictures, because they take time"
    return [
        (True, "steps", steps, why),
        (True, "batch", _batch(seen), "small, so that more steps fit into the time"),
        (not noise, "optimizer", ADAM | {"lr": rate}, reason),
        (True, "schedule", "linear", "the falling learning rate gains the last decibel"),
        (True, "ema", average, mean),
        (True, "sample_every", max(100, steps // 10), sampling),
        (True, "save_every", max(100, steps // 5), "at most five checkpoints"),
    ]


def _evaluate_lines(seen: Scans) -> list[tuple[bool, str, Any, str]]:
    """(wanted, key, value, reason) of the table [evaluate]."""
    metrics = ["psnr", "ssim", "mae"]
    if len(seen.domains) == 1:
        metrics = ["kid"]
        reason = "compares sets of images"
    elif seen.fit and seen.fit.good:
        reason = "compares with the truth"
    else:
        reason = "computed only if a truth is known"

    air = min(each.seen for each in seen.pixels.values()) < 0.85
    return [
        (True, "metrics", metrics, reason),
        (not air, "regions", ["whole"], "the images show no air"),
    ]


def _tables(lines: Iterable[Line]) -> dict[str, Any]:
    tables: dict[str, Any] = {"format": 1}
    for table, key, value in ((*line.key.split(".", 1), line.value) for line in lines):
        tables.setdefault(table, {}).update({} if value is None else {key: value})
    return tables


def _text(seen: Scans, lines: Iterable[Line], hours: float) -> str:
    """The recipe as TOML: facts of the scans, then each table with a comment on every key."""
    lines = list(lines)
    if seen.suits_paired:
        kind = "registered pairs"
    elif len(seen.domains) > 1:
        kind = "unpaired"
    else:
        kind = "from noise"

    out = [f"# Made by `gantk plan` for {duration(3600 * hours)} of training. It found:"]
    of_key = {line.key: line for line in lines}
    for key, text in seen.found["summary"].items():
        if key == "split" and "data.split" in of_key:
            text = of_key["data.split"].why
        out += _comment(f"{key:9} {text}")
    method = of_key["method.name"]
    out += _comment(f"{'method':9} {method.value}: {method.why}")

    for problem in seen.found["problems"]:
        is_told = problem["severity"] != "note" or problem["kind"] in TOLD_NOTES
        if is_told and problem["kind"] not in SOLVED_PROBLEMS:
            out += _comment(f"{problem['severity']:9} {problem['what']}")

    summary = f"Planned: {' and '.join(seen.domains)}, {kind}."
    out += ["", "format = 1", f"summary = {toml(summary)}"]
    for table in TABLES:
        own = [line for line in lines if line.key.startswith(f"{table}.")]
        if own:
            out += ["", f"[{table}]"]
        for line in own:
            out += _key_lines(line._replace(why="see above") if line.key in TOLD_KEYS else line)

    return "\n".join(out) + "\n"


def _key_lines(line: Line) -> list[str]:
    """One key with its reason as a comment, beside it where that fits; a key without value is a
    comment itself.
    """
    key = line.key.partition(".")[2]
    if line.value is None:
        return [f"# {key}: {line.why}"]

    text = f"{key} = {toml(line.value)}"
    if not line.why:
        return [text]

    beside = f"{text} # {line.why}"
    if len(text) + len(line.why) + 3 <= RECIPE_COLUMNS:
        return [beside]

    return [*_comment(line.why), text]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, RECIPE_COLUMNS, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False
    )
