"""What results say: the rows of all tables of scores, and one sentence that needs no knowledge of the
scores. Terminal, report, notebook, comparison, card and app print them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gantk.errors import UserError
from gantk.metrics.names import (
    baseline_words,
    join_words,
    metric_words,
    needs_pairs,
    short_metric_name,
    split_region,
    title_of,
)
from gantk.metrics.verdict import Tone, p_words, tone_of, verdict_words
from gantk.runs.results import NO_VALUE, Results, Score, SplitSummary, Verdict, number_text

if TYPE_CHECKING:
    from gantk.runs.folder import RunFolder

TONES: tuple[Tone, ...] = ("bad", "near", "good", "")  # the worst first
TABLE_HEADS = ("direction", "score", "value and 95 % interval", "sample", "best baseline")
MAX_NAMED_METRICS = 4  # in one sentence; more are only counted
MAX_NAMED_DIRECTIONS = 3  # in one sentence; more are only counted
MIN_SCALE_GAP = 3.0  # dB that a line through the gray values gains: half of the squared error
NO_SCORES = (
    "No held-out pairs are known, so the outputs are not compared with real images. Compare them as sets:"
    " gantk eval RUN --metrics kid"
)
FROM_NOISE = ("image", "image_post")  # images from noise, and the same after post-steps


@dataclass(frozen=True)
class ScoreRow:
    """One score of a direction beside that of the best baseline."""

    key: str  # the direction
    metric: str
    score: Score
    rival: Score | None  # the best baseline's score
    verdict: Verdict

    @property
    def name(self) -> str:
        """The score's short name, such as `PSNR in the foreground`."""
        return short_metric_name(self.metric)

    @property
    def plain_name(self) -> str:
        """The score's name in plain words, such as `Peak signal-to-noise ratio (PSNR)`."""
        return metric_words(self.metric)[0] or self.name[:1].upper() + self.name[1:]

    @property
    def explanation(self) -> str:
        """What the score says, in one sentence; "" where that is not known."""
        return metric_words(self.metric)[1]

    @property
    def sense(self) -> str:
        """`higher is better`, `lower is better`, or "" where neither is."""
        higher = self.score.higher_is_better
        return "" if higher is None else f"{'higher' if higher else 'lower'} is better"

    @property
    def region(self) -> str:
        """`foreground` or `lesion`; "" for the whole image."""
        return split_region(self.metric)[1]

    @property
    def baseline(self) -> str:
        """The best baseline's score, in as many digits as the model's."""
        return self.rival.text(self.score.decimals) if self.rival else ""

    @property
    def baseline_name(self) -> str:
        """The best baseline's name in words; "" where none was compared."""
        best = self.verdict.best_baseline
        return baseline_words(best) if best else ""

    def cells(self, title: str) -> list[str]:
        """Cells of a table under `TABLE_HEADS`."""
        value = f"{self.score.text()} {self.score.interval()}".rstrip()
        beside = f"{self.baseline} ({self.baseline_name})" if self.baseline_name else NO_VALUE
        return [title, self.name, value, self.score.sample() or NO_VALUE, beside]

    @property
    def tone(self) -> Tone:
        """How the verdict is coloured."""
        return tone_of(self.verdict)

    @property
    def words(self) -> str:
        """The verdict in words."""
        return verdict_words(self.verdict)

    @property
    def p_words(self) -> str:
        """The p-value by which a lead can be chance, see `gantk.metrics.verdict.p_words`."""
        return p_words(self.verdict)

    @property
    def fair_tone(self) -> Tone:
        """The tone against the best baseline that needs no pairs."""
        return tone_of(self.verdict.without_pairs or Verdict())

    @property
    def fair_words(self) -> str:
        """The verdict against baselines that need no pairs, where one that needs them was best and
        the model is not clearly better; else "".
        """
        other = self.verdict.without_pairs
        if self.tone == "good" or not needs_pairs(self.verdict.best_baseline) or other is None:
            return ""
        if self.fair_tone == "bad":
            return f"not better than {baseline_words(other.best_baseline)}, which needs no pairs"
        return verdict_words(other, rivals="every baseline that needs no pairs")

    @property
    def gain(self) -> Score:
        """By how much the model is better, patient by patient where that was tested."""
        unit = self.score.unit
        if self.verdict.test is not None:
            return Score(value=self.verdict.test.gain, ci95=self.verdict.test.ci95, unit=unit)
        if self.rival is None or self.score.value is None or self.rival.value is None:
            return Score()
        difference = self.score.value - self.rival.value
        if self.score.higher_is_better is False:
            difference = -difference
        return Score(value=difference, unit=unit)

    def difference(self) -> tuple[Score, str]:
        """The size of the difference with its interval, of which negative values mean the opposite;
        and `better`, `worse`, or `equal` where all digits shown are.
        """
        gain = self.gain
        if gain.value is None or not math.isfinite(gain.value):
            return Score(), ""

        sense = "better" if gain.value >= 0 else "worse"
        sign = 1 if gain.value >= 0 else -1
        size = gain.times(sign)
        is_zero = float(number_text(size.value, self.score.decimals)) == 0
        return size, "equal" if is_zero else sense


