"""A traced network as TorchScript that takes images of any size, with gantk's own fitting inside: torch alone runs it.

This file is compiled by TorchScript: annotations are those that it knows, and arithmetic is spelt out.
"""

import io
import zipfile

import torch
from torch import Tensor, nn

from gantk.exports.network import Program, quiet
from gantk.inference.pipeline import FLAT, WINDOW, Frame


class Plain(nn.Module):
    """The network itself, for images of the size that it was trained at: (N, C, *size) to (N, D, *size)."""

    def __init__(self, network: nn.Module, any_batch: bool):
        super().__init__()
        self.network, self.any_batch = network, any_batch

    def forward(self, image: Tensor) -> Tensor:
        if self.any_batch or image.shape[0] == 1:
            return self.network(image)
        return torch.cat([self.network(image[i : i + 1]) for i in range(image.shape[0])])


class Fitted(nn.Module):
    """Images of any size to the network's and back, as gantk.data.resample and gantk.inference.pipeline do it.

    (N, C, *native) to (N, D, *native), both in network intensities. C holds a slice and its neighbours, where the
    network sees those; the result is the middle slice's. An image of one value throughout stays what it is, or becomes
    background where the target has other channels.
    """

    def __init__(self, network: nn.Module, frame: Frame, window: tuple, overlap: float):
        super().__init__()
        from gantk.inference.windows import tiles

        self.network, self.reach, self.low = network, frame.neighbours, float(frame.range[0])
        self.stretch, self.guided, self.box, self.flat = frame.fit == "stretch", frame.detail == "guided", WINDOW, FLAT
        self.size, self.window = list(frame.size), list(window)
        shared = [part - max(1, int(part * (1 - overlap))) for part in window]
        found = tiles(frame.size, window, shared, (1,) * len(window))
        self.corners = [[place.start for place in tile.box] for tile in found]
        weight = torch.ones(())
        for side in window:
            places = (torch.arange(side) + 0.5) / side - 0.5
            weight = weight[..., None] * torch.exp(-0.5 * (places / 0.25) ** 2)
        self.register_buffer("weight", weight.clamp_min(1e-3), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        native = image.shape[2:]
        content = self.content(native)
        seen = self.placed(self.resized(image, content), content, image.flatten(2).amin(dim=2))
        output = self.middle(self.by_windows(seen))
        shown = self.middle(image)
        if self.guided and content != native:
            made = self.with_detail(output, self.middle(seen), shown, content, native)
        else:
            made = self.enlarged(output, content, native)
        values = shown.flatten(2)
        empty = (values.amax(dim=2) == values.amin(dim=2)).all(dim=1)
        blank = shown if shown.shape[1] == made.shape[1] else torch.full_like(made, self.low)
        made[empty] = blank[empty]
        return made

    def content(self, native: list[int]) -> list[int]:
        """What the image fills of the network's size."""
        if self.stretch:
            return self.size
        scale = 1e9
        for k in range(len(native)):
            scale = min(scale, self.size[k] / native[k])
        return [max(1, min(self.size[k], int(round(native[k] * scale)))) for k in range(len(native))]

    def resized(self, image: Tensor, size: list[int]) -> Tensor:
        """Linear, averaging where it shrinks, one axis after the other."""
        for k in range(len(size)):
            side, to = image.shape[k + 2], size[k]
            if side != to:
                step = side / to
                reach = max(step, 1.0)
                centres = (torch.arange(to, dtype=torch.float64, device=image.device) + 0.5) * step - 0.5
                places = torch.arange(side, dtype=torch.float64, device=image.device)
                weights = (1 - (places[None] - centres[:, None]).abs() / reach).clamp(min=0)
                weights = (weights / weights.sum(1, keepdim=True)).to(image.dtype)
                image = torch.matmul(image.movedim(k + 2, -1), weights.t()).movedim(-1, k + 2)
        return image

    def placed(self, image: Tensor, content: list[int], lowest: Tensor) -> Tensor:
        """In the middle of the network's size, surrounded by each channel's lowest value."""
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

    def enlarged(self, image: Tensor, content: list[int], native: list[int]) -> Tensor:
        """The way back: the padding is cut off, the rest resized."""
        for k in range(len(content)):
            image = image.narrow(k + 2, (self.size[k] - content[k]) // 2, content[k])
        return self.resized(image, native)

    def middle(self, image: Tensor) -> Tensor:
        """The middle slice's channels."""
        return image.chunk(2 * self.reach + 1, dim=1)[self.reach]

    def by_windows(self, image: Tensor) -> Tensor:
        """The network over overlapping windows where it is smaller than the image, blended by a Gaussian."""
        if self.size == self.window:
            return self.network(image).clone()
        total = torch.zeros([1], device=image.device)
        weights = torch.zeros(self.size, device=image.device)
        for number, corner in enumerate(self.corners):
            part, count = image, weights
            for k in range(len(corner)):
                part = part.narrow(k + 2, corner[k], self.window[k])
                count = count.narrow(k, corner[k], self.window[k])
            done = self.network(part) * self.weight
            if number == 0:
                total = torch.zeros([image.shape[0], done.shape[1]] + self.size, device=image.device)
            place = total
            for k in range(len(corner)):
                place = place.narrow(k + 2, corner[k], self.window[k])
            place.add_(done)
            count.add_(self.weight)
        return total / weights

    def with_detail(self, output: Tensor, seen: Tensor, native: Tensor, content: list[int], size: list[int]) -> Tensor:
        """Slope and remainder of the output over the input enlarged, the slope applied to the input itself."""
        if seen.shape[1] != output.shape[1]:
            channels = output.shape[1]
            seen = seen.mean(dim=1, keepdim=True).repeat_interleave(channels, dim=1)
            native = native.mean(dim=1, keepdim=True).repeat_interleave(channels, dim=1)
        x, y = seen.double(), output.double()
        mean_x = self.mean(x)
        variance = self.mean(self.mean(x * x) - mean_x * mean_x)
        covariance = self.mean(self.mean(x * y) - mean_x * self.mean(y))
        values = x.flatten(1)
        limit = self.flat * (values.amax(dim=1) - values.amin(dim=1)) ** 2
        for _ in range(x.dim() - 1):
            limit = limit.unsqueeze(-1)
        varied = variance > limit
        slope = torch.where(varied, covariance / torch.where(varied, variance, 1.0), 0.0)
        remainder = self.enlarged((y - slope * x).float(), content, size)
        return remainder + self.enlarged(slope.float(), content, size) * native

    def mean(self, x: Tensor) -> Tensor:
        """The mean over small windows, borders repeated."""
        half = self.box // 2
        if x.dim() == 4:
            framed = nn.functional.pad(x, [half, half, half, half], mode="replicate")
            return nn.functional.avg_pool2d(framed, self.box, stride=1)
        framed = nn.functional.pad(x, [half, half, half, half, half, half], mode="replicate")
        return nn.functional.avg_pool3d(framed, self.box, stride=1)


class Masked(nn.Module):
    """What is one value in all corners of an image, and everywhere else the same, gets that value in the result."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        made, corners = self.network(image), image
        for k in range(2, image.dim()):
            corners = torch.cat([corners.narrow(k, 0, 1), corners.narrow(k, image.shape[k] - 1, 1)], dim=k)
        corners = corners.flatten(2)
        level = corners[:, :, 0]
        masked = (corners.amax(dim=2) == corners.amin(dim=2)).all(dim=1)
        for _ in range(image.dim() - 2):
            level, masked = level.unsqueeze(-1), masked.unsqueeze(-1)
        outside = (image == level).all(dim=1) & masked
        return torch.where(outside[:, None], level.mean(dim=1, keepdim=True), made)


class Stacked(nn.Module):
    """A volume (N, C, D, H, W) slice by slice through a network that sees each with its neighbours as channels."""

    def __init__(self, network: nn.Module, reach: int, batch: int):
        super().__init__()
        self.network, self.reach, self.batch = network, reach, batch

    def forward(self, image: Tensor) -> Tensor:
        volumes: list[Tensor] = []
        depth = image.shape[2]
        offsets = torch.arange(-self.reach, self.reach + 1, device=image.device)
        for volume in image.unbind(0):
            slices: list[Tensor] = []
            for first in range(0, depth, self.batch):
                middles = torch.arange(first, min(first + self.batch, depth), device=image.device)
                places = (middles[:, None] + offsets[None]).clamp(0, depth - 1)
                stacks = volume[:, places].permute(1, 2, 0, 3, 4).flatten(1, 2)
                slices.append(self.network(stacks))
            volumes.append(torch.cat(slices).movedim(0, 1))
        return torch.stack(volumes)


def traced(program: Program, example: Tensor) -> nn.Module:
    """The network of a program as TorchScript."""
    with quiet(), torch.no_grad():
        return torch.jit.trace(
            program.exported.module(), (example if program.batch else example[:1],), check_trace=False
        )


def scripted(network: nn.Module) -> torch.jit.ScriptModule:
    """A module of this file, compiled."""
    with quiet():
        return torch.jit.script(network.eval())


def saved(network: torch.jit.ScriptModule) -> bytes:
    """TorchScript's file without the notes for debuggers, which name the folders of this machine."""
    whole, kept = io.BytesIO(), io.BytesIO()
    with quiet():
        torch.jit.save(network, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
    return kept.getvalue()


def loaded(content: bytes) -> torch.jit.ScriptModule:
    """The file's network, as whoever loads it gets it."""
    with quiet():
        return torch.jit.load(io.BytesIO(content), map_location="cpu")
