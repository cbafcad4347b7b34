"""Back-translation: unpaired fine-tuning without a discriminator, for generators that translate already."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gantk.method import Batch, Geometry, Method, Phase, Stage
from gantk.plugin.spec import Augment, Generator, Loss


class BackTranslation(Method):
    """Unpaired two-way translation by pairs that the generators of `train.start` make (Sennrich et al. 2016, sec. 3.2).

    A real image of `b` goes to `a` by `g_ba` as it was at the start, and `g_ab` learns to make the real one of that;
    and the other way round. The truth is always a real image, and what it is made from never changes: the generators
    cannot agree on a way to hide things, and no discriminator asks for what is not there. Networks that begin with
    nothing learn nothing here.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",  # as `train.start` has it
        reconstruction: Loss = "l1",  # what tells an image that was brought back from the real one
        vary: list[Augment] = [],  # random changes of what is brought back: a translation is smoother than a scan
    ):
        super().__init__(geometry)
        a, b, dims = geometry.channels["a"], geometry.channels["b"], geometry.dims
        self.g_ab, self.g_ba = generator(a, b, dims), generator(b, a, dims)
        self.start_ab, self.start_ba = frozen(generator(a, b, dims)), frozen(generator(b, a, dims))
        self.register_buffer("begun", torch.zeros(()))  # whether these two have the start's weights
        self.compare, self.vary = reconstruction(), [change(dims) for change in vary]

    def phases(self) -> list[Phase]:
        """Both generators."""
        return [Phase("generators", (self.g_ab, self.g_ba), self.generator_losses, ema=True)]

    def begin(self, stage: Stage, batch: Batch) -> None:
        """Keep the generators as they are before the first step."""
        if not self.begun:
            self.start_ab.load_state_dict(self.g_ab.state_dict())
            self.start_ba.load_state_dict(self.g_ba.state_dict())
            self.begun.fill_(1.0)

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """How far each real image is from what the way there, by the start, and back made of it."""
        losses = {}
        for to, there, back in (("b", self.start_ba, self.g_ab), ("a", self.start_ab, self.g_ba)):
            with torch.no_grad():
                made = there(batch[to])
                for change in self.vary:
                    made = change(made)
            losses[f"back_{to}"] = self.compare(back(made), batch[to])
        return losses

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Images of `a` as `b`, or of `b` as `a`."""
        return self.g_ab(image) if to == "b" else self.g_ba(image)


def frozen(network: nn.Module) -> nn.Module:
    """The network with its weights as buffers: saved with a run, and neither trained nor looked for in a start."""
    for module in network.modules():
        for name, weight in [*module.named_parameters(recurse=False)]:
            delattr(module, name)
            module.register_buffer(name, weight.detach())
    return network
