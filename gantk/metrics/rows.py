"""What results say: one table of texts that terminal, pages, notebooks and cards print, and sentences
that need no knowledge of the scores.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gantk.data.test_size import least_patients
from gantk.errors import UserError, count_noun
from gantk.metrics.names import (
    AFTER_POSTS,
    CEILING,
    FOREGROUND,
    LESION,
    WITH_MASKS,
    baseline_words,
    join_words,
    metric_words,
    needs_pairs,
    short_metric_name,
    split_region,
    title_of,
)
from gantk.metrics.verdict import (
    TONES,
    Tone,
    deciding_p,
    short_verdict,
    tone_of,
    verdict_words,
)
from gantk.runs.results import (
    NO_VALUE,
    OF_RANGE,
    Results,
    Score,
    SplitSummary,
    Verdict,
    number_text,
)

if TYPE_CHECKING:
    from gantk.runs.folder import RunFolder

SENSES = {True: "higher is better", False: "lower is better", None: ""}
MAX_NAMED_DIRECTIONS = 3  # in one sentence; of more, the lowest and the highest
# of a score of the unchanged input, or of 1, between runs on one gray scale; the second of scores without a
# unit, such as SSIM and KID, which devices compute less exactly
MAX_SCALE_GAP = 1e-4
MAX_FEATURE_GAP = 0.01
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
    "baseline": "baseline",
    "which": "baseline_name",
}
OF_SETS = (
    "Without registered pairs nothing here says whether an image is right: {} compares sets of images, and"
    " sees neither a patient's anatomy nor wrong tissue."
)
FROM_NOISE = ("image", "image_post")  # images from noise, and the same after post-steps
RANDOM_FEATURES = "random features see neither anatomy nor lesions, so these scores cannot show that images look real"


@dataclass
class Row:
    """A score as texts, beside the best baseline's."""

    key: str
    direction: str
    metric: str
    region: str
    name: str
    plain_name: str
    explanation: str
    sense: str
    unit: str
    definition: str
    value: str
    interval: str
    sample: str
    baseline: str
    baseline_name: str
    tone: Tone
    verdict: str
    difference: str
    difference_interval: str
    ceiling: str  # the score of other real images; "" where it is unknown


def score_rows(results: Results) -> list[Row]:
    """All scores as texts beside the best baseline's, in the order of metrics.json; `tone` says how
    `verdict` may be coloured.
    """
    return [
        _row(results, key, metric, score)
        for key, scores in results.metrics.items()
        for metric, score in scores.items()
    ]


def _row(results: Results, key: str, metric: str, score: Score) -> Row:
    rival = results.rival(key, metric)
    # old runs have verdicts beside the truth, whose scores are removed
    verdict = results.verdict_of(key, metric) if rival else Verdict()
    best = verdict.best_baseline
    beside = rival
    if not best and score.higher_is_better is None:  # the baseline of the direction's first score
        best = results.verdict_of(key, next(iter(results.metrics[key]))).best_baseline
        beside = results.baseline(best, key).get(metric)
    ceiling = results.baseline(CEILING, key).get(metric, Score())
    name = short_metric_name(metric)
    plain_name, explanation = metric_words(metric)
    # a metric has one number of decimals in all directions
    of_metric = [scores[metric] for scores in results.metrics.values() if metric in scores]
    places = min(each.in_percent.decimals for each in of_metric)
    difference, difference_interval = _difference(score, rival, verdict, places)
    shown = score.in_percent
    return Row(
        key,
        title_of(key, results.domains),
        metric,
        split_region(metric)[1],
        name,
        plain_name or name[:1].upper() + name[1:],
        explanation,
        SENSES[score.higher_is_better],
        shown.unit,
        score.definition,
        shown.text(places),
        shown.interval(places),
        score.sample() or NO_VALUE,
        beside.in_percent.text(places) if beside else NO_VALUE,
        baseline_words(best, results.baseline_steps) if best and beside else "",
        tone_of(verdict),
        _of_lesions(results, metric, score) or short_verdict(verdict),
        difference,
        difference_interval,
        "" if ceiling.value is None else ceiling.text(places),
    )


