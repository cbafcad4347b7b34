"""Compares two benches row by row: a score has changed if the interval of its difference leaves 0
out.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gantk.runs.results import Score
from gantk_bench.rows import Row

NO_CHANGE = "no change"
BETTER = "better"
REGRESSION = "REGRESSION"
CHANGED = "changed"
NEW = "new"
MISSING = "missing"
OTHER = "not comparable"

# relative change of the median step time, for a training alone on the machine
SPEED_TOLERANCE = 0.2
# the same for several trainings at once: one training then varies by up to half
SHARED_TOLERANCE = 0.5
MEMORY_TOLERANCE = 0.2  # relative change of the peak memory
SAME_MACHINE = ("device", "cpu", "threads", "precision", "channels_last", "ranks")


@dataclass(frozen=True)
class Change:
    """One quantity of one row, before and now, with the verdict on its change."""

    label: str
    what: str  # "psnr a_to_b", "step", "memory"; "": the whole row
    verdict: str  # one of the words above
    before: float | None = None
    now: float | None = None
    unit: str = ""
    reason: str = ""  # explains the verdict, if it needs an explanation

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Verdict, label, what, `before -> now` and reason as text."""
        values = [
            f"{value:.4g} {self.unit}".strip()
            for value in (self.before, self.now)
            if value is not None
        ]
        return self.verdict, self.label, self.what, " -> ".join(values), self.reason


def compare(rows: Iterable[Row], before: Iterable[Row]) -> list[Change]:
    """Changes of each row, matched by label: metrics, step time and peak memory, and new and
    missing rows.

    A score has changed if 0 lies outside the 95 % interval of the difference. That interval is
    computed from the two scores' intervals as if they were independent (Zou and Donner 2008,
    equations 7 and 8); it is wider than a paired one, so that false regressions are rare. Scores
    without an interval count as changed at any difference.
    """
    new_rows = {row.label: row for row in rows}
    old_rows = {row.label: row for row in before}
    changes: list[Change] = []
    for label, row in new_rows.items():
        if label in old_rows:
            changes += _row_changes(label, row, old_rows[label])
        else:
            reason = "" if row.status == "ok" else row.status
            changes.append(Change(label, "", NEW, reason=reason))
    return changes + [Change(label, "", MISSING) for label in old_rows if label not in new_rows]


def regressed(changes: Iterable[Change]) -> bool:
    """Whether anything got worse."""
    return any(change.verdict == REGRESSION for change in changes)


def change_lines(changes: Sequence[Change]) -> Iterator[str]:
    """One line of text for each difference, then a line that counts them, or `no change`."""
    different = [change for change in changes if change.verdict != NO_CHANGE]
    for change in different:
        verdict, label, what, values, reason = change.cells
        if reason:
            reason = f"({reason})"
        yield "  ".join(filter(None, (f"{verdict:<15}{label}", what, values, reason)))
    counts = Counter(change.verdict for change in different)
    order = (REGRESSION, BETTER, CHANGED, OTHER, NEW, MISSING)
    counted = [f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict]]
    yield ", ".join(counted) or NO_CHANGE


def _row_changes(label: str, row: Row, old: Row) -> Iterator[Change]:
    if row.status != "ok" or old.status != "ok":
        yield _status_change(label, row, old)
        return
    for key, what in (
        ("recipe_hash", "the recipe or its settings differ"),
        ("data_hash", "the data differ"),
    ):
        if getattr(row, key) != getattr(old, key):
            yield Change(label, "", OTHER, reason=what)
            return
    now = _scores(row)
    before = _scores(old)
    for what in dict.fromkeys([*now, *before]):
        if what not in before:
            yield Change(label, what, NEW)
        elif what not in now:
            yield Change(label, what, MISSING)
        else:
            yield _score_change(label, what, now[what], before[what])
    yield from _machine_changes(label, row, old)


def _scores(row: Row) -> dict[str, Score]:
    """`metric direction` -> score of a row."""
    return {
        f"{metric} {direction}": score
        for direction, scores in row.metrics.items()
        for metric, score in scores.items()
    }


