"""The options of a training of pytorch-CycleGAN-and-pix2pix or CUT, and the recipe that they amount
to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gantk.errors import UserError
from gantk.files import read_file

FILE = "train_opt.txt"
LINE = re.compile(r"^\s*(\w+): (.*?)\s*(?:\[default: .*\])?$", re.M)
# defaults that a model changes
BY_MODEL: dict[str, dict[str, Any]] = {
    "cycle_gan": {"no_dropout": True},
    "pix2pix": {"norm": "batch", "netG": "unet_256", "gan_mode": "vanilla", "pool_size": 0},
    "cut": {"no_dropout": True, "no_antialias": False, "no_antialias_up": False, "pool_size": 0},
}
ModelName = Literal["cycle_gan", "pix2pix", "cut"]
# option -> the values that a recipe has too
CARRIED = {
    "lr_policy": ("linear", "cosine"),
    "gan_mode": ("lsgan", "vanilla", "wgangp", "nonsaturating"),
    "netD": ("basic", "n_layers"),
    "preprocess": ("resize_and_crop", "resize", "none"),
    "dataset_mode": ("unaligned", "aligned"),
    "serial_batches": ("False",),
    "max_dataset_size": ("inf",),
    "lambda_GAN": ("1.0", "1"),
    "netF": ("mlp_sample",),
    "nce_layers": ("0,4,8,12,16",),
    "nce_includes_all_negatives_from_minibatch": ("False",),
    "flip_equivariance": ("False",),
}
# options without influence on what is imported
WITHOUT_EFFECT = re.compile(
    "display_.*|save_.*|.*_dir|.*_freq|init_.*|num_threads|num_test|gpu_ids|name|suffix|phase|verbose"
    "|no_html|use_wandb|wandb_.*|continue_train|epoch_count|load_iter|lr_decay_iters|isTrain|easy_label"
    "|aspect_ratio|normG|pretrained_name|random_scale_max|stylegan2_.*|nThreads"
)
FAST_CUT = {"nce_idt": False, "lambda_NCE": 10.0}  # the defaults of CUT_mode = FastCUT
BLOCKS = {"resnet_9blocks": 9, "resnet_6blocks": 6, "resnet_4blocks": 4}
DEPTHS = {"unet_256": 8, "unet_128": 7}
DROPOUT = 0.5
MAX_OPTIONS_BYTES = 2**20


class Options(BaseModel):
    """The options that decide what a checkpoint computes and how it was trained, with the defaults
    of the program that wrote it.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: ModelName
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
    load_size: int = Field(286, ge=1)
    crop_size: int = Field(256, ge=1)
    dataroot: str = ""
    # of the training alone
    netD: str = "basic"
    ndf: int = Field(64, ge=1)
    n_layers_D: int = Field(3, ge=1)
    normD: Literal["batch", "instance", "none", "syncbatch"] | None = None
    gan_mode: str = "lsgan"
    no_lsgan: bool = False
    pool_size: int = Field(50, ge=0)
    lambda_A: float = 10.0
    lambda_B: float = 10.0
    lambda_identity: float = 0.5
    lambda_L1: float = 100.0
    lambda_NCE: float = 1.0
    nce_idt: bool = True
    nce_T: float = 0.07
    num_patches: int = 256
    netF_nc: int = Field(256, ge=1)
    CUT_mode: str = "CUT"
    n_epochs: float = 100
    n_epochs_decay: float = 100
    batch_size: int = Field(1, ge=1)
    lr: float = 0.0002
    beta1: float = 0.5
    beta2: float = 0.999
    lr_policy: str = "linear"
    no_flip: bool = False

    @property
    def network(self) -> str:
        """The options that decide the shapes of the generator, for a message."""
        names = ["netG", "norm", "input_nc", "output_nc", "ngf"]
        names += [name for name in ("no_antialias", "no_antialias_up") if not getattr(self, name)]
        return ", ".join(f"{name} = {getattr(self, name)}" for name in names)


