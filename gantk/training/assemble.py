"""Builds data, method, batches and engine from a recipe, and saves and restores their state in
checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, get_num_threads
from torch.nn.functional import interpolate

from gantk.data.augment import augment_batch, hide_contrasts
from gantk.data.batches import Batches, ImageSet
from gantk.data.dataset import Data
from gantk.data.loader import Loader, LoaderBatches
from gantk.data.preparation import Record
from gantk.data.split_json import RecordedSplit
from gantk.errors import UserError, doing
from gantk.machine.cores import Threads
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Companions, Method, Stage, check_output_range
from gantk.metrics.evaluate import Scorer
from gantk.progress import Work
from gantk.recipe.tables import CheckedRecipe
from gantk.runs import checkpoint, trained
from gantk.runs.folder import RunFolder
from gantk.training.engine import Engine
from gantk.training.restart import identity_of
from gantk.training.start import Start, start_from, started_method


@dataclass
class Parts:
    """All objects that a recipe describes, before the first step; nothing has been written to disk
    yet.
    """

    model: CheckedRecipe
    runtime: Runtime
    data: Data
    method: Method
    batches: Batches
    engine: Engine
    scorer: Scorer
    threads: Threads
    # set for a new run, on rank 0, which broadcasts its weights
    start: Start = field(default_factory=Start)
    loader: Loader | None = None  # of another program, in place of the data's own batches
    recipe_text: str = ""  # of the run's recipe.toml
    trained_by: str = ""  # the same of the checkpoint that is continued; "" where it has none

    def __post_init__(self):
        table = self.model.data
        self.augments = [augment(table.dims) for augment in table.augment]

    def batch_at(self, step: int, stage: Stage) -> Batch:
        """The step's images on the device, at the stage's size, augmented."""
        table = self.model.data
        read = self.batches.at(step)
        batch = Batch({name: self.runtime.place(each, table.dims) for name, each in read.items()})
        for name, tensor in batch.items():
            if tensor.ndim > 2 and tensor.shape[2:] != tuple(stage.size):  # labels stay as they are
                batch[name] = interpolate(tensor, stage.size, mode="area")
        batch = augment_batch(batch, self.augments, self.data.paired)
        hiding = table.missing == "mask" and not self.method.hides
        return hide_contrasts(batch, self.data) if hiding else batch


@Work("preparing the images")
def assemble(
    model: CheckedRecipe,
    runtime: Runtime,
    known: RecordedSplit | None = None,
    loader: Loader | None = None,
    source: Any = None,
    anew: bool = False,
) -> Parts:
    """Build and check data, method, batches and engine of a recipe; `known` is the split.json of an
    existing run, which `anew` trains from its start; `loader` gives its batches, `source` is the
    data's source where it is built.
    """
    train = model.train
    threads = Threads(runtime.world > 1 or runtime.device.type != "cpu")

    def built() -> tuple[Data, Method, Batches, Scorer, Start]:
        with doing("reading the images of data.source"):
            data = Data(model.data, model.method.target, known, source)
        with doing(f"building the method '{model.method.name}'"):
            method = trained.build_method(model, data.channels, data.classes, data.range, runtime)
        check_output_range(method)
        sets = data.training_sets()
        ranks = (runtime.rank, runtime.world)
        batches = Batches(
            sets, train.batch, train.seed, data.paired, *ranks, workers=model.data.workers
        )
        if loader:
            batches = LoaderBatches(loader, data.intensity, batches)
        batches.end = train.steps_in_all(batches.steps_per_epoch)
        start = Start()
        if train.start and (known is None or anew) and runtime.main:
            start = start_from(train.start, method, data)

        scorer = Scorer(model, data, method, runtime)
        if train.start:
            scorer.start = lambda: started_method(train.start, method, data, runtime)
        return data, method, batches, scorer, start

    data, method, batches, scorer, start = runtime.sync_errors(built)
    if runtime.ranks:
        runtime.ranks.agree(identity_of(model, data))

    runtime.broadcast(method.state_dict().values())
    steps = train.steps_in_all(batches.steps_per_epoch)
    engine = runtime.sync_errors(lambda: Engine(method, train, steps, runtime))

    return Parts(model, runtime, data, method, batches, engine, scorer, threads, start, loader)


@Work("preparing the training")
def prepare_batches(parts: Parts) -> str:
    """Find the order and the companions of the training images, which only a training needs, as it
    does lesion masks (UserError). True partners among the companions join the warnings of the data,
    and are returned.
    """
    if parts.method.weighs_lesions and not parts.model.data.mask:
        remedy = "set method.lesion = 1.0 if the method has this option"
        if not parts.loader:  # whose batches have none
            remedy = f"set data.mask = true (data.source.mask names the masks), or {remedy}"
        raise UserError(
            "the method needs lesion masks, but data.mask is false",
            where="data.mask",
            remedy=remedy,
        )

    batches = parts.batches
    table = parts.model.data
    order = table.order() if table.order else lambda batches: None
    companions, batches.chosen = parts.runtime.from_main(
        lambda: (parts.method.companions(batches.sets), order(batches))
    )
    if companions and parts.loader:
        raise UserError(
            "the method trains with matched images of the other domain, which batches of another"
            f" program do not have ({parts.method.companions_note})",
            where="data",
            remedy='set method.pairs = "none" if the method has this option, or give files or arrays',
        )
    for letter, companion_of in companions.items():
        batches.sets[letter].companions = companion_of

    by_names = parts.data.source.pairs_by == "names"
    if said := _true_pairs(batches.sets, companions, by_names):
        parts.method.companions_note += f"; {said}"
        known = parts.data.consequences()
        parts.data.warnings = known if said in known else [*known, said]
    return said


def _true_pairs(
    sets: Mapping[str, ImageSet], companions: Mapping[str, Companions], by_names: bool
) -> str:
    """How many training images have their own patient, and their true partner, among their
    matches, or are of unknown patients and have one match; "" where none. Partners `by_names` alone
    do not count.
    """
    images = 0
    alone = 0
    of_patient = 0
    of_partner = 0
    for letter, companion_of in companions.items():
        likes = getattr(companion_of, "like", None)
        if likes is None:
            continue

        others = sets[getattr(companion_of, "other", "")].records
        for record, like in zip(sets[letter].records, likes.tolist(), strict=True):
            images += 1
            alone += getattr(companion_of, "alone", False) and not record.subject
            same = [others[n] for n in like if _is_one_patient(record, others[n], by_names)]
            of_patient += bool(same)
            of_partner += any(_is_partner(record, each) for each in same)

    if alone and not of_patient:
        return (
            f"both domains seem to show the same heads: {alone} of {images} training images are trained"
            " against their likely partner alone. This is nearly paired training; --set method.pairs=none"
            " trains without it"
        )
    if not of_patient:
        return ""
    return (
        f"{of_patient} of {images} training images are matched with an image of their own patient,"
        f" {of_partner} of them with their true partner, so this is no unpaired training"
    )


def _is_one_patient(record: Record, other: Record, by_names: bool) -> bool:
    """Whether two images are of one patient, of an unknown one those of a pair not `by_names`."""
    if record.subject or by_names:
        return record.subject == other.subject != ""
    return record.pair == other.pair is not None


def _is_partner(record: Record, other: Record) -> bool:
    """Whether two images of one patient show the same place in the same visit."""
    if record.pair is not None and other.pair is not None:
        return record.pair == other.pair
    return record.position is not None and record.position == other.position


def save_checkpoint(
    run: RunFolder, parts: Parts, buffers: list[dict[str, Tensor]] | None = None
) -> Path:
    """Save weights (live and averaged), engine state, and what inference needs; returns the
    checkpoint's folder.

    `buffers`: those of each rank, see `own_buffers`. Earlier checkpoints stay.
    """
    engine = parts.engine
    meta = {
        "method": parts.model.method.name,
        "steps": engine.steps,
        "domains": list(parts.model.data.domains),
        "channels": parts.data.channels,
        "classes": list(parts.data.classes),
        "intensity": parts.data.intensity_state(),
        "values": parts.data.values,
    }
    state = engine.state_dict() | {"threads": get_num_threads(), "recipe": parts.recipe_text}
    if buffers and buffers[0]:
        state["ranks"] = buffers[1:]  # the first rank's are among the weights

    return run.save_checkpoint(engine.step, engine.weights(), state, meta)


def own_buffers(method: Method) -> dict[str, Tensor]:
    """Buffers, which differ between ranks, on the CPU: image pools, statistics of norms."""
    shared = {name for name, _ in method.named_parameters()}
    return {
        name: tensor.cpu() for name, tensor in method.state_dict().items() if name not in shared
    }


def restore(parts: Parts, folder: Path) -> None:
    """Restore a checkpoint's weights and engine state bit by bit; UserError if they belong to
    another training.

    A packed model has weights alone: enough to score it, not to resume its training.
    """
    meta = checkpoint.load_meta_of(parts.model.method.name, folder)
    trained.expect_every_domain(meta, parts.method.reads, folder)
    if meta.packed is not None:
        weights = trained.add_left_out_networks(trained.inference_state(folder), parts.method, meta)
        checkpoint.load_into(parts.method, weights, str(folder))
        parts.engine.ema = None
        parts.engine.step = meta.step
    else:
        live, average = trained.split_weights(checkpoint.load_weights(folder))
        state = checkpoint.load_state(folder)
        rank = parts.runtime.rank
        parts.threads.saved = state.threads or get_num_threads()
        parts.trained_by = state.recipe
        if rank > 0 and len(state.ranks) == parts.runtime.world - 1:  # of all but the first
            live |= state.ranks[rank - 1]

        checkpoint.load_into(parts.method, live, str(folder))
        parts.engine.load_state_dict(state, average, str(folder))

    parts.data.restore_intensity({letter: state.dump() for letter, state in meta.intensity.items()})
    parts.data.values |= {letter: values.dump() for letter, values in meta.values.items()}
    for name, images in parts.batches.sets.items():
        images.intensity = parts.data.intensity[name]
        images.free_memory()  # of images in the intensities before
