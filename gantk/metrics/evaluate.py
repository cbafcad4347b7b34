"""Scoring on held-out images: the model, the trivial baselines beside it, and how sure each number is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gantk.data.dataset import Data
from gantk.data.items import Record
from gantk.inference.tiles import whole_images
from gantk.inference.translator import Posts, spread_examples
from gantk.inference.uncertainty import Uncertain, uncertain
from gantk.machine.runtime import Runtime
from gantk.method import Method
from gantk.metrics.choice import chosen_metrics
from gantk.metrics.pair_scores import PairScorer, Truth
from gantk.metrics.reals import RealImages, spread
from gantk.metrics.references import OTHER, Truths
from gantk.metrics.run_baselines import rivals
from gantk.metrics.sample_batch import Held, alarms, difference
from gantk.metrics.scoring import report, set_rows
from gantk.metrics.sets import ImageGroup, Kid, chosen, halves
from gantk.metrics.summary import speed_of, summary_lines
from gantk.metrics.uncertainty import judge
from gantk.metrics.verdicts import pair_verdict, set_verdict
from gantk.recipe.tables import Model

__all__ = ["Held", "Scorer", "alarms", "report", "speed_of", "summary_lines"]

VALIDATION = 16  # pairs that are scored while training
SAMPLED = 64  # images from noise that are scored while training
SAMPLE_PASS = 16  # images from noise per call; part of what a score means, as a seed belongs to a call
SAMPLE_SEED = 1000  # of the first call, apart from those of the samples that are shown
VALIDATED = ("psnr", "ssim")  # what is scored while training


class Scorer:
    """Scores a method on a recipe's held-out images, in network intensities.

    UserError, before anything is trained, where a metric cannot judge this method or these data.
    """

    def __init__(self, model: Model, data: Data, method: Method, runtime: Runtime):
        self.model, self.data, self.method, self.runtime = model, data, method, runtime
        low, high = data.range
        self.low, self.span, self.batch = low, high - low, model.translate.batch
        self.reals = RealImages(data, self._shown, runtime.device)
        self.pair_metrics, self.set_metrics = chosen_metrics(model, self.reals, method, self.span)
        regions = model.evaluate.regions
        self.pairs = PairScorer(self.pair_metrics, low, self.span, model.data.dims, self.batch, runtime.device, regions)
        self.truths = Truths(data, self._shown)
        for metric in self.pair_metrics if data.pairs("test") else ():
            getattr(metric, "expect_size", lambda size: None)(model.data.size)
        self.posts = Posts(model, (low, high))
        if model.evaluate.uncertainty != "none":
            Uncertain(model.evaluate.uncertainty).check(method, model.train.keep)

    def held_out_samples(self) -> Held:
        """The images to draw while training: validation pairs, else test pairs, else held-out or training images."""
        count, directions = self.model.evaluate.samples, self.method.directions()
        held = Held()
        pairs = self.data.pairs("validation") or self.data.pairs("test")
        for to in directions:
            key = f"{OTHER[to]}_to_{to}"
            sources = [pair[OTHER[to]] for pair in pairs] if pairs else self.data.unpaired(OTHER[to])
            held.seen[key] = torch.stack([self._load(record) for record in spread(sources, count)])
            held.inputs[key] = self.data.centre(held.seen[key])
            held.differences[key] = difference(held.inputs[key])
            if pairs:
                held.truths[key] = torch.stack([self._shown(pair[to]) for pair in spread(pairs, count)])
                held.differences[key] = difference(held.truths[key])
        if self.method.samples and not directions:
            held.noise = count
            real = spread(self._records("train", self.letter), 4 * SAMPLE_PASS)
            held.differences["image"] = difference(torch.stack([self._shown(record) for record in real]))
        return held

    def outputs(self, held: Held) -> dict[str, Tensor]:
        """What the method makes of them now, before any post-step."""
        if held.noise:
            return {"image": self.data.centre(self.method.sample(held.noise, seed=0).float().cpu())}
        return {key: self.data.centre(self._translate(images, key[-1])) for key, images in held.seen.items()}

    def validate(self) -> dict[str, dict[str, float]]:
        """While training, by direction: PSNR and SSIM on validation pairs; for images from noise KID, cheaply."""
        found: dict[str, dict[str, float]] = {}
        for to, (sources, truth) in self._validation.items():
            made = self.data.centre(self._translate(sources, to))
            means = self.pairs.means(made, truth, VALIDATED)
            found[f"{OTHER[to]}_to_{to}"] = {name: round(v, 4) for name, v in means.items() if v is not None}
        if self.method.samples and not self.method.directions() and self.set_metrics:
            kid, (train, real) = Kid(self.span, self.model.data.dims), self.reals.for_curves(self.letter)
            score = kid(train, real, self._sampled(min(SAMPLED, self.model.evaluate.images))[0])
            found["image"] = {kid.name: round(score.value, 4)}
        return {key: scores for key, scores in found.items() if scores}

    def test(self, others: Sequence[Mapping[str, Tensor]] = ()) -> dict[str, Any]:
        """All metrics and baselines on the test split, as metrics.json holds them.

        All ranks run networks on their share of the images; the first one scores what they made, as it would alone.
        `others` are the weights of the run's other checkpoints, for an uncertainty of that kind.
        """
        result: dict[str, Any] = {"metrics": {}, "baselines": {}, "verdict": {}}
        for to in self.method.directions():
            self._test_direction(result, to, others)
        if self.method.samples and self.set_metrics:
            self._test_samples(result)
        return result

    @property
    def letter(self) -> str:
        """The domain that images from noise are of."""
        return self.method.reads[0]

    # ---- translations

    def _test_direction(self, result: dict[str, Any], to: str, others: Sequence[Mapping[str, Tensor]]) -> None:
        key, pairs = f"{OTHER[to]}_to_{to}", self.data.pairs("test")
        sources = [pair[OTHER[to]] for pair in pairs] or (self._records("test", OTHER[to]) if self.set_metrics else [])
        if not sources:
            return
        inputs = torch.stack([self._load(record) for record in sources])
        output = self._translate_shared(inputs, to)
        if output is None:
            return
        made = {key: self.data.centre(output)}
        if self.posts:
            made[f"{key}_post"] = self.data.centre(self._finished(output, to))
        shown = self.data.centre(inputs)
        against = {name: make(shown) for name, make in rivals(self.model, self.data, self._shown, to, self.runtime)}
        for part in (result["metrics"], result["verdict"]):
            part |= {direction: {} for direction in made}
        for name in against:
            result["baselines"].setdefault(name, {})[key] = {}
        if pairs and self.pair_metrics:
            truth = self.truths.whole(pairs, to, shown)
            self._judge_pairs(result, key, made, against, truth)
            if self.model.evaluate.uncertainty != "none":
                judged = self._confidence(inputs, truth, to, others)
                result.setdefault("uncertainty", {})[key] = judged
        if self.set_metrics:
            lesions = self.reals.masks_of(sources) if self.reals.masks else None
            about = [record.subject for record in sources], self.reals.labels_of(sources), lesions
            groups = {name: self.reals.group(images, *about) for name, images in (made | against).items()}
            found = self._set_scores(groups, to, key, result)
            for direction in made:
                result["metrics"][direction] |= found[direction]
                beside = {name: found[name] for name in against}
                result["verdict"][direction] |= set_verdict(found[direction], beside)

    def _judge_pairs(
        self, result: dict[str, Any], key: str, made: dict[str, Tensor], against: dict[str, Tensor], truth: Truth
    ) -> None:
        """Rows and verdicts of images by direction, and rows of their rivals, into the result."""
        beside = {name: self.pairs(images, truth) for name, images in against.items()}
        for name, scores in beside.items():
            result["baselines"][name][key] |= self.pairs.rows(scores)
        senses = {name: metric.higher_is_better for name, (metric, _) in self.pairs.rows_of.items()}
        for direction, images in made.items():
            scores = self.pairs(images, truth)
            result["metrics"][direction] |= self.pairs.rows(scores)
            result["verdict"][direction] |= pair_verdict(scores, beside, senses)

    def _confidence(self, inputs: Tensor, truth: Truth, to: str, others) -> dict[str, Any]:
        """How well the uncertainty of translations predicts their errors."""
        maker = Uncertain(self.model.evaluate.uncertainty)
        network = uncertain(self.method, to, maker, others)

        maps = whole_images(network, self.method, self.model, self.runtime)(inputs)
        made, spread = (self.data.centre(each) for each in maps.chunk(2, dim=1))
        kind = maker.chosen(back=len(self.method.directions()) == 2)
        return {"kind": kind} | judge((made - truth.images).abs(), spread, truth.foreground, truth.patients)

    def _translate(self, images: Tensor, to: str) -> Tensor:
        if to not in self._through:
            network = lambda x: self.method.translate(x, to)  # noqa: E731
            self._through[to] = whole_images(network, self.method, self.model, self.runtime)
        return self._through[to](images)

    def _translate_shared(self, images: Tensor, to: str) -> Tensor | None:
        """The same by all ranks, in the passes that one alone would make: to the first one, None to the others."""
        tiled = tuple(images.shape[2:]) != tuple(self.method.geometry.size)  # passes join tiles of several images
        drawing = any(layer.training for layer in self.method.modules())  # dropout in use: what it draws has an order
        if tiled or drawing:
            return self._translate(images, to) if self.runtime.main else None
        made = self.runtime.share(images.split(self.batch), lambda part: self._translate(part, to))
        return None if made is None else torch.cat(made)

    @cached_property
    def _through(self) -> dict[str, Callable[[Tensor], Tensor]]:
        return {}

    # ---- images from noise

    def _test_samples(self, result: dict[str, Any]) -> None:
        count = self.model.evaluate.images
        raw = self.runtime.share(range(0, count, SAMPLE_PASS), lambda first: self._sample_pass(first, count))
        if raw is None:
            return
        fake, finished = self._made(raw, posts=True)
        groups = {"image": fake} | ({"image_post": finished} if finished else {})
        groups["noise"] = self.reals.group(self.reals.noise(self.letter, len(fake)), [""] * len(fake), fake.labels)
        result["baselines"].setdefault("noise", {})["image"] = {}
        found = self._set_scores(groups, self.letter, "image", result)
        for direction in (name for name in groups if name != "noise"):
            result["metrics"][direction] = found[direction]
            result["verdict"][direction] = set_verdict(found[direction], {"noise": found["noise"]})

    def _sample_pass(self, first: int, count: int) -> Tensor:
        """The images from number `first` on of `count` from noise, the same whatever the batch."""
        number = min(SAMPLE_PASS, count - first)
        labels = self._labels(count)
        these = None if labels is None else labels[first : first + number].to(self.runtime.device)
        with torch.no_grad(), self.runtime.autocast():
            images = self.method.sample(number, SAMPLE_SEED + first // SAMPLE_PASS, these)
        return images.float().cpu()

    def _sampled(self, count: int) -> tuple[ImageGroup, ImageGroup | None]:
        """Images from noise, made by this process alone."""
        return self._made([self._sample_pass(first, count) for first in range(0, count, SAMPLE_PASS)])

    def _made(self, passes: Sequence[Tensor], posts: bool = False) -> tuple[ImageGroup, ImageGroup | None]:
        """Images from noise as a set; with `posts` also what the post-steps make of them."""
        raw = torch.cat(list(passes))
        count = len(raw)
        labels = self._labels(count)
        labels = self.reals.only_label(self.letter, count) if labels is None else labels
        group = lambda images: self.reals.group(self.data.centre(images), [""] * count, labels)  # noqa: E731
        finished = group(self._finished(raw, self.letter)) if posts and self.posts else None
        return group(raw), finished

    def _labels(self, count: int) -> Tensor | None:
        """Classes in turn, where the method makes images of a class."""
        classes = self.method.geometry.classes if self.method.conditional else ()
        return torch.arange(count) % len(classes) if classes else None

    # ---- both

    def _set_scores(
        self, groups: dict[str, ImageGroup], letter: str, key: str, result: dict[str, Any]
    ) -> dict[str, dict[str, Any]]:
        """name -> metric -> row. Rivals, and what a perfect generator would get, go into the result's baselines."""
        size = tuple(next(iter(groups.values())).images.shape[2:])
        found: dict[str, dict[str, Any]] = {name: {} for name in groups}
        for metric in self.set_metrics:
            train, test, note = self.reals.sets(letter, size, getattr(metric, "needs_classes", False))
            beside = getattr(metric, "baselines", True)
            for name, fake in groups.items():
                if name.startswith(key) or beside:
                    found[name] |= set_rows(metric, train, test, fake, note)
            if beside and train is not test:  # real images of other patients, as if they had been made
                fake = halves(train)[1]
                fake = chosen(fake, torch.arange(len(fake)) < len(groups[key]))
                rows = result["baselines"].setdefault("real_split", {}).setdefault(key, {})
                rows |= set_rows(metric, train, test, fake, f"{note}/training-images-as-if-made")
        for name, rows in found.items():
            if name in result["baselines"]:
                result["baselines"][name][key] |= rows
        return found

    def _finished(self, images: Tensor, letter: str) -> Tensor:
        """What the recipe's post-steps make of outputs."""
        records = self._records("train", letter)
        examples = spread_examples(_Lazily(records, self._load))
        on_device = lambda n: examples(n).to(self.runtime.device)  # noqa: E731
        parts = [self.posts(part.to(self.runtime.device), on_device).cpu() for part in images.split(self.batch)]
        return torch.cat(parts)

    @cached_property
    def _validation(self) -> dict[str, tuple[Tensor, Truth]]:
        pairs = spread(self.data.pairs("validation"), VALIDATION)
        if not pairs:
            return {}
        inputs = lambda to: torch.stack([self._load(pair[OTHER[to]]) for pair in pairs])  # noqa: E731
        return {to: (inputs(to), self.truths.images(pairs, to)) for to in self.method.directions()}

    def _load(self, record: Record) -> Tensor:
        """As the networks see it."""
        return self.data.image(record)

    def _shown(self, record: Record) -> Tensor:
        """As it is shown and scored: without neighbouring slices."""
        return self.data.centre(self._load(record)[None])[0]

    def _records(self, split: str, letter: str) -> list[Record]:
        return [record for record in self.data.splits[split] if record.domain == letter]


class _Lazily:
    """Prepared images of records, read when they are asked for."""

    def __init__(self, records: list[Record], load: Callable[[Record], Tensor]):
        self.records, self.load = records, load

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Tensor:
        return self.load(self.records[index])