def _of_lesions(results: Results, metric: str, score: Score) -> str:
    """The verdict of a metric of lesions, which is compared with no baseline; "" of others."""
    made = {case.made for case in results.cases.values()}
    # of a model that makes several contrasts, each from others, a mean over all says little of one
    if metric not in WITH_MASKS or len(made) > 1:
        return ""
    return WITH_MASKS[metric].load().verdict(score)


def _difference(
    score: Score, rival: Score | None, verdict: Verdict, places: int
) -> tuple[str, str]:
    """By how much the model is better or worse, patient by patient where that was tested; and the
    interval.
    """
    if verdict.test is not None:
        gain = verdict.test.gain
    elif rival is None or score.value is None or rival.value is None:
        return NO_VALUE, ""
    else:
        gain = (score.value - rival.value) * (-1 if score.higher_is_better is False else 1)
    ends = verdict.test.ci95 if verdict.test else None
    if not math.isfinite(gain):
        return NO_VALUE, ""

    size = Score(value=gain, ci95=ends, unit=score.unit).times(1 if gain >= 0 else -1).in_percent
    words = f"{size.text(places)} {'better' if gain >= 0 else 'worse'}"
    is_equal = not float(number_text(size.value, places))
    return "equal" if is_equal else words, size.interval(places)


class Said(NamedTuple):
    """A sentence on a result, and its tone."""

    text: str
    tone: Tone


def result_sentences(results: Results, *, unseen: bool = True) -> list[Said]:
    """The result in sentences that need no knowledge of the scores: of sets what they leave open; the
    first score of each direction, directions that are behind first; then where other scores fare worse.
    [] where nothing was compared. `unseen`: False where patients were allowed on both sides of the split.
    """
    if not results.metrics and results.model_fields_set:
        return [Said(NO_SCORES, "")]
    if results.whole_files and (said := result_sentences(results.whole_files, unseen=unseen)):
        (text, tone), *others = said
        return [Said(text.replace("On", "On whole files of", 1), tone), *others]
    first, worse = _judged_rows(results)
    beside_real = [row for row in first if row.key in FROM_NOISE and row.ceiling]
    told = [row.key for row in beside_real]
    clauses = [*_verdicts_in_words(results, [row for row in first if row.key not in told])]
    for key in told:
        clauses += _beside_real_images(results, key)
    clauses += _verdicts_by_score(results, [row for row in worse if row.key not in told])
    if clauses:
        text, tone = clauses[0]
        clauses[0] = Said(f"{_tested_on(results, unseen)} {text}", tone)
    of_sets = Said(sets_sentence(results).removesuffix("."), "near")
    clauses = [of_sets, *clauses, *_without_verdicts(results), *_mean_errors(results)]
    return [Said(f"{text[0].upper()}{text[1:]}.", tone) for text, tone in clauses if text]


def _verdicts_by_score(results: Results, rows: Sequence[Row]) -> Iterator[Said]:
    """Yield `by SSIM in the lesion, T1 -> T2 is not better than ...` for each score of these rows."""
    by_score = defaultdict(list)
    for row in rows:
        by_score[row.name].append(replace(row, name=""))  # which is said once
    for name, own in by_score.items():
        for clause, tone in _verdicts_in_words(results, own):
            yield Said(f"by {name}, {clause}", tone)


def result_sentence(results: Results, *, unseen: bool = True) -> str:
    """`result_sentences` in one text."""
    return " ".join(text for text, _ in result_sentences(results, unseen=unseen))


def result_tone(results: Results) -> Tone:
    """The worst tone of `result_sentences`."""
    tones: list[Tone] = [tone for _, tone in result_sentences(results)]
    return min(tones, key=TONES.index, default="")


