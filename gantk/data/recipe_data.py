"""Puts the images that a user names into a recipe, and checks the recipe as a whole."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gantk.catalog.contrasts import usual_contrast
from gantk.data.sources.source import source_for
from gantk.errors import UserError
from gantk.recipe.load import Recipe, Settings, load_recipe, mapping, with_setting
from gantk.recipe.tables import CheckedRecipe, DataTable, SplitTable

OPTIONS_NAMING_FILES = ("a", "b")
OF_READING = (
    "data.source.",
    "data.words.",
    "data.leave_out",
    "data.fill_masks",
)  # how keys begin that say how images are read


def with_data(recipe: Recipe, path: str | Path | dict[str, Any]) -> Recipe:
    """A copy of `recipe` with the source that accepts `path`, or with the source of this table.

    A source of the same name keeps its options. UserError where no source accepts the path.
    """
    changed = recipe.override([])
    table = changed.tables.setdefault("data", {})
    if not isinstance(table, dict):
        return changed  # `check` will raise

    before = table.get("source")
    before = dict(before) if isinstance(before, dict) else {"name": before}

    source = path if isinstance(path, dict) else source_for(Path(path), before.get("name"))

    if "path" in source:  # absolute: a run may be resumed from another folder
        source["path"] = str(Path(source["path"]).absolute())

    # globs and paths match files of the recipe's own folder, which the new one may lack
    about_files = []
    for key in OPTIONS_NAMING_FILES:
        text = str(before.get(key, ""))
        if not re.search(r"[*?/]", text):
            continue
        if "path" not in source or not any(Path(source["path"]).glob(text)):
            about_files.append(f"data.source.{key} = '{text}'")
            del before[key]
    if about_files:
        given = " and ".join(about_files)
        changed.remarks.append(f"no file of --data matches {given}, so names decide instead")
    split = table.get("split")
    if about_files and isinstance(split, dict) and not split.get("test"):
        del table["split"]  # a split without test images is of those files too

    same_source = before.get("name") == source["name"]
    table["source"] = {**before, **source} if same_source else dict(source)
    changed.overridden["data.source"] = f"--data {source.get('path', '')}"
    return changed


def with_test_data(
    recipe: Recipe, path: str | Path | dict[str, Any], settings: Settings = (), layout: str = ""
) -> DataTable:
    """The table of `with_data` for images that are only tested: the source resamples those of each
    patient onto the first domain's grid, if it can. `settings` and `layout` say how they are read; the
    layout of the training's own images says nothing of images elsewhere. UserError for other settings.
    """
    for setting in settings:
        if not setting.startswith(OF_READING):
            raise UserError(
                f"'{setting.partition('=')[0]}' does not say how images are read",
                where="--set",
                allowed="data.source.KEY, data.words.KEY, data.leave_out, data.fill_masks",
            )
    if layout:
        settings = with_setting(settings, "data.source.layout", layout)
    given = with_data(recipe, path)
    own = mapping(mapping(recipe.tables.get("data")).get("source")).get("path")
    source = mapping(mapping(given.tables.get("data")).get("source"))
    is_own = own and Path(str(own)).resolve() == Path(str(source.get("path"))).resolve()
    if "layout" in source and not is_own:
        given.tables["data"]["source"] = {**source, "layout": ""}
    table = given.override(settings).check().data
    options = dict(table.source.options)
    if options.get("onto") == "none":
        options["onto"] = "a"
    return table.model_copy(update={"source": replace(table.source, options=options)})


def without_training(table: DataTable) -> DataTable:
    """The table for a test of a model whose training images are not here: no image is held out, and
    masks and weights for training are not needed.
    """
    split = SplitTable(test=0.0, validation=0.0)
    return table.model_copy(update={"split": split, "mask": False, "weights": ""})


def opened_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    data: Any,
    settings: Settings,
    profile: str | None = None,
    last: Settings = (),
) -> tuple[Recipe, CheckedRecipe, Any]:
    """Load a recipe, apply profile, data, settings and the `last` ones, in this order, and check
    it; returns recipe, model, and the source that was built of the data, to read its records from
    (None for the recipe's own source).

    Domains are called A and B, with a note, where no file or folder name contains the recipe's.
    UserError where the data do not say what kind of images they are.
    """
    loaded = load_recipe(recipe).override([], profile)
    if data is not None:
        loaded = with_data(loaded, data)

    loaded = loaded.override(settings).override(last)
    _make_paths_absolute(loaded.tables, Path(loaded.origin).parent)
    model = loaded.check()
    if not loaded.overridden.get("data.source", "").startswith("--data"):
        return loaded, model, None

    # imports what reads images
    from gantk.data.dataset import open_source

    source = open_source(model.data)
    asks_for_a = "data.domains" in loaded.overridden or model.data.source.options.get("a")
    note = "" if asks_for_a else source.nameless()
    if note and any(map(usual_contrast, model.data.domains)):
        loaded = copy.deepcopy(loaded)
        domains = list(model.data.domains)
        loaded.tables["data"]["domains"] = ["A", "B"][: len(domains)]
        loaded.remarks.append(
            f"{note}. Use --set 'data.domains={json.dumps(domains)}' to keep the recipe's names"
        )
        model = loaded.check()
        source = open_source(model.data)
    return loaded, model, source


def checked_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    data: Any,
    settings: Settings,
    profile: str | None,
) -> tuple[Recipe, CheckedRecipe]:
    """The recipe that `gantk run` would train with these options, and its checked tables; UserError as
    there.
    """
    loaded, model, _ = opened_recipe(recipe, data, settings, profile)
    return loaded, model


def _make_paths_absolute(tables: dict[str, Any], folder: Path) -> None:
    """Make the paths in a recipe's tables absolute, in place: a run may lie in another folder. The
    images may lie beside the recipe, in `folder`.
    """
    data = mapping(tables.get("data"))
    source = mapping(data.get("source"))
    train = mapping(tables.get("train"))
    here = Path()
    for table, key, base in (
        (source, "path", folder),
        (data, "weights", here),
        (train, "start", here),
    ):
        path = table.get(key)
        # what is no path is the name of a model
        if isinstance(path, str) and path and os.path.exists(base / path):
            table[key] = str((base / path).absolute())
