"""Networks of timm by name, with weights from a folder of files, the hub's cache or the hub; or drawn from a seed."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gantk.errors import UserError, did_you_mean, told
from gantk.nets.pretrained import VARIABLE, read_state, weights_file

PATIENCE = 5.0  # seconds that the hub is given to answer at all; a download then takes what it takes


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
            problem = told(error)
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
        what = f"'{path}' does not hold the weights of '{name}': {told(error)}"
        raise UserError(what, where=VARIABLE, remedy=f"make it with: {_recipe(name)}") from None
    model.pretrained_cfg.pop("state_dict", None)  # timm keeps what it was given, half a gigabyte of it
    return model


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
        return f"no answer from {address}: {told(getattr(error, 'reason', error))}"
    return None


def _recipe(name: str) -> str:
    """One line of Python that writes the file."""
    return (
        f'python -c "import timm, safetensors.torch as s; '
        f"s.save_model(timm.create_model('{name}', pretrained=True), '{name}.safetensors')\""
    )
