"""The top of report.html: the result in one sentence, typical images, and scores beside the best
baseline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from gantk.errors import count_noun
from gantk.metrics.names import short_metric_name
from gantk.metrics.rows import (
    FROM_NOISE,
    Said,
    pairs_sentence,
    result_sentences,
    score_rows,
)
from gantk.metrics.summary import remarks
from gantk.report import words
from gantk.report.heading import figures_beside, figures_note, system_of
from gantk.report.patients.section import ShownPatients, rows_of
from gantk.report.pictures import data_uri, image_uri
from gantk.report.run_record import Direction, RunRecord, Samples
from gantk.runs.results import Results, Score

MAX_TYPICAL_DIRECTIONS = 4
MAX_FROM_NOISE = 6  # generated images, and as many real ones


def summarise(run: RunRecord) -> list[Said]:
    """The result in sentences with their tones, the last on baselines that need pairs."""
    said = result_sentences(run.results, unseen=not run.leak)
    if run.results.metrics and not said:
        said = [Said("The scores have nothing to be compared with: no baseline was measured.", "")]
    said.append(Said(pairs_sentence(run.results.judged_by), ""))
    return [Said(text.replace(" -> ", words.ARROW), tone) for text, tone in said if text]


# ---- the table of scores


class ScoreTable(NamedTuple):
    """The main scores of a direction beside the best baseline."""

    label: str
    sample: str  # how many patients and images were tested
    rows: list[Any]  # of `gantk.metrics.rows`
    remarks: list[tuple[str, str]]  # "warning" or "note", and its text
    figures: dict[str, str]  # published ones, by metric
    published: str  # what stands below each of them


def score_tables(run: RunRecord) -> list[ScoreTable]:
    """For each direction its main scores beside the best baseline, those after the post-steps first, of
    which the result speaks: those of whole files, then those that whole files have not.
    """
    whole = run.results.whole_files
    if whole is None:
        return [*_tables_of(run, run.results, "")]
    size = " x ".join(map(str, run.recipe.data.size))
    tables = [*_tables_of(run, whole, ", whole files")]
    for table in _tables_of(run, run.results, f", at {size} pixels, the size of the networks"):
        rows = [row for row in table.rows if row.metric not in whole.metrics.get(row.key, ())]
        if rows:
            tables.append(table._replace(rows=rows))
    return tables


def _tables_of(run: RunRecord, results: Results, where: str) -> Iterator[ScoreTable]:
    """Yield a table for each direction of results; `where` they were measured."""
    system = system_of(run)
    rows = score_rows(results)
    metrics = results.metrics
    for key in sorted(metrics, key=lambda name: not name.endswith("_post")):
        scores = metrics[key]
        largest = max(scores.values(), key=lambda score: score.n or 0, default=Score())
        samples = [largest.sample()]
        if key in FROM_NOISE:  # of which a few scores test real images
            samples += [score.sample() for score in scores.values()]
        yield ScoreTable(
            label=run.label(key) + where,
            sample="; some scores of ".join(dict.fromkeys(samples)),
            rows=[row for row in rows if row.key == key],
            remarks=[*remarks(results, key)],
            figures=figures_beside(system, key, scores),
            published=figures_note(system),
        )


# ---- typical images


class Figure(NamedTuple):
    """Pictures as data URIs with their titles, in rows."""

    label: str
    caption: str
    rows: list[list[tuple[str, str]]]


def typical_images(run: RunRecord, patients: Sequence[ShownPatients]) -> list[Figure]:
    """For each direction a caption and pictures with their titles: a typical test image, else a
    held-out image of the last step; generated and real images for those from noise.
    """
    samples = run.samples
    if not samples:
        return []

    scored = {found.key: found for found in patients}
    figures = []
    for direction in run.directions[:MAX_TYPICAL_DIRECTIONS]:
        if direction.source is None:
            figures.append(_from_noise(samples, direction))
            continue
        found = scored.get(direction.key)
        has_posts = f"{direction.key}_post" in run.results.metrics
        figure = _typical_case(found, has_posts) if found else None
        held_out = not run.holds_out_nothing
        figures.append(figure or _latest_sample(samples, direction, held_out=held_out))

    return [figure for figure in figures if figure.rows]


def _typical_case(found: ShownPatients, has_posts: bool) -> Figure | None:
    """The pictures and the score of the stored image with the median score of all test images, or of a
    test image without a true one, before the post-steps; None in runs that kept none.
    """
    cases = [(case, case.stored) for case in found.cases if case.stored]
    if found.metrics:
        cases = [(case, stored) for case, stored in cases if stored.median_of]
    if not cases:
        return None
    case, stored = cases[0]
    shown = rows_of([case])
    ((_, pictures),) = shown.cases
    caption = f"{case.label.capitalize()}, chosen without looking at the result."
    if found.metrics:
        metric, of_all = next(iter(found.metrics.items()))
        value = Score(value=case.scores[metric], unit=of_all.unit)
        count = stored.median_of or 0
        which = "median" if count > 2 else "worst"
        caption = (
            f"The {which} of {count_noun(count, 'test image')}, of"
            f" {case.label}: its {short_metric_name(metric)} is {words.with_unit(value)} at the size of the network. {shown.scale}"
        )
    if has_posts:
        caption += " It is shown before the post-steps."
    caption += f" `samples/test/index.json` names its file (`{stored.stem}`)."
    return Figure(found.label, caption, [[(title, image_uri(each)) for title, each in pictures]])


def _latest_sample(samples: Samples, direction: Direction, *, held_out: bool) -> Figure:
    """The first sample of the last step that was saved: a held-out image, where any is held out."""
    step = samples.steps[-1]
    titles = {f"Input: {direction.source}": samples.picture("input", direction, 0)}
    if samples.has_truth:
        titles[f"Real {direction.to}"] = samples.picture("truth", direction, 0)
    titles[f"Generated {direction.to}"] = samples.picture(step, direction, 0)

    row = [(title, data_uri(path)) for title, path in titles.items() if path]
    what = "A held-out image" if held_out else "A training image"
    caption = f"{what} at step {step:,}, chosen without looking at its score."
    return Figure(direction.label, caption, [row] if row else [])


def _from_noise(samples: Samples, direction: Direction) -> Figure:
    """The first generated images of the last step, above real images."""
    rows = []
    for title, group in (("Generated", samples.steps[-1]), ("Real", "real")):
        numbers = range(min(direction.count, MAX_FROM_NOISE))
        row = []
        for number in numbers:
            path = samples.picture(group, direction, number)
            of_class = ""
            if group != "real" and number < len(direction.images):
                of_class = f": {direction.images[number].get('class')}"
            if path:
                row.append((f"{title} {direction.to}{of_class}", data_uri(path)))
        if row:
            rows.append(row)

    caption = f"Images that the model drew from noise at step {samples.steps[-1]:,}"
    if len(rows) > 1:
        real = "real images of any class" if direction.images else "real images"
        caption += f", and {real} below; no generated image has a real counterpart"
    return Figure(direction.label, f"{caption}.", rows)
