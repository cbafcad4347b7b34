"""Style transfer (Gatys et al., CVPR 2016): an image with the content of one and the style of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.nets.pretrained import VGG19, check_colours
from gantk_style.canvas import bounds, merged, noise_like, shown, smooth_edges
from gantk_style.lbfgs import ImageLBFGS
from gantk_style.objective import CONTENT_LAYERS, STYLE_LAYERS, Objective

RATES = {"lbfgs": 1.0, "adam": 0.05}  # a Newton step; change of a pixel in network intensities


def transfer(
    content: Tensor,
    style: Tensor,
    *,
    encoder: VGG19,
    content_layers: Sequence[str] = CONTENT_LAYERS,
    style_layers: Sequence[str] = STYLE_LAYERS,
    content_weight: float = 1.0,
    style_weight: float = 100.0,
    variation: float = 0.0,
    steps: int = 100,
    optimizer: Literal["lbfgs", "adam"] = "lbfgs",
    lr: float | None = None,
    init: Literal["content", "noise", "style"] = "content",
    smooth: float = 0.0,
    color: Literal["style", "content", "gray"] = "style",
    shared: bool = True,
    seed: int = 0,
    watch: Callable[[int, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Images with the content of `content` and the style of `style`, and how the objective fell.

    Every image of a batch is optimised for itself and becomes what it would become alone. Returned is the best image
    that was met, so never one that is worse than the start. Values stay between black and white, or within the
    content's own where those go beyond.

    Args:
        content: (N, C, *size) in network intensities, gray or RGB; volumes are seen slice by slice.
        style: (M, C, *size), of any size: one style, the mean of the Gram matrices of all. Not `shared`: a style for
            each content, M = N.
        encoder: of `encoder_for`, with the layers that are named here.
        init: what to start from; "noise" is drawn from `seed`, the same for every image.
        smooth: sigma in pixels of `smooth_edges`, which finishes the result; 0: not at all.
        color: "style": colours are part of the style; "content": the content keeps its own, and brightness alone
            changes; "gray": the result has none. With the last two, gray and RGB may meet.
        watch: called with (steps done, objective of each image) before every step and after the last.

    Returns the images, like `content`, and the objective, (steps + 1, N), from before the first step to after the last,
    without smoothing. UserError where channels or sizes do not fit.
    """
    if content.is_meta:  # asked for shapes only
        return torch.empty_like(content), content.new_empty(steps + 1, len(content))
    start, painted = (shown(image, color).detach().float() for image in (content, style))
    check_images(start, painted, encoder)
    if not shared and len(style) != len(content):
        raise UserError(f"{len(style)} styles for {len(content)} contents", where="style", allowed="one for each")
    objective = Objective(
        start,
        painted,
        shared=shared,
        encoder=encoder.to(content.device),
        content_layers=content_layers,
        style_layers=style_layers,
        content_weight=content_weight,
        style_weight=style_weight,
        variation=variation,
    )
    painted = painted[:1] if shared else painted
    canvas = nn.Parameter(first_canvas(start, painted, init, encoder.range, seed))
    rule = make_rule(optimizer, [canvas], lr)
    best, history = _descend(canvas, objective, rule, bounds(start, encoder.range), steps, watch)
    return smooth_edges(merged(content, best.to(content.dtype), color), smooth), history


def make_rule(name: str, parameters: Sequence[nn.Parameter], lr: float | None = None) -> torch.optim.Optimizer:
    """The optimizer of canvases: one that moves every image by its own gradient alone."""
    rule = {"lbfgs": ImageLBFGS, "adam": torch.optim.Adam}[name]
    return rule(parameters, lr=RATES[name] if lr is None else lr)


def first_canvas(content: Tensor, style: Tensor, init: str, limits: tuple[float, float], seed: int) -> Tensor:
    """Where the optimisation starts: a new tensor like `content`. UserError where the style has another size."""
    if init == "style" and style.shape[2:] != content.shape[2:]:
        what = f"a style of {list(style.shape[2:])} cannot be the start of an image of {list(content.shape[2:])}"
        raise UserError(what, where="init", remedy='resize the style, or set init = "content"')
    start = noise_like(content, limits, seed) if init == "noise" else {"content": content, "style": style}[init]
    return start.expand_as(content).clone(memory_format=torch.contiguous_format)


def check_images(content: Tensor, style: Tensor, encoder: VGG19) -> None:
    """UserError where the network cannot see the images, or where one is gray and the other is not."""
    check_channels(content, style)
    for name, image in (("content", content), ("style", style)):
        try:
            encoder.check_size(tuple(image.shape[2:]))
        except UserError as error:
            raise error.at(name) from None


def check_channels(content: Tensor, style: Tensor) -> None:
    """UserError where an image is neither gray nor RGB, or where the two differ in that."""
    for name, image in (("content", content), ("style", style)):
        check_colours(image.shape[1], f"the {name}", name)
    if style.shape[1] != content.shape[1]:
        names = {1: "gray", 3: "RGB"}
        what = f"the content is {names[content.shape[1]]} and the style is {names[style.shape[1]]}"
        remedy = 'set color = "content" to change the brightness alone, or color = "gray" for a gray result'
        raise UserError(what, where="color", remedy=remedy)


def _descend(
    canvas: nn.Parameter,
    objective: Objective,
    rule: torch.optim.Optimizer,
    limits: tuple[Tensor, Tensor],
    steps: int,
    watch: Callable[[int, Tensor], None] | None,
) -> tuple[Tensor, Tensor]:
    """The best image met, for each of the batch, and the objective (steps + 1, N)."""
    history: list[Tensor] = []
    best = canvas.detach().clone()

    def closure() -> Tensor:
        canvas.grad = None
        with torch.enable_grad():
            each = torch.stack(list(objective(canvas).values())).sum(0)
            each.sum().backward()
        _keep_better(best, canvas, each.detach(), history)
        if watch is not None:
            watch(len(history) - 1, history[-1])
        return each.detach().sum()

    for _ in range(steps):
        rule.step(closure)
        with torch.no_grad():
            canvas.clamp_(*limits)  # at every step: what the objective judges is what is returned
    closure()
    return best, torch.stack(history)


def _keep_better(best: Tensor, canvas: Tensor, now: Tensor, history: list[Tensor]) -> None:
    if history:
        lowest = torch.stack(history).amin(0)
        better = (now < lowest).view(-1, *[1] * (canvas.ndim - 1))
        best.copy_(torch.where(better, canvas.detach(), best))
    history.append(now)
