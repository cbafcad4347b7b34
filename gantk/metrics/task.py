"""What images are good for: does a classifier that learned from them work on real patients; can it tell them apart."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from gantk.errors import UserError
from gantk.metrics.bootstrap import drawn_interval
from gantk.metrics.classifier import Classifier
from gantk.metrics.sets import ImageGroup, Score, chosen, halves


class Classification:
    """Is synthetic data of use: a classifier learns from it, and is tested on real patients that nobody has seen.

    Three classifiers of the same design and number of steps learn from synthetic images ("classification"), from real
    training images ("classification_real"), and from both ("classification_both"); each is tested on the held-out real
    images. The value is the balanced accuracy, the mean over classes of the share that is recognised; accuracy and the
    area under the ROC curve (of each class against the others, averaged) are in the details, all with 95 % intervals
    from drawing patients with replacement. Training images of a tested patient, or equal to a tested image, are left
    out. Where the generator makes some classes only, "synthetic" is its images with real ones of the other classes.
    """

    sets, baselines, needs_classes = True, False, True
    name, unit, higher_is_better = "classification", "", True

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        backbone: str = "resnet18",  # a network of timm, or small: four convolutions, seconds on one core
        weights: Literal["random", "pretrained"] = "random",  # random: from scratch; pretrained: timm's weights
        steps: int = 150,  # of 16 images, for each of the three classifiers; 0.3 s each on a core, with small 0.03 s
        side: int = 64,  # pixels that images are brought to
        seed: int = 0,  # of the classifier's weights and of the order of its batches
    ):
        _check(steps=(steps, 1), side=(side, 16))
        self.make = lambda: Classifier(backbone, weights, steps, side, seed, data_range)

    @property
    def definition(self) -> str:
        return f"classification/balanced-accuracy/{self.make().definition}"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
        test, fake = self._labelled("test", test), self._labelled("made", fake)
        train = apart(self._labelled("training", train), test)
        classes = sorted(set(train.labels.tolist()) & set(test.labels.tolist()))
        if len(classes) < 2:
            raise UserError(
                "a classifier needs real images of two classes, to learn from and to be tested on",
                where="evaluate.metrics",
                remedy="leave out the metric 'classification', or use data of two classes",
            )
        missing = [label for label in classes if label not in fake.labels.tolist()]
        filled = joined(fake, chosen(train, torch.isin(train.labels, torch.tensor(missing)))) if missing else fake
        kinds = f"synthetic={len(fake)}" + (f"+real-of-other-classes={len(filled) - len(fake)}" if missing else "")
        learned = {
            self.name: (filled, kinds),
            f"{self.name}_real": (train, f"real={len(train)}"),
            f"{self.name}_both": (joined(train, fake), f"real={len(train)}+synthetic={len(fake)}"),
        }
        return {name: self._tested(group, how, test, classes) for name, (group, how) in learned.items()}

    def _tested(self, group: ImageGroup, how: str, test: ImageGroup, classes: list[int]) -> Score:
        """The scores of a classifier that learned from the group."""
        group, test = (chosen(g, torch.isin(g.labels, torch.tensor(classes))) for g in (group, test))
        index = {label: place for place, label in enumerate(classes)}
        ours, truth = (torch.tensor([index[label] for label in g.labels.tolist()]) for g in (group, test))
        found = self.make().fit(group.images, ours, len(classes)).probabilities(test.images).numpy()
        truth = truth.numpy()
        scores: dict[str, dict[str, Any]] = {}
        for name, function in (("balanced", balanced_accuracy), ("accuracy", accuracy), ("auroc", area_under_roc)):
            ci95 = drawn_interval(lambda i, f=function: f(found[i], truth[i]), test.patients)
            scores[name] = {"value": function(found, truth), "ci95": list(ci95) if ci95 else None}
        best = scores.pop("balanced")
        definition = f"{self.definition}/trained-on:{how}/tested-on:real={len(test)}"
        return Score(best["value"], tuple(best["ci95"]) if best["ci95"] else None, len(test), definition, scores)

    def _labelled(self, which: str, group: ImageGroup) -> ImageGroup:
        """The images whose class is known, on one footing; UserError where none is."""
        if group.labels is None or not (group.labels >= 0).any():
            raise UserError(
                f"the metric 'classification' needs the class of every image, and the {which} images have none",
                where="evaluate.metrics",
                remedy="use data with classes and data.labels = true, so that each image is made for a class",
            )
        labels = group.labels.cpu()
        return chosen(ImageGroup(group.images, group.patients, labels), labels >= 0)


class TwoSample:
    """Can a classifier tell made images from real ones (Lopez-Paz and Oquab, 2017): 0.5 is chance, 1 always.

    It learns from real training images and half of the fakes, as many of each, and is asked about held-out real images
    and the other half, so that it cannot know a patient, nor a generator shine by copying its training images. The
    value is the mean of the shares recognised on both sides, its interval from drawing real patients and fakes with
    replacement; `p_value` in the details: how probable so many right answers are by guessing (one-sided binomial test).
    Where training and held-out images are the same set, its first half is learned from and its second asked about.
    """

    sets = True
    name, unit, higher_is_better = "two_sample", "", False

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        backbone: str = "small",  # small: four convolutions; or a network of timm
        weights: Literal["random", "pretrained"] = "random",  # random: from scratch; pretrained: timm's weights
        steps: int = 200,  # of 16 images each
        side: int = 64,  # pixels that images are brought to
        seed: int = 0,  # of the classifier's weights and of the order of its batches
    ):
        _check(steps=(steps, 1), side=(side, 16))
        self.make = lambda: Classifier(backbone, weights, steps, side, seed, data_range)

    @property
    def definition(self) -> str:
        return f"two_sample/balanced-accuracy/{self.make().definition}"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        if train is test:
            train, test = halves(test)
        known, asked = halves(fake)
        test = apart(test, known)  # made from a patient's other contrast, a fake gives the patient away
        train = apart(apart(train, test), fake)
        count, tested = min(len(train), len(known)), min(len(test), len(asked))
        if min(count, tested) < 2:
            sizes = f"{len(train)} and {len(test)} real, {len(fake)} made"
            raise UserError(f"two_sample needs more images than {sizes}", where="evaluate.metrics", allowed="4 or more")
        real, made = (_spread(g, count) for g in (train, known))
        labels = torch.arange(2).repeat_interleave(count)
        model = self.make().fit(torch.cat([real.images, made.images]), labels, 2)
        sides = [_spread(g, tested) for g in (test, asked)]
        truth = np.repeat([0, 1], tested)
        found = model.probabilities(torch.cat([g.images for g in sides])).numpy()
        patients = [*sides[0].patients, *[f"made {i}" for i in range(tested)]]
        names = [patient or f"real {i}" for i, patient in enumerate(patients)]
        ci95 = drawn_interval(lambda i: balanced_accuracy(found[i], truth[i]), names)
        right = int((found.argmax(1) == truth).sum())
        how = f"learned-from={count}+{count}/asked-about={tested}+{tested}"
        details = {"right": right, "asked": 2 * tested, "p_value": _chance(right, 2 * tested)}
        return Score(balanced_accuracy(found, truth), ci95, tested, f"{self.definition}/{how}", details)


def apart(train: ImageGroup, test: ImageGroup) -> ImageGroup:
    """The images of `train` without those of patients of `test` and without copies of its images."""
    patients = set(test.patients) - {""}
    seen = {image.cpu().numpy().tobytes() for image in test.images}
    keep = [
        patient not in patients and image.cpu().numpy().tobytes() not in seen
        for patient, image in zip(train.patients, train.images, strict=True)
    ]
    return chosen(train, torch.tensor(keep, dtype=torch.bool))


def joined(one: ImageGroup, other: ImageGroup) -> ImageGroup:
    """Both sets as one."""
    images = torch.cat([one.images, other.images.to(one.images.device)])
    return ImageGroup(images, [*one.patients, *other.patients], torch.cat([one.labels, other.labels]))


def accuracy(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Share of the images whose most probable class is the true one."""
    return float((probabilities.argmax(1) == truth).mean())


