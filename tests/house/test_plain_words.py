"""Plain words: pages, messages and help texts are short sentences without phrases that stop a reader.

The list of phrases is short on purpose. A finding asks for another sentence, not for a way around it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tiny import ROOT

from gantk.cli import cli
from gantk.plugin.loader import attach_commands

MAX_WORDS = 30  # of a sentence
MAX_PAGE_LINES = 150
MAX_LINE = 100  # characters
MIN_WORDS = 4  # shorter strings are names and labels

# what we no longer write -> what to write instead
GONE = {
    r"\banew\b": "again, from the start",
    r"\bno more\b(?! than)": "no longer",
    r"\b(another|nobody|somebody)'s\b": "name the thing",
    r"\bnobody\b": "say what is missing",
    r"\btold (apart|beside)\b|\bis told\b|\bare told\b": "distinguished, reported",
    r"\bas ever\b": "as usual",
    r"\b(?<!stand-)alone\b": "only, by itself",
    r"\b(go|goes|going|gone|went) on\b": "continue, resume",
    r"\bmade (images?|slices?|pictures?|ones?|tumours?|scans?)\b": "generated images",
    r"(?<=[}'`]) (is|are) no [a-z]": "is not a valid ...",
    r"\bnothing that (can|could|is)\b": "contains no ...",
    r"\bthere are any\b": "if available",
    r"\bat hand\b": "available, installed",
    r"\band the like\b": "and similar files",
    r"\b(is|are|was|were) said\b|\bsays so\b": "is reported",
    r"\btakes its time\b": "is slow",
    r"\bof which the\b": "whose",
    r"\bha(s|ve) no say\b": "does not influence",
    r"\b(does|do) without\b": "does not need",
    r"\bto the bit\b": "bit-identical",
    r"\btill\b|\bthrice\b|\bhitherto\b|\bwhence\b": "until, three times",
    r"\bbegun from\b": "started from",
}
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in (ROOT / "docs").rglob("*") if page.suffix in (".md", ".intro")),
]
SOURCES = sorted([*(ROOT / "gantk").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")])
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def page_texts(page: Path) -> Iterator[str]:
    """The paragraphs, items and cells of a page; code and links' addresses are left out."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    text = re.sub(r"<!--.*?-->|\]\([^)]*\)", "", text)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.) )|\n(?=\|)", text):
        block = block.strip()
        cells = block.strip("|").split("|") if block.startswith("|") else [block]
        yield from (cell.strip() for cell in cells if not cell.startswith("#"))


def string_of(node: ast.AST) -> str | None:
    """A string constant, or an f-string with `{x}` for each value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "{x}" for part in node.values)
        return "".join(map(str, parts))
    return None


def message_texts(source: Path) -> Iterator[str]:
    """The strings of a module that are long enough to be a message; docstrings are left out."""
    tree = ast.parse(source.read_text("utf-8"))
    left_out: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):  # a docstring
            left_out.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            left_out.update(ast.walk(node))
            left_out.discard(node)

    for node in ast.walk(tree):
        text = string_of(node)
        if text and node not in left_out:
            yield from (line for line in text.splitlines() if len(line.split()) >= MIN_WORDS)


def comments_of(recipe: Path) -> Iterator[str]:
    """Summary and comments of a recipe; the lines of one comment are one text."""
    text = recipe.read_text("utf-8")
    yield from re.findall(r'^summary = "(.*)"', text, re.M)
    for block in re.findall(r"(?:^#.*\n)+", text, re.M):
        yield " ".join(line.lstrip("# ") for line in block.splitlines())
    yield from re.findall(r"^[^#\n]+#\s*(.+)$", text, re.M)


def findings(text: str) -> list[str]:
    """What is wrong with a text: phrases that we no longer use, and sentences that are too long."""
    plain = re.sub(r"`[^`]*`", "`CODE`", " ".join(text.split())).removeprefix("* ")
    found = []
    for pattern, instead in GONE.items():
        match = re.search(pattern, plain, re.I)
        if match:
            found.append(f"'{match[0]}' (write: {instead}): {plain[:120]}")

    sentences = re.split(r"(?<=[.!?:;])\s+(?=[A-Z{'\"`(*\[])", plain)
    long = [sentence for sentence in sentences if len(sentence.split()) > MAX_WORDS]
    return found + [f"{len(sentence.split())} words: {sentence[:120]}" for sentence in long]


def all_commands() -> Iterator[tuple[str, click.Command]]:
    attach_commands(cli)

    def walk(group: click.Group, words: str) -> Iterator[tuple[str, click.Command]]:
        for name, command in group.commands.items():
            yield f"{words} {name}", command
            if isinstance(command, click.Group):
                yield from walk(command, f"{words} {name}")

    return walk(cli, "gantk")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_plain_and_short(page):
    text = page.read_text("utf-8")
    lines = text.splitlines()
    prose = re.sub(r"^( *)```.*?^\1```$|<!--.*?-->", "", text, flags=re.M | re.S).splitlines()
    of_prose = [line for line in prose if not line.startswith("|") and "](" not in line]

    assert [found for each in page_texts(page) for found in findings(each)] == []
    assert len(lines) <= MAX_PAGE_LINES
    assert [line for line in of_prose if len(line) > MAX_LINE] == []


def test_messages_are_plain():
    found = {}
    for source in SOURCES:
        wrong = [each for text in message_texts(source) for each in findings(text)]
        if wrong:
            found[name_of(source)] = wrong

    assert found == {}


def test_summaries_and_comments_of_recipes_are_plain():
    found = {}
    for recipe in RECIPES:
        wrong = [each for text in comments_of(recipe) for each in findings(text)]
        if wrong:
            found[name_of(recipe)] = wrong

    assert found == {}


def test_help_texts_are_whole_sentences():
    wrong = []
    for words, command in all_commands():
        paragraphs = (command.help or "").split("\n\n")
        prose = [text for text in paragraphs if "\b" not in text]  # else a list of lines
        wrong += [(words, each) for text in prose for each in findings(text)]
        for option in command.params:
            text = getattr(option, "help", None)
            if text and not (re.match(r"[A-Z0-9.'\"`(-]", text) and text.endswith((".", "..."))):
                wrong.append((words, text))

    assert wrong == []
