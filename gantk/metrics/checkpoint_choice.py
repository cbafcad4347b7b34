"""Checkpoint choice: which save of a run to use, without looking at the truth.

Every save is scored by itself, on a few images that the training holds out (training images where it holds out too
few; never test images), so that a checkpoint's score stays what it is, whatever comes after it, and a run that was
killed and resumed chooses the same.

The rule for translations, "nearest": per direction three criteria are measured, none of which needs a pair,

- kid: how far translated images are from real images of the target domain, of other patients (kernel inception
  distance on seeded random features). As a square root, in units of the distance of the untouched input: 1 = no nearer;
- structure: 1 - squared local correlation of output and input, at half the resolution, where noise is averaged away, in
  units of the same between the input and real images of other patients: 0 = every edge is kept, 1 = unrelated;
- cycle: mean absolute difference of an image that was brought there and back, in units of the mean difference of two
  images; for methods that translate both ways.

The score is kid + structure^4 + cycle^4, averaged over the directions; the lowest wins. The distance decides, which no
copy of the input wins. It alone would be won by inventing another patient, so structure and cycle are added, by a power
that leaves them next to nothing among translations that keep the anatomy (a true one changes edges too: fewer changes
are no better) and makes them weigh as much as a copy's distance where the output has nothing to do with the input.
What is barred wins only where all is barred: outputs that are not finite, that are all alike, that are the input
nearly unchanged, or that are no nearer to the target domain than the untouched input.

For images from noise the score is the kid alone, with the same bars for what is not finite or all alike. A method that
learns from pairs may look at its validation pairs: there the score is their mean PSNR, and the highest wins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.data.dataset import Data
from gantk.data.items import Record
from gantk.inference.tiles import whole_images
from gantk.losses.structure import local_ncc_and_flat_region
from gantk.machine.runtime import Runtime
from gantk.method import Method
from gantk.metrics.baselines import identity
from gantk.metrics.pairs import PSNR
from gantk.metrics.references import OTHER, fitting, spread, windows
from gantk.metrics.sample_batch import difference
from gantk.metrics.sets import ImageGroup, Kid
from gantk.recipe.tables import Model

MOST, FEWEST, REALS = 32, 8, 64  # images that are translated at a save, and real ones that they are compared with
TRAINED_PER_IMAGE = 12  # training images between two saves for each image that is looked at: a hundredth of the time
PASS, SEED = 16, 2000  # images from noise per call, and the first call's seed
BYTES = 2**28  # of a set of images, which for volumes is fewer
ALIKE = 0.3  # outputs that differ from each other by less than this share of what real images do are all alike
POWER = 4  # of structure and cycle in the score
FLOOR = 0.1  # kid (of standardised features) that sets of a few dozen images of other patients get by chance alone
UNCHANGED = 0.005  # of the range: an output that differs less from its input, in the mean, is a copy
NEARER = 0.9  # of the input's kid: above it nothing was translated
WINDOW, THRESHOLD = 5, 0.03  # of the structure criterion, see gantk.losses.structure


@dataclass
class Choice:
    """The scored saves of a run, and the best of them."""

    rule: str
    higher: bool = False  # whether the highest score wins
    table: list[dict[str, Any]] = field(default_factory=list)  # {"step": N, "score": x, "barred": why, criteria}

    def add(self, step: int, entry: dict[str, Any]) -> None:
        """Enter a save; one that is scored again replaces what was there."""
        self.table = [row for row in self.table if row["step"] != step] + [{"step": step} | entry]

    def take(self, log: Iterable[dict[str, Any]], last: int) -> None:
        """Enter what log.jsonl says of the saves up to the step `last`."""
        for line in log:
            if isinstance(line.get("selection"), dict) and line["step"] <= last:
                self.add(line["step"], line["selection"])

    @property
    def best(self) -> int | None:
        """The step of the winner, the earlier of two alike; the newest where none has a score; None of no saves."""
        scored = [row for row in self.table if row.get("score") is not None]
        if not scored:
            return max((row["step"] for row in self.table), default=None)
        sign = -1 if self.higher else 1
        return min(scored, key=lambda row: (bool(row.get("barred")), sign * row["score"], row["step"]))["step"]

    def state(self) -> dict[str, Any]:
        """What best.json holds."""
        return {"step": self.best, "rule": self.rule, "higher_is_better": self.higher, "table": self.table}


def criterion_for(model: Model, data: Data, method: Method, runtime: Runtime) -> Criterion:
    """What the saves of this training are scored by; what it needs of the data is read at its first call."""
    parts = model, data, method, runtime
    if model.train.steps is not None and model.train.steps <= model.train.save_every:
        return Criterion(*parts)
    if not method.directions():
        return Sampled(*parts) if method.samples else Criterion(*parts)
    return (OnPairs if method.paired and data.pairs("validation") else Unpaired)(*parts)


class Criterion:
    """Gives every save its entry: criteria by direction, `score`, and `barred` with the reason where it is.

    This one is for runs in which there is nothing to choose: every save is as good as the others.
    """

    rule, higher = "the only save", False

    def __init__(self, model: Model, data: Data, method: Method, runtime: Runtime):
        self.model, self.data, self.method, self.runtime = model, data, method, runtime
        self.low, self.span = data.range[0], data.range[1] - data.range[0]
        between = model.train.save_every * model.train.batch * runtime.world
        self.count = self.fitting(min(MOST, between // TRAINED_PER_IMAGE))

    def __call__(self) -> dict[str, Any]:
        return {"score": None}

    def fitting(self, most: int) -> int:
        return fitting(most, BYTES, self.method.geometry.size, FEWEST)

    def images(self, records: Sequence[Record]) -> Tensor:
        """As the networks see them, (N, C, *size), neighbours included."""
        return windows(torch.stack([self.data.image(record) for record in records]), self.method.geometry.size)

    def group(self, images: Tensor, patients: Sequence[str] | None = None) -> ImageGroup:
        """Images in network intensities as a set."""
        return ImageGroup((images - self.low).to(self.runtime.device), list(patients or [""] * len(images)))

    def reals(self, records: Sequence[Record]) -> ImageGroup:
        """Real images that made ones are compared with."""
        chosen = spread(records, self.fitting(REALS))
        return self.group(self.data.centre(self.images(chosen)), [record.subject for record in chosen])

    def translate(self, images: Tensor, to: str) -> Tensor:
        network = lambda x: self.method.translate(x, to)  # noqa: E731
        return whole_images(network, self.method, self.model, self.runtime)(images)

    @cached_property
    def kid(self) -> Kid:
        return Kid(self.span, self.model.data.dims)

    def distance(self, real: ImageGroup, made: ImageGroup) -> float:
        return float(self.kid(real, real, made).value)

    def records(self, letter: str, split: str) -> list[Record]:
        records = self.data.training if split == "train" else self.data.splits[split]
        return [record for record in records if record.domain == letter]


@dataclass(frozen=True)
class Yardstick:
    """One direction's images, and what a copy and an unrelated image get."""

    sources: Tensor  # as the networks see them
    shown: Tensor  # without neighbouring slices
    real: ImageGroup  # of the target domain, of other patients
    copy: float  # kid of the sources as they are
    unrelated: float  # structure of the sources with real images of other patients
    apart: float  # mean absolute difference of two sources
    differ: float  # the same of two real images


