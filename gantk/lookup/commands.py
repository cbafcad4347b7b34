"""The commands `gantk list`, `show`, `plugins` and `recipes`: print parts, a recipe's keys, plugins
and recipes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from gantk.errors import UserError, did_you_mean, one_line
from gantk.files import expect_file, write_output
from gantk.plugin.loader import load
from gantk.plugin.loss_inputs import in_words, loss_inputs
from gantk.plugin.registry import KINDS, Entry
from gantk.plugin.settings import disabled_plugins
from gantk.terminal import (
    Command,
    CommandGroup,
    console,
    overwrite_option,
    say,
    say_next,
    styled,
    table,
)

MAX_SCORE_ROWS = 4  # of a card's table of scores that has no mean in its last row
# two kinds of images without pairs, with pairs, CT and MR, from noise, style, own scans
FIRST_RECIPES = (
    "dualgan_t1t2",
    "pix2pix_t1t2",
    "ct_mr_heads",
    "dcgan_phantom",
    "style_t1t2",
    "finetune_own",
)


@click.command(
    "list",
    cls=Command,
    short_help="List every part that a recipe can name.",
    section="Look",
    place=3,
    examples=["gantk list", "gantk list loss"],
)
@click.argument("kind", required=False)
def list_(kind) -> None:
    """List the parts that a recipe can name: all of them, or those of one KIND. Of all, a terminal
    shows how many there are of each kind.
    """
    registry = load().registry
    out = console()
    if kind or not out.is_terminal:
        kinds = [kind] if kind else KINDS
        entries = [entry for each in kinds for entry in registry.of_kind(each)]
        rows = [(entry.kind, entry.name, entry.owner, entry.summary) for entry in entries]
        out.print(table(("kind", "name", "from", ""), rows))
    else:
        out.print(table((), [(each, str(len(registry[each])), KINDS[each]) for each in KINDS]))
    if out.is_terminal:
        say_next(f"gantk show {kind} NAME" if kind else "gantk list KIND")


@click.command(
    cls=Command,
    short_help="Show a part, the keys of a recipe, or a model's card.",
    section="Look",
    place=2,
    examples=[
        "gantk show generator unet       # a part and its options",
        "gantk show data                 # the keys of a recipe table",
        "gantk show recipe dualgan_t1t2  # a recipe with all defaults",
        "gantk show model t1t2           # scores and limits of a model",
    ],
)
@click.argument("kind")
@click.argument("name", required=False)
@click.option(
    "--profile",
    metavar="PROFILE",
    help="For a recipe: apply its [profile.PROFILE] first, such as cpu.",
)
@click.option("--full", is_flag=True, help="For a model: print its whole card.")
@click.pass_context
def show(ctx, kind, name, profile, full) -> None:
    """Show a part with its options, the keys of a recipe table, a recipe, or the card of a model.

    KIND is a kind of part (`gantk list` shows all), `recipe`, `model`, or a table of a recipe: data,
    split, train, fast, evaluate, translate. Without NAME, the parts of this KIND are listed.
    """
    from gantk.recipe.load import all_recipes
    from gantk.recipe.tables import TABLES
    from gantk.runs.models import all_models

    if kind == "recipe" and name:
        _show_recipe(name, profile)
        return
    if kind == "model" and name:
        _show_card(name, full)
        return

    kind = kind.removeprefix("train.").removeprefix("data.")
    if name:
        entry = load().registry.get(kind, name)
        head = styled(f"{entry.kind} {entry.name}", "bold") + styled(f"  from {entry.owner}")
        if entry.paper:
            head += styled(f"\n\n{entry.paper}")
        _show_options(head, entry.load(), entry)
    elif kind in TABLES:
        where, target = TABLES[kind]
        head = styled("a recipe", "bold")
        if where:
            head = styled(f"[{where}]", "bold") + styled(f"  --set {where}.KEY=VALUE")
        _show_options(head, target)
    elif kind in all_models():
        _show_card(kind, full)
    elif kind in all_recipes():
        _show_recipe(kind, profile)
    else:
        models = ctx.find_root().command.commands.get("models") if kind == "model" else None
        ctx.invoke(models) if models else ctx.invoke(list_, kind=kind)


def _show_card(name: str, full: bool) -> None:
    """Print a model's card: what it is for, its scores, limits and licence, or all of it."""
    from rich.markdown import Markdown

    from gantk.runs.models import (
        CARD,
        card,
        find_model,
        limits_of,
        opening_of,
        scores_of,
        section_of,
    )

    path = find_model(name)
    text = card(path)
    if not text:
        raise UserError(
            f"'{path}' has no {CARD}",
            remedy="write one with `gantk pack RUN OUT`; of a run: `gantk card RUN`",
        )
    out = console()
    if full:
        out.print(Markdown(text) if out.is_terminal else text, soft_wrap=not out.is_terminal)
        return

    out.print(f"{opening_of(text)}\n", soft_wrap=True)
    protocol = section_of(text, "Scores").partition(". ")[0].strip(".")
    if not protocol.startswith("|"):
        out.print(protocol, soft_wrap=True)
    header, *rows = scores_of(path) or [[]]
    if rows and rows[-1][0].startswith("mean"):
        of_mean = zip(header[1:], rows[-1][1:], strict=True)
        out.print(table(("", rows[-1][0]), (pair for pair in of_mean if pair[1])))
    elif rows:
        out.print(table(tuple(header), rows[:MAX_SCORE_ROWS]))
    out.print()
    say(f"limits   {limits_of(path)}")
    say(f"licence  {section_of(text, 'Licence') or 'not stated'}")
    say_next(f"gantk show model {name} --full: data, every score, all limits")


