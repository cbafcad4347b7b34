"""Further parts for recipes: networks, losses, augmentations, intensity mappings and post-steps."""

from gantk import hookimpl

# name in recipes -> class in gantk_parts.augment
AUGMENTATIONS = {
    "hflip": "HFlip",
    "vflip": "VFlip",
    "rot90": "Rot90",
    "affine": "Affine",
    "rotate": "Rotate",
    "translate": "Translate",
    "crop": "Crop",
    "brightness": "Brightness",
    "contrast": "Contrast",
    "noise": "Noise",
    "curve": "Curve",
    "bias_field": "BiasField",
    "blur": "Blur",
}

# names of augmentations in other toolkits
ALSO = {
    "hflip": ("flip",),
    "rotate": ("rotation",),
    "curve": ("gamma",),
    "brightness": ("jitter",),
    "bias_field": ("bias",),
}


@hookimpl
def gantk_register(add) -> None:
    """Register the parts under the names that recipes use."""
    for name, cls in AUGMENTATIONS.items():
        plan = "gantk_parts.planning:plan_augments" if name == "hflip" else ""
        add.augment(name, f"gantk_parts.augment:{cls}", also=ALSO.get(name, ()), plan=plan)

    add.generator(
        "attention_unet",
        "gantk_parts.attention_unet:AttentionUNet",
        also=("att_unet", "attunet"),
        small={"width": 4, "depth": 2},
    )
    add.loss("body_l1", "gantk_parts.body_l1:BodyL1")
    add.intensity("nyul", "gantk_parts.nyul:Nyul")
    add.intensity("unit", "gantk_parts.nyul:Unit")
    windows = "gantk_parts.planning:plan_windows"
    add.intensity("ct", "gantk_parts.ct.intensity:Windows", plan=windows)
    add.intensity("domains", "gantk_parts.ct.intensity:Domains")
    add.loss("correlation_ratio", "gantk_parts.ct.loss:CorrelationRatio")
    add.metric(
        "mae_hu",
        "gantk_parts.ct.metric:HounsfieldMAE",
        words={
            "mae_hu": (
                "Mean absolute error in Hounsfield units (MAE in HU)",
                "The average difference from the real CT per pixel, in Hounsfield units.",
            )
        },
    )
    add.metric(
        "psnr_hu",
        "gantk_parts.ct.metric:HounsfieldPSNR",
        words={
            "psnr_hu": (
                "Peak signal-to-noise ratio in Hounsfield units (PSNR in HU)",
                "How small the error of a synthetic CT is, in decibels, over a fixed range of HU.",
            )
        },
    )
    add.post("bias_field", "gantk_parts.post.bias_field:InputBiasField")
    add.post("bright_end", "gantk_parts.post.bright_end:BrightEnd")
