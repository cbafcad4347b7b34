"""The options of a training of pytorch-CycleGAN-and-pix2pix or CUT, and the recipe that they amount
to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gantk.errors import UserError
from gantk.files import read_file
from gantk.plugin.spec import check

FILE = "train_opt.txt"
LINE = re.compile(r"^\s*(\w+): (.*?)\s*(?:\[default: .*\])?$", re.M)
# defaults that a model changes
BY_MODEL: dict[str, dict[str, Any]] = {
    "cycle_gan": {"no_dropout": True},
    "pix2pix": {"norm": "batch", "netG": "unet_256"},
    "cut": {"no_dropout": True, "no_antialias": False, "no_antialias_up": False},
}
METHODS = {"cycle_gan": "cyclegan", "pix2pix": "pix2pix", "cut": "cut"}
BLOCKS = {"resnet_9blocks": 9, "resnet_6blocks": 6, "resnet_4blocks": 4}
DEPTHS = {"unet_256": 8, "unet_128": 7}
DROPOUT = 0.5
# the defaults of those programs, with which a fine-tuning of the import begins
TRAIN = {
    "epochs": 200,
    "batch": 1,
    "schedule": {"name": "linear", "start": 0.5},
    "precision": "fp32",
    "ema": 0.0,
}
MAX_OPTIONS_BYTES = 2**20


class Options(BaseModel):
    """The options that decide what a checkpoint computes, with the defaults of the program that
    wrote it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Literal["cycle_gan", "pix2pix", "cut"]
    netG: Literal["resnet_9blocks", "resnet_6blocks", "resnet_4blocks", "unet_256", "unet_128"] = (
        "resnet_9blocks"
    )
    norm: Literal["batch", "instance", "none", "syncbatch"] = "instance"
    input_nc: int = Field(3, ge=1)
    output_nc: int = Field(3, ge=1)
    ngf: int = Field(64, ge=1)
    no_dropout: bool = False
    no_antialias: bool = True
    no_antialias_up: bool = True
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    epoch: str = "latest"
    eval: bool = False  # of test.py: statistics of the training in place of each image's own
    preprocess: str = "resize_and_crop"
    crop_size: int = Field(256, ge=1)

    @property
    def network(self) -> str:
        """The options that decide the shapes of the generator, for a message."""
        names = ["netG", "norm", "input_nc", "output_nc", "ngf"]
        names += [name for name in ("no_antialias", "no_antialias_up") if not getattr(self, name)]
        return ", ".join(f"{name} = {getattr(self, name)}" for name in names)


def read_options(folder: Path, settings: Mapping[str, Any]) -> Options:
    """Read the options of a checkpoint's folder; `settings` go before those of its file.

    Raises:
        UserError: an option has a value for which gantk has no network, or `model` is not known.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder '{folder}'",
            where="FOLDER",
            remedy="name a folder checkpoints/NAME",
        )

    values = {}
    if (folder / FILE).is_file():
        text = read_file(folder / FILE, max_bytes=MAX_OPTIONS_BYTES).decode("utf-8", "replace")
        values = {
            key: value
            for key, value in LINE.findall(text)
            if key in Options.model_fields and value != "None"
        }

    values |= settings
    defaults = BY_MODEL.get(str(values.get("model")), {})
    try:
        return check(Options, defaults | values, "an import")
    except UserError as error:
        key = ".".join(map(str, error.path))
        raise error.at(f"{folder / FILE}, or --set {key}=VALUE") from None


# ---- the recipe


def generator_table(options: Options) -> dict[str, Any]:
    """The `generator` of a recipe whose network equals the generator of the options.

    Without `eval`, test.py normalises each image by its own statistics, also with batch norm: this
    is an instance norm with a learned scale and offset. A convolution before batch norm has no
    offset there, nor one in a network without norm.
    """
    table = {"name": "resnet" if options.netG in BLOCKS else "unet"}
    table["width"] = options.ngf
    if options.norm in ("instance", "none"):
        table["norm"] = options.norm
    elif options.eval:
        table["norm"] = "batch"
    else:
        table |= {"norm": "instance", "affine": True}
    if options.norm != "instance":
        table["bias"] = False

    if options.netG in BLOCKS:
        table["blocks"] = BLOCKS[options.netG]
        table["down"] = "stride" if options.no_antialias else "blur"
        table["up"] = "transpose" if options.no_antialias_up else "linear"
    else:
        table |= {"depth": DEPTHS[options.netG], "up": "transpose"}

    if not options.no_dropout:
        table["dropout"] = DROPOUT
    return table


def recipe_tables(options: Options, domains: Sequence[str], summary: str, gray: bool) -> dict:
    """The recipe of an import: the generator of the options; the losses of the method, and the
    schedule of the program, have their defaults.
    """
    method = {"name": METHODS[options.model], "generator": generator_table(options)}
    if options.model == "cycle_gan" and options.input_nc != options.output_nc:
        method["identity"] = 0.0
    return {
        "format": 1,
        "summary": summary,
        "method": method,
        "data": _data(options, domains, gray),
        "train": TRAIN,
        "evaluate": {"metrics": ["psnr", "ssim", "mae"]},
    }


def _data(options: Options, domains: Sequence[str], gray: bool) -> dict[str, Any]:
    fit = "crop"
    if "resize" in options.preprocess:
        fit = "resize"
    elif "scale" in options.preprocess:
        fit = "pad"

    source = {"name": "folders", "path": "data"}
    if options.model == "pix2pix":
        source |= {"name": "aligned", "order": "AB" if options.direction == "AtoB" else "BA"}

    table = {
        "source": source,
        "domains": list(domains),
        "size": [options.crop_size, options.crop_size],
        "fit": fit,
        "intensity": "unit",
        "augment": ["hflip"],
    }
    channels = {options.input_nc, options.output_nc}
    if gray:
        table["channels"] = 1
    elif len(channels) == 1 and channels < {1, 3}:
        table["channels"] = options.input_nc

    return table
