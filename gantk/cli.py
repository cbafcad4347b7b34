"""The command line: a thin skin on `gantk.api`; nothing heavy is imported before a command needs
it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

# `from gantk import api` would ask the plugins for it, whose errors `main` catches
import gantk.api as api
import gantk.terminal as terminal
from gantk import __version__
from gantk.errors import (
    FailedOnOtherRank,
    GantkError,
    Interrupted,
    printable,
    unforeseen_message,
)
from gantk.guest import guest
from gantk.plugin.loader import attach_commands, load, plugin_note
from gantk.progress import clear_progress
from gantk.terminal import (
    Command,
    CommandGroup,
    by_section,
    choose_reading,
    complain,
    data_option,
    device_option,
    json_option,
    layout_option,
    line_printer,
    overwrite_option,
    profile_option,
    say,
    set_option,
    split_names,
    warn,
    write_json,
)

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
EXAMPLES = (
    "gantk run dualgan_t1t2                         # train on synthetic heads",
    "gantk plan SCANS                               # a recipe for your scans",
    "gantk translate t1t2 t1.nii.gz t2.nii.gz       # use the shipped model",
    "gantk COMMAND --help                           # more about a command",
)


class Commands(CommandGroup):
    """The group of all commands, to which plugins add theirs; each error ends as one message without
    a traceback.
    """

    def main(self, *args, **kwargs):
        try:
            try:
                return self._main_with_answers(*args, **kwargs)
            finally:
                clear_progress()
                sys.stdout.flush()  # here, so that a full disk is reported
        except GantkError as error:
            self._leave(error)
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            stop: BaseException | None = error
            while stop is not None and not isinstance(stop, Interrupted):
                stop = stop.__context__

            if stop is not None:  # its message could not be printed: the terminal is closed
                _drop_output()
                self._leave(stop)
            if isinstance(error, BrokenPipeError):  # `gantk list | head`
                sys.stderr.close()
                sys.exit(0)

            try:
                sys.stdout.flush()
            except (OSError, ValueError):
                _drop_output()

            complain("error", unforeseen_message(error))
            sys.exit(1)

    def _main_with_answers(self, args: Sequence[str] | None = None, *others, **kwargs):
        """Run the command; a question about names that is answered on the terminal runs it again."""
        given = list(sys.argv[1:] if args is None else args)
        while True:
            try:
                return super().main(given, *others, **kwargs)
            except GantkError as error:
                answer = getattr(error, "answer", None)
                if answer is None or not (sys.stdin.isatty() and sys.stdout.isatty()):
                    raise
                choice = choose_reading(error)
                end = given.index("--") if "--" in given else len(given)
                given[end:end] = answer(choice)

    @staticmethod
    def _leave(error: GantkError) -> NoReturn:
        """Print a failure and exit with its code."""
        if not isinstance(error, FailedOnOtherRank):
            style = "bold red" if error.label == "error" else "yellow"
            complain(error.label, error.on_command_line(), style)

        sys.exit(error.exit_code)

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except click.ClickException as error:  # its message quotes an argument
            vars(error)["message"] = printable(error.message)  # click declares it final
            raise
        except (click.Abort, KeyboardInterrupt):  # click would end with 1
            sys.exit(130)
        except Exception as error:
            error.add_note(f"while running `gantk {ctx.invoked_subcommand}`")
            if note := plugin_note(error):
                error.add_note(note)
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, each with its whole first sentence, which click would cut
        at the window's edge.
        """
        width = max(map(len, self.commands))
        for section, names in by_section(self.commands).items():
            with formatter.section(section):
                rows = []
                for name in names:
                    command = self.commands[name]
                    if not command.hidden:
                        rows.append((name.ljust(width), command.get_short_help_str(limit=400)))
                formatter.write_dl(rows)


def _drop_output() -> None:
    """Drop unwritten output, which Python would flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@click.group(cls=Commands, examples=EXAMPLES, context_settings=SETTINGS)
@click.version_option(__version__, prog_name="gantk", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Train, run and score GANs for medical images. One TOML recipe describes one experiment."""
    if ctx.invoked_subcommand not in ("plugins", "doctor"):  # these show them
        for plugin in load().plugins:
            if plugin.problem and not plugin.disabled:
                from gantk.plugin.faults import switched_off

                warn(switched_off(plugin))


