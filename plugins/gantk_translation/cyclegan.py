"""CycleGAN: unpaired image-to-image translation using cycle-consistent adversarial networks (Zhu et
al., ICCV 2017).
"""

from __future__ import annotations

from gantk.method import Geometry
from gantk.plugin.spec import AdversarialLoss, Discriminator, Generator, Number, Weight
from gantk_translation.two_way import PUBLISHED_TWO_WAY, CycleMethod, TwoWayOptions


class CycleGAN(CycleMethod):
    """Unpaired two-way translation: adversarial + cycle + identity losses, an image pool of 50 (Zhu
    et al. 2017).

    The paper's weights are cycle 10 and identity 5. Structure losses are additions; 0 = the paper.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "resnet",  # both generators
        discriminator: Discriminator = "patchgan",  # both discriminators
        adversarial: AdversarialLoss = "ls",  # adversarial loss
        cycle: Weight = 10.0,  # weight of the cycle loss (L1), in both directions
        # weight of the identity loss (L1); needs domains with equal numbers of channels
        identity: Weight = 5.0,
        pool: Number = 50,  # size of the pool of earlier fakes for the discriminators; 0 = none
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