def score_rows(results: Results) -> Iterator[ScoreRow]:
    """Yield all scores beside the best baseline's, in the order of metrics.json."""
    for key, scores in results.metrics.items():
        for metric, score in scores.items():
            verdict = results.verdict_of(key, metric)
            yield ScoreRow(key, metric, score, results.rival(key, metric), verdict)


def main_rows(results: Results) -> dict[str, list[ScoreRow]]:
    """The rows that a table shows first and the sentence speaks of, by direction: without those of
    the foreground that are no worse than the whole image's.
    """
    rows = [*score_rows(results)]
    rank = {(row.key, row.metric): TONES.index(row.tone) for row in rows}
    found: dict[str, list[ScoreRow]] = {key: [] for key in results.metrics}
    for row in rows:
        whole = rank.get((row.key, split_region(row.metric)[0]))
        is_worse = whole is None or rank[row.key, row.metric] < whole
        if row.region != "foreground" or is_worse:
            found[row.key].append(row)
    return found


def result_sentence(results: Results, *, unseen: bool = True) -> str:
    """The results in one sentence that needs no knowledge of the scores; "" where nothing was
    compared. `unseen`: False where patients were allowed on both sides of the split.
    """
    if not results.metrics and results.model_fields_set:
        return NO_SCORES
    findings = _findings(results)
    if not findings:
        return ""

    place = _tested_on(results, unseen)
    if len(findings) > MAX_NAMED_DIRECTIONS:
        return f"{place} the model is {_directions_by_verdict(findings.values())}."

    titles = {key: title_of(key, results.domains) for key in findings}
    images = {key: _images_of(title) for key, title in titles.items()}
    if len(set(images.values())) < len(images):
        images = titles

    clauses: dict[str, dict[str, str]] = {}  # what is said -> images it is said of -> their figures
    for key, each in findings.items():
        said, figure = _clause(each, from_noise=key in FROM_NOISE)
        clauses.setdefault(said, {})[images[key]] = figure

    parts: list[str] = []
    for said, of_images in clauses.items():
        owner = "its" if parts or "the model" in place else "the model's"
        parts.append(
            f"{owner} {join_words([*of_images])} images {said}{_figures_in_brackets(of_images)}"
        )

    return f"{place} {'; '.join(parts)}."


def result_tone(results: Results) -> Tone:
    """The tone of `result_sentence`: that of the worst score."""
    tones = (row.tone for own in _findings(results).values() for row in own)
    return min(tones, key=TONES.index, default="")


def judgement(run: RunFolder) -> tuple[str, Tone]:
    """The first sentence of a run's report, and its tone; "" where the run was never scored."""
    from gantk.runs.schemas import read_results

    try:
        results = read_results(run.path)
    except UserError:
        return "", ""
    return result_sentence(results, unseen=not run.leaks), result_tone(results)


def lost_sentence(run: RunFolder) -> str:
    """The first sentence of a run's report where a baseline is better than the model; else ""."""
    sentence, tone = judgement(run)
    return sentence if tone == "bad" else ""


