"""Back-translation: unpaired fine-tuning of trained generators without a discriminator."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from gantk.method import Batch, Geometry, Losses, Method, Phase, Stage
from gantk.plugin.spec import Augment, Generator, Loss, Share

AIR_SHARE = 0.05  # share of the range above black; darker pixels keep their gray level


class BackTranslation(Method):
    """Unpaired two-way translation, trained on pairs that the generators of `train.start` generate
    (Sennrich et al. 2016, sec. 3.2).

    A frozen copy of the starting `g_ba` translates a real image of `b` to `a`, and `g_ab` learns to
    restore the real image from it. The other direction works in the same way. The target is always
    a real image, and its input never changes: the generators cannot agree on a way to hide
    information, and no discriminator rewards invented structures. Untrained starting networks learn
    nothing. Each direction is a separate phase, `g_ab` or `g_ba`, so `train.optimizers` may set
    different learning rates.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",  # generator, the same as in `train.start`
        reconstruction: Loss = "l1",  # loss between a restored image and the real one
        # probability that an input's histogram is matched to that of a real image
        match: Share = 0.7,
        # random changes of the inputs, because a translation is smoother than a scan
        vary: list[Augment] = [],
    ):
        super().__init__(geometry)
        a = geometry.channels["a"]
        b = geometry.channels["b"]
        dims = geometry.dims
        self.g_ab = generator(a, b, dims)
        self.g_ba = generator(b, a, dims)
        self.start_ab = freeze(generator(a, b, dims))
        self.start_ba = freeze(generator(b, a, dims))
        self.register_buffer("begun", torch.zeros(()))  # 1 once these two have the starting weights
        self.compare = reconstruction()
        self.match = match
        self.vary = [change(dims) for change in vary]

    def phases(self) -> list[Phase]:
        """One phase for each direction."""
        ways = (("g_ab", self.g_ab, "b"), ("g_ba", self.g_ba, "a"))
        return [
            Phase(name, (network,), partial(self.loss_of, to), ema=True)
            for name, network, to in ways
        ]

    def begin(self, stage: Stage, batch: Batch) -> None:
        """Copy the generators' weights into the frozen ones before the first step."""
        if not self.begun:
            self.start_ab.load_state_dict(self.g_ab.state_dict())
            self.start_ba.load_state_dict(self.g_ba.state_dict())
            self.begun.fill_(1.0)

    def loss_of(self, to: str, batch: Batch) -> Losses:
        """The loss between real images of domain `to` and their translation to the other domain and
        back.
        """
        made = self.back_translate(to, batch)
        back = self.g_ab if to == "b" else self.g_ba
        return {f"back_{to}": self.compare(back(made), batch[to])}

    @torch.no_grad()
    def back_translate(self, to: str, batch: Batch) -> Tensor:
        """Translate real images of domain `to` to the other one by the frozen generators, and
        change them randomly.
        """
        # in eval mode, as `translate` is: no dropout, and the norms' statistics of the start
        generator = self.start_ba if to == "b" else self.start_ab
        made = generator.eval()(batch[to])
        if self.match:
            low, high = self.geometry.range
            air = low + AIR_SHARE * (high - low)
            real = batch["a" if to == "b" else "b"]
            shape = (len(made), *[1] * (made.ndim - 1))
            chosen = torch.rand(shape, device=made.device) < self.match
            matched = match_histogram(made.float(), real.float(), air)
            made = torch.where(chosen, matched, made)

        for change in self.vary:
            made = change(made)

        return made


def match_histogram(image: Tensor, real: Tensor, air: float) -> Tensor:
    """Match the histogram of each image's channels to those of the real image; pixels up to `air`
    are left out.

    The real image may show another anatomy, but pairs where it is nearly all air stay unchanged.
    """
    pixels, levels = (each.flatten(0, 1).flatten(1) for each in (image, real))
    levels = levels.sort(dim=1).values
    rank = pixels.argsort(dim=1).argsort(dim=1)
    last = pixels.shape[1] - 1
    dark, darker = ((x <= air).sum(dim=1, keepdim=True).clamp(max=last) for x in (pixels, levels))
    # 0 for the darkest tissue, 1 for the brightest
    share = (rank - dark).clamp(min=0) / (last - dark).clamp(min=1)
    moved = levels.gather(1, darker + (share * (last - darker)).long())
    return torch.where((pixels > air) & (last - darker > AIR_SHARE * last), moved, pixels).view_as(
        image
    )


def freeze(network: nn.Module) -> nn.Module:
    """Turn a network's parameters into buffers, and return it: saved with a run, not trained, not
    in `train.start`.
    """
    for module in network.modules():
        for name, weight in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, weight.detach())
    return network
