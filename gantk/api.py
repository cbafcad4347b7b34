"""The commands of the command line as functions of the same names.

`run`: `recipe.load` reads the recipe, `training.assemble` builds what it names, `training.loop`
trains around the steps of `training.engine`, `metrics.evaluate` scores, `report` writes the page.
`translate`: see `inference.translation`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantk.errors import (
    Interrupted,
    UserError,
    argument,
    count_noun,
    doing,
    machine_failure,
)
from gantk.guest import Say, tell
from gantk.progress import Work

# functions import torch where they need it: an exported model translates without it
if TYPE_CHECKING:
    from gantk.data.preparation import Record
    from gantk.inference.model import Model
    from gantk.metrics.summary import Scores
    from gantk.plugin.callbacks import Hooks
    from gantk.progress import Listener
    from gantk.recipe.load import Recipe, Settings
    from gantk.report.notebook import Run
    from gantk.runs.folder import RunFolder
    from gantk.runs.results import Results
    from gantk.training.assemble import Parts
    from gantk.training.loop import Training

BASELINES_FITTED_ON_TEST_IMAGES = (
    "the baselines are fitted on these test images, because the training images are not here, so"
    " they look better than they are"
)
MAX_WHOLE_PIXELS = 2**26  # of all test images, whose whole files are scored at the end of a run
AnyPath = str | os.PathLike[str]  # a run folder's path, or the gantk.Run itself


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    data: Any = None,
    set: Settings = (),
    layout: str = "",
    profile: str | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    precision: str | None = None,
    seed: int | None = None,
    allow_leakage: bool = False,
    track: Iterable[str] = (),
    overwrite: bool = False,
    say: Say = tell,
) -> Run:
    """Train the model of a recipe, score it on held-out images and write a report.

    Example:

        run = gantk.run("dualgan_t1t2", data="SCANS", seed=1)
        run.metrics["a_to_b"]["psnr"]["value"]

    Args:
        recipe: a path, the name of a recipe that `gantk recipes` lists, or a dictionary of its tables.
        data: images to use in place of the recipe's data source:

            * a file or folder; the source that can read it is chosen;
            * a table: a pandas DataFrame or a list of dictionaries with the columns of a CSV file (path,
              domain, patient, split, ...);
            * arrays or lists by domain: `{"T1": (N, H, W), "T2": (N, H, W), "patient": N names}`.
              Colour pictures are (N, C, H, W), volumes are (N, D, H, W). The keys split, label, mask and
              pair are given like patient. Domains of equal length are pairs, row by row, unless
              `"pair": False` is given;
            * a PyTorch dataset, or any object with a length and items. An item is a dictionary with the
              same keys for one image each: `{"T1": tensor, "T2": tensor, "patient": "p1"}`.

            Tables, arrays and datasets are copied into the run folder, so that the run can be resumed
            without them.
        set: keys of the recipe to override: `{"train.steps": 200, "data.size": (64, 64)}`, or strings
            as on the command line: `["train.steps=200"]`.
        layout: the line that says whose each file of `data` is and what it shows, such as
            "{patient}/{visit}_{contrast}.nii.gz", or the name of a layout; the same as the key
            data.source.layout.
        profile: the `[profile.NAME]` table of the recipe to apply before `set`, or several in this
            order: "cpu,by_class".
        out: the run folder. Default: runs/NAME-TIME.
        device: "cpu", "cuda", "cuda:1" or "mps". Default: the fastest device of this machine.
        precision: "auto", "bf16" or "fp32"; the same as the key train.precision.
        seed: the same as the key train.seed; it draws weights, order and augmentation.
        allow_leakage: whether to train although a patient or an image is in both training and test
            data. The run records this.
        track: names of trackers, such as "tensorboard". Their options are in the recipe's [[track]]
            tables.
        overwrite: whether to replace files of `out` that gantk did not write. A run is never
            replaced.
        say: called with each line of output.

    Returns:
        The run: its folder, metrics, samples and model.

    Raises:
        UserError: the recipe, an option or the data are wrong. Nothing has been written.
        Interrupted: the training was stopped. A checkpoint has been written; `resume` continues.
    """
    from gantk.recipe.load import load_recipe, with_setting

    loaded = load_recipe(recipe)  # before torch is imported, which takes seconds
    from gantk.training.begin import training

    begun = training(
        loaded,
        data=data,
        set=with_setting(set, "data.source.layout", layout) if layout else set,
        profile=profile,
        out=out,
        device=device,
        precision=precision,
        seed=seed,
        allow_leakage=allow_leakage,
        track=track,
        overwrite=overwrite,
        say=say,
        shown=True,
    )
    return _finish(begun, say)


def resume(run: AnyPath, *, device: str | None = None, say: Say = tell) -> Run:
    """Continue a stopped training from its last checkpoint.

    The result is bit-identical to that of a training that was never stopped. A finished run is scored
    and reported again.

    Args:
        run: the run folder.
        device: as in `run`.
        say: called with each line of output.

    Returns:
        The run, as `run` returns it.
    """
    from gantk.machine.launch import launch
    from gantk.machine.runtime import sync_errors
    from gantk.runs.folder import RunFolder
    from gantk.training.begin import training

    folder = sync_errors(lambda: RunFolder.open(run), launch()).path
    return _finish(training(folder, device=device, say=say, shown=True), say)


def _finish(begun: Training, say: Say) -> Run:
    """Train to the last step, score and report."""
    from gantk.metrics.rows import result_tone
    from gantk.report.notebook import Run
    from gantk.training.assemble import restore
    from gantk.training.restart import advice

    parts = begun.parts
    folder = begun.run
    main = parts.runtime.main

    def say_safely(line: str) -> None:
        # a closed terminal or pipe must not stop the scoring
        with suppress(OSError, SystemExit):
            if main:
                say(line)

    with begun:
        try:
            begun.fit()
            if main and folder.inference_checkpoint() != folder.latest():
                restore(parts, folder.inference_checkpoint())
                say_safely(f"best     step {parts.engine.step}, chosen by: {begun.choice.rule}")
            with _scores_resumed(folder):
                scores = _evaluate(parts, folder, say_safely, hooks=begun.hooks, said=begun.notes)
        except BaseException as error:
            if main:
                # makes the page stop reloading; its failure must not hide `error`
                with suppress(Exception):
                    _write_report(folder)
            error.add_note(advice(folder.path, parts.runtime.world).rstrip("."))
            raise

        if main:
            say_safely(f"report   {_write_report(folder)}")
            may_help = result_tone(scores.results) != "good" and begun.choice.is_late
            _say_end(parts, folder, scores.results, may_help, say_safely)

        parts.runtime.wait()
    return Run(folder.path)


@contextmanager
def _scores_resumed(folder: RunFolder) -> Iterator[None]:
    """Say after Ctrl-C that the training is complete, and how to score it."""
    try:
        yield
    except KeyboardInterrupt:
        what = "stopped while the test images were scored; the training is complete."
        again = f"To score them, run: gantk resume {argument(folder.path)}"
        raise Interrupted(f"{what} {again}") from None


def _tested_files(parts: Parts) -> tuple[str | None, list[Record]]:
    """Where a run's source reads its images, if these are files, and the truths of its test pairs."""
    path = parts.model.data.source.table().get("path")
    return path, [pair["b"] for pair in parts.data.pairs("test")]


