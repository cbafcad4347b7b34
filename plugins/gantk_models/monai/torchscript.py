"""A bundle's network as TorchScript, with what MONAI has no component for: gantk's resizing and
neighbour slices.

TorchScript compiles this file, so it uses only annotations and syntax that TorchScript supports.
"""

import io
import warnings
import zipfile
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gantk.data.intensity import AIR_SHARE
from gantk.inference.frame import Frame
from gantk.inference.processing import MIN_VARIANCE_SHARE, WINDOW_SIDE


class Plain(nn.Module):
    """The traced network, for images of the size at which it was traced: (N, C, *size) to (N, D,
    *size).
    """

    def __init__(self, network: nn.Module, any_batch: bool):
        super().__init__()
        self.network = network
        self.any_batch = any_batch

    def forward(self, image: Tensor) -> Tensor:
        if self.any_batch or image.shape[0] == 1:
            return self.network(image)
        return torch.cat([self.network(image[i : i + 1]) for i in range(image.shape[0])])


class Fitted(nn.Module):
    """Resizes images to the network's size and back, as gantk.data.resample and
    gantk.inference.pipeline do.

    (N, C, *native) to (N, D, *native), both in network intensities. C holds a slice and its
    neighbours if the network takes neighbours; the result is the middle slice's. A constant image
    is returned unchanged if it is air (at most `tissue`, one value per channel; default: a fixed
    share of the range) and the target has as many channels; any other constant image becomes
    background.
    """

    def __init__(self, network: nn.Module, frame: Frame, tissue: Sequence[float] = ()):
        super().__init__()
        start, end = frame.range
        self.tissue = [float(level) for level in tissue or [start + AIR_SHARE * (end - start)]]
        self.network = network
        self.reach = frame.neighbours
        self.low = float(frame.range[0])
        self.size = [*frame.size]
        self.fills = frame.fit == "resize"
        self.guided = frame.detail == "guided"
        self.box = WINDOW_SIDE
        self.flat = MIN_VARIANCE_SHARE

    def forward(self, image: Tensor) -> Tensor:
        native = image.shape[2:]
        content = self.content(native)
        seen = self.pad(self.resize(image, content), content, image.flatten(2).amin(dim=2))
        output = self.middle(self.network(seen)).clone()
        shown = self.middle(image)
        if self.guided and content != native:
            made = self.with_detail(output, self.middle(seen), shown, content, native)
        else:
            made = self.enlarge(output, content, native)

        values = shown.flatten(2)
        empty = (values.amax(dim=2) == values.amin(dim=2)).all(dim=1)
        made[empty] = self.low
        if shown.shape[1] == made.shape[1]:
            tissue = torch.tensor(self.tissue, dtype=values.dtype, device=values.device)
            air = empty & (values[:, :, 0] <= tissue).all(dim=1)
            made[air] = shown[air]

        return made

    def content(self, native: list[int]) -> list[int]:
        """The part of the network's size that the resized image fills."""
        if self.fills:
            return self.size

        scale = 1e9
        for k in range(len(native)):
            scale = min(scale, self.size[k] / native[k])

        filled: list[int] = []
        for k in range(len(native)):
            side = int(round(native[k] * scale))
            filled.append(max(1, min(self.size[k], side)))
        return filled

    def resize(self, image: Tensor, size: list[int]) -> Tensor:
        """Resize linearly, axis by axis; averages where an axis shrinks."""
        for k in range(len(size)):
            side = image.shape[k + 2]
            to = size[k]
            if side != to:
                step = side / to
                centres = (
                    torch.arange(to, dtype=torch.float64, device=image.device) + 0.5
                ) * step - 0.5
                places = torch.arange(side, dtype=torch.float64, device=image.device)
                weights = (1 - (places[None] - centres[:, None]).abs() / max(step, 1.0)).clamp(
                    min=0
                )
                weights = (weights / weights.sum(1, keepdim=True)).to(image.dtype)
                image = torch.matmul(image.movedim(k + 2, -1), weights.t()).movedim(-1, k + 2)

        return image

    def pad(self, image: Tensor, content: list[int], lowest: Tensor) -> Tensor:
        """Put an image into the middle of the network's size; the padding is each channel's lowest
        value.
        """
        if content == self.size:
            return image

        for _ in self.size:
            lowest = lowest.unsqueeze(-1)

        canvas = lowest.expand([image.shape[0], image.shape[1]] + self.size).clone()
        part = canvas
        for k in range(len(content)):
            part = part.narrow(k + 2, (self.size[k] - content[k]) // 2, content[k])

        part.copy_(image)
        return canvas

    def enlarge(self, image: Tensor, content: list[int], native: list[int]) -> Tensor:
        """Undo `pad` and `resize`: crop the padding and resize to `native`."""
        for k in range(len(content)):
            image = image.narrow(k + 2, (self.size[k] - content[k]) // 2, content[k])
        return self.resize(image, native)

    def middle(self, image: Tensor) -> Tensor:
        """The middle slice's channels."""
        return image.chunk(2 * self.reach + 1, dim=1)[self.reach]

    def with_detail(
        self, output: Tensor, seen: Tensor, native: Tensor, content: list[int], size: list[int]
    ) -> Tensor:
        """`gantk.inference.processing.with_detail`, for TorchScript."""
        if seen.shape[1] != output.shape[1]:
            channels = output.shape[1]
            seen = seen.mean(dim=1, keepdim=True).repeat_interleave(channels, dim=1)
            native = native.mean(dim=1, keepdim=True).repeat_interleave(channels, dim=1)

        x = seen.double()
        y = output.double()
        mean_x = self.mean(x)
        variance = self.mean(self.mean(x * x) - mean_x * mean_x)
        covariance = self.mean(self.mean(x * y) - mean_x * self.mean(y))
        values = x.flatten(1)
        limit = self.flat * (values.amax(dim=1) - values.amin(dim=1)) ** 2
        for _ in range(x.dim() - 1):
            limit = limit.unsqueeze(-1)

        varied = variance > limit
        slope = torch.where(varied, covariance / torch.where(varied, variance, 1.0), 0.0)
        remainder = self.enlarge((y - slope * x).float(), content, size)
        return remainder + self.enlarge(slope.float(), content, size) * native

    def mean(self, x: Tensor) -> Tensor:
        """The mean over small windows; borders are repeated."""
        half = self.box // 2
        framed = nn.functional.pad(x, [half] * (2 * (x.dim() - 2)), mode="replicate")
        if x.dim() == 4:
            return nn.functional.avg_pool2d(framed, self.box, stride=1)
        return nn.functional.avg_pool3d(framed, self.box, stride=1)


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
        offsets = torch.arange(-self.reach, self.reach + 1, device=image.device)
        for volume in image.unbind(0):
            slices: list[Tensor] = []
            for first in range(0, depth, self.batch):
                last = min(first + self.batch, depth)
                middles = torch.arange(first, last, device=image.device)
                places = (middles[:, None] + offsets[None]).clamp(0, depth - 1)
                neighbours = volume[:, places].permute(1, 2, 0, 3, 4)
                slices.append(self.network(neighbours.flatten(1, 2)))
            volumes.append(torch.cat(slices).movedim(0, 1))

        return torch.stack(volumes)


def trace_network(network: nn.Module, example: Tensor) -> Plain:
    """Trace a network at the example's image size; if the example is a single image, images run one
    by one.
    """
    several = len(example) > 1
    batch = {0: torch.export.Dim("batch", min=1, max=4096)} if several else {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.export.export(network, (example,), dynamic_shapes=(batch,), strict=False)
        traced = torch.jit.trace(exported.module(), (example,), check_trace=False)
        return Plain(traced, several)


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
