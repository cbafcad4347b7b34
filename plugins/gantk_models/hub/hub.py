"""Uploads and downloads packed models by the Hugging Face hub's library; executes nothing that it
downloads.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from gantk import __version__, hub
from gantk.downloads import NotAnswered, Status
from gantk.errors import UserError
from gantk.files import follow_links, write_file
from gantk.hub import COMMIT
from gantk.recipe.load import mapping
from gantk.runs.folder import RunFolder
from gantk.runs.models import CARD, card, copy_packed, find_model, pack_record, weights_in_words
from gantk.terminal import Say

STEP = re.compile(r"checkpoints/step-([0-9]{1,12})/meta\.json")
# uploaded
FILES = [
    "recipe.toml",
    "metrics.json",
    CARD,
    "checkpoints/step-*/meta.json",
    "checkpoints/step-*/weights.safetensors",
]
# Largest sizes of what is downloaded.
MAX_RECIPE_BYTES = 2**20
MAX_CARD_BYTES = 2**20
MAX_JSON_BYTES = 2**26
MAX_WEIGHTS_BYTES = 2**31
HEAD = """\
---
library_name: gantk
pipeline_tag: {task}
tags: [gantk, medical-imaging, gan]
{license}---

"""


def fetch_model(address: str, say: Say) -> Path:
    """Return the folder of the model at hf://USER/NAME[@REVISION] in the hub's cache, downloaded if
    necessary.

    `say` prints the commit, which identifies the weights for later downloads, and their SHA-256.
    UserError where the address is malformed, or the repository is not a gantk model.
    """
    name, revision = hub.parse_address(address)
    # a commit never changes: use the cache without a request
    folder = hub.snapshot(name, revision or "")
    if not (COMMIT.fullmatch(revision or "") and _is_complete(folder)):
        with hub.as_gantk_error(f"'{address}' cannot be downloaded"):
            folder = _download(address, name, revision, say)

    follow_links(folder)  # older snapshots in the hub's cache consist of links
    say(f"model    hf://{name}@{folder.name}, {weights_in_words(folder)}")
    return folder


def _download(address: str, name: str, revision: str | None, say: Say) -> Path:
    """Download the model of a revision; without an answer of the hub, the one in the cache."""
    try:
        listing = hub.list_files(name, revision)
    except NotAnswered as error:
        commit = hub.cached_commit(name, revision, "recipe.toml")
        if (isinstance(error, Status) and error.status < 500) or commit is None:
            raise

        folder = hub.snapshot(name, commit)
        if not _is_complete(folder):
            raise
        say(f"note     the hub is not asked ({error}): the last downloaded commit is used")
        return folder

    return hub.download_files(
        name,
        listing.commit,
        _model_files(address, listing.files),
        revision,
        lambda error: say(f"retry    {error}"),
    )


def _model_files(address: str, offered: list[str]) -> dict[str, int]:
    """Path -> largest size of a packed model's files, the weights last; UserError where a
    repository has none.
    """
    steps = [match[1] for match in map(STEP.fullmatch, offered) if match]
    if "recipe.toml" not in offered or not steps:
        missing = "checkpoint" if "recipe.toml" in offered else "recipe.toml"
        raise UserError(
            f"'{address}' is not a gantk model: it has no {missing}",
            remedy="name a model that `gantk push` uploaded",
        )

    checkpoint = f"checkpoints/step-{max(steps, key=int)}"
    sizes = {
        "recipe.toml": MAX_RECIPE_BYTES,
        "metrics.json": MAX_JSON_BYTES,
        CARD: MAX_CARD_BYTES,
        f"{checkpoint}/meta.json": MAX_JSON_BYTES,
        f"{checkpoint}/weights.safetensors": MAX_WEIGHTS_BYTES,
    }
    return {path: most for path, most in sizes.items() if path in offered}


def _is_complete(folder: Path) -> bool:
    """Whether a snapshot holds a model: its weights are downloaded last."""
    return (folder / "recipe.toml").is_file() and any(
        folder.glob("checkpoints/step-*/weights.safetensors")
    )


def push(
    run: str | os.PathLike[str],
    name: str,
    *,
    license: str | None = None,
    private: bool = False,
    say: Say = print,
) -> str:
    """Pack a run and upload it to the hub as `name` (USER/NAME); returns its address,
    hf://USER/NAME@COMMIT.
    """
    if not re.fullmatch(hub.REPOSITORY, name):
        raise UserError(
            f"'{name}' is not a valid name on the hub", allowed="USER/NAME", where="USER/NAME"
        )

    api = hub.library().HfApi(library_name="gantk", library_version=__version__)
    path = find_model(run)
    with TemporaryDirectory() as folder:
        made = Path(folder) / name.partition("/")[2]
        if pack_record(RunFolder.open(path)) is not None:
            copy_packed(RunFolder(path), made)
        else:
            from gantk_models.packing import pack

            pack(path, made, say=lambda line: None)

        write_file(made / "README.md", _readme(made, license).encode())
        with hub.as_gantk_error(f"'{name}' cannot be uploaded"):
            api.create_repo(name, private=private or None, exist_ok=True)
            commit = api.upload_folder(
                repo_id=name,
                folder_path=made,
                commit_message="Upload a gantk model",
                delete_patterns="checkpoints/*",
                allow_patterns=[*FILES, "README.md"],
            )

        address = f"hf://{name}@{commit.oid}"
        say(f"pushed   {address}, {weights_in_words(made)}")

    return address


def _readme(model: Path, license: str | None) -> str:
    """The model's card, with the metadata header that the hub reads."""
    domains = mapping(RunFolder(model).recipe().tables.get("data")).get("domains") or []
    task = "image-to-image" if len(domains) > 1 else "unconditional-image-generation"
    return HEAD.format(task=task, license=f"license: {license}\n" if license else "") + card(model)
