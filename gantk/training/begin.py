"""From a recipe, or a run folder, to a `Training` that is ready for its next step: what `gantk run`,
`gantk resume` and `gantk.training` share.
"""

from __future__ import annotations

import inspect
import os
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import NoneType
from typing import Any

from gantk.catalog.layouts import layout_name
from gantk.data.check.check import warnings_about
from gantk.data.description import describe as describe_data
from gantk.data.loader import Loader, is_loader
from gantk.data.recipe_data import opened_recipe
from gantk.data.split import few_test_patients
from gantk.data.split_json import RecordedSplit
from gantk.errors import UserError, count_noun, join_first
from gantk.files import lock_folder, read_file
from gantk.formats.files import listed_once
from gantk.guest import Say
from gantk.machine.runtime import describe, sync_errors
from gantk.method import OTHER
from gantk.metrics.summary import with_label
from gantk.plugin.callbacks import Hooks
from gantk.plugin.spec import Part
from gantk.recipe.load import LACKING_IN_TRAINING, Recipe, Settings, load_recipe, resolved
from gantk.recipe.published import (
    PublishedSystem,
    changed_keys,
    changes_of_file,
    is_within,
    published_system,
    value_at,
)
from gantk.recipe.tables import CheckedRecipe
from gantk.runs.folder import RunFolder, environment, stored_data
from gantk.runs.models import refuse_packed
from gantk.runs.results import in_millions
from gantk.runs.schemas import Environment, RecipeRecord
from gantk.training.assemble import Parts, assemble, prepare_batches, restore
from gantk.training.loop import Surroundings, Training, inference_weights
from gantk.training.restart import LOADER, run_to_resume, with_layout

# keys that runs need alike so that their scores compare; folds of one recipe count together
KEYS_OF_SCORES = (
    "data.domains",
    "data.dims",
    "data.size",
    "data.fit",
    "data.channels",
    "data.plane",
    "data.spacing",
    "data.intensity",
    "data.split",
)
FOLD = "data.split.fold"
MAX_RUNS_COMPARED = 20


