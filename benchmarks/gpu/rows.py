"""Rows of a GPU run (`DEFINITIONS` says what they hold), their comparison with targets, and their
Markdown.
"""

import operator
from collections import Counter
from collections.abc import Iterator
from statistics import median
from typing import Any

from harness import ratio_text, table

from gantk_bench.rows import finite
from gpu.tasks import MODES, OWN, tables

FORMAT = 3
OUT_OF_TIME = "out of time budget"
MEMORY = "out of memory"
FAILED = "failed"
SKIPPED = "skipped"
KILLED = "killed"
TASK_KEYS = (
    "kind",
    "what",
    "when",
    "peer",
    "case",
    "recipe",
    "settings",
    "dims",
    "size",
    "batch",
    "precision",
    "mode",
)
REFERENCE = "reference"
FASTER = {1: 5.0, 16: 2.0}  # batch -> least speed, as a multiple of the reference implementation's
# batch -> least FLOP rate, as a share of the best convolution measured in the same run
CEILING = {16: 0.5}
SPREAD = 0.03  # upper limit of single steps' 5th to 95th percentile over their median
SINGLE = 30  # steps that are needed to measure the spread
WAITS = 0  # how often the host may wait for the device in a step between two log points
SIGNS = {">=": operator.ge, "<": operator.lt, "<=": operator.le}
Row = dict[str, Any]

DEFINITIONS = {
    "status": "ok; out of memory; failed; killed; skipped: `why` says for what reason",
    "step": (
        "one whole training step: losses, gradients and updates of all phases and the moving"
        " average, on a batch that stays on the device; seeded as in training, nothing read or"
        " augmented"
    ),
    "samples_s": (
        "seconds of single steps after a warm-up, back to back; on a GPU from one event to the next"
    ),
    "spread": "interquartile range of the samples over their median",
    "spread_90": "95th less 5th percentile of the samples, over their median",
    "precision": (
        "bf16: autocast; fp32: float32 with TF32 in convolutions and matrix products where the card"
        " has it"
    ),
    "mode": (
        "captured: gantk's default, the step as one graph where that can be, `notes` says where"
        " not; eager: train.fast.cuda_graph = false, operator by operator; compiled:"
        " train.fast.compile = true, without a graph"
    ),
    "peer": (
        "gantk: its default path; gantk plain: train.fast = false in fp32; others at their own"
        " defaults, each by itself on a batch that stays on the device"
    ),
    "turns_s": (
        "mean seconds of a few steps at a time, all sides in turns, their order swapped from round"
        " to round"
    ),
    "times": (
        "how many times as long as gantk's a side's step takes: median over rounds, bootstrap 95 %"
        " interval"
    ),
    "host_waits": (
        "how often a step makes the host wait for the device, as torch.cuda.set_sync_debug_mode"
        " counts, over up to 20 steps"
    ),
    "images_per_s": "images of each domain that went through a step, a second",
    "flops": (
        "floating-point operations of the step's convolutions, matrix products and attention,"
        " forward and backward, two for a multiplication with its addition, by the formulas of"
        " torch.utils.flop_counter"
    ),
    "tflops_per_s": "flops over the median",
    "of_matmul, of_conv": (
        "tflops_per_s over the best matrix product, and over the best convolution of as many "
        "dimensions, that was measured in the same run at the same precision"
    ),
    "peak_memory_gib": (
        "the most that tensors held on the device, from building the method to its last step"
    ),
    "first_step_s": "the first step, choice of kernels included",
}


def row(part: str, status: str = "ok", why: str | None = None, **values: Any) -> Row:
    """A row for JSON: NaN and infinity become None."""
    return {"part": part, "status": status, "why": why} | finite(values)


def missing_rows(task: dict[str, Any], status: str, why: str) -> list[Row]:
    """Rows for a task without results: its parameters, `status` and the reason `why`."""
    fields = {key: task[key] for key in TASK_KEYS if key in task}
    if task["part"] != "peer":
        return [row(task["part"], status, why, **fields)]
    fields |= {"dims": 2, "size": [task["size"]] * 2}
    sides = [row("peer", status, why, **fields, peer=side) for side in task["sides"]]
    return [*sides, row("ratio", status, why, **fields)]


