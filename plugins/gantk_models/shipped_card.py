"""Writes card.md of a packed model: puts tables of the run into a text, the default one or the
user's.
"""

from __future__ import annotations

import re
from pathlib import Path

from gantk import Markdown, code_span, escape_markdown, markdown_table, score_table
from gantk.errors import reading_file
from gantk.files import read_file
from gantk.recipe.load import mapping, read_toml
from gantk.runs.folder import RunFolder
from gantk.runs.models import MAX_CARD_BYTES, pack_record, weights_hash
from gantk.runs.schemas import read_results

OURS = Path(__file__).with_suffix(".md")  # the default text


def text_of(card: Path) -> str:
    """Read the text of a card to be filled in; UserError where it has no section on limits."""
    with reading_file(card, where="--card"):
        text = read_file(card, max_bytes=MAX_CARD_BYTES).decode("utf-8")
        if "\n## Limits\n" not in text:
            raise ValueError(
                "it has no section '## Limits', of which gantk prints the first paragraph whenever"
                " the model is used"
            )

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
    noted = pack_record(run)
    length = f"{train['steps']:,} steps" if train.get("steps") else f"{train.get('epochs')} epochs"
    pixels = " x ".join(map(str, data.get("patch") or data.get("size") or []))
    facts = {
        "domains": ", ".join(map(str, data.get("domains") or [])),
        "recipe": (
            f"{mapping(tables.get('method')).get('name')}, {length}, images of {pixels}:"
            " recipe.toml"
        ),
        "weights": Markdown(
            f"{dtype}, {size / 2**20:.2f} MB, sha256 {code_span(weights_hash(model))}"
        ),
    }
    if noted and noted.split:
        facts["split"] = Markdown(
            f"sha256 {code_span(noted.split)} of the list of training and held-out images"
        )

    facts["made by"] = f"gantk {noted and noted.gantk}"
    values = {
        "name": escape_markdown(name),
        "summary": escape_markdown(tables.get("summary", "")),
        "facts": markdown_table(("", ""), facts.items()),
        "scores": score_table(read_results(model)),
    }
    # in one pass: a name may itself contain "{scores}"
    return re.sub(r"\{(name|summary|facts|scores)\}", lambda match: values[match[1]], text)
