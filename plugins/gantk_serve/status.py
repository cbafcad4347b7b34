"""What `gantk serve status` tells: counts, reasons and times from the records in Orthanc."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from gantk.errors import printable
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
    "left out": "",  # the reasons
}
SHOWN = 20
WIDTH = 80


def status_lines(rules: Path, *, as_json: bool = False) -> Iterator[str]:
    """The lines to print: the number of series of each outcome, and the last series with times,
    patients, descriptions and reasons.
    """
    orthanc = connect(load_rules(rules))
    found = list(series_outcomes(orthanc))
    counts = Counter(dict.fromkeys(OUTCOMES, 0))
    counts.update(each["outcome"] for each in found)
    if as_json:
        yield json.dumps({"counts": counts, "series": found})
        return

    reasons = Counter(each["reason"] for each in found if each["outcome"] == "left out")
    left_out = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    yield "series  outcome      meaning"
    for name, meaning in (OUTCOMES | {"left out": left_out}).items():
        if counts[name]:
            yield f"{counts[name]:6}  {name:11}  {meaning}"

    told = [each for each in found if each["time"] and each["outcome"] != "left out"]
    told.sort(key=lambda each: each["time"], reverse=True)
    if told:
        yield ""
        yield f"{'time':16}  {'outcome':11}  series in Orthanc"
    patients = {}
    for study in orthanc.studies(each["study"] for each in told[:SHOWN]):
        patients[study["ID"]] = study["PatientMainDicomTags"].get("PatientID", "")
    for each in told[:SHOWN]:
        time = datetime.fromisoformat(each["time"]).astimezone().strftime("%Y-%m-%d %H:%M")
        yield f"{time}  {each['outcome']:11}  {each['series']}"
        indent = 18 * " "
        told_of_it = (patients.get(each["study"]), each["description"], each["reason"])
        yield from textwrap.wrap(
            printable("; ".join(filter(None, told_of_it))),
            WIDTH,
            initial_indent=indent,
            subsequent_indent=indent,
        )
    if len(told) > SHOWN:
        yield f"and {len(told) - SHOWN} more, before these (all of them: --json)"


def series_outcomes(orthanc: Orthanc) -> Iterator[Json]:
    """What became of each series, or group of a study's series, that was not made by gantk."""
    for series in orthanc.series(orthanc.ask(list[str], "GET", "/series")):
        record = record_of(series)
        sources = record.get("sources") or {series["ID"]: ""}
        if record.get("outcome") == "derived" or min(sources) != series["ID"]:
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
