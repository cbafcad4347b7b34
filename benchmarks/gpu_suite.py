"""Times gantk's training steps on a GPU and the peak rates of that GPU, within some minutes, into a
JSONL file of rows.

    python benchmarks/gpu_suite.py                          # benchmarks/results/gpu-NAME.jsonl,
    NAME is the card's python benchmarks/gpu_suite.py --peer reference=FOLDER  # another toolkit in
    the same run python benchmarks/gpu_suite.py --device cpu --tiny      # everything once, small,
    to see that it works python benchmarks/gpu_suite.py --table FILE             # a run's rows as
    Markdown; nothing is measured

gantk need not be installed. Rows are written one by one, most important first; measurements beyond
the time limit become rows "skipped". benchmarks/gpu/cases.toml lists what is timed,
benchmarks/gpu/rows.py the targets.
"""

import time

BEGAN = time.monotonic()  # the time limit counts from here: imports are part of it

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "benchmarks")]
# At the end of the path, so that an installed gantk comes first; PYTHONPATH gives the measuring
# process the same.
sys.path += [folder for folder in FOLDERS if folder not in sys.path]
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*filter(None, [os.environ.get("PYTHONPATH")]), *FOLDERS]
)

import harness  # noqa: E402
from gpu.rows import markdown  # noqa: E402
from gpu.suite import Suite, Worker  # noqa: E402
from gpu.tasks import tables, tasks  # noqa: E402

from gantk.errors import GantkError, UserError  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; returns 0 if rows were measured, 1 if the device failed, 2 for a wrong command
    line or device.
    """
    options = parsed(arguments)
    if options.table:
        rows = Path(options.table).read_text("utf-8").splitlines()
        print(markdown([json.loads(line) for line in rows]), end="")
        return 0
    if options.tiny:  # so small a step is slower on several threads, much slower on a busy machine
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    worker = Worker(options.device)
    try:
        name = worker.wait_ready()
    except GantkError as error:
        worker.end()
        if isinstance(error, UserError):
            advice = " `--device cpu --tiny` tries everything out on the CPU."
        else:
            advice = ""
        print(f"error: {error}{advice}", file=sys.stderr)
        return error.exit_code
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    file = options.json or ROOT / "benchmarks" / "results" / f"gpu-{label}.jsonl"
    peers = dict(each.split("=", 1) for each in options.peer)
    wanted = tasks(options.tiny, options.cases, peers, harness.command(arguments))
    say = lambda line: print(line, flush=True)  # noqa: E731
    rows = Suite(
        file, 60 * options.minutes, lambda: Worker(options.device), worker, say, BEGAN
    ).run(wanted)
    print(f"\n{markdown(rows)}\nrows     {file}")
    return 0 if any(row["part"] == "ceiling" and row["status"] == "ok" for row in rows) else 1


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The parsed command line; exits with a message if it is invalid."""
    parser = harness.parser(__doc__, device="cuda")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="the longest that the run may take. Default: 8"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="networks of a few filters, few samples: a trial run"
    )
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="a checkout to compare with",
    )
    labels = [case["label"] for case in tables()["case"]]
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=labels,
        metavar="CASE",
        help=f"these only: {', '.join(labels)}",
    )
    parser.add_argument(
        "--table", metavar="FILE", help="print the rows of a run as Markdown, measure nothing"
    )
    options = parser.parse_args(arguments)
    for each in options.peer:
        if "=" not in each:
            parser.error(
                f"--peer {each}: write NAME=PATH, for example --peer reference=../CycleGAN"
            )
    if options.table and not Path(options.table).is_file():
        parser.error(f"--table {options.table}: there is no such file")
    if options.minutes < 0:
        parser.error(f"--minutes {options.minutes:g}: 0 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
