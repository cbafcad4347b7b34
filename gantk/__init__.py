"""gantk: train, run and score generative adversarial networks for medical images. One TOML recipe
is one experiment.

`gantk.run("dualgan_t1t2")` does what `gantk run dualgan_t1t2` does; every command has its function
here. Names are loaded at first use, so that `import gantk` costs milliseconds.

Plugins may use the names here and the packages in `PLUGIN_ROOMS`: these change only with a new
version and an entry in CHANGELOG.md. Every other module is internal and may change at any time.
"""

from __future__ import annotations

import importlib

_PUBLIC = {
    "gantk.api": ["run", "resume", "evaluate", "translate", "sample", "load", "export"],
    "gantk_app.service": ["app"],
    "gantk_studies.card.card": ["write_card", "score_table", "markdown_table"],
    "gantk.data.check.check": ["check"],
    "gantk.metrics.compare_folders": ["compare"],
    "gantk_trust.explain.explain": ["explain"],
    "gantk.nets.timm_networks": ["timm_model"],
    "gantk_cluster.folds.cross_validation": ["cross_validate"],
    "gantk.formats.archives": ["unpack"],
    "gantk_datasets.public.download": ["fetch", "public_sets"],
    "gantk_models.packing": ["pack"],
    "gantk.planning.recipe": ["plan"],
    "gantk.report.notebook": ["Run"],
    "gantk.report.patients.comparing": ["write_report"],
    "gantk_studies.reader_study.making": ["new_study"],
    "gantk_studies.reader_study.scoring": ["score_study"],
    "gantk.metrics.statistics.comparing": ["compare_systems", "correct_tests"],
    "gantk.training.trial": ["predict"],
    "gantk.errors": ["GantkError", "UserError", "Interrupted"],
    "gantk.plugin.hookspecs": ["hookimpl", "hookspec"],
    "gantk.method": ["Batch", "Geometry", "Method", "Phase", "Stage"],
    "gantk.training.adaptive": ["DiscriminatorAugment"],
    "gantk.training.two_way": ["CycleMethod", "Terms"],
    "gantk.training.pool": ["ImagePool"],
    "gantk.recipe.load": ["Recipe", "load_recipe"],
    "gantk.data.preparation": ["Record"],
    "gantk.plugin.spec": [
        "AdversarialLoss",
        "Augment",
        "Discriminator",
        "Generator",
        "Loss",
        "Part",
    ],
}
PLUGIN_ROOMS = (
    "gantk.nets",
    "gantk.losses",
    "gantk.data",
    "gantk.formats",
    "gantk.metrics",
    "gantk.testing",
)
PLUGIN_ROOMS += (
    "gantk.plugin",
    "gantk.errors",
    "gantk.method",
    "gantk.recipe",
    "gantk.machine",
    "gantk.training",
)
PLUGIN_ROOMS += (
    "gantk.files",
    "gantk.inference",
    "gantk.exports",
    "gantk.terminal",
    "gantk.report",
    "gantk.runs",
)
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name == "__version__":
        from gantk.plugin.loader import installed_version

        return (
            installed_version("gantk") or "0.1.0+source"
        )  # run from a checkout that is not installed
    raise AttributeError(f"module 'gantk' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
