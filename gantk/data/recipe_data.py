"""Puts the images that a user names into a recipe, and checks the recipe as a whole."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gantk.catalog.contrasts import usual_contrast
from gantk.data.sources.source import source_for
from gantk.recipe.load import Recipe, Settings, load_recipe, mapping
from gantk.recipe.tables import Model

OPTIONS_NAMING_FILES = ("a", "b", "pairs")


def with_data(recipe: Recipe, path: str | Path | dict[str, Any]) -> Recipe:
    """A copy of `recipe` with the source that accepts `path`, or with the source of this table.

    A source of the same name keeps its options. UserError where no source accepts the path.
    """
    changed = recipe.override([])
    table = changed.tables.setdefault("data", {})
    if not isinstance(table, dict):
        return changed  # `check` will raise

    before = table.get("source")
    if not isinstance(before, dict):
        before = {"name": before}

    if isinstance(path, dict):
        source = path
    else:
        source = source_for(Path(path), before.get("name"))

    if "path" in source:  # absolute: a run may be resumed from another folder
        source["path"] = str(Path(source["path"]).absolute())

    # Globs and paths match files of the recipe's own folder, which the new one may lack.
    about_files = set()
    for key in OPTIONS_NAMING_FILES:
        text = str(before.get(key, ""))
        if re.search(r"[*?/]", text) and not _matches_below(source.get("path"), text):
            about_files.add(key)
            changed.remarks.append(
                f"data.source.{key} = '{text}' matches no file of --data, so names decide instead"
            )
    kept = {key: value for key, value in before.items() if key not in about_files}
    split = table.get("split")
    if about_files and isinstance(split, dict) and not split.get("test"):
        del table["split"]  # a split without test images is of those files too

    same_source = kept.get("name") == source["name"]
    table["source"] = {**kept, **source} if same_source else dict(source)
    changed.overridden["data.source"] = f"--data {source.get('path', '')}"
    return changed


def _matches_below(folder: Any, pattern: str) -> bool:
    """Whether a pattern matches a file below a folder."""
    return isinstance(folder, str) and any(Path(folder).glob(pattern))


def with_names_of_data(recipe: Recipe) -> Recipe:
    """A copy with domains A and B, and a note, where no file or folder name contains the domains.

    Returns `recipe` itself otherwise, where the user has set the domains, and where they are no
    usual contrasts.
    """
    table = recipe.check().data
    source = table.source
    if "data.domains" in recipe.overridden or source.options.get("a"):
        return recipe
    if not any(map(usual_contrast, table.domains)):
        return recipe

    built = source(table.domains, table.dims, table.size)
    note = built.nameless() if hasattr(built, "nameless") else None
    if note is None:
        return recipe

    changed = copy.deepcopy(recipe)
    changed.tables["data"]["domains"] = ["A", "B"][: len(table.domains)]
    changed.remarks.append(
        f"{note}. Use --set 'data.domains={json.dumps(table.domains)}' to keep the recipe's names"
    )
    return changed


def expect_said_domain(recipe: Recipe) -> None:
    """UserError where the user's data do not say what kind of images they are, as a table without a
    domain, and the user's settings do not either: the recipe's domain would be a guess.
    """
    is_given = recipe.overridden.get("data.source", "").startswith("--data")
    if not is_given or "data.domains" in recipe.overridden:
        return

    table = recipe.check().data
    if hasattr(table.source.target, "expect_said_domain"):
        table.source(table.domains, table.dims, table.size).expect_said_domain()


def checked_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    data: Any,
    settings: Settings,
    profile: str | None,
    last: Settings = (),
) -> tuple[Recipe, Model]:
    """Load a recipe, apply profile, data, settings and the `last` ones, in this order, and check
    it; returns both.
    """
    loaded = load_recipe(recipe).override([], profile)
    if data is not None:
        loaded = with_data(loaded, data)

    loaded = loaded.override(settings).override(last)
    if data is not None:
        loaded = with_names_of_data(loaded)
    expect_said_domain(loaded)

    _make_paths_absolute(loaded.tables)
    return loaded, loaded.check()


def _make_paths_absolute(tables: dict[str, Any]) -> None:
    """Make the paths in a recipe's tables absolute, in place: a run may lie in another folder."""
    data = mapping(tables.get("data"))
    split = mapping(data.get("split"))
    train = mapping(tables.get("train"))
    if isinstance(split.get("file"), str) and split["file"]:
        split["file"] = str(Path(split["file"]).absolute())
    if isinstance(data.get("weights"), str) and data["weights"]:
        data["weights"] = str(Path(data["weights"]).absolute())
    # what is no path is the name of a model
    if isinstance(train.get("start"), str) and os.path.exists(train["start"]):
        train["start"] = str(Path(train["start"]).absolute())
