"""DualGAN: unsupervised dual learning for image-to-image translation (Yi et al., ICCV 2017)."""

from __future__ import annotations

from gantk.method import Geometry
from gantk.plugin.spec import AdversarialLoss, Discriminator, Generator, Number, Weight
from gantk_translation.additions import PUBLISHED_TWO_WAY, TwoWayOptions
from gantk_translation.cyclegan import CycleGAN


class DualGAN(CycleGAN):
    """Unpaired two-way translation by dual learning: adversarial + L1 reconstruction losses in both
    directions (Yi et al. 2017).

    The paper uses a Wasserstein critic and U-Nets with dropout as the only noise. The default
    least-squares loss is that of the T1/T2 systems. Structure losses are additions; 0 = the paper.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",  # both generators
        discriminator: Discriminator = "patchgan",  # both discriminators
        adversarial: AdversarialLoss = "ls",  # adversarial loss
        # weight of the L1 reconstruction in both directions (lambda_U = lambda_V)
        cycle: Weight = 10.0,
        # weight of the identity loss (L1); 0 = the paper, which has none
        identity: Weight = 0.0,
        pool: Number = 0,  # size of the pool of earlier fakes for the discriminators; 0 = the paper
        further: TwoWayOptions = PUBLISHED_TWO_WAY,
    ):
        super().__init__(
            geometry,
            generator=generator,
            discriminator=discriminator,
            adversarial=adversarial,
            cycle=cycle,
            identity=identity,
            pool=pool,
            further=further,
        )
