"""What networks compute, layer by layer: their operations as torch sees them, whatever modules they
are made of.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

ACTIVATIONS = ("leaky_relu", "relu", "tanh", "sigmoid", "elu", "gelu", "silu", "softplus")
NORMS = {
    "native_batch_norm": "batch",
    "_native_batch_norm_legit": "batch",
    "native_group_norm": "group",
}
ENDS = {"tanh": [-1, 1], "sigmoid": [0, 1]}


@dataclass
class Layer:
    """A convolution or dense layer, and the norms and activations behind it in their order."""

    kind: str  # "plain", "transposed", "dense"
    filters: int
    inputs: int = 0  # of a plain one
    stride: int = 1
    padding: int = 0
    side: int = 1  # of its map
    then: list[str] = field(default_factory=list)

    @property
    def norm(self) -> str:
        return next((name for name in self.then if name not in ACTIVATIONS), "none")


@dataclass
class Pass:
    """One call of a network: its layers, and what it does between them."""

    channels: int  # that it was given
    layers: list[Layer] = field(default_factory=list)
    # "cat", "add", "dropout", poolings, enlargements, frames
    others: list[str] = field(default_factory=list)


class Watched(TorchDispatchMode):
    """Keeps every call of these networks as a `Pass`, by their names."""

    def __init__(self, networks: dict[str, nn.Module]):
        super().__init__()
        self.passes = {name: [] for name in networks}
        self.now = None
        for name, network in networks.items():
            network.register_forward_pre_hook(
                lambda _, given, name=name: self._begin(name, given[0])
            )
            network.register_forward_hook(lambda *_: setattr(self, "now", None))

    def _begin(self, name: str, given: Tensor) -> None:
        self.now = Pass(given.shape[1])
        self.passes[name].append(self.now)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if self.now is not None:
            self._keep(self.now, operation.overloadpacket.__name__.rstrip("_"), args, result)
        return result

    def _keep(self, now: Pass, name: str, args: tuple, result) -> None:
        last = now.layers[-1] if now.layers else None
        if name == "convolution":
            now.layers.append(_convolution(args, result))
        elif name in ("addmm", "mm"):
            now.layers.append(Layer("dense", result.shape[-1]))
        elif name in NORMS:
            last.then.append(_norm(name, args[0], last))
        elif name in ACTIVATIONS and last:
            last.then.append(name)
            beside_a_map = args[0].ndim == 4 and args[0].shape[1] > last.filters
            if beside_a_map:
                now.others.append("changed skip")
        elif name in ("cat", "add"):
            if _joins_two_maps(args[0] if name == "cat" else args[:2]):
                now.others.append(name)
        elif any(part in name for part in ("_pad", "upsample", "dropout", "bernoulli")):
            now.others.append(name)


def _convolution(args: tuple, result: Tensor) -> Layer:
    _, weight, _, stride, padding, _, transposed = args[:7]
    inputs = weight.shape[1]
    if transposed:
        kind = "transposed"
        filters = weight.shape[1]
    else:
        kind = "plain"
        filters = weight.shape[0]

    return Layer(kind, filters, inputs, stride[0], padding[0], result.shape[-1])


def _norm(name: str, given: Tensor, last: Layer) -> str:
    """Instance norm is batch norm of the images' channels side by side."""
    of_all_images = given.shape[1] == last.filters or last.kind == "dense"
    return NORMS[name] if of_all_images else "instance"


def _joins_two_maps(given) -> bool:
    maps = [x for x in given if isinstance(x, Tensor) and x.ndim == 4]
    return len(maps) == 2 and maps[0].shape[2:] == maps[1].shape[2:]


def told_of_generator(call: Pass) -> dict[str, object]:
    """What a report may state of a network that gives an image."""
    *hidden, last = call.layers
    plain = [layer for layer in call.layers if layer.kind == "plain"]
    up = [layer for layer in call.layers if layer.kind == "transposed"]
    upsampled = sum("upsample" in name for name in call.others)
    filters = [layer.filters for layer in plain if layer.stride > 1]
    lowest = min((layer.side for layer in plain), default=0)
    return {
        "layers": len(call.layers),
        "first_layer": call.layers[0].kind,
        "plain": len(plain),
        "down": len(filters),
        "lowest": lowest,
        "up": len(up) + upsampled,
        "transposed": [layer.stride for layer in up],
        "first": filters[0] if filters else 0,
        "doubling": doubling(filters),
        "norms": sorted({layer.norm for layer in hidden if layer.side > 1}),
        "ends": _end(last),
        "skips": call.others.count("cat"),
        "joined": "cat" in call.others,
        "skips_unchanged": "changed skip" not in call.others,
        "blocks": call.others.count("add"),
        "gates": sum("sigmoid" in layer.then for layer in hidden),
        **_orders_of_generator(plain, up, last, lowest),
        "orders": orders(hidden),
        "mirrored": [layer.filters for layer in up if layer is not last] == filters[-2::-1],
    }


def _end(last: Layer) -> object:
    """The range of a network's values, or the norm that is its last operation."""
    if last.norm != "none":
        return last.norm
    if not last.then:
        return "open"
    return ENDS.get(last.then[-1], "open")


def _orders_of_generator(
    plain: list[Layer], up: list[Layer], last: Layer, lowest: int
) -> dict[str, list[str]]:
    """What stands behind the layers on the way down, at the lowest level and on the way up."""
    ahead = [layer for layer in plain if layer is not last]
    return {
        "orders_down": orders([layer for layer in ahead if layer.side > lowest]),
        "orders_lowest": orders([layer for layer in plain if layer.side == lowest]),
        "orders_up": orders([layer for layer in up if layer is not last]),
        "units": [" ".join(layer.then[:2]) for layer in ahead if layer.norm != "none"],
    }


def told_of_discriminator(call: Pass) -> dict[str, object]:
    """What a report may state of a network that judges an image."""
    hidden = call.layers[:-1]
    other = any("_pad" in name and "constant" not in name for name in call.others) or not all(
        x.padding for x in hidden
    )
    filters = [layer.filters for layer in hidden]
    return {
        "layers": len(call.layers),
        "filters": filters,
        "doubling": doubling(filters),
        "orders": orders(hidden),
        "strides": [layer.stride for layer in hidden],
        "paddings": sorted({layer.padding for layer in hidden}),
        "padding": "other" if other else "zeros",
        "norms": [layer.norm for layer in hidden],
        "scores": "map" if call.layers[-1].side > 1 else "one",
    }


def orders(layers: list[Layer]) -> list[str]:
    """Norms and activations in the orders in which they stand behind some layers."""
    return sorted({" ".join(layer.then) for layer in layers})


def doubling(filters: list[int]) -> bool:
    """Whether each layer has twice as many filters as the one before, up to the most there are."""
    pairs = zip(filters, filters[1:], strict=False)
    return len(set(filters)) > 1 and all(
        wide == min(2 * narrow, max(filters)) for narrow, wide in pairs
    )
