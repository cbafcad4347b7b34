"""What a recipe may say, table by table: every key with its type, default and meaning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from gantk.plugin.spec import (
    Augment,
    Intensity,
    MethodPart,
    MetricPart,
    OptimizerPart,
    PostPart,
    SchedulePart,
    Source,
    Table,
    TrackerPart,
)

FORMAT = 1  # raised when an older gantk could no longer read what this one writes


class SplitTable(Table):
    """How subjects are shared out; `auto`: by patient where they are known, else in blocks of neighbouring slices."""

    test: float = Field(0.2, ge=0, lt=1)  # part of the subjects (or slices) that training never sees
    validation: float = Field(0.1, ge=0, lt=1)  # part that is scored while training
    by: Literal["auto", "patient", "block", "image"] = "auto"  # what stays together
    blocks: int = Field(2, ge=1)  # by block: how many runs of neighbouring slices are held out per set
    gap: int = Field(2, ge=0)  # by block: slices dropped from training on each side of a held-out run
    seed: int = 0  # which subjects fall where; apart from train.seed, so that seeds share a split
    folds: int = Field(0, ge=0)  # k-fold: patients dealt out to so many parts, one of them the test set; 0 = by shares
    fold: int = Field(0, ge=0)  # k-fold: which part is the test set, counted from 0
    file: str = ""  # CSV that says who is where: a column patient (or path) and a column split; "" = none


class DataTable(Table):
    """Where images come from and what the networks see of them."""

    source: Source = "phantom"  # who finds the images: `gantk list source`; --data chooses the one that fits
    domains: tuple[str, ...] = ("A", "B")  # human names; the first is `a`, the second `b`; "T1+FLAIR" is two contrasts
    dims: Literal[2, 3] = 2  # 2: pictures and slices; 3: volumes
    size: tuple[int, ...] = (96, 96)  # what the networks see, in pixels or voxels
    fit: Literal["pad", "stretch", "crop"] = "pad"  # how a native image is brought to `size`; crop keeps its resolution
    plane: Literal["axial", "coronal", "sagittal"] = "axial"  # which slices of a volume 2-D networks see
    spacing: tuple[float, ...] | None = None  # mm that volumes are resampled to: plane, row, column; None: as is
    patch: tuple[int, ...] | None = None  # random part of an image that a training step sees; None: the whole
    neighbours: int = Field(0, ge=0)  # slices on each side that come along as channels (2.5-D); 2-D only
    labels: bool = False  # hand each image's class to the method
    mask: bool = False  # hand lesion masks to the method
    missing: Literal["refuse", "mask"] = "refuse"  # a contrast that a patient lacks; mask: train to do without
    intensity: Intensity = "percentile"  # how native values become the networks': `gantk list intensity`
    augment: list[Augment] = []  # applied to every training image, on the device
    unpair: bool = True  # unpaired methods: a subject gives one domain only, as in a real unpaired study
    same_patient: bool = False  # unpaired methods: a patient may give images of both domains; False: that is a leak
    memory: float = Field(8.0, gt=0)  # GiB of decoded images to keep; beyond it they are read again when needed
    cache: bool = True  # keep prepared images of files on disk too, shared by all runs: see GANTK_CACHE
    workers: int = Field(2, ge=0)  # threads that read ahead of the training
    split: SplitTable = SplitTable()  # what is held out: `gantk show split`

    @field_validator("domains")
    @classmethod
    def _one_or_two_names(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(set(domains)) == len(domains) <= 2 or not all(domains):
            raise ValueError("one name or two different ones are needed")
        return domains

    @field_validator("size")
    @classmethod
    def _one_side_per_dim(cls, size: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        dims = info.data.get("dims", 2)
        if len(size) != dims or min(size) < 1:
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


class FastTable(Table):
    """What makes a step quicker with the same result. `train.fast = false` turns all of it off."""

    channels_last: bool = True  # memory format of images and weights that CPUs and tensor cores prefer
    batched_forward: bool = True  # one pass where one network has several inputs and its norm allows it
    fused: bool = True  # optimizers and averages take all weights at once
    kernels: bool = True  # CPU: gantk's own ways to compute norms, doublings and small maps
    keep_memory: bool = True  # CPU: freed memory stays with the process for the next step
    cuda_graph: bool = True  # CUDA: the whole step as one graph, unless it recomputes; else the log says why not
    benchmark: bool = True  # CUDA: each convolution takes the fastest of all algorithms
    pin: bool = True  # CUDA: batches are copied to the device while the step before is at work
    pipelined: bool = True  # translating: reading and writing go on while the network computes
    compile: bool = False  # torch.compile of each phase's losses: its first steps take minutes


class TrainTable(Table):
    """How long, how fast, how exact."""

    steps: int | None = Field(None, ge=0)  # give steps or epochs
    epochs: float | None = Field(None, gt=0)  # an epoch shows the larger domain once
    batch: int = Field(1, ge=1)  # images of each domain per step and rank
    microbatch: int | None = Field(None, ge=1)  # images per forward; None: the batch. Smaller saves memory, costs time
    optimizer: OptimizerPart = "adam"  # the update rule, with its learning rate: `gantk show optimizer adam`
    optimizers: dict[str, OptimizerPart] = {}  # by phase, where it differs: { discriminators = { name = "adam" } }
    schedule: SchedulePart = "linear"  # the learning rate over the training: `gantk list schedule`
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the device is good at it
    fast: FastTable = FastTable()  # true, false, or a table of the parts to turn off: { kernels = false }
    recompute: bool = False  # compute activations twice: saves memory (CPU: with fast.keep_memory = false), costs time
    ema: float = Field(0.995, ge=0, lt=1)  # moving average of the generators, used for inference; 0 = off
    seed: int = 0  # weights, order and augmentation; the split has its own
    log_every: int = Field(20, ge=1)  # steps between lines of losses and speed
    sample_every: int = Field(200, ge=1)  # steps between sample pictures with validation scores
    save_every: int = Field(400, ge=1)  # steps between checkpoints, each judged without the truth: see best.json
    keep: int = Field(3, ge=1)  # how many checkpoints stay
    patience: int = Field(0, ge=0)  # stop after so many saves without a better score in best.json; 0 = never

    @field_validator("fast", mode="before")
    @classmethod
    def _all_or_nothing(cls, fast: Any) -> Any:
        return dict.fromkeys(FastTable.model_fields, False) if fast is False else {} if fast is True else fast


class EvaluateTable(Table):
    """How the result is scored, on the test split."""

    metrics: list[MetricPart] | None = None  # None: psnr, ssim, mae; for images from noise kid of random features
    samples: int = Field(4, ge=1)  # how many held-out images are drawn while training
    images: int = Field(256, ge=2)  # how many images are made from noise to be scored
    regions: list[Literal["whole", "foreground", "lesion"]] = ["whole", "foreground", "lesion"]  # scored apart
    regression: int = Field(0, ge=0)  # steps of an L1 U-Net on the training pairs, one more baseline; 0 = none
    checkpoint: Literal["last", "best"] = "last"  # best: chosen without looking at the truth, see best.json
    uncertainty: Literal["none", "auto", "flips", "dropout", "checkpoints", "cycle"] = "none"  # judged by its errors


class TranslateTable(Table):
    """How whole files go through the networks."""

    batch: int = Field(16, ge=1)  # slices per pass
    overlap: float = Field(0.25, ge=0, lt=1)  # of neighbouring windows, where they are blended
    memory: float = Field(1.0, gt=0)  # GiB that a pass may need: images that need more go through in tiles
    statistics: Literal["image", "window"] = "image"  # what norms take theirs of, where an image goes through in tiles
    masked: bool = False  # what is masked out of an image (one value in all its corners) is masked out of the result
    detail: Literal["guided", "none"] = "guided"  # results on a larger grid: as sharp as the input is there, or smooth


class Model(Table):
    """A whole recipe, checked; parts are bound, defaults filled in."""

    format: int = FORMAT  # the version of this form
    summary: str = ""  # one line for `gantk recipes`
    paper: dict[str, Any] = {}  # where the settings come from, and the figures published with them
    method: MethodPart  # what is trained, with its networks and losses: `gantk list method`
    # made when a recipe is checked, not when this module is imported: defaults are parts, and parts import torch
    data: DataTable = Field(default_factory=DataTable)  # `gantk show data`
    train: TrainTable = Field(default_factory=TrainTable)  # `gantk show train`
    evaluate: EvaluateTable = Field(default_factory=EvaluateTable)  # `gantk show evaluate`
    translate: TranslateTable = Field(default_factory=TranslateTable)  # `gantk show translate`
    track: list[TrackerPart] = []  # who follows the training beside the report: tensorboard, wandb, mlflow
    post: list[PostPart] = []  # [[post]]: what happens to every image that the networks made, in this order


TABLES = {  # by the name under which `gantk show` knows them: where in a recipe they stand, and what they may say
    "recipe": ("", Model),
    "data": ("data", DataTable),
    "split": ("data.split", SplitTable),
    "train": ("train", TrainTable),
    "fast": ("train.fast", FastTable),
    "evaluate": ("evaluate", EvaluateTable),
    "translate": ("translate", TranslateTable),
}