def _status_change(label: str, row: Row, old: Row) -> Change:
    """The change of a row that is not "ok" now, or was not before."""
    if row.status == old.status:
        return Change(label, "", NO_CHANGE)
    reason = f"{old.status} before, {row.status} now"
    if old.status == "ok" and row.status != "skipped":
        return Change(label, "", REGRESSION, reason=f"{reason}: {row.error}")
    return Change(label, "", BETTER if row.status == "ok" else CHANGED, reason=reason)


def _score_change(label: str, what: str, now: Score, before: Score) -> Change:
    verdict, reason = _score_verdict(now, before)
    return Change(label, what, verdict, before.value, now.value, now.unit, reason)


def _score_verdict(now: Score, before: Score) -> tuple[str, str]:
    """Verdict on the change of a score, and its reason if it needs one."""
    if now.definition != before.definition:
        return OTHER, "the metric is defined otherwise"
    if now.value == before.value:
        return NO_CHANGE, ""
    if now.value is None:
        return MISSING, ""
    if before.value is None:
        return NEW, ""
    interval = _interval_of_difference(now, before)
    if interval is None:
        return CHANGED, "no interval"
    if now.higher_is_better is None:
        return CHANGED, "neither direction is better"
    low, high = interval
    if low <= 0 <= high:
        return NO_CHANGE, "within the interval"
    better = (low > 0) == now.higher_is_better
    return (BETTER if better else REGRESSION), ""


def _interval_of_difference(now: Score, before: Score) -> tuple[float, float] | None:
    """95 % interval of now - before; None if one of the two scores has no interval."""
    if not now.ends or not before.ends:
        return None
    low, high = now.ends
    low_before, high_before = before.ends
    difference = now.value - before.value
    below = math.hypot(now.value - low, high_before - before.value)
    above = math.hypot(high - now.value, before.value - low_before)
    return difference - below, difference + above


def _machine_changes(label: str, row: Row, old: Row) -> Iterator[Change]:
    """Changes of step time and peak memory, if both rows were measured on the same kind of machine
    in the same way.
    """
    machine = _machine(row)
    old_machine = _machine(old)
    differing = [key for key in machine if machine[key] != old_machine[key]]
    if differing:
        yield Change(label, "speed", OTHER, reason=f"measured otherwise: {', '.join(differing)}")
        return
    steps = row.speed.step_seconds
    old_steps = old.speed.step_seconds
    if steps and old_steps:
        tolerance = SPEED_TOLERANCE if row.jobs == 1 else SHARED_TOLERANCE
        yield _step_change(label, steps, old_steps, tolerance)
    peak = row.speed.peak_memory_gib
    old_peak = old.speed.peak_memory_gib
    if peak is not None and old_peak is not None:
        verdict = _ratio_verdict(peak, old_peak, MEMORY_TOLERANCE)
        yield Change(label, "memory", verdict, old_peak, peak, "GiB")


def _machine(row: Row) -> dict[str, Any]:
    """What has to be equal for speeds to be comparable."""
    return {key: row.machine.get(key) for key in SAME_MACHINE} | {"jobs": row.jobs}


def _step_change(
    label: str, now: Sequence[float], before: Sequence[float], tolerance: float
) -> Change:
    """Change of the median step time. A passing load of the machine does not count: the
    interquartile ranges must not overlap either.
    """
    low, middle, high = _quartiles(now)
    old_low, old_middle, old_high = _quartiles(before)
    overlap = low <= old_high and old_low <= high
    verdict = NO_CHANGE if overlap else _ratio_verdict(middle, old_middle, tolerance)
    return Change(label, "step", verdict, 1000 * old_middle, 1000 * middle, "ms")


def _ratio_verdict(now: float, before: float, tolerance: float) -> str:
    """The verdict for a quantity where lower is better."""
    ratio = now / before if before else 1.0
    if ratio > 1 + tolerance:
        return REGRESSION
    return BETTER if ratio < 1 / (1 + tolerance) else NO_CHANGE


def _quartiles(values: Sequence[float]) -> Sequence[float]:
    """First quartile, median, third quartile."""
    return statistics.quantiles(
        values if len(values) > 1 else [*values] * 2, n=4, method="inclusive"
    )
