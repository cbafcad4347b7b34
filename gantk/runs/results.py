"""The results of an evaluation, which metrics.json stores, and the only format of their numbers.

Read `Results` and `Score` first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    model_serializer,
    model_validator,
)

from gantk.errors import count_noun
from gantk.plugin.spec import Share

if TYPE_CHECKING:
    from pandas import DataFrame
else:
    DataFrame = Any  # most commands need no pandas

Step = Annotated[int, Field(ge=0, le=10**15)]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Ends = Annotated[list[float | None], Field(min_length=2, max_length=2)]
Curves = dict[str, list[float]]
# part of a file name: no path separators
Part = Annotated[str, Field(pattern=r"^[^/\\\x00]{1,200}$")]
NO_VALUE = "-"
OF_RANGE = "% of range"  # the unit in which errors of the gray range are shown
LATE = 0.75  # of a training: where its best checkpoint is later, it may still improve
SMALLEST_FIXED = 1e-4  # smaller values are written with an exponent


class Table(BaseModel):
    """A JSON object of a run's file. Unknown keys are kept; a key that is absent or null in a file
    has its default.
    """

    model_config = ConfigDict(
        extra="allow", strict=True, defer_build=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, content: Any) -> Any:
        """Leave out null where a key has a default other than None."""
        if not isinstance(content, dict):
            return content
        fields = cls.model_fields
        return {
            key: value
            for key, value in content.items()
            if value is not None or key not in fields or fields[key].default is None
        }

    @model_serializer(mode="wrap")
    def _leave_out_absent(self, serialize: Any) -> dict[str, Any]:
        """Leave out keys that were never given and are empty."""
        return {
            key: value
            for key, value in serialize(self).items()
            if key in self.model_fields_set or value not in (None, "", [], {})
        }

    def dump(self) -> dict[str, Any]:
        """The content as JSON has it."""
        return self.model_dump()


class Score(Table):
    """A score: its value, 95 % interval, sample size and definition."""

    value: float | None = None
    """Mean over patients; null if no image could be scored."""
    ci95: Ends | None = None
    """95 % interval of the mean, over patients; null for fewer than six, and for unknown ones
    except by metrics that leave out images instead.
    """
    range: Ends | None = None
    """Lowest and highest patient; only where `ci95` is null for too few patients."""
    n: Step | None = None
    """Number of patients that the mean is over; 1 where that of any image is unknown."""
    patients_unknown: bool | None = None
    """Whether the patient of any image is unknown; absent where all are known."""
    images: Step | None = None
    """Number of scored images."""
    unit: str = ""
    """Unit of the value, such as `dB`."""
    definition: str = ""
    """How the score is computed: metric, data range and region."""
    higher_is_better: bool | None = None
    """Whether higher values are better; null if neither direction is."""
    of_sets: bool | None = None
    """Whether it compares two sets of images; absent for others."""
    corrected: float | None = None
    """The score after the best linear correction of the output's intensities in the foreground, or
    in the whole image where no foreground is known.
    """
    details: Mapping[str, Score | bool | int | float | str | list[Any] | None] = {}
    """Further figures of the metric."""

    @property
    def figures(self) -> dict[str, Score]:
        """The details that are scores too, such as the same score of real images."""
        return {name: each for name, each in self.details.items() if isinstance(each, Score)}

    @property
    def decimals(self) -> int:
        """Decimal places: 2 for decibels and percent, 3 for scores near 1."""
        size = abs(self.value or 0.0)
        if self.unit in ("dB", OF_RANGE):
            return 2
        if size >= 100:
            return 1
        if size >= 10:
            return 2
        if size >= 0.1:
            return 3
        return 4

    @property
    def ends(self) -> tuple[float, float] | None:
        """The ends of the 95 % interval, if both are known."""
        low, high = self.ci95 or (None, None)
        return None if low is None or high is None else (low, high)

    def is_better_than(self, other: Score) -> bool:
        """Whether its value is better; False where this is not known."""
        if self.value is None or other.value is None or self.higher_is_better is None:
            return False
        return (self.value > other.value) == self.higher_is_better and self.value != other.value

    def times(self, sign: int) -> Score:
        """A difference seen from the other side where `sign` is -1."""
        value = None if self.value is None else sign * self.value
        ends = sorted(sign * end for end in self.ends or ())
        return self.model_copy(update={"value": value, "ci95": ends or None})

    @property
    def in_percent(self) -> Score:
        """An error of the range from black to white, as `0.18 of range 2`, in percent; others unchanged."""
        _, is_share, span = self.unit.partition("of range ")
        if not is_share:
            return self
        factor = 100 / float(span)
        value, *ends = (
            None if each is None else factor * each
            for each in (self.value, *(self.ci95 or ()), *(self.range or ()))
        )
        where = "ci95" if self.ci95 else "range"
        return self.model_copy(update={"value": value, where: ends or None, "unit": OF_RANGE})

    def text(self, decimals: int | None = None) -> str:
        """The value with its unit, such as `24.31 dB`; "-" without a value. `decimals`: of another
        score that it stands beside.
        """
        value = number_text(self.value, self.decimals if decimals is None else decimals)
        return f"{value} {self.unit}" if self.unit and self.value is not None else value

    def interval(self, decimals: int | None = None) -> str:
        """The 95 % interval, such as `[23.81, 24.81]`; of too few patients for one the lowest and the
        highest, as `(23.81 to 24.81)`; "" where neither is known.
        """
        places = self.decimals if decimals is None else decimals
        ends = self.ends or self.range
        if not ends:
            return ""
        low, high = (number_text(end, places) for end in ends)
        return f"[{low}, {high}]" if self.ends else f"({low} to {high})"

    def sample(self) -> str:
        """The size of the sample: `n = 8 (64 images)`, `64 images, patients unknown`; "" where it is
        unknown.
        """
        if self.patients_unknown:
            return f"{count_noun(self.images, 'image')}, patients unknown" if self.images else ""
        if self.n is None:
            return ""
        if self.of_sets:
            return count_noun(self.images or self.n, "image")
        images = (
            f" ({count_noun(self.images, 'image')})"
            if self.images and self.images != self.n
            else ""
        )
        return f"n = {self.n}{images}"


def number_text(value: float | None, decimals: int) -> str:
    """A number with that many decimal places, with an exponent where it is smaller; "-" for None
    and NaN.
    """
    if value is None or math.isnan(value):
        return NO_VALUE
    if math.isinf(value) or 0 < abs(value) < SMALLEST_FIXED:
        return f"{value:.3g}"
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if not float(text) else text  # no "-0.00"


def in_millions(count: int) -> str:
    """A number of weights: `73 M`, `1.6 M`."""
    millions = count / 1e6
    return f"{millions:,.0f} M" if millions >= 10 else f"{millions:.2g} M"


class PairedTest(Table):
    """The paired test of a model and a baseline on the same patients."""

    n: Step
    """Number of patients."""
    gain: float
    """Mean gain of the model over the baseline; positive if the model is better."""
    wins: Step | None = None
    """Number of patients of whom the model is better."""
    p: Share
    """p-value of the two-sided sign-flip permutation test, exact up to 20 patients."""
    primary_p: Share | None = None
    """`p` of the recipe's first score, corrected by Holm's method for the directions; decides its
    verdict.
    """
    primary_of: Step | None = None
    """Number of tests that `primary_p` is corrected for."""
    ci95: Ends | None = None
    """95 % interval of the gain; null below six patients."""
    holm: Share | None = None
    """`p`, corrected by Holm's method for the chance of any false finding."""
    of: Step | None = None
    """Number of tests that `holm` is corrected for."""


