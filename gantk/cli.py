"""The command line: a thin skin on gantk.api. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gantk.cli_data import data
from gantk.errors import Elsewhere, GantkError, Interrupted, UserError
from gantk.plugin.loader import attach_commands, load
from gantk.terminal import console, progress_bar, say
from gantk.version import version_of_gantk

EPILOG = "Start with: gantk run recipes/dualgan_t1t2.toml"


class Commands(click.Group):
    """The group of commands: plugins add theirs, and gantk's own errors end without a traceback."""

    def main(self, *args, **kwargs):
        try:
            return super().main(*args, **kwargs)
        except GantkError as error:
            label = "[yellow]stop[/]" if isinstance(error, Interrupted) else "[bold red]error[/]"
            if not isinstance(error, Elsewhere):
                Console(stderr=True, highlight=False, soft_wrap=True).print(f"{label}  {escape(str(error))}")
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(130)
        except BrokenPipeError:  # `gantk list | head`
            sys.stderr.close()
            sys.exit(0)

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except (click.Abort, KeyboardInterrupt):  # click would end with 1
            sys.exit(130)

    def resolve_command(self, ctx: click.Context, args: list[str]):
        from gantk.errors import did_you_mean

        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = did_you_mean(args[0], self.list_commands(ctx))
            if hint and "Did you mean" not in error.message:  # newer versions of click say so themselves
                error.message += f" {hint}"
            raise