def _without_verdicts(results: Results) -> Iterator[Said]:
    """Yield what scores show that are compared with no baseline: the results of metrics in words."""
    for row in returned_rows(results):
        score = results.metrics[row.key][row.metric]
        if "result" in score.details:
            yield Said(f"{row.direction}: {score.details['result']}", "")
        if row.metric in WITH_MASKS and row.verdict:
            metric = WITH_MASKS[row.metric].load()
            said = metric.result(score, f"{row.value} {row.interval}".strip())
            sample = row.sample.partition(" (")[0]
            if (score.n or 0) < least_patients():
                sample += ", too few to be sure"
            yield Said(f"{row.direction} {said} ({sample})", "bad")


def _mean_errors(results: Results) -> Iterator[Said]:
    """Yield `the mean error is 10 % for MR -> CT (22 % in the foreground), where 100 % is the range from black to white`."""
    said: list[str] = []
    for key, scores in results.metrics.items():
        whole = scores.get("mae", Score()).in_percent
        is_last = f"{key}_post" not in results.metrics
        if is_last and whole.unit == OF_RANGE and whole.value is not None:
            title = title_of(key, results.domains).removesuffix(AFTER_POSTS)
            inside = [
                f"{part.value:.0f} % in {where}"
                for end, where in ((FOREGROUND, "the foreground"), (LESION, "lesions"))
                if (part := scores.get("mae" + end, Score()).in_percent).value is not None
            ]
            more = f" ({', '.join(inside)})" if inside else ""
            said.append(f"{whole.value:.0f} % for {title}{more}")
    if 0 < len(said) <= MAX_NAMED_DIRECTIONS:
        errors = join_words(said)
        yield Said(f"the mean error is {errors}, where 100 % is the range from black to white", "")


def sets_sentence(results: Results) -> str:
    """What scores leave open that compare sets of translations alone; "" for other results."""
    first, _ = _judged_rows(results)
    names = dict.fromkeys(row.name for row in first if _is_of_sets_alone(results, row.key))
    return OF_SETS.format(join_words([*names])) if names else ""


def _is_of_sets_alone(results: Results, key: str) -> bool:
    """Whether the scores of a direction compare sets of translations: none knows what is right."""
    judged = [
        score
        for name, score in results.metrics[key].items()
        if name in results.verdict.get(key, {})
    ]
    return key not in FROM_NOISE and all(score.of_sets for score in judged)


def _beside_real_images(results: Results, key: str) -> Iterator[Said]:
    """Yield `the model reaches KID 0.37 (other real images: -0.03) with T1 from noise`, and which scores
    are not better than noise; then what scores by random features cannot show.
    """
    rows = [row for row in returned_rows(results) if row.key == key and row.tone]
    found = [f"{row.name} {row.value} ({row.ceiling})" for row in rows if row.ceiling]
    found[0] = found[0].replace("(", "(other real images: ")
    lost = [row.name for row in rows if row.tone == "bad"]
    worse = f"; no better than {rows[0].baseline_name} in {join_words(lost)}" if lost else ""
    reached = f"the model reaches {join_words(found)} with {rows[0].direction}{worse}"
    yield Said(reached, "bad" if lost else "near")
    if any(row.metric.endswith("_random") for row in rows):
        yield Said(RANDOM_FEATURES, "")


def _verdicts_in_words(results: Results, rows: Sequence[Row]) -> Iterator[Said]:
    """Yield `T1 -> T2 is not better than the unchanged input (SSIM 0.020 worse)` for each verdict; of
    scores that lead by chance the p of the least certain one. To be better than noise, or as a set, is
    not good.
    """
    if len({row.key for row in rows}) > MAX_NAMED_DIRECTIONS:
        yield from _verdicts_counted(results, rows)
        return
    groups = defaultdict(list)
    for row in rows:
        groups[row.tone, row.baseline_name].append(row)

    for (tone, rival), own in groups.items():
        gains = []
        said = ""  # the name of the score above, which is not repeated
        for row in own:
            name = "" if row.name == said else row.name
            said = row.name
            gain = f"{name} {row.difference} {row.difference_interval}".strip()
            inside = results.verdict_of(row.key, row.metric + FOREGROUND)
            if row.tone == "bad" and inside.better:
                gain += (
                    f", but {'better' if tone_of(inside) == 'good' else 'ahead'} in the foreground"
                )
            if row.tone != "bad" and _leads_by_brightness(results, row):
                gain += ", but worse after brightness and contrast are corrected"
            gains.append(gain)
        directions = join_words([row.direction for row in own])
        subject = f"{directions} {'is' if len(own) == 1 else 'are'}"
        verdicts = [results.verdict_of(row.key, row.metric) for row in own]
        worst = verdict_words(max(verdicts, key=deciding_p), f"{rival} ({'; '.join(gains)})")
        unsure = any(row.key in FROM_NOISE or _is_of_sets_alone(results, row.key) for row in own)
        yield Said(f"{subject} {worst}", "near" if unsure and tone == "good" else tone)


