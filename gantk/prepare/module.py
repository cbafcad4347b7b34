"""`Prepare`, from images in the units of the files to a network's input, and from its output back.

TorchScript compiles this file, so it uses only annotations and syntax that TorchScript supports.
All of it can be differentiated.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

WINDOW_REACH = 1  # pixels of the windows, at the networks' size, beyond the one in their middle
# share of the squared range: windows with less variance than this get slope 0
MIN_VARIANCE_SHARE = 1e-10


class Scale(nn.Module):
    """The intensity mapping of a domain, (N, C, *spatial), as piecewise linear functions of tensors.

    Channel i belongs to contrast i modulo their number. Computed in float64 and returned in the
    images' own precision.
    """

    native: Tensor  # the corners, (contrasts, count)
    network: Tensor
    tissue: Tensor  # network intensity of each contrast above which an image shows tissue, not air

    def __init__(self, mapping: Any):
        super().__init__()
        corners = [
            [torch.tensor(ends, dtype=torch.float64) for ends in line.corners()]
            for line in mapping.lines
        ]
        count = max(native.numel() for native, _ in corners)
        native, network = (
            torch.stack([_lengthen(pair[end], count) for pair in corners]) for end in (0, 1)
        )
        self.register_buffer("native", native)
        self.register_buffer("network", network)
        tissue = torch.tensor(list(mapping.tissue), dtype=torch.float64)
        self.register_buffer("tissue", tissue)
        self.nearest = bool(mapping.nearest)  # a label map

    def forward(self, images: Tensor) -> Tensor:
        """Native intensities to those of the network."""
        return piecewise_linear(images, self.native, self.network)

    def or_black(self, images: Tensor, black: float) -> Tensor:
        """`forward`, but a channel with NaN, of a contrast that a patient lacks, is `black`."""
        missing = images.detach().flatten(2).amin(dim=2).isnan()
        return torch.where(_spread(missing, images.dim()), black, self(images.nan_to_num()))

    def inverse(self, images: Tensor) -> Tensor:
        """Network intensities to native ones."""
        return piecewise_linear(images, self.network, self.native)


def _lengthen(corners: Tensor, count: int) -> Tensor:
    """Corners with further ones on the extension of the last piece."""
    step = corners[-1] - corners[-2]
    more = torch.arange(1, count - len(corners) + 1, dtype=torch.float64)
    return torch.cat([corners, corners[-1] + step * more])


def piecewise_linear(images: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Map (N, C, *spatial) by the lines through the corners (contrasts, count) `before` and `after`;
    the outer pieces are extended.
    """
    values = images.double()
    if before.shape[1] == 2:
        contrasts = torch.arange(images.shape[1], device=images.device) % before.shape[0]
        black, white = before[contrasts].unbind(1)
        low, high = after[contrasts].unbind(1)
        slopes = _spread(((high - low) / (white - black))[None], images.dim())
        values = values - _spread(black[None], images.dim())
        return values.mul_(slopes).add_(_spread(low[None], images.dim())).to(images.dtype)

    done: list[Tensor] = []
    for channel in range(images.shape[1]):
        start = before[channel % before.shape[0]]
        end = after[channel % after.shape[0]]
        slopes = (end[1:] - end[:-1]) / (start[1:] - start[:-1])
        part = values[:, channel]
        piece = torch.bucketize(part.detach(), start[1:-1].contiguous(), right=True)
        done.append(end[piece] + (part - start[piece]) * slopes[piece])

    return torch.stack(done, dim=1).to(images.dtype)