@doing("scoring whole files")
def _whole_files(parts: Parts, folder: RunFolder) -> Results | None:
    """The scores of whole files of test patients; None where networks see them at their own size, or
    they would take long.
    """
    from gantk.inference.case import image_of
    from gantk.metrics.compare_models import whole_files

    data = parts.model.data
    path, tested = _tested_files(parts)
    if not path or not tested or data.fit == "crop" or not tested[0].file:
        return None
    size = image_of(tested[0]).pixels.shape[-data.dims :]
    is_larger = any(whole > seen for whole, seen in zip(size, data.size, strict=True))
    if not is_larger or len(tested) * prod(size) > MAX_WHOLE_PIXELS:
        return None
    return whole_files(folder.path, path, str(parts.runtime.device))


def _say_end(parts: Parts, folder: RunFolder, results: Results, longer: bool, say: Say) -> None:
    """Say what a finished run has used, and what can be done with it: scores of whole files, which
    networks see resized; a `longer` training, where that may help.
    """
    from gantk.data.preparation import patients_of
    from gantk.terminal import duration, say_next

    run = argument(folder.path)
    path, tested = _tested_files(parts)
    others = {record.subject for record in tested} - patients_of(parts.data.training)
    is_new = path and others and not results.whole_files
    if is_new and any(each.file and len(each.file.scans) == 1 for each in tested):
        size = " x ".join(map(str, parts.model.data.size))
        end = f"   # whole files; the scores above are at {size}"
        say_next(f"gantk eval {run} --data {argument(path)}{end}", say)
    used = folder.usage()
    if used.seconds is not None:
        line = f"used     {duration(used.seconds)} of training"
        if used.peak_memory_gib:
            line += f", {used.peak_memory_gib:.1f} GiB of memory"
        say(line)
    if parts.method.samples:
        classes = parts.data.classes if parts.method.conditional else ()
        one = f"   # of one class: --label {argument(classes[0])}" if classes else ""
        say_next(f"gantk sample {run} -n 64 --out images{one}", say)
    elif parts.method.directions():
        say_next(_translate_unseen(parts, run), say)
    if longer:
        say_next(f"{_longer(parts, run)}   # twice as long", say, "or")


