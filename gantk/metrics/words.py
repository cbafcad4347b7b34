"""Verdicts, baselines and scores in plain words, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gantk.errors import count_noun
from gantk.metrics.statistics.paired import MIN_TEST_PATIENTS
from gantk.metrics.verdict import (
    Tone,
    needs_pairs,
    tested_patients,
    title_of,
    tone_of,
)
from gantk.plugin.loader import registry
from gantk.runs.results import Results, Score, Verdict

MAX_NAMED_METRICS = 4  # in one sentence; more are only counted
MAX_NAMED_DIRECTIONS = 3  # in one sentence; more are only counted
FROM_NOISE = ("image", "image_post")  # images from noise, and the same after post-steps
# plain name of a baseline, and what it is; plugins add theirs
BASELINES = {
    "identity": (
        "the unchanged input",
        "The input image itself, scored as if it were the result.",
    ),
    "histogram": (
        "histogram matching",
        "The input with as many dark and bright pixels as the images of the other domain.",
    ),
    "intensity_map": (
        "a simple intensity map",
        "The best replacement of each gray value by another one. It is fitted on registered training"
        " pairs, which an unpaired method never sees.",
    ),
    "real_split": (
        "real images of other patients",
        "Real images, scored as if they were generated: the best score that can be expected.",
    ),
    "noise": (
        "pixel noise",
        "Images of random gray values, for models that generate images from noise.",
    ),
}


def baselines() -> dict[str, tuple[str, str]]:
    """Baseline -> its plain name, and what it is."""
    return BASELINES | registry().words("baseline")


def baseline_words(name: str) -> str:
    """`intensity_map` is a simple intensity map; a plugin's baseline without words keeps its name."""
    words, _ = baselines().get(name, ("", ""))
    return words or name.replace("_", " ")


def verdict_words(verdict: Verdict, *, short: bool = False) -> str:
    """A verdict in words, such as "better than every baseline" or "not better than a simple intensity
    map"; `short` for a narrow column.
    """
    tone = tone_of(verdict)
    if tone == "good":
        return "better" if short else "better than every baseline"
    if tone == "bad" and short:
        return "not better"
    if tone == "bad":
        return f"not better than {baseline_words(verdict.best_baseline)}"
    if not tone:
        return "not compared: no baseline was measured"

    reason = "perhaps by chance" if short else "but this can be chance"
    patients = tested_patients(verdict)
    if patients is not None and patients < MIN_TEST_PATIENTS:
        reason = f"{'' if short else 'but '}only {count_noun(patients, 'patient')}"
        reason += "" if short else f" {'was' if patients == 1 else 'were'} tested"
    return f"ahead, {reason}" if short else f"ahead of every baseline, {reason}"


@dataclass(frozen=True)
class _Finding:
    """One score of a direction: its name, and its verdict as a tone and in words."""

    name: str
    tone: Tone
    verdict: str  # in words
    values: str  # such as `PSNR 24.93 dB against 23.20 dB`; "" where the baseline has no value


def result_sentence(results: Results, *, unseen: bool = True) -> str:
    """The results in one sentence that needs no knowledge of the scores; "" where nothing was
    compared. `unseen`: False where patients were allowed on both sides of the split.
    """
    findings = _findings(results)
    if not findings:
        return ""
    if len(findings) > MAX_NAMED_DIRECTIONS:
        findings = _of_results(findings)

    place = _tested_on(results, unseen)
    if len(findings) > MAX_NAMED_DIRECTIONS:
        good = sum(1 for each in findings.values() if {one.tone for one in each} == {"good"})
        return (
            f"{place} the model is better than every baseline in {good} of {len(findings)}"
            " directions."
        )

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
        figures = [f"{name}: {figure}" for name, figure in of_images.items() if figure]
        if len(of_images) == 1:
            figures = [figure for figure in of_images.values() if figure]
        brackets = f" ({'; '.join(figures)})" if figures else ""
        owner = "its" if parts or "the model" in place else "the model's"
        parts.append(f"{owner} {join_words([*of_images])} images {said}{brackets}")

    return f"{place} {'; '.join(parts)}."


def pairs_sentence(results: Results) -> str:
    """A sentence for a model that loses only to baselines that were fitted on pairs, and wins
    against all others; "" for other models.
    """
    lost: list[Verdict] = []
    for verdicts in results.verdict.values():
        lost += [each for each in verdicts.values() if each and tone_of(each) in ("bad", "near")]

    if not lost or any(not needs_pairs(verdict.best_baseline) for verdict in lost):
        return ""
    if any(tone_of(verdict.without_pairs or Verdict()) != "good" for verdict in lost):
        return ""

    names = join_words([*dict.fromkeys(baseline_words(verdict.best_baseline) for verdict in lost)])
    return (
        f"Fitting {names} needs registered pairs. The model is better than every baseline that"
        " needs none."
    )


