"""gantk beside other toolkits: the same batches, images and sizes, in one process.

    python benchmarks/peers/run.py --peer reference=CHECKOUT --peer cut=CHECKOUT --peer monai --json FILE
    python benchmarks/peers/run.py --peer reference=CHECKOUT --cases 'cyclegan-256-*' --seconds 120 --json FILE
    python benchmarks/peers/run.py --peer reference=CHECKOUT --cases quality-cyclegan-64 --train-seconds 60 --json FILE
    python benchmarks/peers/run.py --table --json FILE          # a file's rows as Markdown; nothing is measured

Peers: reference (CycleGAN and pix2pix, a checkout), cut (a checkout), monai and konfai (packages); without --peer all
are tried. One that is not here, or that can run none of the cases, is a row with status "skipped" that says why.
Each case runs with every peer that has its parts; without --cases, those that take minutes on a CPU are left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median

if __name__ == "__main__":  # this folder's own files must not stand in for packages of the same name
    sys.path[:1] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from gantk.errors import GantkError, UserError
from peers.adapters import ADAPTERS
from peers.cases import CASES
from peers.markdown import table
from peers.measure import measure
from peers.rows import Row, joined, read, write


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 done, 1 a row failed, 2 the command line was wrong."""
    options = parser().parse_args(arguments)
    try:
        return run(options)
    except GantkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run(options: argparse.Namespace) -> int:
    file = Path(options.json) if options.json else None
    before = read(file) if file and file.exists() else []
    if options.table and not options.peer and not options.cases:
        if not before:
            raise UserError("there are no rows to print", where="--table", remedy="name their file with --json FILE")
        print(table(before), end="")
        return 0
    done: list[Row] = []
    for row in measure(options):
        done.append(row)
        print(line_of(row), flush=True)
        if file:
            write(file, joined(before, done))
    if options.table:
        print(table(joined(before, done)), end="")
    return 1 if any(row["status"] == "failed" for row in done) else 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--peer", action="append", default=[], metavar="NAME[=CHECKOUT]", help=", ".join(ADAPTERS))
    found.add_argument("--cases", nargs="+", default=[], metavar="PATTERN", help=f"of {', '.join(CASES)}")
    found.add_argument("--seconds", type=float, default=40.0, help="of timed steps for each case and peer; default 40")
    found.add_argument("--filters", type=int, metavar="N", help="of both networks' first levels, instead of the case's")
    length = found.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="of the trainings whose quality is compared; default: the case's")
    length.add_argument("--train-seconds", type=float, help="instead of steps: so long each, at each side's own speed")
    found.add_argument("--data", metavar="PATH", help="train and score on these images instead of the phantom's")
    found.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over gantk's recipe of a case")
    found.add_argument("--device", help="cpu, cuda, cuda:1; default: the best there is")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--json", metavar="FILE", help="rows, one per line; rows already there are kept or replaced")
    found.add_argument("--table", action="store_true", help="print the rows as Markdown")
    return found


def line_of(row: Row) -> str:
    """A row for the terminal."""
    if row["status"] != "ok":
        return f"{row['status']:<8} {row['label']}: {row['error']}"
    ratios = "".join(f"  {found['median']:.2f}x {way}" for way, found in row["ratio"].items())
    psnr = {key: found.get("psnr", {}).get("value") for key, found in row["metrics"].items()}
    scores = "".join(f"  {key} {value:.2f} dB" for key, value in psnr.items() if value is not None)
    return f"ok       {row['label']:<52} {median(row['speed']['step_seconds']):.4f} s{ratios}{scores}"


if __name__ == "__main__":
    sys.exit(main())
