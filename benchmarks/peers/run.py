"""Times training steps of gantk and other toolkits on the same batches, in one process and in
turns.

    python benchmarks/peers/run.py --peer reference=CHECKOUT --peer cut=CHECKOUT --peer monai --json
    FILE python benchmarks/peers/run.py --peer reference=CHECKOUT --cases 'cyclegan-256-*' --seconds
    120 --json FILE python benchmarks/peers/run.py --table --json FILE          # a file's rows as
    Markdown; nothing is measured

Peers: reference (CycleGAN and pix2pix, a checkout), cut (a checkout), monai and konfai (packages);
without --peer all are tried. One that is not installed or can run none of the cases becomes a row
"skipped" with the reason. Each case runs with every peer that has its parts; without --cases, those
that take minutes on a CPU are left out.
"""

import argparse
import gc
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

# replaces this folder in the path: its files could shadow packages of the same name
if __name__ == "__main__":
    sys.path[:1] = [
        str(Path(__file__).resolve().parents[1]),
        str(Path(__file__).resolve().parents[2]),
    ]

from gantk import __version__
from gantk.errors import GantkError, UserError, did_you_mean
from gantk.machine.runtime import describe
from gantk.recipe.load import resolved
from gantk_bench.child import now
from gantk_bench.harness import PLAIN, parser, ratio, ratio_text, reason, take_turns
from gantk_bench.harness import table as markdown
from gantk_bench.plan import recipe_hash
from gantk_bench.rows import FORMAT, commit, read_rows, write_rows
from peers.cases import CASES, PEERS, Case, chosen
from peers.checkouts import Cut, Reference
from peers.packages import Konfai, Monai, MonaiWindows
from peers.sides import BatchTurn, OwnSide, Setup, Side

Row = dict[str, Any]
# To add a toolkit: a class with the `find`, `unable` and constructor of these, and its name in
# PEERS.
KINDS: dict[str, Any] = dict(zip(PEERS, (Reference, Cut, Monai, Konfai), strict=True))
BATCHES = 4  # different batches, used in turn


@dataclass(frozen=True)
class Peer:
    """A toolkit; `found` is (version, where), or how to get it."""

    name: str
    folder: Path | None
    found: tuple[str, str] | str

    def unable(self, case: Case) -> str | None:
        """The reason why the toolkit cannot run a case, or None."""
        if isinstance(self.found, str):
            return f"{self.name} is not here: {self.found}"
        if case.window:
            return None if self.name == "monai" else "it has no inference by windows"
        return KINDS[self.name].unable(case)

    def build(self, setup: Setup, first: dict[str, Any], host: OwnSide | None = None) -> Side:
        """The toolkit's side of a case; for translation by windows it uses the generator of `host`,
        gantk's side.
        """
        # it may draw from any of them
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(setup.seed)
        if setup.case.window:
            return MonaiWindows(host.generator, setup.case)
        return KINDS[self.name](self.folder, setup, first)


def parse_peers(arguments: Iterable[str]) -> list[Peer]:
    """The peers of arguments `name` or `name=folder`; all if there are none. UserError for a wrong
    name or folder.
    """
    peers = []
    for argument in arguments or KINDS:
        name, _, folder = argument.partition("=")
        if name not in KINDS:
            remedy = did_you_mean(name, KINDS)
            raise UserError(
                f"there is no peer '{name}'",
                where=f"--peer {argument}",
                allowed=KINDS,
                remedy=remedy,
            )
        path = Path(folder).expanduser().resolve() if folder else None
        peers.append(Peer(name, path, KINDS[name].find(path)))
    return peers


def measure(options: argparse.Namespace) -> Iterator[Row]:
    """Every case with every peer that can run it; a row with status "skipped" for each peer that
    runs none.
    """
    cases = chosen(options.cases)
    peers = parse_peers(options.peer)
    for peer in peers:
        reasons = dict.fromkeys(peer.unable(case) for case in cases)
        if None not in reasons:
            about = {
                "status": "skipped",
                "recipe": "peers",
                "summary": "",
                "label": f"peers {peer.name}",
            }
            yield fields(cases[0], peer.name, peer, options) | about | {"error": "; ".join(reasons)}
    for case in cases:
        for peer in peers:
            if not peer.unable(case):
                yield from rows_of(case, peer, options)
                gc.collect()


