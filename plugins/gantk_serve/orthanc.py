"""The calls of Orthanc's REST interface that the worker uses, and the records that it keeps there.

A record is a JSON object in the metadata 4268 of a series: what became of it. Orthanc deletes it
with the series.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import requests
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gantk.errors import UserError, one_line, reading_file
from gantk.files import read_file
from gantk_serve.rules import OrthancTable, Rules

RECORD = 4268  # number of the metadata with a record; Orthanc leaves those from 1024 to its users
CHANGES_PER_CALL = 500
RESOURCES_PER_CALL = 200
TIMEOUT = (10.0, 120.0)  # seconds to connect, and between two parts of an answer
SEND_TIMEOUT = (10.0, 3600.0)  # the latter until a modality has all images
MAX_PASSWORD_BYTES = 4096
MAX_CONFLICTS = 100  # writes of a record that others were quicker than
STORED = ("Success", "AlreadyStored")  # what becomes of an image that Orthanc takes
NOT_THERE = 404  # status of what was deleted
MODIFIED = (409, 412)  # status of a write with an ETag that is not the current one
HOW_TO_GET_ONE = (
    "start it, or correct the url; without one: apt install orthanc, or the compose file in"
    " plugins/gantk_serve/deploy"
)
Json = dict[str, Any]
Identifier = Annotated[str, Field(pattern=r"^[\w-]+$")]  # part of an address, and of a file's name


class Away(Exception):
    """Orthanc cannot be reached."""


class WrongAnswer(Away):
    """An answer that is none of Orthanc's, such as a page of a proxy; it may answer rightly later."""