# ---- trained models


@cli.command(
    short_help="Train a recipe, score the model, write a report.",
    section="Start",
    place=1,
    examples=[
        "gantk run dualgan_t1t2                      # on synthetic heads",
        "gantk run dualgan_t1t2 --data SCANS         # on your scans",
        "gantk run mine.toml --set train.steps=500   # your recipe, one key changed",
    ],
)
@click.argument("recipe")
@data_option
@set_option
@layout_option
@profile_option
@click.option("--out", metavar="DIR", help="Run folder. Default: runs/NAME-TIME.")
@device_option
@click.option(
    "--precision",
    type=click.Choice(["auto", "bf16", "fp32"]),
    help="Number format of the networks. Default: the recipe's.",
)
@click.option(
    "--seed",
    type=int,
    metavar="N",
    help="Seed of weights, order and augmentation. The split has its own seed.",
)
@click.option(
    "--allow-leakage", is_flag=True, help="Train although the split leaks. The run records this."
)
@click.option(
    "--track",
    multiple=True,
    metavar="NAME",
    help="Log to tensorboard, wandb or mlflow. Repeatable.",
)
@click.option(
    "--try",
    is_flag=True,
    help="Run a few real steps only: print memory, time and settings that fit.",
)
@json_option("Write what --try measures as JSON too")
def run(recipe, json_file, overwrite, **options) -> None:
    """Train the model of RECIPE, score it on held-out images and write a report.

    RECIPE is a path, or the name of a recipe that `gantk recipes` lists. Without --data, a bundled
    recipe trains on synthetic heads.
    """
    if options.pop("try"):
        from gantk.lookup.trial_commands import try_recipe

        return try_recipe(recipe, json_file, overwrite, **options)

    if json_file:
        raise click.UsageError("--json needs --try")

    api.run(recipe, **options, overwrite=overwrite, say=say)


@cli.command(
    short_help="Continue a stopped training exactly where it stopped.",
    section="Scale",
    place=1,
    examples=["gantk resume runs/first"],
)
@click.argument("run")
@device_option
def resume(run, device) -> None:
    """Continue the training of RUN exactly where it stopped.

    RUN is a run folder. A finished run is scored and reported again; with more train.steps
    in RUN/recipe.toml it trains on.
    """
    api.resume(run, device=device, say=say)


ONE_RUN = "only RUN, INPUT and OUTPUT are taken. Quote a pattern of runs, an ensemble: 'runs/fold*'"


class FilesByContrast(Command):
    """A command whose option `--from T1=FILE` may be written `--t1 FILE`.

    Which contrasts a model has is known only when it is loaded, after the options are read.
    Therefore each name that usually means a contrast, such as t1, t1ce, t2w and flair, is an option
    here, and the model refuses what it does not know. Contrasts of other names take `--from`.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with `--t1 FILE` and `--t1=FILE` read as `--from t1=FILE`."""
        known = {name for param in self.params for name in param.opts}
        known.update(ctx.help_option_names)
        rest = list(args)
        parsed = []
        while rest:
            argument = rest.pop(0)
            if argument == "--":
                parsed += [argument, *rest]
                break

            option, sign, value = argument.partition("=")
            if option in known or not _is_contrast_option(option):
                parsed.append(argument)
                continue
            if not sign:
                if not rest:
                    raise click.BadOptionUsage(option, f"Option '{option}' requires a file.", ctx)
                value = rest.pop(0)
            parsed += ["--from", f"{option[2:]}={value}"]

        try:
            return super().parse_args(ctx, parsed)
        except click.UsageError as error:
            if "extra argument" not in error.message:
                raise
            raise click.UsageError(f"{error.message}: {ONE_RUN}", ctx) from None


def _is_contrast_option(option: str) -> bool:
    if not option.startswith("--"):
        return False

    from gantk.catalog.contrasts import CONTRASTS  # imports numpy

    return option[2:].lower() in CONTRASTS


