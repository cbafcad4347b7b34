"""The data source that chains trainings: images that a finished run generates become the training
images of the second domain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk import Record
from gantk.errors import UserError, did_you_mean
from gantk.plugin.spec import Count, Seed

if TYPE_CHECKING:  # importing PyTorch is slow; `gantk list` and recipe checks do without it
    from gantk import Data, Translator

SETS = ("train", "validation", "test")
IMAGES_PER_PASS = 16  # images translated at once


class Generated:
    """Images of a finished run: real ones of one class, generated ones of another.

    The two domains are classes of the run's own images, such as ["healthy", "tumour"]. Domain a has
    the real images of its class. Domain b has generated images for training, and real images of its
    class for validation and test. The split is the run's, so no patient that its model has seen is
    tested on. Real training images of domain b are set aside: only scores learn from them.

    A run from noise is sampled: of the class of domain b if it knows classes, else of all that it
    generates. A run that translates generates from its own training images of that class. Images
    depend on the run's weights and the options only. Reads `--data RUN`.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        path: str = "",  # folder of the finished run
        n: Count = 512,  # number of generated images; at most one for each image to translate
        # class to generate; "" = the name of the second domain
        label: str = "",
        seed: Seed = 0,  # seed of images from noise
    ):
        if len(domains) != 2:
            what = (
                "the source 'generated' needs two domains, real and generated, but data.domains"
                f" has {len(domains)}"
            )
            raise UserError(what, where="data.domains", allowed='such as ["healthy", "tumour"]')

        if not path:
            remedy = "use --data RUN with the folder of a finished run"
            raise UserError(
                "the source 'generated' has no run", where="data.source.path", remedy=remedy
            )

        self.path = path
        self.dims = dims
        self.plain, self.shown = domains
        self.count = n
        self.label = label or self.shown
        self.seed = seed

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where `path` is the folder of a run."""
        is_run = (path / "recipe.toml").is_file() and (path / "checkpoints").is_dir()
        return {"path": str(path)} if is_run else None

    def records(self) -> list[Record]:
        """Real records in the run's sets, and generated ones for training."""
        from gantk.metrics.references import real_records

        letters = {self.plain: "a", self.shown: "b"}
        records = []
        classes = set()
        for name in SETS:
            for record in real_records(self._data.splits[name], self._letter):
                classes.add(record.label)
                if record.label in letters:
                    letter = letters[record.label]
                    only_scored = letter == "b" and name == "train"
                    kept = self._at_size_of_run(record, letter, name)
                    records.append(replace(kept, for_training=not only_scored))

        known = sorted(classes - {None})
        for name in letters:
            if name not in classes:
                what = f"the images of the run '{self.path}' have no class '{name}'"
                remedy = did_you_mean(name, known) or "name the domains after two of its classes"
                raise UserError(
                    what, where="data.domains", allowed=known or "no classes", remedy=remedy
                )

        if self._labels and self.label not in self._labels:
            what = f"the run '{self.path}' does not generate the class '{self.label}'"
            raise UserError(what, where="data.source.label", allowed=self._labels)

        return [*records, *self._generated_records()]

    @property
    def drawn(self) -> bool:
        """Whether the run's images are computed heads, which are alike without being copies."""
        return getattr(self._data.source, "drawn", False)

    @property
    def split_origin(self) -> str:
        """What gives the sets of the records."""
        return f"the run '{Path(self.path).name}'"

    @property
    def notes(self) -> list[str]:
        """What the domains consist of."""
        what = f"of the class {self._label}"
        if self._label is None:
            what = "of any class, because the run knows none"
        elif self._translates:
            what = f"translated from its training images of the class {self._label}"
        method = self._model.recipe.method.name
        return [
            f"{self.shown}: training images are generated by the {method} of"
            f" '{Path(self.path).name}', {what}. Validation and test images are real",
        ]

    @property
    def provenance(self) -> dict[str, Any]:
        """What environment.json records of the model that generated the images."""
        about = {
            "run": str(Path(self.path).absolute()),
            "checkpoint": self._model.checkpoint.name,
            "label": self._label,
            "seed": self.seed,
        }
        return {"generated_by": self._model.identity() | about}

    @cached_property
    def _model(self) -> Translator:
        from gantk import Translator
        from gantk.runs.models import find_model

        # the CPU generates the same images in every process of a training on GPUs
        model = Translator.load(find_model(self.path), "cpu")
        table = model.recipe.data
        where = "data.source.path"
        if table.dims != self.dims or table.neighbours:
            raise UserError(
                f"the run generates images with dims = {table.dims} and neighbours ="
                f" {table.neighbours}",
                where=where,
                remedy=f"use a run with data.dims = {self.dims} and data.neighbours = 0",
            )
        if not model.method.samples and not model.method.directions():
            what = f"the method {model.recipe.method.name} generates no images"
            raise UserError(what, where=where)

        return model

    @cached_property
    def _data(self) -> Data:
        """The images of the run in their recorded split."""
        from gantk.runs.models import data_of

        model = self._model
        return data_of(model.run, model.recipe.data, type(model.method))

    @property
    def _translates(self) -> bool:
        return bool(self._model.method.directions())

    @property
    def _letter(self) -> str:
        """The run's domain that is generated."""
        return [*self._model.method.directions(), *self._data.letters][0]

    @property
    def _labels(self) -> tuple[str, ...]:
        """The classes that the run can be asked for; () where it knows none."""
        method = self._model.method
        return tuple(method.geometry.classes) if method.conditional else ()

    @property
    def _label(self) -> str | None:
        """The class of the generated images; None for samples of a run that knows no classes."""
        return self.label if self._labels or self._translates else None

    def _at_size_of_run(self, record: Record, letter: str, split: str) -> Record:
        """A real record as the run's networks see it, in native intensities."""
        preparation = self._data.preparation
        return replace(
            record,
            domain=letter,
            split=split,
            pair=None,
            read=partial(preparation.to_size, record),
            mask=partial(preparation.mask, record) if record.mask else None,
            scan=None,
            scan_key="",
            others=(*record.others, self._recipe) if record.path else (),
        )

    @property
    def _recipe(self) -> Path:
        """The run's recipe, which decides how its images are resized."""
        return self._model.run.path / "recipe.toml"

    def _generated_records(self) -> list[Record]:
        """The generated images: records whose file is that of the weights."""
        sources = self._sources() if self._translates else []
        images = Images(partial(self._translate, sources) if sources else self._sample)
        return [
            Record(
                domain="b",
                subject="",
                key=f"generated-{number:05d}",
                read=partial(images.at, number),
                path=self._model.checkpoint / "weights.safetensors",
                others=(self._recipe,),
                split="train",
                label=self._label,
                for_scores=False,
            )
            for number in range(len(sources) if self._translates else self.count)
        ]

    def _sample(self) -> np.ndarray:
        """Images from noise as `gantk sample --no-post` writes them, (n, C, *size)."""
        return self._model.sample(self.count, self.seed, self._label, post=False)

    def _sources(self) -> list[Record]:
        """Training images of the run to translate: those of the class, evenly spread."""
        from gantk.method import OTHER
        from gantk.metrics.references import spread

        whose = (OTHER[self._letter], self.label)
        return spread([r for r in self._data.training if (r.domain, r.label) == whose], self.count)

    def _translate(self, sources: Sequence[Record]) -> np.ndarray:
        """Translations of records in native intensities, (n, C, *size)."""
        import torch

        model = self._model
        method = model.method_of_class(self.label if self._labels else None)
        outputs = []
        for first in range(0, len(sources), IMAGES_PER_PASS):
            part = sources[first : first + IMAGES_PER_PASS]
            images = torch.stack([self._data.image(record) for record in part])
            with torch.no_grad(), model.runtime.autocast():
                outputs.append(method.translate(images, self._letter).float().numpy())

        native = map(model.intensity[self._letter].inverse, outputs)
        return np.concatenate([*native]).astype(np.float32)


class Images:
    """Images (n, C, *size) that are computed when the first one is read, once for all threads."""

    def __init__(self, make: Callable[[], np.ndarray]):
        self._make = make
        self._found: np.ndarray | None = None
        self._lock = Lock()

    def at(self, number: int) -> np.ndarray:
        """Image `number`, (C, *size)."""
        with self._lock:
            if self._found is None:
                self._found = self._make()
            return self._found[number]