@click.group(
    cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(version_of_gantk(), prog_name="gantk", message="%(prog)s %(version)s")
def cli() -> None:
    """Train, run and score GANs for medical images: one TOML recipe is one experiment."""


cli.add_command(data)

_device = click.option("--device", metavar="D", help="cpu, cuda, cuda:1, mps. Default: the best there is.")


@cli.command()
@click.argument("recipe")
@click.option("--data", metavar="PATH", help="Train on this folder or file instead; the source that fits it is chosen.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key: --set train.steps=200.")
@click.option("--profile", metavar="NAME", help="Apply the recipe's [profile.NAME], such as cpu.")
@click.option("--out", metavar="DIR", help="The run folder. Default: runs/NAME-TIME.")
@_device
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp32"]), help="Arithmetic of the networks.")
@click.option("--seed", type=int, metavar="N", help="Weights, order and augmentation; the split has its own seed.")
@click.option("--allow-leakage", is_flag=True, help="Train although the split leaks; recorded in the run.")
@click.option(
    "--profile-steps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Trace N steps with torch.profiler after a few others; a table, and a trace in profile/ of the run.",
)
@click.option("--try", "trial", is_flag=True, help="Three real steps instead: memory, time, what would make it fit.")
def run(recipe, data, settings, profile, out, device, precision, seed, allow_leakage, profile_steps, trial) -> None:
    """Train RECIPE, score it on held-out images, write a report.

    RECIPE is a path, or the name of a recipe that `gantk recipes` lists.
    """
    from gantk import api

    if trial:
        shorthands = [f'train.precision="{precision}"'] if precision else []
        found = api.predict(recipe, data=data, set=[*settings, *shorthands], profile=profile, device=device)
        for line in found.lines():
            say(line)
        sys.exit(0 if found.fits else 1)
    api.run(
        recipe,
        data=data,
        set=settings,
        profile=profile,
        out=out,
        device=device,
        precision=precision,
        seed=seed,
        allow_leakage=allow_leakage,
        profile_steps=profile_steps,
        say=say,
    )


@cli.command()
@click.argument("run")
@_device
def resume(run, device) -> None:
    """Go on with RUN exactly where it stopped."""
    from gantk import api

    api.resume(run, device=device, say=say)


@cli.command()
@click.argument("run")
@click.argument("input")
@click.argument("output")
@click.option("--to", metavar="DOMAIN", help="Which domain to make, by its name (T2). Default: the recipe's second.")
@click.option("--planes", metavar="PLANES", help="What a 2-D network sees: axial, coronal, sagittal, all (median).")
@click.option("--uncertainty", metavar="KIND", help="Write a second map too: auto, flips, dropout, checkpoints, cycle.")
@click.option("--volume", type=int, metavar="K", help="Which volume of a 4-D file, counted from 0.")
@click.option("--variants", type=int, metavar="N", help="N different translations of each (multimodal methods).")
@click.option("--seed", type=int, default=0, metavar="N", help="Draws the styles of --variants. Default: 0.")
@click.option("--style", metavar="IMAGE", help="Take the style of this image (multimodal methods).")
@_device
def translate(run, input, output, to, planes, uncertainty, volume, variants, seed, style, device) -> None:
    """Translate INPUT with the model of RUN and write OUTPUT.

    RUN is a run folder, a checkpoint of it, or a model written by `gantk export` (.onnx).

    INPUT is a picture (PNG, JPEG, TIFF), a volume (NIfTI, NRRD, MHA), a folder with a DICOM series, or a folder of all
    these; for a run on several contrasts it is a patient's folder with one file for each, or a folder of such folders.

    OUTPUT has INPUT's size, grid and orientation, and the target domain's intensities; a DICOM series becomes a derived
    series with new identifiers. A folder that was translated in part goes on where it was stopped, and a broken file
    does not stop the others.
    """
    from gantk import api

    with progress_bar() as progress:
        api.translate(
            run,
            input,
            output,
            to=to,
            variants=variants,
            seed=seed,
            style=style,
            planes=planes,
            uncertainty=uncertainty,
            volume=volume,
            device=device,
            say=say,
            progress=progress,
        )


@cli.command()
@click.argument("run")
@click.option("--format", "kind", type=click.Choice(["onnx", "monai"]), default="onnx", help="Default: onnx.")
@click.option("--out", required=True, metavar="PATH", help="The .onnx file, or the folder of the MONAI bundle.")
@click.option("--to", metavar="DOMAIN", help="Which direction, by the domain it makes. Default: the recipe's second.")
@click.option("--tolerance", type=float, metavar="T", help="Largest difference from PyTorch, as a share of the range.")
def export(run, kind, out, to, tolerance) -> None:
    """Write the model of RUN as ONNX or a MONAI bundle.

    The file is compared with PyTorch on real images before it is called done. `gantk translate model.onnx IN OUT` needs
    onnxruntime alone; a MONAI bundle is what MONAI and its model zoo exchange.
    """
    from gantk import api

    api.export(run, format=kind, out=out, to=to, tolerance=tolerance, say=say)


@cli.command()
@click.argument("run")
@click.option("-n", "count", type=int, default=64, metavar="N", help="How many images. Default: 64.")
@click.option("--out", required=True, metavar="DIR", help="The folder for them.")
@click.option("--seed", type=int, default=0, metavar="N", help="Another seed, other images. Default: 0.")
@click.option("--label", metavar="CLASS", help="The class to make, for methods trained on classes. Default: in turn.")
@click.option("--no-post", is_flag=True, help="Leave the recipe's [[post]] steps out.")
@_device
def sample(run, count, out, seed, label, no_post, device) -> None:
    """Make images from noise with the model of RUN.

    They have the training images' intensities.
    """
    from gantk import api

    api.sample(run, n=count, out=out, seed=seed, label=label, post=not no_post, device=device, say=say)


@cli.command("eval")
@click.argument("run", required=False)
@click.option("--pred", metavar="DIR", help="Score these images ...")
@click.option("--truth", metavar="DIR", help="... against these, matched by file name.")
@click.option("--metrics", metavar="LIST", help="Comma-separated, such as psnr,ssim,mae.")
@click.option("--uncertainty", metavar="KIND", help="Judge an uncertainty by the errors: auto, flips, dropout, ...")
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON too.")
@_device
def evaluate(run, pred, truth, metrics, uncertainty, json_file, device) -> None:
    """Score RUN on its test split, or files against the truth."""
    import json

    from gantk import api
    from gantk.files import write_file

    if bool(run) == bool(pred or truth) or bool(pred) != bool(truth):
        raise click.UsageError("give a RUN, or both --pred and --truth")
    if json_file and not Path(json_file).absolute().parent.is_dir():
        raise UserError(f"there is no folder '{Path(json_file).parent}'", where="--json", remedy="make it first")
    names = [name.strip() for name in metrics.split(",") if name.strip()] if metrics else None
    if run:
        result = api.evaluate(run, metrics=names, uncertainty=uncertainty, device=device, say=say)
    else:
        result = api.compare(pred, truth, **({"metrics": names} if names else {}), device=device, say=say)
    if json_file:
        write_file(Path(json_file), (json.dumps(result, indent=1) + "\n").encode())


@cli.command("list")
@click.argument("kind", required=False)
def list_(kind) -> None:
    """Everything that a recipe can name, or one KIND of it."""
    from gantk.plugin.registry import KINDS

    registry = load().registry
    kinds = [_kind(kind)] if kind else KINDS
    table = Table(box=None, pad_edge=False)
    for header in ("kind", "name", "from"):
        table.add_column(header)
    for each in kinds:
        for entry in registry.of_kind(each):
            table.add_row(each, entry.name, entry.owner)
    console().print(table)
    _problems()


@cli.command()
@click.argument("kind")
@click.argument("name")
def show(kind, name) -> None:
    """What the part NAME of KIND is, with its options."""
    import inspect

    from gantk.plugin.spec import options_help

    entry = load().registry.get(_kind(kind), name)
    target = entry.load()
    out = console()
    out.print(f"[bold]{entry.kind} {entry.name}[/]  from {escape(entry.owner)}\n")
    out.print(escape(inspect.getdoc(target) or "no description") + "\n")
    table = Table(box=None, pad_edge=False)
    for header in ("option", "type", "default", ""):
        table.add_column(header, overflow="fold")
    for row in options_help(target):
        table.add_row(*map(escape, row))
    out.print(table if table.row_count else "It takes no options.")


@cli.command()
def plugins() -> None:
    """The plugins found, and why any of them did not load."""
    table = Table(box=None, pad_edge=False)
    for header in ("plugin", "distribution", "version", "state"):
        table.add_column(header, overflow="fold")
    for plugin in load().plugins:
        state = f"[red]did not load: {escape(plugin.problem)}[/]" if plugin.problem else "loaded"
        table.add_row(plugin.name, plugin.distribution, plugin.version, state)
    console().print(table)
    for (kind, name), owners in load().registry.contested.items():
        console().print(f"[red]the {kind} '{name}' is offered by {' and '.join(owners)}: nobody has it[/]")


@cli.group(invoke_without_command=True)
@click.pass_context
def recipes(ctx) -> None:
    """The recipes that `gantk run` knows by name."""
    if ctx.invoked_subcommand:
        return
    import tomllib

    from gantk.recipe.load import all_recipes

    table = Table(box=None, pad_edge=False)
    for header in ("recipe", "summary", "from"):
        table.add_column(header, overflow="fold")
    for name, (path, owner) in sorted(all_recipes().items()):
        try:
            summary = tomllib.loads(path.read_text("utf-8")).get("summary", "")
        except (OSError, ValueError) as error:
            summary = f"not readable: {error}"
        table.add_row(name, escape(str(summary)), owner)
    console().print(table)


@recipes.command("copy")
@click.argument("name")
@click.argument("target", required=False)
def copy_recipe(name, target) -> None:
    """Copy the recipe NAME to TARGET (default: NAME.toml here) as a start for your own."""
    from gantk.files import write_file
    from gantk.recipe.load import find_recipe

    path, _ = find_recipe(name)
    target = Path(target or path.name)
    if target.is_dir():
        target = target / path.name
    if target.exists():
        raise UserError(f"'{target}' exists already", remedy="name another target")
    if not target.parent.is_dir():
        raise UserError(f"there is no folder '{target.parent}'", remedy="make it first")
    write_file(target, path.read_bytes())
    say(f"copied   {target}")


@cli.group()
def new() -> None:
    """Start something of your own."""


@new.command("plugin")
@click.argument("name")
@click.option("--folder", default=".", metavar="DIR", help="Where to put it. Default: here.")
def new_plugin(name, folder) -> None:
    """Write a small package NAME with a method, a recipe and a contract test, all green as written."""
    from gantk.plugin import scaffold

    path = scaffold.new_plugin(name, Path(folder))
    say(f"written  {path}")
    say(f"next     pip install -e {path} && pytest {path}")


@cli.command()
def doctor() -> None:
    """The machine, the versions and the plugins, and what is amiss."""
    from gantk.machine.doctor import findings

    table = Table(box=None, pad_edge=False, show_header=False)
    amiss = 0
    for name, value, problem in findings():
        amiss += bool(problem)
        table.add_row(name, escape(value), f"[red]{escape(problem)}[/]" if problem else "[green]ok[/]")
    console().print(table)
    sys.exit(1 if amiss else 0)


def _kind(kind: str) -> str:
    """`generators` means `generator`; an unknown kind is an error of the registry's."""
    from gantk.plugin.registry import KINDS

    single = {"losses": "loss"}.get(kind, kind.removesuffix("s") if kind not in KINDS else kind)
    load().registry.of_kind(single)
    return single


def _problems() -> None:
    for name, problem in load().registry.broken.items():
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[yellow]plugin {name} did not load: {escape(problem)}[/]"
        )


def main() -> None:
    """The `gantk` command: ours, and whatever the plugins attach."""
    attach_commands(cli)
    cli.main(prog_name="gantk")


if __name__ == "__main__":
    main()
