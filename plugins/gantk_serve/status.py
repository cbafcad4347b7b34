"""What `gantk serve status` tells: counts, reasons and times from the records in Orthanc."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from operator import itemgetter
from pathlib import Path

from rich.table import Table

from gantk.terminal import table
from gantk_serve.orthanc import Json, Orthanc, connect, record_of
from gantk_serve.rules import load_rules

OUTCOMES = {  # outcome -> what it means
    "receiving": "Orthanc may get more of its images",
    "waiting": "complete; nobody has begun, or it is tried again later",
    "translating": "a worker translates it",
    "posting": "the derived series is being stored in Orthanc",
    "sending": "stored; a modality does not have all of it yet",
    "done": "the derived series is where it should be",
    "refused": "not one volume of one patient, or no input of its model",
    "failed": "a defect of a model, or it ended the worker ten times",
    "left out": "no rule is for it, or it is synthetic",
}
SHOWN = 20


def status_of(rules: Path) -> Json:
    """The number of series of each outcome, and what became of each, the last one first."""
    orthanc = connect(load_rules(rules))
    found = sorted(series_outcomes(orthanc), key=itemgetter("time"), reverse=True)
    counts = Counter(dict.fromkeys(OUTCOMES, 0))
    counts.update(each["outcome"] for each in found)
    return {"counts": counts, "series": found}


def tables_of(status: Json) -> Iterator[Table]:
    """A status as tables: of the outcomes, and of the last series with times and reasons."""
    counts = status["counts"].items()
    known = [(str(count), name, OUTCOMES[name]) for name, count in counts if count]
    yield table(("series", "outcome", "meaning"), known)
    rows = []
    for each in status["series"]:
        if each["time"] and each["outcome"] != "left out":
            time = datetime.fromisoformat(each["time"]).astimezone()
            words = (f"{time:%Y-%m-%d %H:%M}", each["series"], each["description"], each["reason"])
            rows.append((each["outcome"], "; ".join(filter(None, words))))
    yield table(("outcome", f"the last {SHOWN} series (all of them: --json)"), rows[:SHOWN])


def series_outcomes(orthanc: Orthanc) -> Iterator[Json]:
    """What became of each series that was not made by gantk."""
    for series in orthanc.series(orthanc.ask(list[str], "GET", "/series")):
        record = record_of(series)
        if record.get("outcome") == "derived":
            continue
        yield {
            "series": series["ID"],
            "outcome": record.get("outcome", "waiting" if series["IsStable"] else "receiving"),
            "reason": "; ".join(
                filter(None, (record.get(key) for key in ("reason", "note", "notes")))
            ),
            "time": record.get("time", ""),
            "study": series["ParentStudy"],
            "description": series["MainDicomTags"].get("SeriesDescription", ""),
            "model": record.get("model", {}).get("name", ""),
        }
