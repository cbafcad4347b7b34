"""Batches of another program: a DataLoader, or any iterable of dictionaries of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, cast

from torch import Tensor

from gantk.data.batches import Batches
from gantk.data.intensity import IntensityMapping, Window
from gantk.data.preparation import letter_of
from gantk.errors import UserError
from gantk.method import Batch, domain_letters
from gantk.prepare.module import Scale
from gantk.recipe.load import Recipe, mapping

KEPT = ("domains", "fit", "augment")  # keys of [data] that apply to batches
MAX_WHITES = 10_000  # how far from black a value may be, in distances from black to white


def is_loader(data: Any) -> bool:
    """Whether data are batches, in place of images that can be taken one by one."""
    return hasattr(data, "__iter__") and not hasattr(data, "__getitem__")


class Loader:
    """Takes one batch after the other; begins anew where the iterable ends.

    Raises:
        UserError: there is no batch, or it is no dictionary with a tensor (N, C, *size) of each
            domain.
    """

    def __init__(
        self,
        batches: Iterable[Mapping[str, Any]],
        domains: Sequence[str],
        size: Sequence[int] | None = None,  # of the images; None: that of the first batch
    ):
        self.batches = batches
        self.names = dict(zip(domain_letters(tuple(domains)), domains, strict=True))
        self.size = size and tuple(size)
        self.taken = 0  # batches so far
        self._rest = iter(batches)
        self._waiting = []
        self.first = self.take()
        self._waiting.append(self.first)

    @property
    def length(self) -> int | None:
        """The number of batches of an epoch; None where the loader does not know it."""
        try:
            return len(self.batches)  # type: ignore[arg-type]
        except TypeError:  # an endless one of torch has the function, which raises this
            return None

    def take(self) -> Batch:
        """The next batch, by the letters of the domains, in the units of the loader."""
        if self._waiting:
            return self._waiting.pop()

        found = next(self._rest, None)
        if found is None:
            self._rest = iter(self.batches)
            found = next(self._rest, None)
        if found is None:
            raise UserError(
                f"the loader ended after batch {self.taken}, and cannot be iterated again",
                where="data",
                remedy="give a loader that can be iterated again, or an endless one",
            )
        self.taken += 1
        if not isinstance(found, Mapping):
            raise UserError(
                f"a batch has the type {type(found).__name__}",
                where="data",
                allowed="a dictionary of tensors",
            )

        images = {letter_of(key, self.names): value for key, value in found.items()}
        batch = Batch({key: self._image(images.get(key), name) for key, name in self.names.items()})
        counts = {name: len(batch[key]) for key, name in self.names.items()}
        if len({*counts.values()}) > 1:
            raise UserError(
                f"a batch has different numbers of images, {counts}",
                where="data",
                allowed="as many images of each domain",
            )
        return batch

    def _image(self, tensor: Any, name: str) -> Tensor:
        """The images of one domain as a plain tensor; UserError where they are none of this size."""
        if isinstance(tensor, Tensor) and tensor.ndim in (4, 5):
            self.size = self.size or tuple(tensor.shape[2:])
            if tuple(tensor.shape[2:]) == self.size:
                return tensor.detach().as_subclass(Tensor).float()

        found = f"no tensor '{name}'"
        if isinstance(tensor, Tensor):
            found = f"'{name}' of shape {tuple(tensor.shape)}"
        raise UserError(
            f"a batch has {found}",
            where="data",
            allowed=f"a tensor (N, C, *size), size = {self.size or '(H, W) or (D, H, W)'}",
        )

    def expect_images(self, images: Batch, black: float, white: float) -> None:
        """UserError where the newest batch is empty, or has values that are not finite or far from
        black and white.
        """
        for key, each in images.items():
            whites = float((each - black).abs().max()) / (white - black) if each.numel() else 0.0
            if whites <= MAX_WHITES and each.numel():  # false for NaN
                continue
            found = f"values up to {whites:,.0f} times as far from black as white"
            if not each.numel():
                found = "no images"
            elif not isfinite(whites):
                found = "values that are not finite"
            raise UserError(
                f"batch {self.taken} of the loader has {found} in '{self.names[key]}'",
                where="data",
                remedy=f"scale the images: black is {black:g}, white is {white:g}",
            )

    def items_to_store(self, paired: bool) -> list[dict[str, Any]]:
        """The first batch as items that a run stores, of which it shows samples."""
        about: dict[str, Any] = {"split": "train"}
        if not paired:
            about["pair"] = False
        rows = zip(*self.first.values(), strict=True)
        return [dict(zip(self.names.values(), row, strict=True)) | about for row in rows]

    def recipe(self, recipe: Recipe) -> Recipe:
        """A copy of a recipe for these batches, with notes on the keys that do not apply to them
        and on values that are not those of its data.intensity.

        Raises:
            UserError: the recipe counts epochs, but the loader has no length.
        """
        changed = recipe.override([])
        before = mapping(changed.tables.get("data"))
        train = changed.tables.setdefault("train", {})
        if "steps" not in train and self.length is None:
            raise UserError(
                "train.epochs needs a loader with a length",
                where="train.epochs",
                remedy="set train.steps",
            )

        part = recipe.check().data.intensity
        units = part()
        applied = {*KEPT, "source", "size", "dims", "channels"}
        if not isinstance(units, Window):
            units = Window(low=-1.0, high=1.0, range=units.range)
        else:
            applied.add("intensity")
        unused = sorted(before.keys() - applied)
        if unused:
            changed.remarks.append(
                f"batches are taken as they are; keys of data without use: {', '.join(unused)}"
            )

        self.expect_images(self.first, units.low, units.high)
        size = list(self.size or ())
        table = {key: before[key] for key in KEPT if key in before}
        window = {"name": "window", "low": units.low, "high": units.high, "range": units.range}
        changed.tables["data"] = table | {"dims": len(size), "size": size, "intensity": window}
        train["batch"] = len(next(iter(self.first.values())))
        changed.remarks += self._about_values(units.low, units.high)
        return changed

    def _about_values(self, low: float, high: float) -> list[str]:
        """A note where the first batch is not between black and white, or has nothing dark."""
        least = min(float(each.min()) for each in self.first.values())
        most = max(float(each.max()) for each in self.first.values())
        half = (high - low) / 2
        if low - half <= least < low + half and most <= high + half:
            return []
        return [
            f"the first batch has values from {least:.3g} to {most:.3g}, but black is {low:g} and"
            f' white {high:g}: scale the images, or set data.intensity = {{ name = "window",'
            f" low = {least:.3g}, high = {most:.3g} }}"
        ]


class LoaderBatches(Batches):
    """The batches of a loader, in its order and of its sizes."""

    def __init__(self, loader: Loader, intensity: Mapping[str, IntensityMapping], like: Batches):
        super().__init__(like.sets, like.batch, like.seed, like.paired, workers=0)
        self.loader = loader
        self.intensity = intensity
        self.scales = {letter: Scale(mapping) for letter, mapping in intensity.items()}

    @property
    def steps_per_epoch(self) -> int:
        """The length of the loader; 1 where it has none."""
        return self.loader.length or 1

    def at(self, step: int) -> Batch:
        """The next batch, whatever the step is."""
        images = self.loader.take()
        window = cast("Window", next(iter(self.intensity.values())))  # see `Loader.recipe`
        self.loader.expect_images(images, window.low, window.high)
        return Batch({key: self.scales[key].to(each.device)(each) for key, each in images.items()})