def split_files(texts: Sequence[str]) -> dict[str, str]:
    """The files of `--from NAME=FILE` by name; a usage error for a text without a name, and for a
    name given twice.
    """
    files = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not name or not path:
            raise click.BadParameter(
                f"'{text}' is not of the form NAME=FILE, such as T1=scan.nii.gz.",
                param_hint="'--from'",
            )
        if name in files:
            raise click.BadParameter(f"two files are given for {name}.", param_hint="'--from'")
        files[name] = path

    return files


@cli.command(
    short_help="Translate a file, a folder or a DICOM series.",
    section="Use",
    place=1,
    examples=[
        "gantk translate t1t2 t1.nii.gz t2.nii.gz    # the shipped model",
        "gantk translate runs/first SCANS translated  # a folder",
        "gantk translate RUN --t1 a.nii.gz --t2 b.nii.gz --to FLAIR flair.nii.gz",
    ],
    then="gantk eval {run} --data SCANS: its scores on scans of your own",
    cls=FilesByContrast,
)
@click.argument("run")
@click.argument("input", metavar="[INPUT]")
@click.argument("output", metavar="OUTPUT", required=False)
@click.option(
    "--to",
    metavar="DOMAIN",
    help="Domain or contrast to make (T2). Default: the recipe's second domain, or what is missing.",
)
@click.option(
    "--from",
    "files",
    multiple=True,
    metavar="NAME=FILE",
    help="File of a contrast, in place of INPUT; --t1 FILE is short for --from T1=FILE. Repeat it.",
)
@click.option(
    "--uncertainty",
    is_flag=True,
    help="Write a map of how much the models of an ensemble differ, too.",
)
@click.option(
    "--label",
    metavar="CLASS",
    help="Class of the images, such as tumour, for a model that was trained with classes.",
)
@click.option("--volume", type=int, metavar="K", help="Volume of a 4-D file, counted from 0.")
@click.option(
    "--variants",
    type=int,
    metavar="N",
    help="Write N different translations of each input (multimodal methods).",
)
@click.option(
    "--seed", type=int, default=0, metavar="N", help="Seed of the styles of --variants. Default: 0."
)
@click.option(
    "--style", metavar="IMAGE", help="Translate in the style of this image (multimodal methods)."
)
@layout_option
@click.option(
    "--format",
    metavar="KIND",
    help="File type of the output: tif, png, nii.gz ... Default: the input's.",
)
@overwrite_option
@device_option
def translate(run, input, output, files, **options) -> None:
    """Translate INPUT with the model of RUN and write the result to OUTPUT.

    RUN is a run folder, a checkpoint, a model written by `gantk export` (.onnx), or the name of a
    shipped model. RUN1,RUN2,... and a pattern such as 'DIR/fold-*' are ensembles: the output is the
    mean.

    INPUT is a picture (PNG, JPEG, TIFF), a volume (NIfTI, NRRD, MHA), a folder with a DICOM series,
    a folder of these, or a CSV that lists them. For a run on several contrasts, a folder is a
    patient's, with one file or DICOM series for each contrast, or one of such folders. Or name the
    files, in place of INPUT: --t1 FILE --t2 FILE. A run that makes any contrast from others
    (anytoany) makes those that a patient lacks.

    OUTPUT has the size, grid and orientation of INPUT, and the intensities of the target domain. A
    DICOM series becomes a derived series with new identifiers. If a folder was translated in part,
    gantk continues. A damaged file does not stop the others.
    """
    given = input
    if files:
        if output is not None:
            raise click.UsageError("INPUT and files of contrasts cannot be combined.")
        given = split_files(files)
        output = input

    if output is None:
        raise click.UsageError("Missing argument 'OUTPUT'.")

    api.translate(run, given, output, **options, say=say)