class Refused(Exception):
    """Orthanc answered with an error; `status` is that of HTTP."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


# ---- what Orthanc answers, as far as the worker uses it


class Answer(BaseModel):
    """An object with these keys, and any others."""

    model_config = ConfigDict(strict=True)


class Change(Answer):
    Seq: int
    ChangeType: str
    ID: Identifier
    Date: str


class Changes(Answer):
    entries: list[Change] = Field(alias="Changes")
    Done: bool


class SeriesTags(Answer):
    SeriesInstanceUID: str
    Modality: str = ""
    SeriesDescription: str = ""
    ProtocolName: str = ""


class Series(Answer):
    ID: Identifier
    IsStable: bool
    LastUpdate: str
    MainDicomTags: SeriesTags
    Metadata: dict[str, str]


class InstanceTags(Answer):
    SOPInstanceUID: str
    InstanceNumber: str = ""


class Instance(Answer):
    ID: Identifier
    FileUuid: str
    MainDicomTags: InstanceTags


# a series without an instance ends
Instances = Annotated[list[Instance], Field(min_length=1)]


class Found(Answer):
    ID: Identifier
    Type: str


class Stored(Answer):
    Status: str


class Sent(Answer):
    FailedInstancesCount: int


class Record(Answer):
    """What became of a series; gantk writes it."""

    outcome: str
    state: str = ""
    attempts: int = 0
    worker: str = ""
    reason: str = ""
    note: str = ""
    notes: str = ""
    time: datetime | Literal[""] = ""
    derived: list[str] = []


class SendingRecord(Record):
    """A record with the outcome "sending"."""

    derived: list[str]
    send: list[str]


@contextmanager
def unless_deleted() -> Iterator[None]:
    """Context manager: ends the block where Orthanc answers that something is not there."""
    try:
        yield
    except Refused as error:
        if error.status != NOT_THERE:
            raise


class Orthanc:
    """The REST interface of an Orthanc.

    All methods raise Away where it cannot be reached, WrongAnswer where an answer does not have its
    schema, and Refused where it answers with an error.
    """

    def __init__(self, table: OrthancTable):
        """UserError where the password cannot be read, or the address is none or has one."""
        if not re.fullmatch(r"https?://[^@\s]+", table.url):  # messages print it
            raise UserError(
                "the address of Orthanc does not begin with http:// or https://, or contains a"
                " password",
                where="orthanc.url",
                remedy="name the user and the password by user and password_file",
            )
        self.url = table.url.rstrip("/")
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy, no password of ~/.netrc
        self.session.verify = table.ca or True
        if table.user:
            file = table.password_file
            if not file:
                raise UserError("orthanc.user needs a password", where="orthanc.password_file")
            with reading_file(file, "a password", where="orthanc.password_file"):
                password = read_file(Path(file), None, MAX_PASSWORD_BYTES).decode().strip()
            self.session.auth = (table.user, password)

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """One request."""
        options = {"timeout": TIMEOUT} | options
        try:
            answer = self.session.request(method, self.url + path, **options)
        except (requests.RequestException, OSError) as error:
            raise Away(f"{self.url} does not answer ({type(error).__name__})") from None
        if not answer.ok:
            raise Refused(answer.status_code, _reason(answer))
        if "html" in answer.headers.get("Content-Type", ""):
            raise WrongAnswer(f"{self.url} answered with a page of HTML")
        return answer

    def ask(self, schema: Any, method: str, path: str, **options: Any) -> Any:
        """The JSON value of an answer; WrongAnswer where it does not have its schema."""
        answer = self.call(method, path, **options)
        try:
            _adapter(schema).validate_json(answer.content)
        except ValueError:
            raise WrongAnswer(f"{self.url} gave an answer that is not one of Orthanc's") from None
        return json.loads(answer.content)

    # ---- what is there

    def changes(self, since: int, limit: int = CHANGES_PER_CALL) -> tuple[list[Json], bool]:
        """The changes after a number, oldest first, and whether these are all."""
        page = self.ask(Changes, "GET", "/changes", params={"since": since, "limit": limit})
        numbers = [since, *(change["Seq"] for change in page["Changes"])]
        if numbers != sorted(set(numbers)):
            raise WrongAnswer(f"{self.url} lists changes that are not after number {since}")
        return page["Changes"], page["Done"]

    def series(self, resources: Iterable[str]) -> list[Json]:
        """The series of patients, studies, series or instances, with their metadata; those that are
        no longer there are left out.
        """
        wanted = list(dict.fromkeys(resources))
        found = {}
        for start in range(0, len(wanted), RESOURCES_PER_CALL):
            some = wanted[start : start + RESOURCES_PER_CALL]
            asked = {"Resources": some, "Level": "Series", "Metadata": True}
            content = self.ask(list[Series], "POST", "/tools/bulk-content", json=asked)
            found |= {each["ID"]: each for each in content}
        return list(found.values())

    def instances(self, series: str) -> list[Json]:
        """The instances of a series, in the order of their identifiers."""
        found = self.ask(Instances, "GET", f"/series/{series}/instances")
        return sorted(found, key=lambda each: each["ID"])

    def file(self, instance: str) -> bytes:
        """The DICOM file of an instance, compared with the MD5 that Orthanc has stored."""
        content = self.call("GET", f"/instances/{instance}/file").content
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        with unless_deleted():  # or never there: StoreMD5ForAttachments is off
            answer = self.call("GET", f"/instances/{instance}/attachments/dicom/md5")
            if digest != answer.text.strip():
                what = "an image that has not the MD5 of the stored one"
                raise WrongAnswer(f"{self.url} sent {what}")
        return content

    def find_series(self, uid: str) -> list[str]:
        """The series that have this SeriesInstanceUID: several where it is of several studies."""
        found = self.ask(list[Found], "POST", "/tools/lookup", data=uid.encode())
        return [each["ID"] for each in found if each["Type"] == "Series"]

    # ---- what is changed

    def store(self, content: bytes) -> None:
        """Give Orthanc a DICOM file."""
        status = self.ask(Stored, "POST", "/instances", data=content)["Status"]
        if status not in STORED:
            raise Refused(200, f"Orthanc did not store an image: {one_line(status)}")

    def delete(self, series: str) -> None:
        """Delete a series, if it is there."""
        with unless_deleted():
            self.ask(dict[str, Any], "DELETE", f"/series/{series}")

    def send(self, series: list[str], modality: str) -> None:
        """Let Orthanc send series to a modality, and wait for it."""
        asked = {"Resources": series, "Synchronous": True}
        path = f"/modalities/{modality}/store"
        failed = self.ask(Sent, "POST", path, json=asked, timeout=SEND_TIMEOUT)
        if failed["FailedInstancesCount"]:
            raise Refused(200, f"{failed['FailedInstancesCount']} images were not sent")

    def update_record(self, series: str, change: Callable[[Json], Json]) -> Json:
        """Replace the record of a series by `change` of it, and return it.

        Nothing that another worker writes at the same time is lost, if Orthanc's `CheckRevisions`
        is on: then the record is read and changed again. WrongAnswer where it is never accepted.
        """
        path = f"/series/{series}/metadata/{RECORD}"
        for _ in range(MAX_CONFLICTS):
            before = {}
            tag = ""
            with unless_deleted():
                known = self.call("GET", path)
                before = parse_record(known.text)
                tag = known.headers.get("ETag", "")
            after = change(before)
            if after == before:
                return after
            headers = {"If-Match": tag} if tag else {}
            try:
                answer = self.call("PUT", path, data=json.dumps(after).encode(), headers=headers)
            except Refused as error:
                if error.status not in MODIFIED:
                    raise
            else:
                if answer.content.strip():
                    raise WrongAnswer(f"{self.url} answers to a record that it should store")
                return after
        raise WrongAnswer(f"{self.url} refused a record {MAX_CONFLICTS} times as outdated")


def connect(rules: Rules) -> Orthanc:
    """The Orthanc of a file of rules; UserError where it does not answer, or does not let the worker in."""
    orthanc = Orthanc(rules.orthanc)
    try:
        orthanc.ask(list[str], "GET", "/modalities")
    except Away as error:
        raise UserError(str(error), where="orthanc.url", remedy=HOW_TO_GET_ONE) from None
    except Refused as error:
        raise UserError(
            str(error), where="[orthanc]", remedy="correct the user, the password and the url"
        ) from None

    return orthanc


def record_of(series: Mapping[str, Any]) -> Json:
    """The record among the metadata of a series; {} where there is none."""
    return parse_record(series["Metadata"].get(str(RECORD), ""))


def parse_record(text: str) -> Json:
    """The record of a text; {} where it is none, or has another shape than ours."""
    try:
        if Record.model_validate_json(text).outcome == "sending":
            SendingRecord.model_validate_json(text)
    except ValueError:
        return {}
    return json.loads(text)


@cache
def _adapter(schema: Any) -> TypeAdapter:
    return TypeAdapter(schema)


def _reason(answer: requests.Response) -> str:
    """What Orthanc says about an error."""
    try:
        told = answer.json()
        reason = told.get("Details") or told.get("Message")
    except (ValueError, AttributeError):
        reason = ""
    return f"Orthanc answered {answer.status_code}: {reason or answer.reason}"
