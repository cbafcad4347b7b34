"""DualGAN: unsupervised dual learning for image-to-image translation (Yi et al., ICCV 2017)."""

from __future__ import annotations

from gantk.losses.structure import NO_STRUCTURE, StructureTerms
from gantk.method import Geometry
from gantk.plugin.spec import AdversarialLoss, Augment, Discriminator, Generator
from gantk.training.two_way import CycleMethod, Terms


class DualGAN(CycleMethod):
    """Unpaired two-way translation by dual learning: adversarial + L1 reconstruction both ways (Yi et al. 2017).

    The paper trains a Wasserstein critic and U-Nets with dropout, its only noise; the least-squares loss is what the
    T1/T2 systems use. Structure losses are additions, 0 = the paper.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",
        discriminator: Discriminator = "patchgan",
        adversarial: AdversarialLoss = "ls",
        cycle: float = 10.0,  # weight of the L1 reconstruction a -> b -> a (lambda_U)
        cycle_b: float | None = None,  # weight of b -> a -> b (lambda_V); None: the same
        structure: StructureTerms = NO_STRUCTURE,
        pool: int = 0,  # earlier fakes that the discriminators are shown too; 0 = the paper
        critic: int = 1,  # discriminator steps per generator step; 2 to 4 in the paper
        defense: float = 0.0,  # deviation of noise on fakes before they are brought back: nothing can be hidden in them
        low_res_warmup: float = 0.0,  # share of the steps that come first, at half the size
        augment: list[Augment] = [],  # differentiable changes of all that the discriminators see, for small data sets
        adapt: float = 0.0,  # apply `augment` only as far as discriminators overfit: 0.6 usual, 0 = always
        lesion: float = 1.0,  # weight of a lesion's pixels in the cycle losses; other than 1 needs data.mask
    ):
        terms = Terms(
            cycle,
            cycle if cycle_b is None else cycle_b,
            0.0,
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
            critic=critic,
            low_res_warmup=low_res_warmup,
        )
