"""Scores folders of images against other images of the same names, or as sets; no model is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gantk.catalog.contrasts import contrasts_in, exclude
from gantk.data.sources.reader import KeptImages
from gantk.errors import UserError, count_noun, join_first
from gantk.formats.image import Image, Scan
from gantk.machine.runtime import start
from gantk.metrics.file_pairs import (
    WHERE,
    FilePair,
    Read,
    of_contrasts,
    pairs_of_files,
    patients_of,
    require_same_grid,
    rows_of,
)
from gantk.metrics.pair_scores import PairScorer, References, too_small_for
from gantk.metrics.sets import ImageGroup, SetMetric, set_scores
from gantk.metrics.summary import Scores, summary_lines, with_label
from gantk.plugin.spec import Part, bind_or_raise
from gantk.runs.results import Results, Score, Table

MAX_LINE_PIXELS = 100_000  # pixels per pair for fitting the line
# The truth is on another scale if the line's slope is outside these bounds, or if the error exceeds
# a share of the truth's range and the line leaves less than half of it.
MIN_SLOPE = 0.4
MAX_SLOPE = 2.5
MIN_ERROR_OF_RANGE = 0.05
MAX_ERROR_LEFT = 0.5
NO_PATIENTS = (
    "note     the patients are not known, so n counts images, and intervals are over images: set"
    " --patient REGEX to find the patients in the file names"
)
NO_BASELINE = (
    "no baseline: score the unchanged inputs too, by the same command with --pred INPUTS. Do not"
    " compare these scores with those of a model's card, which are defined in another way"
    " (gantk show model NAME)"
)


class ScaleFit(Table):
    """The linear function from predictions to the truth's scale, as fitted; of files that are
    compared as sets it is empty.
    """

    slope: float = 1.0
    offset: float = 0.0
    predictions: list[float] = []
    truth: list[float] = []
    another: bool = False  # whether the predictions are on another scale than the truth
    matched: bool = False  # whether they were mapped to the truth's scale before scoring

    def __call__(self, intensities: Any) -> Any:
        """Intensities of predictions, as they are scored."""
        return intensities * self.slope + self.offset if self.matched else intensities


class FolderResults(Results):
    """The results of files against files."""

    scale: ScaleFit
    patients_unknown: bool  # each image counts as a patient


DIRECTION = "pred_to_truth"
PAIR_METRICS = ("psnr", "ssim", "mae")  # of a comparison, unless others are named


def compare(
    predicted: str | Path,
    truth: str | Path,
    *,
    metrics: Iterable[str] = PAIR_METRICS,
    match: bool = False,
    patient: str = "",
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> Scores:
    """Score a folder (or file) of images against the true images; no model is needed.

    Example:

        gantk.compare("translated", "truth", metrics=["psnr", "ssim"])

    Args:
        predicted: the folder or file to score.
        truth: the true images. Pair metrics compare files of the same name and grid; set metrics,
            such as kid, compare the whole folders.
        metrics: names of metrics.
        match: whether to map the predictions to the intensity scale of the truth first, by one
            line for all pairs, which gives them the mean and standard deviation of the truth,
            without pixels far off the line. It is no least-squares fit, which would shrink poor
            predictions to the mean and so score them too well; scores may fall.
        patient: a regular expression whose group is the name of the patient in a file name. Scores
            are then averaged per patient.
        device: as in `gantk.run`.
        say: called with each line of output.

    Returns:
        A dictionary like metrics.json; its `table` is a pandas DataFrame with a line for each image
        and metric.

    Raises:
        UserError: names or grids do not match, a file cannot be read or holds NaN, or the truth is
            constant. Nothing has been scored.
    """
    of_pairs, of_sets = _metric_parts(metrics)
    place = start(device, "fp32").device
    predicted = Path(predicted)
    truth = Path(truth)
    made_rows = rows_of(predicted, patient)
    rows = rows_of(truth, patient)
    real_rows = of_contrasts(rows, {row.contrast for row in made_rows} - {""})
    made = patients_of(made_rows, predicted)
    real = patients_of(real_rows, truth)
    patients = made | real
    pairs: list[FilePair] = []
    scale = ScaleFit()
    read = KeptImages().read
    if of_pairs or match:
        if predicted.is_file() and truth.is_file():
            pairs = [*zip(made, real, strict=True)]
        else:
            pairs, alone = pairs_of_files((predicted, truth), (made_rows, real_rows))
            if alone:
                without = count_noun(alone, "prediction")
                say(with_label("note", f"{without} without a truth: {join_first(alone)}"))
        require_same_grid(pairs, read)
        scale = _fit_line(pairs, match, read)

    scores: dict[str, Score] = {}
    if of_pairs:
        lines, of_files = _pair_scores(pairs, of_pairs, place, scale, patients, read)
        scores |= of_files
    if of_sets:
        scores |= _set_scores(made, real, of_sets, place, scale, read)
    if match:
        for name, score in scores.items():
            definition = f"{score.definition}/predictions-matched-linearly"
            scores[name] = score.model_copy(update={"definition": definition})

    unknown = len(pairs) > 1 and all(patients[each] == each.name for _, each in pairs)
    result = FolderResults(
        metrics={DIRECTION: scores},
        baselines={},
        verdict={},
        scale=scale,
        patients_unknown=unknown,
    )
    if of_pairs:
        result.lines.append(lines)
    for line in summary_lines(result):
        say(line)

    if len(real_rows) < len(rows):
        shown = sorted({row.contrast for row in real_rows})
        unused = f"{count_noun(len(rows) - len(real_rows), 'image')} of the truth not used"
        say(
            with_label(
                "note", f"{unused}: the predictions show {' and '.join(shown)}, as names say"
            )
        )
    about_scale = _scale_line(scale)
    if about_scale:
        say(about_scale)
    about_contrasts = _contrasts_line(pairs)
    if about_contrasts:
        say(about_contrasts)
    if unknown:
        say(NO_PATIENTS)
    if of_pairs:
        say(with_label("note", NO_BASELINE))

    return Scores(result)


def _metric_parts(names: Iterable[str]) -> tuple[list[Part], list[Part]]:
    """The parts of pair metrics and of set metrics; UserError for those that need a run."""
    of_pairs = []
    of_sets = []
    for name in names:
        part = bind_or_raise("metric", name)
        if issubclass(part.target, SetMetric):
            of_sets.append(part)
            continue

        unit = part.target.of_unit
        if unit:
            what = (
                f"the metric '{part.name}' is only for runs, which know their units; files are"
                f" compared in their own units, CT in {unit}"
            )
            remedy = "use mae, which is in the unit of the files"
            raise UserError(what, where="--metrics", remedy=remedy)
        of_pairs.append(part)

    return of_pairs, of_sets


def _scale_line(scale: ScaleFit) -> str:
    """Describe a result's `scale` in one line; "" if predictions were not matched and are on the
    truth's scale.
    """
    if scale.matched:
        words = (
            "matched  all predictions are rescaled by one line, to the mean and spread of the truth"
            " (no least-squares fit, so scores may fall):"
        )
    elif scale.another:
        words = (
            "warning  the predictions seem to have another scale than the truth, so scores are too"
            " low. To rescale them, add --match:"
        )
    else:
        return ""

    low, high = scale.predictions
    true_low, true_high = scale.truth
    return (
        f"{words} truth = {scale.slope:.4g} x prediction {scale.offset:+.4g} (predictions:"
        f" {low:.4g} to {high:.4g}, truth: {true_low:.4g} to {true_high:.4g})"
    )


def _contrasts_line(pairs: Sequence[FilePair]) -> str:
    """A note on predictions that show another contrast than their truth, as names say; "" without."""
    others = []
    for made, real in pairs:
        shown = contrasts_in(made.name)
        true = contrasts_in(real.name)
        excluded = any(exclude(one, other) for one in shown for other in true)
        if excluded and shown.isdisjoint(true):
            others.append(f"'{made.name}' with '{real.name}'")
    if not others:
        return ""

    which = join_first(others, most=1)
    return with_label("note", f"images of different contrasts are compared, as names say: {which}")


def _read(pair: FilePair, read: Read) -> list[np.ndarray]:
    """The pixels of a prediction and of its truth; UserError where their shapes differ."""
    made, real = (read(scan).pixels for scan in pair)
    if made.shape != real.shape:
        shapes = f"{list(made.shape)} and {list(real.shape)} (channels first)"
        what = f"'{pair[0].path}' and its truth '{pair[1].path}' have different shapes: {shapes}"
        raise UserError(what, where=WHERE, remedy="convert both to the same channels first")
    return [made, real]


def _fit_line(pairs: list[FilePair], match: bool, read: Read) -> ScaleFit:
    """Fit the linear function from predictions to the truth's scale, which is applied with `match`.

    Its slope is the ratio of the standard deviations (reduced major axis) without pixels far off
    the line. A regression would shrink a poor prediction to the mean, and so score it too well.
    """
    pixels = []
    for pair in pairs:
        pair_pixels = _read(pair, read)
        both = [each.ravel()[:: max(1, each.size // MAX_LINE_PIXELS)] for each in pair_pixels]
        pixels.append(np.stack(both))

    x, y = np.concatenate(pixels, axis=1).astype(np.float64)
    slope = 1.0
    offset = 0.0
    near: Any = slice(None)  # the pixels that are not far off the line
    for _ in range(10):
        if x[near].std() > 0 < y[near].std():
            slope = float(y[near].std() / x[near].std())
            offset = float(y[near].mean() - slope * x[near].mean())
        distance = np.abs(slope * x + offset - y)
        near = distance <= 4.5 * np.median(distance) + 0.01 * np.ptp(y)

    before = np.sqrt(np.mean((x - y) ** 2))
    after = np.sqrt(np.mean((slope * x + offset - y) ** 2))
    large_error = before > MIN_ERROR_OF_RANGE * np.ptp(y)
    another = not MIN_SLOPE <= slope <= MAX_SLOPE or (
        large_error and after < MAX_ERROR_LEFT * before
    )
    return ScaleFit(
        slope=slope,
        offset=offset,
        predictions=[float(x.min()), float(x.max())],
        truth=[float(y.min()), float(y.max())],
        another=bool(another),
        matched=match,
    )


class FileScorer:
    """Scores whole files in their own values, over the range that all true files share."""

    def __init__(self, truths: Iterable[Image], parts: Sequence[Part], device: Any, unit: str = ""):
        """`unit`: of the values, where it is known."""
        self._sizes: set[tuple[int, ...]] = set()
        self._black, self._range = black_and_range(map(self._noted, truths))
        self._parts = parts
        self._device = device
        self._unit = unit
        self._scorers: dict[int, PairScorer] = {}  # by dimensions
        self._left_out: dict[str, Score] = {}

    def __call__(self, made: Tensor, real: Tensor, patient: str, name: str) -> pd.DataFrame:
        """The lines of one file, (1, C, *size), of a patient."""
        dims = real.ndim - 2
        if dims not in self._scorers:
            metrics = [part(self._range, dims) for part in self._parts]
            self._left_out = too_small_for(metrics, self._sizes)
            metrics = [metric for metric in metrics if metric.name not in self._left_out]
            for metric in metrics:
                if metric.in_intensities:
                    metric.unit = self._unit
            self._scorers[dims] = PairScorer(
                metrics,
                low=self._black,
                data_range=self._range,
                dims=dims,
                batch=1,
                device=self._device,
                regions=["whole"],
            )
        references = References(real, [patient], names=[name])
        return self._scorers[dims](made, references, direction=DIRECTION)

    def scores(self, lines: pd.DataFrame) -> dict[str, Score]:
        """The scores over all files, by name; without a value where files are too small for a
        metric.
        """
        scorer = next(iter(self._scorers.values()))
        return scorer.scores(lines) | self._left_out

    def _noted(self, truth: Image) -> Image:
        self._sizes.add(truth.pixels.shape[1:])
        return truth


def _pair_scores(
    pairs: list[FilePair],
    parts: list[Part],
    device: Any,
    scale: ScaleFit,
    patients: Mapping[Scan, str],
    read: Read,
) -> tuple[pd.DataFrame, dict[str, Score]]:
    scorer = FileScorer((read(truth) for _, truth in pairs), parts, device)
    found = []
    for pair in pairs:
        made, real = (torch.tensor(pixels)[None] for pixels in _read(pair, read))
        found.append(scorer(scale(made), real, patients[pair[1]], pair[0].name))

    lines = pd.concat(found, ignore_index=True)
    scores = scorer.scores(lines)
    reasons = [score.definition.partition("/not-computed: ")[2] for score in scores.values()]
    if all("pixels on each side" in reason for reason in reasons):
        remedy = "use other metrics too, such as psnr or mae"
        raise UserError(reasons[0], where="--metrics", remedy=remedy)
    return lines, scores


def _set_scores(
    predicted: Mapping[Scan, str],
    truth: Mapping[Scan, str],
    parts: list[Part],
    device: Any,
    scale: ScaleFit,
    read: Read,
) -> dict[str, Score]:
    black, data_range = black_and_range(map(read, truth))
    made = [read(scan).pixels for scan in predicted]
    real = [read(scan).pixels for scan in truth]
    shapes = sorted({image.shape for image in [*made, *real]})
    if len(shapes) > 1:
        first_two = " and ".join(str(list(shape)) for shape in shapes[:2])
        raise UserError(
            f"metrics of sets need images of one size, but these have {first_two}",
            remedy="resize the images first",
        )

    made_images = scale(torch.from_numpy(np.stack(made)).to(device)) - black
    real_images = torch.from_numpy(np.stack(real)).to(device) - black
    fake_set = ImageGroup(made_images, [*predicted.values()])
    real_set = ImageGroup(real_images, [*truth.values()])
    scores: dict[str, Score] = {}
    for part in parts:
        metric = part(data_range, real_images.ndim - 2)
        scores |= set_scores(metric, real_set, real_set, fake_set, strict=True)

    patients = {"n": len(set(fake_set.patients))}
    return {name: score.model_copy(update=patients) for name, score in scores.items()}


def black_and_range(truths: Iterable[Image]) -> tuple[float, float]:
    """Black and the data range: those of the type for uint8, and for uint16 if the set uses more
    than half of it; else the set's extremes. Scans of 12 bits in files of 16 would otherwise gain
    24 dB.
    """
    kinds = set()
    extremes = []
    paths = []
    for image in truths:
        kinds.add(None if image.dtype is None else np.dtype(image.dtype))
        extremes += [float(image.pixels.min()), float(image.pixels.max())]
        paths.append(image.path)

    low = min(extremes)
    high = max(extremes)
    if high <= low:
        where = f"in all {len(paths)} images from '{paths[0]}' on"
        if len(paths) == 1:
            where = f"in its only image '{paths[0]}'"
        what = f"all pixels of the truth are {low:g}, {where}"
        remedy = "check the images: without contrast no score is defined"
        raise UserError(what, where="--truth", remedy=remedy)

    if kinds <= {np.dtype(np.uint8), np.dtype(np.uint16)}:
        full = float(max(np.iinfo(kind).max for kind in kinds))
        is_byte = full == np.iinfo(np.uint8).max
        # below 0 or above the type's range, a header rescales the values
        if low >= 0 and high <= full and (is_byte or high > full / 2):
            return 0.0, full

    return low, high - low