class Unpaired(Criterion):
    """Translations, by the module's rule: pairs are not looked at."""

    rule = "lowest kid + structure^4 + cycle^4: kid 1 for a copy of the input, structure 1 for an unrelated image"

    def __call__(self) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        scores, barred = [], []
        for to in self.method.directions():
            stick, key = self.yardsticks[to], f"{OTHER[to]}_to_{to}"
            made = self.translate(stick.sources, to)
            found = self._criteria(stick, made, to) if bool(torch.isfinite(made).all()) else {}
            entry[key] = {name: round(value, 6) if math.isfinite(value) else None for name, value in found.items()}
            scores.append(_score_of(stick, *found.values()) if found else math.nan)
            barred += [f"{key}: {why}" for why in self._bars(stick, self.data.centre(made), found)]
        entry["score"] = round(sum(scores) / len(scores), 6) if all(map(math.isfinite, scores)) else None
        return entry | ({"barred": "; ".join(barred)} if barred else {})

    @cached_property
    def yardsticks(self) -> dict[str, Yardstick]:
        """By the domain that comes out."""
        return {to: self._yardstick(to) for to in self.method.directions()}

    def _criteria(self, stick: Yardstick, made: Tensor, to: str) -> dict[str, float]:
        shown = self.data.centre(made)
        found = {
            self.kid.name: self.distance(stick.real, self.group(shown)),
            "structure": self.structure(shown, stick.shown),
        }
        if OTHER[to] in self.method.directions():
            back = self.data.centre(self.translate(made[::2], OTHER[to]))  # half of them: it costs as much again
            found["cycle"] = float((back - stick.shown[::2]).abs().mean())
        return found

    def _bars(self, stick: Yardstick, shown: Tensor, found: dict[str, float]) -> list[str]:
        if not found:
            return ["not finite"]
        bars = []
        if difference(shown) < ALIKE * stick.differ:
            bars.append("the outputs are all alike")
        if shown.shape == stick.shown.shape and float((shown - stick.shown).abs().mean()) < UNCHANGED * self.span:
            bars.append("the output is the input, nearly unchanged")
        if stick.copy > FLOOR and found[self.kid.name] > NEARER * stick.copy:
            bars.append("no nearer to the target domain than the input")
        return bars

    def structure(self, output: Tensor, source: Tensor) -> float:
        """1 - squared local correlation, at half the resolution where the images are large enough."""
        output, source = (images.to(self.runtime.device) for images in (output, source))
        if min(source.shape[2:]) >= 2 * WINDOW:
            halved = F.avg_pool3d if self.model.data.dims == 3 else F.avg_pool2d
            output, source = halved(output, 2), halved(source, 2)
        options = {"threshold": THRESHOLD, "data_range": self.span, "black": self.low}
        window = max(2, min(WINDOW, *source.shape[2:]))
        return float(local_ncc_and_flat_region(output, source, window=window, **options)[0])

    def _yardstick(self, to: str) -> Yardstick:
        records, others = self._apart(to)
        sources, real = self.images(records), self.reals(others)
        shown, there = self.data.centre(sources), real.images.cpu() + self.low
        beside = there[torch.arange(len(shown)) % len(there)]
        return Yardstick(
            sources=sources,
            shown=shown,
            real=real,
            copy=self.distance(real, self.group(identity(shown, there.shape[1]))),
            unrelated=max(self.structure(beside, shown), 1e-6),
            apart=max(difference(shown), 1e-6),
            differ=difference(there),
        )

    def _apart(self, to: str) -> tuple[list[Record], list[Record]]:
        """What is translated, and real images of the target domain of other patients."""
        held_out, real = self.records(OTHER[to], "validation"), self.records(to, "train")
        own = held_out if len(held_out) >= FEWEST else self.records(OTHER[to], "train")
        sources = spread(own, self.count)
        others = without(real, sources)
        if len(others) < min(FEWEST, len(real)):  # every patient gives both domains: half of them give the sources
            units = sorted({_unit(record) for record in own})
            first = set(units[: -(-len(units) // 2)])
            sources = spread([record for record in own if _unit(record) in first], self.count)
            others = without(real, sources)
        return sources, others if len(others) >= 2 else real


class OnPairs(Criterion):
    """Methods that learn from pairs, by the PSNR of their validation pairs."""

    rule, higher = "psnr on validation pairs", True

    def __call__(self) -> dict[str, Any]:
        entry: dict[str, Any] = {}
        for to in self.method.directions():
            made = self.data.centre(self.translate(self._images[OTHER[to]], to))
            reference = self.data.centre(self._images[to])
            values = PSNR(self.span, self.model.data.dims)(made - self.low, reference - self.low)
            entry[f"{OTHER[to]}_to_{to}"] = {"psnr": round(float(values.double().mean()), 6)}
        scores = [row["psnr"] for row in entry.values()]
        return entry | {"score": round(sum(scores) / len(scores), 6) if all(map(math.isfinite, scores)) else None}

    @cached_property
    def _images(self) -> dict[str, Tensor]:
        pairs = spread(self.data.pairs("validation"), self.count)
        return {letter: self.images([pair[letter] for pair in pairs]) for letter in "ab"}


class Sampled(Criterion):
    """Images from noise, by their kid."""

    rule = "lowest kid_random of images from noise"

    def __call__(self) -> dict[str, Any]:
        count, made = 2 * self.count, []
        for number, first in enumerate(range(0, count, PASS)):
            with torch.no_grad(), self.runtime.autocast():
                images = self.method.sample(min(PASS, count - first), SEED + number)
            made.append(self.data.centre(images.float().cpu()))
        fake = torch.cat(made)
        if not bool(torch.isfinite(fake).all()):
            return {"image": {}, "score": None, "barred": "image: not finite"}
        value = round(self.distance(self.real, self.group(fake)), 6)
        alike = difference(fake) < ALIKE * difference(self.real.images)
        bars = {"barred": "image: the outputs are all alike"} if alike else {}
        return {"image": {self.kid.name: value}, "score": value} | bars

    @cached_property
    def real(self) -> ImageGroup:
        letter = self.method.reads[0]
        held_out = self.records(letter, "validation")
        return self.reals(held_out if len(held_out) >= 2 * FEWEST else self.records(letter, "train"))


def _score_of(stick: Yardstick, kid: float, structure: float, cycle: float = 0.0) -> float:
    """The score of one direction: each criterion in units of its yardstick, added as the module says."""
    distance = math.sqrt(max(kid, 0.0) / max(stick.copy, FLOOR))
    return distance + (structure / stick.unrelated) ** POWER + (cycle / stick.apart) ** POWER


def _unit(record: Record) -> str:
    """Who or what a record shows: two of one unit may show the same anatomy."""
    return record.subject or record.pair or f"{record.domain}/{record.key}"


def without(records: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """The records that share neither patient nor pair with the others."""
    taken = {_unit(record) for record in others}
    pairs = {record.pair for record in others} - {None}
    return [record for record in records if _unit(record) not in taken and record.pair not in pairs]
