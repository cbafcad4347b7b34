"""The file of a service's rules: who may send, which series are translated by which model, and
where results go.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from gantk.errors import UserError, one_line
from gantk.files import read_file
from gantk.plugin import spec

MAX_RULES_BYTES = 2**18
# PS3.5, 6.2: up to 16 characters without backslash and control characters
Title = Annotated[str, Field(pattern=r"^[ -\[\]-~]{1,16}$")]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(ge=0.0, le=86400.0)]
Days = Annotated[float, Field(ge=0.0, le=36500.0)]
Megabytes = Annotated[int, Field(ge=1, le=1 << 20)]


class ServiceTable(spec.Table):
    """The service's folder, and how long it keeps what."""

    folder: str = "serve"  # of the queue and of all images; relative to the rules
    quiet: Seconds = 30.0  # seconds without a new instance, after which a study is complete
    keep_inputs: Days = 0.0  # days for which inputs are kept after their results are delivered
    keep_results: Days = 7.0  # days for which results are kept after they are delivered
    keep_failed: Days = 7.0  # days for which inputs of failed translations are kept
    devices: list[str] = []  # one worker for each, such as "cuda:0"; []: one for the best device
    max_mb: Megabytes = 2048  # largest instance or upload in MB, also after unzipping
    retry: Seconds = 10.0  # seconds until a second try; each further one waits twice as long
    max_waiting: spec.Count = 1000  # translations that may wait; further uploads are refused


class TlsTable(spec.Table):
    """The files of TLS, PEM each, relative to the rules."""

    certificate: str  # of this service, with those between it and the authority
    key: str  # of the certificate
    # certificates of the authorities whose peers are accepted; "": any peer, not authenticated
    authorities: str = ""


class DicomTable(spec.Table):
    """The DICOM node."""

    title: Title = "GANTK"  # AE title
    host: str = "127.0.0.1"  # address to listen on
    port: Port = 11112  # port to listen on; 0: any that is free
    tls: TlsTable | None = None  # none: without encryption


class HttpTable(spec.Table):
    """The HTTP server."""

    host: str = "127.0.0.1"  # address to listen on
    port: Port = 8080  # port to listen on; 0: any that is free
    token: str = "token"  # file of the token, relative to the service's folder; made if missing
    models: list[str] = ["t1t2"]  # models that uploads may use, beside those of the rules
    tls: TlsTable | None = None  # none: without encryption


class PeerTable(spec.Table):
    """A DICOM node that may send, and that results can be sent to."""

    title: Title  # its AE title
    host: str  # its address
    port: Port = 104  # its port
    tls: bool = False  # whether results are sent with TLS


class WhenTable(spec.Table):
    """The series that a rule is for. All keys that are given must match."""

    modality: str = ""  # such as "MR"
    contrast: str = ""  # as gantk tells it from the description, such as "T1" or "FLAIR"
    description: str = ""  # a part of the description, in any case
    sender: str = ""  # AE title of the sender


class RuleTable(spec.Table):
    """What is done with a series, or with a study."""

    when: WhenTable = WhenTable()  # the series that it is for; all if it is missing
    model: str  # a name that `gantk models` lists, or a run folder
    to: str = ""  # the domain to make; "": the model's second, or contrasts that a study lacks
    label: str = ""  # the class, for a model with classes
    send: list[str] | str = []  # AE titles of the peers that get the result
    # "series": each series that matches by itself; "study": all of a study's together, for models
    # of several contrasts
    each: Literal["series", "study"] = "series"

    @property
    def peers(self) -> list[str]:
        """The AE titles of the peers that get the result."""
        return [self.send] if isinstance(self.send, str) else self.send


class Rules(spec.Table):
    """The content of a rules file."""

    format: Literal[1] = 1  # of this file
    service: ServiceTable = ServiceTable()  # folder, waits, limits, retention
    dicom: DicomTable | None = None  # the DICOM node; none: no instance is taken by DICOM
    http: HttpTable | None = None  # the HTTP server; none: nothing is taken by HTTP
    peers: list[PeerTable] = []  # who may send, and where results can be sent to
    rules: list[RuleTable] = []  # what is translated; the first that matches a series counts

    def peer(self, title: str) -> PeerTable | None:
        """The peer of an AE title."""
        return next((peer for peer in self.peers if peer.title == title.strip()), None)


def load_rules(path: Path) -> Rules:
    """Read a rules file, with all paths made absolute; UserError that names the first mistake."""
    where = str(path)
    try:
        values = tomllib.loads(read_file(path, None, MAX_RULES_BYTES).decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"the rules cannot be read: {error.strerror}", where=where) from None
    except (ValueError, RecursionError) as error:
        what = f"the rules are not TOML: {one_line(error)}"
        raise UserError(what, where=where, remedy="mend this line") from None

    rules = _check_tables(values, where)
    _expect_known_peers(rules, where)
    base = path.absolute().parent
    service = rules.service.model_copy(update={"folder": str(base / rules.service.folder)})
    found = {"service": service, "dicom": _with_paths(rules.dicom, base)}
    found["http"] = _with_paths(rules.http, base)
    if rules.http is not None:
        models = [_model(name, base) for name in rules.http.models]
        found["http"] = found["http"].model_copy(update={"models": models})
    own = [rule.model_copy(update={"model": _model(rule.model, base)}) for rule in rules.rules]
    return rules.model_copy(update=found | {"rules": own})


def _model(name: str, base: Path) -> str:
    """The name of a model, or the path of a run folder that is relative to the rules."""
    beside = base / name
    return str(beside) if beside.exists() else name


def _check_tables(values: Mapping[str, Any], where: str) -> Rules:
    try:
        return spec.check(Rules, values, "the rules")
    except UserError as error:
        key = ".".join(map(str, error.path))
        raise error.at(f"{where}, {key}" if key else where) from None


def _expect_known_peers(rules: Rules, where: str) -> None:
    """UserError where a rule sends to a node that is not among the peers, or two have one title."""
    titles = [peer.title for peer in rules.peers]
    for title in titles:
        if titles.count(title) > 1:
            what = f"two peers have the AE title '{title}'"
            raise UserError(what, where=f"{where}, peers", remedy="give each its own")

    for number, rule in enumerate(rules.rules):
        for title in rule.peers:
            if title not in titles:
                raise UserError(
                    f"rule {number + 1} sends to '{title}', which is no peer",
                    where=f"{where}, rules.{number}.send",
                    allowed=titles or "no peers, because the table [[peers]] is missing",
                    remedy="add it as a table [[peers]] with title, host and port",
                )


def _with_paths(table: Any, base: Path) -> Any:
    """A table of a server with absolute paths of its TLS files."""
    if table is None or table.tls is None:
        return table
    names = ("certificate", "key", "authorities")
    given = {name: getattr(table.tls, name) for name in names}
    paths = {name: str(base / value) if value else "" for name, value in given.items()}
    return table.model_copy(update={"tls": table.tls.model_copy(update=paths)})
