"""Downloads public data sets by name, checks published sizes and checksums, and unpacks them
atomically.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gantk import unpack
from gantk.downloads import (
    NotAnswered,
    Refused,
    download,
    require_address,
    without_credentials,
)
from gantk.errors import (
    GantkError,
    UserError,
    did_you_mean,
    may_pass,
    one_line,
    writing_file,
)
from gantk.files import expect_name, json_object, make_folder, remove, write_file
from gantk.formats.budget import MAX_COMPRESSION

MAX_FILE_BYTES = 2**31  # of a file whose table states neither `size` nor `most`
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


@cache
def known_sets() -> dict[str, dict[str, Any]]:
    """Name -> table of public.toml; its first lines describe the keys."""
    return tomllib.loads(Path(__file__).with_name("public.toml").read_text("utf-8"))


def public_sets() -> list[tuple[str, ...]]:
    """List the public data sets: name, description, size, licence, and address of the files or of
    the registration.
    """
    rows = []
    for name, known in known_sets().items():
        sizes = [file.get("size", 0) for file in known.get("files", {}).values()]
        total = f"{sum(sizes) / 1e9:.1f} GB" if sum(sizes) >= 1e9 else f"{sum(sizes) / 1e6:.1f} MB"
        if not sizes:
            size = "on request"
        elif all(sizes):
            size = total
        else:
            size = "not published"

        rows.append(
            (name, known["about"], size, known["licence"], known.get("ask") or known["base"])
        )

    return rows


def fetch(
    name: str,
    *,
    out: str | Path | None = None,
    base_url: str | None = None,
    say: Callable[[str], None] = print,
    # gets finished share and file
    progress: Callable[[float, str], None] = lambda share, path: None,
) -> Path:
    """Download a public data set, check and unpack it.

    Args:
        name: the name of the data set, as listed by `public_sets`.
        out: the folder. Default: data/NAME.
        base_url: a mirror, with the same sizes and checksums.
        say: called with each line of output.
        progress: called with the share that is done, from 0 to 1, and the name of the current file.

    Returns:
        The folder. A data set that exists is not downloaded again.

    Raises:
        UserError: the name is unknown, or the data set requires registration.
        GantkError: download or check failed. The folder was not written.

    An interrupted download is resumed. If another process downloads the data set, this one waits.
    OUT.fetched.json records the addresses and checksums of the files, and the licence.
    """
    known = _known_set(name)
    base = base_url or known["base"]
    require_address(base, "--from")
    target = expect_name(Path(out or Path("data") / name).absolute(), "--out")
    record = target.with_name(f"{target.name}.fetched.json")
    unfinished = target.with_name(f".{target.name}.fetching")
    with writing_file(target, where="--out"), _lock_folder(unfinished) as staging:
        if target.exists() and (target.is_file() or any(target.iterdir())):
            if json_object(record).get("name") == name:
                say(f"exists   {target}")
                return target
            what = f"'{target}' exists and is not a download of the set '{name}' by gantk"
            raise UserError(
                what, where="--out", remedy="choose another folder, or move this one away"
            )

        say(f"fetch    {name} from {without_credentials(base)}")
        files = [
            _fetch_file(path, facts, base.rstrip("/"), staging, say, progress)
            for path, facts in known["files"].items()
        ]
        unpacked = _unpack_files(known["files"], staging)
        if "prepare" in known:
            import_module(known["prepare"]).prepare(unpacked)

        about = {
            "name": name,
            "licence": known["licence"],
            "cite": known["cite"],
            "files": files,
        }
        write_file(record, (json.dumps(about, indent=1) + "\n").encode())
        os.rename(unpacked, target)
        shutil.rmtree(staging)

    for label, text in (
        ("licence", known["licence"]),
        ("cite", known["cite"]),
        ("written", target),
    ):
        say(f"{label:<8} {text}")

    say(f"use      {known['use'].format(folder=target)}")
    return target


def _known_set(name: str) -> dict[str, Any]:
    sets = known_sets()
    if name not in sets:
        what = f"gantk knows no public data set named '{name}'"
        raise UserError(what, where="NAME", allowed=sets, remedy=did_you_mean(name, sets))

    if "ask" in sets[name]:
        what = f"'{name}' is only available after registration ({sets[name]['licence']})"
        remedy = f"register at {sets[name]['ask']}, and train on the download with --data FOLDER"
        raise UserError(what, where="NAME", remedy=remedy)

    return sets[name]


@contextmanager
def _lock_folder(staging: Path) -> Iterator[Path]:
    """Create and lock a hidden folder, for one process at a time, and keep only regular files in
    it; deletes it afterwards if it is empty.
    """
    lock = None
    make_folder(staging.parent)  # here, where what is wrong with it is told
    # retry if the previous holder of the lock has deleted the folder, or does so just now
    while lock is None:
        with suppress(FileExistsError):
            make_folder(staging)
        with suppress(FileNotFoundError):
            held = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            fcntl.flock(held, fcntl.LOCK_EX)
            if staging.exists() and os.path.samestat(os.fstat(held), staging.stat()):
                lock = held
            else:
                os.close(held)

    try:
        for path in staging.iterdir():
            if path.is_symlink() or not path.is_file():  # unpacked earlier, or somebody else's
                remove(path)
        yield staging
    finally:
        if staging.exists() and not any(staging.iterdir()):
            staging.rmdir()
        os.close(lock)


def _fetch_file(
    path: str,
    known: dict[str, Any],
    base: str,
    staging: Path,
    say: Callable,
    progress: Callable,
) -> dict[str, Any]:
    """Download and check one file in the staging folder; returns its entry for the record."""
    file = staging / path.replace("/", "__")
    url = f"{base}/{quote(path)}"
    shown = without_credentials(url)
    size = known.get("size", 0)
    expected = known["checksum"]
    if not file.exists():
        part = file.with_name(file.name + ".part")
        try:
            download(
                url,
                part,
                size=size,
                most=known.get("most", MAX_FILE_BYTES),
                report=lambda share: progress(share, path),
                say_retry=lambda error: say(f"retry    {path}: {error}"),
            )
        except NotAnswered as error:
            kept = ""
            if part.exists():
                kept = f" {_bytes(part):,} bytes are kept. The same command resumes from there."
            raise GantkError(
                f"'{shown}' cannot be downloaded: {error}.{kept} Check the connection, or find the"
                " set's new address and name it with --from."
            ) from None
        except Refused as error:
            compared = "differs from the published file" if size else "is not accepted"
            raise GantkError(
                f"the download of '{shown}' {compared}: {error}. gantk deleted it. Try a mirror with"
                " --from."
            ) from None

        if (size and _bytes(part) != size) or _checksum(part, expected) != expected:
            part.unlink()
            raise GantkError(
                f"the download of '{shown}' differs from the published file ({size or '?'} bytes,"
                f" {expected}). gantk deleted it. Try a mirror with --from."
            )

        os.rename(part, file)

    return {"path": path, "url": shown, "bytes": _bytes(file), "checksum": expected}


def _checksum(path: Path, like: str) -> str:
    """A file's checksum in the algorithm of `like`: "sha256:...", "md5:..." or "git:..." (the hash
    of a git blob).
    """
    algorithm = like.partition(":")[0]
    if algorithm == "git":
        return "git:" + hashlib.sha1(b"blob %d\0" % _bytes(path) + path.read_bytes()).hexdigest()
    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _bytes(path: Path) -> int:
    return path.stat().st_size


def _unpack_files(files: dict[str, dict[str, Any]], staging: Path) -> Path:
    """Unpack the staged files into one folder and return it; a single top folder of an archive is
    dropped.

    GantkError for a damaged archive, which is deleted, so that the next call downloads it again.
    """
    result = staging / "unpacked"
    scratch = staging / "scratch"
    for path, known in files.items():
        file = staging / path.replace("/", "__")
        place = result / known.get("into", "") / path
        if file.name.endswith(ARCHIVES):
            place = result / known.get("into", "")
            shutil.rmtree(scratch, ignore_errors=True)
            try:
                unpack(file, make_folder(scratch, new=True), MAX_COMPRESSION)
            except Exception as error:
                if may_pass(error):
                    raise
                for failed in (scratch, result):
                    shutil.rmtree(failed, ignore_errors=True)
                file.unlink()  # the next call downloads it again
                raise GantkError(
                    f"the archive '{file.name}' is damaged or unsafe: {one_line(error)}."
                ) from None

            inside = [each for each in scratch.iterdir() if each.name != "__MACOSX"]
            file = scratch
            if len(inside) == 1 and inside[0].is_dir():
                file = inside[0]

        make_folder(place.parent)
        os.rename(file, place)

    return result
