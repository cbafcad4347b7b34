"""`gantk import`: a checkpoint folder of pytorch-CycleGAN-and-pix2pix or CUT as a packed model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gantk import Model, __version__, registry
from gantk.errors import UserError
from gantk.files import expect_replaceable, whole_folder, write_file
from gantk.machine.runtime import start
from gantk.plugin.spec import bind
from gantk.recipe.load import load_recipe
from gantk.runs.models import CARD, weights_in_words
from gantk.runs.trained import build_method
from gantk.terminal import Say
from gantk_models.imports.options import (
    Options,
    generator_table,
    read_options,
    recipe_tables,
)
from gantk_models.imports.weights import Weights
from gantk_models.packing import to_dtype, write_model
from gantk_models.shipped_card import OURS, fill_card, text_of

AnyPath = str | os.PathLike[str]
DOMAINS = ("A", "B")
RANGE = (-1.0, 1.0)
LEVELS = 255  # gray levels into which the range is divided


def import_checkpoint(
    folder: AnyPath,
    out: AnyPath,
    *,
    domains: Sequence[str] = DOMAINS,
    set: Mapping[str, Any] | None = None,
    gray: bool = False,
    dtype: Literal["float16", "float32"] = "float32",
    overwrite: bool = False,
    say: Say = print,
) -> Path:
    """Write the generators of a checkpoint folder as a packed model, which gives the results of
    their program's test.py.

    Args:
        folder: the folder checkpoints/NAME, with latest_net_G.pth, or latest_net_G_A.pth and
            latest_net_G_B.pth, and train_opt.txt.
        out: the new folder.
        domains: the names of A and B.
        set: options that go before those of train_opt.txt, by their names there. `eval` and
            `epoch` are those of test.py.
        gray: make models of one channel from networks of three that were trained on gray pictures.
        dtype: the type in which weights are stored.
        overwrite: whether to replace a folder that gantk did not write.
        say: called with each line of output.

    Returns:
        The path of the new folder.

    Raises:
        UserError: a file is missing, or a layer does not fit the options. No folder is written.
    """
    folder = Path(folder)
    out = Path(out)
    expect_replaceable([out], overwrite, "OUT")
    if len(domains) != 2:
        raise UserError(
            f"{len(domains)} domains are named", where="--domains", allowed="two, such as T1,T2"
        )
    options = read_options(folder, set or {})
    if options.direction == "BtoA":
        domains = [*reversed(domains)]

    state, channels = _generators(folder, options, gray, say)
    summary = f"{' <-> '.join(domains)}: {options.netG} of a {options.model} checkpoint, imported."
    tables = recipe_tables(options, domains, summary, gray)
    model = load_recipe(tables).check()
    method = build_method(model, channels, (), RANGE, start("cpu", "fp32", channels_last=False))
    missing = method.state_dict().keys() - state.keys()
    left_out = sorted({f"{name.partition('.')[0]}." for name in missing})
    mapping = registry().get("intensity", "unit").load()().state()
    meta = {
        "method": model.method.name,
        "steps": 0,
        "domains": list(domains),
        "channels": channels,
        "classes": [],
        "intensity": {"a": mapping, "b": mapping},
        "values": {},
        "packed": {"gantk": __version__, "name": out.name, "left_out": left_out},
    }
    weights = {f"model.{name}": to_dtype(tensor, dtype) for name, tensor in state.items()}
    with whole_folder(out, record=True) as made:
        write_model(made, 0, weights, meta, tables, {})
        write_file(made / CARD, fill_card(text_of(OURS), out.name, made, dtype).encode())
        Model.load(made, "cpu")

    for line in _notes(options):
        say(f"note     {line}")
    say(f"written  {out}, {dtype}, {weights_in_words(out)}")
    return out


def _notes(options: Options) -> list[str]:
    """What a user should know about the results of an import."""
    notes = [
        "recipe.toml trains with the defaults of losses and schedule, not with those of train_opt.txt"
    ]
    if "batch" in options.norm and not options.eval:
        notes.append(
            "batch norm takes the statistics of each image, as test.py does without"
            " --eval; --set eval=true takes those of the training"
        )
    if not options.no_dropout:
        notes.append(
            "dropout is off in use; test.py leaves it on without --eval, so that its"
            " results are random"
        )
    return notes


def _generators(
    folder: Path, options: Options, gray: bool, say: Say
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The weights of the generators, and the number of channels of each domain."""
    a, b = options.input_nc, options.output_nc
    networks = [("G", "g_ab", a, b)]
    if options.model == "cycle_gan":
        networks = [("G_A", "g_ab", a, b), ("G_B", "g_ba", b, a)]

    table = generator_table(options)
    filters = 2 * (table.get("down") == "blur") + 2 * (table["up"] == "linear")
    state = {}
    for file, name, inputs, outputs in networks:
        weights = Weights(folder / f"{options.epoch}_net_{file}.pth")
        if table["name"] == "unet":
            weights.skips_last()

        ours = bind("generator", table)(inputs, outputs, 2)
        fitted = weights.fit(ours, options.network, filters)
        if gray:
            ours.load_state_dict(fitted)
            say(_gray_line(file, ours.eval(), options.crop_size))
            weights.average_colours()
            of_one = bind("generator", table)(1, 1, 2)
            fitted = weights.fit(of_one, options.network, filters)

        state |= {f"{name}.{key}": tensor for key, tensor in fitted.items()}
        say(f"read     {weights.path.name}: {options.network}")

    return state, {"a": 1, "b": 1} if gray else {"a": a, "b": b}


@torch.no_grad()
def _gray_line(name: str, network: nn.Module, side: int) -> str:
    """How far the three channels that become one differ."""
    noise = torch.rand(1, 1, side // 16, side // 16, generator=torch.Generator().manual_seed(0))
    picture = nn.functional.interpolate(noise, (side, side), mode="bilinear") * 2 - 1
    outputs = network(picture.expand(-1, 3, -1, -1))
    scale = LEVELS / (RANGE[1] - RANGE[0])
    apart = float((outputs.amax(1) - outputs.amin(1)).max()) * scale
    return (
        f"gray     {name}: its three channels differ by up to {apart:.2g} gray levels of {LEVELS} on"
        " smooth noise; the model of one channel has their mean"
    )