class Verdict(Table):
    """Whether the model is better than the best baseline."""

    better: bool | None = None
    """Whether the model's mean is better than that of the baseline."""
    best_baseline: str = ""
    """Name of the best baseline."""
    probability: Share | None = None
    """Probability that the model is better than this baseline; null for fewer than six patients."""
    patients: Step | None = None
    """Number of test patients, 0 where these are unknown; only without `test`."""
    holm: Share | None = None
    """Probability that such a difference is chance, corrected by Holm's method; only for metrics of
    sets.
    """
    test: PairedTest | None = None
    """The paired test of model and baseline; only for metrics of pairs."""
    without_pairs: Verdict | None = None
    """The same against the best baseline that needs no pairs."""


class Speed(Table):
    """Time and memory of a training."""

    step: Step | None = None
    """Step of the last checkpoint; only in usage.json."""
    steps: Step | None = None
    """Number of steps at the last log point; only in metrics.json."""
    seconds: Amount | None = None
    """Training time in seconds, without validation and checkpoints."""
    images_per_s: Amount | None = None
    """Median number of images per second over the log points."""
    step_seconds: list[Amount] | None = None
    """Mean seconds per step between log points, in order."""
    first_step_s: Amount | None = None
    """Seconds from the start of the process to the end of its first step."""
    peak_memory_gib: Amount | None = None
    """Peak memory in GiB, over all resumes."""