@cli.command(
    short_help="Write a model as ONNX or as a MONAI bundle.",
    section="Share",
    place=1,
    examples=["gantk export runs/first --out model.onnx"],
    then="gantk translate {out} SCAN OUTPUT",
)
@click.argument("run")
@click.option(
    "--format",
    default="onnx",
    metavar="NAME",
    help="Format: onnx, monai, or another that `gantk list exporter` names.",
)
@click.option(
    "--out",
    required=True,
    metavar="PATH",
    help="The .onnx file, or the folder of the MONAI bundle.",
)
@click.option(
    "--to",
    metavar="DOMAIN",
    help="Domain to make, by its name. Default: the recipe's second domain.",
)
@click.option(
    "--label",
    metavar="CLASS",
    help="Class to translate, such as tumour, for a model that was trained with classes.",
)
@overwrite_option
def export(run, **options) -> None:
    """Write the model of RUN as ONNX or as a MONAI bundle.

    gantk compares the file with PyTorch on real images before it counts as written. `gantk
    translate model.onnx IN OUT` runs its network by onnxruntime. A MONAI bundle is the format of
    MONAI and its model zoo.
    """
    api.export(run, **options, say=say)


@cli.command(
    short_help="Generate images from noise.",
    section="Use",
    place=2,
    examples=["gantk sample runs/tumours -n 64 --out images"],
    then="gantk eval {run}",
)
@click.argument("run")
@click.option("-n", type=int, default=64, metavar="N", help="Number of images. Default: 64.")
@click.option("--out", required=True, metavar="DIR", help="Folder for the images.")
@click.option("--seed", type=int, default=0, metavar="N", help="Seed of the noise. Default: 0.")
@click.option(
    "--label",
    metavar="CLASS",
    help="Class to generate, for conditional methods. Default: the classes in turn.",
)
@click.option("--no-post", is_flag=True, help="Do not apply the [[post]] steps of the recipe.")
@overwrite_option
@device_option
def sample(run, no_post, **options) -> None:
    """Generate images from noise with the model of RUN.

    The images have the intensities of the training images; pictures of 16 bits use their whole
    range instead.
    """
    api.sample(run, post=not no_post, **options, say=say)


