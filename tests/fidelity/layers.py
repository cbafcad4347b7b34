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
            _, weight, _, stride, padding, _, transposed = args[:7]
            if transposed:
                kind = "transposed"
                filters = weight.shape[1]
            else:
                kind = "plain"
                filters = weight.shape[0]
            now.layers.append(
                Layer(kind, filters, weight.shape[1], stride[0], padding[0], result.shape[-1])
            )
        elif name in ("addmm", "mm"):
            now.layers.append(Layer("dense", result.shape[-1]))
        elif name in NORMS:  # instance norm is batch norm of the images' channels side by side
            whole = args[0].shape[1] == last.filters or last.kind == "dense"
            last.then.append(NORMS[name] if whole else "instance")
        elif name in ACTIVATIONS and last:
            last.then.append(name)
            # beside a map
            now.others += ["changed skip"] * (args[0].ndim == 4 and args[0].shape[1] > last.filters)
        elif name in ("cat", "add"):
            maps = [
                x
                for x in (args[0] if name == "cat" else args[:2])
                if isinstance(x, Tensor) and x.ndim == 4
            ]
            now.others += [name] * (len(maps) == 2 and maps[0].shape[2:] == maps[1].shape[2:])
        elif any(part in name for part in ("_pad", "upsample", "dropout", "bernoulli")):
            now.others.append(name)


def told_of_generator(call: Pass) -> dict[str, object]:
    """What a report may state of a network that gives an image."""
    hidden = call.layers[:-1]
    last = call.layers[-1]
    plain, up = (
        [layer for layer in call.layers if layer.kind == kind] for kind in ("plain", "transposed")
    )
    down = [layer for layer in plain if layer.stride > 1]
    inner = [layer for layer in up if layer is not last]
    filters = [layer.filters for layer in down]
    lowest = min((layer.side for layer in plain), default=0)
    ahead = [layer for layer in plain if layer is not last]
    return {
        "first_layer": call.layers[0].kind,
        "plain": len(plain),
        "down": len(down),
        "lowest": lowest,
        "up": len(up) + sum("upsample" in name for name in call.others),
        "transposed": [layer.stride for layer in up],
        "first": filters[0] if filters else 0,
        "doubling": doubling(filters),
        "mirrored": [layer.filters for layer in inner] == filters[-2::-1],
        "orders": orders(hidden),
        "orders_down": orders([x for x in ahead if x.side > lowest]),
        "orders_lowest": orders([x for x in plain if x.side == lowest]),
        "orders_up": orders(inner),
        "norms": sorted({layer.norm for layer in hidden if layer.side > 1}),
        "ends": ENDS.get((last.then or [""])[-1], "open") if last.norm == "none" else last.norm,
        "skips": call.others.count("cat"),
        "joined": "cat" in call.others,
        "skips_unchanged": "changed skip" not in call.others,
        "blocks": call.others.count("add"),
        "gates": sum("sigmoid" in layer.then for layer in hidden),
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
