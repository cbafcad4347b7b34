"""The README shows commands, options, recipes and messages that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from gantk.cli import cli
from gantk.errors import UserError
from gantk.plugin.loader import attach_commands
from gantk.recipe.load import Recipe, load_recipe

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text("utf-8")
RECIPES = {path.stem for path in (ROOT / "recipes").glob("*.toml")}


def readme_lines() -> list[str]:
    """The command lines that the README shows: in blocks, and in the running text between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", TEXT, re.S | re.M)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", TEXT)
    return [re.sub(r"\s#.*", "", line).strip() for line in "\n".join(blocks).splitlines()] + inline


def test_the_readme_names_only_commands_and_options_that_exist():
    attach_commands(cli)
    shown = [line.removeprefix("$ ").split() for line in readme_lines()]
    commands = [words[1:] for words in shown if words[:1] == ["gantk"] and len(words) > 1]
    assert len(commands) >= 10
    for words in commands:
        command, options = cli, {"--help", "--version"}
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
            options |= {name for param in command.params for name in param.opts}
        assert command is not cli or words[0] in options, f"the README shows `gantk {words[0]}`"
        for word in words:
            if word.startswith("-"):
                assert word.split("=")[0] in options, f"the README shows {word} of `gantk {command.name}`"


def test_the_readme_names_only_recipes_and_make_targets_that_exist():
    systems = TEXT[TEXT.index("## Systems") : TEXT.index("## Numbers")]
    named = {name for row in re.findall(r"^\|.*\|$", systems, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert named == RECIPES
    assert set(re.findall(r"\b\w+gan_t1t2\w*\b", TEXT)) <= RECIPES | {"mygan_t1t2"}  # which the scaffold writes
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    shown = [line.split()[1] for line in readme_lines() if line.startswith("make ")]
    assert shown and set(shown) <= targets


def test_the_readme_s_recipe_is_a_recipe():
    Recipe(tomllib.loads(example())).check()


def test_the_readme_s_error_is_the_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(example().replace("width", "wdth"), "utf-8")
    with pytest.raises(UserError) as caught:
        load_recipe("mine.toml").check()
    (shown,) = re.findall(r"^error  (.*)$", TEXT, re.M)
    start, end = shown.split("...")
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(end)


def example() -> str:
    """The recipe that the README shows."""
    (block,) = re.findall(r"^```toml\n(.*?)^```", TEXT, re.S | re.M)
    return block


def test_the_readme_s_figures_of_every_system_are_the_recorded_ones():
    recorded = (ROOT / "benchmarks" / "results" / "quick.md").read_text("utf-8")
    shown = TEXT[TEXT.index("<!-- quick -->") : TEXT.index("<!-- end of quick -->")]

    def systems(text: str) -> dict[str, list[str]]:
        rows = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| `")]
        return {row[0].strip(" `"): [cell.strip() for cell in row[1:3]] for row in rows}

    assert systems(shown) == systems(recorded) and systems(shown).keys() == RECIPES