def balanced_accuracy(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes present of the share that is recognised."""
    guess = probabilities.argmax(1)
    return float(np.mean([(guess[truth == label] == label).mean() for label in np.unique(truth)]))


def area_under_roc(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Chance that an image of a class is thought likelier to be of it than one of another; mean over the classes.

    The Mann-Whitney form, ties counting half. nan where one class alone is present.
    """
    labels = np.unique(truth)
    if len(labels) < 2:
        return float("nan")
    areas = []
    for label in labels[1:] if probabilities.shape[1] == 2 else labels:  # of two classes both say the same
        inside = truth == label
        scores = probabilities[:, label]
        ordered = np.sort(scores)  # mean rank of equal scores
        ranks = (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right") + 1) / 2
        least = inside.sum() * (inside.sum() + 1) / 2
        areas.append((ranks[inside].sum() - least) / (inside.sum() * (~inside).sum()))
    return float(np.mean(areas))


def _chance(right: int, asked: int) -> float:
    """Probability of at least so many right answers to so many questions by guessing."""
    from scipy.special import bdtrc

    return float(bdtrc(right - 1, asked, 0.5)) if right else 1.0


def _spread(group: ImageGroup, count: int) -> ImageGroup:
    """`count` images, evenly spread."""
    keep = torch.zeros(len(group), dtype=torch.bool)
    keep[np.linspace(0, len(group) - 1, count).round().astype(int)] = True
    return chosen(group, keep)


def _check(**values: tuple[int, int]) -> None:
    for name, (value, least) in values.items():
        if value < least:
            raise UserError(f"{name} = {value} is too small", where="evaluate.metrics", allowed=f"{least} or more")
