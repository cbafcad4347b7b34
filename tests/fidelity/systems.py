"""Published systems in a small form: their own recipes with fewer filters, so that a test builds and
trains them in a moment.
"""

import torch

from gantk.method import Geometry, Method, domain_letters
from gantk.recipe.load import load_recipe

SMALL = {
    "cyclegan_t1t2_unet15": ["method.generator.width=4", "method.discriminator.width=4"],
    "dualgan_t1t2_unet15": ["method.generator.width=4", "method.discriminator.width=4"],
    "cyclegan_t1t2_64": ["method.generator.width=4", "method.discriminator.width=4"],
    "cyclegan_t1t2_256": ["method.generator.width=4", "method.discriminator.width=4"],
    "cyclegan_ct_mr": [
        "method.generator.width=4",
        "method.discriminator.width=4",
        "data.size=[32, 32]",
    ],
    "cyclegan_ct_mr_resnet9": [
        "method.generator.width=4",
        "method.discriminator.width=4",
        "data.size=[32, 32]",
    ],
    "dcgan_tumour": [
        "method.width=4",
        "method.latent=8",
        "method.discriminator.width=4",
        "data.size=[64, 64]",
    ],
    "pix2pix_tumour": [
        "method.generator.width=4",
        "method.discriminator.width=4",
        "data.size=[32, 32]",
    ],
    "progan_tumour": ["method.latent=8", "method.base=16", "method.width=8", "data.size=[16, 16]"],
    "style_gan_tumour": [
        "method.generator.width=4",
        "method.discriminator.width=4",
        "data.size=[32, 32]",
    ],
}


def recipe_of(name: str, *settings: str):
    """The checked recipe of a published system, with further settings."""
    recipe = load_recipe(name)
    return recipe.override(list(settings)).check()


def small_model(name: str, *settings: str):
    """The recipe of a system with fewer filters, and with further settings."""
    return recipe_of(name, *SMALL[name], *settings)


def channels_of(data) -> dict[str, int]:
    """The channels of each domain: one for each contrast."""
    names = zip(domain_letters(data.domains), data.domains, strict=True)
    return {letter: len(name.split("+")) for letter, name in names}


def build(model) -> Method:
    """A recipe's method on the CPU, its weights drawn from seed 0."""
    data = model.data
    classes = ("healthy", "tumour") if data.labels else ()
    torch.manual_seed(0)
    return model.method(
        Geometry(data.dims, data.size, channels_of(data), classes, tuple(data.intensity().range))
    )
