"""What results say: one table of texts that terminal, pages, notebooks and cards print, and sentences
that need no knowledge of the scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from gantk.errors import UserError, count_noun
from gantk.metrics.names import (
    baseline_words,
    join_words,
    metric_words,
    needs_pairs,
    short_metric_name,
    split_region,
    title_of,
)
from gantk.metrics.verdict import Tone, p_words, short_verdict_words, tone_of, verdict_words
from gantk.runs.results import NO_VALUE, Results, Score, SplitSummary, Verdict, number_text

if TYPE_CHECKING:
    from gantk.runs.folder import RunFolder

TONES: tuple[Tone, ...] = ("bad", "near", "good", "")  # the worst first
SENSES = {True: "higher is better", False: "lower is better", None: ""}
MAX_NAMED_METRICS = 4  # in one sentence; more are only counted
MAX_NAMED_DIRECTIONS = 3  # in one sentence; more are only counted
MIN_SCALE_GAP = 3.0  # dB that a line through the gray values gains: half of the squared error
NO_SCORES = (
    "No held-out pairs are known, so the outputs are not compared with real images. Compare them as sets:"
    " gantk eval RUN --metrics kid"
)
# heading -> column of a table without colours
TABLE_COLUMNS = {
    "direction": "direction",
    "score": "name",
    "value": "value",
    "95 % interval": "interval",
    "sample": "sample",
    "best baseline": "baseline",
    "which": "baseline_name",
}
FROM_NOISE = ("image", "image_post")  # images from noise, and the same after post-steps
COLUMNS = (
    "key",
    "direction",
    "metric",
    "region",
    "name",
    "plain_name",
    "explanation",
    "sense",
    "definition",
    "value",
    "interval",
    "sample",
    "baseline",
    "baseline_name",
    "difference",
    "difference_interval",
    "tone",
    "verdict",
    "short_verdict",
    "p",
    "fair",
    "fair_tone",
)


def score_rows(results: Results) -> pd.DataFrame:
    """All scores as texts beside the best baseline's, in the order of metrics.json.

    `tone` says how `verdict` may be coloured, `p` why a lead can be chance. `fair` is the verdict
    against baselines that need no pairs, where one that needs them was best.
    """
    rows = [
        _row(results, key, metric, score)
        for key, scores in results.metrics.items()
        for metric, score in scores.items()
    ]
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object)


def _row(results: Results, key: str, metric: str, score: Score) -> dict[str, str]:
    verdict = results.verdict_of(key, metric)
    rival = results.rival(key, metric)
    name = short_metric_name(metric)
    plain_name, explanation = metric_words(metric)
    best = verdict.best_baseline
    fair = verdict.without_pairs or Verdict()
    tone = tone_of(verdict)
    is_unfair = bool(fair.best_baseline) and tone != "good" and needs_pairs(best)
    return {
        "key": key,
        "direction": title_of(key, results.domains),
        "metric": metric,
        "region": split_region(metric)[1],
        "name": name,
        "plain_name": plain_name or name[:1].upper() + name[1:],
        "explanation": explanation,
        "sense": SENSES[score.higher_is_better],
        "definition": score.definition,
        "value": score.text(),
        "interval": score.interval(),
        "sample": score.sample() or NO_VALUE,
        "baseline": rival.text(score.decimals) if rival else NO_VALUE,
        "baseline_name": baseline_words(best) if best else "",
        **_difference(score, rival, verdict),
        "tone": tone,
        "verdict": verdict_words(verdict),
        "short_verdict": short_verdict_words(verdict) if tone else "",
        "p": p_words(verdict),
        "fair": verdict_words(fair, "every baseline that needs no pairs") if is_unfair else "",
        "fair_tone": tone_of(fair) if is_unfair else "",
    }


def _difference(score: Score, rival: Score | None, verdict: Verdict) -> dict[str, str]:
    """By how much the model is better or worse, patient by patient where that was tested."""
    gain = math.nan
    ends: Any = None
    if verdict.test is not None:
        gain = verdict.test.gain
        ends = verdict.test.ci95
    elif rival is not None and score.value is not None and rival.value is not None:
        gain = score.value - rival.value
        if score.higher_is_better is False:
            gain = -gain
    if not math.isfinite(gain):
        return {"difference": NO_VALUE, "difference_interval": ""}

    size = Score(value=gain, ci95=ends).times(1 if gain >= 0 else -1)
    text = number_text(size.value, score.decimals)
    words = f"{text} {'better' if gain >= 0 else 'worse'}"
    interval = size.interval(score.decimals)
    return {
        "difference": words if float(text) else "equal",
        "difference_interval": interval,
    }


def main_rows(results: Results) -> pd.DataFrame:
    """The rows that a table shows first and the sentence speaks of: without those of the foreground
    that are no worse than the whole image's.
    """
    rows = score_rows(results)
    ranks = {(row.key, row.metric): TONES.index(row.tone) for row in rows.itertuples()}
    is_main = [
        row.region != "foreground"
        or ranks[row.key, row.metric] < ranks.get((row.key, split_region(row.metric)[0]), math.inf)
        for row in rows.itertuples()
    ]
    return rows.loc[is_main].copy()


def result_sentence(results: Results, *, unseen: bool = True) -> str:
    """The results in one sentence that needs no knowledge of the scores; "" where nothing was
    compared. `unseen`: False where patients were allowed on both sides of the split.
    """
    if not results.metrics and results.model_fields_set:
        return NO_SCORES
    rows = _judged_rows(results)
    if rows.empty:
        return ""

    place = _tested_on(results, unseen)
    directions = rows.groupby("key", sort=False)
    if len(directions) > MAX_NAMED_DIRECTIONS:
        counts = _worst_first(rows).drop_duplicates("key").verdict.value_counts(sort=False)
        of_all = f"of {len(directions)} directions"
        said = [_say_where(verdict, f"{count} {of_all}") for verdict, count in counts.items()]
        return f"{place} the model is {'; '.join(said)}."

    clauses = [
        f"the model's {title_of(key.removesuffix('_post'), results.domains)} is {_clause(own)}"
        for key, own in directions
    ]
    return f"{place} {'; '.join(clauses)}."


def _worst_first(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values("tone", key=lambda tones: tones.map(TONES.index), kind="stable")


def _say_where(verdict: str, place: str) -> str:
    """`ahead of every baseline in 2 of 4 directions, perhaps by chance`."""
    what, comma, reason = verdict.partition(",")
    return f"{what} in {place}{comma}{reason}"


def _judged_rows(results: Results) -> pd.DataFrame:
    """The main rows of what the model returns that were compared."""
    rows = of_returned_images(main_rows(results))
    return rows[rows.tone != ""]


def of_returned_images(rows: pd.DataFrame) -> pd.DataFrame:
    """Of a direction with post-steps the rows after them, as they are what the model returns."""
    return rows[~(rows.key + "_post").isin(rows.key)].copy()


def _clause(rows: pd.DataFrame) -> str:
    """`not better than a simple intensity map in PSNR, better than every baseline in SSIM (PSNR 24.93
    dB against 25.40 dB)`: the worst verdict first, and the figures of its first score.
    """
    ranked = _worst_first(rows)
    clauses = []
    for verdict, own in ranked.groupby("verdict", sort=False):
        names = join_words([*own["name"]])
        scores = names if len(own) <= MAX_NAMED_METRICS else f"{len(own)} of {len(rows)} scores"
        clauses.append(_say_where(verdict, scores))
    first = ranked.iloc[0]
    figures = f"{first['name']} {first.value} against {first.baseline}"
    p = f"; {first.p}" if first.p else ""
    return f"{', '.join(clauses)} ({figures}{p})"


def result_tone(results: Results) -> Tone:
    """The tone of `result_sentence`: that of the worst score."""
    return min(_judged_rows(results).tone, key=TONES.index, default="")


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
    rows = main_rows(results)
    lost = rows[rows.tone.isin(["bad", "near"])]
    if lost.empty or not (lost.fair_tone == "good").all():
        return ""
    names = join_words([*lost.baseline_name.unique()])
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

        sentence = f"{title_of(key, results.domains)}: {list_scores(known)}."
        psnr = known.get("psnr", Score())
        if psnr.value is not None and (psnr.corrected or 0.0) - psnr.value >= MIN_SCALE_GAP:
            rescaled = Score(value=psnr.corrected, unit="dB").text()
            sentence += (
                " The written gray values are on the scale of the training images, the true ones on"
                f" another: rescaled by a line for each image, PSNR is {rescaled}."
            )
        yield sentence


def list_scores(scores: Mapping[str, Score]) -> str:
    """`PSNR 24.51 dB, SSIM 0.853`."""
    return ", ".join(f"{short_metric_name(name)} {score.text()}" for name, score in scores.items())


def unchanged_input(results: Results, key: str) -> dict[str, str]:
    """The scores of the unchanged input as texts, by metric: of the same images they are equal on
    one gray scale alone.
    """
    return {metric: score.text() for metric, score in results.baseline("identity", key).items()}


def unlike_inputs(results: Mapping[str, Results]) -> str:
    """`16.28 dB in pix2pix, 17.02 dB in cyclegan`: the score of the unchanged input in runs that were
    tested on the same images, where it differs, so that scores are of other gray scales; else "".
    """
    lines = [
        (key, metric, name, text)
        for name, each in results.items()
        for key in each.metrics
        for metric, text in unchanged_input(each, key).items()
    ]
    table = pd.DataFrame(lines, columns=["key", "metric", "name", "text"])
    for _, own in table.groupby(["key", "metric"], sort=False):
        if own.text.nunique() > 1:
            return ", ".join(
                f"{text} in {name}" for name, text in zip(own["name"], own.text, strict=True)
            )
    return ""


def _tested_on(results: Results, unseen: bool) -> str:
    """`On 8 patients that the model had never seen,` as far as the split allows the claim."""
    split = results.split or SplitSummary()
    unseen = unseen and split.by == "patient" and not split.consequences
    if set(results.metrics) <= set(FROM_NOISE):  # n counts generated images
        return f"Compared with real images{' of unseen patients' if unseen else ''},"

    scores = [
        score
        for key, of_direction in results.metrics.items()
        if key not in FROM_NOISE
        for score in of_direction.values()
    ]
    images = _largest([score.images for score in scores])
    patients = _largest([score.n for score in scores])
    if not patients_are_known(results):
        return f"On {count_noun(images, 'test image')} whose patients are not known,"
    whose = count_noun(patients, "patient")
    if unseen:
        return f"On {whose} that the model had never seen,"
    warning = " (see the warning)" if split.consequences else ""
    return f"On {count_noun(images, 'test image')} of {whose}{warning},"


def _largest(numbers: Sequence[int | None]) -> int:
    return max((number or 0 for number in numbers), default=0)


def patients_are_known(results: Results) -> bool:
    """Whether the patient of every test image is known."""
    return results.split is None or not results.split.unknown_patients
