"""LPIPS of images and volumes, by the package lpips with weights that are downloaded or read from a
folder.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from gantk.errors import UserError, one_line
from gantk.metrics.pairs import PairMetric
from gantk.metrics.sets import pictures_of
from gantk.nets.pretrained import read_state, weights_file

# torchvision's file of weights; the smallest side in pixels for which the last layer has an output
NETS = {
    "alex": ("alexnet-owt-7be5be79.pth", 31),
    "vgg": ("vgg16-397923af.pth", 16),
    "squeeze": ("squeezenet1_1-b8a52dc0.pth", 17),
}


class LPIPS(PairMetric):
    """Learned perceptual image patch similarity (Zhang et al., 2018, eq. 1). 0 for equal images;
    higher is worse.

    The score is the squared difference of a network's normalised activations in five layers (seven
    for SqueezeNet), averaged over positions and weighted to fit people's judgement, as in version
    0.1 of the package lpips. Images are scaled to [-1, 1] (black to white) and not clipped. Images
    of 3 channels are colour images. Otherwise each channel is scored as a gray image, a volume by
    its three middle slices, and the mean is returned. Missing weights are an error.
    """

    name = "lpips"
    unit = ""
    higher_is_better = False
    in_mask = None

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        # network: AlexNet, VGG16 or SqueezeNet 1.1
        net: Literal["alex", "vgg", "squeeze"] = "alex",
    ):
        super().__init__(data_range, dims)
        self.net = net
        self.smallest = NETS[net][1]
        self.network = lpips_network(net)

    def _method(self) -> str:
        slices = "/middle-slices" if self.dims == 3 else ""
        return f"{super()._method()}/version-0.1/net={self.net}{slices}"

    def _score(self, output: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        self.network.to(output.device)
        scaled = (2 * images / self.data_range - 1 for images in (output, reference))
        pairs = zip(*(pictures_of(images, 3) for images in scaled), strict=True)
        return torch.stack([self.network(*pair).flatten() for pair in pairs]).mean(0)


def lpips_network(net: str) -> nn.Module:
    """The package's network with published weights.

    Backbone weights come from $GANTK_WEIGHTS, torch's cache or the web, else UserError;
    the layer weights fitted to people's judgement come with the package. The global random
    generator's state is restored.
    """
    import lpips

    file = NETS[net][0]
    path = weights_file(file)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # it uses an argument that torchvision has deprecated
            network = lpips.LPIPS(net=net, verbose=False, pnet_rand=path is not None)
        if path is not None:
            weights = read_state(path)
            own = network.net.state_dict()  # slice2.3.weight is features.3.weight
            network.net.load_state_dict(
                {name: weights[f"features.{name.partition('.')[2]}"] for name in own}
            )
    except Exception as error:  # no network, a damaged file, or the weights of another network
        what = f"'{path}' does not contain" if path else "this machine lacks and cannot download"
        what += f" the weights of the network '{net}' of lpips ({one_line(error)})"
        raise UserError(
            what,
            where="evaluate.metrics",
            remedy=f"put {file} of torchvision into a folder and set GANTK_WEIGHTS to it",
        ) from None

    return network.eval().requires_grad_(False)