def _leads_by_brightness(results: Results, row: Row) -> bool:
    """Whether a model that is ahead is behind after the best linear correction of its and the baseline's
    intensities.
    """
    rival = results.rival(row.key, row.metric) or Score()
    score = results.metrics[row.key][row.metric]
    model, baseline = (each.model_copy(update={"value": each.corrected}) for each in (score, rival))
    return baseline.is_better_than(model)


def _verdicts_counted(results: Results, rows: Sequence[Row]) -> Iterator[Said]:
    """Yield `PSNR is 21.2 dB (T1 -> T1CE) to 24.9 dB (T1 -> T2) in 12 directions`, unless the rows have no
    name, and in how many directions the model has which verdict.
    """
    if rows[0].name:
        ordered = sorted(rows, key=lambda row: results.metrics[row.key][row.metric].value or 0.0)
        low, high = (f"{row.value} ({row.direction})" for row in (ordered[0], ordered[-1]))
        yield Said(f"{rows[0].name} is {low} to {high} in {len(rows)} directions", "")
    verdicts = defaultdict(list)
    for row in rows:
        verdicts[row.tone].append(results.verdict_of(row.key, row.metric))
    rival = "the best baseline"
    parts = []
    for own in verdicts.values():
        where = f"{rival} in {count_noun(own, 'direction')}"
        parts.append(verdict_words(max(own, key=deciding_p), where))
        rival = "it"
    worst = min((row.tone for row in rows), key=TONES.index)
    yield Said(f"the model is {'; '.join(parts)}", worst)


def _judged_rows(results: Results) -> tuple[list[Row], list[Row]]:
    """The rows that the result speaks of: the first of each direction that was compared, the worst
    verdicts first; and those that fare worse than it: the first row of each region that is behind, of
    lesions also one that is only ahead.
    """
    rows = [row for row in returned_rows(results) if row.tone]
    first: dict[str, Row] = {}
    worse: dict[tuple[str, str], Row] = {}
    for row in rows:
        place = row.key, row.region
        above = worse.get(place) or first.setdefault(row.key, row)
        is_worse = TONES.index(row.tone) < TONES.index(above.tone)
        if is_worse and (row.tone == "bad" or row.region == "lesion"):
            worse[place] = row
    return sorted(first.values(), key=lambda row: TONES.index(row.tone)), [*worse.values()]


def returned_rows(results: Results) -> list[Row]:
    """The rows of which the sentence speaks: of the foreground only scores whose verdict is not that of
    the whole image, and of a direction with post-steps those after them, under the direction's own name.
    """
    rows = score_rows(results)
    tones = {(row.key, row.metric + FOREGROUND): row.tone for row in rows}
    kept = [
        row
        for row in rows
        if tones.get((row.key, row.metric)) != row.tone and f"{row.key}_post" not in results.metrics
    ]
    for row in kept:
        row.direction = row.direction.removesuffix(AFTER_POSTS)
    return kept


def judgement(run: RunFolder) -> tuple[str, Tone]:
    """The first sentence of a run's report, and its tone; "" where the run was never scored."""
    from gantk.runs.schemas import read_results

    try:
        results = read_results(run.path)
    except UserError:
        return "", ""
    return result_sentence(results, unseen=not run.leaks), result_tone(results)