def _show_options(head: Text, target: Callable[..., Any], entry: Entry | None = None) -> None:
    """Print what a part or a table of recipes is, and its options."""
    from gantk.lookup.options import options_help
    from gantk.lookup.reference import description

    out = console()
    text = re.sub(r"(?<=\w[,;\w])\n(?=\w)", " ", description(target)) or "no description"
    out.print(head, f"\n\n{text}\n", sep="")
    if entry is not None and entry.kind == "loss":
        out.print(f"It takes {in_words(loss_inputs(target))}.\n")
    rows = [
        (name, default, f"{text} ({kind})".lstrip())
        for name, kind, default, text in options_help(target)
    ]
    out.print(table(("option", "default", ""), rows) if rows else "It takes no options.")


def _show_recipe(name: str, profile: str | None) -> None:
    """Print a recipe as TOML; on a terminal, defaults are dim."""
    from gantk.lookup.reference import recipe_lines
    from gantk.recipe.load import load_recipe, mapping
    from gantk.recipe.published import in_full

    recipe = load_recipe(name)
    out = console()
    lines = list(recipe_lines(recipe.override([], profile)))
    profiles = ", ".join(f"--profile {each}" for each in mapping(recipe.tables.get("profile")))
    for line in (f"{recipe.origin}; profiles: {profiles or 'none'}", *in_full(recipe, profile)):
        out.print(f"# {line}", soft_wrap=True)

    for key, note, is_given in lines:
        line = f"{key:<32} # {note}" if note else key
        out.print(line, style=None if is_given else "dim", soft_wrap=True)


@click.command(
    cls=Command,
    short_help="List the installed plugins and what each adds.",
    section="Look",
    place=5,
    examples=["gantk plugins"],
    then="gantk list",
)
def plugins() -> None:
    """List the installed plugins, what each one offers, and why one did not load."""
    loaded = load()
    rows = []
    for plugin in sorted(loaded.plugins, key=lambda plugin: plugin.distribution == "gantk"):
        if plugin.disabled:
            gives = styled(plugin.problem or "", "yellow")
        elif plugin.problem:
            gives = styled(f"did not load: {plugin.problem}", "red")
        else:
            gives = styled(plugin.summary)
        rows.append((plugin.name, f"{plugin.distribution} {plugin.version}", gives))

    console().print(table(("plugin", "from", "offers"), rows))
    found = {plugin.module for plugin in loaded.plugins}
    for package, place in disabled_plugins().items():
        if package not in found:
            nearest = did_you_mean(package, found) or ""
            console().print(
                f"{place} switches off '{package}', which is not installed. {nearest}",
                style="yellow",
            )

    for entry in loaded.registry.overrides():
        console().print(
            f"the {entry.kind} '{entry.name}' of {entry.owner} replaces that of {entry.replaced}"
        )


@click.group(
    invoke_without_command=True,
    cls=CommandGroup,
    short_help="List the recipes, or copy one as a start for your own.",
    section="Look",
    place=4,
    examples=["gantk recipes", "gantk recipes --all", "gantk recipes copy dualgan_t1t2 mine.toml"],
)
@click.option("--all", "every", is_flag=True, help="The published systems and all others too.")
@click.pass_context
def recipes(ctx, every) -> None:
    """List the recipes to begin with, and those of other packages. With --all, list all that `gantk
    run` knows by name. `gantk show recipe NAME` compares one with its report.
    """
    if ctx.invoked_subcommand:
        return

    import tomllib

    from gantk.recipe.load import all_recipes

    known = all_recipes()
    shown = sorted(known)
    if not every:
        others = [name for name in shown if known[name][1] != "gantk"]
        shown = [*FIRST_RECIPES, *others]

    rows = []
    for name in shown:
        path, owner = known[name]
        try:
            summary = str(tomllib.loads(path.read_text("utf-8")).get("summary", ""))
        except (OSError, ValueError) as error:
            summary = f"cannot be read: {one_line(error)}"
        rows.append((name, summary if owner == "gantk" else f"{summary} (from {owner})"))

    console().print(table(("recipe", "summary"), rows))
    if len(shown) < len(known):
        say_next(
            f"gantk recipes --all: {len(known) - len(shown)} more, published systems among them"
        )


@recipes.command("copy", then="gantk run {target}")
@click.argument("name")
@click.argument("target", required=False)
@overwrite_option
def copy_recipe(name, target, overwrite) -> None:
    """Copy the recipe NAME to TARGET as a start for your own recipe. Default: NAME.toml."""
    from gantk.recipe.load import find_recipe

    path, _ = find_recipe(name)
    target = Path(target or path.name)
    target = target / path.name if target.is_dir() else target
    expect_file(target, "TARGET", overwrite=overwrite)
    write_output(target, path.read_bytes())
    say(f"copied   {target}")


COMMANDS = [list_, show, plugins, recipes]
