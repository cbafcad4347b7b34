"""Downloads files of the Hugging Face hub into its cache. The hub's answers are not trusted: a
commit is 40 hexadecimal digits, file names are ours, and sizes are bounded.

The library huggingface_hub names the address, the token and the cache. It makes no requests here:
it writes to paths that it takes from a server's answers (ETag, sha).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote

from gantk.downloads import (
    NotAnswered,
    Refused,
    download,
    is_same_host,
    read_json,
    require_address,
    without_credentials,
)
from gantk.errors import GantkError, UserError, importing, machine_failure, one_line
from gantk.files import make_folder, temporary_beside, write_file

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_]|[.-](?![.-])){0,95}"  # of a user or a repository: no .. or --
REPOSITORY = rf"{NAME}/{NAME}"
WORD = r"(?!\.)(?:[A-Za-z0-9_-]|\.(?!\.|lock(?:/|$)|/|$)){1,100}"
REVISION = (
    rf"{WORD}(?:/{WORD}){{0,5}}"  # the names that git allows to branches, without exotic ones
)
ADDRESS = re.compile(rf"hf://({REPOSITORY})(?:@({REVISION}))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
DEFAULT_REVISION = "main"
# The hub's own hosts, and those of its storage are below them.
HOSTS = ("huggingface.co", "hf.co")


@dataclass(frozen=True)
class Listing:
    """The files of a repository at one commit."""

    commit: str
    files: list[str]


def parse_address(address: str) -> tuple[str, str | None]:
    """(USER/NAME, REVISION or None) of hf://USER/NAME[@REVISION]; UserError where it is malformed."""
    match = ADDRESS.fullmatch(address)
    if not match:
        raise UserError(
            f"'{address}' is not a valid address of a model",
            allowed="hf://USER/NAME, hf://USER/NAME@REVISION",
        )
    return match[1], match[2]


def library() -> Any:
    """The package huggingface_hub; UserError where it is not installed."""
    with importing("a model on the hub", "hub"):
        import huggingface_hub.constants
    return huggingface_hub


def snapshot(name: str, commit: str) -> Path:
    """The folder of a commit's files in the hub's cache, whether it exists or not."""
    return _cache(name) / "snapshots" / commit


def cached_commit(name: str, revision: str | None, file: str) -> str | None:
    """The commit that a revision had when its `file` was last downloaded; None where it was not."""
    place = library().try_to_load_from_cache(name, file, revision=revision)
    commit = Path(place).parent.name if isinstance(place, str) else ""
    return commit if COMMIT.fullmatch(commit) else None


def list_files(name: str, revision: str | None) -> Listing:
    """The commit of a revision and its files, asked from the hub; errors as those of `downloads`."""
    if library().constants.HF_HUB_OFFLINE:
        raise NotAnswered("HF_HUB_OFFLINE is set")

    revision = revision or DEFAULT_REVISION
    url = f"{_endpoint()}/api/models/{name}/revision/{quote(revision, safe='')}"
    found = read_json(url, _headers(), _may_redirect)
    commit = found.get("sha") if isinstance(found, dict) else None
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        shown = f"'{one_line(str(commit), 60)}'" if commit else "no commit"
        raise Refused(f"the hub's answer names {shown}, not a commit of 40 hexadecimal digits")

    if COMMIT.fullmatch(revision) and commit != revision:
        raise Refused(f"the hub's answer is of the commit {commit}")

    rows = found.get("siblings")
    if not isinstance(rows, list):
        raise Refused("the hub's answer has no list of files")
    names = [row.get("rfilename") for row in rows if isinstance(row, dict)]
    return Listing(commit, [name for name in names if isinstance(name, str)])


def download_files(
    name: str,
    commit: str,
    files: Mapping[str, int],
    revision: str | None = None,
    say_retry: Callable[[NotAnswered], None] = lambda error: None,
) -> Path:
    """Download files of a commit to its snapshot, those that are not there yet, in their order.

    Args:
        name: USER/NAME.
        commit: the commit, from `list_files`.
        files: relative path -> largest size in bytes. The caller chooses the paths: a server's are
            not to be used unchecked.
        revision: the branch or tag whose commit this is.
        say_retry: called with the reason before each retry.

    Returns:
        The folder of the snapshot.
    """
    folder = snapshot(name, commit)
    for path, most in files.items():
        final = folder / path
        if final.is_file():
            continue

        url = f"{_endpoint()}/{name}/resolve/{commit}/{quote(path)}"
        make_folder(final.parent)
        arriving = temporary_beside(final)
        try:
            download(
                url,
                arriving,
                most=most,
                headers=_headers(),
                may_redirect=_may_redirect,
                say_retry=say_retry,
            )
            os.replace(arriving, final)
        finally:
            arriving.unlink(missing_ok=True)

    if not COMMIT.fullmatch(revision or ""):
        with suppress(OSError):  # only spares later commands a request
            reference = _cache(name) / "refs" / (revision or DEFAULT_REVISION)
            make_folder(reference.parent)
            write_file(reference, commit.encode())

    return folder


@contextmanager
def as_gantk_error(what: str) -> Iterator[None]:
    """Convert any error of the hub, its library or the network into a GantkError with a remedy."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of downloads, the hub's library, its HTTP library, or the disk
        failure = machine_failure(error) if getattr(error, "filename", None) else None
        if failure:  # of a file of the cache
            raise GantkError(f"{what}: {failure}") from error
        status = getattr(error, "status", None)
        status = status or getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, Refused):
            remedy = (
                "Check HF_ENDPOINT if it is set. Or download the repository in another way, and name"
                " its folder."
            )
        elif status in (401, 403, 404):
            remedy = (
                "Check the name. For a private model or an upload, log in with `hf auth login` or"
                " set HF_TOKEN."
            )
        else:
            remedy = "Check the network, and HF_ENDPOINT if it is set."

        reason = one_line(without_credentials(error)).rstrip(".")
        raise GantkError(f"{what}: {reason}. {remedy}") from error


def _may_redirect(start: SplitResult, target: SplitResult) -> bool:
    """Whether a redirect stays on its host, or leads to the hub or its storage, encrypted."""
    if is_same_host(start, target):
        return True
    name = target.hostname or ""
    return target.scheme == "https" and (
        name in HOSTS or name.endswith(tuple(f".{h}" for h in HOSTS))
    )


def _endpoint() -> str:
    return require_address(str(library().constants.ENDPOINT), "HF_ENDPOINT").rstrip("/")


def _headers() -> dict[str, str]:
    """The header with the user's token, if there is one.

    The library's own headers are not used: it asks the server for parts of them.
    """
    if library().constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return {}
    token = library().get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _cache(name: str) -> Path:
    return Path(library().constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
