"""What `gantk translate` writes for the test images of a run."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from gantk.data.dataset import Data
from gantk.data.preparation import Record
from gantk.errors import UserError
from gantk.formats.files import NotFinite, is_image, read, write
from gantk.formats.image import Image
from gantk.inference.case import Case, image_of
from gantk.inference.frame import TranslateOptions
from gantk.inference.model import Model
from gantk.inference.notes import Checks
from gantk.inference.result_format import ResultFormat, with_tail
from gantk.machine.runtime import Runtime
from gantk.method import Method
from gantk.metrics.references import of_all_scans
from gantk.prepare.module import image_intensities, size_image
from gantk.recipe.tables import CheckedRecipe


@dataclass(frozen=True)
class Written:
    """The translations of test images."""

    images: Tensor  # (N, C, *size) in network intensities, as the records of their sources
    padding: Tensor  # (N, 1, *size): where an image has no pixels; `images` are black there


class WrittenTranslations:
    """Translates test images by the path of `gantk translate`: each file is read, translated,
    written to a temporary folder and read again. Images without a file are translated as arrays.
    """

    def __init__(
        self,
        model: CheckedRecipe,
        data: Data,
        method: Method,
        runtime: Runtime,
        *,
        posts: bool = True,
    ):
        """`posts`: whether the recipe's post-steps are applied."""
        if not posts:
            model = model.model_copy(update={"post": []})

        self.data = data
        self.runtime = runtime
        self.size = tuple(data.table.size)
        self.checks: Checks = {}  # of the files that this rank has translated
        # a copy, because the translator changes it into a form for inference only
        own = copy.deepcopy(method).requires_grad_(False)
        self.translator = Model(
            recipe=model,
            method=own,
            intensity=data.intensity,
            runtime=runtime,
            checkpoint=Path(),
            values=data.values,
            data=data,
        )

    def __call__(self, sources: Sequence[Record], to: str) -> Written | None:
        """Translate the sources to domain `to`, shared among the ranks; None on ranks other than 0."""
        groups = self._images_of(sources)

        def work(group: Sequence[int]) -> tuple[Tensor, Tensor]:
            return self._translate([sources[number] for number in group], to)

        shared = self.runtime.share(groups, work, "test scans", "scan")
        if shared is None:
            return None

        order = torch.tensor([number for group in groups for number in group]).argsort()
        images, padding = map(torch.cat, zip(*shared, strict=True))
        return Written(images[order], padding[order])

    def _images_of(self, records: Sequence[Record]) -> list[list[int]]:
        """The places of the records of each image: the slices of one volume, in order, or one."""
        groups: dict[tuple[str, str | None], list[int]] = {}
        by_class = bool(self.translator.classes())
        for number, record in enumerate(records):
            key = record.scan_key or record.key
            groups.setdefault((key, record.label if by_class else None), []).append(number)

        return [
            sorted(group, key=lambda number: records[number].position or 0.0)
            for group in groups.values()
        ]

    def _translate(self, records: Sequence[Record], to: str) -> tuple[Tensor, Tensor]:
        """The translations (n, C, *size) of the records of one image, and their padding."""
        options = TranslateOptions(label=records[0].label if self.translator.classes() else None)
        file = records[0].file
        if file is None:
            image = image_of(*records)
        else:
            image = Case.of_record(self.translator, records[0], self._name(to), self.checks).image
        (result,) = self.translator(image, self._name(to), options)
        if file is None:
            images = result.pixels.swapaxes(0, 1) if len(records) > 1 else [result.pixels]
            return self._to_network(images, to)

        made = self._write_and_read(image, result, to)
        if made.affine is None:  # a picture may be on a scale of its own
            pipeline = self.translator.pipelines[to]
            _, in_units = pipeline.in_training_units(image)
            made = replace(made, pixels=in_units(made.pixels))
        pixels = file.on_grid(made)
        planes = [record.file.plane for record in records]
        images = [pixels if plane is None else pixels[:, plane] for plane in planes]
        return self._to_network(images, to)

    def _write_and_read(self, image: Image, made: Image, to: str) -> Image:
        """A translation of an image as its files hold it, one for each contrast; NaN throughout where
        values are not finite. A picture whose format cannot hold the target's values is written as TIFF.
        """
        frame = self.translator.frames[to]
        source = image.path or Path()
        held = ResultFormat(self.translator.pipelines[to], frame)
        parts = [made]
        if len(frame.targets) > 1:
            parts = [replace(made, pixels=channel[None]) for channel in made.pixels]
        found = []
        with TemporaryDirectory() as folder:
            for number, part in enumerate(parts):
                # a file of a series' format may hold several slices
                name = source.name if is_image(source) else "series"
                path = with_tail(Path(folder) / name, f"-{number}")
                try:
                    part = held.fit(path, part, source)
                except UserError:
                    path = path.with_suffix(".tif")
                    part = held.fit(path, replace(part, dtype=None), source)
                try:
                    write(path, part)
                except NotFinite:
                    return replace(made, pixels=np.full_like(made.pixels, np.nan))
                found.append(read(path))
        return replace(found[0], pixels=np.concatenate([part.pixels for part in found]))

    def _name(self, letter: str) -> str:
        return self.data.table.domains[self.data.letters.index(letter)]

    def _to_network(self, images: Iterable[np.ndarray], to: str) -> tuple[Tensor, Tensor]:
        """Native images (C, *spatial) as (N, C, *size) in network intensities, black in their
        padding, and this padding. NaN throughout where one has values that are not finite.
        """
        mapping = of_all_scans(self.data.intensity[to])
        nearest = mapping.nearest
        resized = partial(size_image, size=self.size, fit=self.data.table.fit, nearest=nearest)
        made = []
        paddings = []
        for image in images:
            padding = resized(np.zeros_like(image[:1]), fill=1.0) > 0
            pixels = image_intensities(resized(image), mapping)
            if not np.isfinite(image).all():  # a channel of NaN is read as a missing contrast
                pixels[:] = np.nan
            made.append(np.where(padding, np.float32(self.data.range[0]), pixels))
            paddings.append(padding)

        return torch.from_numpy(np.stack(made)), torch.from_numpy(np.stack(paddings))
