"""How sure a translation is, pixel by pixel: how far its answers spread when what should not matter is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gantk.errors import UserError, did_you_mean
from gantk.method import Method

KINDS = ("auto", "flips", "dropout", "checkpoints", "cycle")
PASSES = 8  # networks that are drawn for "dropout"; more is smoother and slower
FLIPS = ((-1,), (-2,), (-1, -2))  # axes that are mirrored, columns and rows, alone and together
NEEDS = {
    "dropout": "networks that were trained with method.generator.dropout above 0",
    "cycle": "a way back from the target domain: a two-way method, such as cyclegan",
    "checkpoints": "several checkpoints: train.keep of 2 or more",
}


class Uncertain:
    """Uncertainty maps of a method's translations, in network intensities.

    - "flips": standard deviation over the image and its mirror images, each translated and mirrored back
      (test-time augmentation, Wang et al. 2019).
    - "dropout": standard deviation over networks, each with other units dropped (Gal and Ghahramani 2016, eq. 7-8);
      for networks that were trained with dropout.
    - "checkpoints": standard deviation over the run's kept checkpoints, an ensemble along the training
      (Huang et al. 2017).
    - "cycle": how far an image is from its translation brought back, for two-way methods.
    - "auto": flips, and for two-way methods cycle added to it: what found the errors best on phantoms.

    The same seed gives the same maps, whatever the batch; the global random generators are left as they were.
    """

    def __init__(self, kind: str = "auto", seed: int = 0):
        if kind not in KINDS:
            hint = did_you_mean(kind, KINDS)
            raise UserError(f"there is no uncertainty of the kind '{kind}'", allowed=KINDS, remedy=hint)
        self.kind, self.seed = kind, seed

    def chosen(self, method: Method) -> str:
        """The kind that is made: "auto" is "flips+cycle" where there is a way back, else "flips"."""
        two_way = "flips+cycle" if len(method.directions()) == 2 else "flips"
        return two_way if self.kind == "auto" else self.kind

    def check(self, method: Method, checkpoints: int) -> None:
        """UserError where a method, of which so many checkpoints will be kept, cannot have this kind."""
        had = {
            "flips": True,
            "dropout": bool(_dropout_layers(method)),
            "checkpoints": checkpoints > 1,
            "cycle": len(method.directions()) == 2,
        }
        if not had.get(self.kind, True):
            allowed = [kind for kind in had if had[kind]]
            raise UserError(f"{self.kind} needs {NEEDS[self.kind]}", where="uncertainty", allowed=allowed)

    @torch.no_grad()
    def maps(
        self, method: Method, to: str, image: Tensor, others: Sequence[Mapping[str, Tensor]] = ()
    ) -> tuple[Tensor, Tensor]:
        """The plain translation of images (N, C, *size) and its uncertainty, 0 or more: (N, D, *size), float32.

        `others` are other checkpoints' weights. UserError where the kind cannot be had. The translation is the one that
        is made without an uncertainty, to the bit.
        """
        self.check(method, 1 + len(others))

        def translate(x: Tensor) -> Tensor:
            return method.translate(x, to).float()

        def dropped() -> Iterator[Tensor]:
            generator = torch.Generator().manual_seed(self.seed)
            for _ in range(PASSES):
                with dropping(method, generator):
                    yield translate(image)

        def of_others() -> Iterator[Tensor]:
            own = {name: tensor.clone() for name, tensor in method.state_dict().items()}
            try:
                for weights in others:
                    method.load_state_dict(weights)
                    yield translate(image)
            finally:
                method.load_state_dict(own)

        plain, kind = translate(image), self.chosen(method)
        if kind == "cycle":
            spread = torch.zeros_like(plain)
        elif kind == "dropout":
            spread = torch.stack(list(dropped())).std(0)
        else:
            mirrored = (translate(image.flip(axes)).flip(axes) for axes in FLIPS)
            spread = torch.stack([plain, *(of_others() if kind == "checkpoints" else mirrored)]).std(0)
        if kind.endswith("cycle"):  # network intensities are the same in both domains: no factor is needed
            back = method.translate(plain.to(image.dtype), {"a": "b", "b": "a"}[to]).float()
            error = (back - image).abs()
            spread = spread + (error if error.shape == plain.shape else error.mean(1, keepdim=True))
        return plain, spread

    def network(
        self, method: Method, to: str, others: Sequence[Mapping[str, Tensor]] = ()
    ) -> Callable[[Tensor], Tensor]:
        """A function to the translations and, behind them as so many channels more, their uncertainty."""
        return lambda image: torch.cat(self.maps(method, to, image, others), dim=1)


@contextmanager
def dropping(module: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Inside, the dropout layers of a module in eval mode drop units: the same ones for every image and every batch.

    One network is drawn, not one an image: neighbouring slices see the same one, and a result does not depend on what
    it shared a batch with. `generator` is a CPU generator, so that devices agree.
    """
    masks: dict[tuple, Tensor] = {}

    def drop(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        shape = (1, *x.shape[1:]) if isinstance(layer, nn.Dropout) else (1, x.shape[1], *[1] * (x.ndim - 2))
        if (layer, shape) not in masks:
            kept = torch.rand(shape, generator=generator) >= layer.p
            masks[layer, shape] = kept.to(x.device, x.dtype) / max(1 - layer.p, torch.finfo(x.dtype).eps)
        return x * masks[layer, shape]

    hooks = [layer.register_forward_hook(drop) for layer in _dropout_layers(module)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _dropout_layers(module: nn.Module) -> list[nn.Module]:
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    return [layer for layer in module.modules() if isinstance(layer, kinds) and layer.p > 0]
