"""A stand-in for the calls of Orthanc's REST interface that `gantk serve` uses, in this process.

It keeps instances, metadata with ETags and changes, as Orthanc 1.10 with CheckRevisions
and OverwriteInstances does. Time is that of the test: series become stable when it says so.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pydicom

from gantk_serve.orthanc import Orthanc, Refused
from gantk_serve.rules import OrthancTable


class Answer:
    """The answer to a request."""

    def __init__(self, value: Any = None, content: bytes = b"", tag: str = ""):
        self.content = content if value is None else json.dumps(value).encode()
        self.text = self.content.decode("utf-8", "replace")
        self.headers = {"ETag": tag} if tag else {}


class OrthancDouble(Orthanc):
    """An Orthanc without a network; `fail` maps (method, start of a path) to an exception, `wrong`
    (method, end of a path) to the content of an answer that is none of Orthanc's.
    """

    def __init__(self, modalities: tuple[str, ...] = ("PACS",)):
        super().__init__(OrthancTable())
        self.modalities = modalities
        self.fail: dict[tuple[str, str], Exception] = {}
        self.wrong: dict[tuple[str, str], bytes] = {}
        self.calls: list[tuple[str, str]] = []
        self.restart_empty()

    def restart_empty(self) -> None:
        """Forget all."""
        self.files: dict[str, dict[str, Any]] = {}  # instance -> what is known of it
        self.metadata: dict[str, bytes] = {}  # series -> record
        self.log: list[dict[str, Any]] = []
        self.stable: set[str] = set()
        self.updates: dict[str, int] = {}
        self.refused = ""  # why the modalities take nothing
        self.sent: list[tuple[str, list[str]]] = []
        self.clock = itertools.count(1)
        self.numbers = itertools.count(1)

    # ---- what a test does

    def add(self, *files: Path, stable: bool = True) -> str:
        """Receive files of one series; returns its identifier."""
        for file in files:
            series = self._keep(file.read_bytes())
        if stable:
            self.make_stable(series)
        return series

    def make_stable(self, *series: str) -> None:
        """Let no further instance be expected of series."""
        for each in series:
            self.stable.add(each)
            self._change("StableSeries", each, "series")

    def derived(self) -> dict[str, list[pydicom.Dataset]]:
        """The instances of each series that gantk has made."""
        found: dict[str, list[pydicom.Dataset]] = {}
        for each in self.files.values():
            made = pydicom.dcmread(io.BytesIO(each["content"]))
            if made.SeriesDescription.endswith("(gantk)"):
                found.setdefault(made.SeriesInstanceUID, []).append(made)
        return found

    # ---- what the worker calls

    def call(self, method: str, path: str, **options: Any) -> Any:
        self.calls.append((method, path))
        for (failing, start), error in self.fail.items():
            if method == failing and path.startswith(start):
                raise error
        for (lying, end), content in self.wrong.items():
            if method == lying and path.endswith(end):
                return Answer(content=content)
        parts = path.strip("/").split("/")
        name = "_".join([method.lower(), parts[0], *parts[2:3]])
        return getattr(self, name)(parts, **options)

    def get_modalities(self, parts, **_):
        return Answer(list(self.modalities))

    def get_changes(self, parts, params):
        later = [each for each in self.log if each["Seq"] > params["since"]]
        some = later[: params["limit"]]
        return Answer({"Changes": some, "Done": len(some) == len(later)})

    def post_tools(self, parts, json=None, data=b""):
        if parts[1] == "lookup":
            uid = data.decode()
            found = {each["series"] for each in self.files.values() if each["uid"] == uid}
            return Answer([{"ID": each, "Type": "Series"} for each in sorted(found)])
        wanted = set(json["Resources"])
        series = {
            each["series"]
            for name, each in self.files.items()
            if wanted & {name, each["series"], each["study"]}
        }
        return Answer([self._series(each) for each in sorted(series)])

    post_tools_lookup = post_tools
    post_tools_bulk = post_tools

    def get_series(self, parts, **_):
        return Answer(sorted({each["series"] for each in self.files.values()}))

    def get_series_instances(self, parts, **_):
        return Answer(self._instances(parts[1]))

    def get_instances_file(self, parts, **_):
        if parts[1] not in self.files:
            raise Refused(404, "Unknown resource")
        return Answer(content=self.files[parts[1]]["content"])

    def get_instances_attachments(self, parts, **_):
        return Answer(content=hashlib.md5(self.files[parts[1]]["content"]).hexdigest().encode())

    def post_instances(self, parts, data):
        self._keep(data)
        return Answer({"Status": "Success"})

    def get_series_metadata(self, parts, **_):
        if parts[1] not in self.metadata:
            raise Refused(404, "Unknown resource")
        content = self.metadata[parts[1]]
        return Answer(content=content, tag=_tag(content))

    def put_series_metadata(self, parts, data, headers):
        known = self.metadata.get(parts[1])
        if known is not None and headers.get("If-Match") != _tag(known):
            raise Refused(409, "A bad revision number was provided")
        self.metadata[parts[1]] = data
        self._change("UpdatedMetadata", parts[1], "series")
        return Answer(tag=_tag(data))

    def delete_series(self, parts, **_):
        self.files = {name: each for name, each in self.files.items() if each["series"] != parts[1]}
        self.metadata.pop(parts[1], None)
        known = {*self.files, *(each["series"] for each in self.files.values())}
        self.log = [each for each in self.log if each["ID"] in known]
        return Answer({"RemainingAncestor": None})

    def post_modalities_store(self, parts, json, timeout):
        if self.refused:
            raise Refused(500, self.refused)
        self.sent.append((parts[1], json["Resources"]))
        return Answer({"FailedInstancesCount": 0})

    # ---- what it keeps

    def _keep(self, content: bytes) -> str:
        made = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
        parts = [made.PatientID, made.StudyInstanceUID, made.SeriesInstanceUID]
        study, series, instance = (
            hashlib.sha1("|".join([*parts, made.SOPInstanceUID][:count]).encode()).hexdigest()
            for count in (2, 3, 4)
        )
        self.files[instance] = {
            "content": content,
            "study": study,
            "series": series,
            "uid": made.SeriesInstanceUID,
            "modality": made.Modality,
            "uuid": f"file-{next(self.numbers)}",
            "tags": {
                "SOPInstanceUID": made.SOPInstanceUID,
                "InstanceNumber": str(made.get("InstanceNumber", "")),
            },
            "description": made.get("SeriesDescription", ""),
        }
        self.stable.discard(series)
        self._change("NewInstance", instance, "instances")
        self.updates[series] = self.log[-1]["Date"]
        return series

    def _change(self, kind: str, name: str, place: str) -> None:
        number = self.log[-1]["Seq"] + 1 if self.log else 1
        now = f"20260101T{next(self.clock):06}"
        self.log.append(
            {"Seq": number, "ChangeType": kind, "ID": name, "Path": f"/{place}/{name}", "Date": now}
        )

    def _instances(self, series: str) -> list[dict[str, Any]]:
        found = []
        for name, each in self.files.items():
            if each["series"] == series:
                found.append(
                    {"ID": name, "FileUuid": each["uuid"], "MainDicomTags": dict(each["tags"])}
                )
        return found

    def _series(self, series: str) -> dict[str, Any]:
        instances = self._instances(series)
        first = self.files[instances[0]["ID"]]
        record = self.metadata.get(series)
        return {
            "ID": series,
            "ParentStudy": first["study"],
            "IsStable": series in self.stable,
            "LastUpdate": self.updates[series],
            "Instances": [each["ID"] for each in instances],
            "MainDicomTags": {
                "SeriesInstanceUID": first["uid"],
                "SeriesDescription": first["description"],
                "Modality": first["modality"],
            },
            "Metadata": {"RemoteAET": "SCANNER"} | ({"4268": record.decode()} if record else {}),
        }


def _tag(content: bytes) -> str:
    return f'"0-{hashlib.md5(content).hexdigest()}"'
