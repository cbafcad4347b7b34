"""The parts of the core, registered through the same hook as plugins' parts. Targets are imported
at first use.
"""

from __future__ import annotations

from gantk.plugin.hookspecs import hookimpl

PARTS = {
    "generator": {"unet": "gantk.nets.unet:UNet", "resnet": "gantk.nets.resnet:ResNet"},
    "discriminator": {"patchgan": "gantk.nets.discriminators:PatchGAN"},
    "loss": {
        "bce": "gantk.losses.adversarial:BCE",
        "ls": "gantk.losses.adversarial:LS",
        "l1": "gantk.losses.reconstruction:L1",
        "l2": "gantk.losses.reconstruction:L2",
        "cycle": "gantk.losses.reconstruction:Cycle",
        "identity": "gantk.losses.reconstruction:Identity",
        "local_ncc": "gantk.losses.structure:LocalNCC",
        "edge_direction": "gantk.losses.edges:EdgeDirection",
        "flat_region": "gantk.losses.structure:FlatRegion",
        "hinge": "gantk.losses.adversarial:Hinge",
        "wgan_gp": "gantk.losses.adversarial:WGANGP",
        "ssim": "gantk.losses.ssim:SSIM",
    },
    "source": {
        "folders": "gantk.data.sources.folders:Folders",
        "images": "gantk.data.sources.images:Images",
        "aligned": "gantk.data.sources.aligned:Aligned",
        "contrasts": "gantk.data.sources.contrasts:Contrasts",
        "nifti": "gantk.data.sources.nifti:Nifti",
        "manifest": "gantk.data.sources.table:Manifest",
        "mixed": "gantk.data.sources.mixed:Mixed",
    },
    "format": {
        "picture": "gantk.formats.pictures:Picture",
        "nifti": "gantk.formats.nifti:Nifti",
        "nrrd": "gantk.formats.itk:Nrrd",
        "metaimage": "gantk.formats.itk:MetaImage",
        "array": "gantk.data.arrays:Array",
    },
    "intensity": {
        "percentile": "gantk.data.intensity:Percentile",
        "minmax": "gantk.data.intensity:MinMax",
        "zscore": "gantk.data.intensity:ZScore",
    },
    "metric": {
        "psnr": "gantk.metrics.pairs:PSNR",
        "ssim": "gantk.metrics.pairs:SSIM",
        "mae": "gantk.metrics.pairs:MAE",
        "rmse": "gantk.metrics.pairs:RMSE",
        "nrmse": "gantk.metrics.pairs:NRMSE",
        "kid": "gantk.metrics.sets:Kid",
    },
    "features": {"random": "gantk.metrics.features:RandomConv"},
    "optimizer": {
        "adam": "gantk.training.optim:adam",
        "sgd": "gantk.training.optim:sgd",
        "adamw": "gantk.training.optim:adamw",
        "rmsprop": "gantk.training.optim:rmsprop",
        "lbfgs": "gantk.training.optim:lbfgs",
    },
    "schedule": {
        "constant": "gantk.training.optim:Constant",
        "linear": "gantk.training.optim:Linear",
        "cosine": "gantk.training.optim:Cosine",
        "warmup": "gantk.training.optim:Warmup",
    },
    "exporter": {"onnx": "gantk.exports.onnx.exporter:Onnx"},
}


@hookimpl
def gantk_register(add) -> None:
    """Register the parts above."""
    for kind, parts in PARTS.items():
        for name, target in parts.items():
            getattr(add, kind)(name, target)
