"""The hooks that a plugin can implement. A plugin is a module that an installed package names in
the entry-point group `gantk`.

gantk passes the arguments by name, so an implementation may leave out those that it does not use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from gantk.plugin.registry import Add

hookspec = pluggy.HookspecMarker("gantk")
hookimpl = pluggy.HookimplMarker("gantk")


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """A section of report.html. A subclass has fields for what it shows.

    The template is rendered with the variables of the page, and with this as `section`.
    """

    folder: Path  # of the files below
    template: str  # name of the template
    styles: Sequence[str] = ()  # names of CSS files
    scripts: Sequence[str] = ()  # names of JavaScript files
    plugin: Any = None  # whose section this is; set by gantk where it is a third party's


@hookspec
def gantk_register(add: Add) -> None:
    """Register parts, recipes, models and functions by name.

    Example:

        @gantk.hookimpl
        def gantk_register(add):
            add.method("mygan", "my_package.model:MyGAN")
            add.recipes("my_package.recipes")

    `add` has one function for each kind of part: `method`, `generator`, `discriminator`, `loss`,
    `source`, `order`, `metric`, `augment`, `optimizer`, `schedule`, `intensity`, `post`, `format`,
    `exporter`, `features`, `baseline`, `tracker` and `layout`. Each takes a name and a callable, or a
    name and a text "package.module:attribute", which is imported at first use; a layout takes a name
    and its line.

    `add` has four further functions:

    * `add.recipes("my_package.recipes")` registers a package of TOML recipes.
    * `add.suites("my_package.suites")` registers a package of suites for `gantk bench`.
    * `add.models("my_package.models")` registers a package of folders that `gantk pack` wrote.
    * `add.function("mine", "my_package.mine:mine")` adds the function `gantk.mine`.

    A source with a class method `accepts(path)` is considered for `--data PATH`.
    """


@hookspec
def gantk_commands(cli: click.Group) -> None:
    """Add click commands to the `gantk` command line. `cli` is its group of all commands.

    Example:

        @gantk.hookimpl
        def gantk_commands(cli):
            cli.add_command(my_command)
            cli.commands["data"].add_command(my_other_command)  # to the group `gantk data`
    """


@hookspec
def gantk_step_logged(run, stage, step, logs, batch) -> None:
    """Observe a training. gantk calls this on rank 0 whenever it writes a line to log.jsonl.

    Args:
        run: the run folder, a pathlib.Path.
        stage: the name of the stage.
        step: the number of finished steps.
        logs: the line of log.jsonl, a dictionary.
        batch: the training batch, a dictionary of tensors with detached fakes.

    Do not change any of them.
    """


@hookspec
def gantk_images_scored(run, tested, result, scorer) -> None:
    """Use the scored test images, or add scores. gantk calls this on rank 0 before it writes
    metrics.json.

    Args:
        run: the run folder, a pathlib.Path.
        tested: the gantk.metrics.evaluate.Tested of each direction, such as "a_to_b".
        result: the gantk.runs.results.Results. You may add scores to it.
        scorer: the gantk.metrics.evaluate.Scorer.
    """


@hookspec
def gantk_report_section(record):
    """Add a section to report.html.

    Args:
        record: the gantk.RunRecord.

    Returns:
        A gantk.ReportSection, a list of them, or None for no section.
    """


@hookspec
def gantk_before_training(model) -> None:
    """Check a new or resumed training, on every rank. Raise a UserError to refuse it.

    Args:
        model: the checked recipe, a gantk.recipe.tables.CheckedRecipe.
    """


@hookspec
def gantk_training_ended(run) -> None:
    """Act at the end of a training. gantk calls this on rank 0 after a finished, stopped or failed
    training.

    Args:
        run: the run folder, a pathlib.Path.
    """


@hookspec
def gantk_image_warning(image, frame) -> str | None:
    """Check an image before its translation.

    Args:
        image: the gantk.formats.image.Image.
        frame: a gantk.inference.frame.Frame, which describes what the model expects.

    Returns:
        A warning, or None. A warning that several images of a folder share is printed once, with
        the number of images.
    """


@hookspec
def gantk_translation_warning(given, made, frame) -> str | None:
    """Check a translation against its input.

    Args:
        given: the input, an array (C, *spatial). Of large images, only every n-th pixel is passed.
        made: the translation, an array of the same form.
        frame: as in `gantk_image_warning`.

    Returns:
        A warning, or None. It is printed like those of `gantk_image_warning`.
    """


@hookspec(firstresult=True)
def gantk_name_results(files, target, frame, model):
    """Choose the file names of the translations of a folder.

    Args:
        files: the paths of the inputs.
        target: the output folder.
        frame: a gantk.inference.frame.Frame.
        model: the name and the SHA-256 of the weights.

    Returns:
        None for the default names, or an object with these methods:

    * `name(files, tail, contrast)` returns the path of a result below the folder, without suffix,
      or None to skip these inputs. `tail` is "-2" or similar for variants, "_uncertainty" for
      uncertainty maps, and "" otherwise.
    * `describe(facts, files, grid)` returns the content of the JSON file beside a result. `facts` is
      what it should say ("Description", "SyntheticData", "Limits",
      "FitsTrainingData", "Warnings"), `files` what the result is made of, `grid` the path of the
      input whose grid it has.
    * `after_writing(path, files, contrast)` is called after each result.
    """


@hookspec(firstresult=True)
def gantk_load_model(model, device):
    """Load a model of the plugin's own kind.

    Args:
        model: a path, or several; as in `gantk.load`.
        device: as in `gantk.load`.

    Returns:
        A gantk.Model, or None for other kinds of model.
    """


@hookspec(firstresult=True)
def gantk_find_model(address, say):
    """Find the trained model at an address, and download it if necessary.

    Args:
        address: a text such as "hf://user/name@revision".
        say: prints a line of text, such as the version that was chosen.

    Returns:
        The folder of the model, or None for an unknown address.
    """
