"""The tables of a recipe: every key with its type, default and meaning."""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from gantk.plugin import spec

MAX_FILE_BYTES = 2**18
MAX_DEPTH = 16
FORMAT = 1  # raised when an older gantk could no longer read what this one writes
FORMER_FITS = {"stretch": "resize"}  # values of data.fit in earlier versions


def _default_part(part: str) -> Any:
    """The default of a key that takes a part: a name, which pydantic binds when it validates it."""
    return part


class SplitTable(spec.Table):
    """How subjects are split into training, validation and test; `auto` splits by patient if patients
    are known, otherwise by blocks of neighbouring slices.
    """

    test: spec.Fraction = 0.2  # share of the subjects (or slices) that is held out for the test
    validation: spec.Fraction = 0.1  # share that is scored during training
    by: Literal["auto", "patient", "block", "image"] = "auto"  # unit that stays together in one set
    blocks: spec.Count = 2  # by = "block": runs of neighbouring slices per held-out set
    gap: spec.Number = 2  # by = "block": slices left out on each side of a run
    # draws the sets; separate from train.seed, so that runs with different seeds share a split
    seed: spec.Seed = 0
    # number of folds that the patients are divided into; one fold is the test set; 0 = no folds
    folds: spec.Number = 0
    fold: spec.Number = 0  # which fold is the test set, counted from 0


