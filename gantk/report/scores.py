"""The summary of scores as a table, a line for each score of each system, which pages, scores.csv and
scores.tex print; and their tests.

Its columns: `direction` in words, `section` (a region, or what the metric names), `system`, `metric`, and
`score`, a `gantk.runs.results.Score`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from gantk.metrics.comparing import SystemTest
from gantk.metrics.names import CEILING, baseline_words, join_words, region_of
from gantk.metrics.verdict import deciding_p
from gantk.plugin.loader import registry
from gantk.report.words import ARROW, direction_name, metric_name
from gantk.runs.results import Results, number_text

COLUMNS = ["direction", "section", "system", "metric", "score"]
ROW = ["direction", "section", "rival"]
PLACE = ["direction", "metric"]
DIFFERENCES = [
    *PLACE,
    "unit",
    "system",
    "other",
    "better_by",
    "ci95_low",
    "ci95_high",
    "patients",
    "p",
    "p_corrected",
    "comparisons",
    "text",
]
HEADS = {
    "metric": "score",
    "system": "system",
    "other": "against",
    "text": "difference",
    "patients": "n",
    "p_corrected": "p",
}
END = r"\end{tabular}"
NOTE_ROW = r"\multicolumn{{{}}}{{p{{0.9\linewidth}}}}{{\footnotesize {}}} \\" + "\n"
GAINS = "difference: positive is better; mean over n patients [95 % interval]; p is corrected for all comparisons, of the first score for the directions"
BASELINES = (
    "Baselines: {}. Each run has its own; where these differ, its name stands in parentheses."
)
BRACKETS = "mean over patients, or of a whole set, [95 % interval], or (lowest to highest) of fewer than six"


def summarise_systems(systems: Mapping[str, Results]) -> pd.DataFrame:
    """The summary of systems by name and of their baselines: each once, or that of each system where
    they differ. Its attribute `baselines` says in a sentence what their short names leave out.
    """
    lines = [
        (direction_name(key, results.domains), system, rival, metric, score)
        for system, results in systems.items()
        for key, scores in results.metrics.items()
        for rival in ("", *results.baselines)
        for metric, score in (results.baseline(rival, key) if rival else scores).items()
        if metric in scores
    ]
    columns = ["direction", "system", "rival", "metric", "score"]
    table = pd.DataFrame(lines, columns=columns, dtype=object)
    table["section"] = table.metric.map(_section)
    table["text"] = [score.text() for score in table.score]

    of_models = table[table.rival == ""]
    rows = [of_models]
    for (_, _, rival), own in table.drop(of_models.index).groupby(ROW, sort=False):
        differs = own.groupby("metric").text.nunique().max() > 1
        name = baseline_words(rival)
        if differs:
            rows.append(own.assign(system=name + " (" + own.system + ")"))
        else:
            rows.append(own.drop_duplicates("metric").assign(system=name))
    summary = pd.concat(rows, ignore_index=True)[COLUMNS]
    names = {
        baseline_words(rival, results.baseline_steps): None
        for results in systems.values()
        for rival in results.baselines
        if rival != CEILING
    }
    summary.attrs["baselines"] = BASELINES.format(join_words(list(names) or ["none"]))
    return summary


def grids(summary: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield each direction and section of a summary with its scores: a row for each system, a column
    for each metric; None where a system has no such score.
    """
    for (direction, section), lines in summary.groupby(["direction", "section"], sort=False):
        by_system = lines.groupby(["system", "metric"], sort=False)["score"].first()
        grid = by_system.unstack(sort=False)
        yield direction, section, grid.astype(object).where(grid.notna(), None)


def _section(score: str) -> str:
    """The section of a score: its region, or what its metric names."""
    metric = registry().metric_of(score)
    section = metric.section if metric else ""
    return region_of(score).capitalize() or section or "Whole image"