def best(rows: list[Row], kind: str, precision: str, dims: int | None = None) -> float | None:
    """The highest measured peak rate of a kind ("matmul", "conv") in TFLOP/s; None if there is
    none.
    """
    rates = [
        entry["reached"]
        for entry in rows
        if entry["part"] == "ceiling"
        and entry["status"] == "ok"
        and entry["precision"] == precision
        if entry["kind"].startswith(kind) and (dims is None or entry["dims"] == dims)
    ]
    return max(rates, default=None)


def bars(rows: list[Row]) -> Iterator[Row]:
    """A row for each target: its value and whether that meets the target, or why it was not
    measured.
    """

    def find(part: str, about: Row, **more: Any) -> Row | None:
        fields = {"part": part, "size": [256, 256]} | about | more
        matching = (one for one in rows if all(one.get(key) == fields[key] for key in fields))
        return next(matching, None)

    def value(one: Row | None, key: str) -> Any:
        return one.get(key) if one is not None and one["status"] == "ok" else None

    for cell in tables()["peers"]["target"]:
        about = {"case": cell["case"], "batch": cell["batch"]}
        own = find("peer", about, peer=OWN)
        turns = find("ratio", about)
        theirs = find("peer", about, peer=REFERENCE)
        times = (value(turns, "times") or {}).get(REFERENCE)
        source = theirs if theirs is not None and theirs["status"] != "ok" else turns
        what = about | {"what": "times the reference's speed"}
        needed = FASTER[cell["batch"]]
        reached = times and times["median"]
        bar = _bar(what, ">=", needed, "{:.2f}", reached, source, "it took no turns")
        if times:
            bar |= {"ci95": times["ci95"], "text": ratio_text(times)}
        yield bar
        needed = CEILING.get(cell["batch"])
        if needed is not None:
            what = about | {"what": "of the convolution ceiling"}
            yield _bar(
                what, ">=", needed, "{:.0%}", value(own, "of_conv"), own, "no ceiling was measured"
            )
        count = len(value(own, "samples_s") or ())
        spread = value(own, "spread_90") if count >= SINGLE else None
        what = about | {"what": "spread of single steps"}
        yield _bar(what, "<", SPREAD, "{:.1%}", spread, own, f"{count} steps are too few")
        what = about | {"what": "host waits in a step"}
        yield _bar(
            what, "<=", WAITS, "{:g}", value(own, "host_waits"), own, "only CUDA counts them"
        )


def _bar(
    about: Row,
    sign: str,
    limit: float,
    form: str,
    value: float | None,
    source: Row | None,
    unknown: str,
) -> Row:
    """The row of one target. `source`: the row with the value; `unknown`: the reason to give if it
    has no value.
    """
    about = about | {"needed": f"{sign} {form.format(limit)}"}
    if value is not None:
        return row(
            "bar", **about, value=value, met=SIGNS[sign](value, limit), text=form.format(value)
        )
    why = "it is not in this run" if source is None else source["why"] or unknown
    return row("bar", "skipped", why, **about, met=None, text=f"not measured ({why})")


def markdown(rows: list[Row]) -> str:
    """All rows as Markdown: machine, targets, peak rates, steps, peers, and a table of missing
    measurements.
    """
    parts: dict[str, list[Row]] = {}
    for one in rows:
        if one["status"] == "ok" and one["part"] != "bar":
            parts.setdefault(one["part"], []).append(one)
    parts["bar"] = list(bars(rows))  # computed again: an interrupted run has not written them
    texts = []
    if "environment" in parts:
        texts.append(_machine(parts["environment"]))
    for part, (heads, lines_of) in TABLES.items():
        if part in parts:
            texts.append(table(heads.split(" | "), lines_of(parts[part])))
            texts += _notes(parts[part])
    texts += _missing(rows)
    return "\n\n".join(texts) + "\n"


def _notes(rows: list[Row]) -> list[str]:
    """The notes below a table, each with the number of its rows; [] without notes."""
    counts = Counter(note for one in rows for note in one.get("notes") or ())
    lines = [f"{count} of these rows: {note}" for note, count in counts.items()]
    return ["\n".join(lines)] if lines else []


def _missing(rows: list[Row]) -> list[str]:
    """The table of what was not measured, by reason; [] if all was."""
    counts = Counter(
        (one["part"], one["status"], (one["why"] or "").split("; at ")[0][:160])
        for one in rows
        if one["status"] != "ok" and one["part"] != "bar"
    )
    lines = [(*what, count) for what, count in counts.items()]
    return [table(("not measured", "status", "why", "rows"), lines)] if lines else []


