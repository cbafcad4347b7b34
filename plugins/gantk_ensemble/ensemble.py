"""Several trained models as one: the mean of their translations, and how far these differ."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from gantk.data.resample import slabs
from gantk.errors import UserError, counted
from gantk.files import zeros_beside
from gantk.formats.files import natural
from gantk.formats.image import Image
from gantk.inference.pipeline import PLAIN, Frame, Look, Pipeline, Progress, TrainedModel

KINDS = ("members", "auto")  # of uncertainty: both mean how far the members differ


def load(model: Any, device: str | None) -> Ensemble | None:
    """The models that are named, as one; None where it is one model."""
    from gantk import load as load_one

    paths = member_paths(model)
    return None if paths is None else Ensemble([load_one(path, device=device) for path in paths], paths)


def member_paths(model: str | os.PathLike[str] | Iterable[Any]) -> list[Path] | None:
    """The models of a list, of `RUN1,RUN2`, of a pattern or of a folder of folds, in order; None: one model is named.

    UserError where a fold is missing or not trained to its end: the mean of the others would be another model.
    """
    if isinstance(model, (str, os.PathLike)):
        path, text = Path(model), os.fspath(model)
        if os.path.exists(path):  # Path's own raises where a text is longer than names may be
            return _folds(path) if path.is_dir() and not (path / "recipe.toml").exists() else None
        parts = text.split(",") if "," in text else sorted(glob(text), key=natural)
        if not parts:
            return None
    else:
        parts = list(model)
    parts = [part.strip() if isinstance(part, str) else part for part in parts]
    found = [path for part in filter(None, parts) for path in member_paths(part) or [_one(part)]]
    if not found:
        raise UserError("no model is named", where="RUN", remedy="name runs: gantk translate RUN1,RUN2 IN OUT")
    return found


def _one(model: Any) -> Any:
    """A path as such; an address, hf://USER/NAME, as it is."""
    return model if "://" in os.fspath(model) else Path(model)


def _folds(path: Path) -> list[Path] | None:
    """The runs of a folder that `gantk run RECIPE --folds K` wrote; None where it is no such folder."""
    runs = sorted((each.parent for each in path.glob("fold-*/recipe.toml")), key=natural)
    if not runs:
        return None
    from gantk.runs.checkpoint import steps_saved  # these import torch, which exported models do without
    from gantk.runs.folder import Run

    folds = Run.open(runs[0]).recipe().check().data.split.folds
    whole = [run for run in runs if (run / "metrics.json").exists() and steps_saved(run / "checkpoints")]
    if len(whole) < folds:
        what = f"'{path}' holds {len(whole)} of {counted(folds, 'fold')}, trained to the end"
        raise UserError(what, where="RUN", remedy="give the same `gantk run RECIPE --folds` again, or name the runs")
    return whole


