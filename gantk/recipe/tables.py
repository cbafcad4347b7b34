"""The tables of a recipe: every key with its type, default and meaning."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from gantk.errors import UserError
from gantk.plugin import spec

MAX_FILE_BYTES = 2**18
MAX_VALUES = 10_000
MAX_TEXT_CHARACTERS = 4096
MAX_DEPTH = 16
FORMAT = 1  # raised when an older gantk could no longer read what this one writes


def _default_part(part: str) -> Any:
    """The default of a key that takes a part: a name, which pydantic binds when it validates it."""
    return part


class SplitTable(spec.Table):
    """How subjects are divided; `auto`: by patient where patients are known, else in blocks of
    neighbouring slices.
    """

    test: spec.Fraction = 0.2  # part of the subjects (or slices) that training never sees
    validation: spec.Fraction = 0.1  # part that is scored while training
    by: Literal["auto", "patient", "block", "image"] = "auto"  # what is never divided
    blocks: spec.Count = 2  # by block: how many runs of neighbouring slices are held out per set
    gap: spec.Number = 2  # by block: slices dropped from training on each side of a held-out run
    # which subjects go to which set; not train.seed, so that runs of several seeds share a split
    seed: spec.Seed = 0
    # k-fold: how many parts the patients are divided into, one of them the test set; 0 = none
    folds: spec.Number = 0
    fold: spec.Number = 0  # k-fold: which part is the test set, counted from 0
    # CSV with the set of each patient: columns patient (or path) and split; "" = none
    file: str = ""


class DataTable(spec.Table):
    """Where images come from and what the networks see of them."""

    # what reads the images: `gantk list source`; --data chooses the one that fits
    source: spec.Source = _default_part("phantom")
    # human names; the first is `a`, the second `b`; "T1+FLAIR" is two contrasts
    domains: tuple[str, ...] = ("A", "B")
    dims: Literal[2, 3] = 2  # 2: pictures and slices; 3: volumes
    size: tuple[spec.Side, ...] = (96, 96)  # what the networks see, in pixels or voxels
    # how a native image is brought to `size`; crop keeps its resolution
    fit: Literal["pad", "stretch", "crop"] = "pad"
    # which slices of a volume 2-D networks see
    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    # mm that volumes are brought to: plane, row, column; None: as is
    spacing: tuple[spec.Positive, ...] | None = None
    # random part of an image that a training step sees; None: the whole
    patch: tuple[spec.Side, ...] | None = None
    neighbours: spec.Few = 0  # slices on each side that are added as channels (2.5-D); 2-D only
    labels: bool = False  # hand each image's class to the method
    mask: bool = False  # hand lesion masks to the method
    # if a patient lacks a contrast: an error, or train to do without it
    missing: Literal["refuse", "mask"] = "refuse"
    # maps native values to the networks' range: `gantk list intensity`
    intensity: spec.Intensity = _default_part("percentile")
    augment: list[spec.Augment] = []  # applied to every training image, on the device
    # unpaired methods: a subject gives one domain only, as in a real unpaired study
    unpair: bool = True
    # unpaired methods: a patient may give images of both domains; False: that is a leak
    same_patient: bool = False
    # GiB of decoded images to keep; beyond it they are read again when needed
    memory: spec.Positive = 8.0
    # keep prepared images of files on disk too, shared by all runs: see GANTK_CACHE
    cache: bool = True
    workers: spec.Few = 2  # threads that read ahead of the training
    # which unpaired images share a batch: `gantk list order`; None: any
    order: spec.OrderPart | None = None
    # CSV of columns key and weight: how often training images are shown; "" = all alike
    weights: str = ""
    split: SplitTable = SplitTable()  # what is held out: `gantk show split`

    @field_validator("domains")
    @classmethod
    def _one_or_two_names(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        one_or_two = len(domains) in (1, 2) and all(domains)
        # "+": any to any, of the contrasts of one domain
        if one_or_two and (len(set(domains)) == len(domains) or "+" in domains[0]):
            return domains
        raise ValueError("one name or two different ones are needed")

    @field_validator("size")
    @classmethod
    def _one_side_per_dim(cls, size: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        dims = info.data.get("dims", 2)
        if len(size) != dims:
            raise ValueError(f"{dims} positive sides are needed, because data.dims is {dims}")
        return size

    @field_validator("patch")
    @classmethod
    def _patch_within_size(
        cls, patch: tuple[int, ...] | None, info: ValidationInfo
    ) -> tuple[int, ...] | None:
        size = info.data.get("size", ())
        if patch is None:
            return None

        if len(patch) == len(size) and all(map(operator.le, patch, size)):
            return patch

        raise ValueError(
            f"it should have {len(size)} sides, none larger than those of data.size, {list(size)}"
        )

    @field_validator("neighbours")
    @classmethod
    def _neighbours_of_slices(cls, neighbours: int, info: ValidationInfo) -> int:
        if neighbours and info.data.get("dims") == 3:
            raise ValueError(
                "it should be 0, because data.dims is 3 and volumes have no neighbouring slices"
            )
        return neighbours


class FastTable(spec.Table):
    """What makes a step quicker with the same result. `train.fast = false` turns all of it off."""

    # memory format of images and weights that CPUs and tensor cores prefer
    channels_last: bool = True
    # one pass where one network has several inputs and its norm allows it
    batched_forward: bool = True
    fused: bool = True  # optimizers and averages update all weights in one call
    # CPU: gantk's own kernels for norms, upsampling by 2 and small feature maps
    kernels: bool = True
    keep_memory: bool = True  # CPU: freed memory stays with the process for the next step
    # CUDA: the whole step as one graph, unless it recomputes; else the log says why not; off until
    # it has been measured
    cuda_graph: bool = False
    benchmark: bool = True  # CUDA: each convolution takes the fastest of all algorithms
    pin: bool = True  # CUDA: batches are copied to the device while the step before computes
    pipelined: bool = True  # translating: reading and writing go on while the network computes
    compile: bool = False  # torch.compile of each phase's losses: its first steps take minutes


class TrainTable(spec.Table):
    """How long, how fast, how exact."""

    steps: spec.Number | None = None  # give steps or epochs
    # an epoch shows the larger domain once
    epochs: Annotated[float, Field(gt=0, le=10**9)] | None = None
    # weights to begin with, as far as they fit: a run, model or file; "" = drawn from the seed
    start: str = ""
    batch: spec.Count = 1  # images of each domain per step and rank
    # images per forward; None: the batch. Smaller saves memory, costs time
    microbatch: spec.Count | None = None
    # the update rule, with its learning rate: `gantk show optimizer adam`
    optimizer: spec.OptimizerPart = _default_part("adam")
    # by phase, where it differs: { discriminators = { name = "adam" } }
    optimizers: dict[str, spec.OptimizerPart] = {}
    # the learning rate over the training: `gantk list schedule`
    schedule: spec.SchedulePart = _default_part("linear")
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the device is fast at it
    # true, false, or a table of the parts to turn off: { kernels = false }
    fast: FastTable = FastTable()
    # compute activations twice: saves memory (CPU: with fast.keep_memory = false), costs time
    recompute: bool = False
    ema: spec.Fraction = 0.995  # moving average of the generators, used for inference; 0 = off
    seed: spec.Seed = 0  # weights, order and augmentation; the split has its own
    log_every: spec.Count = 20  # steps between lines of losses and speed
    sample_every: spec.Count = 200  # steps between sample pictures with validation scores
    # steps between checkpoints, each scored without true images: see best.json
    save_every: spec.Count = 400
    keep: spec.Count = 3  # how many checkpoints stay
    # stop after so many saves without a better score in best.json; 0 = never
    patience: spec.Number = 0

    def steps_in_all(self, steps_per_epoch: int) -> int:
        """The number of steps of the whole training."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None:
            raise ValueError("a recipe gives train.steps or train.epochs")
        return round(self.epochs * steps_per_epoch)

    @field_validator("fast", mode="before")
    @classmethod
    def _all_or_nothing(cls, fast: Any) -> Any:
        if fast is False:
            return dict.fromkeys(FastTable.model_fields, False)
        if fast is True:
            return {}
        return fast


