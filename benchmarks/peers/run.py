"""Times training steps of gantk and other toolkits on the same batches, in one process and in turns.

    python benchmarks/peers/run.py --peer reference=CHECKOUT --peer cut=CHECKOUT --peer monai --json FILE
    python benchmarks/peers/run.py --peer reference=CHECKOUT --cases 'cyclegan-256-*' --seconds 120 --json FILE
    python benchmarks/peers/run.py --table --json FILE          # a file's rows as Markdown; nothing is measured

Peers: reference (CycleGAN and pix2pix, a checkout), cut (a checkout), monai and konfai (packages); without --peer all
are tried. One that is not installed or can run none of the cases becomes a row "skipped" with the reason.
Each case runs with every peer that has its parts; without --cases, those that take minutes on a CPU are left out.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

if __name__ == "__main__":  # replaces this folder in the path: its files could shadow packages of the same name
    sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from harness import WARM, parser, ratio, take_turns, written
from harness import table as markdown

from gantk import __version__
from gantk.errors import GantkError, UserError, did_you_mean
from gantk.machine.runtime import describe
from gantk.recipe.load import resolved
from gantk_bench.plan import recipe_hash
from gantk_bench.rows import FORMAT, commit, read_rows, write_rows
from peers.cases import CASES, PEERS, Case, chosen
from peers.checkouts import Cut, Reference
from peers.packages import Konfai, Monai, MonaiWindows
from peers.sides import BatchTurn, OwnSide, Setup, Side, case_model, fix_seeds

Row = dict[str, Any]
# To add a toolkit: a class with the `find`, `unable` and constructor of these, and its name in PEERS.
KINDS: dict[str, Any] = dict(zip(PEERS, (Reference, Cut, Monai, Konfai), strict=True))
BATCHES = 4  # different batches, used in turn


@dataclass(frozen=True)
class Peer:
    """A toolkit; `found` is (version, where), or None with the `reason` and what to do."""

    name: str
    folder: Path | None = None
    found: tuple[str, str] | None = None
    reason: str | None = None

    def unable(self, case: Case) -> str | None:
        """The reason why the toolkit cannot run a case, or None."""
        if case.window:
            return None if self.name == "monai" else "it has no inference by windows"
        return KINDS[self.name].unable(case)

    def build(self, setup: Setup, first: dict[str, Any], host: OwnSide | None = None) -> Side:
        """The toolkit's side of a case; for translation by windows it uses the generator of `host`, gantk's side."""
        fix_seeds(setup.seed)
        if setup.case.window:
            return MonaiWindows(host.generator, setup.case)
        return KINDS[self.name](self.folder, setup, first)


def parse_peers(arguments: Iterable[str]) -> list[Peer]:
    """The peers of arguments `name` or `name=folder`; all if there are none. UserError for a wrong name or folder."""
    peers = []
    for argument in arguments or KINDS:
        name, _, folder = argument.partition("=")
        if name not in KINDS:
            remedy = did_you_mean(name, KINDS)
            raise UserError(f"there is no peer '{name}'", where=f"--peer {argument}", allowed=KINDS, remedy=remedy)
        path = Path(folder).expanduser().resolve() if folder else None
        version = KINDS[name].find(path)
        reason = f"{name} is not here: {version}" if isinstance(version, str) else None
        peers.append(Peer(name, path, None if reason else version, reason))
    return peers


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Every case with every peer that can run it; a row with status "skipped" for each peer that runs none."""
    cases, peers = chosen(options.cases), parse_peers(options.peer)
    if options.filters:
        cases = [case.with_filters(options.filters) for case in cases]
    for peer in peers:
        reasons = dict.fromkeys(peer.reason or peer.unable(case) for case in cases)
        if None not in reasons:
            reason = peer.reason or f"{peer.name} can run none of these cases: {'; '.join(reasons)}"
            about = {"status": "skipped", "recipe": "peers", "summary": "", "label": f"peers {peer.name}"}
            yield common_fields(cases[0], peer.name, peer, options) | about | {"error": reason}
    for case in cases:
        for peer in peers:
            if not peer.reason and not peer.unable(case):
                yield from rows_of(case, peer, options)
                gc.collect()


def rows_of(case: Case, peer: Peer, options: argparse.Namespace) -> Iterator[Row]:
    """Times gantk's default path, its plain path and the peer in turns: three rows, or one row "failed"."""
    start = time.monotonic()
    try:
        host, plain = (gantk_side(case, way, options) for way in ("gantk", "gantk plain"))
        setup = Setup(case, host.parts.data.channels, host.device, options.seed, host.weights, options.bf16)
        guest = peer.build(setup, host.batch(0), host)
        sides: dict[str, Side] = {"gantk": host, "gantk plain": plain, peer.name: guest}
        batches = [host.batch(step) for step in range(BATCHES)]
        turns = {name: BatchTurn(side, lambda k: batches[k % BATCHES], host.device) for name, side in sides.items()}
        samples = take_turns(turns, options.seconds)
        for side in sides.values():
            side.check_finite()
    except UserError:
        raise
    except Exception as error:  # a peer's code may raise anything; other cases go on
        at = traceback.extract_tb(error.__traceback__)[-1]
        words = (str(error).strip().splitlines() or [""])[-1]
        if not isinstance(error, GantkError):
            words = f"{type(error).__name__}: {words}  ({Path(at.filename).name}:{at.lineno})"
        failed = {"status": "failed", "error": words, "wall_s": time.monotonic() - start}
        yield common_fields(case, peer.name, peer, options) | failed
        return
    for label, side in sides.items():
        own = side if isinstance(side, OwnSide) else None
        row = common_fields(case, label, None if own else peer, options) | measured_fields(own or host, samples[label])
        row["speed"]["steps"], row["wall_s"] = turns[label].taken - WARM, time.monotonic() - start
        row |= {"weights": side.weights, "batches": turns[label].digest, "beside": peer.name}
        if own:  # measured again with every peer
            row["label"] += f" beside {peer.name}"
        else:
            bf16 = options.bf16 and peer.folder is None and not case.window
            row["machine"] |= {"precision": "bf16" if bf16 else "fp32", "channels_last": False}
            row["notes"] = list(side.notes)
            row["ratio"] = {way: ratio(samples[label], samples[way]) for way in sides if way != label}
        yield row


