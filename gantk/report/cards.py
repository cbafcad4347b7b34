"""metrics.json in tables: one card a metric and direction, the model above its baselines, parted by what was scored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gantk.report.folder import RunRecord
from gantk.report.naming import Scored, baseline_name, count, decimals, digits, ends, interval, metric_name, region_of

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "precision": True, "recall": True} | dict.fromkeys(
    ("mae", "nrmse", "lpips", "fid", "kid"), False
)
NEIGHBOURS = ("precision", "recall", "density", "coverage")  # four numbers that are read together
SETS = (
    "fid",
    "kid",
    "prdc",
    "diversity",
    "two",
    *NEIGHBOURS,
)  # heads of the names of what is scored over sets of images
TASKS = ("classification", "segmentation", "accuracy", "dice")  # the same of what is scored by a use of the images
LEVELS = ("slice", "volume", "patient")
NATIVE = "native"  # the unit of images whose intensities have none


@dataclass(frozen=True)
class Row:
    """One line of a card: the model or a baseline; places are percent along the card's common axis."""

    name: str
    is_model: bool
    value: str
    interval: str
    corrected: str
    dot: float | None
    left: float | None
    width: float | None


@dataclass(frozen=True)
class Aside:
    """The model's score once more, counted otherwise: a slice, a volume, in the units of the images."""

    name: str
    value: str
    interval: str
    n: str
    definition: str = ""


@dataclass(frozen=True)
class Card:
    """One metric in one direction, the model first and the baselines beneath."""

    metric: str
    unit: str
    sense: str
    definition: str
    n: str
    rows: tuple[Row, ...]
    asides: tuple[Aside, ...] = ()

    @property
    def has_corrected(self) -> bool:
        return any(row.corrected for row in self.rows)


@dataclass(frozen=True)
class Quartet:
    """Precision, recall, density and coverage: a column each, the model first and the baselines beneath."""

    metric: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, bool, tuple[tuple[str, str], ...]], ...]  # name, whether the model, (value, interval)s
    definition: str
    n: str


def cards(run: RunRecord) -> dict[str, dict[str, list[Card | Quartet]]]:
    """Direction in words -> section -> its cards, in the order of metrics.json; uncertainty last."""
    found: dict[str, dict[str, list[Card | Quartet]]] = {}
    for direction, by_metric in (run.metrics.get("metrics") or {}).items():
        sections = found.setdefault(run.label(direction), {})
        rivals = _rivals(run, direction)
        together = _quartets(by_metric)
        for names in together:
            if len(names) > 1:
                sections.setdefault(_section(names[0]), []).append(_quartet(names, by_metric, rivals))
            else:
                card = _card(names[0], by_metric[names[0]], rivals)
                sections.setdefault(_section(names[0]), []).append(card)
        judged = (run.metrics.get("uncertainty") or {}).get(direction) or {}
        unsure = {name: row for name, row in judged.items() if isinstance(row, dict) and "value" in row}
        if unsure:
            sections["Uncertainty against error"] = [_card(name, row, {}) for name, row in unsure.items()]
    return found


def _section(metric: str) -> str:
    region, head = region_of(metric), metric.partition("_")[0]
    if region:
        return region.capitalize()
    return "Sets of images" if head in SETS else "Tasks" if head in TASKS else "Whole image"


def _quartets(by_metric: dict[str, Scored]) -> list[list[str]]:
    """The metrics in order, those of nearest neighbours in the same features together."""
    groups: dict[str, list[str]] = {}
    for name in by_metric:
        head, _, features = name.partition("_")
        groups.setdefault(f"neighbours in {features}" if head in NEIGHBOURS else name, []).append(name)
    return list(groups.values())


def _rivals(run: RunRecord, direction: str) -> dict[str, dict[str, Scored]]:
    found = run.metrics.get("baselines") or {}
    plain = direction.removesuffix("_post")
    return {
        baseline_name(name): by_direction.get(direction) or by_direction.get(plain) or {}
        for name, by_direction in found.items()
    }


def _quartet(names: list[str], scores: dict[str, Scored], rivals: dict[str, dict[str, Scored]]) -> Quartet:
    def line(found: dict[str, Scored]) -> tuple[tuple[str, str], ...]:
        return tuple(
            (digits(entry.get("value"), places), interval(entry, places))
            for entry, places in ((found.get(name) or {}, 3) for name in names)
        )

    known = {name: found for name, found in rivals.items() if any(found.get(metric) for metric in names)}
    rows = [("model", True, line(scores)), *((name, False, line(found)) for name, found in known.items())]
    columns = tuple(metric_name(name.partition("_")[0]) for name in names)
    first, features = scores[names[0]], names[0].partition("_")[2].replace("_", " ")
    title = "Nearest neighbours" + (f", {features}" if features else "")
    return Quartet(title, columns, tuple(rows), str(first.get("definition") or ""), count(first))


def _card(metric: str, score: Scored, rivals: dict[str, dict[str, Scored]]) -> Card:
    entries = {"model": score} | {name: found[metric] for name, found in rivals.items() if found.get(metric)}
    known = [end for entry in entries.values() for end in ends(entry) if end is not None and math.isfinite(end)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    higher = score.get("higher_is_better", HIGHER_IS_BETTER.get(metric.partition("_")[0]))
    return Card(
        metric=metric_name(metric),
        unit=str(score.get("unit") or ""),
        sense="" if higher is None else "higher is better" if higher else "lower is better",
        definition=str(score.get("definition") or ""),
        n=count(score),
        rows=tuple(_row(name, entry, low, high, decimals(score)) for name, entry in entries.items()),
        asides=tuple(_asides(score)),
    )


def _asides(score: Scored) -> list[Aside]:
    """The same score a slice, a volume or a patient at a time, and in the intensities that the images came in."""
    per, physical = score.get("per") or {}, score.get("in_units")
    found = []
    for level in [level for level in LEVELS if level in per] + [level for level in per if level not in LEVELS]:
        entry = per[level] | {"unit": score.get("unit")}
        found.append(Aside(f"per {level}", *_told(entry), str(entry.get("how") or "").replace("-", " ")))
    if physical:
        unit = str(physical.get("unit") or NATIVE)
        found.append(
            Aside(
                "in image intensities" if unit == NATIVE else f"in {unit}",
                *_told(physical),
                str(physical.get("definition") or ""),
            )
        )
    return found


def _told(entry: dict[str, Any]) -> tuple[str, str, str]:
    places = decimals(entry)
    return digits(entry.get("value"), places), interval(entry, places), count(entry)


def _row(name: str, entry: Scored, low: float, high: float, places: int) -> Row:
    def percent(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        return 4 + 92 * (value - low) / (high - low) if high > low else 50.0

    left, dot, right = (percent(end) for end in ends(entry))
    corrected = entry.get("corrected")
    return Row(
        name=name,
        is_model=name == "model",
        value=digits(entry.get("value"), places),
        interval=interval(entry, places),
        corrected=digits(corrected, places) if corrected is not None else "",
        dot=dot,
        left=left,
        width=max(right - left, 0) if left is not None and right is not None else None,
    )
