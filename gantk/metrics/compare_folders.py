"""Compares folders of images: scores files against true ones of the same name, or as sets, without
a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gantk.data.names.domains import patient_of, regex_option
from gantk.data.names.patient_folders import numbered
from gantk.errors import UserError
from gantk.formats.files import Scan, difference, read, readable, scans, suffix_of
from gantk.machine.runtime import start
from gantk.metrics.pair_scores import PairScorer, References, joined
from gantk.metrics.sets import ImageGroup, set_rows
from gantk.metrics.verdict import summary_lines
from gantk.plugin.spec import Part, bind_or_raise

WHERE = "--pred, --truth"
SAMPLES = 100_000  # pixels per pair for fitting the line
SLOPES = 0.4, 2.5  # the truth is on another scale if the line's slope is outside these ...
# ... or if the error exceeds this share of its range, and the line removes more than half of it
SEEN = 0.05
LEFT = 0.5


def compare(
    predicted: str | Path,
    truth: str | Path,
    *,
    metrics: Iterable[str] = ("psnr", "ssim", "mae"),
    match: bool = False,
    patient: str = "",
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Score a folder (or file) of images against another, matched by file name; no model is needed.

    With `match` one linear function, fitted to all pairs, first maps the predictions to the truth's
    scale. `patient` is a regular expression whose group is the patient in a file's name; scores are
    then averaged per patient.
    """
    result = compare_folders(
        Path(predicted), Path(truth), list(metrics), start(device, "fp32").device, match, patient
    )
    lines = [
        *summary_lines(result),
        scale_line(result["scale"]),
        result["patients_unknown"] and NAMELESS,
    ]
    for line in filter(None, lines):
        say(line)
    return result


def compare_folders(
    predicted: Path,
    truth: Path,
    metrics: list[str],
    device: Any = "cpu",
    match: bool = False,
    patient: str = "",
) -> dict[str, Any]:
    """Score files against files; returns a result like metrics.json, with `scale` and
    `patients_unknown`.

    The data range is the file type's, or the set's for floats. `scale` is the linear function from
    predictions to the truth's scale and whether they are on `another` scale; with `match` it is
    applied before scoring. `patient` is a regular expression whose group is the patient in a file's
    name; `patients_unknown`: each image counts as a patient.

    Pair metrics compare files of the same name and grid; set metrics, such as kid, compare whole
    folders, and then use the truth as training images too. UserError, before anything is scored,
    where names or grids do not match, where a file cannot be read or holds NaN, and where the truth
    is constant.
    """
    of_pairs, of_sets = _metric_parts(metrics)
    whose = _patients(patient)
    pairs = []
    scale = {}
    line = (1.0, 0.0)
    if of_pairs or match:
        pairs = _require_same_grid(matched(predicted, truth))
        scale = _fit_line(pairs) | {"matched": match}
    if match:
        line = (scale["slope"], scale["offset"])
    rows = {}
    if of_pairs:
        rows |= _pair_rows(pairs, of_pairs, device, line, whose)
    if of_sets:
        rows |= _set_rows(_files(predicted), _files(truth), of_sets, device, line, whose)
    if match:
        for row in rows.values():
            row["definition"] += "/predictions-matched-linearly"
    unknown = len(pairs) > 1 and all(whose(real) == real.name for _, real in pairs)
    return {
        "metrics": {"pred_to_truth": rows},
        "baselines": {},
        "verdict": {},
        "scale": scale,
        "patients_unknown": unknown,
    }


def _metric_parts(names: Sequence[str]) -> tuple[list[Part], list[Part]]:
    """The parts of pair metrics and of set metrics; UserError for those that need a run."""
    of_pairs = []
    of_sets = []
    for name in names:
        part = bind_or_raise("metric", name)
        unit = getattr(part.target, "of_unit", "")
        if unit:
            what = (
                f"'{part.name}' is for runs, which know their units; files are compared in their"
                f" own, CT in {unit}"
            )
            remedy = "take mae, which is then in the files' unit"
            raise UserError(what, where="--metrics", remedy=remedy)
        if getattr(part.target, "sets", False):
            of_sets.append(part)
        else:
            of_pairs.append(part)
    return of_pairs, of_sets