def _longer(parts: Parts, run: str) -> str:
    """The command that trains twice as long, with a baseline that is trained twice as long."""
    train = parts.model.train
    length = f"steps={2 * train.steps}" if train.steps else f"epochs={2 * (train.epochs or 1)}"
    command = f"gantk run {run}/recipe.toml --set train.{length}"
    baseline = parts.model.evaluate.regression
    return f"{command} --set evaluate.regression={2 * baseline}" if baseline else command


def _translate_unseen(parts: Parts, run: str) -> str:
    """The command that translates an image that was held out, where it is one file."""
    has_two = len(parts.method.directions()) > 1
    to = f" --to {argument(parts.model.data.domains[-1])}" if has_two else ""
    unseen = (x for x in parts.data.splits["test"] if x.domain == "a" and len(x.files) == 1)
    scan = next((argument(record.files[0]) for record in unseen), "SCAN")
    return f"gantk translate {run} {scan} OUTPUT{to}"


@doing("writing the report")
def _write_report(folder: RunFolder) -> Path:
    from gantk.report.build import write_report  # not imported before the first step

    return write_report(folder.path)


@contextmanager
def _own_test_images(run: AnyPath) -> Iterator[None]:
    """A UserError that is raised within says that a packed model's test images are not here."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"'{run}' is a model without its test images, which are not here: {error.what}",
            where="RUN",
            remedy=f"score it on scans of yours: gantk eval {run} --data SCANS",
        ) from error


def evaluate(
    run: AnyPath,
    *,
    metrics: Iterable[str] | None = None,
    data: Any = None,
    set: Settings = (),
    layout: str = "",
    device: str | None = None,
    say: Say = tell,
) -> Scores:
    """Score the model of a run on its held-out test images, or on other images, beside the
    baselines.

    Example:

        gantk.evaluate("runs/first", metrics=["psnr", "ssim", "lpips"])

    Args:
        run: a run folder, or a packed model, whose folder is not changed: it is scored on the images
            and the split that it was trained with, or on `data`.
        metrics: names of metrics. Default: those of the recipe.
        data: other images of the same domains, as in `run`: all are test images, with the
            intensity mapping of the training. The run folder is not changed. Baselines learn from
            the run's own images, which must still be there; those of a packed model, which has none,
            from `data` itself.
        set: how `data` is read, such as {"data.source.mask": "seg"}.
        layout: the line that says whose each file of `data` is, as in `run`.
        device: as in `run`.
        say: called with each line of output.

    Returns:
        The content of metrics.json, a dictionary: scores by direction and metric with 95 % intervals
        over patients, baselines, verdicts. `scores.table` is a pandas DataFrame with a line for each
        image, metric, region and system; `print(scores)` prints the summary of a terminal.
    """
    from tempfile import TemporaryDirectory

    from gantk.data.arrays import keep
    from gantk.data.dataset import layouts_in_words
    from gantk.data.recipe_data import with_test_data, without_training
    from gantk.data.sources.pairing import without_partner
    from gantk.files import lock_folder
    from gantk.inference.notes import misfit_sentence
    from gantk.machine.runtime import start
    from gantk.metrics.summary import with_label
    from gantk.runs.folder import RunFolder
    from gantk.runs.models import (
        copy_packed,
        doubt_about_people,
        find_model,
        pack_record,
        require_split,
        trained_on,
    )
    from gantk.training.assemble import assemble, restore

    folder = RunFolder.open(find_model(run, say))
    recipe = folder.recipe()
    if metrics:
        _score_by(recipe, list(metrics))
    model = recipe.check()
    runtime = start(device, model.train.precision, model.train.fast.channels_last)
    with ExitStack() as locks:
        given = str(data)
        if data is not None and not isinstance(data, (str, os.PathLike)):
            given = type(data).__name__
            stored = Path(locks.enter_context(TemporaryDirectory())) / "data"
            data, _ = keep(data, stored, model.data.domains)
        other = None if data is None else with_test_data(recipe, data, set, layout)
        packing = pack_record(folder)
        seen = trained_on(folder.path, packing)
        if packing is not None:
            copy = Path(locks.enter_context(TemporaryDirectory())) / folder.path.name
            folder = RunFolder(copy_packed(folder, copy))
            without_start = model.train.model_copy(update={"start": ""})  # it may be elsewhere
            tables: dict[str, Any] = {"train": without_start}
            if other is not None:
                tables["data"] = other = without_training(other)
            model = model.model_copy(update=tables)

        locks.enter_context(lock_folder(folder.path))
        chosen = folder.inference_checkpoint()
        needs_own = packing is not None and other is None
        with _own_test_images(run) if needs_own else nullcontext():
            parts = assemble(model, runtime, None if packing is not None else folder.split())
        if other is None:
            require_split(packing, parts.data)
        for line in parts.data.notes:
            say(line)

        restore(parts, chosen)
        if other is None:
            before = _score_names(folder)
            scores = _evaluate(parts, folder, say)
            gone = sorted(before - _score_names(folder))
            if gone:
                rest = "; `gantk eval RUN` scores by the recipe's metrics again"
                say(f"note     no longer in metrics.json: {', '.join(gone)}{rest}")
            if packing is None:
                with suppress(OSError):  # a full disk: the scores are shown and returned
                    say(f"report   {_write_report(folder)}")
            return scores

        parts.data.test_on(other, model.method.target, seen)
        if doubt := doubt_about_people(folder.path, packing):
            parts.data.warnings = [*parts.data.consequences(), doubt]
        tested = parts.data.splits["test"]
        read_by = layouts_in_words(parts.data.source)
        say(f"layout   {read_by}" if read_by else f"data     {parts.data.images_in_words(tested)}")
        compare = ": compare two on pairs, by gantk eval RUN OTHER"
        is_paired = parts.method.directions()
        say(f"note     scores hold in this model's gray range{compare if is_paired else ''}")
        alone = without_partner(tested)
        if alone and len(alone) < len(tested):
            say(f"note     {count_noun(alone, 'image')} without a partner, such as {alone[0].key}")
        if packing is not None:
            say(f"note     {BASELINES_FITTED_ON_TEST_IMAGES}")
        scratch = RunFolder(Path(locks.enter_context(TemporaryDirectory())))
        scores = _evaluate(parts, folder, say, scratch)
        if misfits := misfit_sentence(parts.scorer.checks):
            say(with_label("warning", misfits))
        scores["data"] = given
        return scores


def load(model: AnyPath | Iterable[AnyPath], *, device: str | None = None) -> Model:
    """Load a trained model: `load("runs/first").translate(pixels, to="T2")`.

    Args:
        model: a run folder, one of its checkpoints, a .onnx file, the name of a model that `gantk
            models` lists, or the address of a model, hf://USER/NAME@REVISION. Several models, as a list
            or in any form that `translate` takes, are loaded as an ensemble that returns the mean of
            their translations.
        device: as in `run`.

    Returns:
        The model. `translate` takes and returns an array, a tensor or an image on its own grid.
    """
    from gantk.inference.load import load_model

    return load_model(model, device)


def translate(
    run: AnyPath | Iterable[AnyPath] | Model,
    input: str | Path | Mapping[str, str | Path],
    output: str | Path | None = None,
    *,
    to: str | None = None,
    variants: int | None = None,
    seed: int = 0,
    style: str | Path | None = None,
    uncertainty: bool = False,
    label: str | None = None,
    volume: int | None = None,
    layout: str = "",
    format: str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    say: Say = tell,
    progress: Listener | None = None,
) -> list[Path]:
    """Translate a picture, a volume, a DICOM series or a folder of them; results are files of the same
    kind.

    Example:

        gantk.translate("t1t2", "t1.nii.gz", "t2.nii.gz", to="T2")
        gantk.translate(RUN, {"T1": "a.nii.gz", "T2": "b.nii.gz"}, "flair.nii.gz", to="FLAIR")

    Args:
        run: a run folder, a checkpoint, a .onnx file or the name of a model; see `load`. An ensemble,
            which returns the mean: a list, "RUN1,RUN2", or a pattern such as "DIR/seed-*". Or a model
            that `load` has returned.
        input: a file, a folder, or a CSV that lists images. For a run on several contrasts: the files
            of a patient by contrast, a patient's folder with one file or DICOM series for each
            contrast, a folder of such folders, or a CSV.
        output: a file, or a folder if `input` is one.
        to: the domain to make, by its name, or one of its contrasts. Default: the second domain of the
            recipe, or the first where headers or names state the second alone, with a warning where
            they state none; of a run that makes any contrast from others, those that a patient lacks.
        variants: how many translations of each input to write (multimodal methods such as munit); `seed`
            draws their styles.
        seed: the seed of `variants`.
        style: an image of the target domain whose style the translation takes (multimodal methods).
        uncertainty: whether to write a second map, of the standard deviation between the models of an
            ensemble, in the target's units.
        label: the class of the images, such as "tumour", for methods that were trained with classes.
        volume: the volume to translate of a file that holds several, counted from 0.
        layout: the line that says whose each file of a folder is and what it shows; a run on several
            contrasts needs one, of which gantk knows some.
        format: the kind of file to write, by its suffix ("tif", "nii.gz"). Default: that of each input.
        overwrite: whether to replace files that gantk did not write, or that were changed since. In
            the folder of a DICOM series all DICOM files are replaced.
        device: as in `run`.
        say: called with each line of output.
        progress: called with the share that is done, from 0 to 1, and a line that says what is done.

    Returns:
        The paths of the written files. A folder that was translated in part is continued.

    Raises:
        UserError: an input or an option is wrong, or `output` holds files that `overwrite` is needed
            for. A damaged file of a folder does not stop the others;
            it is reported at the end.
    """
    from gantk.formats.files import formats, read
    from gantk.formats.image import SeriesFormat
    from gantk.inference.frame import TranslateOptions
    from gantk.inference.load import load_model
    from gantk.inference.translation import Translation
    from gantk.progress import progress_to

    if output is None or not isinstance(input, (str, os.PathLike, Mapping)):
        raise UserError(
            "gantk.translate translates files and writes files",
            where="input, output",
            allowed="paths of both",
            remedy="translate arrays, tensors and images by gantk.load(run).translate(images)",
        )

    suffix = f".{format.lower().lstrip('.')}" if format else ""
    kinds = [each for each, form in formats().items() if not isinstance(form, SeriesFormat)]
    if suffix and suffix not in kinds:
        raise UserError(
            f"gantk cannot write the format '{format}'",
            where="--format",
            allowed=[kind[1:] for kind in kinds],
        )

    options = TranslateOptions(
        variants,
        seed,
        None if style is None else read(Path(style)),
        uncertainty,
        label,
    )
    with doing(f"translating '{input}' with '{run}'"), ExitStack() as heard:
        with Work("loading the model"):
            model = load_model(run, device, say)
        heard.enter_context(progress_to(progress))
        source: Path | dict[str, Path]
        if isinstance(input, Mapping):
            source = {name: Path(path) for name, path in input.items()}
        else:
            source = Path(input)
        tested = _test_result(model)
        if tested:
            say(f"tested   {tested}")
        translation = Translation(
            model,
            to,
            options,
            volume,
            say,
            suffix=suffix,
            tested=tested,
            overwrite=overwrite,
            input_layout=layout,
        )
        return translation.path(source, Path(output))


def _test_result(model: Model) -> str:
    """The first sentence of the report of a model's run; "" where it was never scored."""
    if model.run is None or not (model.run.path / "metrics.json").exists():
        return ""
    from gantk.metrics.rows import judgement

    sentence, _ = judgement(model.run)
    return sentence


