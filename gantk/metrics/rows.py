"""The rows of all tables of scores: terminal, report, notebook, comparison, card and app print them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gantk.metrics.pair_scores import SUFFIXES
from gantk.metrics.verdict import Tone, needs_pairs, tone_of
from gantk.metrics.words import baseline_words, short_metric_name, verdict_words
from gantk.runs.results import NO_VALUE, Results, Score, Verdict, number_text


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
    def region(self) -> str:
        """`foreground` or `lesion`; "" for the whole image."""
        return region_of(self.metric)

    @property
    def baseline(self) -> str:
        """The best baseline's score, in as many digits as the model's."""
        return self.rival.text(self.score.decimals) if self.rival else ""

    @property
    def baseline_name(self) -> str:
        """The best baseline's name in words; "" where none was compared."""
        best = self.verdict.best_baseline
        return baseline_words(best) if best else ""

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
    def gain(self) -> float | None:
        """By how much the model is better, patient by patient where that was tested."""
        if self.verdict.test is not None:
            return self.verdict.test.gain
        if self.rival is None or self.score.value is None or self.rival.value is None:
            return None
        difference = self.score.value - self.rival.value
        return -difference if self.score.higher_is_better is False else difference

    @property
    def difference(self) -> str:
        """Model minus baseline, such as `+1.63 [1.08, 2.05]` with its interval over patients."""
        if self.gain is None or self.score.value is None:
            return NO_VALUE
        # a gain is how much better the model is; where lower is better, it is baseline minus model
        sign = -1 if self.score.higher_is_better is False else 1
        decimals = self.score.decimals
        text = number_text(sign * self.gain, decimals)
        if self.gain * sign > 0 and float(text) != 0:
            text = f"+{text}"
        low_high = sorted(sign * end for end in self._gain_ends())
        ends = Score(ci95=[*low_high] or None).interval(decimals)
        return f"{text} {ends}".rstrip()

    def difference_words(self) -> tuple[str, str]:
        """`1.63 dB better` and `1.08 to 2.05 better`, an interval as far as one was computed;
        `equal` where all digits shown are; two "" without a difference.
        """
        gain = self.gain
        if gain is None or not math.isfinite(gain):
            return "", ""

        decimals = self.score.decimals
        sense = "better" if gain >= 0 else "worse"
        size = number_text(abs(gain), decimals)
        text = f"{size} {self.score.unit}".rstrip() + f" {sense}" if float(size) else "equal"
        if not self._gain_ends():
            return text, ""

        low, high = self._gain_ends()
        if low < 0 < high:
            worst, best = number_text(-low, decimals), number_text(high, decimals)
            return text, f"{worst} worse to {best} better"

        shortest, longest = sorted((abs(low), abs(high)))
        ends = f"{number_text(shortest, decimals)} to {number_text(longest, decimals)}"
        return text, f"{ends} {sense}"

    def _gain_ends(self) -> list[float]:
        """The ends of the interval of the gain; none where it was not tested."""
        ends = self.verdict.test.ci95 if self.verdict.test else None
        return [end for end in ends or () if end is not None]


def score_rows(results: Results) -> Iterator[ScoreRow]:
    """Yield all scores beside the best baseline's, in the order of metrics.json."""
    for key, scores in results.metrics.items():
        for metric, score in scores.items():
            verdict = results.verdict_of(key, metric)
            yield ScoreRow(key, metric, score, results.rival(key, metric), verdict)


def region_of(metric: str) -> str:
    """The region at the end of a score's name, `foreground` or `lesion`; "" for the whole image."""
    for region, suffix in SUFFIXES.items():
        if suffix and metric.endswith(suffix):
            return region
    return ""
