"""The parts of the core, registered through the same hook as plugins' parts. Targets are imported
at first use.
"""

from __future__ import annotations

from gantk.plugin.hookspecs import hookimpl
from gantk.plugin.layout import DATA_SETS, GENERAL

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
        "edge_direction": "gantk.losses.structure:EdgeDirection",
        "hinge": "gantk.losses.adversarial:Hinge",
        "wgan_gp": "gantk.losses.adversarial:WGANGP",
        "ssim": "gantk.losses.ssim:SSIM",
    },
    "source": {
        "files": "gantk.data.sources.files:Files",
        "aligned": "gantk.data.sources.aligned:Aligned",
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
        "window": "gantk.data.intensity:Window",
    },
    "metric": {
        "psnr": "gantk.metrics.pairs:PSNR",
        "ssim": "gantk.metrics.pairs:SSIM",
        "mae": "gantk.metrics.pairs:MAE",
        "rmse": "gantk.metrics.pairs:RMSE",
        "nrmse": "gantk.metrics.pairs:NRMSE",
        "kid": "gantk.metrics.sets:Kid",
    },
    "features": {"random": "gantk.metrics.sets:RandomConv"},
    "optimizer": {
        "adam": "gantk.training.optim:adam",
        "sgd": "gantk.training.optim:sgd",
        "adamw": "gantk.training.optim:adamw",
        "rmsprop": "gantk.training.optim:rmsprop",
    },
    "schedule": {
        "constant": "gantk.training.optim:Constant",
        "linear": "gantk.training.optim:Linear",
        "cosine": "gantk.training.optim:Cosine",
    },
    "exporter": {"onnx": "gantk.exports.onnx.exporter:Onnx"},
}
# names in other toolkits, by kind and name here
ALSO = {
    ("loss", "bce"): (
        *("gan", "vanilla", "nsgan", "non_saturating", "cross_entropy", "binary_cross_entropy"),
        *("bce_with_logits", "bcewithlogits"),
    ),
    ("loss", "ls"): (
        *("lsgan", "lsgan_loss", "least_squares", "mse", "mse_loss", "mean_squared_error"),
    ),
    ("loss", "l1"): ("mae", "mean_absolute_error", "l1_loss"),
    ("loss", "l2"): ("mse", "mse_loss", "mean_squared_error", "l2_loss"),
    ("loss", "cycle"): ("cycle_consistency",),
    ("loss", "identity"): ("idt",),
    ("loss", "edge_direction"): ("outline",),
    ("loss", "hinge"): ("hinge_gan", "hinge_loss"),
    ("loss", "wgan_gp"): ("wgan", "wgangp", "wasserstein"),
    ("loss", "ssim"): ("dssim",),
    ("generator", "unet"): ("unet_128", "unet_256", "u_net", "unet3d"),
    ("generator", "resnet"): ("resnet_6blocks", "resnet_9blocks", "resnet9"),
    ("discriminator", "patchgan"): ("basic", "n_layers", "nlayers", "pixel", "patch"),
    ("schedule", "linear"): ("lambda",),
    ("schedule", "cosine"): ("cosine_annealing",),
    ("schedule", "constant"): ("none",),
    ("metric", "mae"): ("l1",),
    ("metric", "rmse"): ("mse", "l2"),
    ("source", "files"): ("unaligned", "single", "folders", "images"),
    ("source", "aligned"): ("paired",),
    ("source", "manifest"): ("csv",),
}
# plain name of a score, and what it says
WORDS = {
    "psnr": (
        "Peak signal-to-noise ratio (PSNR)",
        "How small the error is, in decibels; 1 dB more means about a fifth less squared error.",
    ),
    "ssim": (
        "Structural similarity (SSIM)",
        "How well edges and contrast agree with the real image; 1 means equal images.",
    ),
    "mae": (
        "Mean absolute error (MAE)",
        "The average difference from the real image per pixel; 0 means equal images. `of range 2`: from black"
        " to white it is 2, or 100 % of the range.",
    ),
    "rmse": (
        "Root mean square error (RMSE)",
        "The typical difference from the real image; large errors count more. `of range 2`: from black to"
        " white it is 2, or 100 % of the range.",
    ),
    "nrmse": (
        "Root mean square error as a share of the range (NRMSE)",
        "The typical difference from the real image as a share of the intensity range.",
    ),
    "kid": (
        "Kernel distance of image features (KID)",
        "How far the generated images as a set are from the real ones; 0 means the same set; a little below 0 is chance.",
    ),
}
# options for tests that take seconds
SMALL = {
    "unet": {"width": 4, "depth": 2},
    "resnet": {"width": 4, "blocks": 1},
    "patchgan": {"width": 4, "layers": 3},
}


@hookimpl
def gantk_register(add) -> None:
    """Register the parts above."""
    for kind, parts in PARTS.items():
        for name, target in parts.items():
            words = {name: WORDS[name]} if kind == "metric" else {}
            also = ALSO.get((kind, name), ())
            section = "Sets of images" if name == "kid" else ""
            about = {"words": words, "small": SMALL.get(name, {}), "section": section}
            getattr(add, kind)(name, target, also=also, **about)
    for name, layout in (DATA_SETS | GENERAL).items():
        add.layout(name, layout)