@cli.command(
    "eval",
    short_help="Score a run again, or compare two folders of images.",
    section="Judge",
    place=1,
    examples=[
        "gantk eval runs/first                             # a run, on its test patients",
        "gantk eval t1t2 --data SCANS --json scores.json   # a model, on pairs of your own",
        "gantk eval runs/first t1t2 --data SCANS           # which is better",
        "gantk eval --pred translated --truth real_t2      # two folders of files",
    ],
    then="gantk translate {run} SCAN OUTPUT",
)
@click.argument("run", required=False)
@click.argument("others", nargs=-1, metavar="[OTHER...]")
@click.option(
    "--data", metavar="PATH", help="Score RUN on the pairs of this file or folder instead."
)
@click.option("--to", metavar="DOMAIN", help="Score only images of this domain (CT), with --data.")
@click.option("--pred", metavar="DIR", help="Folder of images to score.")
@click.option("--truth", metavar="DIR", help="Folder of the true images, matched by name or visit.")
@click.option(
    "--match",
    is_flag=True,
    help="Give the predictions the truth's mean and spread first, by one line for all files.",
)
@click.option(
    "--patient",
    metavar="REGEX",
    help="A regular expression for the patient in file names: --patient '^(p\\d+)'.",
)
@click.option(
    "--set",
    multiple=True,
    metavar="KEY=VALUE",
    help="How --data is read: --set data.source.mask=seg. Repeatable.",
)
@layout_option
@click.option(
    "--truth-layout", default="", metavar="PATTERN", help="The same for the files of --truth."
)
@click.option(
    "--metrics",
    metavar="LIST",
    help="Metrics, separated by commas (gantk list metric). Default: the recipe's; of files psnr,ssim,mae.",
)
@click.option(
    "--figures",
    metavar="DIR",
    help="Also write figures and tables of models on --data for a paper.",
)
@json_option("Write the result as JSON too")
@device_option
def evaluate(
    run,
    others,
    data,
    to,
    pred,
    truth,
    match,
    patient,
    truth_layout,
    metrics,
    figures,
    json_file,
    overwrite,
    **options,
) -> None:
    """Score RUN on its held-out test images, or a folder of images against the truth.

    The result is a table with the strongest baseline for each score. metrics.json and the report
    have all details.

    With --data, RUN and OTHER models are scored on whole files of other pairs of their domains, on
    one scale of gray values, patient by patient. Patients that one of them was trained on are left
    out. Folds of one recipe are one model: each translates the patients that it has not seen. A
    metric of sets, such as kid, needs no pairs.
    """
    files = {"match": match, "patient": patient or "", "truth_layout": truth_layout}
    asks_data = others or options["set"] or run and options["layout"]
    refusals = {
        "give either a RUN, or both --pred and --truth": (
            bool(run) == bool(pred or truth) or bool(pred) != bool(truth)
        ),
        "--match, --patient, --truth-layout need --pred and --truth": run and any(files.values()),
        "--set, --layout of a RUN, and OTHER, need --data SCANS: `gantk eval RUN --data SCANS`": (
            asks_data and not data
        ),
        "--data needs a RUN": data and not run,
        "--figures needs --data; of a run: `gantk report RUN --figures DIR`": figures and not data,
        "--to needs --data SCANS: a run's own scores have all directions": to and not data,
    }
    for message, is_refused in refusals.items():
        if is_refused:
            raise click.UsageError(message)

    names = split_names(metrics)
    options["say"] = line_printer(json_file)
    from gantk.metrics.compare_folders import PAIR_METRICS, are_of_file_pairs, compare

    of_files = names or PAIR_METRICS
    models = {}
    if others or figures or (data and are_of_file_pairs(of_files)):
        from gantk.metrics.compare_models import (
            compare_models,
            load_models,
            makes_single_images,
        )

        models = load_models([run, *others], options["device"], options["say"])
        if not (others or figures or all(map(makes_single_images, models.values()))):
            models = {}
    found: dict
    if not run:
        del options["set"]
        found = compare(pred, truth, metrics=of_files, **files, **options)
    elif models:
        comparison = compare_models(models, data, metrics=of_files, to=to, **options)
        found = comparison.dump()
        if figures:
            from gantk.report.patients.comparing import write_model_figures

            write_model_figures(comparison, figures, overwrite=overwrite, say=options["say"])
        elif not json_file:
            options["say"]("note     these scores are not saved; --json FILE saves them")
    else:  # on its own scale, or as sets
        if to:
            raise click.UsageError(
                "--to needs a model of single contrasts, and metrics of pairs. Without --to all"
                f" directions of '{run}' are scored"
            )
        found = api.evaluate(run, metrics=names, data=data, **options)
    write_json(json_file, found, overwrite)


# ---- images


@cli.group(
    cls=CommandGroup,
    short_help="Check a folder of images, or download public ones.",
    section="Look",
    place=6,
    examples=["gantk data check SCANS"],
)
def data() -> None:
    """Check images before a training, or download public images."""


def _attach_core_commands() -> None:
    """Add the commands that have modules of their own."""
    from gantk.data.check.command import check_command
    from gantk.lookup.commands import COMMANDS
    from gantk.lookup.trial_commands import examine
    from gantk.planning.command import plan_command
    from gantk.report.patients.command import report_command
    from gantk.scaffold.command import new

    data.add_command(check_command)
    for command in (*COMMANDS, examine, report_command, plan_command, new):
        cli.add_command(command)


_attach_core_commands()


def open_streams() -> None:
    """Open the null device for closed standard streams: else the next file opened would get their
    descriptors.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor: this number
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - open until the process ends
        if mode == "w" and hasattr(stream := getattr(sys, name), "reconfigure"):
            # escapes characters that its encoding lacks
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the `gantk` command with the plugins' commands; restarts Python in UTF-8 mode where file
    names are ASCII.
    """
    if sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode:
        os.execve(
            sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"}
        )

    open_streams()
    terminal.owns_process = True
    os.umask(os.umask(0o022) | 0o022)  # others never get the right to change what is written
    with guest():
        try:
            attach_commands(cli)
        except GantkError as error:
            Commands._leave(error)
        cli.main(prog_name="gantk")