class EvaluateTable(spec.Table):
    """How the result is scored, on the test split."""

    # None: psnr, ssim, mae; from noise kid, and published ones at hand
    metrics: list[spec.MetricPart] | None = None
    samples: spec.Count = 4  # how many held-out images are drawn while training
    # how many images are made from noise to be scored
    images: Annotated[int, Field(ge=2, le=10**6)] = 256
    # scored apart
    regions: list[Literal["whole", "foreground", "lesion"]] = ["whole", "foreground", "lesion"]
    # steps of an L1 U-Net on the training pairs, one more baseline; 0 = none
    regression: spec.Number = 0
    checkpoint: Literal["last", "best"] = "last"  # best: chosen without true images, see best.json
    uncertainty: str = "none"  # a kind to compare with the actual errors: `gantk list uncertainty`
    # columns of the data by whose values patients are scored apart: scanner, sex, age
    by: list[str] = []


class TranslateTable(spec.Table):
    """How whole files are translated."""

    batch: spec.Count = 16  # slices per pass
    # of neighbouring windows, where they are blended
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    # GiB that a pass may need: images that need more are processed in tiles
    memory: spec.Positive = 1.0
    # where norms are computed, if an image is processed in tiles
    statistics: Literal["image", "window"] = "image"
    # background of one value, from the corners to the head, is masked out of the result too
    masked: bool = False
    # results on a larger grid: as sharp as the input is there, or smooth
    detail: Literal["guided", "none"] = "guided"


