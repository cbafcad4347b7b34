"""Style transfer (Gatys et al., CVPR 2016): an image with the content of one and the style of
another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor, nn

from gantk.losses.structure import gaussian_blur
from gantk_style.encoder import VGG19
from gantk_style.lbfgs import ImageLBFGS
from gantk_style.objective import Objective, StyleOptions

Watch = Callable[[int, dict[str, Tensor]], None]  # (steps done, losses of each image by name)


def transfer(
    content: Tensor,
    style: Tensor,
    *,
    encoder: VGG19,
    how: StyleOptions,
    steps: int = 100,
    shared: bool = True,
    watch: Watch | None = None,
) -> Tensor:
    """Optimise images to have the content of `content` and the style of `style`; returns them.

    The images of a batch are optimised independently of each other. The best image of all steps is
    returned, so never one worse than the start. Values stay between black and white, or within the
    content's range where that is larger.

    Args:
        content: (N, C, *size) in network intensities, gray or RGB; volumes are processed slice by
          slice.
        style: (M, C, *size), gray or RGB, of any size: one style, the mean of the Gram matrices of
            all. Not `shared`: a style for each content, M = N.
        encoder: the result of `how.encoder`.
        how: options.
        watch: called before every step and after the last.

    UserError where channels or sizes do not fit.
    """
    start, painted = (image.detach().float() for image in (content, style))
    objective = Objective(start, painted, encoder.to(content.device), how, shared=shared)
    canvas = nn.Parameter(start.clone(memory_format=torch.contiguous_format))
    best = _descend(canvas, objective, bounds(start, encoder.range), steps, watch)
    return smooth_edges(best.to(content.dtype), how.smooth)


def bounds(content: Tensor, limits: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Lower and upper bound of each image's values, (N, 1, ...): the limits, or the content's range
    where larger.
    """
    axes = tuple(range(1, content.ndim))
    low = content.amin(axes, keepdim=True).clamp(max=limits[0])
    high = content.amax(axes, keepdim=True).clamp(min=limits[1])
    return low, high


def _descend(
    canvas: nn.Parameter,
    objective: Objective,
    limits: tuple[Tensor, Tensor],
    steps: int,
    watch: Watch | None,
) -> Tensor:
    """Run the optimiser; returns each image's best state."""
    rule = ImageLBFGS([canvas])
    done = count()
    best = canvas.detach().clone()
    lowest = torch.tensor(math.inf, device=canvas.device)

    @torch.enable_grad()
    def closure() -> Tensor:
        nonlocal best, lowest
        canvas.grad = None
        losses = objective(canvas)
        each = torch.stack(list(losses.values())).sum(0)
        each.sum().backward()
        now = each.detach()
        better = (now < lowest).view(-1, *[1] * (canvas.ndim - 1))
        best = torch.where(better, canvas.detach(), best)
        lowest = torch.minimum(now, lowest)
        step = next(done)
        if watch is not None:
            watch(step, {name: loss.detach() for name, loss in losses.items()})

        return now.sum()

    for _ in range(steps):
        rule.step(closure)
        with torch.no_grad():
            # at every step, so that the objective is that of the clipped image
            canvas.clamp_(*limits)

    closure()
    return best


# ---- edges


def smooth_edges(image: Tensor, sigma: float) -> Tensor:
    """Blur (N, C, *size) with a Gaussian of `sigma` pixels at strong edges only; sigma 0: return
    the image.

    The blurred image's share is 1 at the steepest 5 % of an image's pixels and falls to 0 with the
    slope, so that the seams of a pasted or generated lesion soften and the texture of flat tissue
    stays.
    """
    if sigma == 0:
        return image

    axes = [axis for axis in range(2, image.ndim) if image.shape[axis] > 1]
    slopes = torch.gradient(image, dim=axes)
    steepness = torch.stack(slopes).square().sum((0, 2)).sqrt()  # (N, *size): one for all channels
    flat = steepness.flatten(1)
    steep = flat.kthvalue(max(1, math.ceil(0.95 * flat.shape[1])), dim=1).values.clamp(min=1e-12)
    share = (steepness / steep.view(-1, *[1] * (image.ndim - 2))).clamp(max=1.0).unsqueeze(1)
    return image + share * (gaussian_blur(image, sigma) - image)