@Work("generating images")
def sample(
    run: AnyPath,
    *,
    n: int = 64,
    out: str | Path,
    seed: int = 0,
    label: str | None = None,
    post: bool = True,
    overwrite: bool = False,
    device: str | None = None,
    say: Say = tell,
) -> list[Path]:
    """Generate images from noise with a trained model and write them to a folder.

    Args:
        run: a run folder of a noise-to-image method such as dcgan, or one of its checkpoints.
        n: how many images.
        out: the folder for them; UserError where it holds samples of an earlier call.
        seed: the same seed gives the same images.
        label: the class to generate, for methods that were trained with classes. Default: the classes in
            turn.
        post: whether to apply the recipe's [[post]] steps.
        overwrite: delete samples of an earlier call.
        device: as in `run`.
        say: called with each line of output.

    Returns:
        The paths of the written files, with the intensities of the training images: PNG, in whole
        numbers, where 8 bits hold these (at least 64 levels, or whole numbers), else TIFF with
        decimals; volumes are NIfTI.
    """
    from gantk.inference.load import load_model
    from gantk.inference.samples import write_samples

    with doing(f"generating images with '{run}'"):
        model = load_model(run, device, say)
        written = write_samples(model, Path(out), n, seed, label, post, overwrite=overwrite)
        drawn = Counter(model.classes_of_samples(n, label))
    of = "".join(f", {count} of {name}" for name, count in drawn.items())
    say(f"written  {count_noun(written, 'image')} to {out}{of}")
    return written


