"""CycleGAN: unpaired image-to-image translation using cycle-consistent adversarial networks (Zhu et al., ICCV 2017)."""

from __future__ import annotations

from gantk.losses.structure import NO_STRUCTURE, StructureTerms
from gantk.method import Geometry
from gantk.plugin.spec import AdversarialLoss, Augment, Discriminator, Generator
from gantk.training.two_way import CycleMethod, Terms


class CycleGAN(CycleMethod):
    """Unpaired two-way translation: adversarial + cycle + identity losses, an image pool of 50 (Zhu et al. 2017).

    The paper's weights are cycle 10 and identity 5, half of it; structure losses are additions, 0 = the paper.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "resnet",
        discriminator: Discriminator = "patchgan",
        adversarial: AdversarialLoss = "ls",
        cycle: float = 10.0,  # weight of the L1 cycle loss, both ways
        identity: float = 5.0,  # weight of the L1 identity loss; needs as many channels in as out
        structure: StructureTerms = NO_STRUCTURE,
        pool: int = 50,  # earlier fakes that the discriminators are shown too; 0 = none
        defense: float = 0.0,  # deviation of noise on fakes before they are brought back: nothing can be hidden in them
        low_res_warmup: float = 0.0,  # share of the steps that come first, at half the size
        augment: list[Augment] = [],  # differentiable changes of all that the discriminators see, for small data sets
        adapt: float = 0.0,  # apply `augment` only as far as discriminators overfit: 0.6 usual, 0 = always
        lesion: float = 1.0,  # weight of a lesion's pixels in cycle and identity losses; other than 1 needs data.mask
    ):
        terms = Terms(
            cycle,
            cycle,
            identity,
            **vars(structure),
            defense=defense,
            lesion=lesion,
            augments=augment,
            adapt=adapt,
        )
        super().__init__(
            geometry,
            generator=generator,
            discriminator=discriminator,
            adversarial=adversarial,
            terms=terms,
            pool=pool,
            low_res_warmup=low_res_warmup,
        )
