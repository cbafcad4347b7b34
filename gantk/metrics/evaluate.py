"""Evaluation: the recipe's metrics on held-out images, the baselines beside the model, and how sure each number is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gantk.data.dataset import Data
from gantk.data.preparation import Record
from gantk.errors import UserError
from gantk.inference.tiles import whole_images
from gantk.machine.runtime import Runtime
from gantk.method import Method
from gantk.metrics.baselines import HistogramMatching, IntensityMap, Regression, identity
from gantk.metrics.pair_scores import PairScorer, References
from gantk.metrics.references import BYTES, MOST, OTHER, RealImages, fitting, spread
from gantk.metrics.sample_batch import SampleBatch, difference
from gantk.metrics.sets import ImageGroup, Kid, chosen, halves, set_rows
from gantk.metrics.verdict import pair_verdict, set_verdict
from gantk.plugin.spec import bind_or_raise
from gantk.recipe.tables import Model
from gantk.runs.trained import Posts

VALIDATION = 16  # pairs that are scored while training
VALIDATED = ("psnr", "ssim")  # by these
SAMPLED = 64  # images from noise that are scored while training
SAMPLE_PASS = 16  # images from noise per call; part of what a score means, as a seed belongs to a call
SAMPLE_SEED = 1000  # of the first call, apart from those of the samples that are shown
BASELINE_IMAGES = 64  # training images that histograms and intensity maps are taken of
OF_TRANSLATIONS, OF_SAMPLES = ("psnr", "ssim", "mae"), ("kid",)  # the metrics that a recipe has by default


class Scorer:
    """Scores a method on a recipe's held-out images, in network intensities.

    UserError, before anything is trained, where a metric cannot judge this method or these data.
    """

    def __init__(self, model: Model, data: Data, method: Method, runtime: Runtime):
        self.model, self.data, self.method, self.runtime = model, data, method, runtime
        low, high = data.range
        self.span, self.batch = high - low, model.translate.batch
        self.letter = method.reads[0]  # the domain that images from noise are of
        self.reals = RealImages(data, self._shown, runtime.device)
        pair_metrics, self.set_metrics = chosen_metrics(model, self.reals, method, self.span)
        regions = model.evaluate.regions
        self.pairs = PairScorer(pair_metrics, low, self.span, model.data.dims, self.batch, runtime.device, regions)
        for metric in pair_metrics if data.pairs("test") else ():
            getattr(metric, "expect_size", lambda size: None)(model.data.size)
        self.posts = Posts(model, (low, high))
        self._networks: dict[str, Callable[[Tensor], Tensor]] = {}  # by the domain that comes out
        if model.evaluate.uncertainty != "none":
            from gantk.inference.uncertainty import Uncertain

            Uncertain(model.evaluate.uncertainty).check(method, model.train.keep)

    def sample_batch(self) -> SampleBatch:
        """The images to draw while training: validation pairs, else test pairs, else held-out or training images."""
        count, directions = self.model.evaluate.samples, self.method.directions()
        batch = SampleBatch()
        pairs = self.data.pairs("validation") or self.data.pairs("test")
        for to in directions:
            key = f"{OTHER[to]}_to_{to}"
            sources = [pair[OTHER[to]] for pair in pairs] if pairs else self.data.unpaired(OTHER[to])
            batch.seen[key] = self._stacked(spread(sources, count))
            batch.inputs[key] = self.data.centre(batch.seen[key])
            if pairs:
                batch.truths[key] = self.data.centre(self._stacked([pair[to] for pair in spread(pairs, count)]))
            batch.differences[key] = difference((batch.truths if pairs else batch.inputs)[key])
        if self.method.samples and not directions:
            batch.noise = count
            real = spread(self.reals.records("train", self.letter), 4 * SAMPLE_PASS)
            batch.differences["image"] = difference(self.data.centre(self._stacked(real)))
        return batch

    def outputs(self, batch: SampleBatch) -> dict[str, Tensor]:
        """What the method makes of them now, before any post-step."""
        if batch.noise:
            return {"image": self.data.centre(self.method.sample(batch.noise, seed=0).float().cpu())}
        return {key: self.data.centre(self._translate(images, key[-1])) for key, images in batch.seen.items()}

    def validate(self) -> dict[str, dict[str, float]]:
        """While training, by direction: PSNR and SSIM on validation pairs; for images from noise KID, cheaply."""
        found: dict[str, dict[str, float]] = {}
        for to, (sources, references) in self._validation.items():
            made = self.data.centre(self._translate(sources, to))
            means = self.pairs.means(made, references, VALIDATED)
            found[f"{OTHER[to]}_to_{to}"] = {name: round(v, 4) for name, v in means.items() if v is not None}
        if self.method.samples and not self.method.directions() and self.set_metrics:
            kid, (train, real) = Kid(self.span, self.model.data.dims), self.reals.for_curves(self.letter)
            count = min(SAMPLED, self.model.evaluate.images)
            images = torch.cat([self._sample_pass(first, count) for first in range(0, count, SAMPLE_PASS)])
            found["image"] = {kid.name: round(kid(train, real, self._sampled(images)).value, 4)}
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

    def _test_direction(self, result: dict[str, Any], to: str, others: Sequence[Mapping[str, Tensor]]) -> None:
        key, pairs = f"{OTHER[to]}_to_{to}", self.data.pairs("test")
        sources = [pair[OTHER[to]] for pair in pairs]
        sources = sources or (self.reals.records("test", OTHER[to]) if self.set_metrics else [])
        output = self._translate_shared(inputs := self._stacked(sources), to) if sources else None
        if output is None:
            return
        made, shown = {key: self.data.centre(output)}, self.data.centre(inputs)
        if self.posts:
            made[f"{key}_post"] = self.data.centre(self._finished(output, to))
        baselines = {name: make(shown) for name, make in self.baselines(to)}
        self._begin(result, key, made, baselines)
        if pairs and self.pairs.metrics:
            references = self.reals.references(pairs, to, shown)
            beside = {name: self.pairs(images, references) for name, images in baselines.items()}
            for name, scores in beside.items():
                result["baselines"][name][key] |= self.pairs.rows(scores)
            senses = {name: metric.higher_is_better for name, (metric, _) in self.pairs.rows_of.items()}
            for direction, images in made.items():
                scores = self.pairs(images, references)
                result["metrics"][direction] |= self.pairs.rows(scores)
                result["verdict"][direction] |= pair_verdict(scores, beside, senses)
            if self.model.evaluate.uncertainty != "none":
                result.setdefault("uncertainty", {})[key] = self._uncertainty(inputs, references, to, others)
        if self.set_metrics:
            masks = self.reals.masks_of(sources) if self.reals.masks else None
            about = [record.subject for record in sources], self.reals.labels_of(sources), masks
            groups = {name: self.reals.group(images, *about) for name, images in (made | baselines).items()}
            self._score_sets(result, groups, to, key, list(made))

    @staticmethod
    def _begin(result: dict[str, Any], key: str, made: Iterable[str], baselines: Iterable[str]) -> None:
        for part in (result["metrics"], result["verdict"]):
            part |= {direction: {} for direction in made}
        for name in baselines:
            result["baselines"].setdefault(name, {})[key] = {}

    def baselines(self, to: str) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """(name, baseline) for images of domain `to`; those that learn from pairs only where training pairs are known.

        A baseline takes sources (N, C, *size), as they are scored, to images of the target domain.
        """
        pool = [self._shown(record) for record in spread(self.reals.records("train", to), BASELINE_IMAGES)]
        yield "identity", lambda sources: identity(sources, len(pool[0]))
        yield "histogram", HistogramMatching(pool)
        pairs, table = self.data.pairs("train"), self.model
        if not pairs:
            return
        shown = lambda count: ((self._shown(p[OTHER[to]]), self._shown(p[to])) for p in spread(pairs, count))  # noqa: E731
        yield "intensity_map", IntensityMap(shown(BASELINE_IMAGES))
        if table.evaluate.regression:
            low, high = self.data.range
            options = {"dims": table.data.dims, "steps": table.evaluate.regression, "seed": table.train.seed}
            images = shown(fitting(MOST, BYTES // 2, table.data.size))
            yield "regression", Regression(images, low=low, high=high, runtime=self.runtime, **options)

    def _uncertainty(self, inputs: Tensor, references: References, to: str, others) -> dict[str, Any]:
        """How well the uncertainty of translations predicts their errors."""
        from gantk.inference.uncertainty import Uncertain
        from gantk.metrics.uncertainty import judge_uncertainty

        maker = Uncertain(self.model.evaluate.uncertainty)
        network = maker.network(self.method, to, others)
        maps = whole_images(network, self.method, self.model, self.runtime)(inputs)
        made, spread = (self.data.centre(each) for each in maps.chunk(2, dim=1))
        errors = (made - references.images).abs()
        kind = maker.chosen(self.method)
        return {"kind": kind} | judge_uncertainty(errors, spread, references.foreground, references.patients)

    def _translate(self, images: Tensor, to: str) -> Tensor:
        if to not in self._networks:
            network = lambda x: self.method.translate(x, to)  # noqa: E731
            self._networks[to] = whole_images(network, self.method, self.model, self.runtime)
        return self._networks[to](images)

    def _translate_shared(self, images: Tensor, to: str) -> Tensor | None:
        """The same by all ranks, in the passes that one alone would make: to the first one, None to the others."""
        tiled = tuple(images.shape[2:]) != tuple(self.method.geometry.size)  # passes join tiles of several images
        drawing = any(layer.training for layer in self.method.modules())  # dropout in use: what it draws has an order
        if tiled or drawing:
            return self._translate(images, to) if self.runtime.main else None
        made = self.runtime.share(images.split(self.batch), lambda part: self._translate(part, to))
        return None if made is None else torch.cat(made)

    def _test_samples(self, result: dict[str, Any]) -> None:
        count = self.model.evaluate.images
        passes = self.runtime.share(range(0, count, SAMPLE_PASS), lambda first: self._sample_pass(first, count))
        if passes is None:
            return
        images = torch.cat(list(passes))
        groups = {"image": self._sampled(images)}
        if self.posts:
            groups["image_post"] = self._sampled(self._finished(images, self.letter))
        made = list(groups)
        groups["noise"] = self.reals.group(self.reals.noise(self.letter, count), [""] * count, groups["image"].labels)
        self._begin(result, "image", made, ["noise"])
        self._score_sets(result, groups, self.letter, "image", made)

    def _sample_pass(self, first: int, count: int) -> Tensor:
        """The images from number `first` on of `count` from noise, the same whatever the batch."""
        number, labels = min(SAMPLE_PASS, count - first), self._labels(count)
        these = None if labels is None else labels[first : first + number].to(self.runtime.device)
        with torch.no_grad(), self.runtime.autocast():
            images = self.method.sample(number, SAMPLE_SEED + first // SAMPLE_PASS, these)
        return images.float().cpu()

    def _sampled(self, images: Tensor) -> ImageGroup:
        """Images from noise as a set, with their classes."""
        count, labels = len(images), self._labels(len(images))
        labels = self.reals.only_label(self.letter, count) if labels is None else labels
        return self.reals.group(self.data.centre(images), [""] * count, labels)

    def _labels(self, count: int) -> Tensor | None:
        """Classes in turn, where the method makes images of a class."""
        classes = self.method.geometry.classes if self.method.conditional else ()
        return torch.arange(count) % len(classes) if classes else None

    def _score_sets(
        self, result: dict[str, Any], groups: dict[str, ImageGroup], letter: str, key: str, made: list[str]
    ) -> None:
        """Rows and verdicts of sets into the result, and rows of their baselines: all groups that are not `made`.

        Also what a perfect generator would get: real images of other patients, as if they had been made.
        """
        size = tuple(next(iter(groups.values())).images.shape[2:])
        found: dict[str, dict[str, Any]] = {name: {} for name in groups}
        for metric in self.set_metrics:
            train, test, note = self.reals.sets(letter, size, getattr(metric, "needs_classes", False))
            beside = getattr(metric, "baselines", True)
            for name in groups if beside else made:
                found[name] |= set_rows(metric, train, test, groups[name], note)
            if beside and train is not test:
                fake = halves(train)[1]
                fake = chosen(fake, torch.arange(len(fake)) < len(groups[key]))
                rows = result["baselines"].setdefault("real_split", {}).setdefault(key, {})
                rows |= set_rows(metric, train, test, fake, f"{note}/training-images-as-if-made")
        baselines = {name: rows for name, rows in found.items() if name not in made}
        for name, rows in baselines.items():
            result["baselines"][name][key] |= rows
        for direction in made:
            result["metrics"][direction] |= found[direction]
            result["verdict"][direction] |= set_verdict(found[direction], baselines)

    def _finished(self, images: Tensor, letter: str) -> Tensor:
        """What the recipe's post-steps make of outputs."""
        records, device = self.reals.records("train", letter), self.runtime.device

        def examples(n: int) -> Tensor:  # as a file that is translated gets them
            step = max(1, len(records) // n)
            return self._stacked([records[i * step % len(records)] for i in range(n)]).to(device)

        return torch.cat([self.posts(part.to(device), examples).cpu() for part in images.split(self.batch)])

    @cached_property
    def _validation(self) -> dict[str, tuple[Tensor, References]]:
        pairs = spread(self.data.pairs("validation"), VALIDATION)
        return {
            to: (self._stacked([pair[OTHER[to]] for pair in pairs]), self.reals.references(pairs, to))
            for to in (self.method.directions() if pairs else ())
        }

    def _stacked(self, records: Sequence[Record]) -> Tensor:
        """As the networks see them."""
        return torch.stack([self.data.image(record) for record in records])

    def _shown(self, record: Record) -> Tensor:
        """As it is shown and scored: without neighbouring slices."""
        return self.data.centre(self.data.image(record)[None])[0]


def chosen_metrics(model: Model, reals: RealImages, method: Method, data_range: float) -> tuple[list[Any], list[Any]]:
    """(pair metrics, set metrics) of a recipe, built; UserError where one cannot judge this method or these data."""
    parts, directions = model.evaluate.metrics, method.directions()
    if parts is None:
        names = (OF_TRANSLATIONS if directions else ()) + (OF_SAMPLES if method.samples else ())
        parts = [bind_or_raise("metric", name) for name in names]
    built = [part(data_range, model.data.dims) for part in parts]
    of_sets = [metric for metric in built if getattr(metric, "sets", False)]
    of_pairs = [metric for metric in built if metric not in of_sets]
    for metric in [] if directions else of_pairs:
        what = f"the metric '{metric.name}' compares an output with its truth, and images from noise have none"
        raise UserError(what, where="evaluate.metrics", remedy="use metrics of sets, such as kid, fid or prdc")
    for metric in of_sets:
        trouble = _classes_missing(reals, method) if getattr(metric, "needs_classes", False) else None
        if getattr(metric, "needs_masks", False):
            reals.masks, trouble = True, _masks_missing(reals, method)
        if trouble:
            remedy = f"{trouble[1]}, or leave it out"
            raise UserError(f"the metric '{metric.name}' {trouble[0]}", where="evaluate.metrics", remedy=remedy)
    return of_pairs, of_sets


def _classes_missing(reals: RealImages, method: Method) -> tuple[str, str] | None:
    """What is wrong, and its remedy, without two classes to learn and to test, and a known class of a made image."""
    letter = (method.directions() or method.reads)[0]
    train, test = ({record.label for record in reals.labelled(split, letter)} for split in ("train", "test"))
    if len(train & test) < 2:
        found = " and ".join(", ".join(sorted(names)) or "none" for names in (train, test))
        what = f"needs real images of two classes to learn from and to be tested on; known are {found}"
        return what, "put images into one folder for each class, split so that both sides have each"
    if not method.directions() and not method.geometry.classes and reals.only_label(letter, 1) is None:
        what = "must know the class of a made image, and this method was trained on a mixture"
        return what, "train a conditional method with data.labels = true, or on one class alone (data.source.only)"
    return None


def _masks_missing(reals: RealImages, method: Method) -> tuple[str, str] | None:
    """The same without masks of real images to learn and to test, and of what a made image shows."""
    if not method.directions():
        what = "must know where the lesions of a made image are, and an image from noise has no mask"
        return what, "use classification, which says whether such images are of use"
    for letter in method.directions():
        known = [[reals.masked(r) is not None for r in reals.records(split, letter)] for split in ("train", "test")]
        if not all(map(any, known)):
            training, test = (f"{sum(each)} of {len(each)}" for each in known)
            what = "needs real images with lesion masks to learn from and to be tested on, and "
            what += f"{training} training images and {test} test images have one"
            return what, 'name the masks (data.source.mask = "seg"), give the phantom lesions'
    return None
