"""Compares two benches row by row: a score has changed if the interval of its difference leaves 0
out.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

NO_CHANGE, BETTER, REGRESSION, CHANGED = "no change", "better", "REGRESSION", "changed"
NEW, MISSING, OTHER = "new", "missing", "not comparable"

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


def compare(rows: Iterable[dict[str, Any]], before: Iterable[dict[str, Any]]) -> list[Change]:
    """Changes of each row, matched by label: metrics, step time and peak memory, and new and
    missing rows.

    A score has changed if 0 lies outside the 95 % interval of the difference. That interval is
    computed from the two scores' intervals as if they were independent (Zou and Donner 2008,
    equations 7 and 8); it is wider than a paired one, so that false regressions are rare. Scores
    without an interval count as changed at any difference.
    """
    new_rows, old_rows = {row["label"]: row for row in rows}, {row["label"]: row for row in before}
    changes: list[Change] = []
    for label, row in new_rows.items():
        if label not in old_rows:
            changes.append(
                Change(label, "", NEW, reason="" if row["status"] == "ok" else row["status"])
            )
        else:
            changes += _row_changes(label, row, old_rows[label])
    return changes + [Change(label, "", MISSING) for label in old_rows if label not in new_rows]


def regressed(changes: Iterable[Change]) -> bool:
    """Whether anything got worse."""
    return any(change.verdict == REGRESSION for change in changes)


def change_lines(changes: Sequence[Change]) -> Iterator[str]:
    """One line of text for each difference, then a line that counts them, or `no change`."""
    different = [change for change in changes if change.verdict != NO_CHANGE]
    for change in different:
        verdict, label, what, values, reason = change.cells
        yield "  ".join(
            filter(None, (f"{verdict:<15}{label}", what, values, f"({reason})" if reason else ""))
        )
    counts = Counter(change.verdict for change in different)
    order = (REGRESSION, BETTER, CHANGED, OTHER, NEW, MISSING)
    yield (
        ", ".join(f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict])
        or NO_CHANGE
    )


def _row_changes(label: str, row: dict[str, Any], old: dict[str, Any]) -> Iterator[Change]:
    if row["status"] != "ok" or old["status"] != "ok":
        yield _status_change(label, row, old)
        return
    for key, what in (
        ("recipe_hash", "the recipe or its settings differ"),
        ("data_hash", "the data differ"),
    ):
        if row.get(key) != old.get(key):
            yield Change(label, "", OTHER, reason=what)
            return
    now, before = (
        {(d, n): s for d, of in r["metrics"].items() for n, s in of.items()} for r in (row, old)
    )
    for key in dict.fromkeys([*now, *before]):
        what = f"{key[1]} {key[0]}"
        if key not in before or key not in now:
            yield Change(label, what, NEW if key in now else MISSING)
        else:
            yield _score_change(label, what, now[key], before[key])
    yield from _machine_changes(label, row, old)


def _status_change(label: str, row: dict[str, Any], old: dict[str, Any]) -> Change:
    """The change of a row that is not "ok" now, or was not before."""
    if row["status"] == old["status"]:
        return Change(label, "", NO_CHANGE)
    reason = f"{old['status']} before, {row['status']} now"
    if old["status"] == "ok" and row["status"] != "skipped":
        return Change(label, "", REGRESSION, reason=f"{reason}: {row.get('error')}")
    return Change(label, "", BETTER if row["status"] == "ok" else CHANGED, reason=reason)


def _score_change(label: str, what: str, now: dict[str, Any], before: dict[str, Any]) -> Change:
    values = {"before": before.get("value"), "now": now.get("value"), "unit": now.get("unit") or ""}
    if now.get("definition") != before.get("definition"):
        return Change(label, what, OTHER, **values, reason="the metric is defined otherwise")
    if values["before"] == values["now"]:
        return Change(label, what, NO_CHANGE, **values)
    if None in (values["before"], values["now"]):
        return Change(label, what, MISSING if values["now"] is None else NEW, **values)
    interval = _interval_of_difference(now, before)
    if interval is None or now.get("higher_is_better") is None:
        reason = "no interval" if interval is None else "neither direction is better"
        return Change(label, what, CHANGED, **values, reason=reason)
    if interval[0] <= 0 <= interval[1]:
        return Change(label, what, NO_CHANGE, **values, reason="within the interval")
    better = (interval[0] > 0) == bool(now["higher_is_better"])
    return Change(label, what, BETTER if better else REGRESSION, **values)


def _interval_of_difference(
    now: dict[str, Any], before: dict[str, Any]
) -> tuple[float, float] | None:
    """95 % interval of now - before; None if one of the two scores has no interval."""
    if not now.get("ci95") or not before.get("ci95"):
        return None
    (low, high), (low_before, high_before) = now["ci95"], before["ci95"]
    difference = now["value"] - before["value"]
    below = math.hypot(now["value"] - low, high_before - before["value"])
    above = math.hypot(high - now["value"], before["value"] - low_before)
    return difference - below, difference + above


def _machine_changes(label: str, row: dict[str, Any], old: dict[str, Any]) -> Iterator[Change]:
    """Changes of step time and peak memory, if both rows were measured on the same kind of machine
    in the same way.
    """
    machine, old_machine = (
        {key: r.get("machine", {}).get(key) for key in SAME_MACHINE} | {"jobs": r.get("jobs")}
        for r in (row, old)
    )
    differing = [key for key in machine if machine[key] != old_machine[key]]
    if differing:
        yield Change(label, "speed", OTHER, reason=f"measured otherwise: {', '.join(differing)}")
        return
    before, now = (r.get("speed", {}).get("step_seconds") or [] for r in (old, row))
    if now and before:
        # changed only if the interquartile ranges do not overlap either: a passing load of the
        # machine does not count
        (low, middle, high), (old_low, old_middle, old_high) = _quartiles(now), _quartiles(before)
        tolerance = SPEED_TOLERANCE if row.get("jobs") == 1 else SHARED_TOLERANCE
        verdict = _ratio_verdict(middle / old_middle if old_middle else 1.0, tolerance)
        verdict = NO_CHANGE if low <= old_high and old_low <= high else verdict
        yield Change(label, "step", verdict, 1000 * old_middle, 1000 * middle, "ms")
    peaks = [r.get("speed", {}).get("peak_memory_gib") for r in (old, row)]
    if None not in peaks:
        ratio = peaks[1] / peaks[0] if peaks[0] else 1.0
        yield Change(label, "memory", _ratio_verdict(ratio, MEMORY_TOLERANCE), *peaks, "GiB")


def _ratio_verdict(ratio: float, tolerance: float) -> str:
    """The verdict for `ratio`, now / before, of a quantity where lower is better."""
    if ratio > 1 + tolerance:
        return REGRESSION
    return BETTER if ratio < 1 / (1 + tolerance) else NO_CHANGE


def _quartiles(values: Sequence[float]) -> Sequence[float]:
    """First quartile, median, third quartile."""
    return statistics.quantiles(
        values if len(values) > 1 else [*values] * 2, n=4, method="inclusive"
    )
