"""Schemas of the JSON files in a run folder, and the functions that read and check these files."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from gantk.errors import UserError, count_noun, one_line
from gantk.files import MAX_READ_BYTES, open_file, read_file, regular_file
from gantk.formats.contrasts import QUANTILE_COUNT
from gantk.plugin.spec import Share

LOG = "log.jsonl"
WEIGHTS = "weights.safetensors"  # of a checkpoint
MAX_LINE_BYTES = 2**20  # of the log
MAX_LOG_BYTES = 2**28
MAX_LOG_LINES = 1_000_000
Step = Annotated[int, Field(ge=0, le=10**15)]
# of report.pictures
Preview = Annotated[str, Field(pattern=r"^data:image/webp;base64,[A-Za-z0-9+/=]+$")]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Finite = Annotated[float, Field(ge=-1e30, le=1e30)]
Pair = Annotated[list[float | None], Field(min_length=2, max_length=2)]
# part of a file name: no path separators
Part = Annotated[str, Field(pattern=r"^[^/\\\x00]{1,200}$")]


def table(*required: str, **kinds: Any) -> Any:
    """The schema of a JSON object: for each key its type, or (type, meaning).

    Keys not in `required` may be absent or null; others are ignored.
    """
    keys: dict[str, Any] = {}
    for key, kind in kinds.items():
        kind, about = kind if isinstance(kind, tuple) else (kind, None)
        if key in required:
            keys[key] = (kind, Field(description=about))
        else:
            keys[key] = (kind | None, Field(None, description=about))
    return create_model("Table", __config__=ConfigDict(defer_build=True), **keys)


def list_of(schema: Any) -> Any:
    """The schema of a list."""
    return GenericAlias(list, (schema,))


def by_name(schema: Any, key: Any = str) -> Any:
    """The schema of an object with any keys."""
    return GenericAlias(dict, (key, schema))


def _require_numbers(row: dict[str, Any]) -> dict[str, Any]:
    for key, value in row.items():
        if isinstance(value, str) and key != "barred":
            raise ValueError(f"'{key}' is not a number")
    return row


SCORE = {
    "value": (float, "Mean over patients; null if no image could be scored."),
    "ci95": (Pair, "95 % interval of the mean, over patients; null for fewer than two patients."),
    "n": (Step, "Number of patients that the mean is over."),
    "images": (Step, "Number of scored images."),
    "unit": (str, "Unit of the value, such as `dB`."),
    "definition": (str, "How the score is computed: metric, data range and region."),
}
PLAIN_SCORE = table(**SCORE)
LEVEL = table(**SCORE, how=(str, "How volumes are scored, such as `pooled-over-slices`."))
ROW = table(
    **SCORE,
    higher_is_better=(bool, "Whether higher values are better; null if neither direction is."),
    corrected=(float, "The score after the best linear correction of the output's intensities."),
    per=(by_name(LEVEL), "The same score by `slice` and `volume`; `n` is their number."),
    in_units=(PLAIN_SCORE, "The same score in the units of the files, such as HU."),
)
TEST = table(
    "n",
    "gain",
    "p",
    n=(Step, "Number of patients."),
    gain=(float, "Mean gain of the model over the baseline; positive if the model is better."),
    ci95=(Pair, "95 % interval of the gain."),
    p=(Share, "p-value of the two-sided sign-flip permutation test."),
    exact=(bool, "Whether all sign patterns were tried: true up to 20 patients."),
    wilcoxon=(Share, "p-value of the Wilcoxon signed-rank test."),
    effect=(float, "Hedges' g of the paired differences; null if it is not defined."),
    needed=(Step, "Number of patients for 80 % power at this effect; null above 10,000."),
    holm=(Share, "`p`, corrected by Holm's method for the chance of any false finding."),
    fdr=(Share, "`p`, corrected by Benjamini and Hochberg for the share of false findings."),
    of=(Step, "Number of tests that the corrections cover."),
)
JUDGED = {
    "better": (bool, "Whether the model's mean is better than that of the baseline."),
    "best_baseline": (str, "Name of the best baseline."),
    "probability": (Share, "Probability that the model is better than this baseline."),
    "test": (TEST, "The paired test of model and baseline; only for metrics of pairs."),
}
WITHOUT_PAIRS = table(**JUDGED)
VERDICT = table(
    **JUDGED,
    without_pairs=(WITHOUT_PAIRS, "The same against the best baseline that needs no pairs."),
)
ROWS = by_name(by_name(ROW))  # by direction and metric
CURVES = dict[str, list[float]]
GROUPS = table(
    "groups",
    "too_few",
    groups=(by_name(ROW), "The score of each group."),
    too_few=(list[str], "Groups that are not compared: fewer than five patients, or unknown."),
    worst=(str, "Name of the worst group; absent if fewer than two groups are compared."),
    best=(str, "Name of the best group."),
    gap=(float, "Difference between the means of the best and the worst group."),
    p=(Share, "p-value of the gap, from random regrouping of the patients."),
    holm=(Share, "`p`, corrected by Holm's method over all metrics and columns."),
)
CHOSEN_BY = Annotated[
    dict[str, dict[str, float | None] | float | str | None], AfterValidator(_require_numbers)
]
SPEED = table(
    step=(Step, "Step of the last checkpoint; only in usage.json."),
    steps=(Step, "Number of steps at the last log point; only in metrics.json."),
    seconds=(Amount, "Training time in seconds, without validation and checkpoints."),
    images_per_s=(Amount, "Median number of images per second over the log points."),
    step_seconds=(list[Amount], "Mean seconds per step between log points, in order."),
    first_step_s=(Amount, "Seconds from the start of the process to the end of its first step."),
    peak_memory_gib=(Amount, "Peak memory in GiB, over all resumes."),
    predicted=(
        dict[str, Any],
        "`step_s` and `peak_memory_gib` as `gantk doctor` estimates them, if it was run.",
    ),
)
FILE = table(
    "path",
    "sha256",
    path=(str, "Path of the file."),
    sha256=(str, "SHA-256 of the file."),
)
FILES = list_of(FILE)
CASE = table(
    "given",
    "made",
    given=(list[str], "Contrasts that are there."),
    made=(str, "Contrast that is made of them."),
)
IMAGE = table(
    "domain",
    "key",
    "subject",
    "pair",
    "path",
    domain=(str, "Letter of the domain: `a`, `b` or `image`."),
    key=(str, "Name of the image, unique in its domain."),
    subject=(str | None, "Name of the patient; empty or null if it is unknown."),
    pair=(str | None, "Name that the two images of a registered pair share; null without a pair."),
    path=(str | None, "Path of the file; null if the image is not read from a file."),
    sha256=(str, "SHA-256 of the file."),
    label=(str, "Class of the image, with data.labels."),
    missing=(list[str], "Contrasts that the patient lacks."),
    others=(FILES, "Further files of the image; listed with the first image of a file."),
    parts=(FILES, "Files that are read with it: separate voxels and masks."),
)
IMAGES = list_of(IMAGE)
MAPPING = {
    "name": (str, "Name of the intensity mapping, such as `percentile`."),
    "range": (
        Annotated[list[Finite], Field(min_length=2, max_length=2)],
        "Lowest and highest intensity that the network sees.",
    ),
}
LINE = table(**MAPPING)
VALUES = table(
    *("low", "high", "whole", "quantiles", "near"),
    low=(Finite, "Lowest intensity of the training images, in the units of the files."),
    high=(Finite, "Highest intensity of the training images, in the units of the files."),
    whole=(bool, "Whether these are whole numbers."),
    quantiles=(
        Annotated[list[Finite], Field(min_length=QUANTILE_COUNT, max_length=QUANTILE_COUNT)],
        "Mean quantiles of the tissue's intensities, without air.",
    ),
    near=(Amount, "Distance from these quantiles within which 95 % of the single images are."),
)
COUNT = Annotated[int, Field(ge=0, le=10_000)]
SHOWN = table(
    "to",
    "count",
    **{"from": (str, "Name of the source domain; null for images from noise.")},
    to=(str, "Name of the target domain."),
    count=(COUNT, "Number of pictures."),
    images=(list[dict[str, str | None]], "`patient` and `image` (its path) of each picture."),
    cycle=(
        bool,
        "Whether `step-N/cycle` holds the pictures' reconstructions: translated there and back.",
    ),
)
UNCERTAINTY = table(
    auroc=(
        ROW,
        "AUROC for finding the largest 10 % of a patient's errors: 1 is perfect, 0.5 is guessing.",
    ),
    auroc_10=(ROW, "The same for errors above 10 % of the data range."),
    auroc_10_whole=(ROW, "`auroc_10` for whole images, air included, which is easier."),
    ause=(
        ROW,
        "Area between the rejection curve and the ideal one, as a share of the mean error; 0 is"
        " perfect.",
    ),
    spearman=(ROW, "Rank correlation of error and uncertainty: 1 is perfect, 0 is guessing."),
    coverage=(ROW, "Share of errors within one scaled spread; 0.6827 is ideal."),
    rejection=(
        CURVES,
        "Curves of the mean error of the share `kept`: `error` removes uncertain pixels first,"
        " `oracle` large errors, `random` any pixels.",
    ),
    reliability=(CURVES, "Curves of the `observed` and `unscaled` coverage at each `nominal` one."),
    scale=(
        table(
            factor=(float | None, "Factor on the spread; null if it was not fitted."),
            patients=(Step, "Number of validation patients that it was fitted to."),
        ),
        "The factor with which 68.27 % of the validation errors are within one spread.",
    ),
)
DISTRIBUTIONS = table(
    "edges",
    "shares",
    edges=(list[float], "Ends of the bins, from 0 (black) to 1 (white)."),
    shares=(
        CURVES,
        "Share of the pixels in each bin: of `real` test images, `generated` ones, and"
        " `generated_post` after the post-steps.",
    ),
    distance=(
        dict[str, float],
        "Wasserstein distance of the generated images from the real ones, as a share of the range"
        " from black to white.",
    ),
    images=(dict[str, Step], "Number of images."),
)
MEASURED = table(
    "name",
    "curves",
    name=(str, "Name of the post-step."),
    images=(Step, "Number of images."),
    curves=(CURVES, "Mean losses over the images, for each optimisation step from 0 on."),
)
SCHEMAS = {
    "meta.json": table(
        "method",
        "step",
        "format",
        "channels",
        "intensity",
        method=(str, "Name of the method."),
        step=(Step, "Number of finished steps."),
        steps=(Step, "Number of steps of the whole training."),
        format=(Annotated[int, Field(ge=1)], "Version of the checkpoint's format."),
        classes=(list[str], "Names of the classes, with data.labels."),
        channels=(
            dict[str, Annotated[int, Field(ge=1, le=2**16)]],
            "Number of channels of each domain.",
        ),
        values=(by_name(VALUES), "Statistics of the training intensities of each domain."),
        packed=(
            table(
                "left_out",
                left_out=(list[str], "First parts of the names of weights that were left out."),
                name=(str, "Name of the model."),
                split=(str, "SHA-256 of the split."),
                gantk=(str, "Version of gantk that packed the model."),
                seen=(
                    table(
                        "train",
                        by=(str | None, "How images were assigned to the sets, such as `patient`."),
                        train=(
                            list_of(table(sha256=(str, "SHA-256 of a training file."))),
                            "The training files, without names.",
                        ),
                    ),
                    "What identifies the training images.",
                ),
            ),
            "The record of `gantk pack`; only in a packed model.",
        ),
        intensity=(
            Annotated[
                by_name(
                    table(
                        **MAPPING,
                        lines=(list_of(LINE), "The mappings of the contrasts, if it has several."),
                    )
                ),
                Field(min_length=1),
            ],
            "Intensity mapping of each domain, with its options and fitted values.",
        ),
    ),
    "state.json": table(
        step=(Step, "Number of finished steps."),
        ema_updates=(Step, "Number of updates of the averaged weights."),
        threads=(
            Annotated[int, Field(ge=1, le=4096)],
            "Number of threads; a resume uses the same number.",
        ),
        ranks=(list[dict[str, Any]], "Buffers of all ranks but the first, such as image pools."),
        optimizers=(
            by_name(
                table(
                    state=(dict[int, dict[str, Any]], "State of each parameter."),
                    param_groups=(list[dict[str, Any]], "Options of each group of parameters."),
                )
            ),
            "State of each phase's optimizer, as PyTorch stores it.",
        ),
    ),
    "recipe.toml": table(  # the keys that the report reads; gantk.recipe checks all keys
        summary=str,
        method=table(name=str),
        data=table(domains=list[str]),
        train=table(steps=Step),
    ),
    "split.json": table(
        "splits",
        how=(str, "How the split was made, in words, with the number of images of each set."),
        leakage_allowed=(str, "The leaks that `--allow-leakage` accepted; null without leaks."),
        warnings=(list[str], "The warnings about the data at the start, repeated by a resume."),
        files=(
            list[str],
            "All files that the source listed, relative to its folder; a resume reads only these.",
        ),
        splits=(
            table(
                "by",
                "train",
                "validation",
                "test",
                by=(
                    str | None,
                    "How images were assigned: `patient`, `block`, `image`, `folders` or `file`.",
                ),
                consequences=(list[str], "Consequences of the split for the scores, in words."),
                train=(IMAGES, "Training images."),
                validation=(IMAGES, "Validation images."),
                test=(IMAGES, "Held-out test images."),
                set_aside=(IMAGES, "Images of the training set that the method does not use."),
                left_out=(
                    list[Annotated[list[str], Field(min_length=2, max_length=2)]],
                    "Domain and key of each image that is in no set.",
                ),
            ),
            "The sets, and how they were made.",
        ),
    ),
    "log.jsonl": table(  # one line
        "step",
        step=(Step, "Number of finished steps; in every line."),
        epoch=(Step, "Number of finished epochs; at log points."),
        seconds=(Amount, "Training time so far in seconds; at log points."),
        images_per_s=(Amount, "Images per second since the last log point; at log points."),
        lr=(float, "Learning rate; at log points."),
        losses=(dict[str, float | None], "Each loss as `PHASE/NAME`; at log points."),
        stage=(str, "Name of the stage; at log points."),
        validation=(
            dict[str, dict[str, float | None]],
            "Validation scores of each direction; at sample points, if the truth is known.",
        ),
        cycle=(
            dict[str, float | None],
            "Mean absolute difference of the sample images from their reconstructions, in network"
            " intensities, by direction; at sample points of two-way methods.",
        ),
        selection=(CHOSEN_BY, "The checkpoint's row of the `table` in best.json; at checkpoints."),
        alarm=(str, "Name of an alarm, if the outputs look wrong."),
        message=(str, "The alarm in words."),
        note=(str, "A phase that is computed in another way than the recipe asks for, and why."),
        stopped=(str, "Why `train.patience` ended the training, in words."),
    ),
    "best.json": table(
        step=(Step, "Step of the best checkpoint; null if no checkpoint was scored."),
        higher_is_better=(bool, "Whether a higher score is better."),
        rule=(str, "How checkpoints are scored, in words."),
        table=(
            list[CHOSEN_BY],
            "One row for each checkpoint: `step`, `score` and the parts of the score for each"
            " direction.",
        ),
    ),
    "usage.json": SPEED,
    "metrics.json": table(
        metrics=(
            ROWS,
            "The model's scores, by direction (`a_to_b`, `b_to_a`, `image`) and metric."
            " `psnr_foreground` and `psnr_lesion` are PSNR in these regions.",
        ),
        baselines=(by_name(ROWS), "The same scores of each baseline, by its name."),
        files=(
            ROWS,
            "By direction, scores of the files that `gantk translate` writes for the test images, as"
            " `gantk eval --pred --truth` computes them: whole, in their own values.",
        ),
        cases=(
            by_name(CASE),
            "Of methods that make any contrast from others, by direction: what is there and what"
            " is made.",
        ),
        cycle=(
            ROWS,
            "Of two-way methods, by direction: `mae` and `mae_foreground` between test images and"
            " their reconstructions, which are translated there and back.",
        ),
        alarms=(
            dict[str, str],
            "A warning for each direction whose foreground is too large to be a head in air.",
        ),
        foreground=(dict[str, float], "Share of pixels that count as foreground, by direction."),
        speed=(SPEED, "Time and memory of the training."),
        domains=(list[str], "Names of the domains."),
        step=(Step, "Step of the scored checkpoint."),
        subgroups=(
            by_name(by_name(by_name(GROUPS))),
            "Scores of subgroups, by direction, column of `evaluate.by` and metric.",
        ),
        verdict=(
            by_name(by_name(VERDICT | None)),
            "Whether the model is better than the best baseline, by direction and metric.",
        ),
        uncertainty=(
            by_name(UNCERTAINTY),
            "How well the uncertainty map finds errors, by direction.",
        ),
        values=(
            by_name(DISTRIBUTIONS),
            "Distributions of intensities of real and of generated images, by direction.",
        ),
        post=(
            by_name(list_of(MEASURED)),
            "What the post-steps measured on the scored images, by direction.",
        ),
    ),
    "index.json": table(
        "directions",
        "steps",
        directions=(by_name(SHOWN, key=Part), "The pictures of each direction."),
        steps=(list[Step], "Steps at which pictures were written."),
        has_truth=(bool, "Whether the folder `truth` exists."),
    ),
    "environment.json": table(
        gantk=(str, "Version of gantk."),
        packages=(dict[str, str | None], "Versions of the packages that gantk uses."),
        started=(str, "Start of the training: date and time with time zone."),
        command=(str, "The command line."),
        folder=(str, "The working folder of the command."),
        recipe=(
            table(
                origin=(str, "The recipe's file, or the name of a bundled recipe."),
                profile=(str, "The profile that was applied."),
                changed=(
                    dict[str, Annotated[list[str], Field(min_length=2, max_length=2)]],
                    "By key: value of the recipe's file, and value of the run.",
                ),
                data=(str, "The data source, with its path or what it draws."),
            ),
            "What was run.",
        ),
        matched=(str, "How the method matched training images, if it did."),
        device=(str, "Device, such as `cpu` or `cuda`."),
        precision=(str, "Precision: `bf16` or `fp32`."),
    ),
}


def read(
    folder: Path,
    name: str,
    schema: Any = None,
    remedy: str = "copy the run again from the original",
) -> dict[str, Any]:
    """Read and check `folder/name`, a JSON or TOML file of a run; {} where it is absent.

    UserError that names file and key where the file is damaged, does not match its schema, is no
    regular file, or lies outside the folder.
    """
    path = folder / name
    try:
        text = text_of(path, folder)
        parse = tomllib.loads if path.suffix == ".toml" else json.loads
        return parse_checked(text, schema or SCHEMAS[path.name], parse)
    except FileNotFoundError:
        return {}
    except UserError as error:
        raise UserError(error.what, where=str(path), remedy=remedy) from None
    except (ValueError, OSError) as error:
        raise UserError(
            f"{path.name} could not be read: {one_line(error)}", where=str(path), remedy=remedy
        ) from None


def is_inside(run: Path, path: Path) -> bool:
    """Whether a path is a regular file inside this run folder, links followed: files outside must
    not be shown.
    """
    try:
        return path == regular_file(path, run)
    except (OSError, UserError):
        return False


def read_log(run: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the readable lines of a run's log.jsonl; damaged or cut-off lines are counted in a
    message added to `problems`. UserError where it is no regular file, lies outside the run, or has
    more than MAX_LOG_LINES lines.
    """
    skipped = 0
    first_error = ""
    try:
        file = open_file(run / LOG, run, MAX_LOG_BYTES)
    except FileNotFoundError:
        return

    with file:
        for number, text in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            if number > MAX_LOG_LINES:
                what = f"'{run / LOG}' has more than {MAX_LOG_LINES:,} lines, which no log needs"
                raise UserError(what, remedy="restore it from the original")
            try:
                yield parse_checked(text.decode(), SCHEMAS[LOG])
            except ValueError as error:
                skipped += 1
                first_error = first_error or f"the first one is line {number}: {one_line(error)}"

    if skipped:
        problems.append(
            f"{count_noun(skipped, 'line')} of {LOG} cannot be read and will be"
            f" ignored; {first_error}"
        )


def text_of(path: Path, folder: Path) -> str:
    """The text of a file of the run in `folder`; UserError or ValueError where it cannot be read."""
    max_bytes = MAX_READ_BYTES
    if path.name == "split.json":  # it lists every image
        max_bytes *= 8
    return read_file(path, folder, max_bytes).decode("utf-8-sig")


def parse_checked(
    text: str, schema: type[BaseModel], parse: Callable[[str], Any] = json.loads
) -> dict[str, Any]:
    """Parse a text and check it against a schema; ValueError that names the first key that does not
    match.
    """
    try:
        value = parse(text)
        schema.model_validate(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "all of it"
        raise ValueError(f"{key}: {first['msg']}") from None
    except RecursionError:
        raise ValueError("its tables are nested too deeply") from None

    return value
