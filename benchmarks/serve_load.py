"""Measures the time from the last instance of a study to its derived series in a PACS, for several
numbers of studies that an Orthanc beside `gantk serve` gets at once.

    python benchmarks/serve_load.py [--studies 1 4 16 64 200] [--slices 24] [--size 256]
        [--model RUN] [--quiet 1] [--json FILE]

The worker uses the CPU, and has translated a study before, so that the model is loaded. The PACS is
another Orthanc on the loopback address. The time contains the quiet seconds after which Orthanc calls
a series stable; "from stable" begins when it does. "last" is the time until all of the studies are in
the PACS.
"""

import hashlib
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import pydicom

from gantk_bench.harness import finish, parser

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from serving import PACS, OrthancServer, Worker, store_until_kept, study, tiny_model

SENDERS = 16  # at a time
LIMIT_SECONDS = 3600.0
LOOK_SECONDS = 0.2  # between two looks at the PACS


class Load:
    """A worker, an Orthanc and a PACS in `folder`."""

    def __init__(self, folder: Path, model: str, quiet: float, slices: int, size: int):
        self.folder = folder
        self.shape = {"slices": slices, "size": (size, size)}
        self.pacs = OrthancServer(folder, "pacs")
        self.orthanc = OrthancServer(folder, pacs=self.pacs.dicom, StableAge=round(quiet))
        rule = {"when": {"contrast": "T1"}, "model": model, "to": "T2", "send": PACS}
        self.worker = Worker(folder, {"orthanc": {"url": self.orthanc.url}, "rules": [rule]})
        self.number = 0  # of the last study
        self.seen = 0  # number of Orthanc's last change

    def measure(self, count: int) -> dict[str, Any]:
        """Send so many studies at once, and wait for their results."""
        studies = []
        for _ in range(count):
            self.number += 1
            studies.append(study(self.folder / "studies", self.number, **self.shape))
        names = [orthanc_id(files[0], "StudyInstanceUID") for files in studies]
        series = [
            orthanc_id(files[0], "StudyInstanceUID", "SeriesInstanceUID") for files in studies
        ]

        begun = time.time()
        arrived: dict[str, float] = {}  # study -> time
        stable: dict[str, float] = {}  # series -> time
        with ThreadPoolExecutor(SENDERS + 1) as threads:
            looking = threads.submit(self._note_arrivals, names, arrived, stable)
            sent = list(threads.map(self._send, studies))
            looking.result()
        ends = [arrived[name] for name in names]
        seconds = [after - before for before, after in zip(sent, ends, strict=True)]
        return {
            "studies": count,
            "seconds": seconds,
            "from_stable": [after - stable[name] for name, after in zip(series, ends, strict=True)],
            "sending": max(sent) - begun,
            "last": max(ends) - max(sent),
            "per_minute": 60 * count / (max(ends) - begun),
        }

    def _send(self, files: Sequence[Path]) -> float:
        """Send a study; returns the time at which its last instance was acknowledged."""
        store_until_kept(self.orthanc, files, threading.Event())
        return time.time()

    def _note_arrivals(
        self, names: Sequence[str], arrived: dict[str, float], stable: dict[str, float]
    ) -> None:
        """Note the times at which the results of studies are complete in the PACS, and at which
        Orthanc calls series stable.
        """
        end = time.monotonic() + LIMIT_SECONDS
        while not arrived.keys() >= set(names):
            assert time.monotonic() < end, "not all results are in the PACS"
            changes = self.orthanc.get(f"/changes?since={self.seen}&limit=1000")
            self.seen = changes["Last"]
            for change in changes["Changes"]:
                if change["ChangeType"] == "StableSeries":
                    stable.setdefault(change["ID"], time.time())
            for series in self.pacs.series():
                if len(series["Instances"]) == self.shape["slices"]:
                    arrived.setdefault(series["ParentStudy"], time.time())
            time.sleep(LOOK_SECONDS)


def orthanc_id(file: Path, *uids: str) -> str:
    """Orthanc's identifier of the study, or of the series, of a file."""
    header = pydicom.dcmread(file, stop_before_pixels=True)
    parts = [header.PatientID, *(header[name].value for name in uids)]
    digest = hashlib.sha1("|".join(parts).encode()).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


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
        with load.pacs, load.orthanc, load.worker:
            for part in (load.pacs, load.orthanc, load.worker):
                part.start()
            load.measure(1)  # until the model is loaded
            rows = [load.measure(count) for count in options.studies]

    heads = [
        "studies",
        "median, s",
        "from stable: median, s",
        "slowest, s",
        "last, s",
        "studies a minute",
    ]
    lines = [
        [
            row["studies"],
            f"{median(row['seconds']):.1f}",
            f"{median(row['from_stable']):.1f}",
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
