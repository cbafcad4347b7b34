"""Public data sets by name: downloaded, checked against what is published of them, unpacked; whole or not there."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import shutil
import tarfile
import time
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from gantk.errors import GantkError, UserError, did_you_mean
from gantk.files import write_file

TRIES = 4  # attempts in a row that bring nothing before giving up; any byte that arrives starts the count anew
PAUSE = 1.0  # seconds between two attempts
PATIENCE = (10.0, 60.0)  # seconds to connect, and between two pieces
PIECE = 2**16  # bytes; no more than this is lost when a connection breaks
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # answers that a later attempt may not get
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, ValueError,
           NotImplementedError, RuntimeError)  # fmt: skip

Say = Callable[[str], None]
Progress = Callable[[float, str], None]  # (share done, what is being done)


@dataclass(frozen=True)
class Remote:
    """One file of a set, as it is published."""

    path: str  # below the set's address
    size: int = 0  # bytes; 0: not published
    checksum: str = ""  # "sha256:...", "md5:..." or "git:..." (a git blob); "": none is published
    into: str = ""  # folder of the set that it, or what it holds, goes to


@dataclass(frozen=True)
class PublicSet:
    """A data set of others, and on what terms it may be had."""

    name: str
    about: str
    licence: str
    cite: str
    use: str = ""  # how to train on it; {folder} is where it lies
    base: str = ""  # address below which its files lie
    files: tuple[Remote, ...] = ()
    ask: str = ""  # where to ask for a set that is handed out on registration only


@cache
def public_sets() -> dict[str, PublicSet]:
    """The sets that are known, by name."""
    tables = tomllib.loads(Path(__file__).with_name("public.toml").read_text("utf-8"))
    return {
        name: PublicSet(name, **table | {"files": tuple(Remote(p, **f) for p, f in table.get("files", {}).items())})
        for name, table in tables.items()
    }


def rows() -> list[tuple[str, ...]]:
    """The sets as a table: name, what it is, size, licence, where it is from or has to be asked for."""
    return [(s.name, s.about, _size(s), s.licence, s.ask or s.base) for s in public_sets().values()]


def _size(known: PublicSet) -> str:
    total = sum(file.size for file in known.files)
    if known.ask or not all(file.size for file in known.files):
        return "on request" if known.ask else "not published"
    return f"{total / 1e9:.1f} GB" if total >= 1e9 else f"{max(total / 1e6, 0.1):.1f} MB"


# --- a set


def fetch(
    name: str,
    folder: str | Path | None = None,
    *,
    base_url: str | None = None,
    say: Say = print,
    progress: Progress | None = None,
) -> Path:
    """Download the public set `name` to `folder` (None: data/NAME), checked and unpacked; the folder.

    `base_url` is where its files lie instead, such as a mirror; what is known of their sizes and checksums counts there
    too. A set that is there already is left alone, one that another process is fetching is waited for, and a download
    that was interrupted goes on. Of files without a published checksum the SHA-256 is kept in FOLDER.fetched.json and
    compared with later downloads. UserError for a name that is not known or a set that must be asked for; GantkError,
    and nothing in `folder`, where it cannot be had or is not what it should be.
    """
    chosen = _named(name)
    base = base_url or chosen.base
    if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).netloc:
        raise UserError(f"'{base}' is no address", where="--from", allowed="http://... or https://...")
    target = Path(os.path.abspath(folder or Path("data") / name))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target, say):
            if _is_there(target, name):
                say(f"there    {target}")
                return target
            _fetch(chosen, base.rstrip("/") + "/", target, say, progress or (lambda share, what: None))
    except OSError as error:
        raise GantkError(f"'{target}' cannot be made: {error.strerror or error}.") from None
    for label, text in (("licence", chosen.licence), ("cite", chosen.cite), ("written", str(target))):
        say(f"{label:<8} {text}")
    say(f"use      {chosen.use.format(folder=target)}")
    return target


def _named(name: str) -> PublicSet:
    known = public_sets()
    if name not in known:
        remedy = did_you_mean(name, known) or "list them with: gantk data fetch"
        raise UserError(f"no public data set is known as '{name}'", where="NAME", allowed=known, remedy=remedy)
    chosen = known[name]
    if chosen.ask:
        what = f"'{name}' is handed out on registration only ({chosen.licence})"
        raise UserError(what, where="NAME", remedy=f"ask for it at {chosen.ask}, and train on it with --data FOLDER")
    return chosen


@contextmanager
def _alone(target: Path, say: Say) -> Iterator[None]:
    """One process at a time fetches to a folder; the lock goes with the process that holds it."""
    path = target.with_name(f".{target.name}.lock")
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting  for another fetch to {target}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_there(target: Path, name: str) -> bool:
    """Whether the folder holds the set; UserError where it holds something else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    if target.is_dir() and _record(target).get("name") == name:
        return True
    what = f"'{target}' exists, and is not the set '{name}' as gantk fetched it"
    raise UserError(what, where="--out", remedy="choose another folder, or move it away")


