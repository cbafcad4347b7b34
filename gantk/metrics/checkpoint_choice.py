"""Checkpoint choice: which save of a run to use, without looking at the truth.

Every save is scored by itself on a few images that the training holds out (training images where it holds out too few;
never test images), so that a run that was killed and resumed chooses the same. For translations the score is

    sqrt(kid) + structure^4 + cycle^4, averaged over the directions; the lowest wins,

where kid is the distance of translated images to real images of other patients, in units of the untouched input's;
structure is 1 - squared local correlation of output and input at half the resolution, in units of that between the
input and other patients; cycle is the mean difference of an image brought there and back, in units of that between two
images. Distance decides, which no copy of the input wins; the powers bar an output that has nothing to do with the
input and weigh next to nothing otherwise. Outputs that are not finite, all alike, the input nearly unchanged, or no
nearer to the target domain than the input are barred: they win only where all are. Images from noise are scored by kid
alone; a method that learns from pairs by the PSNR of its validation pairs.
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
from gantk.data.preparation import Record
from gantk.inference.tiles import whole_images
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
    if model.train.steps is not None and model.train.steps <= model.train.save_every:
        kind = Criterion
    elif method.directions():
        kind = OnPairs if method.paired and data.pairs("validation") else Unpaired
    else:
        kind = Sampled if method.samples else Criterion
    return kind(model, data, method, runtime)


class Criterion:
    """Called at a save: its criteria by direction, `score`, and `barred` with the reason. Here: nothing to choose."""

    rule, higher = "the only save", False

    def __init__(self, model: Model, data: Data, method: Method, runtime: Runtime):
        self.model, self.data, self.method, self.runtime = model, data, method, runtime
        self.low, self.span = data.range[0], data.range[1] - data.range[0]
        between = model.train.save_every * model.train.batch * runtime.world
        self.count = self._fitting(min(MOST, between // TRAINED_PER_IMAGE))
        self.kid = Kid(self.span, model.data.dims)

    def __call__(self) -> dict[str, Any]:
        return {"score": None}

    def _fitting(self, most: int) -> int:
        return fitting(most, BYTES, self.method.geometry.size, FEWEST)

    def _stacked(self, records: Sequence[Record]) -> Tensor:
        """As the networks see them, (N, C, *size), neighbours included."""
        return windows(torch.stack([self.data.image(record) for record in records]), self.method.geometry.size)

    def _group(self, images: Tensor) -> ImageGroup:
        return ImageGroup((images - self.low).to(self.runtime.device), [""] * len(images))

    def _reals(self, records: Sequence[Record]) -> ImageGroup:
        return self._group(self.data.centre(self._stacked(spread(records, self._fitting(REALS)))))

    def _distance(self, real: ImageGroup, images: Tensor) -> float:
        return float(self.kid(real, real, self._group(images)).value)

    def _translate(self, images: Tensor, to: str) -> Tensor:
        network = lambda x: self.method.translate(x, to)  # noqa: E731
        return whole_images(network, self.method, self.model, self.runtime)(images)

    def _records(self, letter: str, split: str) -> list[Record]:
        records = self.data.training if split == "train" else self.data.splits[split]
        return [record for record in records if record.domain == letter]


class Unpaired(Criterion):
    """Translations, by the module's rule: pairs are not looked at."""

    rule = "lowest kid + structure^4 + cycle^4: kid 1 for a copy of the input, structure 1 for an unrelated image"

    def __call__(self) -> dict[str, Any]:
        entry, scores, barred = {}, [], []
        for to in self.method.directions():
            key, (score, criteria, bars) = f"{OTHER[to]}_to_{to}", self._judged(to)
            entry[key] = {name: round(value, 6) if math.isfinite(value) else None for name, value in criteria.items()}
            scores.append(score)
            barred += [f"{key}: {why}" for why in bars]
        return entry | {"score": mean(scores)} | ({"barred": "; ".join(barred)} if barred else {})

    def _judged(self, to: str) -> tuple[float, dict[str, float], list[str]]:
        """Score, criteria and bars of one direction."""
        sources, real = self.images[to]
        made, given = self._translate(sources, to), self.data.centre(sources)
        if not bool(torch.isfinite(made).all()):
            return math.nan, {}, ["not finite"]
        shown, there = self.data.centre(made), real.images.cpu() + self.low
        copy, unrelated = (
            self._distance(real, identity(given, there.shape[1])),
            there[torch.arange(len(given)) % len(there)],
        )
        criteria = {self.kid.name: self._distance(real, shown), "structure": self._structure(shown, given)}
        score = math.sqrt(max(criteria[self.kid.name], 0.0) / max(copy, FLOOR))
        score += (criteria["structure"] / max(self._structure(unrelated, given), 1e-6)) ** 4
        if OTHER[to] in self.method.directions():
            back = self.data.centre(self._translate(made[::2], OTHER[to]))  # half of them: it costs as much again
            criteria["cycle"] = float((back - given[::2]).abs().mean())
            score += (criteria["cycle"] / max(difference(given), 1e-6)) ** 4
        bars = {
            "the outputs are all alike": difference(shown) < ALIKE * difference(there),
            "the output is the input, nearly unchanged": shown.shape == given.shape
            and float((shown - given).abs().mean()) < UNCHANGED * self.span,
            "no nearer to the target domain than the input": FLOOR < copy < criteria[self.kid.name] / NEARER,
        }
        return score, criteria, [why for why, barred in bars.items() if barred]

    def _structure(self, output: Tensor, source: Tensor) -> float:
        """1 - squared local correlation, at half the resolution where the images are large enough."""
        from gantk.losses.structure import local_ncc_and_flat_region

        output, source = (images.to(self.runtime.device) for images in (output, source))
        if min(source.shape[2:]) >= 2 * WINDOW:
            halved = F.avg_pool3d if self.model.data.dims == 3 else F.avg_pool2d
            output, source = halved(output, 2), halved(source, 2)
        options = {"threshold": THRESHOLD, "data_range": self.span, "black": self.low}
        window = max(2, min(WINDOW, *source.shape[2:]))
        return float(local_ncc_and_flat_region(output, source, window=window, **options)[0])

    @cached_property
    def images(self) -> dict[str, tuple[Tensor, ImageGroup]]:
        """By the domain that comes out: what is translated, and real images of that domain, of other patients."""
        return {to: self._apart(to) for to in self.method.directions()}

    def _apart(self, to: str) -> tuple[Tensor, ImageGroup]:
        held_out, real = self._records(OTHER[to], "validation"), self._records(to, "train")
        own = held_out if len(held_out) >= FEWEST else self._records(OTHER[to], "train")
        sources = spread(own, self.count)
        others = without(real, sources)
        if len(others) < min(FEWEST, len(real)):  # every patient gives both domains: half of them give the sources
            units = sorted({_unit(record) for record in own})
            first = set(units[: -(-len(units) // 2)])
            sources = spread([record for record in own if _unit(record) in first], self.count)
            others = without(real, sources)
        return self._stacked(sources), self._reals(others if len(others) >= 2 else real)


class OnPairs(Criterion):
    """Methods that learn from pairs, by the PSNR of their validation pairs."""

    rule, higher = "psnr on validation pairs", True

    def __call__(self) -> dict[str, Any]:
        pairs, entry = spread(self.data.pairs("validation"), self.count), {}
        images = {letter: self._stacked([pair[letter] for pair in pairs]) for letter in "ab"}
        for to in self.method.directions():
            made = self.data.centre(self._translate(images[OTHER[to]], to))
            values = PSNR(self.span, self.model.data.dims)(made, self.data.centre(images[to]))
            entry[f"{OTHER[to]}_to_{to}"] = {"psnr": round(float(values.double().mean()), 6)}
        return entry | {"score": mean([row["psnr"] for row in entry.values()])}


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
        value = round(self._distance(self.real, fake), 6)
        alike = difference(fake) < ALIKE * difference(self.real.images)
        bars = {"barred": "image: the outputs are all alike"} if alike else {}
        return {"image": {self.kid.name: value}, "score": value} | bars

    @cached_property
    def real(self) -> ImageGroup:
        """Held-out images, training images where those are too few."""
        letter = self.method.reads[0]
        held_out = self._records(letter, "validation")
        return self._reals(held_out if len(held_out) >= 2 * FEWEST else self._records(letter, "train"))


def mean(scores: Sequence[float]) -> float | None:
    """None where one is no number."""
    return round(sum(scores) / len(scores), 6) if all(map(math.isfinite, scores)) else None


def _unit(record: Record) -> str:
    """Who or what a record shows: two of one unit may show the same anatomy."""
    return record.subject or record.pair or f"{record.domain}/{record.key}"


def without(records: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """The records that share neither patient nor pair with the others."""
    taken = {_unit(record) for record in others}
    pairs = {record.pair for record in others} - {None}
    return [record for record in records if _unit(record) not in taken and record.pair not in pairs]
