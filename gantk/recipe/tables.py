"""The tables of a recipe: every key with its type, default and meaning."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from gantk.errors import UserError
from gantk.plugin import spec

MOST_BYTES, MOST_VALUES, MOST_CHARACTERS, DEEPEST = 2**18, 10_000, 4096, 16  # of a file, all tables, a text; nesting
FORMAT = 1  # raised when an older gantk could no longer read what this one writes


class SplitTable(spec.Table):
    """How subjects are divided; `auto`: by patient where patients are known, else in blocks of neighbouring slices."""

    test: spec.Fraction = 0.2  # part of the subjects (or slices) that training never sees
    validation: spec.Fraction = 0.1  # part that is scored while training
    by: Literal["auto", "patient", "block", "image"] = "auto"  # what is never divided
    blocks: spec.Count = 2  # by block: how many runs of neighbouring slices are held out per set
    gap: spec.Number = 2  # by block: slices dropped from training on each side of a held-out run
    seed: spec.Seed = 0  # which subjects go to which set; not train.seed, so that runs of several seeds share a split
    folds: spec.Number = 0  # k-fold: how many parts the patients are divided into, one of them the test set; 0 = none
    fold: spec.Number = 0  # k-fold: which part is the test set, counted from 0
    file: str = ""  # CSV with the set of each patient: columns patient (or path) and split; "" = none


class DataTable(spec.Table):
    """Where images come from and what the networks see of them."""

    source: spec.Source = "phantom"  # what reads the images: `gantk list source`; --data chooses the one that fits
    domains: tuple[str, ...] = ("A", "B")  # human names; the first is `a`, the second `b`; "T1+FLAIR" is two contrasts
    dims: Literal[2, 3] = 2  # 2: pictures and slices; 3: volumes
    size: tuple[spec.Side, ...] = (96, 96)  # what the networks see, in pixels or voxels
    fit: Literal["pad", "stretch", "crop"] = "pad"  # how a native image is brought to `size`; crop keeps its resolution
    plane: Literal["axial", "coronal", "sagittal"] = "axial"  # which slices of a volume 2-D networks see
    spacing: tuple[spec.Positive, ...] | None = None  # mm that volumes are brought to: plane, row, column; None: as is
    patch: tuple[spec.Side, ...] | None = None  # random part of an image that a training step sees; None: the whole
    neighbours: spec.Few = 0  # slices on each side that are added as channels (2.5-D); 2-D only
    labels: bool = False  # hand each image's class to the method
    mask: bool = False  # hand lesion masks to the method
    missing: Literal["refuse", "mask"] = "refuse"  # if a patient lacks a contrast: an error, or train to do without it
    intensity: spec.Intensity = "percentile"  # maps native values to the networks' range: `gantk list intensity`
    augment: list[spec.Augment] = []  # applied to every training image, on the device
    unpair: bool = True  # unpaired methods: a subject gives one domain only, as in a real unpaired study
    same_patient: bool = False  # unpaired methods: a patient may give images of both domains; False: that is a leak
    memory: spec.Positive = 8.0  # GiB of decoded images to keep; beyond it they are read again when needed
    cache: bool = True  # keep prepared images of files on disk too, shared by all runs: see GANTK_CACHE
    workers: spec.Few = 2  # threads that read ahead of the training
    order: spec.OrderPart | None = None  # which unpaired images share a batch: `gantk list order`; None: any
    weights: str = ""  # CSV of columns key and weight: how often training images are shown; "" = all alike
    split: SplitTable = SplitTable()  # what is held out: `gantk show split`

    @field_validator("domains")
    @classmethod
    def _one_or_two_names(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        different = len(set(domains)) == len(domains) or "+" in domains[0]  # any contrast of several to any other
        if not (different and 1 <= len(domains) <= 2 and all(domains)):
            raise ValueError("one name or two different ones are needed")
        return domains

    @field_validator("size")
    @classmethod
    def _one_side_per_dim(cls, size: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        dims = info.data.get("dims", 2)
        if len(size) != dims:
            raise ValueError(f"{dims} positive sides are needed, because data.dims is {dims}")
        return size

    @field_validator("patch")
    @classmethod
    def _patch_within_size(cls, patch: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
        size = info.data.get("size", ())
        fits = patch is None or (len(patch) == len(size) and all(0 < p <= s for p, s in zip(patch, size, strict=True)))
        if not fits:
            raise ValueError(f"it should have {len(size)} sides, none larger than those of data.size, {list(size)}")
        return patch

    @field_validator("neighbours")
    @classmethod
    def _neighbours_of_slices(cls, neighbours: int, info: ValidationInfo) -> int:
        if neighbours and info.data.get("dims") == 3:
            raise ValueError("it should be 0, because data.dims is 3 and volumes have no neighbouring slices")
        return neighbours


class FastTable(spec.Table):
    """What makes a step quicker with the same result. `train.fast = false` turns all of it off."""

    channels_last: bool = True  # memory format of images and weights that CPUs and tensor cores prefer
    batched_forward: bool = True  # one pass where one network has several inputs and its norm allows it
    fused: bool = True  # optimizers and averages update all weights in one call
    kernels: bool = True  # CPU: gantk's own kernels for norms, upsampling by 2 and small feature maps
    keep_memory: bool = True  # CPU: freed memory stays with the process for the next step
    cuda_graph: bool = True  # CUDA: the whole step as one graph, unless it recomputes; else the log says why not
    benchmark: bool = True  # CUDA: each convolution takes the fastest of all algorithms
    pin: bool = True  # CUDA: batches are copied to the device while the step before computes
    pipelined: bool = True  # translating: reading and writing go on while the network computes
    compile: bool = False  # torch.compile of each phase's losses: its first steps take minutes


class TrainTable(spec.Table):
    """How long, how fast, how exact."""

    steps: spec.Number | None = None  # give steps or epochs
    epochs: Annotated[float, Field(gt=0, le=10**9)] | None = None  # an epoch shows the larger domain once
    start: str = ""  # weights to begin with, as far as they fit: a run, model or file; "" = drawn from the seed
    batch: spec.Count = 1  # images of each domain per step and rank
    microbatch: spec.Count | None = None  # images per forward; None: the batch. Smaller saves memory, costs time
    optimizer: spec.OptimizerPart = "adam"  # the update rule, with its learning rate: `gantk show optimizer adam`
    optimizers: dict[str, spec.OptimizerPart] = {}  # by phase, where it differs: { discriminators = { name = "adam" } }
    schedule: spec.SchedulePart = "linear"  # the learning rate over the training: `gantk list schedule`
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the device is fast at it
    fast: FastTable = FastTable()  # true, false, or a table of the parts to turn off: { kernels = false }
    recompute: bool = False  # compute activations twice: saves memory (CPU: with fast.keep_memory = false), costs time
    ema: spec.Fraction = 0.995  # moving average of the generators, used for inference; 0 = off
    seed: spec.Seed = 0  # weights, order and augmentation; the split has its own
    log_every: spec.Count = 20  # steps between lines of losses and speed
    sample_every: spec.Count = 200  # steps between sample pictures with validation scores
    save_every: spec.Count = 400  # steps between checkpoints, each scored without true images: see best.json
    keep: spec.Count = 3  # how many checkpoints stay
    patience: spec.Number = 0  # stop after so many saves without a better score in best.json; 0 = never

    @field_validator("fast", mode="before")
    @classmethod
    def _all_or_nothing(cls, fast: Any) -> Any:
        return dict.fromkeys(FastTable.model_fields, False) if fast is False else {} if fast is True else fast


class EvaluateTable(spec.Table):
    """How the result is scored, on the test split."""

    metrics: list[spec.MetricPart] | None = None  # None: psnr, ssim, mae; from noise kid, and published ones at hand
    samples: spec.Count = 4  # how many held-out images are drawn while training
    images: Annotated[int, Field(ge=2, le=10**6)] = 256  # how many images are made from noise to be scored
    regions: list[Literal["whole", "foreground", "lesion"]] = ["whole", "foreground", "lesion"]  # scored apart
    regression: spec.Number = 0  # steps of an L1 U-Net on the training pairs, one more baseline; 0 = none
    checkpoint: Literal["last", "best"] = "last"  # best: chosen without true images, see best.json
    uncertainty: str = "none"  # a kind to compare with the actual errors: `gantk list uncertainty`
    by: list[str] = []  # columns of the data by whose values patients are scored apart: scanner, sex, age


class TranslateTable(spec.Table):
    """How whole files are translated."""

    batch: spec.Count = 16  # slices per pass
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.25  # of neighbouring windows, where they are blended
    memory: spec.Positive = 1.0  # GiB that a pass may need: images that need more are processed in tiles
    statistics: Literal["image", "window"] = "image"  # where norms are computed, if an image is processed in tiles
    masked: bool = False  # background of one value, from the corners to the head, is masked out of the result too
    detail: Literal["guided", "none"] = "guided"  # results on a larger grid: as sharp as the input is there, or smooth


class Model(spec.Table):
    """A whole recipe, checked; parts are bound, defaults filled in."""

    format: int = FORMAT  # version of the recipe format
    summary: str = ""  # one line for `gantk recipes`
    paper: dict[str, Any] = {}  # its paper: title, the values that it states, those that it leaves open (ours), figures
    method: spec.MethodPart  # what is trained, with its networks and losses: `gantk list method`
    # made when a recipe is checked, not when this module is imported: defaults are parts, and parts import torch
    data: DataTable = Field(default_factory=DataTable)  # `gantk show data`
    train: TrainTable = Field(default_factory=TrainTable)  # `gantk show train`
    evaluate: EvaluateTable = Field(default_factory=EvaluateTable)  # `gantk show evaluate`
    translate: TranslateTable = Field(default_factory=TranslateTable)  # `gantk show translate`
    track: list[spec.TrackerPart] = Field([], max_length=16)  # loggers beside the report: tensorboard, wandb, mlflow
    post: list[spec.PostPart] = Field([], max_length=16)  # [[post]]: steps applied to generated images, in order


TABLES = {  # name in `gantk show` -> (key in a recipe, table)
    "recipe": ("", Model),
    "data": ("data", DataTable),
    "split": ("data.split", SplitTable),
    "train": ("train", TrainTable),
    "fast": ("train.fast", FastTable),
    "evaluate": ("evaluate", EvaluateTable),
    "translate": ("translate", TranslateTable),
}


def require_bounded(tables: Any, place_of: Callable[[tuple], str]) -> None:
    """UserError, with the key, for tables that are too large or deep, or hold values unknown to TOML; called first."""
    stack, count = [((), tables)], 0
    while stack:
        path, value = stack.pop()
        is_table = isinstance(value, Mapping)
        parts = list(value.items() if is_table else enumerate(value) if isinstance(value, (list, tuple)) else ())
        count += len(parts)
        texts = [text for text in (value, *path[-1:]) if isinstance(text, str)]
        supported = is_table or value is None or isinstance(value, (str, int, float, list, tuple))
        wrong = {
            f"there are more than {MOST_VALUES:,} values": count > MOST_VALUES,
            f"tables are nested deeper than {DEEPEST}": len(path) > DEEPEST,
            f"a text has more than {MOST_CHARACTERS:,} characters": any(len(text) > MOST_CHARACTERS for text in texts),
            "a text is not UTF-8, or holds a NUL": any(re.search("[\0\ud800-\udfff]", text) for text in texts),
            f"a {type(value).__name__} is neither text, number nor table": not supported,
            f"input should be a finite number, not {value}": isinstance(value, float) and not isfinite(value),
            "a whole number has more than 64 bits": isinstance(value, int) and value.bit_length() > 63,
        }
        for what in [what for what, is_wrong in wrong.items() if is_wrong][:1]:
            shown = tuple(str(key)[:80] for key in path[:DEEPEST])
            raise UserError(f"{'.'.join(shown) or 'the recipe'}: {what}", where=place_of(shown)[:160])
        stack += [((*path, key), part) for key, part in parts]
