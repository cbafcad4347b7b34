"""Names that other toolkits and papers give to parts of gantk: they only feed the suggestion of an
error, and a recipe cannot use them.
"""

from __future__ import annotations

from collections.abc import Collection

from gantk.errors import did_you_mean

# kind -> name elsewhere -> names here; "method cut" is a part of another kind.
# Spelled as after `_spelling`: small letters, underscores.
OTHER_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "loss": {
        "lsgan": ("ls",),
        "lsgan_loss": ("ls",),
        "least_squares": ("ls",),
        "mse": ("l2", "ls"),
        "mse_loss": ("l2", "ls"),
        "mean_squared_error": ("l2", "ls"),
        "l2_loss": ("l2",),
        "mae": ("l1",),
        "mean_absolute_error": ("l1",),
        "l1_loss": ("l1",),
        "gan": ("bce",),
        "vanilla": ("bce",),
        "nsgan": ("bce",),
        "non_saturating": ("bce",),
        "cross_entropy": ("bce",),
        "binary_cross_entropy": ("bce",),
        "bce_with_logits": ("bce",),
        "bcewithlogits": ("bce",),
        "hinge_gan": ("hinge",),
        "hinge_loss": ("hinge",),
        "wgan": ("wgan_gp",),
        "wgangp": ("wgan_gp",),
        "wasserstein": ("wgan_gp",),
        "vgg": ("feature",),
        "vgg16": ("feature",),
        "vgg19": ("feature",),
        "perceptual": ("feature",),
        "lpips": ("feature",),
        "content": ("feature",),
        "style": ("gram",),
        "gram_matrix": ("gram",),
        "ncc": ("local_ncc",),
        "lncc": ("local_ncc",),
        "cycle_consistency": ("cycle",),
        "idt": ("identity",),
        "dssim": ("ssim",),
        "ms_ssim": ("ssim",),
        "nce": ("method cut",),
        "patchnce": ("method cut",),
        "patch_nce": ("method cut",),
    },
    "generator": {
        "unet_128": ("unet",),
        "unet_256": ("unet",),
        "u_net": ("unet",),
        "unet3d": ("unet",),
        "resnet_6blocks": ("resnet",),
        "resnet_9blocks": ("resnet",),
        "resnet9": ("resnet",),
        "att_unet": ("attention_unet",),
        "attunet": ("attention_unet",),
    },
    "discriminator": {
        "basic": ("patchgan",),
        "n_layers": ("patchgan",),
        "nlayers": ("patchgan",),
        "pixel": ("patchgan",),
        "patch": ("patchgan",),
        "multiscale": ("munit",),
        "multi_scale": ("munit",),
    },
    "method": {
        "cycle_gan": ("cyclegan",),
        "pix2pixhd": ("pix2pix",),
        "contrastive": ("cut",),
        "fastcut": ("cut",),
        "neural_style": ("style",),
        "gatys": ("style",),
        "paired_cyclegan": ("style_gan",),
        "pggan": ("progan",),
        "progressive_gan": ("progan",),
        "mm_gan": ("anytoany",),
    },
    "schedule": {
        "lambda": ("linear",),
        "cosine_annealing": ("cosine",),
        "none": ("constant",),
    },
    "augment": {
        "flip": ("hflip",),
        "rotation": ("rotate",),
        "gamma": ("curve",),
        "jitter": ("brightness",),
        "bias": ("bias_field",),
    },
    "metric": {
        "mse": ("rmse",),
        "l1": ("mae",),
        "l2": ("rmse",),
        "is": ("fid",),
        "inception": ("fid",),
    },
    "source": {
        "unaligned": ("folders",),
        "single": ("images",),
        "paired": ("aligned",),
        "csv": ("manifest",),
    },
}


def suggest_name(kind: str, name: str, names: Collection[str]) -> str | None:
    """`Did you mean 'ls'?` for a name that another toolkit gives to one of `names`, or with the
    closest spelling; None where nothing is close.
    """
    known = OTHER_NAMES.get(kind, {}).get(_spelling(name), ())
    own = [each for each in known if each in names]
    of_other_kinds = [each.split() for each in known if " " in each]
    meant = [f"'{each}'" for each in own]
    meant += [f"the {other_kind} '{other}'" for other_kind, other in of_other_kinds]
    if meant:
        return f"Did you mean {' or '.join(meant)}?"
    return did_you_mean(name, names)


def _spelling(name: str) -> str:
    return name.strip().lower().replace("-", "_").replace(" ", "_")
