"""gantk: train, run and score generative adversarial networks for medical images. One TOML recipe
is one experiment.

`gantk.run("dualgan_t1t2")` does what `gantk run dualgan_t1t2` does; every command has its function
here, those of plugins too. Names are loaded at first use, so that `import gantk` costs milliseconds.

Plugins may use the names in `__all__` and the modules that `gantk.plugin.public` lists: these change
only with a new version and an entry in CHANGELOG.md. Every other module is internal.
"""

from __future__ import annotations

import functools
import importlib
import types

# module -> its public names
_PUBLIC = {
    "gantk.api": ["run", "resume", "evaluate", "translate", "sample", "load", "export"],
    "gantk.catalog.catalog": ["Catalog", "Row"],
    "gantk.data.check.check": ["check"],
    "gantk.data.dataset": ["Data"],
    "gantk.exports.exporting": ["Direction"],
    "gantk.formats.archives": ["unpack"],
    "gantk.inference.model": ["Model"],
    "gantk.metrics.compare_folders": ["compare"],
    "gantk.metrics.compare_models": ["compare_models"],
    "gantk.nets.pretrained": ["timm_model"],
    "gantk.nets.unet": ["UNet"],
    "gantk.planning.recipe": ["plan"],
    "gantk.report.patients.comparing": ["write_report"],
    "gantk.report.markdown": [
        "Markdown",
        "code_span",
        "escape_markdown",
        "markdown_table",
        "score_table",
    ],
    "gantk.metrics.comparing": ["compare_systems", "correct_tests"],
    "gantk.training.trial": ["predict"],
    "gantk.errors": ["GantkError", "GantkWarning", "UserError", "Interrupted"],
    "gantk.plugin.hookspecs": ["ReportSection", "hookimpl", "hookspec"],
    "gantk.plugin.loader": ["registry"],
    "gantk.method": ["Batch", "Geometry", "Method", "Phase", "Stage"],
    "gantk.training.begin": ["training"],
    "gantk.training.loop": ["Step", "Training"],
    "gantk.training.adaptive": ["DiscriminatorAugment"],
    "gantk.training.pool": ["ImagePool"],
    "gantk.prepare.grid": ["resample_onto"],
    "gantk.recipe.load": ["Recipe", "load_recipe"],
    "gantk.report.notebook": ["Run"],
    "gantk.report.run_record": ["RunRecord"],
    "gantk.data.augment": ["Augmentation"],
    "gantk.data.batches": ["Batches"],
    "gantk.data.preparation": ["Record"],
    "gantk.data.recipe_data": ["checked_recipe"],
    "gantk.data.sources.source": ["ImageSource", "VolumeSource"],
    "gantk.plugin.spec": [
        "AdversarialLoss",
        "Augment",
        "Discriminator",
        "FeatureMapLoss",
        "Generator",
        "Loss",
        "Part",
        "SourceLoss",
    ],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOME)
BUILDING_BLOCKS = ("timm_model",)  # draw weights from the random numbers of their caller


@functools.cache
def _public_function(function):
    """A function under its public name, as a guest of the program that calls it."""
    from gantk.guest import as_guest

    call = as_guest(function)
    call.__module__ = __name__  # where pickle finds it
    return call


def __getattr__(name: str):
    if name in _HOME:
        found = getattr(importlib.import_module(_HOME[name]), name)
        is_work = isinstance(found, types.FunctionType) and name not in BUILDING_BLOCKS
        return _public_function(found) if is_work else found

    if name == "__version__":
        from gantk.plugin.loader import installed_version

        return (
            installed_version("gantk") or "0.1.0+source"
        )  # run from a checkout that is not installed

    if not name.startswith("_"):
        from gantk.plugin.loader import function

        found = function(name)
        if found is not None:
            return _public_function(found)

    raise AttributeError(f"module 'gantk' has no attribute '{name}'")


def __dir__() -> list[str]:
    from gantk.plugin.loader import registry
    from gantk.plugin.registry import FUNCTION

    functions = [name for kind, name in registry().entries if kind == FUNCTION]
    return [*__all__, *functions, "__version__"]