class Ensemble(TrainedModel):
    """Models of the same domains as one, whose translation is the mean of theirs.

    The mean is taken of native intensities, after each member's own mapping back: members of other folds or data have
    other mappings, by which one value of a network means two intensities. So members may be of any size, network,
    method or dims, runs or exported files. UserError where they translate other domains.
    """

    def __init__(self, members: Sequence[TrainedModel], names: Sequence[Any]):
        self.members, self._asked, self._inner = members, PLAIN, PLAIN
        first = _ends(members[0], None)
        for member, name in zip(members, names, strict=True):
            try:
                found = _ends(member, first[1])
            except UserError:  # it makes no such domain
                found = _ends(member, None)
            if [each.lower() for each in found] != [each.lower() for each in first]:
                what = f"'{names[0]}' translates {' to '.join(first)}, and '{name}' {' to '.join(found)}"
                raise UserError(what, where="RUN", remedy="name models of the same domains")

    def domain(self, name: str | None) -> str:
        """The letter of a domain, as the first member has it."""
        return self.members[0].domain(name)

    def contrasts(self, letter: str) -> list[str]:
        """The contrasts of a domain, as the first member has them."""
        return self.members[0].contrasts(letter)

    def frame(self, letter: str) -> Frame:
        """That of the first member; what the target's values may be is what they are in any member's training."""
        frame = self.members[0].frame(letter)
        all_values = [member.frame(member.domain(frame.target)).values for member in self.members]
        if not all(all_values):
            return replace(frame, values={})
        known = [values["target"] for values in all_values]
        ends = {"low": min(each["low"] for each in known), "high": max(each["high"] for each in known)}
        return replace(frame, values=frame.values | {"target": known[0] | ends})

    def identity(self) -> dict[str, str]:
        """What says whether two translations are by the same weights."""
        found = [member.identity() for member in self.members]
        names = ", ".join(dict.fromkeys(each["name"] for each in found))
        digest = hashlib.sha256(" ".join(each["sha256"] for each in found).encode()).hexdigest()
        return {"name": f"mean of {len(found)}: {names}", "sha256": digest}

    def pipeline(self, letter: str, look: Look = PLAIN) -> Pipeline:
        """The first member's way alone."""
        return self.members[0].pipeline(letter, self._plain(look))

    def sample_to(self, *options: Any) -> list[Path]:
        """No images from noise: UserError."""
        raise UserError("several models make no images from noise together", where="RUN", remedy="name one run")

    def translate(
        self, images: Any, to: str | None = None, look: Look = PLAIN, progress: Progress | None = None, *, grad=False
    ) -> Any:
        """As `TrainedModel.translate`; with an uncertainty the mean and the deviation, an axis ahead of all others."""
        if isinstance(images, (list, tuple)):
            return [self.translate(each, to, look, progress, grad=grad) for each in images]
        if not hasattr(images, "__array__"):  # a file or an image, of which `images` makes the mean
            return super().translate(images, to, look, progress, grad=grad)
        mean = square = None
        for number, (member, name, share) in enumerate(self._in_turn(to, progress), 1):
            made = member.translate(images, name, self._plain(look), share, grad=grad)
            mean, square = (made, 0 * made) if mean is None else _with(made, mean, square, number)
        stack = np.stack if isinstance(mean, np.ndarray) else sys.modules["torch"].stack
        return stack([mean, (square / (number - 1)) ** 0.5]) if look.uncertainty else mean

    def images(
        self, image: Image, to: str | None = None, look: Look = PLAIN, progress: Progress | None = None
    ) -> list[Image]:
        """One file's image, on its grid: the mean, and behind it how far the members differ where that is asked for."""
        mean = square = None
        for number, (member, name, share) in enumerate(self._in_turn(to, progress), 1):
            seen = replace(image, own=image.own and number == len(self.members))  # the others need it too
            (made,) = member.images(seen, name, self._plain(look), share)
            if mean is None:
                mean = made.pixels
                square = zeros_beside(image.spill, mean.shape) if look.uncertainty else np.broadcast_to(0, mean.shape)
                continue
            for part in slabs(mean.shape[1:]):
                mean[:, part], apart = _with(made.pixels[:, part], mean[:, part], square[:, part], number)
                if look.uncertainty:
                    square[:, part] = apart
        if not look.uncertainty:
            return [replace(made, pixels=mean)]
        square /= number - 1
        return [replace(made, pixels=mean), replace(made, pixels=np.sqrt(square, out=square))]

    def _in_turn(
        self, to: str | None, progress: Progress | None
    ) -> Iterator[tuple[TrainedModel, str, Progress | None]]:
        """Each member with the name of the domain to make, and its share of the progress."""
        name = to if to and len(to) > 1 else self.members[0].frame(self.domain(to)).target
        count = len(self.members)
        for k, member in enumerate(self.members):
            yield member, name, progress and (lambda done, all, k=k: progress(k * all + done, count * all))

    def _plain(self, look: Look) -> Look:
        """What each member is asked for: the same object for the same one, by which members know it again."""
        if look is not self._asked:
            if look.variants is not None:
                what = "variants are drawn at random, and several models draw different ones: their mean is blurred"
                raise UserError(what, where="--variants", remedy="name one run")
            if look.uncertainty not in (None, *KINDS):
                what = "the uncertainty of several models is how far they differ"
                raise UserError(what, where="--uncertainty", allowed=KINDS, remedy="name one run for other kinds")
            self._asked, self._inner = look, replace(look, uncertainty=None)
        return self._inner


def _ends(member: TrainedModel, to: str | None) -> tuple[str, str]:
    """The domains between which a model translates."""
    frame = member.frame(member.domain(to))
    return frame.source, frame.target


def _with(value: Any, mean: Any, square: Any, number: int) -> tuple[Any, Any]:
    """Mean and summed squares of deviations with one value more, the `number`th (Welford 1962)."""
    apart = value - mean
    mean = mean + apart / number
    return mean, square + apart * (value - mean)
