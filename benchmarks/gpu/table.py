"""Formats the rows of a run as Markdown, and compares them with the targets for a GPU."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from statistics import median
from typing import Any

from gpu.rows import Row, row
from gpu.tasks import MODES, OWN, tables

REFERENCE = "reference"
FASTER = {1: 5.0, 16: 2.0}  # batch -> least speed, as a multiple of the reference implementation's
CEILING = {16: 0.5}  # batch -> least FLOP rate, as a share of the best convolution measured in the same run
SPREAD = 0.03  # upper limit of single steps' 5th to 95th percentile over their median
SINGLE = 30  # steps that are needed to measure the spread
WAITS = 0  # how often the host may wait for the device in a step between two log points
SIGNS = {">=": operator.ge, "<": operator.lt, "<=": operator.le}


def bars(rows: list[Row]) -> Iterator[Row]:
    """A row for each target: its value and whether that meets the target, or why it was not measured."""

    def find(part: str, about: Row, **more: Any) -> Row | None:
        fields = {"part": part, "size": [256, 256]} | about | more
        return next((one for one in rows if all(one.get(key) == value for key, value in fields.items())), None)

    def value(one: Row | None, key: str) -> Any:
        return one.get(key) if one is not None and one["status"] == "ok" else None

    for cell in tables()["peers"]["target"]:
        about = {"case": cell["case"], "batch": cell["batch"]}
        own, turns, theirs = find("peer", about, peer=OWN), find("ratio", about), find("peer", about, peer=REFERENCE)
        times = (value(turns, "times") or {}).get(REFERENCE)
        source = theirs if theirs is not None and theirs["status"] != "ok" else turns
        faster = about | {"what": "times the reference's speed"}
        bar = _bar(faster, ">=", FASTER[cell["batch"]], "{:.2f}", times and times["median"], source, "it took no turns")
        if times:
            low, high = times["ci95"]
            bar |= {"ci95": [low, high], "text": f"{bar['text']} [{low:.2f}, {high:.2f}]"}
        yield bar
        if (needed := CEILING.get(cell["batch"])) is not None:
            what = about | {"what": "of the convolution ceiling"}
            yield _bar(what, ">=", needed, "{:.0%}", value(own, "of_conv"), own, "no ceiling was measured")
        count = len(value(own, "samples_s") or ())
        spread = value(own, "spread_90") if count >= SINGLE else None
        what = about | {"what": "spread of single steps"}
        yield _bar(what, "<", SPREAD, "{:.1%}", spread, own, f"{count} steps are too few")
        what = about | {"what": "host waits in a step"}
        yield _bar(what, "<=", WAITS, "{:g}", value(own, "host_waits"), own, "only CUDA counts them")


def _bar(about: Row, sign: str, limit: float, form: str, value: float | None, source: Row | None, unknown: str) -> Row:
    """The row of one target. `source`: the row with the value; `unknown`: the reason to give if it has no value."""
    about = about | {"needed": f"{sign} {form.format(limit)}"}
    if value is not None:
        return row("bar", **about, value=value, met=SIGNS[sign](value, limit), text=form.format(value))
    why = "it is not in this run" if source is None else source["why"] or unknown
    return row("bar", "skipped", why, **about, met=None, text=f"not measured ({why})")


def markdown(rows: list[Row]) -> str:
    """All rows as Markdown: machine, targets, peak rates, steps, peers, and a table of missing measurements."""
    by_part: dict[str, list[Row]] = {}
    for one in rows:
        if one["status"] == "ok":
            by_part.setdefault(one["part"], []).append(one)
    by_part["bar"] = list(bars(rows))  # computed again: an interrupted run has not written them
    lines: list[str] = []
    for part, (heads, section) in SECTIONS.items():
        if part in by_part:
            heads = [f"| {heads} |", "|---" * (heads.count("|") + 1) + "|"] if heads else []
            lines += [*heads, *section(by_part[part]), ""]
    missing = Counter(
        (one["part"], one["status"], (one["why"] or "").split("; at ")[0][:160].replace("|", "/"))
        for one in rows
        if one["status"] != "ok" and one["part"] != "bar"
    )
    if missing:
        lines += ["| not measured | status | rows | why |", "|---|---|---|---|"]
        lines += [f"| {part} | {status} | {count} | {why} |" for (part, status, why), count in missing.items()]
    return "\n".join(lines).rstrip() + "\n"


def _environment(rows: list[Row]) -> Iterator[str]:
    first, loaded = rows[0], next((one for one in rows if one["when"] == "under load"), rows[0])
    memory = f", {first['memory_gib']:.0f} GiB" if first.get("memory_gib") else ""
    power = f"; {loaded['power_w']:.0f} of {loaded['power_limit_w']:.0f} W" if loaded.get("power_limit_w") else ""
    clock = f", {loaded['clock_sm_mhz']:.0f} MHz under load" if loaded.get("clock_sm_mhz") else ""
    versions = ", ".join(f"{name} {first[name]}" for name in ("torch", "cuda", "cudnn", "driver") if first.get(name))
    source = (first["git"] or {}).get("commit", "no commit")[:12]
    yield f"{first['device']}{memory}; {versions}{power}{clock}; gantk {first['gantk']} at {source}"
    yield f"{first['started'][:10]}: `{first['command']}`"


def _bars(rows: list[Row]) -> Iterator[str]:
    for one in rows:
        verdict = {True: "met", False: "MISSED", None: ""}[one["met"]]
        yield f"| {one['what']} | {one['case']} | {one['batch']} | {one['needed']} | {one['text']} | {verdict} |"


def _ratios(rows: list[Row]) -> Iterator[str]:
    for one in rows:
        own = 1e3 * median(one["turns_s"][OWN])
        for side, times in one["times"].items():
            (low, high), theirs = times["ci95"], 1e3 * median(one["turns_s"][side])
            about = f"{one['case']} | {_sides(one['size'])} | {one['batch']} | {own:.2f} ms | {side} | {theirs:.2f} ms"
            yield f"| {about} | {times['median']:.2f} [{low:.2f}, {high:.2f}] |"


def _ceilings(rows: list[Row]) -> Iterator[str]:
    fastest: dict[tuple, Row] = {}
    for one in rows:
        key = (one["kind"], one["precision"], one["dims"])
        if one["reached"] > fastest.get(key, {"reached": -1.0})["reached"]:
            fastest[key] = one
    for (kind, precision, dims), one in fastest.items():
        reached = f"{one['reached']:.4g} {one['unit']} | {_share(one['spread'])}"
        yield f"| {kind}{f', {dims}-D' if dims else ''} | {precision} | {_sides(one['shape'])} | {reached} |"


def _peers(rows: list[Row]) -> Iterator[str]:
    for one in rows:
        about = f"{one['case']} | {_sides(one['size'])} | {one['batch']} | {one['peer']} | {one['precision']}"
        yield f"| {about} | {_time(one)} | {_rates(one)} |"
    yield from _notes(rows)


def _steps(rows: list[Row]) -> Iterator[str]:
    cells: dict[tuple, dict[str, Row]] = {}
    for one in rows:
        key = (one["case"], _sides(one["size"]), one["batch"], one["precision"])
        cells.setdefault(key, {})[one["mode"]] = one
    for (case, size, batch, precision), found in cells.items():
        times = " | ".join(_time(found.get(mode)) for mode in MODES)
        best = min(found.values(), key=lambda one: one["median_s"])
        yield f"| {case} | {size} | {batch} | {precision} | {times} | {_rates(best)} |"
    yield from _notes(rows)


def _notes(rows: list[Row]) -> Iterator[str]:
    """Notes on steps that ran otherwise than their settings say, each once with its number of rows."""
    noted = Counter(note for one in rows for note in one.get("notes") or ())
    yield from ["", *(f"{count} of these rows: {note}" for note, count in noted.items())] if noted else []


def _rates(one: Row) -> str:
    memory = f"{one['peak_memory_gib']:.1f} GiB" if one.get("peak_memory_gib") else "-"
    shares = f"{_share(one.get('of_conv'))} | {_share(one.get('of_matmul'))}"
    return f"{_number(one['images_per_s'])} | {_number(one['tflops_per_s'])} | {shares} | {memory}"


def _sides(size: list[int]) -> str:
    return " x ".join(map(str, size))


def _time(one: Row | None) -> str:
    return f"{1e3 * one['median_s']:.2f} ms ± {_share(one['spread'])}" if one else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


RATES = "images/s | TFLOP/s | of conv | of matmul | memory"
SECTIONS = {  # part -> heading of its table, and its lines
    "environment": ("", _environment),
    "bar": ("target | case | batch | needed | reached | ", _bars),
    "ratio": ("in turns | size | batch | gantk | beside | its step | times as long", _ratios),
    "ceiling": ("ceiling | precision | shape | reached | spread", _ceilings),
    "peer": (f"case | size | batch | side | precision | step | {RATES}", _peers),
    "step": (f"case | size | batch | precision | {' | '.join(MODES)} | {RATES}", _steps),
}  # fmt: skip