def summary_csv(summary: pd.DataFrame, caution: str) -> str:
    """The summary as CSV, with a line for each score, and the caution beside each, if there is one."""
    ends = [
        [*(score.ends or (None, None)), *(score.range or (None, None))] for score in summary.score
    ]
    table = pd.DataFrame(
        {
            "direction": summary.direction.str.replace(ARROW, " -> "),
            "system": summary.system,
            "metric": summary.metric,
            "region": [region_of(metric) or "whole" for metric in summary.metric],
            "unit": [score.unit for score in summary.score],
            "value": [score.value for score in summary.score],
        }
    )
    table[["ci95_low", "ci95_high", "lowest_patient", "highest_patient"]] = ends
    patients = [
        None if score.of_sets or score.patients_unknown else score.n for score in summary.score
    ]
    table["patients"] = pd.array(patients, dtype="Int64")
    table["images"] = pd.array([score.images for score in summary.score], dtype="Int64")
    if caution:
        table["caution"] = caution
    return table.to_csv(index=False, lineterminator="\n")


def summary_latex(summary: pd.DataFrame, caution: str) -> str:
    """The summary as LaTeX: a tabular for each direction and section, with `24.31 [23.81, 24.81]`, and
    the caution as its last row.
    """
    parts = []
    escaped = pd.DataFrame([caution]).to_latex(escape=True, index=False, header=False)
    # the row between the rules; LaTeX's default encoding has no >
    note = escaped.splitlines()[3].removesuffix(r" \\").replace("->", r"$\to$")
    for direction, section, grid in grids(summary):
        texts = pd.DataFrame(index=grid.index.rename(None))
        samples = defaultdict(list)
        for metric, scores in grid.items():
            first = next(filter(None, scores))
            head = metric_name(metric) + (f", {first.unit}" if first.unit else "")
            places = first.decimals
            texts[head] = [
                ""
                if score is None
                else f"{number_text(score.value, places)} {score.interval(places)}".rstrip()
                for score in scores
            ]
            for sample in {score.sample() for score in scores if score}:
                samples[sample].append(metric_name(metric))
        counts = (f"{join_words(of)} {n}" for n, of in samples.items() if n)
        about = "; ".join([BRACKETS, *counts])
        title = f"{direction}, {section}".replace(ARROW, " -> ")
        latex = texts.to_latex(escape=True, column_format="l" + "r" * grid.shape[1])
        if caution:
            row = NOTE_ROW.format(1 + grid.shape[1], note)
            latex = latex.replace(END, row + END)
        parts.append(f"% {title}\n% {about}\n% {summary.attrs['baselines']}\n{latex}")
    return "\n".join(parts)


def differences(tests: Sequence[SystemTest]) -> pd.DataFrame:
    """By how much systems are better than others, or than baselines, a line for each test: the interval,
    p, and p corrected by Holm for so many comparisons; and the gain as text.
    """
    lines = []
    for test in tests:
        gain = test.gain, *(test.ci95 or (None, None)), test.n, test.p
        title = test.label.replace(ARROW, " -> ")
        named = title, test.score, test.unit, test.one, test.other
        lines.append((*named, *gain, *deciding_p(test.verdict), test.text))
    return pd.DataFrame(lines, columns=DIFFERENCES)


def differences_latex(found: pd.DataFrame) -> str:
    """`differences` as LaTeX: a tabular for each direction, with p as corrected."""
    parts = []
    texts = found.assign(metric=found.metric.map(metric_name))
    for direction, own in texts.groupby("direction", sort=False):
        shown = own[[*HEADS]].rename(columns=HEADS)
        latex = shown.to_latex(index=False, escape=True, float_format="%.2g")
        parts.append(f"% {direction}\n% {GAINS}\n{latex}")
    return "\n".join(parts)


def verdict_tests(results: Results, system: str = "model") -> list[SystemTest]:
    """The tests of the verdicts on a system."""
    return [
        SystemTest(
            place=(direction_name(key, results.domains), metric),
            one=system,
            other=baseline_words(verdict.best_baseline),
            unit=results.metrics[key][metric].unit,
            **dict(verdict.test),
        )
        for key, verdicts in results.verdict.items()
        for metric, verdict in verdicts.items()
        if verdict and verdict.test and verdict.test.holm is not None
    ]