def _record(target: Path) -> dict[str, Any]:
    """What an earlier fetch wrote beside the folder; {} where there is nothing or nothing that can be read."""
    try:
        return json.loads(target.with_name(f"{target.name}.fetched.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _fetch(chosen: PublicSet, base: str, target: Path, say: Say, progress: Progress) -> None:
    """All files into a hidden folder beside the target, there unpacked, then renamed in one go."""
    staging = target.with_name(f".{target.name}.fetching")
    staging.mkdir(exist_ok=True)
    earlier = {file["path"]: file["checksum"] for file in _record(target).get("files", [])}
    known, count = [], len(chosen.files)
    try:
        say(f"fetch    {f'{count} files' if count > 1 else chosen.files[0].path} from {base}")
        for number, remote in enumerate(chosen.files):

            def report(share: float, number: int = number, remote: Remote = remote) -> None:
                progress((number + share) / count, remote.path)

            known.append(_fetch_file(remote, base, staging, earlier.get(remote.path, ""), say, report))
        unpacked = _unpacked(chosen, staging)
    finally:
        if not any(staging.iterdir()):
            staging.rmdir()
    record = {"name": chosen.name, "licence": chosen.licence, "cite": chosen.cite, "files": known}
    write_file(target.with_name(f"{target.name}.fetched.json"), (json.dumps(record, indent=1) + "\n").encode())
    os.rename(unpacked, target)
    shutil.rmtree(staging)


def _fetch_file(
    remote: Remote, base: str, staging: Path, earlier: str, say: Say, report: Callable[[float], None]
) -> dict[str, Any]:
    """One file in the staging folder, whole and checked; what the record says of it."""
    file, url = _staged(staging, remote), base + quote(remote.path)
    expected = remote.checksum or earlier
    if not file.exists():
        part = file.with_name(file.name + ".part")
        _download(url, part, remote.size, report)
        if expected and _checksum(part, expected.partition(":")[0]) != expected:
            _forget(part)
            what, remedy = "that was published", "try again, and if it stays so, do not trust that address"
            if not remote.checksum:
                what = "that was fetched here before"
                remedy = "if the set has changed on purpose, delete the record (.fetched.json) beside the folder"
            should = f"its checksum should be {expected}"
            raise GantkError(f"'{url}' is not the file {what}: {should}. Nothing of it is kept; {remedy}.")
        os.rename(part, file)
        _forget(part)
    if not expected:
        expected = _checksum(file, "sha256")
        say(f"trusted  {remote.path}: no checksum is published; later downloads are compared with {expected}")
    facts = {"path": remote.path, "url": url, "bytes": file.stat().st_size, "checksum": expected}
    return facts | {"published": bool(remote.checksum)}


def _staged(staging: Path, remote: Remote) -> Path:
    return staging / remote.path.replace("/", "__")


def _checksum(path: Path, algorithm: str) -> str:
    """ "sha256:...", "md5:...", or "git:...": the SHA-1 of a header and the content, as git names blobs."""
    digest = hashlib.new("sha1" if algorithm == "git" else algorithm, usedforsecurity=False)
    if algorithm == "git":
        digest.update(b"blob %d\0" % path.stat().st_size)
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return f"{algorithm}:{digest.hexdigest()}"


def _download(url: str, part: Path, size: int, report: Callable[[float], None]) -> None:
    """Fetch a file of `size` bytes (0: not known) into `part`, going on from what an earlier attempt left there.

    GantkError in one sentence where the server cannot be reached, has no such file, or has one of another size.
    """
    import requests

    left = TRIES
    while not (size and _bytes(part) == size):
        before = _bytes(part)
        try:
            _receive(url, part, size, report)
            return
        except requests.RequestException as error:
            left = TRIES if _bytes(part) > before else left - 1
            if not left:
                kept = f" {_bytes(part):,} bytes are kept, and the same command goes on from there." * part.exists()
                what = f"'{url}' cannot be fetched: {_reason(error)}.{kept}"
                raise GantkError(f"{what} Check the connection, or name a mirror with --from.") from None
            time.sleep(PAUSE)


def _receive(url: str, part: Path, size: int, report: Callable[[float], None]) -> None:
    """One attempt. The rest is asked for only of the same file: what identifies it (ETag, else date) is kept in
    `part`.tag, and a server that has another one by now, or knows no ranges, sends it from the start."""
    import requests

    here, tag = _bytes(part), part.with_name(part.name + ".tag")
    headers = {"Accept-Encoding": "identity", "User-Agent": "gantk"}  # a range of a compressed answer is no range
    if here and tag.exists() and tag.read_text("utf-8"):
        headers |= {"Range": f"bytes={here}-", "If-Range": tag.read_text("utf-8")}
    with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as answer:
        status, place = answer.status_code, answer.headers.get("Content-Range", "")
        if status == 416 or (status == 206 and not place.startswith(f"bytes {here}-")):
            _forget(part)
            raise requests.ConnectionError("the server sent another part than it was asked for")
        if status in AGAIN:
            raise requests.ConnectionError(f"the server answered {status} {answer.reason}")
        if status not in (200, 206):
            what = f"'{url}' cannot be fetched: the server answered {status} {answer.reason}"
            raise GantkError(f"{what}. Look at the set's page for where it is now, and name it with --from.")
        here = here if status == 206 else 0
        rest = answer.headers.get("Content-Length", "")
        total = here + int(rest) if rest.isdigit() else size
        if size and total != size:
            _forget(part)
            what = f"'{url}' has {total:,} bytes, and {size:,} were published: it is another file by now"
            raise GantkError(f"{what}. Look at the set's page, or name a mirror with --from.")
        etag = answer.headers.get("ETag", "")
        tag.write_text(answer.headers.get("Last-Modified", "") if etag[:2] in ("", "W/") else etag, "utf-8")
        with open(part, "ab" if here else "wb") as file:
            for piece in answer.iter_content(PIECE):
                here += len(piece)
                file.write(piece)
                report(here / total if total else 0.0)
        if here != (total or here):
            raise requests.ConnectionError(f"the connection ended after {here:,} of {total:,} bytes")


def _bytes(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".tag").unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """What went wrong in a few words; requests wraps urllib3's errors, which wrap the system's."""
    text = str(error)
    known = {"NameResolution": "the server's name is not known here (no network?)", "timed out": "no answer",
             "refused": "the server refuses the connection", "CERTIFICATE": "its certificate is not valid"}  # fmt: skip
    return next((words for mark, words in known.items() if mark in text), text.split("\n")[0][:160])


def _unpacked(chosen: PublicSet, staging: Path) -> Path:
    """What the staged files hold, in one folder; a single folder around everything in an archive is left out.

    Nothing is written outside: `zipfile` and tarfile's "data" filter see to it. GantkError for a damaged archive.
    """
    result, scratch = staging / "unpacked", staging / "scratch"
    for stale in (result, scratch):  # of an earlier attempt
        shutil.rmtree(stale, ignore_errors=True)
    for remote in chosen.files:
        file, place = _staged(staging, remote), result / remote.into
        if file.name.lower().endswith(ARCHIVES):
            try:
                if file.name.lower().endswith(".zip"):
                    with zipfile.ZipFile(file) as opened:
                        opened.extractall(scratch)
                else:
                    with tarfile.open(file) as opened:
                        opened.extractall(scratch, filter="data")
            except DAMAGED as error:  # such an archive is not kept; one that the disk had no room for is (OSError)
                for rest in (result, scratch):
                    shutil.rmtree(rest, ignore_errors=True)
                file.unlink()
                detail = str(error).split("\n")[0][:160] or type(error).__name__
                raise GantkError(f"'{file.name}' is damaged or not to be trusted: {detail}.") from None
            inside = [path for path in scratch.iterdir() if path.name != "__MACOSX"]
            file = inside[0] if len(inside) == 1 and inside[0].is_dir() else scratch
        else:
            place = place / remote.path
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(file, place)
        shutil.rmtree(scratch, ignore_errors=True)
    return result
