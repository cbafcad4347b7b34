"""What `gantk serve status` tells: outcome, reason and time of each series, from Orthanc's records."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path

from gantk_serve.orthanc import Json, connect, record_of
from gantk_serve.rules import load_rules


def status_of(rules: Path) -> list[Json]:
    """What became of each series that was not made by gantk, the last one first: "receiving" while
    Orthanc may get more of its images, "waiting" until a worker begins, else the outcome in its
    record (see `worker.py`).
    """
    orthanc = connect(load_rules(rules))
    found = []
    for series in orthanc.series(orthanc.ask(list[str], "GET", "/series")):
        record = record_of(series)
        if record.get("outcome") == "derived":
            continue
        reasons = (record.get(key) for key in ("reason", "note", "notes"))
        outcome = {
            "series": series["ID"],
            "outcome": record.get("outcome", "waiting" if series["IsStable"] else "receiving"),
            "reason": "; ".join(filter(None, reasons)),
            "time": record.get("time", ""),
            "description": series["MainDicomTags"].get("SeriesDescription", ""),
        }
        found.append(outcome)
    return sorted(found, key=itemgetter("time"), reverse=True)
