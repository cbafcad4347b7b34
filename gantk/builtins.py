"""What the core itself offers, through the same hook as everyone. Strings are imported at first use."""

from __future__ import annotations

from gantk.hookspecs import hookimpl

PARTS = {
    "generator": {
        "unet": "gantk.nets.unet:UNet",
        "resnet": "gantk.nets.resnet:ResNet",
        "attention_unet": "gantk.nets.attention_unet:AttentionUNet",
    },
    "discriminator": {"patchgan": "gantk.nets.patchgan:PatchGAN", "dcgan": "gantk.nets.dcgan:DCGANDiscriminator"},
    "loss": {
        "bce": "gantk.losses.adversarial:BCE",
        "ls": "gantk.losses.adversarial:LS",
        "hinge": "gantk.losses.adversarial:Hinge",
        "wgan_gp": "gantk.losses.adversarial:WGANGP",
        "l1": "gantk.losses.reconstruction:L1",
        "cycle": "gantk.losses.reconstruction:Cycle",
        "identity": "gantk.losses.reconstruction:Identity",
        "structure": "gantk.losses.structure:Structure",
        "flatness": "gantk.losses.structure:Flatness",
        "gram": "gantk.losses.gram:GramStyle",
    },
    "source": {
        "phantom": "gantk.data.phantom:Phantom",
        "folders": "gantk.data.sources:Folders",
        "aligned": "gantk.data.sources:Aligned",
        "images": "gantk.data.images:Images",
        "contrasts": "gantk.data.contrasts:Contrasts",
        "nifti": "gantk.data.nifti_source:Nifti",
        "dicom": "gantk.data.dicom.source:Dicom",
        "bids": "gantk.data.bids:Bids",
        "manifest": "gantk.data.manifest:Manifest",
    },
    "intensity": {
        "percentile": "gantk.data.intensity:Percentile",
        "minmax": "gantk.data.intensity:MinMax",
        "zscore": "gantk.data.intensity:ZScore",
        "nyul": "gantk.data.nyul:Nyul",
        "window": "gantk.data.intensity:Window",
        "unit": "gantk.data.intensity:Unit",
    },
    "augment": {
        "hflip": "gantk.data.augment:HFlip",
        "vflip": "gantk.data.augment:VFlip",
        "rot90": "gantk.data.augment:Rot90",
        "rotate": "gantk.data.augment:Rotate",
        "affine": "gantk.data.augment:Affine",
        "crop": "gantk.data.augment:Crop",
        "translate": "gantk.data.augment:Translate",
        "cutout": "gantk.data.augment:Cutout",
        "brightness": "gantk.data.augment:Brightness",
        "contrast": "gantk.data.augment:Contrast",
        "noise": "gantk.data.augment:Noise",
    },
    "metric": {
        "psnr": "gantk.metrics.pairs:PSNR",
        "ssim": "gantk.metrics.structural:SSIM",
        "ms_ssim": "gantk.metrics.structural:MSSSIM",
        "lpips": "gantk.metrics.perceptual:LPIPS",
        "mae": "gantk.metrics.pairs:MAE",
        "rmse": "gantk.metrics.pairs:RMSE",
        "nrmse": "gantk.metrics.pairs:NRMSE",
        "kid": "gantk.metrics.sets:Kid",
        "fid": "gantk.metrics.sets:Fid",
        "prdc": "gantk.metrics.neighbours:Prdc",
        "diversity": "gantk.metrics.diversity:Diversity",
        "classification": "gantk.metrics.task:Classification",
        "two_sample": "gantk.metrics.task:TwoSample",
        "segmentation": "gantk.metrics.segmentation:Segmentation",
    },
    "optimizer": {
        "adam": "gantk.optim:adam",
        "adamw": "gantk.optim:adamw",
        "rmsprop": "gantk.optim:rmsprop",
        "sgd": "gantk.optim:sgd",
        "lbfgs": "gantk.optim:lbfgs",
    },
    "schedule": {
        "constant": "gantk.optim:Constant",
        "linear": "gantk.optim:Linear",
        "cosine": "gantk.optim:Cosine",
        "warmup": "gantk.optim:Warmup",
    },
}


@hookimpl
def gantk_register(add) -> None:
    """Register the parts above."""
    for kind, parts in PARTS.items():
        for name, target in parts.items():
            getattr(add, kind)(name, target)
