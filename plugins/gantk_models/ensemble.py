"""Combines several trained models: the mean of their translations, and its standard deviation as
their spread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from copy import copy
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


def member_paths(model: str | os.PathLike[str] | Iterable[Any]) -> list[Path] | None:
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
            address = "://" in name  # such as hf://USER/NAME
            paths += member_paths(name) or [name if address else Path(name)]

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
        usual = _ends(next(iter(members[0].frames.values())))
        common = set.intersection(*(set(map(_ends, each.frames.values())) for each in members))
        for member, name in zip(members, names, strict=True):
            known = [*member.frames.values()]
            if usual not in map(_ends, known):
                raise UserError(
                    f"the models do not fit together: '{names[0]}' translates"
                    f" {_words(next(iter(members[0].frames.values())))}, '{name}' {_words(known[0])}",
                    where="RUN",
                    remedy="name models of the same domains",
                )

        self.pipelines = {}
        for letter, pipeline in members[0].pipelines.items():
            if _ends(pipeline.frame) in common:
                own = copy(pipeline)
                own.frame = self._common_frame(pipeline.frame)
                self.pipelines[letter] = own

    def _common_frame(self, frame: Frame) -> Frame:
        """The first member's frame; its range of the target's values covers those of all members."""
        all_values = [each.frames[each.domain(frame.target)].values for each in self.members]
        if not all(all_values):
            return replace(frame, values={})

        ranges = [values["target"] for values in all_values]
        ends = {
            "low": min(each["low"] for each in ranges),
            "high": max(each["high"] for each in ranges),
        }
        return replace(frame, values=frame.values | {"target": ranges[0] | ends})

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
        mean: Tensor | None = None
        square: Tensor | None = None
        for_members = self._member_options(options)
        name = to if to and len(to) > 1 else self.frames[self.domain(to)].target
        notes = self._notes_on_scales(name)
        for number, member in enumerate(track(self.members, "", "model"), 1):
            (made,), own_scale, said = member.results(image, name, for_members, pixels)
            notes += said
            if mean is None:
                mean = made
                if options.uncertainty:
                    square = torch.zeros_like(mean)
                continue

            apart = made - mean
            mean.add_(apart, alpha=1 / number)
            if square is not None:  # the product of the distances from the old and the new mean
                square.addcmul_(apart, apart, value=1 - 1 / number)

        results = [mean] if square is None else [mean, square.div_(number - 1).sqrt_()]
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
