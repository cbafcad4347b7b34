"""gantk: train, run and score generative adversarial networks for medical images. One TOML recipe is one experiment.

`gantk.run("dualgan_t1t2")` does what `gantk run dualgan_t1t2` does; every command has its function here.
Names are loaded at first use, so that `import gantk` costs milliseconds.

What a plugin builds on are the names here and the rooms in `PLUGIN_ROOMS`: they change with a version and a word in
CHANGELOG.md only. Every other module is the toolkit's own and may change any day.
"""

from __future__ import annotations

import importlib

_PUBLIC = {
    "gantk.api": [
        "run", "resume", "predict", "evaluate", "compare", "translate", "sample", "load", "export", "check", "fetch",
    ],  # fmt: skip
    "gantk.errors": ["GantkError", "UserError", "Interrupted"],
    "gantk.hookspecs": ["hookimpl", "hookspec"],
    "gantk.method": ["Batch", "Geometry", "Method", "Phase", "Stage"],
    "gantk.adaptive": ["DiscriminatorAugment"],
    "gantk.cycle": ["CycleMethod", "Terms"],
    "gantk.pool": ["ImagePool"],
    "gantk.recipe": ["Recipe", "load_recipe"],
    "gantk.runfolder": ["RunFolder"],
    "gantk.data.records": ["Record"],
    "gantk.spec": ["AdversarialLoss", "Augment", "Discriminator", "Generator", "Loss", "Part"],
}
PLUGIN_ROOMS = ("gantk.nets", "gantk.losses", "gantk.data", "gantk.metrics", "gantk.testing")
PLUGIN_ROOMS += ("gantk.adaptive", "gantk.cycle", "gantk.errors", "gantk.hookspecs", "gantk.method", "gantk.pool")
PLUGIN_ROOMS += ("gantk.recipe", "gantk.runtime", "gantk.spec", "gantk.weights")
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name == "__version__":
        from gantk.version import version_of_gantk

        return version_of_gantk()
    raise AttributeError(f"module 'gantk' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
