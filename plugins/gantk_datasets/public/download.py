"""Downloads public data sets by name, checks published sizes and checksums, and unpacks them
atomically.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from gantk.files import (
    LOCK,
    expect_name,
    json_object,
    lock_folder,
    make_folder,
    remove,
    write_file,
)
from gantk.formats.budget import MAX_COMPRESSION
from gantk.progress import Work
from gantk.terminal import Say

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
        sizes = [file["size"] for file in known.get("files", {}).values()]
        size = f"{sum(sizes) / 1e6:,.1f} MB" if all(sizes) else "not published"
        if "ask" in known:
            size = "on request"
        where = known.get("ask") or known["base"]
        rows.append((name, known["about"], size, known["licence"], where))

    return rows


def fetch(
    name: str,
    *,
    out: str | Path | None = None,
    base_url: str | None = None,
    say: Say = print,
) -> Path:
    """Download a public data set, check and unpack it.

    Args:
        name: the name of the data set, as listed by `public_sets`.
        out: the folder. Default: data/NAME.
        base_url: a mirror, with the same sizes and checksums.
        say: called with each line of output.

    Returns:
        The folder. A data set that exists is not downloaded again.

    Raises:
        UserError: the name is unknown, the data set requires registration, or another process
            downloads it.
        GantkError: download or check failed. The folder was not written.

    An interrupted download is resumed.
    OUT.fetched.json records the addresses and checksums of the files, and the licence.
    """
    known = _known_set(name)
    base = require_address(base_url or known["base"], "--from").rstrip("/")
    target = expect_name(Path(out or Path("data") / name).absolute(), "--out")
    record = target.with_name(f"{target.name}.fetched.json")
    staging = target.with_name(f".{target.name}.fetching")
    with writing_file(target, where="--out"), _lock_staging(staging):
        if target.exists() and (target.is_file() or any(target.iterdir())):
            if json_object(record).get("name") == name:
                say(f"exists   {target}")
                return target
            raise UserError(
                f"'{target}' exists and is not a download of the set '{name}' by gantk",
                where="--out",
                remedy="choose another folder, or move this one away",
            )

        say(f"fetch    {name} from {without_credentials(base)}")
        files = []
        for path, facts in known["files"].items():
            url = f"{base}/{quote(path)}"
            file = _staging_file(staging, path)
            if not file.exists():
                _download(path, url, file, facts, say)
            entry = {"path": path, "url": without_credentials(url)}
            files.append(entry | {"bytes": _bytes(file), "checksum": facts["checksum"]})
        unpacked = _unpack_files(known["files"], staging)
        prepare_set(name, unpacked)
        about = {"name": name, "licence": known["licence"], "cite": known["cite"], "files": files}
        write_file(record, (json.dumps(about, indent=1) + "\n").encode())
        os.rename(unpacked, target)
        shutil.rmtree(staging)

    say(f"licence  {known['licence']}")
    say(f"cite     {known['cite']}")
    say(f"written  {target}")
    say(f"use      {known['use'].format(folder=target)}")
    return target


def prepare_set(name: str, folder: Path) -> None:
    """Convert the files of a set for training, and add its tables."""
    if "prepare" in known_sets()[name]:
        import_module(known_sets()[name]["prepare"]).prepare(folder)
    for table in Path(__file__).with_name("tables").glob(f"{name}/*.csv"):
        shutil.copyfile(table, folder / table.name)


def _known_set(name: str) -> dict[str, Any]:
    sets = known_sets()
    if name not in sets:
        raise UserError(
            f"gantk knows no public data set named '{name}'",
            where="NAME",
            allowed=sets,
            remedy=did_you_mean(name, sets),
        )

    if "ask" in sets[name]:
        raise UserError(
            f"'{name}' is only available after registration ({sets[name]['licence']})",
            where="NAME",
            remedy=f"register at {sets[name]['ask']}, and train on the download with --data FOLDER",
        )

    return sets[name]


@contextmanager
def _lock_staging(staging: Path) -> Iterator[None]:
    """Create and lock the folder of an unfinished download, and keep only its files; deletes it
    afterwards where it has none.
    """
    make_folder(staging)
    with lock_folder(staging):
        for path in staging.iterdir():
            if path.is_symlink() or not path.is_file():  # unpacked earlier, or somebody else's
                remove(path)
        try:
            yield
        finally:
            if staging.exists() and {path.name for path in staging.iterdir()} <= {LOCK}:
                shutil.rmtree(staging)


def _staging_file(staging: Path, path: str) -> Path:
    """Where a file of a set is stored until all are there."""
    return staging / path.replace("/", "__")


def _download(path: str, url: str, file: Path, known: dict[str, Any], say: Callable) -> None:
    """Download and check one file; GantkError where that fails."""
    shown = without_credentials(url)
    size = known.get("size", 0)
    expected = known["checksum"]
    part = file.with_name(file.name + ".part")
    try:
        with Work(f"downloading {path}", 1) as work:
            download(
                url,
                part,
                size=size,
                most=known.get("most", MAX_FILE_BYTES),
                report=work.advance,
                say_retry=lambda error: say(f"retry    {path}: {error}"),
            )
        if (size and _bytes(part) != size) or _checksum(part, expected) != expected:
            part.unlink()
            raise Refused(f"it has not the published checksum {expected}")
    except NotAnswered as error:
        remains = ""
        if part.exists():
            remains = f" {_bytes(part):,} bytes are kept. The same command resumes from there."
        raise GantkError(
            f"'{shown}' cannot be downloaded: {error}.{remains} Check the connection, or find the"
            " set's new address and name it with --from."
        ) from None
    except Refused as error:
        raise GantkError(
            f"the download of '{shown}' differs from the published file: {error}. gantk deleted it."
            " Try a mirror with --from."
        ) from None
    os.rename(part, file)


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
    for path, known in files.items():
        file = _staging_file(staging, path)
        place = result / known.get("into", "")
        if file.name.endswith(ARCHIVES):
            content = _unpack(file)
        else:
            place /= known.get("as", path)
            content = file
        make_folder(place.parent)
        os.rename(content, place)
    return result


def _unpack(archive: Path) -> Path:
    """Unpack an archive; returns its only folder, or the folder of all that it holds."""
    folder = archive.with_name("scratch")
    shutil.rmtree(folder, ignore_errors=True)  # of the archive before it
    make_folder(folder)
    try:
        unpack(archive, folder, MAX_COMPRESSION)
    except Exception as error:
        if may_pass(error):
            raise
        for failed in (folder, archive.with_name("unpacked"), archive):
            if failed.exists():
                remove(failed)
        raise GantkError(
            f"the archive '{archive.name}' is damaged or unsafe: {one_line(error)}."
        ) from None

    inside = [each for each in folder.iterdir() if each.name != "__MACOSX"]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
