"""Uncertainty maps of translations: the spread, pixel by pixel, over changes that should not affect
the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.method import Method
from gantk.plugin.spec import Seed
from gantk_trust.uncertainty.judging import judge_uncertainty

PASSES = 8  # networks drawn for "dropout"; more is smoother and slower
FLIPS = ((-1,), (-2,), (-1, -2))  # axes that are mirrored: columns, rows, both


class Flips:
    """Standard deviation over an image and its mirror images, each translated and mirrored back
    (Wang et al. 2019).

    The map is in network intensities. The same seed gives the same map in any batch.
    """

    needs = ""  # requirement on the run, for messages
    scale = 1.0  # factor on the spread, fitted to a run's validation patients
    judge = staticmethod(judge_uncertainty)

    def __init__(
        self,
        *,
        seed: Seed = 0,  # seed of random numbers
    ):
        self.seed = seed

    def had(self, method: Method, checkpoints: int) -> bool:
        """Whether this kind is possible for a method with so many saved checkpoints."""
        return True

    def check(self, method: Method, checkpoints: int) -> None:
        """Raise UserError where this kind is not possible."""
        if not self.had(method, checkpoints):
            what = f"this kind of uncertainty needs {self.needs}"
            raise UserError(
                what, where="uncertainty", remedy="use flips, which works for every run"
            )

    def kind_for(self, method: Method) -> str:
        """The name of the kind that is computed."""
        return type(self).__name__.lower()

    @torch.no_grad()
    def maps(
        self, method: Method, to: str, image: Tensor, others: Sequence[Mapping[str, Tensor]] = ()
    ) -> tuple[Tensor, Tensor]:
        """The plain translation of images (N, C, *size) and its uncertainty, 0 or more: (N, D,
        *size), float32.

        `others` are other checkpoints' weights. UserError where this kind is not possible. The
        translation is, to the bit, that without uncertainty.
        """
        self.check(method, 1 + len(others))
        plain = method.translate(image, to).float()
        return plain, self.spread(method, to, image, plain, others) * self.scale

    def spread(
        self, method: Method, to: str, image: Tensor, plain: Tensor, others: Sequence
    ) -> Tensor:
        """The uncertainty of the translation `plain`."""
        mirrored = (method.translate(image.flip(axes), to).float().flip(axes) for axes in FLIPS)
        return torch.stack([plain, *mirrored]).std(0)


class Dropout(Flips):
    """Standard deviation over networks with different units dropped, Monte Carlo dropout (Gal and
    Ghahramani 2016, eq. 7-8).
    """

    needs = "networks that were trained with method.generator.dropout above 0"

    def had(self, method: Method, checkpoints: int) -> bool:
        return bool(_dropout_layers(method))

    def spread(
        self, method: Method, to: str, image: Tensor, plain: Tensor, others: Sequence
    ) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        outputs = []
        for _ in range(PASSES):
            with dropping(method, generator):
                outputs.append(method.translate(image, to).float())
        return torch.stack(outputs).std(0)


class Checkpoints(Flips):
    """Standard deviation over the run's checkpoints, a snapshot ensemble (Huang et al. 2017)."""

    needs = "several checkpoints: train.keep of 2 or more"
    compares_checkpoints = True  # `maps` is given the weights of the run's other checkpoints

    def had(self, method: Method, checkpoints: int) -> bool:
        return checkpoints > 1

    def spread(
        self, method: Method, to: str, image: Tensor, plain: Tensor, others: Sequence
    ) -> Tensor:
        own = {name: tensor.clone() for name, tensor in method.state_dict().items()}
        outputs = [plain]
        try:
            for weights in others:
                method.load_state_dict(weights)
                outputs.append(method.translate(image, to).float())
        finally:
            method.load_state_dict(own)

        return torch.stack(outputs).std(0)


class Cycle(Flips):
    """Absolute difference between an image and its back-translation, for two-way methods."""

    needs = "a translation back to the source domain: a two-way method, such as cyclegan"

    def had(self, method: Method, checkpoints: int) -> bool:
        return len(method.directions()) == 2

    def spread(
        self, method: Method, to: str, image: Tensor, plain: Tensor, others: Sequence
    ) -> Tensor:
        back = method.translate(plain.to(image.dtype), {"a": "b", "b": "a"}[to]).float()
        error = (back - image).abs()  # both domains have the same network intensities: no factor
        return error if error.shape == plain.shape else error.mean(1, keepdim=True).expand_as(plain)


class Members(Flips):
    """Standard deviation over the models of an ensemble. Not available for a single run."""

    needs = "several runs: `gantk translate RUN1,RUN2 IN OUT`"

    def had(self, method: Method, checkpoints: int) -> bool:
        return False


class Auto(Flips):
    """The best default: twice the flips map, the cycle map for two-way methods, and half the slope of
    the translation, averaged over 3 pixels a side.

    The slope, the change from pixel to pixel, is the error of an edge that is shifted. The average
    removes the noise of single pixels. Each of the two raised the AUROC for errors above 10 % of the
    range by 0.03.
    """

    def kind_for(self, method: Method) -> str:
        return "flips+cycle+slope" if len(method.directions()) == 2 else "flips+slope"

    def spread(
        self, method: Method, to: str, image: Tensor, plain: Tensor, others: Sequence
    ) -> Tensor:
        mirrored = super().spread(method, to, image, plain, others)
        spread = 2 * mirrored + slope(plain) / 2
        if len(method.directions()) == 2:
            spread = spread + Cycle().spread(method, to, image, plain, others)

        mean = F.avg_pool2d if spread.ndim == 4 else F.avg_pool3d
        return mean(spread, 3, stride=1, padding=1, count_include_pad=False)


def slope(image: Tensor) -> Tensor:
    """The length of the gradient (N, C, *size), in intensity per pixel; an axis of one pixel has
    none.
    """
    axes = [axis for axis in range(2, image.ndim) if image.shape[axis] > 1]
    return sum(
        (step.square() for step in torch.gradient(image, dim=axes)), torch.zeros_like(image)
    ).sqrt()


@contextmanager
def dropping(module: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Let the dropout layers of a module in eval mode drop units: the same ones for all images
    inside the context.

    One network is drawn for all images, so that neighbouring slices have the same one, and a result
    does not depend on its batch. `generator` is a CPU generator, so that all devices draw the same.
    """
    masks: dict[tuple, Tensor] = {}

    def drop(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        if isinstance(layer, nn.Dropout):
            shape = (1, *x.shape[1:])
        else:
            shape = (1, x.shape[1], *[1] * (x.ndim - 2))

        if (layer, shape) not in masks:
            kept = torch.rand(shape, generator=generator) >= layer.p
            masks[layer, shape] = kept.to(x.device, x.dtype) / max(
                1 - layer.p, torch.finfo(x.dtype).eps
            )

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
