"""Back-translation: unpaired fine-tuning without a discriminator, for generators that translate already."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from gantk.method import Batch, Geometry, Method, Phase, Stage
from gantk.plugin.spec import Augment, Generator, Loss, Share

AIR = 0.05  # of the range above black: what is darker keeps its gray level


class BackTranslation(Method):
    """Unpaired two-way translation by pairs that the generators of `train.start` make (Sennrich et al. 2016, sec. 3.2).

    A real image of `b` goes to `a` by `g_ba` as it was at the start, and `g_ab` learns to make the real one of that;
    and the other way round. The truth is always a real image, and what it is made from never changes: the generators
    cannot agree on a way to hide things, and no discriminator asks for what is not there. Networks that begin with
    nothing learn nothing here. Each direction is a phase of its own, `g_ab` or `g_ba`: `train.optimizers` may give
    them different rates.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",  # as `train.start` has it
        reconstruction: Loss = "l1",  # what tells an image that was brought back from the real one
        match: Share = 0.7,  # chance that what is brought back has its gray levels moved to those of a real image
        vary: list[Augment] = [],  # random changes of what is brought back: a translation is smoother than a scan
    ):
        super().__init__(geometry)
        a, b, dims = geometry.channels["a"], geometry.channels["b"], geometry.dims
        self.g_ab, self.g_ba = generator(a, b, dims), generator(b, a, dims)
        self.start_ab, self.start_ba = frozen(generator(a, b, dims)), frozen(generator(b, a, dims))
        self.register_buffer("begun", torch.zeros(()))  # whether these two have the start's weights
        self.compare, self.match, self.vary = reconstruction(), match, [change(dims) for change in vary]

    def phases(self) -> list[Phase]:
        """One for each direction."""
        ways = (("g_ab", self.g_ab, "b"), ("g_ba", self.g_ba, "a"))
        return [Phase(name, (network,), partial(self.loss_of, to), ema=True) for name, network, to in ways]

    def begin(self, stage: Stage, batch: Batch) -> None:
        """Keep the generators as they are before the first step."""
        if not self.begun:
            self.start_ab.load_state_dict(self.g_ab.state_dict())
            self.start_ba.load_state_dict(self.g_ba.state_dict())
            self.begun.fill_(1.0)

    def loss_of(self, to: str, batch: Batch) -> dict[str, Tensor]:
        """How far real images of domain `to` are from what the way there, by the start, and back made of them."""
        made = self.shown(to, batch)
        back = self.g_ab if to == "b" else self.g_ba
        return {f"back_{to}": self.compare(back(made), batch[to])}

    @torch.no_grad()
    def shown(self, to: str, batch: Batch) -> Tensor:
        """Real images of domain `to` in the other domain, by the start, with the random changes."""
        made = self.start_ba(batch["b"]) if to == "b" else self.start_ab(batch["a"])
        if self.match:
            low, high = self.geometry.range
            real = batch["a" if to == "b" else "b"]
            chosen = torch.rand(len(made), *[1] * (made.ndim - 1), device=made.device) < self.match
            made = torch.where(chosen, matched(made.float(), real.float(), low + AIR * (high - low)), made)
        for change in self.vary:
            made = change(made)
        return made

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Images of `a` as `b`, or of `b` as `a`."""
        return self.g_ab(image) if to == "b" else self.g_ba(image)


def matched(image: Tensor, real: Tensor, air: float) -> Tensor:
    """Each image with the gray levels of the real image beside it, pixels up to `air` left out on both sides.

    The order of an image's pixels stays: a histogram matching. Another anatomy than the image's will do, but not one
    that is nearly all air.
    """
    pixels, levels = image.flatten(1), real.flatten(1).sort(dim=1).values
    rank, last = pixels.argsort(dim=1).argsort(dim=1), pixels.shape[1] - 1
    dark, darker = ((x <= air).sum(dim=1, keepdim=True).clamp(max=last) for x in (pixels, levels))
    share = (rank - dark).clamp(min=0) / (last - dark).clamp(min=1)  # 0 for the darkest tissue, 1 for the brightest
    moved = levels.gather(1, darker + (share * (last - darker)).long())
    return torch.where((pixels > air) & (last - darker > AIR * last), moved, pixels).view_as(image)


def frozen(network: nn.Module) -> nn.Module:
    """The network with its weights as buffers: saved with a run, and neither trained nor looked for in a start."""
    for module in network.modules():
        for name, weight in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, weight.detach())
    return network