class DataTable(spec.Table):
    """The images: where they come from and how they are prepared for the networks."""

    # reads the images: `gantk list source`; --data PATH chooses a source that fits
    source: spec.Source = _default_part("phantom")
    # names of domains a and b; "T1+FLAIR" is one domain with two contrasts
    domains: tuple[str, ...] = ("A", "B")
    # further words of names for a contrast, such as T1 = ["weighted1"]
    words: dict[str, list[str]] = {}
    leave_out: tuple[str, ...] = ()  # names of patients whose images are not used
    dims: Literal[2, 3] = 2  # 2 = pictures or slices; 3 = volumes
    size: tuple[spec.Side, ...] = (96, 96)  # image size in the networks, in pixels or voxels
    # how images get to `size`: "pad" resizes and pads, "resize" fills it, "crop" keeps the resolution
    fit: Literal["pad", "resize", "crop"] = "pad"
    # convert images to gray (1) or colour (3); None = as in the files
    channels: Literal[1, 3] | None = None
    # orientation of the slices that 2-D networks get from a volume
    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    # voxel size in mm to resample volumes to: plane, row, column; None or [] = do not resample
    spacing: tuple[spec.Positive, ...] | None = None
    # size of a random patch for each training image; None = whole images
    patch: tuple[spec.Side, ...] | None = None
    neighbours: spec.Few = 0  # neighbouring slices per side, as channels (2.5-D); 2-D only
    labels: bool = False  # give the class of each image to the method
    mask: bool = False  # give lesion masks to the method
    fill_masks: bool = False  # count what lesion masks enclose, such as a tumour's core, as lesion
    # a patient lacks a contrast: stop with an error, or mask it, so that results can lack it too
    missing: Literal["refuse", "mask"] = "refuse"
    # mapping from native values to the networks' range: `gantk list intensity`
    intensity: spec.Intensity = _default_part("percentile")
    augment: list[spec.Augment] = []  # random changes of training images: `gantk list augment`
    # unpaired methods: use one domain of each subject; auto = unless only names of pictures tell subjects
    unpair: bool | Literal["auto"] = "auto"
    # unpaired methods: allow images of both domains from one patient; false = that is a leak
    same_patient: bool = False
    # GiB of decoded images to keep in memory; the rest is read again when needed
    memory: spec.Positive = 8.0
    # also keep prepared images on disk, shared by all runs; GANTK_CACHE sets the folder
    cache: bool = True
    workers: spec.Few = 2  # threads that read images ahead of the training
    # which unpaired images share a batch: `gantk list order`; None = any
    order: spec.OrderPart | None = None
    # CSV with columns key and weight: how often each training image is used; "" = equally often
    weights: str = ""
    split: SplitTable = SplitTable()  # held-out images: `gantk show split`

    @field_validator("domains")
    @classmethod
    def _one_or_two_names(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        one_or_two = len(domains) in (1, 2) and all(domains)
        # "+": any to any, of the contrasts of one domain
        if one_or_two and (len(set(domains)) == len(domains) or "+" in domains[0]):
            return domains
        raise ValueError("it should be one name or two different names")

    @field_validator("size")
    @classmethod
    def _one_side_per_dim(cls, size: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        dims = info.data.get("dims", 2)
        if len(size) != dims:
            raise ValueError(f"it should have {dims} positive sides if data.dims is {dims}")
        return size

    @field_validator("spacing")
    @classmethod
    def _none_or_per_axis(cls, spacing: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if spacing and len(spacing) not in (2, 3):
            raise ValueError("it should have mm for [rows, columns], or for [stack, rows, columns]")
        return spacing or None  # TOML has no None

    @field_validator("fit", mode="before")
    @classmethod
    def _current_fit(cls, fit: Any) -> Any:
        return FORMER_FITS.get(fit, fit) if isinstance(fit, str) else fit

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
            raise ValueError("it should be 0 if data.dims is 3")
        return neighbours


class FastTable(spec.Table):
    """Speed settings that keep the result of a step. `train.fast = false` turns all of them off."""

    # channels-last memory format for images and weights, which suits CPUs and tensor cores
    channels_last: bool = True
    # join several inputs of one network into one pass, if its norm allows it
    batched_forward: bool = True
    # CPU: convolve small maps by matrix products, and double the size in one convolution
    kernels: bool = True
    keep_memory: bool = True  # CPU: keep freed memory in the process for the next step
    # CUDA: replay each step as one recorded graph; if that is impossible, the log says why
    cuda_graph: bool = True


class TrainTable(spec.Table):
    """The training: length, batch, optimizer, precision, checkpoints."""

    steps: spec.Number | None = None  # length of the training; give steps or epochs
    # length of the training; one epoch uses each image of the larger domain once
    epochs: Annotated[float, Field(gt=0, le=10**9)] | None = None
    # run, model or weights file to start from, as far as its weights fit; "" = random weights
    start: str = ""
    batch: spec.Count = 1  # images of each domain per step on each rank
    # images per forward pass; None = the batch; fewer images need less memory and more time
    microbatch: spec.Count | None = None
    # optimizer with its learning rate: `gantk show optimizer adam`
    optimizer: spec.OptimizerPart = _default_part("adam")
    # another optimizer for some phases: { discriminators = { name = "adam" } }
    optimizers: dict[str, spec.OptimizerPart] = {}
    # course of the learning rate: `gantk list schedule`
    schedule: spec.SchedulePart = _default_part("linear")
    # auto = bf16 if the device computes it faster
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    # speed settings: true, false, or a table such as { kernels = false }: `gantk show fast`
    fast: FastTable = FastTable()
    ema: spec.Fraction = 0.995  # moving average of generator weights, used for results; 0 = off
    seed: spec.Seed = 0  # seed for weights, order and augmentation; data.split.seed is separate
    log_every: spec.Count = 20  # steps between log lines with losses and speed
    sample_every: spec.Count = 200  # steps between sample pictures with validation scores
    # steps between checkpoints; each is scored on validation images, see best.json
    save_every: spec.Count = 400
    keep: spec.Count = 3  # number of checkpoints to keep

    def steps_in_all(self, steps_per_epoch: int) -> int:
        """The number of steps of the whole training."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None:
            raise ValueError("a recipe must give train.steps or train.epochs")
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
    """How the trained model is scored on held-out test images."""

    # None = psnr, ssim, mae; for images from noise kid, and the paper's metrics if available
    metrics: list[spec.MetricPart] | None = None
    samples: spec.Count = 4  # number of held-out images shown during training
    # number of images that are generated from noise and scored
    images: Annotated[int, Field(ge=2, le=10**6)] = 256
    # parts of the image that are scored separately
    regions: list[Literal["whole", "foreground", "lesion"]] = ["whole", "foreground", "lesion"]
    # steps to train an L1 U-Net, or others' baselines, on the training pairs; 0 = none
    regression: spec.Number = 0
    # best has the best validation score, see best.json
    checkpoint: Literal["last", "best"] = "last"


class TranslateTable(spec.Table):
    """How files are translated."""

    batch: spec.Count = 16  # slices per forward pass
    # share of a window that it shares with the next one, where they are blended
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.25
    # GiB that a forward pass may need, at most half of the free memory; images that need more are
    # processed in windows, in which grays may differ
    memory: spec.Positive = 4.0
    # set the result to background where the input has constant background around the head
    masked: bool = False
    # the training images are skull-stripped: warn of an input that shows the skull
    stripped: bool = False
    # results that are enlarged: sharpen them by the detail of the input, or leave them smooth
    detail: Literal["guided", "none"] = "guided"


# The default tables are created when a recipe is checked, not when this module is imported: they
# contain parts, and parts import torch.
class CheckedRecipe(spec.Table):
    """A complete, checked recipe."""

    format: int = FORMAT  # version of the recipe format
    summary: str = ""  # one line for `gantk recipes`
    # the method's paper: title, settings that it states ("on": used, without its weight; "open": left
    # open), settings of ours, readings of unclear sentences, results
    paper: dict[str, Any] = {}
    method: spec.MethodPart  # what is trained, with its networks and losses: `gantk list method`
    data: DataTable = Field(default_factory=DataTable)  # the images: `gantk show data`
    train: TrainTable = Field(default_factory=TrainTable)  # the training: `gantk show train`
    # the scores: `gantk show evaluate`
    evaluate: EvaluateTable = Field(default_factory=EvaluateTable)
    # the translation of files: `gantk show translate`
    translate: TranslateTable = Field(default_factory=TranslateTable)
    # trackers in addition to the report: tensorboard, wandb, mlflow
    track: list[spec.TrackerPart] = Field([], max_length=16)
    # [[post]]: steps applied to generated images, in order
    post: list[spec.PostPart] = Field([], max_length=16)


TABLES = {  # name in `gantk show` -> (key in a recipe, table)
    "recipe": ("", CheckedRecipe),
    "data": ("data", DataTable),
    "split": ("data.split", SplitTable),
    "train": ("train", TrainTable),
    "fast": ("train.fast", FastTable),
    "evaluate": ("evaluate", EvaluateTable),
    "translate": ("translate", TranslateTable),
}