class Prepare(nn.Module):
    """Brings images (N, C, *native) to a network's size and intensities, and its results back.

    C holds a slice and `neighbours` slices on each side. A contrast that is NaN throughout is
    missing, and black. `fit`: "pad" keeps the aspect and centres the image in its own background,
    "resize" fills the size, "crop" runs the network at the native size.

    Results get the input's detail where the network's size is another: the fast guided filter (He
    and Sun 2015) without regularisation, whose remainder is kept, so that an output equal to its
    input stays equal. Constant images are not the network's: see `blank`.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        fit: str,
        source: Scale,
        target: Scale,
        black: float,  # network intensity
        neighbours: int = 0,
        guided: bool = True,
    ):
        super().__init__()
        self.size = list(size)
        self.fit = fit
        self.source = source
        self.target = target
        self.black = float(black)
        self.neighbours = neighbours
        self.guided = guided

    def forward(self, native: Tensor) -> Tensor:
        """The network's input, (N, C, *size); the padding is each channel's lowest value."""
        fill = native.flatten(2).amin(dim=2).nan_to_num()
        return self.source.or_black(self.to_size(native, fill), self.black)

    def restore(self, output: Tensor, native: Tensor, seen: Tensor) -> Tensor:
        """Results (N, D, *size) in the target's native intensities, (N, D, *native); `seen` is what
        `forward` made of `native`.
        """
        sides = list(native.shape[2:])
        if not self.sharpens(sides):
            return self.target.inverse(self.enlarge(output, sides))

        shown = self.middle(seen)
        rest, slope = fit_lines(output, shown, least_variance(shown))
        detail = self.detail(self.middle(native), output.shape[1])
        made = self.enlarge(rest, sides) + self.enlarge(slope, sides) * detail
        return self.target.inverse(made)

    def sharpens(self, sides: list[int]) -> bool:
        """Whether results get detail: the network's size is another than these native sides."""
        return self.guided and self.content(sides) != sides

    def detail(self, native: Tensor, channels: int) -> Tensor:
        """Images (N, C, *native), without neighbours, in network intensities, to which the lines of a
        result are applied; the mean of their contrasts where it has another number of channels.
        """
        seen = torch.where(native.isnan(), self.black, self.source(native.nan_to_num()))
        return seen if seen.shape[1] == channels else seen.mean(dim=1, keepdim=True)

    def enlarge(
        self, image: Tensor, sides: list[int], first: int = 0, last: int | None = None
    ) -> Tensor:
        """Undo the padding and the resizing of (N, D, *size); of volumes only these planes."""
        content = self.content(sides)
        for axis, side in enumerate(content):
            image = image.narrow(axis + 2, (image.shape[axis + 2] - side) // 2, side)
        return resize(image, sides, first, last)

    def is_blank(self, shown: Tensor) -> Tensor:
        """Whether all known values of each image (N, C, *spatial), without its neighbours, are equal:
        (N,) bool.
        """
        values = shown.flatten(1)
        missing = values.isnan()
        highest = values.masked_fill(missing, -float("inf")).amax(dim=1)
        return ~(highest > values.masked_fill(missing, float("inf")).amin(dim=1))

    def blank_level(self, shown: Tensor, channels: int) -> Tensor:
        """The target's network intensities (N, channels, *spatial) for blank images: of air the
        target's air; a value brighter than air has no known translation, and becomes black.
        """
        seen = self.level(shown)
        tissue = self.source.tissue
        tissue = tissue.repeat(seen.shape[1] // tissue.shape[0]).to(seen.dtype)
        bright = seen > _spread(tissue[None], seen.dim())
        return self.target_level(torch.where(bright, self.black, seen), channels)

    def level(self, native: Tensor) -> Tensor:
        """Values (N, C, *spatial) in network intensities; for a missing contrast the mean of the
        others, and black where all are missing.
        """
        known = ~native.isnan()
        seen = torch.where(known, self.source(native.nan_to_num()), 0.0)
        count = known.sum(dim=1, keepdim=True)
        usual = torch.where(
            count > 0, seen.sum(dim=1, keepdim=True) / count.clamp(min=1), self.black
        )
        return torch.where(known, seen, usual)

    def target_level(self, seen: Tensor, channels: int) -> Tensor:
        """The target's network intensities for those of the source: the same, but black where the
        domains have different numbers of channels.
        """
        if channels == seen.shape[1]:
            return seen
        return torch.full_like(seen[:, :1], self.black).repeat_interleave(channels, dim=1)

    def middle(self, stacked: Tensor) -> Tensor:
        """The channels of the slice itself, without its neighbours."""
        return middle_slice(stacked, self.neighbours)

    def content(self, sides: list[int]) -> list[int]:
        """The part of the network's size that an image with these sides fills."""
        return content_of(sides, self.size, self.fit)

    def to_size(self, image: Tensor, fill: Tensor) -> Tensor:
        """Bring (N, C, *native) to the network's size, (N, C, *size), in the same units; the padding
        has the values `fill`, (N, C).
        """
        size = list(image.shape[2:]) if self.fit == "crop" else self.size
        return size_images(image, size, self.fit, fill, self.source.nearest)


class Prepared(nn.Module):
    """A network between images in the units of the files: (N, C, *native) to (N, D, *native)."""

    def __init__(self, prepare: Prepare, network: Any):
        super().__init__()
        self.prepare = prepare
        self.network = network

    def forward(self, native: Tensor) -> Tensor:
        prepare = self.prepare
        seen = prepare(native)
        output = prepare.middle(self.network(seen))
        made = prepare.restore(output, native, seen)
        shown = prepare.middle(native)
        blank = prepare.is_blank(shown)
        if bool(blank.any()):
            flat = prepare.target.inverse(prepare.blank_level(shown, made.shape[1]))
            made = torch.where(_spread(blank[:, None], made.dim()), flat, made)

        return made


def as_tensor(image: Any) -> Tensor:
    """An array as a tensor, copied only if torch cannot use its memory; or a tensor as it is."""
    if isinstance(image, Tensor):
        return image
    return torch.from_numpy(np.require(image, np.float32, ("C", "W")))


def neighbour_places(numbers: Tensor, neighbours: int, count: int) -> Tensor:
    """The slices (n, 2 x neighbours + 1) that a network sees for these of `count` slices; at the
    ends the outermost is repeated.
    """
    offsets = torch.arange(-neighbours, neighbours + 1, device=numbers.device)
    return (numbers[:, None] + offsets[None]).clamp(0, count - 1)


def middle_slice(images: Tensor, neighbours: int) -> Tensor:
    """A view of images (N, C, *size), whose channels are a slice and so many neighbours on each
    side: the channels of the slice itself.
    """
    return images.chunk(2 * neighbours + 1, dim=1)[neighbours]


def content_of(sides: list[int], size: list[int], fit: str) -> list[int]:
    """The sides that an image with these sides is resized to before it is centred in `size`."""
    if fit == "crop":
        return sides
    if fit == "resize":
        return size

    scale = float("inf")
    for side, to in zip(sides, size):  # noqa: B905 (TorchScript has no `strict`)
        scale = min(scale, to / side)

    content: list[int] = []
    for side, to in zip(sides, size):  # noqa: B905
        content.append(max(1, min(to, int(round(side * scale)))))
    return content


def size_images(
    images: Tensor, size: list[int], fit: str, fill: Tensor, nearest: bool = False
) -> Tensor:
    """Bring (N, C, *native) to (N, C, *size), in the same units; the padding has the values `fill`,
    (N, C).

    "pad" keeps the aspect: images are resized to the largest that fits. "resize" resizes each axis
    on its own. "crop" keeps the resolution: larger images are cut about their centre. `nearest`:
    by the nearest pixels, for label maps.
    """
    content = content_of(list(images.shape[2:]), size, fit)
    small = pick_nearest(images, content) if nearest else resize(images, content)
    return centre(small, size, fill)


def centre(images: Tensor, size: list[int], fill: Tensor) -> Tensor:
    """Cut (N, C, *spatial) about their centre, or surround them by the values `fill`, (N, C), to
    (N, C, *size).
    """
    for axis, to in enumerate(size, 2):
        cut = images.shape[axis] - to
        if cut > 0:
            images = images.narrow(axis, cut // 2, to)

    if list(images.shape[2:]) == size:
        return images

    canvas = _spread(fill, images.dim())
    canvas = canvas.expand([images.shape[0], images.shape[1]] + size).clone()
    part = canvas
    for axis, to in enumerate(size, 2):
        side = images.shape[axis]
        part = part.narrow(axis, (to - side) // 2, side)

    part.copy_(images)
    return canvas


def pad_to_size(images: Tensor, size: Sequence[int]) -> tuple[Tensor, tuple[slice, ...]]:
    """Pad images (N, C, *sides), centred, to at least as large a `size`; returns them and the box
    they fill.

    Padding reflects the image, or repeats its border if the image is too small for that.
    """
    inside = []
    for axis, (side, full) in enumerate(zip(images.shape[2:], size, strict=True), 2):
        before = (full - side) // 2
        after = full - side - before
        inside.append(slice(before, before + side))
        if full > side:
            around = [0, 0] * (images.ndim - 1 - axis) + [before, after] + [0, 0] * (axis - 2)
            images = pad(images, around, mode="reflect" if after < side else "replicate")

    return images, tuple(inside)


def size_image(
    image: np.ndarray,
    size: Sequence[int],
    fit: str = "pad",
    fill: float | None = None,
    nearest: bool = False,
) -> np.ndarray:
    """`size_images` of one array (C, *native), float32; the padding is `fill`, by default each
    channel's lowest value.
    """
    tensor = as_tensor(image)[None]
    lowest = tensor.flatten(2).amin(dim=2)
    padding = lowest if fill is None else torch.full_like(lowest, fill)
    return size_images(tensor, list(size), fit, padding, nearest)[0].numpy()


def image_intensities(image: np.ndarray, mapping: Any) -> np.ndarray:
    """One array (C, *size) in network intensities, float32; a contrast that is missing is black."""
    return Scale(mapping).or_black(as_tensor(image)[None], mapping.range[0])[0].numpy()


def resize(image: Tensor, size: list[int], first: int = 0, last: int | None = None) -> Tensor:
    """Resize (N, C, *spatial) linearly, axis by axis; averages where an axis shrinks. Of the first
    axis only the places from `first` to before `last`.
    """
    if len(size) == 2:
        return _resize_pictures(image, size)[:, :, first:last]

    planes_last = last is None and size[0] < image.shape[2]  # the fewer planes, the less work
    if not planes_last:
        image = _resize_planes(image, size[0], first, last)
    pictures = _resize_pictures(image.flatten(1, 2), size[1:])
    image = pictures.unflatten(1, (image.shape[1], -1))
    return _resize_planes(image, size[0], 0, None) if planes_last else image


def _resize_pictures(image: Tensor, size: list[int]) -> Tensor:
    """Resize (N, C, H, W): a triangle as wide as the larger of the two steps."""
    if list(image.shape[2:]) == size:
        return image
    if size[1] == 1 and size[0] > 1:  # torch 2.11 mixes the rows of a result of one column
        turned = image.transpose(2, 3)
        row = nn.functional.interpolate(turned, [1, size[0]], mode="bilinear", antialias=True)
        return row.transpose(2, 3)
    return nn.functional.interpolate(image, size, mode="bilinear", antialias=True)


def _resize_planes(image: Tensor, to: int, first: int, last: int | None) -> Tensor:
    """Resize the planes of volumes (N, C, D, H, W) in the same way."""
    side = image.shape[2]
    if side == to:
        return image[:, :, first:last]

    begin, weights = axis_weights(side, to, side / to, first, last)
    part = image.narrow(2, begin, weights.shape[1])
    made = weights.to(image.device, image.dtype) @ part.flatten(3)
    return made.unflatten(3, image.shape[3:])


def axis_weights(
    side: int, count: int, step: float, first: int = 0, last: int | None = None
) -> tuple[int, Tensor]:
    """The weights by which `count` places, `step` apart, about the centre of an axis of `side` pixels
    are made of these: a triangle as wide as the larger of both steps.

    Returns those of the places from `first` to before `last`, (places, pixels) float64, and the first
    pixel that they need; they begin there.
    """
    reach = max(step, 1.0)
    start = (side - (count - 1) * step - 1) / 2  # of the first place
    centres = (start + torch.arange(count, dtype=torch.float64) * step)[first:last, None]
    begin = max(0, int(start + first * step - reach))
    end = min(side, int(start + (first + len(centres) - 1) * step + reach) + 1)
    pixels = torch.arange(begin, end, dtype=torch.float64)
    weights = (1 - (pixels - centres).abs() / reach).clamp(min=0)
    return begin, weights / weights.sum(dim=1, keepdim=True)


def pick_nearest(image: Tensor, size: list[int]) -> Tensor:
    """Resize (N, C, *spatial) by the nearest pixels."""
    for axis, to in enumerate(size):
        places = (2 * torch.arange(to, device=image.device) + 1) * image.shape[axis + 2] // (2 * to)
        image = image.index_select(axis + 2, places)
    return image


def fit_lines(output: Tensor, seen: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Fit outputs (N, D, *spatial) as slope x input + rest by least squares in small windows; returns
    (rest, slope).

    `seen`: the input, matched by channel, or averaged where it has another number of channels.
    `least`: the variance of each image, (N,), up to which a window's slope is 0.
    """
    if seen.shape[1] != output.shape[1]:
        seen = seen.mean(dim=1, keepdim=True).repeat_interleave(output.shape[1], dim=1)

    x = seen.double()
    y = output.double()
    mean_x = _window_mean(x)
    variance = _window_mean(_window_mean(x * x) - mean_x * mean_x)
    covariance = _window_mean(_window_mean(x * y) - mean_x * _window_mean(y))
    varied = variance > _spread(least[:, None], x.dim())
    slope = torch.where(varied, covariance / torch.where(varied, variance, 1.0), 0.0)
    return (y - slope * x).to(output.dtype), slope.to(output.dtype)


def least_variance(seen: Tensor, share: float = MIN_VARIANCE_SHARE) -> Tensor:
    """The variance that counts as none in images (N, C, *spatial): (N,), float64. Its share is an
    argument because TorchScript takes no number of a module.
    """
    values = seen.detach().flatten(1)
    span = values.amax(dim=1).double() - values.amin(dim=1).double()
    return share * span.square()


def _window_mean(images: Tensor) -> Tensor:
    """The mean over windows of three pixels a side; borders are repeated."""
    for axis in range(2, images.dim()):
        last = images.shape[axis] - 1
        total = images.clone()
        total.narrow(axis, 1, last).add_(images.narrow(axis, 0, last))
        total.narrow(axis, 0, last).add_(images.narrow(axis, 1, last))
        total.narrow(axis, 0, 1).add_(images.narrow(axis, 0, 1))
        total.narrow(axis, last, 1).add_(images.narrow(axis, last, 1))
        images = total

    return images / 3 ** (images.dim() - 2)


def _spread(values: Tensor, dims: int) -> Tensor:
    """Values of (N, C) with axes for all pixels, `dims` axes in all."""
    for _ in range(dims - 2):
        values = values.unsqueeze(-1)
    return values
