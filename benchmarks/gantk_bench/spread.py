"""Seeds: the same experiment several times, as a mean and how far the single ones lie from it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Spread:
    """Rows that differ in nothing but the seed."""

    label: str  # without the seed
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        return [row["seed"] for row in self.rows]

    def metrics(self) -> dict[str, dict[str, dict[str, Any]]]:
        """direction -> metric -> {mean, sd, n, unit}: over the seeds that have a value, `sd` the sample's deviation."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for direction, scores in self.rows[0].get("metrics", {}).items():
            for name, score in scores.items():
                values = [self._value(row, direction, name) for row in self.rows]
                known = [value for value in values if value is not None]
                if len(known) > 1:
                    mean, sd = statistics.fmean(known), statistics.stdev(known)
                    cell = {"mean": mean, "sd": sd, "n": len(known), "unit": score.get("unit", "")}
                    found.setdefault(direction, {})[name] = cell
        return found

    @staticmethod
    def _value(row: dict[str, Any], direction: str, name: str) -> float | None:
        return row.get("metrics", {}).get(direction, {}).get(name, {}).get("value")


def over_seeds(rows: Iterable[dict[str, Any]]) -> list[Spread]:
    """The groups of two or more good rows that differ in their seeds alone, in the order of the rows."""
    groups: dict[str, Spread] = {}
    for row in rows:
        if row["status"] == "ok":
            same = [row.get(key) for key in ("suite", "recipe", "peer", "profile", "settings", "grid")]
            label = " ".join(word for word in row["label"].split() if not word.endswith(f"seed={row.get('seed')}"))
            groups.setdefault(json.dumps(same, sort_keys=True), Spread(label)).rows.append(row)
    return [group for group in groups.values() if len({row.get("seed") for row in group.rows}) > 1]
