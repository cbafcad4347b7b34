"""Pretrained networks: timm's by name, from a folder of files, a cache or the hub; and VGG19's feature maps."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gantk.errors import UserError, did_you_mean

VARIABLE = "GANTK_WEIGHTS"  # names a folder of weight files, for machines without a network
SUFFIXES = (".safetensors", ".pth", ".bin")
PATIENCE = 5.0  # seconds that the hub is given to answer at all; a download then takes what it takes

VGG = "vgg19.tv_in1k"
BLOCKS = (2, 2, 4, 4, 4)  # convolutions between two poolings (Simonyan and Zisserman 2015, table 1, column E)
LAYERS = tuple(f"conv{block}_{number}" for block, count in enumerate(BLOCKS, 1) for number in range(1, count + 1))
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, by colour, in [0, 1]


def timm_model(
    name: str, weights: Literal["pretrained", "random"] = "pretrained", *, seed: int = 0, **options: Any
) -> nn.Module:
    """A network of timm by its name, such as "vgg19.tv_in1k", frozen and in eval mode.

    `options` are timm's own (`num_classes`, `in_chans`, `features_only`, ...). "pretrained" takes the file of that name
    in $GANTK_WEIGHTS where there is one, else what timm has cached, else what it can fetch; without any of these a
    UserError says which file to put where. "random" draws the weights from `seed`, on whatever machine the same ones.
    The global random generator is left as it was. On the meta device, which holds no numbers, nothing is loaded.
    """
    import timm

    config = _config(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the generators of the devices too
        if weights == "random" or torch.empty(0).is_meta:
            model = timm.create_model(name, **options)
        else:
            model = _pretrained(name, config, options)
    return model.eval().requires_grad_(False)


def weights_file(name: str) -> Path | None:
    """The file of that name, with or without its suffix, in $GANTK_WEIGHTS; None where there is none."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    candidates = (Path(folder).expanduser() / f"{name}{suffix}" for suffix in ("", *SUFFIXES))
    return next((path for path in candidates if path.is_file()), None)


def _config(name: str) -> Any:
    """What timm knows of the weights of that name; UserError where it knows no such network or no such weights."""
    import timm
    from timm.models import get_pretrained_cfg

    network = name.split(".")[0]
    if not timm.is_model(network):
        raise UserError(f"timm has no network '{network}'", remedy=did_you_mean(network, timm.list_models()))
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError:
        config = None
    if config is None:
        raise UserError(f"timm has no weights '{name}'", allowed=timm.list_pretrained(f"{network}.*") or "none")
    return config


def _pretrained(name: str, config: Any, options: dict[str, Any]) -> nn.Module:
    """From $GANTK_WEIGHTS, from the hub's cache, or from where timm fetches them: the first that has them."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(config.hf_hub_id, "model.safetensors") if config.hf_hub_id else None
    own = weights_file(name) or (Path(cached) if isinstance(cached, str) else None)
    if own is not None:
        return _from_file(name, own, options)
    problem = _unreachable(config)
    if problem is None:
        try:
            return timm.create_model(name, pretrained=True, **options)
        except Exception as error:  # the hub, the network and the disk each have a family of errors
            problem = _first_line(error)
    folder = os.environ.get(VARIABLE)
    there = f"'{folder}'" if folder else f"a folder, and set {VARIABLE} to it"
    raise UserError(
        f"the pretrained weights of '{name}' are not on this machine and cannot be fetched ({problem})",
        where=VARIABLE,
        remedy=f"put {name}.safetensors (or {name}.pth, {name}.bin) into {there}. Where there is a network, this "
        f'writes it: {_recipe(name)}. Or set weights = "random": seeded weights that need no file',
    )


def _from_file(name: str, path: Path, options: dict[str, Any]) -> nn.Module:
    """The network with the weights of a file; UserError naming it where they are not that network's."""
    import timm

    overlay = {"state_dict": read_state(path), "custom_load": False}
    try:
        if options:  # where a head is dropped timm loads what it finds: the whole network says whether all is there
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except (RuntimeError, KeyError) as error:
        what = f"'{path}' does not hold the weights of '{name}': {_first_line(error)}"
        raise UserError(what, where=VARIABLE, remedy=f"make it with: {_recipe(name)}") from None
    model.pretrained_cfg.pop("state_dict", None)  # timm keeps what it was given, half a gigabyte of it
    return model


def read_state(path: Path, where: str = VARIABLE) -> dict[str, Tensor]:
    """The tensors of a file by name; code in it never runs. Of a training's checkpoint, its largest dict of tensors."""
    from safetensors.torch import load_file

    detail = "it holds no tensors by name"
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # damaged bytes make the readers raise whatever they lead them to
        detail = "it is damaged, or a pickle that may run code" if "weights_only" in str(error) else _first_line(error)
        found = None
    state = _largest(found) if isinstance(found, dict) else {}
    if not state:
        remedy = "it must be a .safetensors file, or one of torch that holds tensors by name; copy or save it again"
        raise UserError(f"'{path}' is not a readable file of weights: {detail}", where=where, remedy=remedy)
    return state


