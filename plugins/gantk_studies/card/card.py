"""Answers the items of two reporting guidelines from a run's files, and writes them as Markdown and
JSON.
"""

from __future__ import annotations

import json as json_module
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from gantk import Markdown, RunRecord, escape_markdown, markdown_table, score_table
from gantk.files import expect_file, write_output
from gantk.runs.models import find_model
from gantk_studies.card.facts import facts_of

ITEMS = Path(__file__).with_name("items.toml")
AnyPath = str | os.PathLike[str]


def write_card(
    run: AnyPath,
    *,
    out: AnyPath | None = None,
    json: AnyPath | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write the model card of a run.

    Args:
        run: the run folder.
        out: the Markdown file. Default: the text is passed to `say`.
        json: a JSON file for the result.
        overwrite: whether to replace files that gantk did not write, or that were changed since.
        say: called with each line of output.

    Returns:
        A dictionary of `facts`, `metrics`, and the `items` of CLAIM and TRIPOD+AI. An item has
        `answers`, the known facts, and `open`, what is left to fill in ("": nothing).

    Raises:
        UserError: a folder does not exist.
    """
    for file, where in ((out, "--out"), (json, "--json")):
        if file:
            expect_file(file, where, overwrite=overwrite)

    path = find_model(run, say)
    record = RunRecord(path)
    facts = facts_of(record)
    asked = tomllib.loads(ITEMS.read_text("utf-8"))
    items = [_answer(name, item, facts) for name, each in asked.items() for item in each]
    counts = {
        name: sum(item.guideline == name and not item.open for item in items) for name in asked
    }
    found = {
        "name": path.name,
        "facts": facts,
        "items": [asdict(item) for item in items],
        "answered": counts,
        "metrics": record.results.dump().get("metrics", {}),
        "problems": record.problems,
    }
    if json:
        write_output(Path(json), (json_module.dumps(found, indent=1) + "\n").encode())

    text = _card_text(path.name, facts, items, record)
    if out:
        write_output(Path(out), text.encode())

    say(f"card     {out}" if out else text)
    say(
        "items    "
        + ", ".join(
            f"{name}: {counts[name]} of {len(asked[name])} fully answered" for name in asked
        )
    )
    return found


@dataclass(frozen=True)
class Item:
    """An item of a guideline, with the facts of the run that answer it."""

    guideline: str
    number: str
    asks: str
    answers: dict[str, str]
    open: str  # what is left to fill in: all of it where no fact is known


def _answer(guideline: str, item: Mapping[str, Any], facts: Mapping[str, str]) -> Item:
    answers = {name: facts[name] for name in item.get("known", ()) if name in facts}
    left = item.get("open") or ("" if answers else item["asks"][:1].lower() + item["asks"][1:])
    return Item(guideline, item["number"], item["asks"], answers, left)


def _card_text(name: str, facts: Mapping[str, str], items: Sequence[Item], run: RunRecord) -> str:
    parts = [
        f"# {escape_markdown(name)}",
        markdown_table(("", ""), facts.items()),
        "## Scores",
        score_table(run.results),
    ]
    for guideline, of_guideline in groupby(items, key=lambda item: item.guideline):
        rows = [(item.number, item.asks, _answer_cell(item)) for item in of_guideline]
        parts.append(f"## {guideline}")
        parts.append(markdown_table(("item", "asks", "answer"), rows))

    if run.problems:
        problems = [f"- {escape_markdown(problem)}" for problem in run.problems]
        parts.append("## Files that could not be read")
        parts.append("\n".join(problems))

    return "\n\n".join(parts) + "\n"


def _answer_cell(item: Item) -> Markdown:
    """The facts that answer an item of a guideline, and what is open."""
    answers = [f"see *{name}*" for name in item.answers]
    if item.open:
        answers.append(f"**to be filled in: {item.open}**")
    return Markdown("; ".join(answers))
