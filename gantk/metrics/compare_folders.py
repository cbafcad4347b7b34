"""Scores folders of images against other images of the same names, or as sets; no model is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from gantk.data.sources.reader import KeptImages
from gantk.errors import UserError, count_noun, join_first
from gantk.files import json_object
from gantk.formats.files import grids_differ, sidecar_of
from gantk.formats.image import Image, Scan
from gantk.guest import Say
from gantk.inference.notes import TRAINED_ON
from gantk.machine.runtime import start
from gantk.metrics.file_pairs import SUFFIXES, WHERE, find_pairs, list_images, of_contrasts
from gantk.metrics.intervals import count_patients, metric_score
from gantk.metrics.pair_scores import PairScorer, References, alarm_of_regions, scores_of
from gantk.metrics.pairs import PairMetric
from gantk.metrics.sets import ImageGroup, SetMetric, set_scores
from gantk.metrics.summary import Scores, summary_lines, with_label
from gantk.plugin.spec import Part, bind
from gantk.progress import track
from gantk.runs.results import Results, Score, ScoresByMetric, Table

MAX_LINE_PIXELS = 100_000  # pixels per pair for fitting the line
# The truth is on another scale if the line's slope is outside these bounds, or if the error exceeds
# a share of the truth's range and the line leaves less than half of it.
MIN_SLOPE = 0.4
MAX_SLOPE = 2.5
MIN_ERROR_OF_RANGE = 0.05
MAX_ERROR_LEFT = 0.5
MAX_BROKEN_SHARE = 1e-4  # share of the pixels of a file that may be broken
MAX_GAIN = 2.0  # how much larger the gray range may be by them: 6 dB of PSNR
NO_PATIENTS = (
    "the patients are not known, and all images may be of one, so n is 1 and scores have no interval:"
    " find patients in names with --patient REGEX, or say whose files are whose with --truth-layout"
    " LINE; gantk data check TRUTH proposes lines"
)
NO_BASELINE = (
    "no baseline: score the unchanged inputs too, by the same command with --pred INPUTS. Do not"
    " compare these scores with a model's card or another model's files, whose scale may differ:"
    " gantk eval RUN MODEL --data SCANS compares models on one scale"
)
OF_TRAINING = (
    "{} of images that the model was trained on, as the JSON files beside them say, so scores are too good:"
    " {}. Score by gantk eval RUN --data SCANS, which leaves such patients out"
)
RESAMPLE = (
    "resample the prediction onto the truth, in Python with read and write of gantk.formats.files:"
    " write('aligned.nii.gz', gantk.resample_onto(read(PRED), read(TRUTH))). If you have the model,"
    " score it by gantk eval RUN --data PATIENTS, which resamples by the headers"
)
RESIZE = "give all images one size first, with another program: gantk eval resizes none"
DIRECTION = "pred_to_truth"
DOMAINS = ["pred", "truth"]
WHOLE = ("whole",)  # the region of files of which nothing else is known
PAIR_METRICS: tuple[str, ...] = ("psnr", "ssim", "mae")  # of a comparison, unless others are named

Read = Callable[[Scan], Image]


@dataclass(frozen=True)
class FilePair:
    """A prediction with its truth."""

    name: str
    patient: str
    read: Callable[[], tuple[Image, Image]]  # both, on one grid
    # what is known of the truth besides: attributes of `References`, such as its masks
    about: Callable[[], dict[str, Any]] = dict


class ScaleFit(Table):
    """The linear function from predictions to the truth's scale, as fitted; of files that are
    compared as sets it is empty.
    """

    slope: float = 1.0
    offset: float = 0.0
    another: bool = False  # whether the predictions are on another scale than the truth
    matched: bool = False  # whether they were mapped to the truth's scale before scoring

    def __call__(self, intensities: Any) -> Any:
        """Intensities of predictions, as they are scored."""
        return intensities * self.slope + self.offset if self.matched else intensities


class FolderResults(Results):
    """The results of files against files."""

    scale: ScaleFit
    patients_unknown: bool = False


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
    say: Say = print,
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
    parts = [metric_of_files(name) for name in metrics]
    of_sets = [part for part in parts if issubclass(part.target, SetMetric)]
    of_pairs = [part for part in parts if part not in of_sets]
    place = start(device, "fp32").device
    read = KeptImages().read
    paths = Path(predicted), Path(truth)
    made = list_images(paths[0], patient, layout, say)
    real = of_contrasts(list_images(paths[1], patient, truth_layout, say), made.contrast)
    notes: list[str] = []
    scale = ScaleFit()
    found = []
    if of_pairs or match:
        if all(path.is_file() for path in paths):
            pairs = made.merge(real, how="cross", suffixes=SUFFIXES)
        else:
            pairs, notes = find_pairs(made, real)
        found = [
            FilePair(
                pair.scan_made.name,
                pair.owner_real or pair.owner_made,
                partial(_comparable, pair, read),
            )
            for pair in pairs.itertuples()
        ]
        scale = fit_line(found, match)

    result = FolderResults(metrics={}, baselines={}, verdict={}, scale=scale, domains=DOMAINS)
    scores: ScoresByMetric = {}
    warning = ""
    if of_pairs:
        gray = gray_range(pair.read()[1] for pair in found)
        scorer = FileScorer(gray, of_pairs, place)
        result.lines.append(scorer.score(found, scale, DIRECTION))
        scores = scorer.scores_of(result.lines[0])
        warning = scorer.warning
        notes.append(NO_BASELINE)
    if of_sets:
        sets, of_range = _score_sets(scale, made, real, of_sets, place, read)
        warning = warning or of_range
        scores |= sets
    result.patients_unknown = any(score.patients_unknown for score in scores.values())
    notes += [NO_PATIENTS] * result.patients_unknown
    for score in scores.values():
        score.definition += "/predictions-matched-linearly" * match
    result.metrics[DIRECTION] = scores

    for line in [*summary_lines(result), *_scale_lines(scale)]:
        say(line)
    if warning:
        say(with_label("warning", warning))
    if seen := [scan.name for scan in made.scan if _is_of_training(scan)]:
        of_training = OF_TRAINING.format(count_noun(seen, "prediction"), join_first(seen))
        say(with_label("warning", of_training))
    for note in notes:
        say(with_label("note", note))
    return Scores(result)


def metric_of_files(name: str) -> Part:
    """A metric; UserError for one that needs a run."""
    part = bind("metric", name)
    unit = getattr(part.target, "of_unit", "")
    if unit:
        raise UserError(
            f"the metric '{part.name}' is only for runs, which know their units; files"
            f" are compared in their own values, and pictures such as PNG hold no {unit}",
            where="--metrics",
            remedy="use mae, which is in the unit of the files",
        )
    return part


def are_of_file_pairs(metrics: Iterable[str]) -> bool:
    """Whether all of these metrics compare a file with its truth, without a run."""
    targets = [bind("metric", name).target for name in metrics]
    return all(issubclass(each, PairMetric) and not each.of_unit for each in targets)


def _is_of_training(scan: Scan) -> bool:
    """Whether the JSON file beside a translation says that its model was trained on the image."""
    warnings = json_object(sidecar_of(scan.path)).get("Warnings", ())
    return any(str(warning).startswith(TRAINED_ON) for warning in warnings)


def _comparable(pair: Any, read: Read) -> tuple[Image, Image]:
    """A prediction and its truth; UserError where they are on other grids or differ in channels."""
    made = read(pair.scan_made)
    real = read(pair.scan_real)
    differs = grids_differ(made, real)
    if differs:
        what = f"'{made.path}' is on another grid than its truth '{real.path}': {differs}"
        by_headers = made.affine is not None and real.affine is not None
        raise UserError(what, where=WHERE, remedy=RESAMPLE if by_headers else RESIZE)
    if made.channels != real.channels:
        raise UserError(
            f"'{made.path}' has {count_noun(made.channels, 'channel')}, its truth {real.channels}",
            where=WHERE,
            remedy="give both the same channels",
        )
    return made, real


def fit_line(pairs: Iterable[FilePair], match: bool) -> ScaleFit:
    """Fit the linear function from predictions to the truth's scale, which is applied with `match`.

    Its slope is the ratio of the standard deviations (reduced major axis) without pixels far off
    the line. A regression would shrink a poor prediction to the mean, and so score it too well.
    """
    pixels = [
        [
            each.pixels.ravel()[:: max(1, each.pixels.size // MAX_LINE_PIXELS)]
            for each in pair.read()
        ]
        for pair in pairs
    ]
    x, y = np.concatenate(pixels, axis=1).astype(np.float64)
    slope, offset = 1.0, 0.0
    near = np.ones(len(x), dtype=bool)  # the pixels that are not far off the line
    for _ in range(10):
        if x[near].std() > 0 < y[near].std():
            slope = float(y[near].std() / x[near].std())
            offset = float(y[near].mean() - slope * x[near].mean())
        distance = np.abs(slope * x + offset - y)
        near = distance <= 4.5 * np.median(distance) + 0.01 * np.ptp(y)

    before = np.sqrt(np.mean((x - y) ** 2))
    after = np.sqrt(np.mean((slope * x + offset - y) ** 2))
    is_far = before > MIN_ERROR_OF_RANGE * np.ptp(y) and after < MAX_ERROR_LEFT * before
    return ScaleFit(
        slope=slope,
        offset=offset,
        another=bool(is_far or not MIN_SLOPE <= slope <= MAX_SLOPE),
        matched=match,
    )


class FileScorer(PairScorer):
    """Scores whole files in their own values, over the range that all true files share. Metrics for
    which an image is `too_small` have scores without a value, with the reason.
    """

    def __init__(
        self,
        gray: GrayRange,
        parts: Sequence[Part],
        device: Any,
        unit: str | None = "",  # of the values, where it is known; None: shares of the range
        regions: Sequence[str] = WHOLE,
    ):
        self.range = f"{gray.black:g} to {gray.black + gray.span:g}"
        self.warning = gray.warning  # of the range; after `score` also of the regions
        dims = len(min(gray.sizes, key=len))
        metrics = []
        self.too_small: ScoresByMetric = {}
        for metric in [part(gray.span, dims) for part in parts]:
            if metric.in_intensities and unit is not None:
                metric.unit = unit
            try:
                for size in sorted(gray.sizes):
                    metric.expect_size(size)
                metrics.append(metric)
            except UserError as error:
                reason = f"{error.what}, which needs {metric.smallest} pixels on each side"
                definition = f"{metric.definition}/not-computed: {reason}"
                nothing = Score(value=None, ci95=None, n=0)
                self.too_small[metric.name] = metric_score(metric, nothing, 0, definition)
        super().__init__(metrics, gray.black, gray.span, dims, 1, device, regions)

    def score(self, pairs: Sequence[FilePair], scale: ScaleFit, direction: str) -> pd.DataFrame:
        """The table of predictions, as `scale` maps them; UserError where no metric can be computed."""
        if not self.metrics:
            reason = next(iter(self.too_small.values())).definition.rpartition("/not-computed: ")[2]
            raise UserError(
                reason, where="--metrics", remedy="use other metrics too, such as psnr or mae"
            )
        found = []
        alarms = []
        for pair in track(pairs, "scoring"):
            output, truth = (torch.tensor(image.pixels)[None] for image in pair.read())
            about = References(truth, [pair.patient], names=[pair.name], **pair.about())
            found.append(self(scale(output), about, direction=direction))
            alarms.append(alarm_of_regions(about))
        self.warning = self.warning or (alarms[0] if all(alarms) else "")
        return pd.concat(found, ignore_index=True)

    def scores_of(self, lines: pd.DataFrame) -> ScoresByMetric:
        """The scores over all files that have these lines."""
        return scores_of(lines, self.about()) | self.too_small


def _score_sets(
    scale: ScaleFit,
    made: pd.DataFrame,
    real: pd.DataFrame,
    parts: list[Part],
    device: Any,
    read: Read,
) -> tuple[ScoresByMetric, str]:
    """Score the predictions as a set against the true images; also the warning of the gray range."""
    images = [read(scan) for scan in [*made.scan, *real.scan]]
    shapes = sorted({image.pixels.shape for image in images})
    if len(shapes) > 1:
        first_two = " and ".join(str(list(shape)) for shape in shapes[:2])
        raise UserError(
            f"metrics of sets need images of one size, but these have {first_two}", remedy=RESIZE
        )

    gray = gray_range(images[len(made) :])
    pixels = torch.from_numpy(np.stack([image.pixels for image in images])).to(device)
    fakes = ImageGroup(scale(pixels[: len(made)]) - gray.black, [*made.owner])
    reals = ImageGroup(pixels[len(made) :] - gray.black, [*real.owner])
    found: ScoresByMetric = {}
    for part in parts:
        metric = part(gray.span, pixels.ndim - 2)
        found |= set_scores(metric, reals, reals, fakes, strict=True)
    unknown = count_patients([*made.owner, *real.owner]) is None
    for score in found.values():
        score.n = count_patients(made.owner) or 1
        score.patients_unknown = unknown or None
    return found, gray.warning


def _scale_lines(scale: ScaleFit) -> Iterator[str]:
    """Yield a line on the scales, where predictions were matched or are on another than the truth."""
    line = f"truth = {scale.slope:.4g} x prediction {scale.offset:+.4g}"
    if scale.matched:
        yield (
            "matched  all predictions are rescaled alike, to the mean and standard deviation of the truth"
            f" (no least-squares fit, so scores may fall): {line}"
        )
    elif scale.another:
        yield (
            "warning  the predictions seem to have another scale than the truth, so scores are too"
            f" low. To rescale them, add --match: {line}"
        )


@dataclass(frozen=True)
class GrayRange:
    """The gray values by which files are scored: from `black` on, `span` wide."""

    black: float
    span: float
    sizes: set[tuple[int, ...]]  # of the true images
    warning: str  # which file's few pixels set the range; "" if none do


def gray_range(truths: Iterable[Image]) -> GrayRange:
    """The range that true files share: that of the type for uint8, and for uint16 if the set uses more
    than half of it; else the set's extremes. Scans of 12 bits in files of 16 would otherwise gain
    24 dB. UserError if all their pixels are equal.
    """
    facts = pd.DataFrame(map(_gray_facts, truths))
    kinds = set(facts.kind)
    low, high = facts.low.min(), facts.high.max()
    black, span = _black_and_span(low, high, kinds)
    if span <= 0:
        raise UserError(
            f"all pixels of the truth are {black:g}, in '{facts.path[0]}'",
            where="--truth",
            remedy="check the images: without contrast no score is defined",
        )

    dark, bright = facts.dark.min(), facts.bright.max()
    _, without = _black_and_span(dark, bright, kinds)
    warning = ""
    if span > MAX_GAIN * without > 0:
        extreme = facts.high.idxmax() if high - bright > dark - low else facts.low.idxmin()
        warning = (
            f"a few pixels of '{facts.path[extreme]}' set the range of gray values, {black:g} to"
            f" {black + span:g}, by which all scores are counted: without them it is {dark:g} to"
            f" {bright:g}, and PSNR {20 * log10(span / without):.1f} dB lower. Mend the file, or"
            " leave it out"
        )
    return GrayRange(black, span, set(facts["size"]), warning)


def _gray_facts(image: Image) -> dict[str, Any]:
    """Lowest and highest gray value of an image, and both without its few most extreme pixels."""
    values = image.pixels.ravel()
    few = min(max(1, round(MAX_BROKEN_SHARE * values.size)), (values.size - 1) // 2)
    dark, bright = np.partition(values, (few, -1 - few))[[few, -1 - few]].astype(float)
    return {
        "path": image.path,
        "size": image.pixels.shape[1:],
        "kind": None if image.dtype is None else np.dtype(image.dtype),
        "low": float(values.min()),
        "high": float(values.max()),
        "dark": dark,
        "bright": bright,
    }


def _black_and_span(low: float, high: float, kinds: set[Any]) -> tuple[float, float]:
    """Black and the range of images with these extremes, of these types."""
    if low < high and kinds <= {np.dtype(np.uint8), np.dtype(np.uint16)}:
        full = float(max(np.iinfo(kind).max for kind in kinds))
        # below 0 or above the type's range, a header rescales the values
        if low >= 0 and high <= full and (full == 255 or high > full / 2):
            return 0.0, full
    return low, high - low
