"""The field that lays a translation on its target, found for each pair by itself by Gauss-Newton steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk_reggan.network import moved

# By how much images are made smaller, in 2-D; points a side of the bend, 0 for an affine map alone; whether to blur.
LEVELS = (4, 0, True), (4, 3, True), (2, 4, True), (1, 6, False)
LEAST = 0.1  # differences below count by their squares, those above by themselves
RIDGE = 1e-3  # on what a field is a sum of, so that there is one answer
RATE = 0.01  # of the running mean of zooms
SLOPE = 0.1  # a change of intensity from pixel to pixel that is half an edge


class Search(nn.Module):
    """Finds T for each pair: edges of x, at first, and of y^, later, are laid on those of y, and y^ on y.

    The zoom that fields have in the mean is taken off: it is no misalignment, but heads that G makes too small.
    """

    def __init__(self, steps: int, stiffness: float, limit: float):
        super().__init__()
        self.options = {"steps": steps, "stiffness": stiffness, "limit": limit}
        self.register_buffer("zoom", torch.zeros(()))  # running mean over the fields of a training

    @torch.no_grad()
    def forward(self, source: Tensor, fake: Tensor, real: Tensor, progress: Tensor) -> Tensor:
        late = (2 * progress).clamp(max=1)
        with torch.autocast(real.device.type, enabled=False):
            own = edges(real)
            shown = torch.cat([(1 - late) * edges(source), late * edges(fake), fake.float()], 1)
            like = torch.cat([(1 - late) * own, late * own, real.float()], 1)
            field, places = registered(shown, like, **self.options), centred(own)
            self.zoom.lerp_(zoom(field, places, own), RATE)
            return field - self.zoom * places


@torch.no_grad()
def registered(image: Tensor, like: Tensor, steps: int, stiffness: float, limit: float) -> Tensor:
    """Find the field T that lays images (N, C, *size) on those they shall be `like`: (N, dims, *size) float32, pixels.

    For each pair by itself, T minimises the mean of |like - image o T| over pixels, its channels one vector, and
    `stiffness` / 2 of the squared gradient of T's bend: `steps` of Gauss-Newton, reweighted, at each of LEVELS,
    from coarse to fine (Lucas & Kanade 1981; instance optimisation, Balakrishnan et al. 2019).
    """
    size, dims = like.shape[2:], like.ndim - 2
    field = like.new_zeros(len(like), dims, *size, dtype=torch.float32)
    for scale, points, blurs in LEVELS:
        shown = [max(4, side // (scale * (dims - 1))) for side in size]  # volumes are halved once more
        pair = [F.interpolate(each.float(), shown, mode="area") for each in (image, like)]
        pair = [blurred(each, 1.0) for each in pair] if blurs else pair
        basis, stiff = functions(shown, points, like.device)
        ridge = RIDGE / len(basis) * torch.eye(len(basis), device=like.device)
        before = resized(field, shown).flatten(2)
        weights = solved(basis @ basis.mT / basis.shape[1] + ridge, basis @ before.mT / basis.shape[1])
        for _ in range(steps):
            weights = weights + improvement(*pair, basis, weights, stiffness * stiff, ridge)
        field = resized((weights.mT @ basis).unflatten(2, shown), size).clamp(-limit, limit)
    return field


def improvement(image: Tensor, like: Tensor, basis: Tensor, weights: Tensor, stiff: Tensor, ridge: Tensor) -> Tensor:
    """Compute what a Gauss-Newton step adds to the weights (N, K, dims) of the functions (K, pixels)."""
    shown, dims, pixels = like.shape[2:], like.ndim - 2, basis.shape[1]
    at = moved(image, (weights.mT @ basis).unflatten(2, shown))
    slopes = torch.stack(torch.gradient(at, dim=list(range(2, at.ndim))), 1).flatten(3)  # (N, dims, C, pixels)
    apart = (like - at).flatten(2)
    share = 1 / apart.square().sum(1, keepdim=True).sqrt().clamp_min(LEAST) / pixels
    down = ((slopes * apart[:, None]).sum(2) * share) @ basis.mT - (stiff @ weights).mT  # (N, dims, K)
    curved = down.new_zeros(*down.shape, *down.shape[1:])
    for one in range(dims):
        for other in range(one, dims):
            along = (slopes[:, one] * slopes[:, other]).sum(1, keepdim=True) * share
            curved[:, one, :, other] = curved[:, other, :, one] = (basis * along) @ basis.mT
        curved[:, one, :, one] += stiff + ridge
    return solved(curved.flatten(3).flatten(1, 2), down.flatten(1)[..., None]).view_as(down).mT


def functions(size: Sequence[int], points: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the basis of a field, (K, pixels), affine maps and hats, and its stiffness (K, K), 0 for affine maps."""
    lines = torch.meshgrid(*(torch.linspace(-1, 1, side, device=device) for side in size), indexing="ij")
    whole, dims = torch.stack([torch.ones_like(lines[0]), *lines]), len(size)
    hats = torch.eye(points**dims, device=device).view(points**dims, 1, *[points] * dims)
    hats = resized(hats, size, False)[:, 0] if points else whole[:0]
    changes = [torch.cat([0 * whole, hats]).diff(dim=axis).flatten(1) for axis in range(1, dims + 1)]
    return torch.cat([whole, hats]).flatten(1), sum(each @ each.mT / each.shape[1] for each in changes)


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric positive definite systems, without waiting for the device."""
    return torch.cholesky_solve(right, torch.linalg.cholesky_ex(matrix)[0])


def resized(maps: Tensor, size: Sequence[int], in_pixels: bool = True) -> Tensor:
    """Resize maps (N, C, *size) linearly; `in_pixels`: channels are displacements along the axes, and scale too."""
    before, mode = maps.shape[2:], "bilinear" if len(size) == 2 else "trilinear"
    maps = F.interpolate(maps, list(size), mode=mode, align_corners=True)
    if not in_pixels:
        return maps
    return torch.stack([maps[:, axis] * (size[axis] / before[axis]) for axis in range(len(size))], 1)


def edges(image: Tensor) -> Tensor:
    """Return the strength of edges, 0 to 1, (N, 1, *size) float32: much the same in every contrast of one head."""
    at = blurred(image.float().mean(1, keepdim=True), 0.7)
    slope = sum(each.square() for each in torch.gradient(at, dim=list(range(2, at.ndim)))).sqrt()
    return slope / (slope + SLOPE)


def blurred(image: Tensor, deviation: float) -> Tensor:
    """Blur images (N, C, *size) by a Gaussian of up to a pixel; edges are repeated."""
    line = torch.exp(-0.5 * (torch.arange(-2, 3, device=image.device) / deviation).square())
    dims, convolve = image.ndim - 2, F.conv2d if image.ndim == 4 else F.conv3d
    for axis in range(dims):
        kernel = (line / line.sum()).view(1, 1, *[-1 if n == axis else 1 for n in range(dims)])
        pad = [2 * (n // 2 == dims - 1 - axis) for n in range(2 * dims)]  # the last axis comes first
        kernel = kernel.expand(image.shape[1], *[-1] * (dims + 1))
        image = convolve(F.pad(image, pad, mode="replicate"), kernel, groups=image.shape[1])
    return image


def centred(share: Tensor) -> Tensor:
    """Return coordinates (N, dims, *size) in pixels from the centre of gravity of `share` (N, 1, *size)."""
    lines = (torch.arange(float(side), device=share.device) for side in share.shape[2:])
    places, axes = torch.stack(torch.meshgrid(*lines, indexing="ij")), tuple(range(2, share.ndim))
    return places - (places * share).sum(axes, keepdim=True) / share.sum(axes, keepdim=True).clamp_min(1e-6)


def zoom(field: Tensor, places: Tensor, share: Tensor) -> Tensor:
    """Fit the zoom of each field by least squares, weighed by `share`, and return their mean; 0: none."""
    along, whole = ((share * places * each).flatten(1).sum(1) for each in (field, places))
    return (along / whole.clamp_min(1e-6)).mean()