def rows_of(case: Case, peer: Peer, options: argparse.Namespace) -> Iterator[Row]:
    """Times gantk's default path, its plain path and the peer in turns: three rows, or one row
    "failed".
    """
    start = time.monotonic()
    try:
        host = OwnSide(case, options.set, options.device)
        plain = OwnSide(case, [*options.set, *PLAIN], options.device)
        seed = host.model.train.seed
        setup = Setup(case, host.parts.data.channels, host.device, seed, host.weights, options.bf16)
        guest = peer.build(setup, host.batch(0), host)
        sides: dict[str, Side] = {"gantk": host, "gantk plain": plain, peer.name: guest}
        batches = [host.batch(step) for step in range(BATCHES)]
        turns = {
            name: BatchTurn(side, lambda k: batches[k % BATCHES], host.device)
            for name, side in sides.items()
        }
        samples = take_turns(turns, options.seconds)
        for side in sides.values():
            side.check_finite()
    except UserError:
        raise
    except Exception as error:  # a peer's code may raise anything; other cases go on
        failed = {"status": "failed", "error": reason(error), "wall_s": time.monotonic() - start}
        yield fields(case, peer.name, peer, options) | failed
        return
    for label, side in sides.items():
        own = side if isinstance(side, OwnSide) else None
        seconds = samples[label]
        row = fields(case, label, None if own else peer, options)
        row |= {
            "weights": side.weights,
            "batches": turns[label].digest,
            "beside": peer.name,
            "git": commit(),
            "speed": {
                "images_per_s": host.model.train.batch / median(seconds),
                "step_seconds": seconds,
            },
            "wall_s": time.monotonic() - start,
            "machine": describe((own or host).parts.runtime),
        }
        if own:  # measured again with every peer
            row["label"] = f"{row['label']} beside {peer.name}"
            row["recipe_hash"] = recipe_hash(resolved(own.model))
        else:
            bf16 = options.bf16 and peer.folder is None and not case.window
            row["machine"] |= {"precision": "bf16" if bf16 else "fp32", "channels_last": False}
            row["ratio"] = {way: ratio(seconds, samples[way]) for way in sides if way != label}
            row["notes"] = list(side.notes)
        yield row


def fields(case: Case, label: str, peer: Peer | None, options: argparse.Namespace) -> Row:
    """The fields that every row has, also a failed one; `peer` is None for gantk's own sides."""
    found = peer.found if peer else (__version__, None)
    version, where = (None, None) if isinstance(found, str) else found
    return {
        "format": FORMAT,
        "suite": "peers",
        "recipe": case.name,
        "label": f"{case.name} {label}",
        "summary": case.summary,
        "settings": list(options.set),
        "status": "ok",
        "error": None,
        "started": now(),
        "peer": peer.name if peer else None,
        "side": label,
        "size": case.size,
        "batch": case.batch,
        "version": version,
        "found": where,
        "ratio": {},
    }


def table(rows: list[Row]) -> str:
    """All rows as Markdown; rows without figures are in a second table with their reasons."""
    lines = []
    # other rows have no times, as those of quality
    for row in (row for row in rows if "beside" in row):
        beside = f" (beside {row['beside']})" if row["peer"] is None else ""
        seconds = row["speed"]["step_seconds"]
        times = [ratio_text(row["ratio"].get(way)) for way in ("gantk", "gantk plain")]
        side = f"{row['side']}, {row['machine']['precision']}{beside}"
        weights = f"{row['weights'] / 1e6:.2f} M"
        about = (row["recipe"], side, row["version"], weights)
        lines.append((*about, f"{median(seconds):.4f}", *times, len(seconds)))
    missing = [
        (row["recipe"], row["side"], row["status"], row["error"])
        for row in rows
        if row["status"] != "ok"
    ]
    heads = (
        "case",
        "side",
        "version",
        "weights",
        "s/step",
        "times gantk",
        "times gantk plain",
        "rounds",
    )
    tables = (heads, lines), (("case", "side", "status", "why"), missing)
    return "\n\n".join(markdown(*each) for each in tables if each[1]) + "\n"


def merged(before: list[Row], new: list[Row]) -> list[Row]:
    """Old rows, replaced by new ones of the same label, then other new rows; drops "skipped" rows
    of measured peers.
    """
    fresh = {row["label"]: row for row in new}
    measured = {row["peer"] for row in new if row["status"] != "skipped"}
    rows = []
    for row in before:
        if row["status"] != "skipped" or row["peer"] not in measured:
            rows.append(fresh.pop(row["label"], row))
    return rows + [row for row in new if row["label"] in fresh]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 a row failed, 2 an invalid command
    line.
    """
    cli = parser(__doc__, device=None, set=[], seconds=40.0)
    cli.add_argument(
        "--peer", action="append", default=[], metavar="NAME[=CHECKOUT]", help=", ".join(KINDS)
    )
    cli.add_argument(
        "--cases", nargs="+", default=[], metavar="PATTERN", help=f"of {', '.join(CASES)}"
    )
    cli.add_argument(
        "--bf16", action="store_true", help="MONAI and KonfAI under autocast in bfloat16"
    )
    cli.add_argument("--table", action="store_true", help="print the rows as Markdown")
    options = cli.parse_args(arguments)
    try:
        return run(options)
    except GantkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run(options: argparse.Namespace) -> int:
    old_rows = (
        [row.dump() for row in read_rows(options.json)]
        if options.json and options.json.exists()
        else []
    )
    if options.table and not options.peer and not options.cases:
        if not old_rows:
            raise UserError(
                "there are no rows to print",
                where="--table",
                remedy="name their file with --json FILE",
            )
        print(table(old_rows), end="")
        return 0
    new_rows: list[Row] = []
    for row in measure(options):
        new_rows.append(row)
        result = row["error"]
        if row["status"] == "ok":
            ratios = [f"{found['median']:.2f}x {way}" for way, found in row["ratio"].items()]
            seconds = f"{median(row['speed']['step_seconds']):.4f} s"
            result = "  ".join([seconds, *ratios])
        print(f"{row['status']:<8} {row['label']:<52} {result}", flush=True)
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            write_rows(options.json, merged(old_rows, new_rows))
    if options.table:
        print(table(merged(old_rows, new_rows)), end="")
    return 1 if any(row["status"] == "failed" for row in new_rows) else 0


if __name__ == "__main__":
    sys.exit(main())
