"""LPIPS: how different two pictures look to a network trained on photographs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.metrics.features import middle_slices
from gantk.metrics.pair_metric import PairMetric
from gantk.nets.pretrained import VARIABLE, weights_file

FILES = {  # torchvision's own names
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}  # pixels a side, below which nothing is left for the last layer


class LPIPS(PairMetric):
    """Learned perceptual image patch similarity (Zhang et al., 2018, eq. 1): 0 for equal images, more is worse.

    Squared differences of a network's normalised activations in five layers (seven of SqueezeNet), averaged over
    positions and weighted as people judged: version 0.1 of the package lpips. Images are seen from black, -1, to white,
    +1, and not clipped. Those of 3 channels are colour pictures; of any other number each channel is a gray picture of
    its own, and a volume is its three slices through the middle: the mean is taken. UserError where weights are absent.

    With weights = "random" the result is called lpips_random, and is no LPIPS: the network's weights are drawn from a
    seed and all activations weigh alike. It says how different edges and textures are, and needs no file.
    """

    unit, higher_is_better = "", False
    in_mask = None

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        net: Literal["alex", "vgg", "squeeze"] = "alex",  # the network: AlexNet, VGG16 or SqueezeNet 1.1
        weights: Literal["pretrained", "random"] = "pretrained",  # random: needs no file; then named lpips_random
        seed: int = 0,  # of random weights
    ):
        super().__init__(data_range, dims)
        self.net, self.seed, self.random = net, seed, weights == "random"
        self.name = "lpips_random" if self.random else "lpips"
        self.network = random_network(net, seed) if self.random else pretrained_network(net)

    def expect_size(self, size: Sequence[int]) -> None:
        """UserError for images of which nothing would be left before the network's last layer."""
        if min(size) < SMALLEST[self.net]:
            raise UserError(
                f"{self.name} with net = '{self.net}' cannot judge images of {' x '.join(map(str, size))}",
                where="data.size",
                allowed=f"{SMALLEST[self.net]} or more a side",
                remedy=None if self.net == "vgg" else 'use net = "vgg", which takes 16',
            )

    def _method(self) -> str:
        which = f"net={self.net}-random-seed-{self.seed}" if self.random else f"version-0.1/net={self.net}"
        return f"{super()._method()}/{which}" + ("/middle-slices" if self.dims == 3 else "")

    def _score(self, output: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
        self.network.to(output.device)
        scaled = [2 * images / self.data_range - 1 for images in (output, truth)]
        pictures = zip(*map(middle_slices, scaled), strict=True) if self.dims == 3 else [scaled]
        found = [self._of(*both) for both in pictures]
        return torch.stack(found).mean(0)

    def _of(self, output: Tensor, truth: Tensor) -> Tensor:
        """(N,) of pictures (N, C, H, W) from -1 to 1."""
        if output.shape[1] == 3:
            return self.network(output, truth).flatten()
        channels = zip(output.split(1, 1), truth.split(1, 1), strict=True)
        each = [self.network(*(gray.expand(-1, 3, -1, -1) for gray in both)).flatten() for both in channels]
        return torch.stack(each).mean(0)


def random_network(net: str, seed: int) -> nn.Module:
    """The package's network with weights drawn from a seed; every activation weighs alike."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _network(net, pnet_rand=True, lpips=False)


def pretrained_network(net: str) -> nn.Module:
    """The package's network, its backbone from $GANTK_WEIGHTS, torch's cache or the web; UserError where it is nowhere.

    The weights by which people's judgement enters come with the package itself.
    """
    here = weights_file(FILES[net])
    try:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are replaced
            network = _network(net, pnet_rand=here is not None)
    except OSError as error:
        folder = os.environ.get(VARIABLE)
        there = f"'{folder}'" if folder else f"a folder, and set {VARIABLE} to it"
        raise UserError(
            f"the weights of the network '{net}' of lpips are not on this machine and cannot be fetched ({error})",
            where="evaluate.metrics",
            remedy=f'put {FILES[net]} of torchvision into {there}, or set weights = "random": then it is no LPIPS',
        ) from None
    if here is not None:
        _fill(network, here)
    return network


def _network(net: str, **options: Any) -> nn.Module:
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks torchvision for weights in a way that is out of fashion
        return lpips.LPIPS(net=net, verbose=False, **options).eval().requires_grad_(False)


def _fill(network: nn.Module, path: Path) -> None:
    """Give the backbone the weights of a file of torchvision; UserError naming it where they are not that network's."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        own = network.net.state_dict()  # slice2.3.weight is features.3.weight
        network.net.load_state_dict({name: held[f"features.{name.partition('.')[2]}"] for name in own})
    except Exception as error:  # damaged bytes make the readers raise whatever they lead them to
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        what = f"'{path}' does not hold torchvision's weights of that network: {type(error).__name__}: {detail}"
        raise UserError(what, where=VARIABLE, remedy="copy it again, as torchvision offers it") from None