class Case(Table):
    """A contrast that is made of others."""

    given: list[str]
    """Contrasts that are there."""
    made: str
    """Contrast that is made of them."""


class Distributions(Table):
    """How intensities of real and of generated images are distributed."""

    edges: list[float]
    """Ends of the bins, from 0 (black) to 1 (white)."""
    shares: Curves
    """Share of the pixels in each bin: of `real` test images, `generated` ones, and
    `generated_post` after the post-steps.
    """
    distance: dict[str, float] = {}
    """Wasserstein distance of the generated images from the real ones, as a share of the range from
    black to white.
    """
    images: dict[str, Step] = {}
    """Number of images."""


class PostLosses(Table):
    """What a post-step measured."""

    name: str
    """Name of the post-step."""
    images: Step | None = None
    """Number of images."""
    curves: Curves
    """Mean losses over the images, for each optimisation step from 0 on."""


class SplitSummary(Table):
    """How test patients were held out."""

    by: str | None = None
    """How images were assigned to the sets, such as `patient`."""
    consequences: list[str] = []
    """Consequences of the split for the scores, in words."""
    unknown_patients: bool = False
    """Whether the patient of any test image is unknown."""


ScoresByMetric = dict[str, Score]
ScoresByDirection = dict[str, ScoresByMetric]


