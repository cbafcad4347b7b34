"""A bundle's network as TorchScript, which compiles this file: it uses only annotations and syntax
that TorchScript supports.
"""

import io
import warnings
import zipfile

import torch
from torch import Tensor, nn


class OneByOne(nn.Module):
    """The traced network, which runs images of the size at which it was traced one by one: (N, C,
    *size) to (N, D, *size).
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([self.network(each) for each in image.split(1)])


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
