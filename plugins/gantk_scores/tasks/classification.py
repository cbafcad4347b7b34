"""A metric by classifiers: trained on generated images and tested on real patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial, reduce
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError, count_noun
from gantk.metrics.evaluate import Scorer
from gantk.metrics.intervals import left_out_interval, or_blocks
from gantk.metrics.sets import (
    IMAGES_PER_PASS,
    ImageGroup,
    SetMetric,
    halves,
    pictures_of,
    select_images,
)
from gantk.plugin.spec import Count, Seed
from gantk.progress import track
from gantk.runs.results import Score
from gantk_scores.tasks.small_networks import mirror_randomly, train_network

BATCH = 16  # images per training step
TOO_FEW = "too few patients to train on some and test on others"
FEATURES = 256  # of a picture: the mean and the maximum of each of the last filters
LEARNING_RATE = 3e-3  # of AdamW, with cosine decay to 0
LearntSide = Annotated[int, Field(ge=16, le=1024)]


@dataclass(eq=False)
class Judge(SetMetric):
    """A metric of sets that trains classifiers: four convolutions with a linear head.

    All classes are sampled equally often in training; a volume is represented by its three middle
    slices, as channels.
    """

    data_range: float
    dims: int
    _: KW_ONLY
    steps: Count = 200  # steps of 16 images for each classifier; a step takes 0.05 s on a core
    side: LearntSide = 64  # side in pixels to which images are resized
    seed: Seed = 0  # seed of the classifier's weights and of the order of its batches

    name = ""
    unit = ""
    higher_is_better = True
    classifiers = 1  # how many are trained, each with a seed of its own

    def answers(self, images: Tensor, labels: Tensor, classes: int, asked: Tensor) -> np.ndarray:
        """Train classifiers on images (N, C, *size), labels (N,); returns the labels that each gives
        to `asked`, (classifiers, N).
        """
        pictures = self._pictures(images)
        views = self._pictures(asked).split(IMAGES_PER_PASS)
        labels = labels.to(pictures.device)
        counts = torch.bincount(labels, minlength=classes).clamp_min(1).float()
        rarity = (1 / counts).cpu()[labels.cpu()]

        def make() -> nn.Module:
            network = nn.Sequential(SmallConv(pictures.shape[1]), nn.Linear(FEATURES, classes))
            # channels last is faster on CPUs
            return network.to(pictures.device, memory_format=torch.channels_last)

        def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
            picked = torch.multinomial(rarity, BATCH, replacement=True, generator=generator)
            varied = vary_pictures(pictures[picked], generator)
            varied = varied.contiguous(memory_format=torch.channels_last)
            return F.cross_entropy(network(varied), labels[picked])

        optimizer = partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.01)
        found = []
        with torch.autocast(pictures.device.type, enabled=False), torch.no_grad():
            seeds = range(self.seed, self.seed + self.classifiers)
            for seed in track(seeds, "", "network"):
                network = train_network(make, loss, self.steps, seed, optimizer)
                found.append(torch.cat([network(view).argmax(1) for view in views]))

        return torch.stack(found).cpu().numpy()

    def _pictures(self, images: Tensor) -> Tensor:
        """Resize and scale images to (N, channels, side, side), about -1 to 1."""
        size = (self.side, self.side)
        resize = partial(F.interpolate, size=size, mode="bilinear", antialias=True)
        resized = []
        for part in images.split(IMAGES_PER_PASS):
            views = pictures_of(2 * part.float() / self.data_range - 1, images.shape[1])
            resized.append(torch.cat([*map(resize, views)], 1))

        return torch.cat(resized)

    @property
    def definition(self) -> str:
        return f"{self.name}/balanced-accuracy/small/{self.side}px/steps={self.steps}x{BATCH}/classifiers={self.classifiers}"


@dataclass(eq=False, kw_only=True)
class Classification(Judge):
    """Usefulness of synthetic images: classifiers are trained on them and tested on held-out real
    patients.

    Classifiers are trained on synthetic images ("classification"), on real training images
    ("classification_real"), and on both ("classification_both"), with the same seeds. Each is tested
    on the held-out real images. The value is the balanced accuracy, the mean recall over classes,
    averaged over the classifiers; the accuracy is in the details. "classification_gain" is the value
    with both minus that with real images. The 95 % intervals leave out groups of patients and
    classifiers, so they include the chance of a training; of unknown patients they leave out
    neighbouring images.
    No classifier is tested on patients that it was trained on: translations of test patients are
    split into halves, and training on one half tests the other. Classes that the generator does not
    produce come from real images.
    """

    # steps of 16 images for each classifier; a step takes 0.03 s on a core
    steps: Count = 300
    # classifiers for each of the three sets, of the seeds from `seed` on; fewer than 6: no interval
    classifiers: Count = 6

    baselines = False
    name = "classification"

    def expect_data(self, scorer: Scorer) -> bool:
        """UserError where classes are not known on both sides of the split, and of images made."""
        method = scorer.method
        letter = (method.directions() or method.reads)[0]
        classes = []
        for split in ("train", "test"):
            labels = (record.label for record in scorer.reals.records(split, letter))
            classes.append({label for label in labels if label is not None})

        made_known = bool(method.directions() or scorer.classes)
        if len(classes[0] & classes[1]) >= 2 and made_known:
            return True

        known = " and ".join(", ".join(sorted(names)) or "none" for names in classes)
        made_of = "one" if made_known else "a mixture"
        raise UserError(
            "the metric 'classification' needs real images of two classes in the training and the"
            f" test set (it finds {known}), and generated images of a known class (it finds"
            f" {made_of})",
            where="evaluate.metrics",
            remedy="use one folder per class and data.labels = true, or leave the metric out",
        )

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
        available = len(train)
        train = without_patients_of(train, test)
        classes = sorted({*train.labels.tolist()} & {*test.labels.tolist()} - {-1})  # -1: unknown
        if len(classes) < 2:
            raise UserError(
                "a classifier needs real images of two classes, both for training and for testing;"
                f" of {count_noun(available, 'training image')} {len(train)} are neither tested nor"
                " of tested patients",
                where="evaluate.metrics",
                remedy="test on images that were not trained on, or leave out the metric 'classification'",
            )

        known = torch.tensor(classes)
        train, test, fake = (
            select_images(group, torch.isin(group.labels.cpu(), known))
            for group in (train, test, fake)
        )
        made, asked = zip(*cross_folds(fake, test), strict=True)  # of each fold
        if not all(map(len, made)):
            raise UserError(TOO_FEW)
        # Real training images of the classes that were not generated are added.
        lacking = [select_images(train, ~torch.isin(train.labels, own.labels)) for own in made]
        added = max(map(len, lacking))
        tested = reduce(concatenate_groups, asked)  # in the order of the folds
        truth = torch.searchsorted(known, tested.labels).numpy()

        def right(learnt: Sequence[ImageGroup], asked: Sequence[ImageGroup]) -> np.ndarray:
            """Which images each classifier recognises, (classifiers, N) of 0 and 1."""
            found = []
            for learn, each in zip(learnt, asked, strict=True):
                labels = torch.searchsorted(known, learn.labels)
                found.append(self.answers(learn.images, labels, len(classes), each.images))
            return np.equal(np.concatenate(found, 1), truth).astype(float)

        sets = (
            ([train], [tested]),
            ([concatenate_groups(train, own) for own in made], asked),
            ([*map(concatenate_groups, made, lacking)], asked),
        )
        with_real, with_both, alone = (right(*each) for each in track(sets, "", "set"))
        count = f"synthetic={len(fake)}"
        real = f"real={len(train)}"
        others = f"+real-of-other-classes={added}" if added else ""
        halved = "/crossed-over-halves-of-the-patients" if len(asked) > 1 else ""
        both = f"{real}+{count}{halved}"
        scores = {}
        for suffix, recognised, how in (
            ("", alone, f"{count}{others}{halved}"),
            ("_real", with_real, real),
            ("_both", with_both, both),
            ("_gain", with_both - with_real, f"{both}/minus-trained-on:{real}"),
        ):
            value, ci95 = mean_recall(recognised, truth, tested.patients)
            details = {"accuracy": Score(value=float(recognised.mean()))}
            scores[self.name + suffix] = Score(
                value=value,
                ci95=ci95,
                n=len(truth),
                definition=f"{self.definition}/trained-on:{how}/tested-on:real={len(test)}",
                details=details,
            )
        said = gain_in_words(*scores.values(), 1 / len(classes))
        scores[f"{self.name}_gain"].details["result"] = said
        return scores


def gain_in_words(alone: Score, real: Score, both: Score, gain: Score, chance: float) -> str:
    """What generated images add to real ones, as a sentence of the result."""
    low, high = gain.ends or (0.0, 0.0)
    shown = "no help is shown"
    if low > 0:
        shown = "they help"
    if high < 0:
        shown = "they harm"
    figures = f"{gain.text()} {gain.interval()}".rstrip()
    return (
        f"classifiers of real images reach a balanced accuracy of {real.text()} if trained on real images,"
        f" {both.text()} if on generated ones too ({figures}: {shown}), {alone.text()} if on generated"
        f" ones alone; guessing gives {chance:.2g}"
    )


def mean_recall(
    right: np.ndarray, truth: np.ndarray, patients: Sequence[str]
) -> tuple[float, list[float] | None]:
    """The mean balanced accuracy of classifiers, and its interval over patients and classifiers.

    `right`: which images each recognises, (classifiers, N) of 0 and 1, or a difference of such.
    """

    def recall(kept: np.ndarray, classifiers: np.ndarray) -> float:
        return balanced_accuracy(right[classifiers][:, kept], truth[kept])

    seeds = [*map(str, range(len(right)))]
    value, ci95 = left_out_interval(recall, or_blocks(patients), seeds)
    return value, ci95 and np.clip(ci95, min(0.0, right.min()), 1.0).tolist()


class SmallConv(nn.Module):
    """Four 3x3 convolutions with batch norm and max pooling: (N, channels, H, W) to (N,
    FEATURES), 0.1 M weights.

    The brightness of small regions must be kept: strided convolutions with group norm, which
    removes an image's brightness, stayed at chance on synthetic FLAIR (balanced accuracy 0.50 after
    150 steps, 0.54 after 600).
    """

    def __init__(self, channels: int):
        super().__init__()
        widths = (channels, 16, 32, 64, FEATURES // 2)
        layers = []
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.MaxPool2d(2),  # before ReLU: the same values, with a quarter of the work
                nn.ReLU(),
            ]

        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x)  # the maximum as well as the mean, because lesions are small
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


def vary_pictures(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Augment: mirror each picture at random and shift all by up to 1/8 of the side, against
    overfitting.
    """
    (pictures,) = mirror_randomly([pictures], generator)
    reach = max(1, pictures.shape[-1] // 8)
    shift = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    return torch.roll(pictures, shift, (2, 3))


def without_patients_of(train: ImageGroup, test: ImageGroup) -> ImageGroup:
    """The images of `train` that neither show patients of `test` nor copy its images."""
    patients = set(test.patients) - {""}
    seen = {image.cpu().numpy().tobytes() for image in test.images}
    keep = [
        patient not in patients and image.cpu().numpy().tobytes() not in seen
        for patient, image in zip(train.patients, train.images, strict=True)
    ]
    return select_images(train, torch.tensor(keep, dtype=torch.bool))


def cross_folds(fake: ImageGroup, test: ImageGroup) -> list[tuple[ImageGroup, ImageGroup]]:
    """Folds (generated images to train on, real images to test on) of different patients; each real
    image once.

    One fold if the two sets share no patient. Else two: each half of the tested patients, with the
    generated images of the others, because a patient's translation has the anatomy of the patient's
    real image.
    """
    if not (set(fake.patients) & set(test.patients)) - {""}:
        return [(without_patients_of(fake, test), test)]
    return [(without_patients_of(fake, part), part) for part in halves(test) if len(part)]


def concatenate_groups(one: ImageGroup, other: ImageGroup) -> ImageGroup:
    """Concatenate two sets."""
    images = torch.cat([one.images, other.images.to(one.images.device)])
    labels = torch.cat([one.labels, other.labels])
    return ImageGroup(images, [*one.patients, *other.patients], labels)


def balanced_accuracy(right: np.ndarray, truth: np.ndarray) -> float:
    """The mean recall over the classes present: the mean over classes of `right` (..., N), 0 or 1."""
    recalls = [right[..., truth == label].mean() for label in np.unique(truth)]
    return float(np.mean(recalls))