def scale_line(scale: dict[str, Any]) -> str:
    """Describe a result's `scale` in one line; "" if predictions were not matched and are on the
    truth's scale.
    """
    if not (scale and (scale["matched"] or scale["another"])):
        return ""
    if scale["matched"]:
        words = "matched  all predictions by one line:"
    else:
        words = "warning  another scale? --match takes"
    ends = "{:.4g} to {:.4g} against {:.4g} to {:.4g}".format(
        *scale["predictions"], *scale["truth"]
    )
    return (
        f"{words} truth = {scale['slope']:.4g} x prediction {scale['offset']:+.4g} (they ran from"
        f" {ends})"
    )


NAMELESS = (
    "note     n counts images: nothing says whose they are, and slices of one head are no patients"
)
NAMELESS += " (--patient REGEX finds the patient in their names)"


def matched(predicted: Path, truth: Path) -> list[tuple[Scan, Scan]]:
    """Pairs of files with the same name up to the suffix; UserError that lists names in one folder
    only.
    """
    made = _files(predicted)
    real = _files(truth)
    if predicted.is_file() and truth.is_file():
        return [(made[0], real[0])]
    made_of_name = _by_name(made)
    real_of_name = _by_name(real)
    if made_of_name.keys() != real_of_name.keys():
        # Ignore sub-folders where they differ, if file names alone are unique.
        made_alone = {name.rpartition("/")[2]: scan for name, scan in made_of_name.items()}
        real_alone = {name.rpartition("/")[2]: scan for name, scan in real_of_name.items()}
        if len(made_alone) == len(made) and len(real_alone) == len(real):
            made_of_name = made_alone
            real_of_name = real_alone
    sides = ((predicted, made, made_of_name), (truth, real, real_of_name))
    for folder, found, names in sides:
        if len(names) < len(found):
            twice = next(scan.name for scan in found if scan not in names.values())
            what = f"{folder} holds several images of one name: {twice}"
            raise UserError(what, where=WHERE, remedy="leave one image of each name")
    unmatched = []
    for (folder, _, names), (*_, others) in (sides, sides[::-1]):
        alone = sorted(names.keys() - others.keys())
        if alone:
            shown = [*alone[:5], "..."] if len(alone) > 5 else alone
            unmatched.append(f"{len(alone)} only in {folder}: {', '.join(shown)}")
    if unmatched:
        what = f"the two folders do not hold the same names; {'; '.join(unmatched)}"
        raise UserError(what, where=WHERE, remedy="name each image like its truth")
    return [(scan, real_of_name[name]) for name, scan in made_of_name.items()]


def _by_name(scans: Sequence[Scan]) -> dict[str, Scan]:
    """Name without suffix -> scan."""
    return {scan.name.removesuffix(suffix_of(scan.name)): scan for scan in scans}


def _require_same_grid(pairs: list[tuple[Scan, Scan]]) -> list[tuple[Scan, Scan]]:
    """Return the pairs unchanged; UserError where a prediction is on another grid than its truth."""
    for made, real in pairs:
        if differs := difference(made, real):  # compares headers only
            what = f"'{made.path}' is on another grid than its truth '{real.path}': {differs}"
            raise UserError(
                what, where=WHERE, remedy="resample the one onto the other's grid first"
            )
    return pairs


def _read(pair: tuple[Scan, Scan]) -> list[np.ndarray]:
    """The pixels of a prediction and of its truth; UserError where their shapes differ."""
    made, real = (read(scan).pixels for scan in pair)
    if made.shape != real.shape:
        shapes = f"{list(made.shape)} against {list(real.shape)} (channels first)"
        what = f"'{pair[0].path}' is no image like its truth '{pair[1].path}': {shapes}"
        raise UserError(what, where=WHERE, remedy="bring both to the same channels first")
    return [made, real]


