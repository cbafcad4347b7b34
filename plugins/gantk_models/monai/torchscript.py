"""A bundle's network as TorchScript, with what MONAI has no component for: neighbour slices.

TorchScript compiles this file, so it uses only annotations and syntax that TorchScript supports.
"""

import io
import warnings
import zipfile

import torch
from torch import Tensor, nn

from gantk.prepare.module import neighbour_places


class OneByOne(nn.Module):
    """The traced network, which runs images of the size at which it was traced one by one: (N, C,
    *size) to (N, D, *size).
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.network(each) for each in image.split(1)])


class Stacked(nn.Module):
    """Runs a network slice by slice over volumes (N, C, D, H, W); each slice's neighbours are
    further channels.
    """

    def __init__(self, network: nn.Module, reach: int, batch: int):
        super().__init__()
        self.network = network
        self.reach = reach
        self.batch = batch

    def forward(self, image: Tensor) -> Tensor:
        volumes: list[Tensor] = []
        depth = image.shape[2]
        for volume in image.unbind(0):
            slices: list[Tensor] = []
            for first in range(0, depth, self.batch):
                middles = torch.arange(first, min(first + self.batch, depth), device=image.device)
                places = neighbour_places(middles, self.reach, depth)
                slices.append(self.network(volume[:, places].permute(1, 2, 0, 3, 4).flatten(1, 2)))
            volumes.append(torch.cat(slices).movedim(0, 1))

        return torch.stack(volumes)


def trace_network(network: nn.Module, example: Tensor) -> OneByOne:
    """Trace a network on one image, (1, C, *size)."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        plain = torch.export.export(network, (example,), strict=False).module()
        return OneByOne(torch.jit.trace(plain, (example,), check_trace=False))


def torchscript_bytes(network: nn.Module) -> bytes:
    """The bytes of TorchScript's file without its debug records, which contain paths of this
    machine.
    """
    whole = io.BytesIO()
    kept = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network.eval()), whole)

    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))

    return kept.getvalue()


def load_torchscript(content: bytes) -> torch.jit.ScriptModule:
    """Load the network from the bytes of a TorchScript file, on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(io.BytesIO(content), map_location="cpu")
