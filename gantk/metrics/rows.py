"""The rows of all tables of scores: terminal, report, notebook, comparison, card and app print them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gantk.metrics.verdict import (
    Tone,
    baseline_words,
    metric_words,
    needs_pairs,
    short_metric_name,
    split_region,
    tone_of,
    verdict_words,
)
from gantk.runs.results import NO_VALUE, Results, Score, Verdict, number_text

TONES: tuple[Tone, ...] = ("bad", "near", "good", "")  # the worst first
TABLE_HEADS = ("direction", "score", "value and 95 % interval", "sample", "best baseline")


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
        return verdict_words(other).replace("every baseline", "every baseline that needs no pairs")

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
        ends = sorted(sign * end for end in gain.ends or ())
        size = Score(value=sign * gain.value, ci95=[*ends] or None, unit=gain.unit)
        is_zero = float(number_text(size.value, self.score.decimals)) == 0
        return size, "equal" if is_zero else sense


def score_rows(results: Results) -> Iterator[ScoreRow]:
    """Yield all scores beside the best baseline's, in the order of metrics.json."""
    for key, scores in results.metrics.items():
        for metric, score in scores.items():
            verdict = results.verdict_of(key, metric)
            yield ScoreRow(key, metric, score, results.rival(key, metric), verdict)


def rows_by_direction(results: Results) -> dict[str, list[ScoreRow]]:
    """The rows of `score_rows`, by direction."""
    found: dict[str, list[ScoreRow]] = {key: [] for key in results.metrics}
    for row in score_rows(results):
        found[row.key].append(row)
    return found


def main_rows(results: Results) -> dict[str, list[ScoreRow]]:
    """The rows that a table shows first and the sentence speaks of, by direction: without those of
    the foreground that are no worse than the whole image's.
    """
    found: dict[str, list[ScoreRow]] = {}
    for key, rows in rows_by_direction(results).items():
        whole = {row.metric: row.tone for row in rows if not row.region}
        found[key] = []
        for row in rows:
            of_image = whole.get(split_region(row.metric)[0])
            is_told = of_image is not None and TONES.index(row.tone) >= TONES.index(of_image)
            if row.region != "foreground" or not is_told:
                found[key].append(row)
    return found