def training(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    data: Any = None,
    set: Settings = (),
    profile: str | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    precision: str | None = None,
    seed: int | None = None,
    allow_leakage: bool = False,
    track: Iterable[str] = (),
    overwrite: bool = False,
    callbacks: Iterable[object] = (),
    say: Say | None = None,
    shown: bool = False,
) -> Training:
    """Prepare a training, whose steps are run by iterating over it. `gantk.run` does the same.

    Example:

        with gantk.training("cyclegan_t1t2_64", data=loader, out="runs/first") as training:
            for step in training:
                if step.number % 100 == 0:
                    print(step.number, float(step.losses["generators/cycle_a"]))
        model = gantk.load("runs/first")

    Args:
        recipe: as in `gantk.run`; or a run folder, whose training is continued.
        data: as in `gantk.run`; or an iterable of batches that is no list, such as a DataLoader of
            torch or MONAI. A batch is a dictionary with a tensor (N, C, *size) for each domain, by its
            name; other entries are ignored. Black is -1 and white 1, unless data.intensity is a "window" of
            other values. The run folder keeps the first batch, whose images are the samples;
            nothing is held out.
        set: as in `gantk.run`, and so are profile, out, device, precision, seed, allow_leakage,
            track and overwrite. A continued training takes `device` alone.
        callbacks: objects with methods that are named like hooks, for this training alone:
            gantk_before_training, gantk_step_logged, gantk_images_scored, gantk_training_ended.
        say: called with each line of output. None: notes and warnings are `gantk.GantkWarning`.
        shown: whether lines of the progress are said too.

    Returns:
        The training: see `gantk.Training`.

    Raises:
        UserError: the recipe, an option or the data are wrong. Nothing has been written.
    """
    with ExitStack() as ending:
        around = Surroundings(Hooks(callbacks), say, shown, ending)
        if isinstance(recipe, (str, os.PathLike)) and (Path(recipe) / "recipe.toml").is_file():
            _expect_no_options(set=set, profile=profile, out=out, precision=precision, seed=seed)
            return _continue(Path(recipe), data, device, around)

        loader = None
        if is_loader(data):
            loaded = load_recipe(recipe).override([], profile).override(set)
            checked = loaded.check()
            loader = Loader(data, checked.data.domains)
            recipe = loader.recipe(loaded)
            data = loader.items_to_store(checked.method.target.paired)
            set, profile = (), None

        if not isinstance(data, (str, os.PathLike, NoneType)):
            stored = stored_data(data, recipe, set, profile, out, overwrite, around.say)
            recipe, out = ending.enter_context(stored)
            data, profile, overwrite = None, None, False

        shorthands: dict[str, Any] = {"train.precision": precision, "train.seed": seed}
        shorthands["track"] = list(track) or None
        last = {key: value for key, value in shorthands.items() if value is not None}
        with listed_once():
            loaded, model, source = sync_errors(
                lambda: opened_recipe(recipe, data, set, profile, last), around.process
            )
            sync_errors(lambda: around.hooks.gantk_before_training(model=model), around.process)
            runtime = around.start(model, device, Path(out or "."))
            tables = resolved(model)
            changed = changes_of_file(loaded, tables)
            _say_recipe(loaded, published_system(tables, changed), around.say)
            resumed, saved, split = runtime.from_main(
                lambda: run_to_resume(out, tables, runtime.launched, ending)
            )
            parts = assemble(model, runtime, split, loader, source)
        leaks = runtime.sync_errors(lambda: _leaks_allowed(parts, allow_leakage))
        for line in (*describe_data(parts.data), *_notes_of_parts(parts), *parts.start.lines):
            around.say(line)

        findings: list[str] = []
        if saved is None:  # data and networks of a training that goes on were tried
            if runtime.main:
                findings = warnings_about(parts.data)
            for line in findings:
                around.say(line)
            runtime.sync_errors(lambda: try_outputs(parts))
        if note := parts.method.companions_note:
            around.say(f"match    {note}")
        if found := prepare_batches(parts):
            around.say(f"warning  {found}")
        folder = runtime.from_main(
            lambda: RunFolder.create(out, loaded.name, ending, resumed, overwrite)
        )
        if runtime.main and saved is None:
            if unlike := _other_scores(folder.path, tables):
                around.say(with_label("note", unlike))
            folder.write_recipe(with_layout(tables, layout_name(parts.data.source.catalog)))
            folder.write_json("environment.json", _environment(loaded, changed, parts).dump())
            used = parts.data.split_json()
            used.leakage_allowed = str(leaks) if leaks else None
            used.warnings = findings
            used.notes = around.notes
            folder.write_json("split.json", used.model_dump(exclude_unset=True))
        around.say(f"run      {folder.path}")
        around.watch(runtime, folder.path)
        return _ready(parts, folder, saved, around, resumed)


def _expect_no_options(**options: Any) -> None:
    """UserError for the first option that is given of a training that is continued."""
    for name, value in options.items():
        if value not in (None, ()):
            raise UserError(
                f"a training that is continued keeps its recipe, but {name} is given",
                where=name,
                remedy="start a new training from its recipe.toml",
            )


def try_outputs(parts: Parts, *, of_sets: bool = False) -> None:
    """Translate a patch of an image in each direction, and score a few images (`of_sets` as of
    `Scorer.try_metrics`), so that a network of other channels, or a metric that fails, is an error
    before a run folder is written.
    """
    with inference_weights(parts.method, parts.engine):
        for to in parts.method.directions():
            images = parts.batches.sets[OTHER[to]]
            patch = images[0][(None, ..., *map(slice, parts.method.geometry.size))]
            parts.scorer.translate(patch, to, images.records[:1])
    parts.scorer.try_metrics(of_sets=of_sets)