@Work("exporting")
def export(
    run: AnyPath,
    *,
    format: str = "onnx",
    out: str | Path,
    to: str | None = None,
    label: str | None = None,
    overwrite: bool = False,
    say: Say = tell,
) -> Path:
    """Write one direction of a trained model as ONNX, or as a MONAI bundle.

    The outputs for held-out images are compared with those of PyTorch before the file counts as
    written. An ONNX file needs neither gantk nor torch.

    Args:
        run: a run folder, a checkpoint or the name of a model.
        format: "onnx", "monai" or another that `gantk list exporter` names.
        out: the .onnx file, or the folder of the bundle.
        to: the domain to make, by its name. Default: the second domain of the recipe.
        label: the class that the file translates, for methods that were trained with classes.
        overwrite: as in `translate`.
        say: called with each line of output.

    Returns:
        The path of the file or folder.

    Raises:
        GantkError: the outputs differ by more than a thousandth of the intensity range. No file is
            written.
    """
    from gantk.exports.exporting import export as write
    from gantk.runs.models import find_model

    with doing(f"exporting '{run}' as {format}"):
        model = find_model(run, say)
        return write(model, format, Path(out), to, label, say, overwrite=overwrite)


def _score_names(folder: RunFolder) -> set[str]:
    """The names of the scores in a run's metrics.json; none where it is absent or damaged."""
    from gantk.runs.schemas import read_results

    with suppress(UserError):
        return {name for scores in read_results(folder.path).metrics.values() for name in scores}
    return set()


