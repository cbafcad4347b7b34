"""The rows of a run as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from statistics import median
from typing import Any

from gpu.bars import bars
from gpu.cases import MODES

Row = dict[str, Any]


def markdown(rows: list[Row]) -> str:
    """The whole file: machine, targets, ceilings, steps, peers, costs, training, and what is missing."""
    by_part: dict[str, list[Row]] = {}
    for row in rows:
        by_part.setdefault(row["part"], []).append(row)
    by_part["bar"] = list(bars(rows))  # anew: a run that was cut off has none
    lines: list[str] = []
    for part, section in SECTIONS.items():
        if part in by_part:
            lines += [*section(by_part[part]), ""]
    rows = [row for row in rows if row["status"] != "ok" and row["part"] != "bar"]
    missing = Counter((row["part"], row["status"], _reason(row)) for row in rows)
    if missing:
        lines += ["| not measured | status | rows | why |", "|---|---|---|---|"]
        lines += [f"| {part} | {status} | {count} | {why} |" for (part, status, why), count in missing.items()]
    return "\n".join(lines).rstrip() + "\n"


def _environment(rows: list[Row]) -> Iterator[str]:
    first = next((row for row in rows if row["status"] == "ok"), rows[0])
    loaded = next((row for row in rows if row["when"] == "under load"), first)
    memory = f", {first['memory_gib']:.0f} GiB" if first["memory_gib"] else ""
    power = f"; {loaded['power_w']:.0f} of {loaded['power_limit_w']:.0f} W" if loaded.get("power_limit_w") else ""
    clock = f", {loaded['clock_sm_mhz']:.0f} MHz under load" if loaded.get("clock_sm_mhz") else ""
    versions = ", ".join(f"{name} {first[name]}" for name in ("torch", "cuda", "cudnn", "driver") if first.get(name))
    source = f"gantk {first['gantk']} at {first['git'] or 'no commit'}"
    yield f"{first['device']}{memory}; {versions}{power}{clock}; {source}"
    yield f"{(first['started'] or '')[:10]}: `{first['command']}`"


def _ceilings(rows: list[Row]) -> Iterator[str]:
    yield "| ceiling | precision | shape | reached | spread |"
    yield "|---|---|---|---|---|"
    best: dict[tuple, Row] = {}
    for row in rows:
        key = (row["kind"], row["precision"], row["dims"])
        if row["status"] == "ok" and row["reached"] > best.get(key, {"reached": -1.0})["reached"]:
            best[key] = row
    for (kind, precision, dims), row in best.items():
        name = f"{kind}, {dims}-D" if dims else kind
        reached = f"{row['reached']:.4g} {row['unit']} | {_share(row['spread'])}"
        yield f"| {name} | {precision} | {_sides(row['shape'])} | {reached} |"


def _bars(rows: list[Row]) -> Iterator[str]:
    yield "| target | case | batch | needed | reached | |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        verdict = {True: "met", False: "MISSED", None: ""}[row["met"]]
        yield f"| {row['what']} | {row['case']} | {row['batch']} | {row['needed']} | {row['text']} | {verdict} |"


def _steps(rows: list[Row]) -> Iterator[str]:
    modes = [mode for mode in MODES if any(row["mode"] == mode for row in rows)]
    titles = ["case", "size", "batch", "precision", *modes, "images/s", "TFLOP/s", "of conv", "of matmul", "memory"]
    yield f"| {' | '.join(titles)} |"
    yield "|---" * len(titles) + "|"
    cells: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        key = (row["case"], _sides(row["size"]), row["batch"], row["precision"])
        cells.setdefault(key, {})[row["mode"]] = row
    for (case, size, batch, precision), found in cells.items():
        done = [row for row in found.values() if row["median_s"]]
        if done:
            times = " | ".join(_time(found.get(mode)) for mode in modes)
            best = min(done, key=lambda row: row["median_s"])
            yield f"| {case} | {size} | {batch} | {precision} | {times} | {_rates(best)} |"
    yield from _notes(rows)


def _peers(rows: list[Row]) -> Iterator[str]:
    yield "| case | size | batch | side | precision | step | images/s | TFLOP/s | of conv | of matmul | memory |"
    yield "|---" * 11 + "|"
    for row in (row for row in rows if row["status"] == "ok"):
        about = f"{row['case']} | {_sides(row['size'])} | {row['batch']} | {row['peer']} | {row['precision']}"
        yield f"| {about} | {_time(row)} | {_rates(row)} |"
    yield from _notes(rows)


def _ratios(rows: list[Row]) -> Iterator[str]:
    yield "| in turns | size | batch | gantk | beside | its step | times as long |"
    yield "|---" * 7 + "|"
    for row in (row for row in rows if row["status"] == "ok"):
        own = 1e3 * median(row["turns_s"]["gantk"])
        for side, times in row["times"].items():
            low, high = times["ci95"]
            theirs = f"{side} | {1e3 * median(row['turns_s'][side]):.2f} ms"
            ratio = f"{times['median']:.2f} [{low:.2f}, {high:.2f}]"
            yield f"| {row['case']} | {_sides(row['size'])} | {row['batch']} | {own:.2f} ms | {theirs} | {ratio} |"


def _notes(rows: list[Row]) -> Iterator[str]:
    """What steps did otherwise than they were asked to, each said once."""
    noted = Counter(note for row in rows for note in row["notes"] or ())
    if noted:
        yield ""
        yield from (f"{count} of these rows: {note}" for note, count in noted.items())


def _rates(row: Row) -> str:
    memory = f"{row['peak_memory_gib']:.1f} GiB" if row["peak_memory_gib"] else "-"
    shares = f"{_share(row['of_conv'])} | {_share(row['of_matmul'])}"
    return f"{_number(row['images_per_s'])} | {_number(row['tflops_per_s'])} | {shares} | {memory}"


def _costs(rows: list[Row]) -> Iterator[str]:
    yield "| what | beside | images | time | images/s | ratio |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        if row["status"] == "ok":
            images = f"{row['batch']} of {_sides(row['size'])}"
            rate = f"{_number(row['images_per_s'])} | {row['ratio']:.3g}"
            yield f"| {row['what']} | {row['beside']} | {images} | {_time(row)} | {rate} |"


def _training(rows: list[Row]) -> Iterator[str]:
    yield "| training | steps | seconds | step | of it compute | direction | PSNR / SSIM | identity | intensity map |"
    yield "|---" * 9 + "|"
    for row in (row for row in rows if row["status"] == "ok"):
        about = f"{row['recipe']}, {_sides(row['size'])}, batch {row['batch']}, {row['precision']}"
        step = f"{1e3 * row['step_s']:.1f} ms" if row["step_s"] else "-"
        for direction, scores in row["metrics"].items():
            rivals = [row["baselines"].get(name, {}).get(direction, {}) for name in ("identity", "intensity_map")]
            cells = " | ".join(f"{_number(s.get('psnr'))} / {_number(s.get('ssim'), 3)}" for s in (scores, *rivals))
            spent = f"{row['seconds']:.1f} | {step} | {_share(row['compute_share'])}"
            yield f"| {about} | {row['steps']} | {spent} | {direction} | {cells} |"


def _reason(row: Row) -> str:
    """Why, without what differs from cell to cell."""
    return (row["why"] or "").split("; at ")[0][:160].replace("|", "/")


def _sides(size: list[int] | None) -> str:
    return " x ".join(map(str, size)) if size else "-"


def _time(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{1e3 * row['median_s']:.2f} ms ± {_share(row['spread'])}" if row["median_s"] else row["status"]


def _number(value: float | None, places: int = 1) -> str:
    return "-" if value is None else f"{value:,.{places}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


SECTIONS = {
    "environment": _environment,
    "bar": _bars,
    "ratio": _ratios,
    "ceiling": _ceilings,
    "peer": _peers,
    "step": _steps,
    "cost": _costs,
    "training": _training,
}
