"""What `gantk serve status` tells: outcome, reason and time of each series, from Orthanc's records."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

from gantk_serve.orthanc import Json, Orthanc, connect, record_of
from gantk_serve.rules import load_rules


def status_of(rules: Path) -> list[Json]:
    """What became of each series, the last one first."""
    orthanc = connect(load_rules(rules))
    return sorted(series_outcomes(orthanc), key=itemgetter("time"), reverse=True)


def series_outcomes(orthanc: Orthanc) -> Iterator[Json]:
    """What became of each series that was not made by gantk: "receiving" while Orthanc may get more of
    its images, "waiting" until a worker begins, else the outcome in its record (see `worker.py`).
    """
    for series in orthanc.series(orthanc.ask(list[str], "GET", "/series")):
        record = record_of(series)
        if record.get("outcome") == "derived":
            continue
        reasons = (record.get(key) for key in ("reason", "note", "notes"))
        yield {
            "series": series["ID"],
            "outcome": record.get("outcome", "waiting" if series["IsStable"] else "receiving"),
            "reason": "; ".join(filter(None, reasons)),
            "time": record.get("time", ""),
            "description": series["MainDicomTags"].get("SeriesDescription", ""),
        }