def _other_scores(run: Path, tables: Mapping[str, Any]) -> str:
    """Why the scores will not compare with those of the newest run beside this one that is of the same
    images; "" where they will.
    """
    path = value_at(tables, ("data", "source", "path"))
    others: list[Path] = []
    with suppress(OSError):  # a run that is deleted meanwhile
        others = sorted(run.parent.glob("*/recipe.toml"), key=lambda file: file.stat().st_mtime)
    for file in others[: -MAX_RUNS_COMPARED - 1 : -1]:
        with suppress(UserError, ValueError):  # what is no run's is passed over
            other = tomllib.loads(read_file(file, file.parent).decode("utf-8"))
            if not isinstance(path, str) or value_at(other, ("data", "source", "path")) != path:
                continue
            keys = [key for key in changed_keys(other, tables) if is_within(key, KEYS_OF_SCORES)]
            if keys == [FOLD] or not keys:
                return ""
            return (
                f"do not compare the scores with those of {file.parent}: these settings differ:"
                f" {join_first(keys)}. `gantk eval RUN OTHER --data SCANS` scores both on one scale"
            )
    return ""


def _continue(path: Path, data: Any, device: str | None, around: Surroundings) -> Training:
    """The training of a run folder, after its newest checkpoint, or from the start where it was
    stopped before the first one.
    """

    def open_checked() -> tuple[RunFolder, CheckedRecipe, RecordedSplit]:
        folder = RunFolder.open(path)
        model = folder.recipe(LACKING_IN_TRAINING).check()
        around.hooks.gantk_before_training(model=model)
        refuse_packed(folder)
        return folder, model, folder.split()

    def locked_checkpoint() -> Path | None:
        around.ending.enter_context(lock_folder(folder.path))
        return folder.to_continue()

    folder, model, split = sync_errors(open_checked, around.process)
    loader = _loader_again(folder, data, model)
    runtime = around.start(model, device, folder.path)
    saved = runtime.from_main(locked_checkpoint)
    parts = assemble(model, runtime, split, loader, anew=saved is None)
    for line in parts.start.lines:
        around.say(line)
    prepare_batches(parts)
    return _ready(parts, folder, saved, around)


def _loader_again(folder: RunFolder, data: Any, model: CheckedRecipe) -> Loader | None:
    """The loader of a continued training, which needs one if it began with one."""
    if folder.environment.recipe.data != LOADER:
        if data is not None:
            raise UserError(
                "a training that is continued reads the images of its split.json",
                where="data",
                remedy="leave it out",
            )
        return None

    if not is_loader(data):
        raise UserError(
            f"'{folder.path}' was trained on batches of another program, which it does not keep",
            where="data",
            remedy=f"continue with gantk.training({str(folder.path)!r}, data=LOADER)",
        )
    return Loader(data, model.data.domains, model.data.size)


def _ready(
    parts: Parts,
    folder: RunFolder,
    saved: Path | None,
    around: Surroundings,
    resumed: bool = True,
) -> Training:
    """The training from the checkpoint `saved`, or from step 0; `resumed`: there is a log."""
    runtime = parts.runtime
    engine = parts.engine
    seconds = 0.0
    # other ranks may come here before the main one has written it
    parts.recipe_text = runtime.from_main(
        lambda: read_file(folder.path / "recipe.toml", folder.path).decode("utf-8")
    )
    if saved is not None:
        runtime.sync_errors(lambda: restore(parts, saved))
    if resumed and runtime.main:
        seconds = folder.rewind_log(engine.step if saved else -1)

    line = parts.threads.choose(engine.step)
    if line:
        engine.notes.append(line)

    around.say(_training_line(parts))
    for note in parts.data.notes:
        around.say(note)
    if resumed:
        around.say(f"resume   {folder.path} after step {engine.step} of {engine.steps}")
        if changes := _changes_since(parts):
            around.say(f"note     {changes}")

    if saved is not None:
        for line in folder.split().warnings or ():
            around.say(line)

    around.ending.callback(parts.threads.reset)
    if runtime.main:
        around.ending.callback(around.hooks.gantk_training_ended, run=folder.path)
    return Training(parts, folder, seconds, around)


