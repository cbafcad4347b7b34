"""Loads a trained model of any kind: a run, one of its checkpoints, an exported file, several
models as one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gantk.errors import UserError
from gantk.guest import Say
from gantk.plugin.loader import load as plugins
from gantk.plugin.loader import registry
from gantk.runs.models import find_model

if TYPE_CHECKING:
    from gantk.inference.model import Model

AnyPath = str | os.PathLike[str]


def load_model(
    model: AnyPath | Iterable[AnyPath] | Model,
    device: str | None = None,
    say: Say = lambda line: None,
) -> Model:
    """The model of that path, name or address, or a model that is loaded; see `gantk.load`.

    `say` is called with lines that name the model and its limits.
    """
    from gantk.inference.model import Model  # imports torch

    if isinstance(model, Model):
        return model
    if not isinstance(model, (str, os.PathLike, Iterable)):
        raise UserError(
            f"a model of the type {type(model).__name__} cannot be loaded",
            where="RUN",
            allowed="a path, a name, an address, or a list of these",
        )
    from_plugin = plugins().hook.gantk_load_model(model=model, device=device)
    if from_plugin is not None or not isinstance(model, (str, os.PathLike)):
        return from_plugin

    path = find_model(model, say)
    suffix = path.suffix.lower().removeprefix(".")
    # an exporter that reads its files is named by their suffix
    if suffix in registry()["exporter"]:
        return registry().get("exporter", suffix).load()().load(path)
    return Model.load(path, device)