def pairs_sentence(results: Results) -> str:
    """A sentence for a model that loses only to baselines that were fitted on pairs, and wins
    against all others; "" for other models.
    """
    rows = [row for own in main_rows(results).values() for row in own]
    lost = [row for row in rows if row.tone in ("bad", "near")]
    fair = all(needs_pairs(row.verdict.best_baseline) and row.fair_tone == "good" for row in lost)
    if not lost or not fair:
        return ""

    names = join_words([*dict.fromkeys(row.baseline_name for row in lost)])
    return (
        f"Fitting {names} needs registered pairs. The model is better than every baseline that"
        " needs none."
    )


def files_sentences(results: Results) -> Iterator[str]:
    """Yield, by direction, what the whole written files score, and why that is not the table's
    score.
    """
    for key, scores in results.files.items():
        known = {name: score for name, score in scores.items() if score.value is not None}
        if not known:
            continue

        figures = [f"{short_metric_name(name)} {score.text()}" for name, score in known.items()]
        sentence = f"{title_of(key, results.domains)}: {', '.join(figures)}."
        psnr = known.get("psnr", Score())
        if psnr.value is not None and (psnr.corrected or 0.0) - psnr.value >= MIN_SCALE_GAP:
            rescaled = Score(value=psnr.corrected, unit="dB").text()
            sentence += (
                " The written gray values are on the scale of the training images, the true ones on"
                f" another: rescaled by a line for each image, PSNR is {rescaled}."
            )
        yield sentence


def unchanged_input(results: Results, key: str) -> dict[str, str]:
    """The scores of the unchanged input as texts, by metric: of the same images they are equal on
    one gray scale alone.
    """
    return {metric: score.text() for metric, score in results.baseline("identity", key).items()}


def unlike_inputs(results: Mapping[str, Results]) -> str:
    """`16.28 dB in pix2pix, 17.02 dB in cyclegan`: the score of the unchanged input in runs that were
    tested on the same images, where it differs, so that scores are of other gray scales; else "".
    """
    first = next(iter(results.values()))
    for key in first.metrics:
        unchanged = {name: unchanged_input(each, key) for name, each in results.items()}
        for metric in unchanged_input(first, key):
            known = {name: own[metric] for name, own in unchanged.items() if metric in own}
            if len(set(known.values())) > 1:
                return ", ".join(f"{text} in {name}" for name, text in known.items())
    return ""


def _findings(results: Results) -> dict[str, list[ScoreRow]]:
    """Direction -> its scores that were compared with a baseline. Of many directions only what the
    model returns: after the post-steps, under the direction's own name, where there are any.
    """
    found: dict[str, list[ScoreRow]] = {}
    for key, rows in main_rows(results).items():
        compared = [row for row in rows if row.tone]
        if compared:
            found[key] = compared

    if len(found) <= MAX_NAMED_DIRECTIONS:
        return found
    own = [key for key in found if not key.endswith("_post")]
    return {key: found.get(f"{key}_post", found[key]) for key in own}


def _directions_by_verdict(findings: Collection[Sequence[ScoreRow]]) -> str:
    """In how many directions the model is better than every baseline, ahead of every one (and why that
    may be chance), and not better in some score.
    """
    counts: Counter[str] = Counter()
    for rows in findings:
        worst = min(rows, key=lambda row: TONES.index(row.tone))
        counts["not better than a baseline" if worst.tone == "bad" else worst.words] += 1

    clauses = []
    for said, count in counts.items():
        what, comma, why = said.partition(",")
        clauses.append(f"{what} in {count} of {len(findings)} directions{comma}{why}")
    return "; ".join(clauses)


def _figures_in_brackets(of_images: Mapping[str, str]) -> str:
    """` (PSNR 24.93 dB against 23.20 dB)`, each after the name of its images where these are
    several; "" without figures.
    """
    figures = []
    for name, figure in of_images.items():
        if figure:
            figures.append(figure if len(of_images) == 1 else f"{name}: {figure}")
    return f" ({'; '.join(figures)})" if figures else ""


