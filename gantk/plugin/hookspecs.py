"""Declares every hook that a plugin can implement. A plugin is a module named in the entry-point
group `gantk`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from gantk.plugin.registry import Add

hookspec = pluggy.HookspecMarker("gantk")
hookimpl = pluggy.HookimplMarker("gantk")


@hookspec
def gantk_register(add: Add) -> None:
    """Register parts by name: `add.method("mygan", "my_package.model:MyGAN")`.

    `add` has one function per kind (`method`, `generator`, `discriminator`, `loss`, `source`,
    `order`, `metric`, `augment`, `optimizer`, `schedule`, `intensity`, `post`, `format`,
    `exporter`, `features`, `baseline`, `tracker`, `uncertainty`); it takes a name and a callable or
    a `"package.module:attribute"` string, imported at first use.
    `add.recipes("my_package.recipes")` registers a package of TOML recipes,
    `add.suites("my_package.suites")` one of `gantk bench` suites, `add.models("my_package.models")`
    one of folders made by `gantk pack`. `add.function("mine", "my_package.mine:mine")` makes
    `gantk.mine`. `--data PATH` chooses among the sources that have a class method `accepts(path)`.
    """


@hookspec
def gantk_commands(cli: click.Group) -> None:
    """Add click commands to the `gantk` command line: `cli.add_command(my_command)`.

    `cli.commands["data"].add_command(my_command)` adds a command to a group, here `gantk data`.
    """


@hookspec
def gantk_step_logged(run, stage, step, logs, batch) -> None:
    """Observe a training: called whenever a line is logged, on rank 0 only.

    `run` is the run folder (pathlib.Path), `stage` the stage's name, `step` the number of finished
    steps, `logs` the line written to log.jsonl (a dict), `batch` the training batch (a dict of
    tensors, detached fakes included). Do not modify any of them.
    """


@hookspec
def gantk_images_scored(run, tested, result, scorer) -> None:
    """Use the evaluated test images, or add scores, on rank 0 before metrics.json is written.

    `run` is the run folder (pathlib.Path), `tested` maps a direction, such as "a_to_b", to its
    gantk.metrics.evaluate.Tested, `result` is the content of metrics.json, to which scores may be
    added, and its `lines` are printed; `scorer` is the gantk.metrics.evaluate.Scorer.
    """


@hookspec
def gantk_report_section(record):
    """Return a section of report.html as a dict, or None for no section.

    `record` is the gantk.report.run_record.RunRecord. Keys: `folder`; `template`, a file in it that
    is rendered with the page's variables and with the dict as `section`; optional `styles` and
    `scripts`, files in it; optional `policy`, Content-Security-Policy directives for what the
    scripts may do beyond drawing.
    """


@hookspec
def gantk_before_training(model) -> None:
    """Raise a UserError to refuse a new or resumed training, on every rank; `model` is a
    gantk.recipe.tables.Model.
    """


@hookspec
def gantk_training_ended(run) -> None:
    """Called on rank 0 when a training ends: finished, stopped by Ctrl-C, or failed; `run` is its
    folder's Path.
    """


@hookspec
def gantk_image_warning(image, frame) -> str | None:
    """Check an image before its translation; returns a warning, or None.

    `image` is a gantk.formats.image.Image; `frame`, a gantk.inference.frame.Frame, describes
    what the model expects. A warning that several images of a folder share is printed once, with
    the number of images.
    """


@hookspec
def gantk_translation_warning(given, made, frame) -> str | None:
    """Check a translation against its input; returns a warning, printed like those of
    `gantk_image_warning`, or None.

    `given` and `made` are arrays (C, *spatial) of the image and its translation, every n-th pixel
    of large ones; `frame` as in `gantk_image_warning`.
    """


@hookspec(firstresult=True)
def gantk_name_results(files, target, frame, model):
    """Choose the file names of a folder of translations; returns an object as below, or None for
    the default names.

    `files` are the inputs' paths, `target` is the output folder, `frame` a
    gantk.inference.frame.Frame, `model` the name and sha256 of the weights. The object has
    `name(files, tail, contrast)`: the result's path below the folder, without suffix, or None to
    skip these inputs (tail: "-2" for variants, "_uncertainty", else ""); and `after_writing(path,
    files, contrast)`, called after each result. Optional: `before_writing`, called with the same
    arguments before each result, and `keep_warning(files, line)`, called with each plugin's warning
    about an input.
    """


@hookspec(firstresult=True)
def gantk_load_model(model, device):
    """Load a model of the plugin's own kind; returns a gantk.inference.model.TrainedModel, or
    None for other kinds.

    `model` (one or several paths) and `device` are the arguments of `gantk.load`.
    """


@hookspec(firstresult=True)
def gantk_find_model(address, say):
    """Return the folder of the trained model at an address, downloaded if necessary; None for
    unknown addresses.

    `address` is a text such as "hf://user/name@revision"; `say` prints a line of text: which
    version was chosen.
    """
