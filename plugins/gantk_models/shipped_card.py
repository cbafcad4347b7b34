"""Writes card.md of a packed model: puts tables of the run into a text, the default one or the
user's.
"""

from __future__ import annotations

from pathlib import Path

from gantk.errors import UserError, one_line
from gantk.files import read_file
from gantk.recipe.load import mapping, read_toml
from gantk.report.markdown import markdown_table, score_table
from gantk.runs.folder import RunFolder
from gantk.runs.models import MAX_CARD_BYTES, pack_record, weights_hash
from gantk.runs.schemas import read

OURS = Path(__file__).with_suffix(".md")  # the default text


def text_of(card: Path) -> str:
    """Read the text of a card to be filled in; UserError where it has no section on limits."""
    try:
        text = read_file(card, max_bytes=MAX_CARD_BYTES).decode("utf-8")
    except (OSError, ValueError, UserError) as error:
        raise UserError(
            f"'{card}' cannot be read as text: {one_line(error)}", where="--card"
        ) from None

    if "\n## Limits\n" not in text:
        what = (
            f"'{card}' has no section '## Limits'; gantk prints its first paragraph whenever the"
            " model is used"
        )
        raise UserError(what, where="--card", remedy="add the section, however short")

    return text


def fill_card(text: str, name: str, model: Path, dtype: str) -> str:
    """Return a card's text with {name}, {summary}, {facts} and {scores} replaced by those of a
    packed model.
    """
    tables = read_toml(model / "recipe.toml", "recipe.toml", "recipe", "`gantk recipes`")[1]
    run = RunFolder(model)
    data = mapping(tables.get("data"))
    train = mapping(tables.get("train"))
    size = (run.latest() / "weights.safetensors").stat().st_size
    noted = pack_record(run) or {}
    length = f"{train['steps']:,} steps" if train.get("steps") else f"{train.get('epochs')} epochs"
    pixels = " x ".join(map(str, data.get("patch") or data.get("size") or []))
    facts = {
        "domains": ", ".join(data.get("domains", [])),
        "recipe": (
            f"{mapping(tables.get('method')).get('name')}, {length}, images of {pixels}:"
            " recipe.toml"
        ),
        "weights": f"{dtype}, {size / 2**20:.2f} MB, sha256 `{weights_hash(model)}`",
        "split": (f"sha256 `{noted.get('split')}` of the list of training and held-out images"),
        "made by": f"gantk {noted.get('gantk')}",
    }
    values = {
        "name": name,
        "summary": str(tables.get("summary", "")),
        "scores": score_table(read(model, "metrics.json")),
    }
    for key, value in (values | {"facts": markdown_table(("", ""), facts.items())}).items():
        text = text.replace(f"{{{key}}}", value)

    return text