def _machine(rows: list[Row]) -> str:
    first = rows[0]
    loaded = next((one for one in rows if one["when"] == "under load"), first)
    memory = f", {first['memory_gib']:.0f} GiB" if first.get("memory_gib") else ""
    power = ""
    if loaded.get("power.draw"):
        power = f"; {loaded['power.draw']:.0f} of {loaded['power.limit']:.0f} W"
    clock = f", {loaded['clocks.sm']:.0f} MHz under load" if loaded.get("clocks.sm") else ""
    versions = ", ".join(
        f"{name} {first[name]}" for name in ("torch", "cuda", "cudnn", "driver") if first.get(name)
    )
    source = (first["git"] or {}).get("commit", "no commit")[:12]
    about = (
        f"{first['device']}{memory}; {versions}{power}{clock}; gantk {first['gantk']} at {source}"
    )
    return f"{about}\n{first['started'][:10]}: `{first['command']}`"


def _bars(rows: list[Row]) -> Iterator[tuple]:
    for one in rows:
        verdict = {True: "met", False: "MISSED", None: ""}[one["met"]]
        yield one["what"], one["case"], one["batch"], one["needed"], one["text"], verdict


def _ratios(rows: list[Row]) -> Iterator[tuple]:
    for one in rows:
        steps = {
            side: f"{1e3 * median(samples):.2f} ms" for side, samples in one["turns_s"].items()
        }
        for side, times in one["times"].items():
            yield (
                one["case"],
                _sides(one["size"]),
                one["batch"],
                steps[OWN],
                side,
                steps[side],
                ratio_text(times),
            )


def _ceilings(rows: list[Row]) -> Iterator[tuple]:
    fastest: dict[tuple, Row] = {}
    for one in sorted(rows, key=lambda one: one["reached"]):
        fastest[one["kind"], one["precision"], one["dims"]] = one
    for (kind, precision, dims), one in fastest.items():
        name = f"{kind}, {dims}-D" if dims else kind
        reached = f"{one['reached']:.4g} {one['unit']}"
        yield name, precision, _sides(one["shape"]), reached, _share(one["spread"])


def _peers(rows: list[Row]) -> Iterator[tuple]:
    for one in rows:
        yield (
            one["case"],
            _sides(one["size"]),
            one["batch"],
            one["peer"],
            one["precision"],
            _time(one),
            *_rates(one),
        )


def _steps(rows: list[Row]) -> Iterator[tuple]:
    cells: dict[tuple, dict[str, Row]] = {}
    for one in rows:
        key = (one["case"], _sides(one["size"]), one["batch"], one["precision"])
        cells.setdefault(key, {})[one["mode"]] = one
    for key, found in cells.items():
        best = min(found.values(), key=lambda one: one["median_s"])
        yield *key, *(_time(found.get(mode)) for mode in MODES), *_rates(best)


def _rates(one: Row) -> tuple[str, ...]:
    """The cells under RATES."""
    memory = f"{one['peak_memory_gib']:.1f} GiB" if one.get("peak_memory_gib") else "-"
    rates = (
        "-" if one[key] is None else f"{one[key]:,.1f}" for key in ("images_per_s", "tflops_per_s")
    )
    return *rates, _share(one.get("of_conv")), _share(one.get("of_matmul")), memory


def _sides(size: list[int]) -> str:
    return " x ".join(map(str, size))


def _time(one: Row | None) -> str:
    return f"{1e3 * one['median_s']:.2f} ms ± {_share(one['spread'])}" if one else "-"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


RATES = "images/s | TFLOP/s | of conv | of matmul | memory"
TABLES = {  # part -> heading of its table, and its lines
    "bar": ("target | case | batch | needed | reached | ", _bars),
    "ratio": ("in turns | size | batch | gantk | beside | its step | times as long", _ratios),
    "ceiling": ("ceiling | precision | shape | reached | spread", _ceilings),
    "peer": (f"case | size | batch | side | precision | step | {RATES}", _peers),
    "step": (f"case | size | batch | precision | {' | '.join(MODES)} | {RATES}", _steps),
}