def _changes_since(parts: Parts) -> str:
    """How recipe.toml was changed since the checkpoint that is continued, and where the learning
    rate goes on; "" where it was not.
    """
    now = tomllib.loads(parts.recipe_text)
    before = tomllib.loads(parts.trained_by) or now
    changed = changed_keys(before, now)
    if not changed:
        return ""
    words = join_first([f"{key} from {old} to {new}" for key, (old, new) in changed.items()])
    engine = parts.engine
    factor = engine.schedule(min(1.0, engine.step / max(1, engine.steps)))
    return (
        f"recipe.toml was changed since step {engine.step}: {words}. By its schedule the learning"
        f" rate continues at {factor:.3g} of its base, so this is not the training that it was"
    )


def _say_recipe(recipe: Recipe, system: PublishedSystem | None, say: Say) -> None:
    """Say which recipe is trained, how far it is the published system, and what its reading has to
    be noted for.
    """
    say(f"recipe   {recipe.origin}" + (f", profile {recipe.profile}" if recipe.profile else ""))
    if system is not None:
        say(with_label("system", system.in_short()))
    for remark in recipe.remarks:
        say(f"note     {remark}")
    if recipe.notes:
        say(
            "note     the recipe uses keys of an earlier version:"
            f" {'; '.join(recipe.notes.values())}"
        )


def _notes_of_parts(parts: Parts) -> list[str]:
    """The notes of the method and of the post-steps, and one on a test set that is too small."""
    posts = parts.scorer.posts
    notes = [
        getattr(parts.method, "note", ""),
        *posts.notes(),
        few_test_patients(parts.data.splits),
    ]
    return [f"note     {note}" for note in notes if note]


def _leaks_allowed(parts: Parts, allow_leakage: bool) -> UserError | None:
    """The leaks of the data's or the start model's split; raised unless `allow_leakage`."""
    leaks = parts.data.leaks() or parts.start.leaks
    if leaks and not allow_leakage:
        raise leaks
    return leaks


def _environment(
    recipe: Recipe, changed: Mapping[str, tuple[str, str]], parts: Parts
) -> Environment:
    """The content of environment.json: the software, the machine and what was run."""
    ran = RecipeRecord(
        origin=recipe.origin if recipe.text else "",
        profile=recipe.profile,
        changed={key: list(values) for key, values in changed.items()},
        data=LOADER if parts.loader else _source_in_words(parts.model.data.source),
    )
    return environment(
        **describe(parts.runtime),
        **parts.start.record,
        **parts.data.source.provenance,
        recipe=ran,
        matched=parts.method.companions_note,
        generator_weights=sum(
            weight.numel()
            for phase in parts.engine.phases
            if phase.ema  # of discriminators no average is kept
            for weight in parts.engine.parameters[phase.name]
        ),
    )


def _source_in_words(source: Part) -> str:
    """A data source's name with its path, or with the first paragraph of its description."""
    description = (inspect.getdoc(source.target) or "").partition("\n\n")[0]
    return f"{source.name}: {source.options.get('path') or ' '.join(description.split())}"


def _training_line(parts: Parts) -> str:
    """What is trained, and where."""
    runtime = parts.runtime
    weights = in_millions(sum(each.numel() for each in parts.method.parameters()))
    machine = describe(runtime)
    size = f"{weights} weights, {count_noun(parts.engine.steps, 'step')}"
    place = f"{machine['device']} {runtime.precision}, {count_noun(machine['threads'], 'thread')}"
    if runtime.world > 1:
        place += f", {runtime.world} ranks"

    return f"train    {parts.model.method.name}, {size}, {place}"
