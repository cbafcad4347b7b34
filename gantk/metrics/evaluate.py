"""Computes the recipe's metrics on held-out images, for the model and for baselines, with intervals
and verdicts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import torch
from torch import Tensor

from gantk.data.dataset import Data
from gantk.data.preparation import Pair, Record
from gantk.data.spread import spread, spread_over_owners
from gantk.errors import UserError
from gantk.inference.windows import AnySize, network_of_method
from gantk.machine.runtime import Runtime
from gantk.method import OTHER, Method, direction_to
from gantk.metrics.baselines import MAX_BASELINE_IMAGES, HistogramMatching, IntensityMap, identity
from gantk.metrics.intervals import count_patients
from gantk.metrics.judging import set_verdict
from gantk.metrics.names import CEILING, title_of
from gantk.metrics.pair_scores import (
    PairScorer,
    References,
    alarm_of_regions,
    score_pairs,
)
from gantk.metrics.pairs import Metric, PairMetric
from gantk.metrics.references import (
    MAX_SET_BYTES,
    MAX_SET_IMAGES,
    RealImages,
    number_that_fits,
)
from gantk.metrics.samples import alarm_of_contrast
from gantk.metrics.sets import ImageGroup, SetMetric, halves, select_images
from gantk.metrics.sets import set_scores as set_scores_of
from gantk.metrics.values import value_distributions
from gantk.plugin.loader import registry
from gantk.plugin.spec import bind
from gantk.progress import Work
from gantk.recipe.tables import CheckedRecipe
from gantk.runs.results import (
    Distributions,
    Results,
    ScoresByMetric,
    SplitSummary,
)
from gantk.runs.trained import Examples, Posts

if TYPE_CHECKING:
    from gantk.inference.notes import Checks
    from gantk.metrics.written import Written, WrittenTranslations

    Translators = Callable[[], dict[str, WrittenTranslations]]

SAMPLE_PASS = 16  # images from noise per call; each call has its seed, so scores depend on this
SAMPLE_SEED = 1000  # of the first call, other than those of the samples shown
# the metrics that a recipe has by default
OF_TRANSLATIONS = ("psnr", "ssim", "mae")
OF_SAMPLES = ("kid",)
TRIED_PAIRS = 2  # test images that metrics are tried on
UNPAIRED_IMAGES = {2: 6, 3: 2}  # by dims: those shown of a direction without test pairs
START = "start"  # the baseline of a training that started from another model


@dataclass(frozen=True)
class Tested:
    """One direction's test images with their scores; item i of each tensor belongs to pair i. Without
    test pairs the inputs, with neither truth nor scores.
    """

    data: Data
    pairs: list[Pair]  # or inputs alone
    to: str  # the domain that was made
    inputs: Tensor  # (N, C, *size) in network intensities, as `made`
    made: Tensor
    references: References | None
    lines: pd.DataFrame  # the scores of the model and of the baselines, see `gantk.metrics.table`


def unpaired_places(sources: Sequence[Record], dims: int) -> list[int]:
    """Which images without truth are shown, chosen without scores."""
    owners = [source.subject or source.key for source in sources]
    return spread_over_owners(range(len(sources)), owners, UNPAIRED_IMAGES[dims]) if owners else []


def default_metrics(method: Method) -> list[Any]:
    """The metrics of a recipe that names none."""
    of_translations = [*OF_TRANSLATIONS] if method.directions() else []
    return of_translations + ([*OF_SAMPLES] if method.samples else [])


class Scorer:
    """Scores a method on a recipe's held-out images, in network intensities.

    Raises a UserError at construction if a metric does not suit the method or the data.
    """

    def __init__(self, model: CheckedRecipe, data: Data, method: Method, runtime: Runtime):
        self.model = model
        self.data = data
        self.method = method
        self.runtime = runtime
        self.low, high = data.range
        self.span = high - self.low
        self.dims = model.data.dims
        self.batch = model.translate.batch
        self.letter = method.reads[0]  # the domain of images from noise
        # number of classes, generated in turn
        self.classes = len(method.geometry.classes) if method.conditional else 0
        self.reals = RealImages(data, runtime.device)
        built = [metric for metric in self._build_metrics() if self._applies(metric)]
        self.set_metrics = [metric for metric in built if isinstance(metric, SetMetric)]
        of_pairs = cast(list[PairMetric], [each for each in built if each not in self.set_metrics])
        self.pair_scorer = partial(
            PairScorer,
            low=self.low,
            data_range=self.span,
            dims=self.dims,
            batch=self.batch,
            device=runtime.device,
        )
        self.pairs = self.pair_scorer(of_pairs, regions=model.evaluate.regions)
        self.posts = Posts(model, data.range)
        self.tested: dict[str, Tested] = {}  # by direction, the pairs scored by `test`
        self.unpaired: dict[str, Tested] = {}  # of the other directions, what was translated
        self.checks: Checks = {}  # of the files among the inputs
        # returns the method with the weights that the training started from, None if there are none
        self.start: Callable[[], Method | None] = lambda: None
        self._network = cache(self._network_of)
        # that are trained; bound here, so that one that does not fit is an error before the training
        options = {"steps": model.evaluate.regression, "seed": model.train.seed}
        names = registry()["baseline"] if options["steps"] else ()
        self.trained_baselines = [bind("baseline", {"name": name, **options}) for name in names]
        # by name and target domain, what they have become
        self.trained: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {}

    def _build_metrics(self) -> list[Metric]:
        """The recipe's metrics, or the default ones; UserError where two have one name."""
        parts = self.model.evaluate.metrics
        if parts is None:
            parts = [bind("metric", each) for each in default_metrics(self.method)]

        built = [part(self.span, self.dims) for part in parts]
        for name, count in Counter(metric.name for metric in built).items():
            if count > 1:
                raise UserError(
                    f"two metrics have the name '{name}'",
                    where="evaluate.metrics",
                    remedy="leave one of them out",
                )

        return built

    def test(self) -> Results:
        """Score all metrics and baselines on the test split; returns the results.

        All ranks run networks on their share of the images. Rank 0 computes the scores, which do
        not depend on the number of ranks; other ranks return results without scores. Fills
        `self.tested` for those who draw images.
        """
        split = SplitSummary(
            by=self.data.splits.by,
            consequences=[*self.data.consequences()],
            unknown_patients=any(not record.subject for record in self.data.splits.get("test", ())),
        )
        results = Results(metrics={}, baselines={}, verdict={}, split=split)
        if self.trained_baselines:
            results.baseline_steps = self.model.evaluate.regression
        translators = cache(self._translators)
        for to in self.method.directions():
            with Work(f"scoring {title_of(direction_to(to), self.model.data.domains)}"):
                self._test_direction(results, to, translators)

        if self.method.samples and self.set_metrics:
            with Work("scoring images from noise"):
                self._test_samples(results)

        return results

    def _test_direction(self, results: Results, to: str, translators: Translators) -> None:
        """Score the images of one direction: what `gantk translate` writes for the sources, without and
        with the recipe's post-steps, beside the baselines. Adds them to the results and to
        `self.tested`.
        """
        key = direction_to(to)
        pairs = self.data.pairs("test")
        sources = [pair[OTHER[to]] for pair in pairs] or self.reals.records("test", OTHER[to])
        if not pairs and not (sources and self.set_metrics):
            self._translate_some(sources, to, translators)
            return

        written = self._write_translations(results, sources, to, translators)
        if not written:  # not rank 0
            return

        shown = self.data.centre(self.reals.network_inputs(sources))
        baselines = self._baseline_images(to, shown, written.pop(START, None))
        made = {key + system: own.images for system, own in written.items()}
        results.metrics |= {name: {} for name in made}
        if pairs and self.pairs.metrics:
            references = self.reals.references(pairs, to, shown)
            real = references.images
            # no file has the padding: no error counts there
            padding = written[""].padding
            made = {name: torch.where(padding, real, own) for name, own in made.items()}
            baselines = {name: torch.where(padding, real, own) for name, own in baselines.items()}
            lines = score_pairs(results, key, self.pairs, made, baselines, references)
            self.tested[key] = Tested(self.data, pairs, to, shown, made[key], references, lines)
            alarms = alarm_of_regions(references), alarm_of_contrast(made[key], real)
            if said := ". ".join(filter(None, alarms)):
                results.alarms[key] = said
        else:
            real = self.reals.test_images(to)
        if not pairs:
            self._keep_unpaired(to, sources, shown, made[key])
        results.values[key] = self._value_distributions(key, real, made)
        if self.set_metrics:
            group = self.reals.group(shown, sources)
            about = replace(group, inputs=group.images, to=to)
            self._score_sets(results, key, to, made, baselines, about)

    def _baseline_images(
        self, to: str, sources: Tensor, start: Written | None
    ) -> dict[str, Tensor]:
        """What the baselines make of sources, by name, and what the model made from which the training
        started, unless it is broken.
        """
        with Work("baselines"):
            found = {name: make(sources) for name, make in self.baselines(to)}
        if start and start.images.isfinite().flatten(1).all(1).any():
            found[START] = start.images
        return found

    def _translate_some(self, sources: Sequence[Record], to: str, translators: Translators) -> None:
        """Translate the images that are shown, where none are scored."""
        chosen = [sources[n] for n in unpaired_places(sources, self.dims)]
        written = translators()[""](chosen, to) if chosen else None
        if written:  # rank 0
            self._keep_unpaired(to, chosen, self.reals.scored_images(chosen), written.images)

    def _keep_unpaired(
        self, to: str, sources: Sequence[Record], inputs: Tensor, made: Tensor
    ) -> None:
        """Add images without truth to `self.unpaired`."""
        records = [{OTHER[to]: source} for source in sources]
        self.unpaired[direction_to(to)] = Tested(
            self.data, records, to, inputs, made, None, pd.DataFrame()
        )

    def _write_translations(
        self,
        results: Results,
        sources: Sequence[Record],
        to: str,
        translators: Translators,
    ) -> dict[str, Written]:
        """What each of the translators makes of the sources; {} on ranks other than 0. Adds what the
        post-steps measured to results.
        """
        key = direction_to(to)
        written = {}
        for system, translate in translators().items():
            own = translate(sources, to)
            if own is None:
                continue
            written[system] = own
            if losses := translate.translator.post_records():
                results.post[key] = losses
        self.checks |= translators()[""].checks
        return written

    def _translators(self) -> dict[str, WrittenTranslations]:
        """What translates and writes, by the suffix of its direction: the model without and with the
        recipe's post-steps; and under `start` the model that the training started from.
        """
        # a training without test images needs no files
        from gantk.metrics.written import WrittenTranslations

        make = partial(WrittenTranslations, self.model, self.data, runtime=self.runtime)
        found = {"": make(method=self.method, posts=False)}
        if self.posts.steps:
            found["_post"] = make(method=self.method, posts=True)
        start = self.start()
        if start is not None:
            found[START] = make(method=start, posts=False)
        return found

    def _test_samples(self, results: Results) -> None:
        count = self.model.evaluate.images
        passes = self.runtime.share(
            range(0, count, SAMPLE_PASS),
            lambda first: self.sample_pass(first, count),
            "generating",
            f"{SAMPLE_PASS} images",
        )
        if passes is None:  # not rank 0
            return

        classes = []
        if self.classes:
            classes = [self.method.geometry.classes[i % self.classes] for i in range(count)]

        made = {"image": self.data.centre(torch.cat(list(passes)))}
        if self.posts.steps:
            device = self.runtime.device
            reach = self.data.table.neighbours
            examples = Examples(lambda: self.data, self.letter, device, classes, reach)
            made["image_post"] = self.posts(made["image"].to(device), examples).cpu()
            losses = self.posts.records()
            if losses:
                results.post["image"] = losses

        noise = {"noise": self.reals.noise(self.letter, count)}
        about = self.generated_group(made["image"])
        self._score_sets(results, "image", self.letter, made, noise, about)
        real = self.reals.test_images(self.letter)
        results.values["image"] = self._value_distributions("image", real, made)

    def _value_distributions(
        self, key: str, real: Tensor, made: Mapping[str, Tensor]
    ) -> Distributions:
        """How the intensities of real test images and of generated ones are distributed."""
        names = {key: "generated", f"{key}_post": "generated_post"}
        sets = {"real": real} | {names[name]: images for name, images in made.items()}
        return value_distributions(sets, self.low, self.span)

    def _score_sets(
        self,
        results: Results,
        key: str,
        letter: str,
        made: Mapping[str, Tensor],
        baselines: Mapping[str, Tensor],
        about: ImageGroup,
    ) -> None:
        """Score images (`made`, `baselines`, by name) as sets; adds scores and verdicts to results.

        `about`: patients, classes and masks of the images. `real_split` is a perfect generator's
        score: other real images, scored as if generated.
        """
        groups = {
            name: replace(about, images=self.reals.group(each).images, found={})
            for name, each in {**made, **baselines}.items()
        }
        train, test, note = self.reals.sets(letter, tuple(about.images.shape[2:]))
        real = halves(train)[1]
        real = select_images(real, torch.arange(len(real)) < len(about))
        count = count_patients(about.patients)
        patients = {"n": count or 1, "patients_unknown": count is None or None}
        scores: dict[str, ScoresByMetric] = defaultdict(dict)
        for metric in self.set_metrics:
            with Work(metric.name):
                for name, group in groups.items():
                    if name in made or metric.baselines:
                        found = set_scores_of(metric, train, test, group, note)
                        for place, score in found.items():
                            system, _, row = place.rpartition("/")
                            scores[system or name][row] = score.model_copy(update=patients)
                if metric.baselines and train is not test:
                    as_if_made = f"{note}/training-images-as-if-made"
                    scores[CEILING] |= set_scores_of(metric, train, test, real, as_if_made)

        subjects = [record.subject for record in self.reals.records("test", letter)]
        rivals = {name: scores[name] for name in baselines}
        for name, own in scores.items():
            if name not in made:
                results.baselines.setdefault(name, {}).setdefault(key, {}).update(own)
                continue
            results.metrics.setdefault(name, {}).update(own)
            verdicts = set_verdict(own, rivals, count_patients(subjects) or 0)
            results.verdict.setdefault(name, {}).update(verdicts)

    def baselines(self, to: str) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
        """Yield (name, baseline) for domain `to`; those that learn from pairs only if there are
        training pairs.

        A baseline maps sources (N, C, *size), as they are scored, to images of the target domain.
        """
        pool = self.reals.scored_images(
            spread(self.reals.records("train", to), MAX_BASELINE_IMAGES)
        )
        yield "identity", lambda sources: identity(sources, pool.shape[1])
        yield "histogram", HistogramMatching(pool)
        pairs = self.data.pairs("train")

        def images_of_pairs(count: int) -> Iterator[tuple[Tensor, Tensor]]:
            for pair in spread(pairs, count):
                yield (
                    self.reals.scored_images([pair[OTHER[to]]])[0],
                    self.reals.scored_images([pair[to]])[0],
                )

        if pairs:
            yield "intensity_map", IntensityMap(images_of_pairs(MAX_BASELINE_IMAGES))

        count = number_that_fits(MAX_SET_IMAGES, MAX_SET_BYTES // 2, self.model.data.size)
        for train_baseline in self.trained_baselines if pairs else ():
            name = train_baseline.name
            training = images_of_pairs(count)
            made = train_baseline(training, self.dims, *self.data.range, self.runtime)
            self.trained[name, to] = made
            yield name, made

    def translate(self, images: Tensor, to: str, records: Sequence[Record] = ()) -> Tensor:
        """Translate network inputs (N, C, *size), of any size, to domain `to`; returns them on the
        CPU.

        `records`: of the images, whose classes a conditional method needs.
        """
        if not self.classes:
            return self._network(to)(images.cpu())
        made = [
            self._network(to, record.label)(image[None].cpu())
            for record, image in zip(records, images, strict=True)
        ]
        return torch.cat(made)

    def translate_contrast(self, images: Tensor, to: str, contrast: str) -> Tensor:
        """Translate network inputs (N, C, *size) to one contrast of domain `to`, for a method that
        makes contrasts one by one; the other channels are black.
        """
        return self._network(to, contrast=contrast)(images.cpu())

    def _network_of(
        self, to: str, label: str | None = None, contrast: str | None = None
    ) -> AnySize:
        """The network of any size that makes images of domain `to`, of one class or one contrast."""
        method = self.method
        if label is not None:
            method = method.of_class(method.geometry.classes.index(label))
        if contrast is not None:
            method = method.of_contrasts([contrast])
        translate = partial(method.translate, to=to)
        return network_of_method(translate, method, to, self.model, self.runtime)

    def try_metrics(self, *, of_sets: bool) -> None:
        """Score a few real images by each metric, so that a broken one is an error before the
        training; `of_sets`: by those of sets too, some of which take minutes.
        """
        pairs = self.data.pairs("test")[:TRIED_PAIRS]
        for to in self.method.directions() or [self.letter]:
            if pairs and self.pairs.metrics:
                sources = self.reals.scored_images([pair[OTHER[to]] for pair in pairs])
                references = self.reals.references(pairs, to, sources)
                self.pairs(references.images.flip(-1), references)
            for metric in self.set_metrics if of_sets else ():
                few = self.reals.curve_set("train", to)
                set_scores_of(metric, few, few, replace(few, inputs=few.images, to=to))

    def sample_pass(self, first: int, count: int) -> Tensor:
        """Generate images from number `first` on, of `count` from noise; independent of the batch
        size.
        """
        number = min(SAMPLE_PASS, count - first)
        labels = None
        if self.classes:
            order = torch.arange(first, first + number, device=self.runtime.device)
            labels = order % self.classes

        with torch.no_grad(), self.runtime.autocast():
            images = self.method.sample(number, SAMPLE_SEED + first // SAMPLE_PASS, labels)

        return images.float().cpu()

    def generated_group(self, images: Tensor) -> ImageGroup:
        """Images from noise as a set, with their classes, which are in turn."""
        labels = torch.arange(len(images)) % self.classes if self.classes else None
        return self.reals.group(images, labels=labels)

    def _applies(self, metric: Metric) -> bool:
        """Whether a metric says that it scores such data; UserError where it does not suit them, or
        this method.
        """
        if isinstance(metric, PairMetric):
            if not self.method.directions():
                raise UserError(
                    f"the metric '{metric.name}' compares an output with its truth, but images from"
                    " noise have no truth",
                    where="evaluate.metrics",
                    remedy="use a metric of sets, such as kid, fid or prdc, or leave the metric out",
                )
            if self.data.pairs("test"):
                metric.expect_size(self.model.data.size)

        return metric.expect_data(self) is not False  # others may return nothing
