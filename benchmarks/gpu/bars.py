"""What a card is to reach, and whether it did: worked out from the rows of a run."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from gpu import cases
from gpu.catalogue import OWN
from gpu.rows import row

Row = dict[str, Any]
REFERENCE = "reference"
SIZE = [256, 256]
FASTER = {1: 5.0, 16: 2.0}  # batch -> times the reference implementation's speed
CEILING = {16: 0.5}  # batch -> share of the best convolution that was measured in the same run
SPREAD = 0.03  # of single steps, 5th to 95th percentile over the median; below it
SINGLE = 30  # steps that a spread needs
WAITS = 0  # of the host for the device in a step between two log points
SIGNS = {">=": operator.ge, "<": operator.lt, "<=": operator.le}


def bars(rows: list[Row]) -> Iterator[Row]:
    """A row for every target: its value and whether that is enough, or why it was not measured."""
    for cell in cases.tables()["peers"]["target"]:
        about = {"case": cell["case"], "batch": cell["batch"]}
        own = _find(rows, "peer", about, peer=OWN)
        taken = len(_value(own, "samples_s") or ())
        spread = _value(own, "spread_90") if taken >= SINGLE else None
        yield _faster(rows, about)
        if (needed := CEILING.get(cell["batch"])) is not None:
            what = about | {"what": "of the convolution ceiling"}
            yield _bar(what, ">=", needed, "{:.0%}", _value(own, "of_conv"), own, "no ceiling was measured")
        what = about | {"what": "spread of single steps"}
        yield _bar(what, "<", SPREAD, "{:.1%}", spread, own, f"{taken} steps are too few")
        what = about | {"what": "host waits in a step"}
        yield _bar(what, "<=", WAITS, "{:g}", _value(own, "host_waits"), own, "only CUDA counts them")


def _faster(rows: list[Row], about: dict[str, Any]) -> Row:
    """By the rounds in which both took turns."""
    turns, beside = _find(rows, "ratio", about), _find(rows, "peer", about, peer=REFERENCE)
    times = (_value(turns, "times") or {}).get(REFERENCE)
    source = beside if beside is not None and beside["status"] != "ok" else turns
    what, value = about | {"what": "times the reference's speed"}, times and times["median"]
    found = _bar(what, ">=", FASTER[about["batch"]], "{:.2f}", value, source, "it took no turns")
    if times:
        low, high = times["ci95"]
        found |= {"ci95": [low, high], "text": f"{found['text']} [{low:.2f}, {high:.2f}]"}
    return found


def _bar(
    about: dict[str, Any], sign: str, limit: float, form: str, value: float | None, source: Row | None, unknown: str
) -> Row:
    """`source`: the row that the value is from; `unknown`: why that may have none although it was measured."""
    about = about | {"needed": f"{sign} {form.format(limit)}"}
    if value is not None:
        return row("bar", **about, value=value, met=SIGNS[sign](value, limit), text=form.format(value))
    why = "it is not in this run" if source is None else source["why"] or unknown
    return row("bar", "skipped", why, **about, text=f"not measured ({why})")


def _find(rows: list[Row], part: str, about: dict[str, Any], **more: Any) -> Row | None:
    wanted = {"part": part, "size": SIZE} | about | more
    return next((one for one in rows if all(one.get(key) == value for key, value in wanted.items())), None)


def _value(one: Row | None, key: str) -> Any:
    return one[key] if one is not None and one["status"] == "ok" else None
