"""What gantk's training steps cost on a GPU, beside what the GPU can do: one run of minutes, a JSONL file of rows.

    python benchmarks/gpu_suite.py                          # benchmarks/results/gpu-NAME.jsonl, NAME is the card's
    python benchmarks/gpu_suite.py --peer reference=FOLDER  # another toolkit in the same run
    python benchmarks/gpu_suite.py --device cpu --tiny      # everything once, small, to see that it works
    python benchmarks/gpu_suite.py --table FILE             # a run's rows as Markdown; nothing is measured

gantk need not be installed. Rows are written as they come, most important first; what does not fit into the minutes is
a row that says so. What is timed stands in benchmarks/gpu/cases.toml.
"""

from __future__ import annotations

import time

BEGAN = time.monotonic()  # the budget counts from here: imports are part of it

import argparse  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import shlex  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path[:0] = [folder for folder in (str(Path(__file__).resolve().parent),) if folder not in sys.path]

from gpu import cases  # noqa: E402
from gpu.checkout import ROOT, use_checkout  # noqa: E402
from gpu.clock import Clock  # noqa: E402
from gpu.rows import read_rows  # noqa: E402
from gpu.suite import PARTS, Options, Suite  # noqa: E402
from gpu.table import markdown  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """0 where rows were measured, 1 where there is nothing to measure on, 2 for a wrong command line."""
    options = parsed(arguments)
    if options.table:
        print(markdown(list(read_rows(Path(options.table)))), end="")
        return 0
    use_checkout()
    if options.tiny:  # so little work is slower on several threads, and much slower on a busy machine
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    device, name = chosen_device(options.device)
    if device is None:
        print("no CUDA device answers here; `--device cpu --tiny` tries everything out on the CPU", file=sys.stderr)
        return 1
    typed = shlex.join(sys.argv[1:] if arguments is None else arguments)
    file = Path(options.json) if options.json else ROOT / "benchmarks" / "results" / f"gpu-{name}.jsonl"
    suite = Suite(
        Options(
            device=device,
            minutes=options.minutes,
            file=file,
            tiny=options.tiny,
            peers=dict(each.split("=", 1) for each in options.peer),
            cases=options.cases,
            parts=tuple(options.parts or PARTS),
            command=f"python benchmarks/gpu_suite.py {typed}".strip(),
        ),
        Clock(options.minutes, BEGAN),
        say=lambda line: print(line, flush=True),
    )
    rows = suite.run()
    print(f"\n{markdown(rows)}\nrows     {file}")
    return 0 if any(row["part"] == "ceiling" and row["status"] == "ok" for row in rows) or options.parts else 1


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; it ends with a message where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu. Default: cuda")
    parser.add_argument("--minutes", type=float, default=9.0, help="the longest that the run may take. Default: 9")
    parser.add_argument("--tiny", action="store_true", help="networks of a few filters, few samples: a trial run")
    parser.add_argument("--json", metavar="FILE", help="where the rows go; a file that is there is replaced")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="a checkout to compare with")
    labels = [case.label for case in cases.all_cases()]
    parser.add_argument("--cases", nargs="+", choices=labels, metavar="CASE", help=f"these only: {', '.join(labels)}")
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help=f"these only: {', '.join(PARTS)}")
    parser.add_argument("--table", metavar="FILE", help="print the rows of a run as Markdown, measure nothing")
    options = parser.parse_args(arguments)
    for each in options.peer:
        if "=" not in each:
            parser.error(
                f"--peer {each}: write NAME=PATH, for example --peer reference=../pytorch-CycleGAN-and-pix2pix"
            )
    if options.minutes < 0:
        parser.error(f"--minutes {options.minutes:g}: 0 or more")
    return options


def chosen_device(wanted: str) -> tuple[str | None, str]:
    """(device or None, the name that the file gets): asked of the driver, so that this process never holds the card."""
    if not wanted.startswith("cuda"):
        return wanted, wanted.replace(":", "-")
    index = wanted.partition(":")[2] or "0"
    command = ["nvidia-smi", f"--id={index}", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        name = said.stdout.strip().splitlines()[0] if said.returncode == 0 and said.stdout.strip() else None
    except (OSError, subprocess.TimeoutExpired):
        name = None
    if name is None:  # no nvidia-smi: torch may see a card all the same
        ask = f"import torch; print(torch.cuda.get_device_name({index}) if torch.cuda.is_available() else '')"
        said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
        name = said.stdout.strip() or None
    return (f"cuda:{index}", re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")) if name else (None, "")


if __name__ == "__main__":
    sys.exit(main())
