"""Packs a run into a small folder to share: weights, recipe, scores and a card, in a run folder's
layout.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gantk import Direction, DiscriminatorAugment, ImagePool, Model, __version__
from gantk.errors import GantkError
from gantk.files import expect_replaceable, make_folder, whole_folder, write_file
from gantk.method import Method
from gantk.runs.folder import RunFolder
from gantk.runs.models import CARD, find_model, split_hash, weights_in_words
from gantk.runs.schemas import Packing, SeenFile, SeenFiles, read_results
from gantk.runs.trained import inference_state
from gantk.terminal import Say
from gantk_models.shipped_card import OURS, fill_card, text_of

AnyPath = str | os.PathLike[str]
# keys of metrics.json without single patients
SCORES = {"metrics", "baselines", "verdict", "cases", "domains", "step"}
LEVELS = 255  # gray levels into which the networks' range is divided


def pack(
    run: AnyPath,
    out: AnyPath,
    *,
    card: AnyPath | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    overwrite: bool = False,
    say: Say = print,
) -> Path:
    """Write what a user of a run needs to a new folder, in the layout of a run folder.

    Args:
        run: the run folder.
        out: the new folder.
        card: a Markdown file for card.md. Its {facts} and {scores} are replaced by tables of the
            run.
        dtype: the type in which weights are stored; they are used as float32. Tensors with values
            that float16 cannot hold stay float32.
        overwrite: whether to replace files that gantk did not write, or that were changed since.
        say: called with each line of output.

    Returns:
        The path of the folder.

    Raises:
        GantkError: an output differs from that of the run by a gray level of 255 or more. No folder
            is written.
    """
    out = Path(out)
    text = text_of(Path(card or OURS))
    expect_replaceable([out], overwrite, "OUT")

    before = Model.load(find_model(run, say), "cpu")
    source = before.run
    meta = source.meta(before.checkpoint)
    noted = meta.packed or _training_hashes(source)
    left_out = {*noted.left_out, *_for_training(before.method)}
    weights = {
        f"model.{name}": to_dtype(each, dtype)
        for name, each in inference_state(before.checkpoint).items()
        if not name.startswith(tuple(left_out))
    }
    noted.name = out.name
    noted.left_out = sorted(left_out)
    about = meta.dump() | {"packed": noted.dump()}
    about.pop("sha256", None)
    scores = read_results(source.path).model_dump(include=SCORES)
    with whole_folder(out, record=True) as made:
        write_model(made, meta.step, weights, about, _recipe(source), scores)
        write_file(made / CARD, fill_card(text, out.name, made, dtype).encode())
        apart, on = _largest_difference(before, Model.load(made, "cpu"))
        if not apart < 1:
            what = (
                f"with {dtype} weights the outputs differ by up to {apart:.2g} gray levels of"
                f" {LEVELS}, on {on}"
            )
            raise GantkError(
                f"{what}. No folder was written. Use --dtype float32, which keeps the weights exact."
            )

    say(f"parity   largest difference {apart:.2g} gray levels of {LEVELS}, on {on}")
    say(f"written  {out}, {dtype}, {weights_in_words(out)}")
    return out


def write_model(
    folder: Path,
    step: int,
    weights: dict[str, Tensor],
    meta: dict[str, Any],
    tables: dict[str, Any],
    scores: dict[str, Any],
) -> None:
    """Write a packed model but for its card: the checkpoint of a step with its weights and
    meta.json, the recipe's tables, and scores if there are any.
    """
    make_folder(folder / "checkpoints")
    run = RunFolder(folder)
    run.save_checkpoint(step, weights, None, meta)
    run.write_recipe(tables)
    if scores:
        text = json.dumps(scores, separators=(",", ":")) + "\n"
        write_file(folder / "metrics.json", text.encode())


def _for_training(method: Method) -> list[str]:
    """Prefixes of the names of weights that only training uses: image pools, and the networks that
    no phase with a moving average updates.
    """
    phases = method.phases()
    averaged = {module for phase in phases if phase.ema for module in phase.updates}
    judges = set()
    if averaged:
        judges = {module for phase in phases for module in phase.updates} - averaged

    return [
        f"{name}."
        for name, module in method.named_modules()
        if module in judges or isinstance(module, (ImagePool, DiscriminatorAugment))
    ]


def _training_hashes(run: RunFolder) -> Packing:
    """Hashes of the split and of each training file: they identify the training images without
    names.
    """
    sets = run.split().splits
    train = sorted({image.sha256 for image in sets.train if image.sha256})
    seen = SeenFiles(by=sets.by, train=[SeenFile(sha256=digest) for digest in train])
    return Packing(gantk=__version__, left_out=[], split=split_hash(sets), seen=seen)


def to_dtype(tensor: Tensor, dtype: str) -> Tensor:
    """A float32 tensor as float16 where float16 holds every value, else unchanged."""
    small = tensor.half() if dtype == "float16" and tensor.dtype == torch.float32 else tensor
    return small if bool(small.isfinite().all()) else tensor


def _recipe(run: RunFolder) -> dict[str, Any]:
    """The recipe's tables with absolute paths cut to their names, set to evaluate the one
    checkpoint.
    """

    def local(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: local(each) for key, each in value.items()}
        if isinstance(value, list):
            return [local(each) for each in value]
        return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value

    tables = local(run.recipe().tables)
    tables["evaluate"] = tables.get("evaluate", {}) | {"checkpoint": "last"}
    return tables


@torch.no_grad()
def _largest_difference(one: Model, other: Model) -> tuple[float, str]:
    """The largest difference of two models' outputs, in gray levels of 255, and the images it was
    measured on.
    """
    low, high = one.method.geometry.range
    on = []
    differences = []
    for letter in one.method.directions() or [None]:
        label = next(iter(one.classes()), None)
        direction = letter and Direction(one, one.frames[letter].target, label)
        on.append(direction.on if direction else "4 images from noise")
        answers = []
        for model in (one, other):
            torch.manual_seed(0)
            if direction:
                method = model.method_of_class(label)
                answer = method.translate(torch.from_numpy(direction.images), letter)
            else:
                answer = model.method.sample(4, 0)
            answers.append(answer.float())
        differences.append(float((answers[0] - answers[1]).abs().max()))

    return max(differences) / (high - low) * LEVELS, " and ".join(on)
