"""Options of unpaired methods: those that they share, and those of CycleGAN and DualGAN."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from gantk import DiscriminatorAugment
from gantk.losses.structure import StructureTerms
from gantk.method import Stage
from gantk.plugin.spec import Augment, Fraction, Kind, Loss, Part, Share, Weight

PairFinder = Annotated[Part, Kind("loss", takes="matches")]


@dataclass(frozen=True, kw_only=True)
class Additions(StructureTerms):
    """Options of unpaired methods beyond their papers; all are off unless a recipe sets them."""

    # share of the steps at half the size, trained first: a patch of the discriminator then covers
    # the whole head, which settles how bright each tissue becomes
    low_res_warmup: Share = 0.0
    # differentiable changes of all images that discriminators see
    augment: list[Augment] = field(default_factory=list)
    # apply `augment` only as much as discriminators overfit; 0.6 is usual, 0 = always
    adapt: Fraction = 0.0

    def discriminator_augment(self, dims: int, adversarial: Any) -> DiscriminatorAugment:
        """The augmentation for one discriminator that is trained with the loss `adversarial`."""
        return DiscriminatorAugment(self.augment, dims, self.adapt, adversarial)


@dataclass(frozen=True, kw_only=True)
class TwoWayOptions(Additions):
    """Options of two-way methods beyond their papers, and the losses of cycle and identity."""

    # loss between an image and its translation there and back; `cycle` is its weight
    cycle_loss: Loss = "cycle"
    # loss between an image of the target domain and its translation; `identity` is its weight
    identity_loss: Loss = "identity"
    # standard deviation of noise on generated images before they are translated back
    defense: Weight = 0.0
    # weight of lesion pixels in cycle and identity losses; values other than 1 need data.mask
    lesion: Weight = 1.0
    # matches similar images of the other domain and compares outputs with them
    pairs: PairFinder | None = None
    # apply `source_losses` in the half-size steps of `low_res_warmup` too
    source_losses_in_warmup: bool = True


# as in the papers
PUBLISHED = Additions()
PUBLISHED_TWO_WAY = TwoWayOptions()


def low_res_stages(size: tuple[int, ...], steps: int, share: float) -> list[Stage]:
    """The stages of a training: the first `share` of the steps at half the size, the others at
    `size`.
    """
    first = round(share * steps)
    whole = Stage("main", steps - first, size)
    return [Stage("low_res", first, tuple(side // 2 for side in size)), whole] if first else [whole]
