"""card.md of a packed model: tables made of the run, in a text that whoever packs it may write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantk.errors import UserError, told
from gantk.recipe.load import mapping, read_toml
from gantk.runs.folder import Run
from gantk.runs.models import packed, weights_hash
from gantk.runs.schemas import read

OURS = Path(__file__).with_suffix(".md")  # the card of whoever writes none
HEADS = ("direction", "score", "value [95 % interval]", "n", "best baseline")


def text_of(card: Path) -> str:
    """The text of a card that is to be filled; UserError where it has no section on limits."""
    try:
        text = card.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"'{card}' cannot be read as text: {told(error)}", where="--card") from None
    if "\n## Limits\n" not in text:
        what = f"'{card}' has no section '## Limits', whose first paragraph is told wherever the model is used"
        raise UserError(what, where="--card", remedy="add one, however short")
    return text


def filled(text: str, name: str, model: Path, dtype: str) -> str:
    """A card's text with {name}, {summary}, {facts} and {scores} of a packed model put in."""
    tables = read_toml(model / "recipe.toml", "recipe.toml", "recipe", "`gantk recipes`")[1]
    run, data, train = Run(model), mapping(tables.get("data")), mapping(tables.get("train"))
    size, noted = (run.latest() / "weights.safetensors").stat().st_size, packed(run) or {}
    length = f"{train['steps']:,} steps" if train.get("steps") else f"{train.get('epochs')} epochs"
    pixels = " x ".join(map(str, data.get("patch") or data.get("size") or []))
    facts = {
        "domains": ", ".join(data.get("domains", [])),
        "recipe": f"{mapping(tables.get('method')).get('name')}, {length}, images of {pixels}: recipe.toml",
        "weights": f"{dtype}, {size / 2**20:.2f} MB, sha256 `{weights_hash(model)}`",
        "split": f"sha256 `{noted.get('split')}` of which images were trained on and which held out",
        "made by": f"gantk {noted.get('gantk')}",
    }
    made = {"name": name, "summary": str(tables.get("summary", "")), "scores": _scores(read(model / "metrics.json"))}
    for key, value in (made | {"facts": _table(("", ""), facts.items())}).items():
        text = text.replace(f"{{{key}}}", value)
    return text


def _scores(found: dict[str, Any]) -> str:
    """A Markdown table of metrics.json: each score with its interval, and the best baseline's."""
    rows, names = [], dict(zip("ab", found.get("domains") or "ab", strict=False))
    for direction, metrics in (found.get("metrics") or {}).items():
        way = " to ".join(names.get(letter, letter) for letter in direction.split("_to_"))
        for name, row in metrics.items():
            others = {each: known.get(direction, {}).get(name) for each, known in found.get("baselines", {}).items()}
            values = {each: other["value"] for each, other in others.items() if (other or {}).get("value") is not None}
            best = (max if row.get("higher_is_better", True) else min)(values, key=values.get, default=None)
            beside = f"{_number(others[best])} ({best})" if best else "-"
            rows.append((way, name, _number(row), row.get("n") or "-", beside))
    return _table(HEADS, rows) if rows else "It was not scored: the run has no metrics.json."


def _number(row: dict[str, Any]) -> str:
    ends = row.get("ci95") or [None]
    interval = "" if None in ends else " [{:.4g}, {:.4g}]".format(*ends)
    return "-" if row.get("value") is None else f"{row['value']:.4g}{interval} {row.get('unit') or ''}".rstrip()


def _table(heads: tuple[str, ...], rows: Any) -> str:
    """Rows as a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
