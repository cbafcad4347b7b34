"""A metric by classifiers: trained on generated images and tested on real patients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.metrics.evaluate import Scorer
from gantk.metrics.intervals import drawn_interval
from gantk.metrics.sets import (
    IMAGES_PER_PASS,
    ImageGroup,
    SetMetric,
    halves,
    middle_slices,
    select_images,
)
from gantk.plugin.spec import Count, Seed
from gantk.runs.results import Score
from gantk_scores.tasks.small_networks import mirror_randomly, train_network

BATCH = 16  # images per training step
TOO_FEW = "too few patients to train on some and test on others"
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

    def answers(self, images: Tensor, labels: Tensor, classes: int, asked: Tensor) -> np.ndarray:
        """Train a classifier on images (N, C, *size), labels (N,); returns probabilities (N,
        classes) of `asked`.
        """
        pictures = self._pictures(images)
        labels = labels.to(pictures.device)
        counts = torch.bincount(labels, minlength=classes).clamp_min(1).float()
        rarity = (1 / counts).cpu()[labels.cpu()]

        def make() -> nn.Module:
            network = self._network(pictures.shape[1], classes).to(pictures.device)
            return network.to(memory_format=torch.channels_last)  # faster on CPUs

        def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
            picked = torch.multinomial(rarity, BATCH, replacement=True, generator=generator)
            varied = vary_pictures(pictures[picked], generator)
            varied = varied.contiguous(memory_format=torch.channels_last)
            return F.cross_entropy(network(varied), labels[picked])

        optimizer = partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.01)
        parts = []
        with torch.autocast(pictures.device.type, enabled=False):
            network = train_network(make, loss, self.steps, self.seed, optimizer)
            with torch.no_grad():
                for part in self._pictures(asked).split(IMAGES_PER_PASS):
                    parts.append(network(part).softmax(1))

        return torch.cat(parts).double().cpu().numpy()

    def _network(self, channels: int, classes: int) -> nn.Module:
        """The convolutions with a linear head, for pictures (N, channels, side, side)."""
        body = SmallConv(channels)
        width = body(torch.zeros(2, channels, self.side, self.side)).shape[1]
        return nn.Sequential(body, nn.Linear(width, classes)).requires_grad_(True)

    def _pictures(self, images: Tensor) -> Tensor:
        """Resize and scale images to (N, channels, side, side), about -1 to 1."""
        pictures = []
        for part in images.split(IMAGES_PER_PASS):
            part = 2 * part.float() / self.data_range - 1
            views = middle_slices(part) if images.ndim == 5 else [part]
            size = (self.side, self.side)
            resized = [F.interpolate(v, size, mode="bilinear", antialias=True) for v in views]
            pictures.append(torch.cat(resized, 1))

        return torch.cat(pictures)

    @property
    def definition(self) -> str:
        return f"{self.name}/balanced-accuracy/small/{self.side}px/steps={self.steps}x{BATCH}"


@dataclass(eq=False, kw_only=True)
class Classification(Judge):
    """Usefulness of synthetic images: a classifier is trained on them and tested on held-out real
    patients.

    Three classifiers are trained: on synthetic images ("classification"), on real training images
    ("classification_real"), and on both ("classification_both"). Each is tested on the held-out
    real images. The value is the balanced accuracy, the mean recall over classes; the accuracy is in
    the details. Their 95 % intervals come from bootstrap over patients.
    No classifier is tested on patients that it was trained on: translations of test patients are
    split into halves, and training on one half tests the other. Classes that the generator does not
    produce come from real images.
    """

    # steps of 16 images for each of three classifiers; a step takes 0.05 s on a core
    steps: Count = 300

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
        what = (
            "the metric 'classification' needs real images of two classes in the training and the"
            f" test set (it finds {known}), and generated images of a known class (it finds"
            f" {made_of})"
        )
        remedy = "use one folder per class and data.labels = true, or leave the metric out"
        raise UserError(what, where="evaluate.metrics", remedy=remedy)

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
        train = labelled_images("training", train)
        test = labelled_images("test", test)
        fake = labelled_images("made", fake)
        train = without_patients_of(train, test)
        classes = sorted(set(train.labels.tolist()) & set(test.labels.tolist()))
        if len(classes) < 2:
            what = (
                "a classifier needs real images of two classes, both for training and for testing"
            )
            remedy = "leave out the metric 'classification', or use data of two classes"
            raise UserError(what, where="evaluate.metrics", remedy=remedy)

        train = _of_classes(train, classes)
        test = _of_classes(test, classes)
        fake = _of_classes(fake, classes)
        synthetic = []  # what each fold is trained on, and what it is tested on
        both = []
        added = 0
        folds = cross_folds(fake, test)
        for made, asked in folds:
            # Real training images of the classes that were not generated are added.
            lacking = select_images(train, ~torch.isin(train.labels, made.labels))
            added = max(added, len(lacking))
            synthetic.append((concatenate_groups(made, lacking), asked))
            both.append((concatenate_groups(train, made), asked))

        if not all(len(made) for made, _ in folds):
            synthetic = []
            both = []

        count = f"synthetic={len(fake)}"
        real = f"real={len(train)}"
        others = f"+real-of-other-classes={added}" if added else ""
        halved = "/crossed-over-halves-of-the-patients" if len(folds) > 1 else ""
        of_synthetic = f"{count}{others}{halved}"
        of_both = f"{real}+{count}{halved}"
        return {
            self.name: self._test_folds(synthetic, of_synthetic, test, classes),
            f"{self.name}_real": self._test_folds([(train, test)], real, test, classes),
            f"{self.name}_both": self._test_folds(both, of_both, test, classes),
        }

    def _test_folds(
        self,
        folds: list[tuple[ImageGroup, ImageGroup]],
        how: str,
        test: ImageGroup,
        classes: list[int],
    ) -> Score:
        """Train a classifier on each fold's first set, test it on the second; returns the score
        over all folds.
        """
        definition = f"{self.definition}/trained-on:{how}/tested-on:real={len(test)}"
        if not folds:
            return Score(
                value=None,
                ci95=None,
                n=len(test),
                definition=f"{definition}/not-computed: {TOO_FEW}",
            )

        found = []
        truth = []
        known = torch.tensor(classes)
        for learn, asked in folds:
            labels = torch.searchsorted(known, learn.labels)
            found.append(self.answers(learn.images, labels, len(classes), asked.images))
            truth.append(torch.searchsorted(known, asked.labels).numpy())

        found = np.concatenate(found)
        truth = np.concatenate(truth)
        patients = [patient for _, asked in folds for patient in asked.patients]

        def score(statistic: Callable[[np.ndarray, np.ndarray], float], **about: Any) -> Score:
            ci95 = drawn_interval(lambda i: statistic(found[i], truth[i]), patients)
            return Score(value=statistic(found, truth), ci95=ci95, **about)

        accuracy = score(lambda likely, truth: float((likely.argmax(1) == truth).mean()))
        details = {"accuracy": accuracy}
        return score(balanced_accuracy, n=len(test), definition=definition, details=details)


class SmallConv(nn.Module):
    """Four 3x3 convolutions with batch norm and max pooling: (N, channels, H, W) to (N, 256), 0.1 M
    weights.

    The brightness of small regions must be kept: strided convolutions with group norm, which
    removes an image's brightness, stayed at chance on synthetic FLAIR (balanced accuracy 0.50 after
    150 steps, 0.54 after 600).
    """

    def __init__(self, channels: int):
        super().__init__()
        widths = (channels, 16, 32, 64, 128)
        layers = []
        for before, after in zip(widths, widths[1:], strict=False):
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


def labelled_images(which: str, group: ImageGroup) -> ImageGroup:
    """The images whose class is known; UserError if there are none."""
    if group.labels is None or not (group.labels >= 0).any():
        what = (
            f"the metric 'classification' needs the class of every image, but the {which} images"
            " have none"
        )
        remedy = (
            "use data with classes, and set data.labels = true to generate each image for a class"
        )
        raise UserError(what, where="evaluate.metrics", remedy=remedy)

    labels = group.labels.cpu()
    return select_images(ImageGroup(group.images, group.patients, labels), labels >= 0)


def _of_classes(group: ImageGroup, classes: list[int]) -> ImageGroup:
    """The images of some classes."""
    return select_images(group, torch.isin(group.labels, torch.tensor(classes)))


def strangers(train: ImageGroup, test: ImageGroup) -> Tensor:
    """A mask (N,), bool, of the images of `train` that show no patient of `test` and are not copies
    of its images.
    """
    patients = set(test.patients) - {""}
    seen = {image.cpu().numpy().tobytes() for image in test.images}
    keep = []
    for patient, image in zip(train.patients, train.images, strict=True):
        keep.append(patient not in patients and image.cpu().numpy().tobytes() not in seen)

    return torch.tensor(keep, dtype=torch.bool)


def without_patients_of(train: ImageGroup, test: ImageGroup) -> ImageGroup:
    """The images of `train` that neither show patients of `test` nor copy its images."""
    return select_images(train, strangers(train, test))


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


def balanced_accuracy(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The mean recall over the classes present."""
    guess = probabilities.argmax(1)
    recalls = [(guess[truth == label] == label).mean() for label in np.unique(truth)]
    return float(np.mean(recalls))