def _largest(found: dict) -> dict[str, Tensor]:
    own = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
    return max([own, *(_largest(value) for value in found.values() if isinstance(value, dict))], key=len)


def _unreachable(config: Any) -> str | None:
    """Why timm cannot fetch these weights, found out quickly; None where it can. Its own tries would take minutes."""
    from huggingface_hub import constants

    if not (config.hf_hub_id or config.url):
        return "timm offers no weights for this network"
    if config.hf_hub_id and constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    address = constants.ENDPOINT if config.hf_hub_id else config.url
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:  # an answer is an answer
        return None
    except (OSError, ValueError) as error:
        return f"no answer from {address}: {_first_line(error)}"
    return None


def _recipe(name: str) -> str:
    """One line of Python that writes the file."""
    return (
        f'python -c "import timm, safetensors.torch as s; '
        f"s.save_model(timm.create_model('{name}', pretrained=True), '{name}.safetensors')\""
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(getattr(error, "reason", None) or error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] or type(error).__name__


class VGG19(nn.Module):
    """Feature maps of VGG19 at named layers, "conv1_1" to "conv5_4", each after its ReLU; frozen.

    `encoder(image)` takes (N, 1 or 3, *size) in network intensities and gives one map a layer, in the order asked for:
    (N, channels, *size / 2^(block - 1)). Gray goes to all three colours. A volume (N, C, D, H, W) is seen slice by
    slice, and its maps keep D. Only as many layers run as the deepest one asked for needs. Poolings average, as Gatys
    et al. (2016, section 2) have them: it gives the smoother images when one is optimised through the network.

    Args:
        layers: which maps; a name that VGG19 does not have is a UserError.
        weights: "pretrained" on ImageNet, or "random", drawn from `seed`: random filters carry style too, coarsely.
        range: network intensities of black and white.
    """

    def __init__(
        self,
        layers: Sequence[str],
        weights: Literal["pretrained", "random"] = "pretrained",
        *,
        seed: int = 0,
        range: tuple[float, float] = (-1.0, 1.0),
    ):
        super().__init__()
        for layer in layers:
            if layer not in LAYERS:
                remedy = did_you_mean(layer, LAYERS)
                raise UserError(f"VGG19 has no layer '{layer}'", allowed=f"{LAYERS[0]} to {LAYERS[-1]}", remedy=remedy)
        if not layers:
            raise UserError("no layer of VGG19 is asked for", allowed=LAYERS)
        self.layers, self.range = tuple(layers), range
        depth = max(map(LAYERS.index, layers)) + 1
        drawn = weights == "random" and not torch.empty(0).is_meta
        found = _random_vgg(seed) if drawn else _convolutions(timm_model(VGG, weights, seed=seed))
        self.blocks = nn.ModuleDict(dict(list(found.items())[:depth]))
        self.pool = nn.AvgPool2d(2)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """The maps, in the order of `layers`."""
        slices = image.transpose(1, 2).flatten(0, 1) if image.ndim == 5 else image
        low, high = self.range
        maps, seen = ((slices - low) / (high - low) - self.mean) / self.deviation, {}
        for name, convolution in self.blocks.items():
            if name.endswith("_1") and name != LAYERS[0]:
                maps = self.pool(maps)
            maps = seen[name] = torch.relu(convolution(maps))
        found = [seen[name] for name in self.layers]
        if image.ndim == 4:
            return found
        return [maps.unflatten(0, (image.shape[0], image.shape[2])).transpose(1, 2) for maps in found]

    def check_size(self, size: tuple[int, ...]) -> None:
        """UserError where an image is too small for the poolings on the way to the deepest layer."""
        deepest = list(self.blocks)[-1]
        least = 2 ** (int(deepest[4]) - 1)
        if min(size[-2:]) < least:
            what = f"an image of {' x '.join(map(str, size))} leaves nothing of the map {deepest} of VGG19"
            remedy = "take earlier layers or larger images"
            raise UserError(what, allowed=f"{least} or more on each side", remedy=remedy)


def check_colours(channels: int, what: str, where: str) -> None:
    """UserError where images of so many channels are neither gray nor RGB: the network has seen photographs only."""
    if channels not in (1, 3):
        said = f"VGG19 sees gray or RGB images, and {what} has {channels} channels"
        raise UserError(said, where=where, allowed="1, 3")


@lru_cache(maxsize=1)
def _random_vgg(seed: int) -> dict[str, nn.Module]:
    """Kept: they never change, and drawing all of VGG19, its 120 M weights of classifier too, takes a second."""
    return _convolutions(timm_model(VGG, "random", seed=seed))


def _convolutions(network: nn.Module) -> dict[str, nn.Module]:
    """VGG19's convolutions by their names."""
    convolutions = [layer for layer in network.features if isinstance(layer, nn.Conv2d)]
    return dict(zip(LAYERS, convolutions, strict=True))
