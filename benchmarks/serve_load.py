"""Measures the time from the last instance of a study to its derived series in an archive, for
several numbers of studies that are sent to `gantk serve` at once.

    python benchmarks/serve_load.py [--studies 1 4 16 64 200] [--slices 24] [--size 256]
        [--model RUN] [--quiet 1] [--json FILE]

The service has one worker on the CPU, and has translated a study before, so that the model is loaded.
The archive is a process of its own on the loopback address. The time contains the quiet seconds after
which a study is complete. "last" is the time until all of the studies are in the archive.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from gantk_bench.harness import finish, parser

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from serve_kills import uid_of
from serving import (
    ARCHIVE,
    SENDER,
    Archive,
    Server,
    free_ports,
    store,
    study,
    tiny_model,
    wait_for,
)

SENDERS = 16  # associations at a time
LIMIT_SECONDS = 3600.0


class Load:
    """A service and an archive in `folder`."""

    def __init__(self, folder: Path, model: str, quiet: float, slices: int, size: int):
        self.folder = folder
        self.shape = {"slices": slices, "size": (size, size)}
        self.port, archive_port, http_port = free_ports(3)
        self.archive = Archive(folder, archive_port)
        rule = {"when": {"contrast": "T1"}, "model": model, "to": "T2", "send": ARCHIVE}
        rules = {
            "service": {"quiet": quiet, "devices": ["cpu"]},
            "dicom": {"port": self.port},
            "http": {"port": http_port},
            "peers": [
                {"title": SENDER, "host": "127.0.0.1"},
                {"title": ARCHIVE, "host": "127.0.0.1", "port": archive_port},
            ],
            "rules": [rule],
        }
        self.server = Server(folder, rules)
        self.number = 0

    def measure(self, count: int) -> dict[str, Any]:
        """Send so many studies at once, and wait for their results."""
        studies = []
        for _ in range(count):
            self.number += 1
            studies.append(study(self.folder / "studies", self.number, **self.shape))
        sources = [[uid_of(file) for file in files] for files in studies]

        begun = time.time()
        with ThreadPoolExecutor(SENDERS) as threads:
            sent = list(threads.map(self._send, studies))
        arrived = wait_for(
            lambda: self._arrivals(sources), LIMIT_SECONDS, "all results in the archive"
        )
        seconds = [after - before for before, after in zip(sent, arrived, strict=True)]
        return {
            "studies": count,
            "seconds": seconds,
            "sending": max(sent) - begun,
            "last": max(arrived) - max(sent),
            "per_minute": 60 * count / (max(arrived) - begun),
        }

    def _send(self, files: Sequence[Path]) -> float:
        """Send a study; returns the time at which its last instance was acknowledged."""
        left = list(files)
        while left:
            left = store(left, self.port)
        return time.time()

    def _arrivals(self, sources: Sequence[Sequence[str]]) -> list[float] | None:
        """The times at which the results of each study were complete; None if one is not yet."""
        times = {line["source"]: line["time"] for line in self.archive.received()}
        if not all(uid in times for uids in sources for uid in uids):
            return None
        return [max(times[uid] for uid in uids) for uids in sources]


def main(arguments: list[str] | None = None) -> None:
    cli = parser(__doc__)
    cli.add_argument("--studies", type=int, nargs="+", default=[1, 4, 16, 64, 200])
    cli.add_argument("--slices", type=int, default=24, help="default %(default)s")
    cli.add_argument("--size", type=int, default=256, help="of a slice; default %(default)s")
    cli.add_argument("--model", help="default: a run with small networks of random weights")
    cli.add_argument("--quiet", type=float, default=1.0, help="seconds; default %(default)g")
    options = cli.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = options.model or str(tiny_model(folder))
        load = Load(folder / "load", model, options.quiet, options.slices, options.size)
        with load.archive, load.server:
            load.archive.start()
            load.server.start()
            load.measure(1)  # until the model is loaded
            rows = [load.measure(count) for count in options.studies]

    heads = ["studies", "median, s", "slowest, s", "last, s", "studies a minute"]
    lines = [
        [
            row["studies"],
            f"{median(row['seconds']):.1f}",
            f"{max(row['seconds']):.1f}",
            f"{row['last']:.1f}",
            f"{row['per_minute']:.1f}",
        ]
        for row in rows
    ]
    given = {name: getattr(options, name) for name in ("slices", "size", "quiet")}
    finish(options.json, heads, lines, samples=rows, model=options.model or "tiny", **given)


if __name__ == "__main__":
    main()