class Model(spec.Table):
    """A whole recipe, checked; parts are bound, defaults filled in."""

    format: int = FORMAT  # version of the recipe format
    summary: str = ""  # one line for `gantk recipes`
    # its paper: title, the values that it states, those that it leaves open (ours), figures
    paper: dict[str, Any] = {}
    method: spec.MethodPart  # what is trained, with its networks and losses: `gantk list method`
    # made when a recipe is checked, not when this module is imported: defaults are parts, and parts
    # import torch
    data: DataTable = Field(default_factory=DataTable)  # `gantk show data`
    train: TrainTable = Field(default_factory=TrainTable)  # `gantk show train`
    evaluate: EvaluateTable = Field(default_factory=EvaluateTable)  # `gantk show evaluate`
    translate: TranslateTable = Field(default_factory=TranslateTable)  # `gantk show translate`
    # loggers beside the report: tensorboard, wandb, mlflow
    track: list[spec.TrackerPart] = Field([], max_length=16)
    # [[post]]: steps applied to generated images, in order
    post: list[spec.PostPart] = Field([], max_length=16)


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
    """UserError, with the key, for tables that are too large or deep, or hold values unknown to
    TOML; called first.
    """
    stack: list[tuple[tuple, Any]] = [((), tables)]
    count = 0
    while stack:
        path, value = stack.pop()
        parts: list[tuple[Any, Any]] = []
        if isinstance(value, Mapping):
            parts = list(value.items())
        elif isinstance(value, (list, tuple)):
            parts = list(enumerate(value))

        count += len(parts)
        wrong = _what_is_wrong(path, value, count)
        if wrong:
            keys = tuple(str(key)[:80] for key in path[:MAX_DEPTH])
            where = place_of(keys)[:160]
            raise UserError(f"{'.'.join(keys) or 'the recipe'}: {wrong}", where=where)

        stack += [((*path, key), part) for key, part in parts]


def _what_is_wrong(path: tuple, value: Any, count: int) -> str | None:
    """Why a recipe cannot hold a value at `path`, with `count` values so far; None if it can."""
    texts = [text for text in (value, *path[-1:]) if isinstance(text, str)]
    if count > MAX_VALUES:
        return f"there are more than {MAX_VALUES:,} values"
    if len(path) > MAX_DEPTH:
        return f"tables are nested deeper than {MAX_DEPTH}"
    if any(len(text) > MAX_TEXT_CHARACTERS for text in texts):
        return f"a text has more than {MAX_TEXT_CHARACTERS:,} characters"
    if any(re.search("[\0\ud800-\udfff]", text) for text in texts):
        return "a text is not UTF-8, or holds a NUL"
    if value is not None and not isinstance(value, (str, int, float, list, tuple, Mapping)):
        return f"a {type(value).__name__} is neither text, number nor table"
    if isinstance(value, float) and not isfinite(value):
        return f"input should be a finite number, not {value}"
    if isinstance(value, int) and value.bit_length() > 63:
        return "a whole number has more than 64 bits"

    return None