def _figures(row: ScoreRow) -> str:
    """`PSNR 24.93 dB against 23.20 dB`, and the p-value where that may be chance; "" where a value is
    missing.
    """
    if row.score.value is None or row.rival is None or row.rival.value is None:
        return ""
    figures = f"{row.name} {row.score.text()} against {row.baseline}"
    return f"{figures}; {row.p_words}" if row.p_words else figures


def _clause(findings: Sequence[ScoreRow], *, from_noise: bool) -> tuple[str, str]:
    """What is said of a direction's images, and the figures of the first score that it is said of.

    A score that is not better decides; then scores that are better, by name if others may be so by
    chance.
    """
    tones = {finding.tone for finding in findings}
    tone = next(each for each in ("bad", "good", "near") if each in tones)
    deciding = [finding for finding in findings if finding.tone == tone]
    scores = "" if len(tones) == 1 else f" in {_score_names(deciding, len(findings))}"
    by_baseline: dict[str, list[ScoreRow]] = {}
    for finding in deciding:
        by_baseline.setdefault(finding.words, []).append(finding)

    if tone == "bad" and len(by_baseline) > 1:
        of_each = [
            f"{words} in {_score_names(own, len(findings))}" for words, own in by_baseline.items()
        ]
        said = f"are {', and '.join(of_each)}"
    elif tone != "good":
        said = f"are {deciding[0].words}{scores}"
    elif from_noise:
        said = f"are closer to real images than every baseline{scores}"
    else:
        said = f"match the real ones better than every baseline{scores}"
    return said, _figures(deciding[0])


def _score_names(findings: Sequence[ScoreRow], judged: int) -> str:
    """The names of scores, those of the whole image first, and a region's left out where the whole
    image's is named too; their number where there are more than MAX_NAMED_METRICS.
    """
    whole = {finding.metric: finding.name for finding in findings if not finding.region}
    others = [
        finding.name
        for finding in findings
        if finding.region and split_region(finding.metric)[0] not in whole
    ]
    names = [*whole.values()]
    if len(names) + len(others) > MAX_NAMED_METRICS:
        return f"{len(findings)} of {judged} scores"
    if not names or not others:
        return join_words(names or others)
    return f"{join_words(names)}, and {join_words(others)}"


def _tested_on(results: Results, unseen: bool) -> str:
    """`On 8 patients that the model had never seen,` as far as the split allows the claim."""
    split = results.split or SplitSummary()
    unseen = unseen and split.by == "patient" and not split.consequences
    if set(results.metrics) <= set(FROM_NOISE):  # n counts generated images
        if unseen:
            return "Compared with real images of patients that the model had never seen,"
        return "Compared with real test images,"

    patients = _counts(results, "n")
    counts = _counts(results, "images") or patients
    images = "one test image" if counts == {1} else f"{_from_to(counts)} test images"
    if counts and not patients_are_known(results):
        return f"On {images} whose patients are not known,"
    if not patients:
        return "On the test images,"
    if patients == {1}:
        whose = "one patient"
    else:
        whose = f"{_from_to(patients)} patients"

    if unseen:
        return f"On {whose} that the model had never seen,"
    if split.consequences:
        whose += " (see the warning)"
    return f"On {images} of {whose},"


def patients_are_known(results: Results) -> bool:
    """Whether the patient of every test image is known."""
    return results.split is None or not results.split.unknown_patients


def _counts(results: Results, key: Literal["n", "images"]) -> set[int]:
    """The numbers of patients or images of the directions, each the largest of its metrics; not those
    of images from noise.
    """
    counts = set()
    for direction, scores in results.metrics.items():
        if direction not in FROM_NOISE:
            counts.add(max((getattr(score, key) or 0 for score in scores.values()), default=0))
    return counts - {0}


def _from_to(counts: set[int]) -> str:
    """`8`, or `46 to 54` where directions differ."""
    return " to ".join(map(str, dict.fromkeys([min(counts), max(counts)])))


def _images_of(title: str) -> str:
    """`T2` of `T1 -> T2`; `T1` of `T1 from noise`; the title itself where it names no target."""
    target = title.rpartition(" -> ")[2].removesuffix(" from noise")
    post = ", after the post-steps"
    if target.endswith(post):
        return f"post-processed {target.removesuffix(post)}"
    return target