def _fit_line(pairs: list[tuple[Scan, Scan]]) -> dict[str, Any]:
    """Fit the linear function from predictions to the truth's scale; returns it, both ranges, and
    whether `another`.

    Its slope is the ratio of the standard deviations (reduced major axis) without pixels far off
    the line. A regression would shrink a poor prediction to the mean, and so score it too well.
    """
    pixels = [
        np.stack([each.ravel()[:: max(1, each.size // SAMPLES)] for each in _read(pair)])
        for pair in pairs
    ]
    x, y = np.concatenate(pixels, axis=1).astype(np.float64)
    slope = 1.0
    offset = 0.0
    kept = slice(None)
    for _ in range(10):
        if x[kept].std() > 0 < y[kept].std():
            slope = float(y[kept].std() / x[kept].std())
            offset = float(y[kept].mean() - slope * x[kept].mean())
        distance = np.abs(slope * x + offset - y)
        kept = distance <= 4.5 * np.median(distance) + 0.01 * np.ptp(y)
    before, after = (np.sqrt(np.mean((a * x + b - y) ** 2)) for a, b in ((1, 0), (slope, offset)))
    another = not SLOPES[0] <= slope <= SLOPES[1] or (
        before > SEEN * np.ptp(y) and after < LEFT * before
    )
    ends = {
        name: [float(each.min()), float(each.max())]
        for name, each in (("predictions", x), ("truth", y))
    }
    return {"slope": slope, "offset": offset, **ends, "another": bool(another)}


def _pair_rows(
    pairs: list[tuple[Scan, Scan]], parts: list[Part], device: Any, line: tuple, whose
) -> dict[str, Any]:
    black, data_range = _black_and_range([truth for _, truth in pairs])
    # scorers by dimensions
    scorers = {}
    found = []
    for pair in pairs:
        made, real = (torch.tensor(pixels)[None] for pixels in _read(pair))
        dims = real.ndim - 2
        if dims not in scorers:
            metrics = [part(data_range, dims) for part in parts]
            scorers[dims] = PairScorer(metrics, black, data_range, dims, 1, device, ["whole"])
        found.append(scorers[dims](made * line[0] + line[1], References(real, [whose(pair[1])])))
    return next(iter(scorers.values())).rows(joined(found))


def _set_rows(
    predicted: list[Scan], truth: list[Scan], parts: list[Part], device: Any, line: tuple, whose
) -> dict[str, Any]:
    black, data_range = _black_and_range(truth)
    folders = [[read(scan).pixels for scan in files] for files in (predicted, truth)]
    shapes = sorted({image.shape for images in folders for image in images})
    if len(shapes) > 1:
        shown = " and ".join(str(list(shape)) for shape in shapes[:2])
        raise UserError(
            f"sets of images are compared at one size, and these have {shown}",
            remedy="resize them first",
        )
    made, real = (torch.from_numpy(np.stack(images)).to(device) for images in folders)
    stacked = made * line[0] + line[1] - black, real - black
    names = [list(map(whose, files)) for files in (predicted, truth)]
    fake, real = map(ImageGroup, stacked, names)
    metrics = [part(data_range, real.images.ndim - 2) for part in parts]
    return {
        name: row
        for each in metrics
        for name, row in set_rows(each, real, real, fake, strict=True).items()
    }


def _patients(pattern: str) -> Callable[[Scan], str]:
    """A function from image to patient: the pattern's group, else a numbered folder (`patient07`),
    else the image.
    """
    if found := regex_option(pattern):
        return lambda scan: patient_of(scan.name, found)
    folders = lambda scan: Path(scan.name).parts[:-1]  # noqa: E731
    return lambda scan: "/".join(folders(scan)) if numbered(folders(scan)) else scan.name


def _files(path: Path) -> list[Scan]:
    """The images below a folder, or the one image that the path names."""
    found = [Scan(path, (path,), path.name)] if path.is_file() else scans(path)
    if not found:
        raise UserError(f"no images in the folder '{path}'", where=WHERE, allowed=readable())
    return found


def _black_and_range(truths: list[Scan]) -> tuple[float, float]:
    """Black and the data range: those of the type for uint8 and uint16, else the set's extremes."""
    kinds = set()
    extremes = []
    for scan in truths:
        image = read(scan)
        kinds.add(None if image.dtype is None else np.dtype(image.dtype))
        extremes += [float(image.pixels.min()), float(image.pixels.max())]
    low = min(extremes)
    high = max(extremes)
    if kinds <= {np.dtype(np.uint8), np.dtype(np.uint16)}:
        full = float(max(np.iinfo(kind).max for kind in kinds))
        if low >= 0 and high <= full:  # otherwise a header rescales the values
            return 0.0, full
    if high <= low:
        what = (
            f"the truth is {low:g} throughout, in all {len(truths)} images from"
            f" '{truths[0].path}' on"
        )
        remedy = "look at the images: without contrast there is no range, and no score is defined"
        raise UserError(what, where="--truth", remedy=remedy)
    return low, high - low