class Results(Table):
    """The content of metrics.json: all scores of an evaluation."""

    metrics: ScoresByDirection = {}
    """The model's scores, by direction (`a_to_b`, `b_to_a`, `image`) and metric. `psnr_foreground`
    and `psnr_lesion` are PSNR in these regions.
    """
    baselines: dict[str, ScoresByDirection] = {}
    """The same scores of each baseline, by its name."""
    baseline_steps: Step = 0
    """Training steps of the baselines that are trained, `evaluate.regression`; absent without any."""
    verdict: dict[str, dict[str, Verdict | None]] = {}
    """Whether the model is better than the best baseline, by direction and metric."""
    split: SplitSummary | None = None
    """How test patients were held out."""
    cases: dict[str, Case] = {}
    """Of methods that make any contrast from others, by direction: what is there and what is made.
    """
    whole_files: Results | None = None
    """Scores of whole files, where networks see images at another size; its directions are in words
    (`T1 -> T2`).
    """
    alarms: dict[str, str] = {}
    """A warning for each direction whose foreground is too large to be a head in air."""
    values: dict[str, Distributions] = {}
    """Distributions of intensities of real and of generated images, by direction."""
    post: dict[str, list[PostLosses]] = {}
    """What the post-steps measured on the scored images, by direction."""
    speed: Speed | None = None
    """Time and memory of the training."""
    domains: list[str] = []
    """Names of the domains."""
    step: Step | None = None
    """Step of the scored checkpoint."""
    _lines: list[DataFrame] = PrivateAttr(default_factory=list)

    @property
    def judged_by(self) -> Results:
        """The scores that a result is judged by: of whole files, where they were scored."""
        return self.whole_files or self

    @property
    def lines(self) -> list[DataFrame]:
        """Tables of the scores of single images, which are stored in scores.csv; see
        `gantk.metrics.table`.
        """
        return self._lines

    def baseline(self, name: str, key: str) -> ScoresByMetric:
        """A baseline's scores of a direction; after the post-steps those of the plain direction, as
        baselines have no post-steps.
        """
        scores = self.baselines.get(name, {})
        return scores.get(key) or scores.get(key.removesuffix("_post")) or {}

    def drop_baselines(self, key: str) -> None:
        """Remove the baselines of a direction that has none to be compared with, also of its post-steps,
        and their lines.
        """
        keys = key, f"{key}_post"
        for each in keys:
            self.verdict.pop(each, None)
            for scores in self.baselines.values():
                scores.pop(each, None)
        self._lines = [
            lines[(lines["system"] == "model") | ~lines["direction"].isin(keys)]
            for lines in self._lines
        ]

    def verdict_of(self, key: str, metric: str) -> Verdict:
        """The verdict on a score; an empty one where none was made."""
        return self.verdict.get(key, {}).get(metric) or Verdict()

    def rival(self, key: str, metric: str) -> Score | None:
        """The best baseline's score beside a score of the model."""
        return self.baseline(self.verdict_of(key, metric).best_baseline, key).get(metric)


class StoredImage(Table):
    """A test image in samples/test, which the report shows."""

    patient: str
    """Name of the patient."""
    stem: Part
    """First part of the names of its files in samples/test."""
    median_of: Step | None = None
    """Number of scored images of which this is the median by the first metric; absent for others.
    """
    input: str
    """Path of the input."""
    truth: str = ""
    """Path of the truth; empty where none is known."""
    image: str
    """Name of the input in split.json (`key`)."""
    units: list[str]
    """Units of input, output and, where it is known, truth."""
    lesion: bool = False
    """Whether the mask of its lesion is stored too."""


class CheckpointScore(Table):
    """A scored checkpoint in best.json."""

    step: Step
    """Step of the checkpoint."""
    score: float | None = None
    """The first validation score, mean over the directions; null if it could not be computed."""


class Choice(Table):
    """The content of best.json: the scored checkpoints of a run, and the best of them."""

    step: Step | None = None
    """Step of the best checkpoint; null if no checkpoint was scored."""
    rule: str = ""
    """How checkpoints are scored, in words."""
    higher_is_better: bool = False
    """Whether a higher score is better."""
    table: list[CheckpointScore] = []
    """One row for each checkpoint."""

    def add(self, step: int, score: float | None) -> None:
        """Add a checkpoint's score; it replaces an earlier one of the same step."""
        others = [row for row in self.table if row.step != step]
        self.table = [*others, CheckpointScore(step=step, score=score)]
        self.step = self._best_step()

    def _best_step(self) -> int:
        """The step of the best score, the earlier of equal ones; without scores the newest."""
        scores = self.scores
        if not scores:
            return max(row.step for row in self.table)
        best = (max if self.higher_is_better else min)(scores.values())
        return min(step for step, score in scores.items() if score == best)

    @property
    def is_late(self) -> bool:
        """Whether the best checkpoint is of the last quarter of the training, or none was scored."""
        newest = max((row.step for row in self.table), default=0)
        return not self.scores or (self.step or 0) > LATE * newest

    @property
    def scores(self) -> dict[int, float]:
        """The score of each scored checkpoint, by its step."""
        return {row.step: row.score for row in self.table if row.score is not None}
