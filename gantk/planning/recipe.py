"""Plans a recipe for scans: the largest images and networks that the time allows, with a reason for
each choice.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from gantk.errors import UserError, counted
from gantk.planning.data import data_of
from gantk.planning.look import Scans, look
from gantk.planning.method import ADAM, Line, lines_of, method_of, shorter
from gantk.plugin.loader import registry
from gantk.plugin.spec import options_model, toml
from gantk.recipe.load import Recipe, parse_setting
from gantk.terminal import duration

WIDE = 120  # columns of the recipe's lines
SIDES = (96, 128, 160, 192, 256, 384)  # longest sides that images are resized to
# of shipped recipes
WANTED = {"pix2pix": 1200, "regression": 1200, "dualgan": 2400, "cyclegan": 2400, "dcgan": 3000}
# limits of the steps: times the usual number, and epochs; more gain little
MOST = 10
PASSES = 1000
# problems of `data check` that the recipe solves
ANSWERED = ("channels", "split", "patients", "same-patient")
# of what networks see, not of how scans are read
NETWORK = ("data.dims", "data.size", "data.patch", "data.fit")
TABLES = ("method", "data", "train", "evaluate", "translate")


class Rung(NamedTuple):
    """A candidate for size and width: image size, `data.fit`, a factor for the filters, and the
    reason for the size.

    `least` is the share of the usual number of steps that has to fit into the time for it to be
    chosen.
    """

    size: tuple[int, int]
    fit: str
    width: int
    why: str
    least: float = 1.0


def plan(
    scans: str | Path,
    *,
    hours: float = 2.0,  # training time on this machine
    # folder, glob or word in file names of the first kind of image; "": found by names and folders
    a: str = "",
    b: str = "",  # the same of the second kind
    set: Iterable[str] = (),  # `KEY=VALUE` settings that the caller has decided
    device: str | None = None,  # None: the best there is
    # called with the share done and the current step's name
    progress: Callable[[float, str], None] | None = None,
) -> str:
    """Return the text of a recipe for scans, with a comment on every choice; UserError where they
    cannot be used.

    Its first paragraph lists facts of the scans. Size, filters and steps follow from real steps
    timed on this machine.
    """
    tell = progress or (lambda share, what: None)
    settings = list(set)
    reads = [each for each in settings if each.startswith("data.") and not each.startswith(NETWORK)]
    seen = look(Path(scans).absolute(), a, b, reads, tell)
    tell(0.7, "timing real steps")
    decided = dict(map(parse_setting, settings))
    lines = method_of(seen, hours, decided.get("data.dims", 2))
    if asked := str(decided.get("method.name", "")):
        # drop another method's keys
        known = options_model(registry().get("method", asked).load()).model_fields
        lines = [
            lines[0]._replace(value=asked),
            *(line for line in lines[1:] if line.key.partition(".")[2] in known),
        ]
    lines = _sized(seen, [*lines, *data_of(seen)], hours, settings, device)
    recipe = Recipe(_tables(lines)).override(settings)
    made = {line.key: line for line in lines}
    recipe.check()
    for table in TABLES:
        for key, value in recipe.tables.get(table, {}).items():
            name = f"{table}.{key}"
            if name not in made or made[name].value != value:
                made[name] = Line(name, value, "as you said")
    return _text(seen, made.values(), hours)


def _sized(
    seen: Scans, lines: list[Line], hours: float, settings: list[str], device: str | None
) -> list[Line]:
    """All lines, with the largest size, then the most filters, whose usual number of steps fits 90
    % of the time.
    """
    from gantk.training.trial import predict

    wanted = WANTED.get(lines[0].value, 2400)
    rungs = _rungs(seen)
    seconds = 0.9 * 3600 * hours

    def timed(rung: Rung) -> Any:
        return predict(
            Recipe(_tables(_filled(seen, lines, rung, wanted, ""))).override(settings),
            device=device,
        )

    found = timed(rungs[0])
    wider = _work(rungs[1]) / _work(rungs[0]) if seen.paired else 1.0
    if lines[0].value == "pix2pix" and found.fits and 3600 * found.hours * wider > seconds:
        lines = shorter(lines)
        found = timed(rungs[0])
    if not found.fits:
        ways = [f"--set {each}" for way in found.ways if way.fits for each in way.settings]
        what = f"a training of these images does not fit into memory ({found.counted})"
        raise UserError(what, where="SCANS", remedy=" ".join(ways) or None)
    each = 3600 * found.hours / _work(rungs[0])
    place = max(
        (i for i, rung in enumerate(rungs) if each * _work(rung) * rung.least <= seconds), default=0
    )
    best = found
    while place:
        best = timed(rungs[place])
        if best.fits and 3600 * best.hours * rungs[place].least <= 1.1 * seconds:
            break
        place = place - 1
        best = found
    step = 3600 * best.hours / wanted
    count = _count(seen)
    most = int(min(MOST * wanted, max(wanted, PASSES * count / _batch(seen))))
    steps = int(min(most, max(50, seconds / step)))
    why = (
        f"{1000 * step:.0f} ms each on {best.device}, tried: {duration(steps * step)} of"
        f" {duration(3600 * hours)}"
    )
    why += f"; {wanted} are usual, so more time would help" * (steps < wanted)
    why += f"; more gain little of {counted(count, 'image')}" * (steps == most)
    return _filled(
        seen,
        lines,
        rungs[place],
        steps,
        why + (f"; {best.peak_gib:.1f} GiB" if best.peak_gib else ""),
    )


def _work(rung: Rung) -> float:
    """Relative cost of a step by area and filters; on one core twice the filters took 1.75 times as
    long.
    """
    return rung.size[0] * rung.size[1] * rung.width**0.8


def _rungs(seen: Scans) -> list[Rung]:
    """Candidate sizes and widths, cheapest first; the last size is the scans' own resolution if
    they share one.
    """
    if len(seen.domains) == 1:
        why = "a power of two, for DCGAN"
        return [
            Rung((side, side), "pad", width, why)
            for side, width in ((64, 1), (64, 2), (128, 1), (128, 2))
        ]
    pixels = list(seen.pixels.values())
    files = [
        f for f in seen.files if seen.source.get("onto") != "a" or seen.domains[0] in f["domains"]
    ]
    shapes = {tuple(each["shape"][-2:]) for each in files}
    whole = [max(each.shape[axis] for each in pixels) for axis in (0, 1)]
    content = [min(whole[axis], max(each.content[axis] for each in pixels)) for axis in (0, 1)]
    grids = {tuple(each["spacing"] or ()) for each in files}
    one = len(shapes) == 1 or (seen.volumes and len(grids) == 1)
    native = " x ".join(map(str, whole))
    why = (
        f"{native} in {'the' if one else 'most'} files, resized: more pixels would leave too few"
        " steps in that time"
    )
    sizes = [
        tuple(_up(side * each / max(whole), 4) for each in whole)
        for side in SIDES
        if side < 0.95 * max(whole)
    ]
    # the shipped recipes' widths: 32 for pairs, which gain more by width, else 16
    usual = 2 if seen.paired else 1
    rungs = [Rung(size, "pad", usual, why) for size in sizes]
    if max(whole) <= 512:
        if one:
            why = f"all that is no background of {native}, as it is in the files"
        else:
            why = f"most are {native}"
        size = tuple(_up(each) for each in (content if one else whole))
        rungs.append(Rung(size, "crop" if one else "pad", usual, why))
    wider = [rungs[-1]._replace(width=width) for width in (2, 4)]
    narrow = rungs[0]._replace(width=1)
    if seen.paired:  # twice the filters in half of the steps were 1.3 dB better
        rungs[0] = rungs[0]._replace(least=0.5)
    return [narrow, *rungs[2 - usual :], *wider[usual - 1 :]]


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


def _filled(seen: Scans, lines: list[Line], rung: Rung, steps: int, why: str) -> list[Line]:
    """The lines with the size, widths and number of steps of a candidate, and all of [train] and
    [evaluate].
    """
    noise = len(seen.domains) == 1
    small = min(rung.size) < 64
    made = []
    for key, value, about in lines:
        if key == "method.low_res_warmup" and small:
            continue
        if key == "method.discriminator" and small and not noise:
            value = value | {"receptive_field": 16}
            about = "small patches for small images"
        if key in ("method.generator", "method.discriminator")[: 2 if noise else 1]:
            deep = {"depth": 4} if seen.paired and rung.width > 1 else {}
            value = value | {"width": value["width"] * rung.width} | deep
        made.append(Line(key, value * rung.width if key == "method.width" else value, about))
    short = steps < 1500
    air = min(each.seen for each in seen.pixels.values()) < 0.85
    fit = {
        "crop": "nothing is resized",
        "pad": "the aspect is kept; what is left over is background",
    }[rung.fit]
    rate = ADAM | {"lr": 5e-4 if short else 2e-4}
    train = [
        (True, "steps", steps, why),
        (True, "batch", _batch(seen), "small, for more steps in the same time"),
        (
            not noise,
            "optimizer",
            rate,
            "larger steps, for there are few" if short else "the usual rate",
        ),
        (True, "schedule", "linear", "the last decibel comes as the steps grow small"),
        (
            True,
            "ema",
            0.99 if short else 0.995,
            f"results are by the mean weights of {100 if short else 200} steps",
        ),
        (
            True,
            "sample_every",
            max(100, steps // 10),
            "at most ten sets of sample pictures, which take their time",
        ),
        (True, "save_every", max(100, steps // 5), "at most five checkpoints"),
    ]
    scores = "against the truth" if seen.fit and seen.fit.good else "only where a truth is known"
    evaluate = [
        (
            True,
            "metrics",
            ["kid"] if noise else ["psnr", "ssim", "mae"],
            "of sets" if noise else scores,
        ),
        (not air, "regions", ["whole"], "there is no air around what is shown"),
    ]
    masked = not noise and seen.volumes and seen.empty > 0.4
    made += lines_of(
        "data", [(True, "size", list(rung.size), rung.why), (True, "fit", rung.fit, fit)]
    )
    made += [*lines_of("train", train), *lines_of("evaluate", evaluate)]
    return made + lines_of(
        "translate", [(masked, "masked", True, "empty in the input is empty in the result")]
    )


def _tables(lines: Iterable[Line]) -> dict[str, Any]:
    tables: dict[str, Any] = {"format": 1}
    for table, key, value in ((*line.key.split(".", 1), line.value) for line in lines):
        tables.setdefault(table, {}).update({} if value is None else {key: value})
    return tables


def _text(seen: Scans, lines: Iterable[Line], hours: float) -> str:
    """The recipe as TOML: facts of the scans, then each table with a comment on every key."""
    if seen.paired:
        kind = "registered pairs"
    elif len(seen.domains) > 1:
        kind = "unpaired"
    else:
        kind = "from noise"
    out = [f"# Made by `gantk plan` for {duration(3600 * hours)} of training. What it saw:"]
    shown = [(key, said) for key, said in seen.found["summary"].items() if key != "split"]
    told = (
        each
        for each in seen.found["problems"]
        if each["severity"] != "note" and each["kind"] not in ANSWERED
    )
    shown += [(each["severity"], each["what"]) for each in told]
    out += [row for key, said in shown for row in _comment(f"{key:9} {said}")]
    out += [
        "",
        "format = 1",
        f"summary = {toml('Planned: ' + ' and '.join(seen.domains) + f', {kind}.')}",
    ]
    for table in TABLES:
        own = [line for line in lines if line.key.startswith(f"{table}.")]
        out += ["", f"[{table}]"] if own else []
        for line in own:
            key = line.key.partition(".")[2]
            if line.value is not None:
                text = f"{key} = {toml(line.value)}"
            else:
                text = f"# {key}: {line.why}"
            fits = line.value is None or len(text) + len(line.why) + 3 <= WIDE
            why = f" # {line.why}" if line.why and line.value is not None else ""
            out += [text + why] if fits else [*_comment(line.why), text]
    return "\n".join(out) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDE, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False
    )
