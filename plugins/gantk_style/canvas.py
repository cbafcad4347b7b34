"""The image that is optimised: what of it the network is shown, where it starts, and how it is finished."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gantk.errors import UserError

LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def shown(image: Tensor, color: str) -> Tensor:
    """What is optimised of an image (N, C, *size): all of it, or its brightness alone where colour is not to change."""
    return image if color == "style" else luminance(image)


def merged(content: Tensor, result: Tensor, color: str) -> Tensor:
    """The result in the content's channels: with its own colours, with the content's, or with none.

    With the content's (Gatys et al. 2016b, "luminance-only transfer") every channel moves as far as the brightness did.
    """
    if color == "content":
        return content + (result - luminance(content))
    return result.expand_as(content) if color == "gray" else result


def luminance(image: Tensor) -> Tensor:
    """The brightness of RGB images, (N, 1, *size); gray ones are it themselves."""
    if image.shape[1] != 3:
        return image
    weights = image.new_tensor(LUMINANCE).view(1, 3, *[1] * (image.ndim - 2))
    return (image * weights).sum(1, keepdim=True)


def noise_like(image: Tensor, limits: tuple[float, float], seed: int) -> Tensor:
    """Uniform noise between the limits, (1, C, *size): one for all images of a batch, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    low, high = limits
    return (low + (high - low) * torch.rand(1, *image.shape[1:], generator=generator)).to(image)


def bounds(content: Tensor, limits: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """The lowest and highest value each image may take, (N, 1, ...): the limits, or the content's own beyond them."""
    axes = tuple(range(1, content.ndim))
    return content.amin(axes, keepdim=True).clamp(max=limits[0]), content.amax(axes, keepdim=True).clamp(min=limits[1])


def total_variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, summed over the axes: (N, C, *size) to (N,)."""
    return torch.stack([image.diff(dim=axis).abs().flatten(1).mean(1) for axis in range(2, image.ndim)]).sum(0)


def smooth_edges(image: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian of `sigma` pixels where the image has strong edges, leave the rest: (N, C, *size).

    What is blended in is 1 at the steepest twentieth of an image's pixels and falls to 0 with the slope, so that the
    seams of a pasted or generated lesion soften and the texture of flat tissue stays. 0: the image itself.
    """
    if sigma < 0:
        raise UserError(f"smooth = {sigma:g} is no width", where="smooth", allowed="0 or more, in pixels")
    if sigma == 0:
        return image
    slopes = torch.gradient(image, dim=list(range(2, image.ndim)))
    steepness = torch.stack(slopes).square().sum((0, 2)).sqrt()  # (N, *size): channels move together
    flat = steepness.flatten(1)
    steep = flat.kthvalue(max(1, math.ceil(0.95 * flat.shape[1])), dim=1).values.clamp(min=1e-12)
    share = (steepness / steep.view(-1, *[1] * (image.ndim - 2))).clamp(max=1.0).unsqueeze(1)
    return image + share * (blurred(image, sigma) - image)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur along every axis of (N, C, *size), edges continued."""
    reach = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    for axis in range(2, image.ndim):
        lines = image.movedim(axis, -1)
        padded = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="replicate")
        image = F.conv1d(padded, kernel).reshape(lines.shape).movedim(-1, axis)
    return image
