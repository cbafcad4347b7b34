"""The file of a worker's rules: its Orthanc, which series are translated by which model, and where
the derived series go.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gantk.catalog.contrasts import contrast_of_series, one_word, same_contrast
from gantk.errors import reading_file
from gantk.files import read_file
from gantk.plugin import spec

MAX_RULES_BYTES = 2**18
Seconds = Annotated[float, Field(ge=0.0, le=86400.0)]


class OrthancTable(spec.Table):
    """The Orthanc that the worker stands beside."""

    url: str = "http://127.0.0.1:8042"  # address of its REST interface
    user: str = ""  # a user of Orthanc; "": no password
    password_file: str = ""  # file with the user's password, which only the worker's user can read
    ca: str = ""  # PEM file of the authority of an https address; "": the system's authorities


class ServiceTable(spec.Table):
    """The worker's own folder and device."""

    folder: str = "serve"  # of the number of the last change and of temporary files
    device: str = ""  # such as "cuda:1"; "": the best one
    # seconds without a new instance after which a series is complete that Orthanc did not call
    # stable, because it was restarted meanwhile
    quiet: Seconds = 60.0


class WhenTable(spec.Table):
    """The series that a rule is for. All keys that are given must match."""

    modality: str = ""  # such as "MR"
    contrast: str = ""  # as gantk tells it from the description, such as "T1" or "FLAIR"
    description: str = ""  # a part of the description, in any case
    sender: str = ""  # AE title of the sender


class RuleTable(spec.Table):
    """What is done with a series."""

    when: WhenTable = WhenTable()  # the series that it is for; all if it is missing
    model: str  # a name that `gantk models` lists, or a run folder
    to: str = ""  # the domain to make; "": the model's second
    label: str = ""  # the class, for a model with classes
    send: list[str] | str = []  # Orthanc's modalities that get the derived series
    # how well a series must fit the training data of the model; others are refused
    fits: Literal["yes", "partly", "no"] = "no"

    @property
    def modalities(self) -> list[str]:
        """The names of the modalities that get the derived series."""
        return [self.send] if isinstance(self.send, str) else self.send


class Rules(spec.Table):
    """The content of a rules file."""

    format: Literal[2] = 2  # of this file
    orthanc: OrthancTable = OrthancTable()  # address and password
    service: ServiceTable = ServiceTable()  # folder, device
    rules: list[RuleTable] = []  # what is translated; the first that matches a series counts


def load_rules(path: Path) -> Rules:
    """Read a rules file, with all paths made absolute; UserError that names the first mistake."""
    with reading_file(path, "rules in TOML"):
        values = tomllib.loads(read_file(path, None, MAX_RULES_BYTES).decode("utf-8-sig"))
        rules = spec.check(Rules, values, "the rules")
    base = path.absolute().parent
    orthanc = rules.orthanc
    orthanc.password_file = orthanc.password_file and str(base / orthanc.password_file)
    orthanc.ca = orthanc.ca and str(base / orthanc.ca)
    rules.service.folder = str(base / rules.service.folder)
    for rule in rules.rules:
        run = base / rule.model
        if run.exists():
            rule.model = str(run)
    return rules


def facts_of(series: Mapping[str, Any]) -> dict[str, str]:
    """Modality, description, contrast and sender of a series, by what Orthanc knows of it."""
    tags = series["MainDicomTags"]
    modality = tags.get("Modality", "")
    words = (tags.get("SeriesDescription", ""), tags.get("ProtocolName", ""))
    return {
        "modality": modality,
        "description": words[0] or words[1],
        "contrast": contrast_of_series(modality, words),
        "sender": series["Metadata"].get("RemoteAET", ""),
    }


def matches(when: WhenTable, facts: Mapping[str, Any]) -> bool:
    """Whether a series, described by `modality`, `contrast`, `description` and `sender`, matches all
    keys that are given.
    """
    if when.modality and when.modality.upper() != facts["modality"].upper():
        return False
    if when.contrast and not same_contrast(one_word(when.contrast), one_word(facts["contrast"])):
        return False
    if when.description.lower() not in facts["description"].lower():
        return False
    return not when.sender or when.sender == facts["sender"]
