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
    one of folders made by `gantk pack`. `--data PATH` chooses among the sources that have a class
    method `accepts(path)`.
    """


@hookspec
def gantk_commands(cli: click.Group) -> None:
    """Add click commands to the `gantk` command line: `cli.add_command(my_command)`.

    `cli.commands["data"].add_command(my_command)` adds a command to a group, here `gantk data`.
    """


@hookspec
def gantk_step(run, stage, step, logs, batch) -> None:
    """Observe a training: called whenever a line is logged, on rank 0 only.

    `run` is the run folder (pathlib.Path), `stage` the stage's name, `step` the number of finished
    steps, `logs` the line written to log.jsonl (a dict), `batch` the training batch (a dict of
    tensors, detached fakes included). Do not modify any of them.
    """


@hookspec
def gantk_tested(run, tested, result, scorer) -> None:
    """Use the evaluated test images, or add scores, on rank 0 before metrics.json is written.

    `run` is the run folder (pathlib.Path), `tested` maps a direction, such as "a_to_b", to its
    gantk.metrics.evaluate.Tested, `result` is the content of metrics.json, to which scores may be
    added, and its `lines` are printed; `scorer` is the gantk.metrics.evaluate.Scorer.
    """


@hookspec
def gantk_report(record):
    """Return a section of report.html as a dict, or None for no section.

    `record` is the gantk.report.run_record.RunRecord. Keys: `folder`; `template`, a file in it that
    is rendered with the page's variables and with the dict as `section`; optional `styles` and
    `scripts`, files in it; optional `policy`, Content-Security-Policy directives for what the
    scripts may do beyond drawing.
    """


@hookspec
def gantk_check(model) -> None:
    """Raise a UserError to refuse a new or resumed training, on every rank; `model` is a
    gantk.recipe.tables.Model.
    """


@hookspec
def gantk_end(run) -> None:
    """Called on rank 0 when a training ends: finished, stopped by Ctrl-C, or failed; `run` is its
    folder's Path.
    """


@hookspec
def gantk_input(image, frame) -> str | None:
    """Check an image before its translation; returns a warning, or None.

    `image` is a gantk.formats.image.Image; `frame`, a gantk.inference.pipeline.Frame, describes
    what the model expects. A warning that several images of a folder share is printed once, with
    the number of images.
    """


@hookspec
def gantk_output(given, made, frame) -> str | None:
    """Check a translation against its input; returns a warning, printed like those of
    `gantk_input`, or None.

    `given` and `made` are arrays (C, *spatial) of the image and its translation, every n-th pixel
    of large ones; `frame` as in `gantk_input`.
    """


@hookspec(firstresult=True)
def gantk_results(files, target, frame, model):
    """Choose the file names of a folder of translations; returns an object as below, or None for
    the default names.

    `files` are the inputs' paths, `target` is the output folder, `frame` a
    gantk.inference.pipeline.Frame, `model` the name and sha256 of the weights. The object has
    `name(files, tail, contrast)`: the result's path below the folder, without suffix, or None to
    skip these inputs (tail: "-2" for variants, "_uncertainty", else ""); and `written(path, files,
    contrast)`, called after each result. Optional: `writing`, called with the same arguments before
    each result, and `warned(files, line)`, called with each plugin's warning about an input.
    """


@hookspec(firstresult=True)
def gantk_done(folder, asked):
    """Record which files of a translation into `folder` are finished, so that a repeated call skips
    them.

    `asked` identifies the weights and options. Returns a context manager, or None for no record.
    Its `results(job)` are the paths an earlier call wrote for a gantk.inference.translation.Job, or
    None; `add(job, paths)` records a job.
    """


@hookspec(firstresult=True)
def gantk_phases(method, phases, train, notes):
    """Replace the phases of a training before its first step; returns a list of Phase, or None to
    keep them.

    `method` is a gantk.Method on its device, `phases` its list of Phase, `train` the recipe's
    [train] table. The result may be copies of the phases with another `loss`; append messages for
    the user to `notes`.
    """


@hookspec(firstresult=True)
def gantk_steps(engine, graph):
    """Replace how training steps are executed, for example by a CUDA graph; returns a callable
    object, or None.

    `engine` is a gantk.training.engine.Engine, `graph` its argument of that name. The object is
    called with the kind of step and the batch; it does and returns what `engine.take(batch)` does.
    `forget()` is called when shapes change.
    """


@hookspec(firstresult=True)
def gantk_load(model, device):
    """Load a model of the plugin's own kind; returns a gantk.inference.pipeline.TrainedModel, or
    None for other kinds.

    `model` (one or several paths) and `device` are the arguments of `gantk.load`.
    """


@hookspec(firstresult=True)
def gantk_translate(model, images, to, look, progress, grad):
    """Translate images of another library's type; returns the same type, or None for types it does
    not know.

    `model` is the trained model; `images`, `to`, `look`, `progress`, `grad` are the arguments of
    `model.translate`.
    """


@hookspec(firstresult=True)
def gantk_model(address, say):
    """Return the folder of the trained model at an address, downloaded if necessary; None for
    unknown addresses.

    `address` is a text such as "hf://user/name@revision"; `say` prints a line of text: which
    version was chosen.
    """


@hookspec(firstresult=True)
def gantk_keep(data, folder, domains):
    """Write `data`, the argument of `gantk.run(data=...)`, as files into `folder`; None for types
    it does not know.

    `domains` are the recipe's. Returns the table for data.source and a sentence that describes what
    was written.
    """


@hookspec(firstresult=True)
def gantk_split(records, file, folds, fold):
    """Assign images to training, validation and test sets as a file states; None for files it does
    not know.

    `records` are gantk.Record; `file`, `folds` and `fold` are keys of data.split. Returns the
    records to use, each with its `split`, and a dict about the file for split.json.
    """


@hookspec(firstresult=True)
def gantk_subjects(items, how):
    """Return the patient of each image, read from file names; None: cannot tell.

    `items` are gantk.data.sources.reader.Item. `how` handles uncertain results: "take" accepts
    them, "ask" raises a UserError, "" drops them, a list drops them and receives that UserError.
    With `how` "folders", and "numbered folders" for short, the patient is read from `item.place`
    instead.
    """


@hookspec
def gantk_data(data) -> str | None:
    """Check `data`, a gantk.data.dataset.Data, before a new training's first step; returns a
    warning, or None.
    """


@hookspec(firstresult=True)
def gantk_items(items, source):
    """Return the `items` to use that names offer `source`, a FileSource; its `notes` get a sentence
    on the others.
    """


@hookspec(firstresult=True)
def gantk_html(run):
    """Return the HTML that a notebook displays for `run`, a gantk.Run; None for the plain text."""