def gantk_side(case: Case, way: str, options: argparse.Namespace) -> OwnSide:
    """gantk's side of a case on its path `way`, a key of WAYS."""
    settings = [*options.set, *case.settings(way)]
    return OwnSide(case_model(case, settings, data=options.data, seed=options.seed), options.device, bool(case.window))


def common_fields(case: Case, label: str, peer: Peer | None, options: argparse.Namespace) -> Row:
    """The fields that every row has, also a failed one, as in `gantk bench`; `peer` is None for gantk's own sides."""
    version, where = (peer.found or (None, None)) if peer else (__version__, None)
    return {
        "format": FORMAT, "suite": "peers", "recipe": case.name, "label": f"{case.name} {label}", "profile": None,
        "summary": case.summary, "settings": list(options.set), "grid": {}, "seed": options.seed, "status": "ok",
        "error": None, "started": datetime.now().astimezone().isoformat(timespec="seconds"), "wall_s": 0.0, "run": None,
        "peer": peer.name if peer else None, "kind": "speed", "side": label, "size": case.size, "batch": case.batch,
        "version": version, "found": where, "notes": [], "ratio": {},
    }  # fmt: skip


def measured_fields(host: OwnSide, samples: list[float]) -> Row:
    """The further fields of a measured row; `samples` are seconds per step."""
    model = host.model
    return {
        "method": model.method.name, "domains": list(model.data.domains), "paired": host.parts.data.paired,
        "metrics": {}, "baselines": {}, "verdict": {}, "curve": [], "alarms": [],
        "speed": {"images_per_s": model.train.batch / median(samples), "step_seconds": samples},
        "machine": describe(host.parts.runtime), "git": commit(), "recipe_hash": recipe_hash(resolved(model)),
        "jobs": 1,
    }  # fmt: skip


def table(rows: list[Row]) -> str:
    """All rows as Markdown; rows without figures are in a second table with their reasons."""
    lines, missing = [], []
    for row in rows:
        if row["status"] != "ok":
            missing.append((row["recipe"], row["side"], row["status"], row["error"]))
            continue
        beside = f" (beside {row['beside']})" if row["peer"] is None else ""
        seconds = row["speed"]["step_seconds"]
        times = [written(row["ratio"].get(way)) for way in ("gantk", "gantk plain")]
        about = row["recipe"], f"{row['side']}, {row['machine']['precision']}{beside}", row["version"]
        lines.append((*about, f"{row['weights'] / 1e6:.2f} M", f"{median(seconds):.4f}", *times, len(seconds)))
    heads = ("case", "side", "version", "weights", "s/step", "times gantk", "times gantk plain", "rounds")
    parts = [markdown(heads, lines)] if lines else []
    return "\n\n".join([*parts, *([markdown(("case", "side", "status", "why"), missing)] if missing else [])]) + "\n"


def merged(before: list[Row], new: list[Row]) -> list[Row]:
    """Old rows, replaced by new ones of the same label, then other new rows; drops "skipped" rows of measured peers."""
    again, here = {row["label"]: row for row in new}, {row["peer"] for row in new if row["status"] != "skipped"}
    kept = [again.pop(row["label"], row) for row in before if row["status"] != "skipped" or row["peer"] not in here]
    return kept + [row for row in new if row["label"] in again]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 a row failed, 2 an invalid command line."""
    cli = parser(__doc__, seconds=40.0)
    cli.add_argument("--peer", action="append", default=[], metavar="NAME[=CHECKOUT]", help=", ".join(KINDS))
    cli.add_argument("--cases", nargs="+", default=[], metavar="PATTERN", help=f"of {', '.join(CASES)}")
    cli.add_argument("--filters", type=int, metavar="N", help="of both networks' first levels, instead of the case's")
    cli.add_argument("--bf16", action="store_true", help="MONAI and KonfAI under autocast in bfloat16")
    cli.add_argument("--data", metavar="PATH", help="train on these images instead of the phantom's")
    cli.add_argument("--seed", type=int, default=0)
    cli.add_argument("--table", action="store_true", help="print the rows as Markdown")
    options = cli.parse_args(arguments)
    try:
        return run(options)
    except GantkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run(options: argparse.Namespace) -> int:
    old_rows = read_rows(options.json) if options.json and options.json.exists() else []
    if options.table and not options.peer and not options.cases:
        if not old_rows:
            raise UserError("there are no rows to print", where="--table", remedy="name their file with --json FILE")
        print(table(old_rows), end="")
        return 0
    new_rows: list[Row] = []
    for row in measure(options):
        new_rows.append(row)
        ratios = "".join(f"  {found['median']:.2f}x {way}" for way, found in row["ratio"].items())
        result = f"{median(row['speed']['step_seconds']):.4f} s{ratios}" if row["status"] == "ok" else row["error"]
        print(f"{row['status']:<8} {row['label']:<52} {result}", flush=True)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            write_rows(options.json, merged(old_rows, new_rows))
    if options.table:
        print(table(merged(old_rows, new_rows)), end="")
    return 1 if any(row["status"] == "failed" for row in new_rows) else 0


if __name__ == "__main__":
    sys.exit(main())
