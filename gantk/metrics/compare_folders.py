"""Scores folders of images against other images of the same names, or as sets; no model is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gantk.data.sources.reader import KeptImages
from gantk.errors import UserError
from gantk.formats.files import grids_differ
from gantk.formats.image import Image, Scan
from gantk.machine.runtime import start
from gantk.metrics.file_pairs import WHERE, FilePair, find_files
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
    "the patients are not known, so n counts images, and intervals are over images: set --patient REGEX"
    " to find the patients in the file names"
)
NO_BASELINE = (
    "no baseline: score the unchanged inputs too, by the same command with --pred INPUTS. Do not"
    " compare these scores with those of a model's card, which are defined in another way"
    " (gantk show model NAME)"
)
DIRECTION = "pred_to_truth"
PAIR_METRICS = ("psnr", "ssim", "mae")  # of a comparison, unless others are named

Read = Callable[[Scan], Image]


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


def compare(
    predicted: str | Path,
    truth: str | Path,
    *,
    metrics: Iterable[str] = PAIR_METRICS,
    match: bool = False,
    patient: str = "",
    layout: str = "",
    truth_layout: str = "",
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
        layout: the line that says whose each predicted file is and what it shows, where names are
            not those of the truth: "{patient}_{contrast}.nii.gz".
        truth_layout: the same for the files of `truth`.
        device: as in `gantk.run`.
        say: called with each line of output.

    Returns:
        A dictionary like metrics.json; its `table` is a pandas DataFrame with a line for each image
        and metric.

    Raises:
        UserError: names or grids do not match, a file cannot be read or holds NaN, or the truth is
            constant. Nothing has been scored.
    """
    parts = [_part(name) for name in metrics]
    of_sets = [part for part in parts if issubclass(part.target, SetMetric)]
    of_pairs = [part for part in parts if part not in of_sets]
    place = start(device, "fp32").device
    files = find_files(Path(predicted), Path(truth), patient, (layout, truth_layout))
    read = KeptImages().read
    scale = ScaleFit()
    pairs: list[FilePair] = []
    if of_pairs or match:
        pairs = files.pairs()
        scale = _fit_line((_comparable(pair, read) for pair in pairs), match)

    scores: dict[str, Score] = {}
    lines = []
    if of_pairs:
        scorer = FileScorer((read(truth) for _, truth in pairs), of_pairs, place)
        for made, real in pairs:
            images = (torch.tensor(read(scan).pixels)[None] for scan in (made, real))
            output, reference = images
            lines.append(scorer(scale(output), reference, files.truths[real], made.name))
        scores |= scorer.scores(pd.concat(lines, ignore_index=True))
        reasons = [score.definition.partition("/not-computed: ")[2] for score in scores.values()]
        if all("pixels on each side" in reason for reason in reasons):
            remedy = "use other metrics too, such as psnr or mae"
            raise UserError(reasons[0], where="--metrics", remedy=remedy)
    if of_sets:
        images_of = (files.predictions, files.truths)
        scores |= _set_scores(*images_of, of_sets, place, scale, read)
    if match:
        for score in scores.values():
            score.definition += "/predictions-matched-linearly"

    unknown = len(pairs) > 1 and all(files.truths[real] == real.name for _, real in pairs)
    result = FolderResults(
        metrics={DIRECTION: scores},
        baselines={},
        verdict={},
        scale=scale,
        patients_unknown=unknown,
    )
    result.lines.extend(lines)
    notes = [*files.notes, *[NO_PATIENTS] * unknown, *[NO_BASELINE] * bool(of_pairs)]
    about_scale = _scale_line(scale)
    for line in [*summary_lines(result), *filter(None, [about_scale])]:
        say(line)
    for note in notes:
        say(with_label("note", note))
    return Scores(result)


def _part(name: str) -> Part:
    """A metric; UserError for one that needs a run."""
    part = bind_or_raise("metric", name)
    unit = getattr(part.target, "of_unit", "")
    if unit:
        what = (
            f"the metric '{part.name}' is only for runs, which know their units; files are"
            f" compared in their own units, CT in {unit}"
        )
        remedy = "use mae, which is in the unit of the files"
        raise UserError(what, where="--metrics", remedy=remedy)
    return part


def _comparable(pair: FilePair, read: Read) -> tuple[Image, Image]:
    """A prediction and its truth; UserError where they are on other grids or differ in channels."""
    made, real = map(read, pair)
    differs = grids_differ(made, real)
    if differs:
        what = f"'{made.path}' is on another grid than its truth '{real.path}': {differs}"
        remedy = (
            "resample the prediction onto the grid of the truth first, with gantk.resample_onto"
            " (docs/background/trust.md shows how)"
        )
        raise UserError(what, where=WHERE, remedy=remedy)
    if made.pixels.shape != real.pixels.shape:
        shapes = f"{list(made.pixels.shape)} and {list(real.pixels.shape)} (channels first)"
        what = f"'{made.path}' and its truth '{real.path}' have different shapes: {shapes}"
        raise UserError(what, where=WHERE, remedy="convert both to the same channels first")
    return made, real


def _fit_line(pairs: Iterable[tuple[Image, Image]], match: bool) -> ScaleFit:
    """Fit the linear function from predictions to the truth's scale, which is applied with `match`.

    Its slope is the ratio of the standard deviations (reduced major axis) without pixels far off
    the line. A regression would shrink a poor prediction to the mean, and so score it too well.
    """
    pixels = [
        np.stack(
            [each.pixels.ravel()[:: max(1, each.pixels.size // MAX_LINE_PIXELS)] for each in pair]
        )
        for pair in pairs
    ]
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
        return next(iter(self._scorers.values())).scores(lines) | self._left_out

    def _noted(self, truth: Image) -> Image:
        self._sizes.add(truth.pixels.shape[1:])
        return truth


def _set_scores(
    predicted: Mapping[Scan, str],
    truth: Mapping[Scan, str],
    parts: list[Part],
    device: Any,
    scale: ScaleFit,
    read: Read,
) -> dict[str, Score]:
    images = [read(scan) for scan in (*predicted, *truth)]
    shapes = sorted({image.pixels.shape for image in images})
    if len(shapes) > 1:
        first_two = " and ".join(str(list(shape)) for shape in shapes[:2])
        raise UserError(
            f"metrics of sets need images of one size, but these have {first_two}",
            remedy="resize the images first",
        )

    black, data_range = black_and_range(images[len(predicted) :])
    pixels = torch.from_numpy(np.stack([image.pixels for image in images])).to(device)
    fakes = ImageGroup(scale(pixels[: len(predicted)]) - black, [*predicted.values()])
    reals = ImageGroup(pixels[len(predicted) :] - black, [*truth.values()])
    scores: dict[str, Score] = {}
    for part in parts:
        metric = part(data_range, pixels.ndim - 2)
        scores |= set_scores(metric, reals, reals, fakes, strict=True)
    for score in scores.values():
        score.n = len(set(fakes.patients))
    return scores


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
