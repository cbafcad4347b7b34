"""One direction of a trained method as a network of plain tensors, written down by torch.export."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gantk.errors import UserError
from gantk.method import Method, check_networks
from gantk.nets.blocks import InstanceNorm

LARGEST = 16384  # pixels a side that an exported network of any size is declared for
PROBED = 128  # pixels: a rule for sizes that repeats after more than so many is taken for none


@dataclass(frozen=True)
class Program:
    """A network written down by torch.export, and what of its input may change from call to call."""

    exported: torch.export.ExportedProgram
    batch: bool  # any number of images; else one
    sizes: dict[str, int] | None  # see `sizes_of`; None: the size that it was trained at alone
    limits: tuple[str, ...] = ()  # why it is less than it could be, in words


class Translation(nn.Module):
    """A method's translation into one domain: images (N, C, *size) to (N, D, *size), float32."""

    def __init__(self, method: Method, to: str):
        super().__init__()
        self.method, self.to_domain = method, to

    def forward(self, image: Tensor) -> Tensor:
        return self.method.translate(image, self.to_domain).float()


class Sampling(nn.Module):
    """A method's images from noise: (N, latent), and labels (N,) where it knows classes, to (N, C, *size), float32."""

    def __init__(self, method: Method):
        super().__init__()
        self.method, self.images = method, method.sampler()

    def forward(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        return self.images(noise, label).float()


class AxisByAxis(nn.Module):
    """Instance or group norm whose means are taken along one axis after the other, for runtimes that add up in one go.

    onnxruntime's own kernel sums all positions of a map in float32: nine residual blocks at 256 x 256 are then
    1.4e-4 of the range off, and 4e-6 this way, which is a tenth slower there and a third at 96 x 96.
    """

    def __init__(self, norm: InstanceNorm | nn.GroupNorm):
        super().__init__()
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else 0  # 0: each channel is one
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (self.groups or x.shape[1], -1))
        centred = grouped - self.mean(grouped)
        y = (centred * (self.mean(centred.square()) + self.eps).rsqrt()).flatten(1, 2)
        if self.weight is None:
            return y
        shape = (1, -1, *[1] * (x.ndim - 2))
        return y * self.weight.reshape(shape) + self.bias.reshape(shape)

    def mean(self, x: Tensor) -> Tensor:
        """Over all axes behind the groups."""
        for axis in range(x.ndim - 1, 1, -1):
            x = x.mean(axis, keepdim=True)
        return x


def exact_norms(network: nn.Module) -> nn.Module:
    """A copy of a network with `AxisByAxis` in place of its instance and group norms."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, (InstanceNorm, nn.GroupNorm)):
                setattr(module, name, AxisByAxis(child))
    return network


def plain_copy(method: Method, use: Callable[[Method], object]) -> Method:
    """A copy for inference in float32 on the CPU that holds only the networks which `use(method)` runs.

    Discriminators, and the networks of the other direction, are no part of what is exported.
    """

    found = copy.copy(method)
    found._modules, found._parameters, found._buffers = copy.deepcopy(
        (method._modules, method._parameters, method._buffers)
    )
    found.to("cpu", memory_format=torch.contiguous_format).float().eval().requires_grad_(False)
    whole = {name: child for name, child in found._modules.items() if child is not None}
    used, hooks = set(), []
    for name, child in whole.items():
        for module in child.modules():
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: used.add(name)))
    with torch.no_grad():
        use(found)
        for hook in hooks:
            hook.remove()
        found._modules = {name: child if name in used else nn.Identity() for name, child in whole.items()}
        try:
            use(found)
        except AttributeError:  # something of a network is used without running it
            found._modules = whole
    return found


def sizes_of(method: Method) -> dict[str, int] | None:
    """The sides of images that the networks say they take, {"multiple", "smallest"}; None: no size but their own."""
    size = tuple(method.geometry.size)

    def taken(change: int) -> bool:
        try:
            check_networks(method, tuple(side + change for side in size))
        except UserError:
            return False
        return min(size) + change > 0

    multiple = next((step for step in range(1, PROBED + 1) if taken(step)), None)
    if multiple is None or any(side % multiple for side in size):
        return None
    smallest = min(size)
    while taken(smallest - multiple - min(size)):
        smallest -= multiple
    return {"multiple": multiple, "smallest": max(smallest, 2 * multiple)}


def programs(network: nn.Module, example: tuple[Tensor, ...], sizes: dict[str, int] | None) -> Iterator[Program]:
    """The network as torch.export sees it, the most general form that it allows first.

    `example` holds at least two images. Of an exporter's failure at one form the caller goes on with the next: any
    batch at any size, any batch at this size, one image at this size. UserError where none is left.
    """
    from torch.export import Dim, export

    limits, reason, found = (), "", False
    fits = sizes is not None and example[0].ndim > 2 and min(example[0].shape[2:]) >= sizes["smallest"]
    for batch, free in [(True, True)] * fits + [(True, False), (False, False)]:
        inputs = example if batch else tuple(each[:1] for each in example)
        axes = {0: Dim("batch", min=1, max=4096)} if batch else {}
        if free:
            step = sizes["multiple"]
            least, most = max(2, sizes["smallest"] // step), LARGEST // step
            axes |= {k: step * Dim(f"side{k}", min=least, max=most) for k in range(2, inputs[0].ndim)}
        shapes = tuple({k: axis for k, axis in axes.items() if k < each.ndim} for each in inputs)
        try:
            with quiet(), torch.no_grad():
                exported = export(network, inputs, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # torch.export raises whatever the network's own code leads it to
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        else:
            found = True
            yield Program(exported, batch, sizes if free else None, limits)
        limits += ("one size alone" if free else "one image at a time",)
    if not found:
        what = f"the translation is more than a pass through networks, or they cannot be traced: {reason[:200]}"
        raise UserError(what, remedy="translate with the run folder itself")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing of what exporters print, log and warn about their own insides: what went wrong is in their errors."""
    silent, before = io.StringIO(), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
