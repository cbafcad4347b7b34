"""Combines several trained models: the mean of their translations, and its standard deviation as
their spread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gantk import Model
from gantk.errors import UserError
from gantk.formats.files import natural
from gantk.formats.image import Image
from gantk.inference.frame import Frame, Results, TranslateOptions
from gantk.progress import track

if TYPE_CHECKING:
    from torch import Tensor


def load(model: Any, device: str | None) -> Ensemble | None:
    """Load several models as an Ensemble, a list of one as that one; None if `model` is no list."""
    from gantk import load as load_one

    paths = member_paths(model) or []
    members = [load_one(path, device=device) for path in paths]
    if len(members) > 1:
        return Ensemble(members, paths)
    return members[0] if members else None


def member_paths(model: str | os.PathLike[str] | Iterable[Any]) -> list[str] | None:
    """The paths in a list, `RUN1,RUN2`, or a glob pattern, in order; None for a single model."""
    if isinstance(model, (str, os.PathLike)):
        text = os.fspath(model)
        if os.path.exists(text):  # Path.exists raises for a text longer than file names may be
            return None

        parts = text.split(",") if "," in text else sorted(glob(text), key=natural)
        if parts in ([], [text]):  # a link to nothing matches itself
            return None
    else:
        parts = list(model)

    paths = []
    for part in parts:
        if not isinstance(part, (str, os.PathLike)):
            raise UserError(
                f"a model of the type {type(part).__name__} cannot be loaded",
                where="RUN",
                allowed="paths, names and addresses",
            )
        name = os.fspath(part).strip()
        if name:
            paths += member_paths(name) or [name]

    if not paths:
        raise UserError(
            "RUN names no model", where="RUN", remedy="name runs: gantk translate RUN1,RUN2 IN OUT"
        )

    return paths


MAX_ENDS_RATIO = 3  # of the brightest values that models make, before their mean is doubted


class Ensemble(Model):
    """Models of the same domains as one model, whose translation is the mean of theirs.

    The mean is taken over native intensities, after each member's inverse mapping: members of
    different folds or data have different mappings, so that equal network outputs mean different
    intensities. Members may differ in size, network, method and dims, and be runs or exported
    files. UserError where their domains differ.
    """

    checkpoint = Path()

    def __init__(self, members: Sequence[Model], names: Sequence[Any]):
        self.members = members
        frames = [[*member.frames.values()] for member in members]
        usual = frames[0][0]
        for own, name in zip(frames, names, strict=True):
            if _ends(usual) not in map(_ends, own):
                raise UserError(
                    f"the models do not fit together: '{names[0]}' translates {_words(usual)},"
                    f" '{name}' {_words(own[0])}",
                    where="RUN",
                    remedy="name models of the same domains",
                )

        self.pipelines = {
            letter: pipeline
            for letter, pipeline in members[0].pipelines.items()
            if all(_ends(pipeline.frame) in map(_ends, own) for own in frames)
        }

    def classes(self) -> tuple[str, ...]:
        """The classes of the first member."""
        return self.members[0].classes()

    def checked_frames(self, to: str | None) -> list[Frame]:
        target = self.frame(to).target
        return [member.frame(target) for member in self.members]

    def run_trained_on(self, patient: str, file: Path | None) -> str:
        found = (each.run_trained_on(patient, file) for each in self.members)
        return next(filter(None, found), "")

    def identity(self) -> dict[str, str]:
        """Name and hash of the members' weights, equal for two translations by the same members."""
        identities = [member.identity() for member in self.members]
        names = ", ".join(dict.fromkeys(each["name"] for each in identities))
        hashes = " ".join(each["sha256"] for each in identities)
        digest = hashlib.sha256(hashes.encode()).hexdigest()
        return {"name": f"mean of {len(identities)}: {names}", "sha256": digest}

    def network_of(self, letter: str, options: TranslateOptions) -> Any:
        """The function of the first member, which refuses what the mean cannot be made of."""
        return self.members[0].network_of(letter, self._member_options(options))

    def results(
        self,
        image: Image,
        to: str | None,
        options: TranslateOptions,
        pixels: Tensor | None = None,
    ) -> Results:
        """The mean of the members' translations, and with `options.uncertainty` their standard
        deviation (Welford 1962).
        """
        mean = torch.zeros(())
        square = torch.zeros(())  # the sum of squared distances from the mean
        for_members = self._member_options(options)
        name = to if to and len(to) > 1 else self.frames[self.domain(to)].target
        notes = self._notes_on_scales(name)
        for number, member in enumerate(track(self.members, "", "model"), 1):
            (made,), own_scale, said = member.results(image, name, for_members, pixels)
            notes += said
            apart = made - mean
            mean = mean + apart / number
            if options.uncertainty:
                square = square + apart * (made - mean)

        results = [mean]
        if options.uncertainty:
            results.append((square / (number - 1)).sqrt())
        return Results(results, own_scale, [*dict.fromkeys(notes)])

    def _notes_on_scales(self, to: str) -> list[tuple[str, str]]:
        """A warning where the members' results differ in scale: then neither their mean nor their
        spread shows what they disagree on.
        """
        frames = self.checked_frames(to)
        ends = [frame.values.get("target", {}).get("high", 0.0) for frame in frames]
        if min(ends) <= 0 or max(ends) <= MAX_ENDS_RATIO * min(ends):
            return []
        shown = " and ".join(f"{end:.4g}" for end in sorted(ends))
        line = (
            f"the models make {frames[0].target} on other scales, up to {shown}: their mean is of"
            " neither, and most of their spread is no doubt"
        )
        return [("warning", line)]

    def _member_options(self, options: TranslateOptions) -> TranslateOptions:
        """The options for each member; UserError where the mean has no such result."""
        if options.variants is not None:
            raise UserError(
                "an ensemble cannot give variants: each model draws different ones, and their"
                " mean is blurred",
                where="--variants",
                remedy="name one run",
            )

        return replace(options, uncertainty=False)


def _ends(frame: Frame) -> tuple[str, str]:
    return frame.source.lower(), frame.target.lower()


def _words(frame: Frame) -> str:
    return f"{frame.source} to {frame.target}"
