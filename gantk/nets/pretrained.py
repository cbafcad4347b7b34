"""Pretrained networks: the files of their weights, and timm's networks by name, with weights from a
folder, the hub's cache or the hub, or with random ones.
"""

from __future__ import annotations

import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gantk import hub
from gantk.errors import GantkError, UserError, did_you_mean, one_line, reading_file
from gantk.files import MAX_TENSORS_BYTES, regular_file

VARIABLE = "GANTK_WEIGHTS"  # names a folder of weight files, for machines without a network
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # of weights, the preferred one first
MAX_WEIGHTS_BYTES = 2**33
SUFFIXES = (".safetensors", ".pth", ".bin")


def weights_file(name: str) -> Path | None:
    """The file of that name, with or without its suffix, in $GANTK_WEIGHTS; None if there is none."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    candidates = (Path(folder).expanduser() / f"{name}{suffix}" for suffix in ("", *SUFFIXES))
    return next((path for path in candidates if path.is_file()), None)


def read_state(path: Path, where: str = VARIABLE) -> dict[str, Tensor]:
    """Read a file's tensors by name, without running code in it; of nested dicts, the largest one
    of tensors.
    """
    from safetensors.torch import load_file

    allowed = "a .safetensors file, or a PyTorch file of named tensors"
    with reading_file(path, "weights", where=where, allowed=allowed):
        regular_file(path, max_bytes=MAX_TENSORS_BYTES)
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            try:
                found = torch.load(path, "cpu", weights_only=True)
            except pickle.UnpicklingError:  # torch advises to run the code in it
                raise ValueError(
                    "it is damaged, or it is a pickle file that may run code"
                ) from None

        state = _largest(found) if isinstance(found, dict) else {}
        if not state:
            raise ValueError("it contains no named tensors")
        # strides of 0 make a kilobyte any number of values
        if any(
            each.numel() * each.element_size() > each.untyped_storage().nbytes()
            for each in state.values()
        ):
            raise ValueError("one of its tensors declares more values than it holds")

    return state


def _largest(found: dict) -> dict[str, Tensor]:
    own = {
        key: value
        for key, value in found.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    return max(
        [own, *(_largest(value) for value in found.values() if isinstance(value, dict))], key=len
    )


def timm_model(
    name: str,
    weights: Literal["pretrained", "random"] = "pretrained",
    *,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """Build a network of timm by its name, frozen and in eval mode.

    Example:

        vgg = gantk.timm_model("vgg19.tv_in1k", features_only=True)

    Args:
        name: the name of the network in timm, with that of its weights.
        weights: "pretrained" loads the file of that name in $GANTK_WEIGHTS, else the weights in
            timm's cache, else it downloads them. "random" draws the weights from `seed`; they are
            the same on every machine.
        seed: the seed of random weights.
        options: options of timm: `num_classes`, `in_chans`, `features_only`, ...

    Raises:
        UserError: no weights are available. The message says which file to put where.

    The state of the global random generator does not change. On PyTorch's meta device, which stores
    no values, no weights are loaded.
    """
    import timm

    config = _config(name)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the GPUs' generators
        torch.default_generator.manual_seed(seed)
        if weights == "random" or torch.empty(0).is_meta:
            model = timm.create_model(name, **options)
        else:
            model = _pretrained_network(name, config, options)

    return model.eval().requires_grad_(False)


def _config(name: str) -> Any:
    """timm's configuration for weights of that name; UserError where timm has no such network or
    weights.
    """
    import timm
    from timm.models import get_pretrained_cfg

    with suppress(RuntimeError):
        if config := get_pretrained_cfg(name):
            return config

    raise UserError(
        f"timm has no network with weights '{name}'",
        allowed=timm.list_pretrained(f"{name.split('.')[0]}.*") or None,
        remedy=did_you_mean(name, timm.list_pretrained()),
    )


def _pretrained_network(name: str, config: Any, options: dict[str, Any]) -> nn.Module:
    """Build the network with weights from $GANTK_WEIGHTS, the hub's cache or timm's download;
    UserError without any.
    """
    import timm
    from huggingface_hub import try_to_load_from_cache

    if config.hf_hub_id:
        cached = try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
    else:
        cached = None

    own = weights_file(name) or (Path(cached) if isinstance(cached, str) else None)
    if own is not None:
        return _from_file(name, own, options)

    try:
        if config.hf_hub_id:
            return _from_file(name, _download(config), options)
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # the hub, the network and the disk raise many kinds of errors
        problem = one_line(error)

    folder = os.environ.get(VARIABLE)
    there = f"'{folder}'" if folder else f"a folder, and set {VARIABLE} to this folder"
    raise UserError(
        f"the pretrained weights of '{name}' are not on this machine and cannot be downloaded"
        f" ({problem})",
        where=VARIABLE,
        remedy=(
            f"put {name}.safetensors (or {name}.pth, {name}.bin) into {there}. On a machine with"
            f" internet access, this command writes the file: {_recipe(name)}. Or take seeded random"
            ' weights, which need no file: "random" in place of the name, or as the option weights'
            ' (weights = "random", --weights random)'
        ),
    )


def _download(config: Any) -> Path:
    """The file of weights of a network, downloaded from the hub; GantkError where there is none."""
    repository, _, revision = config.hf_hub_id.partition("@")
    listing = hub.list_files(repository, revision or None)
    for file in (config.hf_hub_filename, *HUB_FILES):
        if file and file in listing.files:
            sizes = {file: MAX_WEIGHTS_BYTES}
            return hub.download_files(repository, listing.commit, sizes, revision or None) / file

    raise GantkError(f"the hub's repository {repository} has none of {', '.join(HUB_FILES)}")


def _from_file(name: str, path: Path, options: dict[str, Any]) -> nn.Module:
    """Build the network with the weights of a file; UserError where they do not fit."""
    import timm

    overlay = {"state_dict": read_state(path), "custom_load": False}
    remedy = f"write it with: {_recipe(name)}"
    with reading_file(path, f"the weights of '{name}'", where=VARIABLE, remedy=remedy):
        # without a head timm ignores missing weights: load the whole network to check the file
        if options:
            timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)

    kept: Any = model.pretrained_cfg
    kept.pop("state_dict", None)  # timm keeps a reference to it, half a gigabyte
    return model


def _recipe(name: str) -> str:
    """A shell command that writes the file of weights."""
    return (
        f'python -c "import timm, safetensors.torch as s; '
        f"s.save_model(timm.create_model('{name}', pretrained=True), '{name}.safetensors')\""
    )
