"""The whole plugin surface: its hooks. A plugin is a module named in the entry-point group `gantk`."""

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
    """Offer parts by name: `add.method("mygan", "my_package.model:MyGAN")`.

    `add` has one function per kind (`method`, `generator`, `discriminator`, `loss`, `source`, `order`, `metric`,
    `augment`, `optimizer`, `schedule`, `intensity`, `post`, `format`, `exporter`, `features`, `baseline`, `tracker`,
    `uncertainty`), each taking a name and a callable or a `"package.module:attribute"` string, imported at first use.
    `add.recipes("my_package.recipes")` offers a package that holds TOML recipes, `add.suites("my_package.suites")` one
    that holds suites of `gantk bench`, `add.models("my_package.models")` one that holds folders made by `gantk pack`.
    A source with a class method `accepts(path)` is one that `--data PATH` may find.
    """


@hookspec
def gantk_commands(cli: click.Group) -> None:
    """Attach click commands to the `gantk` command line: `cli.add_command(my_command)`.

    `cli.commands["data"].add_command(my_command)` adds one to a group, such as `gantk data`.
    """


@hookspec
def gantk_step(run, stage, step, logs, batch) -> None:
    """Watch a training: called at every log point, on the first rank.

    `run` is the run folder (pathlib.Path), `stage` the stage's name, `step` the number of finished steps, `logs` the
    line written to log.jsonl (a dict), `batch` the training batch (a dict of tensors, detached fakes included). All of
    it only to be read.
    """


@hookspec
def gantk_tested(run, tested, result, scorer) -> None:
    """Keep what the test images came to, on the first rank, before metrics.json is written.

    `run` is the run folder (pathlib.Path), `tested` by direction, such as "a_to_b", a gantk.metrics.evaluate.Tested,
    `result` what metrics.json will hold, to which scores may be added, and under `lines` what a person is told,
    `scorer` the gantk.metrics.evaluate.Scorer.
    """


@hookspec
def gantk_report(record):
    """Add a section to report.html; None: nothing to add.

    `record` is the gantk.report.run_record.RunRecord. A section is a dict: `folder` and `template` (a file there, which
    sees the page's variables and itself as `section`), and as it needs them `styles` and `scripts` (files there), and
    `policy`, what its scripts may do beyond drawing, by directive of a Content-Security-Policy.
    """


@hookspec
def gantk_check(model) -> None:
    """Refuse a training, new or resumed, by a UserError before anything of it is written; on every rank.

    `model` is the checked recipe, a gantk.recipe.tables.Model.
    """


@hookspec
def gantk_end(run) -> None:
    """See a training off, on the first rank: finished with its scores and report, stopped by Ctrl-C, or failed.

    `run` is the run folder (pathlib.Path).
    """


@hookspec
def gantk_input(image, frame) -> str | None:
    """A warning about an image that is about to be translated; None: nothing speaks against it.

    `image` is a gantk.formats.image.Image, `frame` a gantk.inference.pipeline.Frame: what the model expects. The same
    words for several images of a folder are one line with their number.
    """


@hookspec
def gantk_output(given, made, frame) -> str | None:
    """A warning about what became of an image, told as those of `gantk_input`; None: nothing speaks against it.

    `given` and `made` are arrays (C, *spatial) of the image and its translation, of large ones every n-th pixel;
    `frame` as there.
    """


@hookspec(firstresult=True)
def gantk_results(files, target, frame, model):
    """Name the results of a translation into a folder in another way than their inputs; None: not this plugin's affair.

    `files` are the inputs' paths, `target` is the folder, `frame` a gantk.inference.pipeline.Frame, `model` the name
    and sha256 of the weights. Returns an object with `name(files, tail, contrast)`, the path below the folder, without
    suffix, of what becomes of these files (tail: "-2" of variants, "_uncertainty", else ""), or None to leave them out;
    and `written(path, files, contrast)`, called for each result; `writing`, if it has one, with the same before each,
    and `warned(files, line)` with each warning of plugins about an input.
    """


@hookspec(firstresult=True)
def gantk_done(folder, asked):
    """Remember what is done of a translation into `folder`, for the next call of it; None: nothing is.

    `asked` says by which weights and how. Returns a context manager with `results(job)`, the paths that a
    gantk.inference.translation.Job became in an earlier call, or None, and `add(job, paths)`, called at its end.
    """


@hookspec(firstresult=True)
def gantk_phases(method, phases, train, notes):
    """Change how a training's phases are computed, before its first step; None: not this plugin's affair.

    `method` is a gantk.Method on its device, `phases` its list of Phase, `train` the recipe's [train] table. Returns
    the phases to run in their place, such as copies with another `loss`; what a user should know goes to `notes`.
    """


@hookspec(firstresult=True)
def gantk_steps(engine, graph):
    """Take a training's steps in another way than operator by operator; None: not this plugin's affair.

    `engine` is a gantk.training.engine.Engine; `graph` as it was given. Returns an object that is called with a kind of
    step and its batch, does what `engine.take(batch)` does and returns the same; `forget()` tells it of other shapes.
    """


@hookspec(firstresult=True)
def gantk_load(model, device):
    """Open a model of a kind of yours, as a gantk.inference.pipeline.TrainedModel; None: not this plugin's affair.

    `model` is what `gantk.load` was given: a path, or several; `device` as there.
    """


@hookspec(firstresult=True)
def gantk_translate(model, images, to, look, progress, grad):
    """Translate images of a library of yours, and return the same kind; None: not this plugin's affair.

    `model`, `images`, `to`, `look`, `progress`, `grad`: what `model.translate` is, and was given.
    """


@hookspec(firstresult=True)
def gantk_model(address, say):
    """The folder of a trained model that is named by an address, fetched where need be; None: not this plugin's affair.

    `address` is a text such as "hf://user/name@revision"; `say` takes lines of text: which version it is.
    """


@hookspec(firstresult=True)
def gantk_keep(data, folder, domains):
    """Keep `data`, what `gantk.run(data=...)` was given, as files in `folder`; None: not this plugin's affair.

    `domains` are the recipe's. Returns its data.source, as a table, and in words what was kept.
    """


@hookspec(firstresult=True)
def gantk_split(records, file, folds, fold):
    """Give images the set that a file says; None: not this plugin's affair.

    `records` are gantk.Record, `file`, `folds` and `fold` as in data.split. Returns the records to be used, each with
    its `split`, and what split.json keeps of the file, a dict.
    """


@hookspec(firstresult=True)
def gantk_subjects(items, how):
    """The patient of each image whose folder says none; None: not this plugin's affair.

    `items` are gantk.data.sources.reader.Item; `how` an unsure reading is dealt with: "take" it, "ask" by a UserError,
    "" drop it, a list drop it and add that UserError to the list.
    """


@hookspec(firstresult=True)
def gantk_html(run):
    """HTML by which a notebook shows `run`, a gantk.Run; None: not this plugin's affair."""
