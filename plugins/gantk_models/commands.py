"""`gantk models` and `gantk pack` on the command line; heavy imports wait until they run."""

from __future__ import annotations

import click

from gantk.terminal import (
    Command,
    console,
    json_option,
    overwrite_option,
    say,
    split_names,
    table,
    write_json,
)


def dtype_option(default: str):
    """The option --dtype of commands that write weights."""
    return click.option(
        "--dtype",
        type=click.Choice(["float16", "float32"]),
        default=default,
        show_default=True,
        help="Data type of the weights.",
    )


@click.command(
    cls=Command,
    short_help="List the trained models that come with gantk.",
    section="Use",
    place=4,
    examples=["gantk models", "gantk translate t1t2 t1.nii.gz t2.nii.gz --to T2"],
    then="gantk show model NAME",
)
@json_option("Write the list as JSON too")
def models(json_file, overwrite) -> None:
    """List the trained models that gantk and its plugins ship.

    Commands that use a trained RUN, such as translate and eval, accept the name of a model.
    """
    from gantk.recipe.load import mapping, read_toml
    from gantk.runs.models import all_models, weights_hash

    found = []
    for name, (folder, owner) in sorted(all_models().items()):
        path = folder / "recipe.toml"
        tables = read_toml(path, str(path), "recipe", "`gantk recipes`")[1]
        found.append(
            {
                "name": name,
                "domains": ", ".join(map(str, mapping(tables.get("data")).get("domains") or [])),
                "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
                "summary": str(tables.get("summary", "")),
                "from": owner,
                "sha256": weights_hash(folder),
                "folder": str(folder),
            }
        )

    rows = [
        (m["name"], m["domains"], f"{m['bytes'] / 2**20:.1f} MB", m["from"], m["summary"])
        for m in found
    ]
    if json_file != "-":
        shown = table(("model", "domains", "size", "from", "summary"), rows)
        console().print(shown)

    write_json(json_file, found, overwrite)


@click.command(
    cls=Command,
    short_help="Write a model into a small folder to give away.",
    section="Share",
    place=2,
    examples=["gantk pack runs/first packed_model"],
    then="gantk translate {out} SCAN OUTPUT",
)
@click.argument("run")
@click.argument("out")
@click.option(
    "--card",
    metavar="FILE",
    help="Markdown template for card.md; gantk fills in {facts} and {scores}.",
)
@dtype_option("float16")
@overwrite_option
def pack(run, out, **options) -> None:
    """Pack RUN as a model to share, in the new folder OUT.

    OUT contains the averaged weights, the recipe, the intensity mappings, the scores and a card. It
    contains no images, no names of patients or files and no training state. You use OUT like RUN,
    but cannot resume it. gantk first compares the outputs of both: no pixel may differ by a gray
    level of 255.
    """
    from gantk_models.packing import pack as write

    write(run, out, **options, say=say)


def _options(ctx: click.Context, param: click.Parameter, settings: tuple[str, ...]) -> dict:
    """The options of --set; values stay text, as in train_opt.txt."""
    pairs = [setting.partition("=") for setting in settings]
    if not all(key and equals for key, equals, _ in pairs):
        raise click.BadParameter("give NAME=VALUE, such as --set netG=resnet_6blocks")
    return {key.strip(): value.strip() for key, _, value in pairs}


@click.command(
    "import",
    cls=Command,
    short_help="Make a model of a pix2pix, CycleGAN or CUT checkpoint.",
    section="Share",
    place=1,
    examples=[
        "gantk import checkpoints/maps_cyclegan maps_model --domains T1,T2",
        "gantk translate maps_model t1_slices t2_slices --to T2",
    ],
    then="gantk translate {out} SCAN OUTPUT",
)
@click.argument("folder")
@click.argument("out")
@click.option(
    "--domains",
    default="A,B",
    show_default=True,
    callback=lambda ctx, param, names: split_names(names) or [],
    help="Names of the domains A and B of the training.",
)
@click.option(
    "--set",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_options,
    help="Option that train_opt.txt lacks, by its name there. Repeatable.",
)
@click.option(
    "--gray",
    is_flag=True,
    help="Make a model of one channel from networks of three that saw gray pictures.",
)
@dtype_option("float32")
@overwrite_option
def import_(folder, out, **options) -> None:
    """Make a model in the new folder OUT of FOLDER, a checkpoint folder of
    pytorch-CycleGAN-and-pix2pix, CUT or FastCUT.

    FOLDER holds latest_net_G.pth, or latest_net_G_A.pth and latest_net_G_B.pth, and train_opt.txt.
    You use OUT like a model of `gantk pack`. Its translations equal the results of test.py to one
    gray level. The files are read without running code in them.
    """
    from gantk_models.imports.folder import import_checkpoint

    import_checkpoint(folder, out, **options, say=say)


COMMANDS = [models, import_, pack]
