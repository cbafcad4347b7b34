"""gantk: train, run and score generative adversarial networks for medical images. One TOML recipe
is one experiment.

`gantk.run("dualgan_t1t2")` does what `gantk run dualgan_t1t2` does; every command has its function
here. Names are loaded at first use, so that `import gantk` costs milliseconds.

Plugins may use the names here and the packages in `PLUGIN_ROOMS`: these change only with a new
version and an entry in CHANGELOG.md. Every other module is internal and may change at any time.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings

_PUBLIC = {
    "gantk.api": ["run", "resume", "evaluate", "translate", "sample", "load", "export"],
    "gantk_app.service": ["app"],
    "gantk_card.card": ["write_card", "score_table", "markdown_table"],
    "gantk_check.check": ["check"],
    "gantk_compare.folders": ["compare"],
    "gantk_explain.explain": ["explain"],
    "gantk_features.timm_networks": ["timm_model"],
    "gantk_folds.cross_validation": ["cross_validate"],
    "gantk_datasets.archives": ["unpack"],
    "gantk_datasets.download": ["fetch", "public_sets"],
    "gantk_models.packing": ["pack"],
    "gantk_plan.recipe": ["plan"],
    "gantk_patients.comparing": ["write_report"],
    "gantk_study.making": ["new_study"],
    "gantk_study.scoring": ["score_study"],
    "gantk_statistics.comparing": ["compare_systems", "correct_tests"],
    "gantk_trial.trial": ["predict"],
    "gantk.errors": ["GantkError", "UserError", "Interrupted"],
    "gantk.plugin.hookspecs": ["hookimpl", "hookspec"],
    "gantk.method": ["Batch", "Geometry", "Method", "Phase", "Stage"],
    "gantk.training.adaptive": ["DiscriminatorAugment"],
    "gantk.training.two_way": ["CycleMethod", "Terms"],
    "gantk.training.pool": ["ImagePool"],
    "gantk.recipe.load": ["Recipe", "load_recipe"],
    "gantk.runs.folder": ["Run", "RunFolder"],
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
        from gantk.plugin.loader import installed

        return installed("gantk") or "0.1.0+source"  # run from a checkout that is not installed
    raise AttributeError(f"module 'gantk' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


# Module paths of version 0.1, which plugins written for it import -> the module's path now.
MOVED = {
    "gantk.adaptive": "gantk.training.adaptive",
    "gantk.checkpoint": "gantk.runs.checkpoint",
    "gantk.cycle": "gantk.training.two_way",
    "gantk.data.check": "gantk_check.check",
    "gantk.data.contrasts": "gantk_contrasts.source",
    "gantk.data.fit": "gantk.data.resample",
    "gantk.data.image": "gantk.formats.image",
    "gantk.data.images": "gantk_aligned.images",
    "gantk.data.io": "gantk.formats.files",
    "gantk.data.labels": "gantk.data.sources.folders",
    "gantk.data.leakage": "gantk.data.split.leakage",
    "gantk.data.mapping": "gantk.data.intensity",
    "gantk.data.nyul": "gantk_scales.scales",
    "gantk.data.reading": "gantk.data.sources.reader",
    "gantk.data.phantom": "gantk_phantom.phantom",
    "gantk.data.records": "gantk.data.preparation",
    "gantk.data.sources.dicom": "gantk_dicom.source",
    "gantk.data.sources.nifti": "gantk_nifti.source",
    "gantk.data.sources.manifest": "gantk_manifest.source",
    "gantk.data.split_file": "gantk_manifest.split_file",
    "gantk.formats.dicom": "gantk_dicom.format",
    "gantk.formats.itk": "gantk_itk.itk",
    "gantk.hookspecs": "gantk.plugin.hookspecs",
    "gantk.losses.gram": "gantk_style.gram",
    "gantk.machine.doctor": "gantk_trial.doctor",
    "gantk.metrics.bootstrap": "gantk.metrics.intervals",
    "gantk.metrics.distances": "gantk.metrics.sets",
    "gantk.metrics.compare_folders": "gantk_compare.folders",
    "gantk.metrics.diversity": "gantk_sets.diversity",
    "gantk.metrics.feature_files": "gantk_features.backbones",
    "gantk.metrics.lesions": "gantk.metrics.pairs",
    "gantk.metrics.pair_metric": "gantk.metrics.pairs",
    "gantk.metrics.perceptual": "gantk_lpips.metric",
    "gantk.metrics.regression": "gantk_tasks.regression",
    "gantk.metrics.structural": "gantk.metrics.pairs",
    "gantk.metrics.uncertainty": "gantk_uncertainty.judging",
    "gantk.metrics.verdicts": "gantk.metrics.verdict",
    "gantk.nets.attention": "gantk.nets.blocks",
    "gantk.nets.attention_unet": "gantk_attention_unet.network",
    "gantk.nets.dcgan": "gantk_dcgan.network",
    "gantk.nets.encoder": "gantk_style.encoder",
    "gantk.nets.labels": "gantk.nets.blocks",
    "gantk.nets.layout": "gantk.nets.kernels",
    "gantk.nets.patchgan": "gantk.nets.discriminators",
    "gantk.optim": "gantk.training.optim",
    "gantk.plugin.scaffold": "gantk_new.scaffold",
    "gantk.plugins": "gantk.plugin.loader",
    "gantk.pool": "gantk.training.pool",
    "gantk.registry": "gantk.plugin.registry",
    "gantk.runfolder": "gantk.runs.folder",
    "gantk.runtime": "gantk.machine.runtime",
    "gantk.spec": "gantk.plugin.spec",
    "gantk.training.accelerate.cuda_graph": "gantk_cuda_graph.capture",
    "gantk.training.accelerate.recompute": "gantk_recompute.blocks",
    "gantk.training.trial": "gantk_trial.trial",
    "gantk.weights": "gantk_features.timm_networks",
}


class _MovedModules:
    """An import finder: an old path of `MOVED` imports the module at its new path, with a
    DeprecationWarning.
    """

    @staticmethod
    def find_spec(name: str, path=None, target=None):
        return importlib.util.spec_from_loader(name, _MovedModules) if name in MOVED else None

    @staticmethod
    def create_module(spec):
        warnings.warn(f"{spec.name} is now {MOVED[spec.name]}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(MOVED[spec.name])
        spec.loader_state = module.__spec__
        return module

    @staticmethod
    def exec_module(module) -> None:
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.append(_MovedModules)