def _of_results(findings: Mapping[str, list[_Finding]]) -> dict[str, list[_Finding]]:
    """Findings of what the model returns: after the post-steps, under the direction's own name,
    where there are any.
    """
    own = {key: each for key, each in findings.items() if not key.endswith("_post")}
    return {key: findings.get(f"{key}_post", each) for key, each in own.items()}


def _findings(results: Results) -> dict[str, list[_Finding]]:
    """Direction -> its scores that were compared with a baseline; directions without any are left
    out.
    """
    found: dict[str, list[_Finding]] = {}
    for key, scores in results.metrics.items():
        for metric, score in scores.items():
            verdict = results.verdict_of(key, metric)
            tone = tone_of(verdict)
            if tone:
                values = _values(metric, score, results.rival(key, metric))
                name = short_metric_name(metric)
                finding = _Finding(name, tone, verdict_words(verdict), values)
                found.setdefault(key, []).append(finding)

    return found


def _values(metric: str, score: Score, rival: Score | None) -> str:
    """`PSNR 24.93 dB against 23.20 dB`; "" where a value is missing."""
    if score.value is None or rival is None or rival.value is None:
        return ""
    return f"{short_metric_name(metric)} {score.text()} against {rival.text(score.decimals)}"


def _clause(findings: Sequence[_Finding], *, from_noise: bool) -> tuple[str, str]:
    """What is said of a direction's images, and the figures of the first score that it is said of.

    A score that is not better decides; then scores that are better, by name if others may be so by
    chance.
    """
    tones = {finding.tone for finding in findings}
    tone = next(each for each in ("bad", "good", "near") if each in tones)
    deciding = [finding for finding in findings if finding.tone == tone]
    scores = "" if len(tones) == 1 else f" in {_score_names(deciding, len(findings))}"
    if tone == "bad":
        said = f"are {deciding[0].verdict}{scores}"
    elif tone == "near":
        said = f"are {deciding[0].verdict}"
    elif from_noise:
        said = f"are closer to real images than every baseline{scores}"
    else:
        said = f"match the real ones better than every baseline{scores}"
    return said, deciding[0].values


def _score_names(findings: Sequence[_Finding], judged: int) -> str:
    """The names of scores, a region's left out where the whole image's is named too; their number
    where there are more than MAX_NAMED_METRICS.
    """
    all_names = [finding.name for finding in findings]
    names = []
    for name in all_names:
        whole, region, _ = name.partition(" in the ")
        if not region or whole not in all_names:
            names.append(name)
    if len(names) > MAX_NAMED_METRICS:
        return f"{len(findings)} of {judged} scores"
    return join_words(names)


def _tested_on(results: Results, unseen: bool) -> str:
    """`On 8 patients that the model had never seen,` as far as the split allows the claim."""
    by_patient = results.split is not None and results.split.by == "patient"
    unseen = unseen and by_patient and not (results.split and results.split.consequences)
    if set(results.metrics) <= set(FROM_NOISE):  # n counts generated images
        if unseen:
            return "Compared with real images of patients that the model had never seen,"
        return "Compared with real test images,"

    patients = _counts(results, "n")
    if not patients:
        return "On the test images,"
    if patients == {1}:
        whose = "one patient"
    else:
        whose = f"{_from_to(patients)} patients"

    if unseen:
        return f"On {whose} that the model had never seen,"
    images = f"{_from_to(_counts(results, 'images') or patients)} test images"
    if patients == {1} and not by_patient:  # unknown patients count as one
        return f"On {images} whose patients are not known,"
    return f"On {images} of {whose},"


def _counts(results: Results, key: Literal["n", "images"]) -> set[int]:
    """The numbers of patients or images of the directions, each the largest of its metrics."""
    counts = set()
    for scores in results.metrics.values():
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


def metric_words(metric: str) -> tuple[str, str]:
    """A score's name in plain words and what it says, without its region; ("", "") where they are
    not known.
    """
    known = registry().words("metric")
    plain = metric.removesuffix("_foreground").removesuffix("_lesion")
    head, _, rest = plain.partition("_")
    if plain in known:
        return known[plain]
    if head in known:
        name, meaning = known[head]
        return f"{name}, by {rest.replace('_', ' ')} features", meaning
    return "", ""


def short_metric_name(metric: str) -> str:
    """`psnr_foreground` is `PSNR in the foreground`, `ms_ssim` is MS-SSIM."""
    for region in ("foreground", "lesion"):
        if metric.endswith(f"_{region}"):
            return f"{short_metric_name(metric.removesuffix(f'_{region}'))} in the {region}"

    known = registry().words("metric")
    head, _, rest = metric.partition("_")
    if metric in known:
        head, rest = metric, ""
    if head in known:
        name, _ = known[head]
        if name.endswith(")"):
            head = name.rpartition("(")[2].removesuffix(")")
    return f"{head} {rest}".strip().replace("_", " ")


def join_words(items: Sequence[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    if len(items) == 1:
        return items[0]
    return f"{', '.join(items[:-1])} and {items[-1]}"