def _score_by(recipe: Recipe, metrics: list[str]) -> None:
    """Give the recipe of a run other metrics; UserError for one that does not exist, which its `check`
    would leave out.
    """
    from gantk.plugin.spec import bind

    for metric in metrics:
        bind("metric", metric)
    recipe.tables.setdefault("evaluate", {})["metrics"] = metrics


@doing("scoring the test images")
def _evaluate(
    parts: Parts,
    folder: RunFolder,
    say: Say,
    scratch: RunFolder | None = None,
    hooks: Hooks | None = None,
    said: Sequence[str] = (),
) -> Scores:
    """Score the test split, write metrics.json and scores.csv, and print their summary; returns the
    scores, without any on ranks other than 0.

    `scratch`: the folder that gets the files, where they are not about the run's own images;
    `said`: warnings that are not repeated.
    """
    kept = scratch or folder
    from gantk.metrics.baselines import keep_weights
    from gantk.metrics.comparing import add_tests
    from gantk.metrics.summary import Scores, summary_lines
    from gantk.metrics.table import write_results
    from gantk.plugin.callbacks import Hooks
    from gantk.report.patients.keeping import keep_test_images
    from gantk.runs.speed import speed_of
    from gantk.training.loop import inference_weights

    main = parts.runtime.main
    if main:
        metrics = [*parts.scorer.pairs.metrics, *parts.scorer.set_metrics]
        names = [metric.name for metric in metrics]
        if names:  # some of them take minutes
            say(f"score    test images and baselines by {', '.join(names)}")

    with inference_weights(parts.method, parts.engine):
        # all ranks score with the main rank's weights and norm statistics
        parts.runtime.broadcast(parts.method.state_dict().values())
        results = parts.scorer.test()

    if not main:
        return Scores(results)

    results.speed = speed_of(folder.read_log(), folder.usage())
    results.domains = list(parts.model.data.domains)
    results.step = parts.engine.step
    warnings = []
    try:
        about = {"run": kept.path, "tested": parts.scorer.tested, "result": results}
        keep_test_images(kept.path, parts.scorer.tested | parts.scorer.unpaired, results)
        write_results(kept.path, results)  # whatever plugins do, it is not lost
        keep_weights(kept.path, parts.scorer.trained)
        if not scratch:
            results.whole_files = _whole_files(parts, folder)
        (hooks or Hooks()).gantk_images_scored(**about, scorer=parts.scorer)
        add_tests(results)
        write_results(kept.path, results)
    except OSError as error:  # scores that took minutes are printed even if they cannot be stored
        warnings = [
            (
                "warning  these scores could not be written to the run folder."
                f" {machine_failure(error) or error}"
            )
        ]

    for line in [*summary_lines(results, said), *warnings]:
        say(line)

    return Scores(results)
