"""LPIPS of images and volumes, by the package lpips with weights that are fetched, lie in a folder, or are random."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from gantk.errors import UserError, told
from gantk.metrics.features import middle_slices
from gantk.metrics.pairs import PairMetric
from gantk.nets.pretrained import weights_file
from gantk.plugin.spec import Seed

NETS = {  # torchvision's file of weights; pixels a side, below which the last layer sees nothing
    "alex": ("alexnet-owt-7be5be79.pth", 31),
    "vgg": ("vgg16-397923af.pth", 16),
    "squeeze": ("squeezenet1_1-b8a52dc0.pth", 17),
}


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
        seed: Seed = 0,  # of random weights
    ):
        super().__init__(data_range, dims)
        drawn, self.smallest = weights == "random", NETS[net][1]
        self.name = "lpips_random" if drawn else "lpips"
        self.which = f"net={net}-random-seed-{seed}" if drawn else f"version-0.1/net={net}"
        self.network = lpips_network(net, seed if drawn else None)

    def _method(self) -> str:
        return f"{super()._method()}/{self.which}" + ("/middle-slices" if self.dims == 3 else "")

    def _score(self, output: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        self.network.to(output.device)
        pairs = [[2 * images / self.data_range - 1 for images in (output, reference)]]
        if self.dims == 3:
            pairs = list(zip(*map(middle_slices, pairs[0]), strict=True))
        if output.shape[1] != 3:
            channels = (zip(*(view.split(1, 1) for view in both), strict=True) for both in pairs)
            pairs = [[gray.expand(-1, 3, -1, -1) for gray in both] for each in channels for both in each]
        return torch.stack([self.network(*both).flatten() for both in pairs]).mean(0)


def lpips_network(net: str, seed: int | None) -> nn.Module:
    """The package's network with weights of a seed, which weigh alike, or (None) with those that it was published with.

    The backbone's are then those of $GANTK_WEIGHTS, torch's cache or the web; UserError where they are nowhere. The
    weights by which people's judgement enters come with the package. The global random generator stays as it was.
    """
    import lpips

    file = NETS[net][0]
    path = weights_file(file) if seed is None else None
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # it asks torchvision for weights in a way that is out of fashion
            torch.default_generator.manual_seed(seed or 0)
            network = lpips.LPIPS(net=net, verbose=False, pnet_rand=seed is not None or bool(path), lpips=seed is None)
        if path is not None:
            known = torch.load(path, map_location="cpu", weights_only=True)
            own = network.net.state_dict()  # slice2.3.weight is features.3.weight
            network.net.load_state_dict({name: known[f"features.{name.partition('.')[2]}"] for name in own})
    except Exception as error:  # an address that does not answer, a damaged file, one of another network
        what = f"'{path}' does not hold" if path else "this machine has not, and cannot fetch,"
        what += f" the weights of the network '{net}' of lpips ({told(error)})"
        remedy = f'put {file} of torchvision into a folder and set GANTK_WEIGHTS to it, or set weights = "random"'
        raise UserError(what, where="evaluate.metrics", remedy=f"{remedy}: then it is no LPIPS") from None
    return network.eval().requires_grad_(False)