def read_options(folder: Path, settings: Mapping[str, Any]) -> tuple[Options, list[str]]:
    """Read the options of a checkpoint's folder; `settings` go before those of its file. Returns
    them, and a line for each that the recipe of the import cannot have.

    Raises:
        UserError: an option has a value for which gantk has no network, or `model` is not known.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder '{folder}'",
            where="FOLDER",
            remedy="name a folder checkpoints/NAME",
        )

    values: dict[str, Any] = {}
    if (folder / FILE).is_file():
        text = read_file(folder / FILE, max_bytes=MAX_OPTIONS_BYTES).decode("utf-8", "replace")
        values = {key: value for key, value in LINE.findall(text) if value != "None"}

    unknown = sorted(settings.keys() - Options.model_fields)
    if unknown:
        raise UserError(
            f"'{unknown[0]}' is not an option that an import uses",
            where="--set",
            allowed=sorted(Options.model_fields),
        )
    values |= settings
    if values.get("model") not in get_args(ModelName):
        raise _unknown_model(values.get("model"), folder)

    fast = str(values.get("CUT_mode", "")).lower() == "fastcut"
    values = BY_MODEL[values["model"]] | (FAST_CUT if fast else {}) | values
    if values.get("no_lsgan") in (True, "True"):
        values["gan_mode"] = "vanilla"
    try:
        options = Options.model_validate(values)
        return options, not_carried(options, values)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise UserError(
            f"{key} = {first['input']} cannot be imported: {first['msg'].lower()}",
            where="--set" if key in settings else str(folder / FILE),
        ) from None


def not_carried(options: Options, values: Mapping[str, Any]) -> list[str]:
    """The options that a fine-tuning of the import does not have, as one sentence; [] without any."""
    others = {
        name for name, usual in CARRIED.items() if str(values.get(name, usual[0])) not in usual
    }
    others |= values.keys() - {*Options.model_fields, *CARRIED}
    if options.model == "cycle_gan" and options.lambda_B != options.lambda_A:
        others.add("lambda_B")  # both directions have the weight lambda_A
    if options.lr_policy == "cosine" and options.n_epochs_decay:
        others.add("lr_policy")  # theirs rises again after n_epochs
    listed = [
        f"{name} = {values.get(name, getattr(options, name, None))}"
        for name in sorted(others)
        if not WITHOUT_EFFECT.fullmatch(name)
    ]
    return [f"not in the recipe: {', '.join(listed)}"] if listed else []


def _unknown_model(model: str | None, folder: Path) -> UserError:
    what = f"the model '{model}' cannot be imported"
    if model is None:
        what = f"'{folder}' has no train_opt.txt that names the model that was trained"
    return UserError(
        what,
        where="FOLDER",
        allowed=get_args(ModelName),
        remedy=(
            "add --set model=NAME, and each other option that was not the default, such as"
            " --set netG=resnet_6blocks"
        ),
    )


# ---- the recipe


def generator_table(options: Options) -> dict[str, Any]:
    """The `generator` of a recipe whose network equals the generator of the options.

    Without `eval`, test.py normalises each image by its own statistics, also with batch norm: this
    is an instance norm with a learned scale and offset. A convolution before batch norm has no
    offset there, nor one in a network without norm.
    """
    table: dict[str, Any] = {"name": "resnet" if options.netG in BLOCKS else "unet"}
    table |= {"width": options.ngf} | _norm(options.norm, options.eval)
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


def _norm(norm: str, by_training: bool) -> dict[str, Any]:
    """The options of a network for a norm of the reference."""
    if norm in ("instance", "none"):
        return {"norm": norm}
    if by_training:
        return {"norm": "batch"}
    return {"norm": "instance", "affine": True}


def discriminator_table(options: Options) -> dict[str, Any]:
    """The `discriminator` of a recipe: that of the options, without antialiased layers."""
    norm = _norm(options.normD or options.norm, by_training=False)
    table: dict[str, Any] = {"name": "patchgan", "width": options.ndf} | norm
    if options.netD == "n_layers" and options.n_layers_D != 3:
        table["layers"] = options.n_layers_D + 2
    return table


def recipe_tables(options: Options, domains: Sequence[str], summary: str, gray: bool) -> dict:
    """The recipe of an import: the networks of the options, and their losses and schedule."""
    return {
        "format": 1,
        "summary": summary,
        "method": _method(options) | {"generator": generator_table(options)},
        "data": _data(options, domains, gray),
        "train": _train(options),
        "evaluate": {"metrics": ["psnr", "ssim", "mae"]},
    }


def _method(options: Options) -> dict[str, Any]:
    adversarial = {"lsgan": "ls", "wgangp": "wgan_gp"}.get(options.gan_mode, "bce")
    shared = {"discriminator": discriminator_table(options), "adversarial": adversarial}
    if options.model == "cycle_gan":
        same = options.input_nc == options.output_nc
        identity = options.lambda_identity * options.lambda_A if same else 0.0
        own = {"name": "cyclegan", "cycle": options.lambda_A, "identity": identity}
        return own | {"pool": options.pool_size} | shared

    if options.model == "pix2pix":
        return {"name": "pix2pix", "l1": options.lambda_L1} | shared

    contrastive = {
        "name": "cut",
        "nce": options.lambda_NCE,
        "nce_identity": options.nce_idt,
        "patches": options.num_patches,
        "temperature": options.nce_T,
        "width": options.netF_nc,
    }
    if options.netG in BLOCKS:
        contrastive["layers"] = [0, 2, 3, 4, 5]
    return contrastive | shared


def _data(options: Options, domains: Sequence[str], gray: bool) -> dict[str, Any]:
    fit = "crop"
    if "resize" in options.preprocess:
        fit = "resize"
    elif "scale" in options.preprocess:
        fit = "pad"

    source = {"name": "folders", "path": Path(options.dataroot).name or "data"}
    if options.model == "pix2pix":
        source |= {"name": "aligned", "order": "AB" if options.direction == "AtoB" else "BA"}

    table: dict[str, Any] = {
        "source": source,
        "domains": list(domains),
        "size": [options.crop_size, options.crop_size],
        "fit": fit,
        "intensity": "unit",
        "augment": [] if options.no_flip else ["hflip"],
    }
    channels = {options.input_nc, options.output_nc}
    if gray:
        table["channels"] = 1
    elif len(channels) == 1 and channels < {1, 3}:
        table["channels"] = options.input_nc

    if "crop" in options.preprocess and options.load_size > options.crop_size and fit == "resize":
        share = round(options.crop_size / options.load_size, 4)
        table["augment"].append({"name": "crop", "smallest": share, "largest": share, "p": 1.0})
    return table


def _train(options: Options) -> dict[str, Any]:
    epochs = options.n_epochs + options.n_epochs_decay
    schedule: Any = options.lr_policy
    if schedule == "linear":
        schedule = {"name": "linear", "start": round(options.n_epochs / epochs, 4)}
    elif schedule != "cosine":
        schedule = "constant"

    return {
        "epochs": epochs,
        "batch": options.batch_size,
        "optimizer": {"name": "adam", "lr": options.lr, "betas": [options.beta1, options.beta2]},
        "schedule": schedule,
        "precision": "fp32",
        "ema": 0.0,
    }
