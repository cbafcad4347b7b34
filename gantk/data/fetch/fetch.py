"""Public data sets by name: downloaded, checked against what is published of them, unpacked; whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from gantk.data.fetch.download import Resuming
from gantk.data.fetch.public import PublicSet, Remote, amount, public_sets, rows
from gantk.data.fetch.unpack import is_archive, unpack
from gantk.errors import GantkError, UserError, did_you_mean
from gantk.files import write_file

__all__ = ["fetch", "rows"]

Say = Callable[[str], None]
Progress = Callable[[float, str], None]  # (share done, what is at work)


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
    held against later downloads. UserError for a name that is not known or a set that must be asked for; GantkError,
    and nothing in `folder`, where it cannot be had or is not what it should be.
    """
    chosen = _named(name)
    base = _address(base_url or chosen.base)
    target = Path(os.path.abspath(folder or Path("data") / name))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target, say):
            if _is_there(target, name):
                say(f"there    {target}")
                return target
            _fetched(chosen, base, target, say, progress or (lambda share, what: None))
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


def _address(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise UserError(f"'{url}' is no address", where="--from", allowed="http://... or https://...")
    return url.rstrip("/") + "/"


def _is_there(target: Path, name: str) -> bool:
    """Whether the folder holds the set; UserError where it holds something else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    if target.is_dir() and _record(target).get("name") == name:
        return True
    what = f"'{target}' exists, and is not the set '{name}' as gantk fetched it"
    raise UserError(what, where="--out", remedy="choose another folder, or move it away")


def _fetched(chosen: PublicSet, base: str, target: Path, say: Say, progress: Progress) -> None:
    """All files into a hidden folder beside the target, there unpacked, then renamed in one go."""
    staging = target.with_name(f".{target.name}.fetching")
    staging.mkdir(exist_ok=True)
    _check_room(chosen, staging)
    count = f"{len(chosen.files)} files" if len(chosen.files) > 1 else chosen.files[0].path
    say(f"fetch    {count} from {base}")
    earlier = {file["path"]: file["checksum"] for file in _record(target).get("files", [])}
    known: list[dict[str, Any]] = []
    try:
        for number, remote in enumerate(chosen.files):

            def report(here: int, total: int, number: int = number, remote: Remote = remote) -> None:
                progress((number + (here / total if total else 0.0)) / len(chosen.files), remote.path)

            known.append(_one(remote, base, staging, earlier.get(remote.path, ""), say, report))
        unpacked = _unpacked(chosen, staging, progress)
    except BaseException:
        if not any(staging.iterdir()):
            staging.rmdir()
        raise
    record = {"name": chosen.name, "licence": chosen.licence, "cite": chosen.cite, "files": known}
    write_file(_record_path(target), (json.dumps(record, indent=1) + "\n").encode())
    os.rename(unpacked, target)
    shutil.rmtree(staging)


def _one(remote: Remote, base: str, staging: Path, earlier: str, say: Say, report: Callable) -> dict[str, Any]:
    """One file in the staging folder, whole and checked; what the record says of it."""
    import pooch

    pooch.get_logger().setLevel("ERROR")  # says on its own what is said here
    file, url = _staged(staging, remote), base + quote(remote.path)
    expected = remote.checksum or earlier
    algorithm, _, value = expected.partition(":")
    download = Resuming(file.with_name(file.name + ".part"), remote.size, report)
    try:
        # A git blob's checksum covers a header too, which pooch does not know; it is checked below.
        pooch.retrieve(url, None if algorithm in ("", "git") else expected, file.name, staging, downloader=download)
        if algorithm == "git" and git_blob(file) != value:
            raise ValueError
    except ValueError:  # pooch's, of another checksum than the one known
        file.unlink(missing_ok=True)
        download.drop()
        raise GantkError(_wrong(url, remote, expected)) from None
    download.drop()
    if remote.size and file.stat().st_size != remote.size:
        found = file.stat().st_size
        file.unlink()
        raise GantkError(f"'{url}' has {found:,} bytes, and {remote.size:,} were published: it is another file by now.")
    if not expected:
        expected = f"sha256:{pooch.file_hash(str(file))}"
        say(f"trusted  {remote.path}: no checksum is published; {expected} is held against later downloads")
    return {
        "path": remote.path,
        "url": url,
        "bytes": file.stat().st_size,
        "checksum": expected,
        "published": bool(remote.checksum),
    }


def _wrong(url: str, remote: Remote, expected: str) -> str:
    if remote.checksum:
        return (
            f"'{url}' is not the file that was published: its checksum should be {expected}. Nothing of it is kept; "
            "try again, and if it stays so, do not trust that address."
        )
    return (
        f"'{url}' is not the file that was fetched here before, which had {expected}. Nothing of it is kept; if the "
        "set has changed on purpose, delete the record (.fetched.json) beside the folder and fetch again."
    )


def git_blob(path: Path) -> str:
    """The id under which git keeps a file's content (SHA-1 of a header and the content)."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def _unpacked(chosen: PublicSet, staging: Path, progress: Progress) -> Path:
    """What the staged files hold, in one folder; a single folder around everything in an archive is left out."""
    result, scratch = staging / "unpacked", staging / "scratch"
    for stale in (result, scratch):  # of an earlier attempt
        shutil.rmtree(stale, ignore_errors=True)
    for number, remote in enumerate(chosen.files):
        file, place = _staged(staging, remote), result / remote.into
        if is_archive(file):
            try:
                unpack(file, scratch, lambda name, n=number: progress(n / len(chosen.files), f"unpacking {name}"))
            except GantkError:  # an archive that is no good is not kept; one that the disk had no room for is
                for rubbish in (result, scratch):
                    shutil.rmtree(rubbish, ignore_errors=True)
                file.unlink()
                raise
            file = _content(scratch)
        else:
            place = place / remote.path
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(file, place)
        shutil.rmtree(scratch, ignore_errors=True)
    return result


def _content(folder: Path) -> Path:
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _staged(staging: Path, remote: Remote) -> Path:
    return staging / remote.path.replace("/", "__")


def _record_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.fetched.json")


def _record(target: Path) -> dict[str, Any]:
    """What an earlier fetch wrote beside the folder; {} where there is nothing or nothing that can be read."""
    try:
        return json.loads(_record_path(target).read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _check_room(chosen: PublicSet, staging: Path) -> None:
    """GantkError where the disk has no room for the files and, as they are compressed already, as much unpacked."""
    here = sum(path.stat().st_size for path in staging.iterdir() if path.is_file())
    archives = sum(file.size for file in chosen.files if is_archive(file.path))
    needed, free = sum(file.size for file in chosen.files) + archives - here, shutil.disk_usage(staging).free
    if needed > free:
        if not any(staging.iterdir()):
            staging.rmdir()
        what = f"'{chosen.name}' needs {amount(needed)}, and the disk of '{staging.parent}' has {amount(free)} left"
        raise GantkError(f"{what}. Make room, or choose another --out.")


@contextmanager
def _alone(target: Path, say: Say) -> Iterator[None]:
    """One process at a time fetches to a folder; the lock goes with the process that holds it."""
    path = target.with_name(f".{target.name}.lock")
    while True:
        with open(path, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting  for another fetch to {target}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                continue  # the one before took the file away with it
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
