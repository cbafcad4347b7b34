"""Uploads and downloads packed models by the Hugging Face hub's library; executes nothing that it
downloads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gantk import __version__
from gantk.errors import GantkError, UserError, one_line
from gantk.files import write_file
from gantk.recipe.load import mapping
from gantk.runs.folder import RunFolder
from gantk.runs.models import CARD, card, copy_packed, find_model, pack_record, weights_hash

REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
ADDRESS = re.compile(rf"hf://({REPOSITORY})(?:@([\w.][\w./-]*))?")
COMMIT = r"[0-9a-f]{40}"
CHECKPOINT_PATTERN = "checkpoints/step-*/"
# downloaded
FILES = [
    "recipe.toml",
    "metrics.json",
    CARD,
    f"{CHECKPOINT_PATTERN}meta.json",
    f"{CHECKPOINT_PATTERN}weights.safetensors",
]
HEAD = """\
---
library_name: gantk
pipeline_tag: {task}
tags: [gantk, medical-imaging, gan]
{license}---

"""


def fetch_model(address: str, say: Callable[[str], None]) -> Path:
    """Return the folder of the model at hf://USER/NAME[@REVISION] in the hub's cache, downloaded if
    necessary.

    `say` prints the commit, which identifies the weights for later downloads, and their SHA-256.
    UserError where the address is malformed, or the repository is not a gantk model.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        what = f"'{address}' is not a valid address of a model"
        raise UserError(what, allowed="hf://USER/NAME, hf://USER/NAME@REVISION")

    name, revision = match.groups()
    hub = _library()
    folder = None
    # a commit never changes: use the cache without a request
    if re.fullmatch(COMMIT, revision or ""):
        try:
            folder = hub.snapshot_download(
                name, revision=revision, allow_patterns=FILES, local_files_only=True
            )
        except hub.errors.LocalEntryNotFoundError:
            folder = None

    with _as_gantk_error(f"'{address}' cannot be downloaded"):
        folder = Path(
            folder or hub.snapshot_download(name, revision=revision, allow_patterns=FILES)
        )

    if not (folder / "recipe.toml").is_file():
        raise UserError(
            f"'{address}' is not a gantk model: it has no recipe.toml",
            remedy="name a model that `gantk push` uploaded",
        )

    RunFolder(folder).latest()
    say(f"model    hf://{name}@{folder.name}, weights sha256 {weights_hash(folder)}")
    return folder


def push(
    run: str | os.PathLike[str],
    name: str,
    *,
    card: str | os.PathLike[str] | None = None,
    license: str | None = None,
    private: bool = False,
    say: Callable[[str], None] = print,
) -> str:
    """Pack a run and upload it to the hub as `name` (USER/NAME); returns its address,
    hf://USER/NAME@COMMIT.
    """
    if not re.fullmatch(REPOSITORY, name):
        raise UserError(
            f"'{name}' is not a valid name on the hub", allowed="USER/NAME", where="USER/NAME"
        )

    if license and not re.fullmatch(r"[\w.-]+", license):
        what = f"'{license}' is not a valid identifier of a licence"
        raise UserError(
            what,
            where="--license",
            allowed="an identifier of the hub, such as cc-by-4.0, apache-2.0, other",
        )

    api = _library().HfApi(library_name="gantk", library_version=__version__)
    path = find_model(run)
    with TemporaryDirectory() as folder:
        made = Path(folder) / name.partition("/")[2]
        if card is None and pack_record(RunFolder.open(path)) is not None:
            copy_packed(RunFolder(path), made)
        else:
            from gantk_models.packing import pack

            pack(path, made, card=card, say=lambda line: None)

        write_file(made / "README.md", _readme(made, license).encode())
        with _as_gantk_error(f"'{name}' cannot be uploaded"):
            api.create_repo(name, private=private or None, exist_ok=True)
            options = {"delete_patterns": "checkpoints/*", "allow_patterns": [*FILES, "README.md"]}
            commit = api.upload_folder(
                repo_id=name, folder_path=made, commit_message="Upload a gantk model", **options
            )

        address = f"hf://{name}@{commit.oid}"
        say(f"pushed   {address}, weights sha256 {weights_hash(made)}")

    return address


def _readme(model: Path, license: str | None) -> str:
    """The model's card, with the metadata header that the hub reads."""
    domains = mapping(RunFolder(model).recipe().tables.get("data")).get("domains") or []
    task = "image-to-image" if len(domains) > 1 else "unconditional-image-generation"
    return HEAD.format(task=task, license=f"license: {license}\n" if license else "") + card(model)


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        what = "models on the hub need the package huggingface_hub, which is not installed"
        raise UserError(what, remedy='install it: pip install "gantk[hub]"') from None
    return huggingface_hub


@contextmanager
def _as_gantk_error(what: str) -> Iterator[None]:
    """Convert any error of the hub or the network into a GantkError with a remedy."""
    try:
        yield
    except Exception as error:  # errors of the hub's library, its HTTP library, or the disk
        status = getattr(getattr(error, "response", None), "status_code", None)
        remedy = (
            "Check the name. For a private model or an upload, log in with `hf auth login` or set"
            " HF_TOKEN."
        )
        if status not in (401, 403, 404):
            remedy = "Check the network, and HF_ENDPOINT if it is set."
        raise GantkError(f"{what}: {one_line(error)} {remedy}") from error
