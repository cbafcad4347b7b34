"""gantk: train, run and score generative adversarial networks for medical images. One TOML recipe is one experiment.

`gantk.run("dualgan_t1t2")` does what `gantk run dualgan_t1t2` does; every command has its function here.
Names are loaded at first use, so that `import gantk` costs milliseconds.
"""

from __future__ import annotations

import importlib

_PUBLIC = {
    "gantk.api": ["run", "resume", "evaluate", "compare", "translate", "load"],
    "gantk.errors": ["GantkError", "UserError", "Interrupted"],
    "gantk.hookspecs": ["hookimpl", "hookspec"],
    "gantk.method": ["Batch", "Geometry", "Method", "Phase", "Stage"],
    "gantk.cycle": ["CycleMethod", "Terms"],
    "gantk.pool": ["ImagePool"],
    "gantk.recipe": ["Recipe", "load_recipe"],
    "gantk.runfolder": ["RunFolder"],
    "gantk.data.records": ["Record"],
    "gantk.spec": ["AdversarialLoss", "Augment", "Discriminator", "Generator", "Loss", "Part"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name == "__version__":
        from gantk.runfolder import version_of_gantk

        return version_of_gantk()
    raise AttributeError(f"module 'gantk' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