def pairs_sentence(results: Results) -> str:
    """A sentence for a model that loses only to baselines that were fitted on pairs, and wins
    against all others, or that has no such baselines; "" for other models.
    """
    is_of_pairs = any(
        not score.of_sets and score.higher_is_better is not None
        for scores in results.metrics.values()
        for score in scores.values()
    )
    if is_of_pairs and results.baselines and not any(map(needs_pairs, results.baselines)):
        missing = baseline_words("intensity_map")
        return f"{missing}, often the strongest baseline, is missing, because it needs registered pairs."
    lost = [row for row in score_rows(results) if row.tone in ("bad", "near")]
    verdicts = [results.verdict_of(row.key, row.metric) for row in lost]
    if not lost or not all(
        needs_pairs(each.best_baseline) and tone_of(each.without_pairs or Verdict()) == "good"
        for each in verdicts
    ):
        return ""
    names = join_words([*dict.fromkeys(row.baseline_name for row in lost)])
    return (
        f"Fitting {names} needs registered pairs. The model is better than every baseline that"
        " needs none."
    )


def list_scores(scores: Mapping[str, Score]) -> str:
    """`PSNR 24.51 dB, SSIM 0.853`: those that have a value."""
    known = {name: score for name, score in scores.items() if score.value is not None}
    return ", ".join(f"{short_metric_name(name)} {score.text()}" for name, score in known.items())


def unlike_inputs(results: Mapping[str, Results]) -> str:
    """`PSNR 16.2801 dB in pix2pix, 17.0213 dB in cyclegan`: a score of the unchanged input in runs that
    were tested on the same images, where it differs, so that scores are of other gray scales; else "".
    """
    first, *_ = results.values()
    for key in first.metrics:
        for metric, of_first in first.baseline("identity", key).items():
            scores = [
                own.baseline("identity", key).get(metric, Score()) for own in results.values()
            ]
            values = np.array([score.value for score in scores], float)  # NaN where it is not known
            gap = MAX_SCALE_GAP if of_first.unit else MAX_FEATURE_GAP
            if np.ptp(values) > gap * max(1.0, np.abs(values).max()):
                found = [
                    f"{score.text(4)} in {name}"
                    for name, score in zip(results, scores, strict=True)
                ]
                return f"{short_metric_name(metric)} {', '.join(found)}"
    return ""


def _tested_on(results: Results, unseen: bool) -> str:
    """`On 8 unseen patients,` as far as the split allows the claim."""
    split = results.split or SplitSummary()
    unseen = unseen and split.by == "patient" and not split.consequences
    directions = [
        scores.values()
        for key, scores in results.metrics.items()
        if scores and key not in FROM_NOISE  # their n counts generated images
    ]
    if not directions:
        return f"Compared with real images{' of unseen patients' if unseen else ''},"

    images = _counts([[each.images for each in scores] for scores in directions], "test image")
    if not patients_are_known(results):
        is_one_count = len(directions) > 1 and " and " not in images
        each = " in each direction" if is_one_count else ""
        return f"On {images} of unknown patients{each},"
    patients = [[each.n for each in scores] for scores in directions]
    if unseen:
        return f"On {_counts(patients, 'unseen patient')},"
    whose = _counts(patients, "patient")
    if split.by == "known files":
        return f"On {whose} new to it, as far as known,"
    warning = " (see the warning)" if split.consequences else ""
    return f"On {images} of {whose}{warning},"


def _counts(directions: Iterable[Iterable[int | None]], noun: str) -> str:
    """How many images or patients each direction was tested on: `20 and 31 test images`."""
    *others, last = dict.fromkeys(max(each or 0 for each in counts) for counts in directions)
    return f"{', '.join(map(str, others))} and {last} {noun}s" if others else count_noun(last, noun)


def patients_are_known(results: Results) -> bool:
    """Whether the patient of every test image is known."""
    return results.split is None or not results.split.unknown_patients
