"""What images are good for: does a classifier that learned from them work on real patients; can it tell them apart."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.bootstrap import drawn_interval
from gantk.metrics.sets import ImageGroup, Score, chosen, halves
from gantk_tasks.classifier import Classifier


class Classification:
    """Is synthetic data of use: a classifier learns from it, and is tested on real patients that nobody has seen.

    Three classifiers of the same design and number of steps learn from synthetic images ("classification"), from real
    training images ("classification_real"), and from both ("classification_both"); each is tested on the held-out real
    images. The value is the balanced accuracy, the mean over classes of the share that is recognised; accuracy and the
    area under the ROC curve (of each class against the others, averaged) are in the details, all with 95 % intervals
    from drawing patients with replacement. Training images of a tested patient, or equal to a tested image, are left
    out. Made images that show tested patients (translations do) are learned from for the other half of the patients.
    Where the generator makes some classes only, "synthetic" is its images with real ones of the other classes.
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
        checked(steps=(steps, 1), side=(side, 16))
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
        train, test, fake = (chosen(g, torch.isin(g.labels, torch.tensor(classes))) for g in (train, test, fake))
        folds = crossed(fake, test)
        filled = [(joined(made, self._lacking(made, train, classes)), asked) for made, asked in folds]
        added = max(len(learn) - len(made) for (learn, _), (made, _) in zip(filled, folds, strict=True))
        kinds = f"synthetic={len(fake)}" + (f"+real-of-other-classes={added}" if added else "")
        halved = "/crossed-over-halves-of-the-patients" if len(folds) > 1 else ""
        both = [(joined(train, made), asked) for made, asked in folds]
        enough = all(len(made) for made, _ in folds)
        return {
            self.name: self._tested(filled if enough else [], kinds + halved, test, classes),
            f"{self.name}_real": self._tested([(train, test)], f"real={len(train)}", test, classes),
            f"{self.name}_both": self._tested(
                both if enough else [], f"real={len(train)}+synthetic={len(fake)}{halved}", test, classes
            ),
        }

    def _lacking(self, made: ImageGroup, train: ImageGroup, classes: list[int]) -> ImageGroup:
        """The real training images of classes that were not made."""
        missing = [label for label in classes if label not in made.labels.tolist()]
        return chosen(train, torch.isin(train.labels, torch.tensor(missing, dtype=torch.int64)))

    def _tested(
        self, folds: list[tuple[ImageGroup, ImageGroup]], how: str, test: ImageGroup, classes: list[int]
    ) -> Score:
        """The scores of classifiers that each learned from one set and are asked about another."""
        definition = f"{self.definition}/trained-on:{how}/tested-on:real={len(test)}"
        if not folds:
            why = "too few patients to learn from some and be tested on others"
            return Score(None, None, len(test), f"{definition}/not-computed: {why}")
        index = {label: place for place, label in enumerate(classes)}
        parts, answers, patients = [], [], []
        for learn, asked in folds:
            ours, truth = (torch.tensor([index[label] for label in g.labels.tolist()]) for g in (learn, asked))
            model = self.make().fit(learn.images, ours, len(classes))
            parts.append(model.probabilities(asked.images).numpy())
            answers.append(truth.numpy())
            patients += asked.patients
        found, truth = np.concatenate(parts), np.concatenate(answers)
        scores: dict[str, dict[str, Any]] = {}
        for name, function in (("balanced", balanced_accuracy), ("accuracy", accuracy), ("auroc", area_under_roc)):
            ci95 = drawn_interval(lambda i, f=function: f(found[i], truth[i]), patients)
            scores[name] = {"value": function(found, truth), "ci95": list(ci95) if ci95 else None}
        best = scores.pop("balanced")
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
        checked(steps=(steps, 1), side=(side, 16))
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


def strangers(train: ImageGroup, test: ImageGroup) -> Tensor:
    """(N,), bool: the images of `train` that show no patient of `test` and are no copy of its images."""
    patients = set(test.patients) - {""}
    seen = {image.cpu().numpy().tobytes() for image in test.images}
    keep = [
        patient not in patients and image.cpu().numpy().tobytes() not in seen
        for patient, image in zip(train.patients, train.images, strict=True)
    ]
    return torch.tensor(keep, dtype=torch.bool)


def apart(train: ImageGroup, test: ImageGroup) -> ImageGroup:
    """The images of `train` without those of patients of `test` and without copies of its images."""
    return chosen(train, strangers(train, test))


def crossed(fake: ImageGroup, test: ImageGroup) -> list[tuple[ImageGroup, ImageGroup]]:
    """(made images to learn from, real images to be tested on), of different patients, all real images once.

    One pair where the two sets share no patient. Else each half of the tested patients, with the made images of the
    others: a translation of a patient tells where what is tested lies.
    """
    if not (set(fake.patients) & set(test.patients)) - {""}:
        return [(apart(fake, test), test)]
    return [(apart(fake, part), part) for part in halves(test) if len(part)]


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


def checked(**values: tuple[int, int]) -> None:
    """UserError where a value is below its least: `checked(steps=(steps, 1))`."""
    for name, (value, least) in values.items():
        if value < least:
            raise UserError(f"{name} = {value} is too small", where="evaluate.metrics", allowed=f"{least} or more")
