"""Metrics of tasks: learned on one side, tested on patients of the other; lesions and their Dice;
chance beside.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import registered

from gantk.errors import UserError
from gantk.metrics.sets import ImageGroup, select_images, set_scores
from gantk_scores.tasks.classification import balanced_accuracy, mean_recall

Classification = registered("metric", "classification")
Segmentation = registered("metric", "segmentation")
Transfer = registered("metric", "transfer")

QUICK = {"steps": 40, "side": 16}
ONE = QUICK | {"steps": 1, "classifiers": 1}
SEGMENTS = {"steps": 40}


def seen_by(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def owners(*groups: ImageGroup) -> dict[bytes, str]:
    return {
        i.numpy().tobytes(): p for g in groups for i, p in zip(g.images, g.patients, strict=True)
    }


def tumours(count: int, seed: int, only: int | None = None, named: str = "") -> ImageGroup:
    """Noise of 16 pixels a side from 0 to 2; every second one (class 1) has a bright blob at a
    random place.
    """
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 0.8, (count, 1, 16, 16)).astype(np.float32)
    labels = np.arange(count) % 2
    if only is not None:
        labels[:] = only

    for image, label in zip(images, labels, strict=True):
        y, x = rng.integers(2, 10, 2)
        image[0, y : y + 4, x : x + 4] += 1.2 * label

    patients = [f"{named}{i // 2}" if named else "" for i in range(count)]
    return ImageGroup(torch.from_numpy(images), patients, torch.from_numpy(labels))


def test_accuracy_matches_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 60)
    likely = np.clip(truth * 0.3 + rng.uniform(0, 0.7, 60), 0, 1).round(1)  # with ties
    found = np.stack([1 - likely, likely], 1).argmax(1)

    assert balanced_accuracy(found == truth, truth) == pytest.approx(
        metrics.balanced_accuracy_score(truth, found)
    )


def test_gain_includes_the_spread_of_seeds():
    truth = np.arange(48) % 2
    alone = np.ones((6, 48))
    alone[:, ::8] = 0
    seeds = np.array([1, -1, 1, -1, 1, -1])[:, None] * (np.arange(48) < 8)
    patients = [f"p{index // 4}" for index in range(48)]
    _, spread = mean_recall(seeds * 0.5, truth, patients)
    _, helps = mean_recall(1 - alone, truth, patients)
    _, few = mean_recall(alone, truth, patients[:20] * 2 + patients[:8])
    of_blocks, (low, _) = mean_recall(alone, truth, [""] * 48)

    assert mean_recall(alone - alone, truth, patients) == (0, [0, 0])
    assert spread[0] < 0 < spread[1]
    assert low < of_blocks, "unknown patients: blocks of images"
    assert helps[0] > 0
    assert few is None


@pytest.mark.slow
def test_good_synthetic_images_teach_and_bad_ones_do_not():
    train = tumours(40, 0, named="p")
    test = tumours(30, 1, named="q")
    made = tumours(40, 2)
    score = Classification(2.0, 2, **QUICK)
    good = score(train, test, made)
    gain = good.pop("classification_gain")

    assert set(good) == {"classification", "classification_real", "classification_both"}
    assert min(found.value for found in good.values()) > 0.85
    assert gain.value == good["classification_both"].value - good["classification_real"].value
    assert gain.ci95[0] <= 0 <= gain.ci95[1]
    found = good["classification"]
    assert found.ci95[0] <= found.value <= found.ci95[1]
    swapped = ImageGroup(made.images, made.patients, 1 - made.labels)
    bad = Classification(2.0, 2, **QUICK)(train, test, swapped)
    assert bad["classification"].value < 0.3
    assert bad["classification_real"] == good["classification_real"]
    # joined by real images of the other class
    one = score(train, test, tumours(20, 2, only=1))["classification"]
    assert "synthetic=20+real-of-other-classes=20" in one.definition
    assert one.value > 0.85


def test_classifiers_are_tested_on_unseen_patients(monkeypatch):
    # (learned from, asked about) of each classifier
    classified = []
    answers = Classification.answers

    def watched(self, images, labels, classes, asked):
        classified.append((seen_by(images), seen_by(asked)))
        return answers(self, images, labels, classes, asked)

    monkeypatch.setattr(Classification, "answers", watched)
    train = tumours(14, 0, named="p")
    test = tumours(12, 1, named="q")
    train.patients[:2] = ["q1", "q5"]
    fake = ImageGroup(tumours(12, 2).images, test.patients, test.labels)
    Classification(2.0, 2, **ONE)(train, test, fake)
    of = owners(train, test, fake)
    for learned, asked in classified:
        assert {of[image] for image in learned}.isdisjoint(of[image] for image in asked)

    # of real images, of both, of synthetic ones
    for folds in (classified[:1], classified[1:3], classified[3:]):
        assert set.union(*(asked for _, asked in folds)) == seen_by(test.images)

    assert [len(learned) for learned, _ in classified] == [12, 18, 18, 6, 6]


def patients(count: int, seed: int, named: str) -> ImageGroup:
    """Dark noise from 0 to 2; every image but each third shows a bright block at a random place,
    which is its mask.
    """
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 0.8, (count, 1, 16, 16)).astype(np.float32)
    masks = np.zeros_like(images)
    for number in range(count):
        y, x = rng.integers(2, 10, 2)
        masks[number, 0, y : y + 4, x : x + 4] = number % 3 < 2

    names = [f"{named}{i // 3}" for i in range(count)]
    return ImageGroup(torch.from_numpy(images + masks), names, None, torch.from_numpy(masks))


def erased(group: ImageGroup) -> ImageGroup:
    return ImageGroup(group.images - group.masks, group.patients, None, group.masks)


def translated(group: ImageGroup) -> ImageGroup:
    """A little noise on the same patients."""
    noise = 0.05 * torch.rand(group.images.shape, generator=torch.Generator().manual_seed(9))
    return ImageGroup(group.images + noise, group.patients, None, group.masks)


@pytest.fixture
def learned(monkeypatch) -> list[set[bytes]]:
    """The images that each segmenter learned from, as bytes."""
    seen = []
    train = Segmentation._train

    def watched(self, group):
        seen.append(seen_by(group.images))
        return train(self, group)

    monkeypatch.setattr(Segmentation, "_train", watched)
    return seen


def as_masks(rows: list[list[int]]) -> torch.Tensor:
    """Images (N, 1, 1, W) of one row of pixels each."""
    return torch.tensor(rows, dtype=torch.float32)[:, None, None]


def test_dice_is_pooled_by_patient(monkeypatch):
    found = as_masks([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    drawn = as_masks([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]])
    monkeypatch.setattr(Segmentation, "_train", lambda self, group: None)
    monkeypatch.setattr(Segmentation, "_segment", lambda self, network, images: images > 0)
    group = ImageGroup(found, ["p", "p", "q"], None, drawn)
    score = Segmentation(1.0, 2)._dice_after_training([(group, group)])

    # p: 2 x 2 shared of 3 found and 2 drawn; q: missed
    assert score.value == pytest.approx((4 / 5 + 0) / 2)
    parts = [ImageGroup(found[k : k + 1], [n], None, drawn[k : k + 1]) for k, n in enumerate("ppq")]
    assert Segmentation(1.0, 2)._dice_after_training([(each, each) for each in parts]) == score


def test_good_images_teach_a_segmenter_and_bad_ones_do_not(learned):
    train = patients(24, 0, "p")
    test = patients(24, 1, "q")
    metric = Segmentation(2.0, 2, **SEGMENTS)
    made = translated(test)
    score = metric(train, test, made)

    assert score.value > 0.6
    assert score.ci95[0] <= score.value <= score.ci95[1]
    assert score.n == 24

    of = owners(made)
    one, other = ({of[image] for image in images} for images in learned)

    assert one.isdisjoint(other)
    assert one | other == set(test.patients)
    assert metric(train, test, erased(test)).value < 0.4
    alone = patients(3, 1, "q")
    with pytest.raises(UserError, match="too few patients"):
        metric(train, alone, translated(alone))


def test_images_without_masks_are_left_out():
    train = patients(12, 0, "p")
    test = patients(9, 1, "q")
    metric = Segmentation(2.0, 2, **SEGMENTS | {"steps": 1})
    bare = ImageGroup(test.images, test.patients)

    for groups in ((train, bare, test), (train, test, bare)):
        with pytest.raises(UserError, match="lesion masks"):
            metric(*groups)

    test.masks[3:6] = torch.nan
    score = metric(train, test, translated(test))

    assert score.n == 6


def test_transfer_scores_good_translations_above_copies():
    whole = tumours(20, 0, named="p")
    metric = Transfer(2.0, 2, **QUICK)
    sides = {letter: select_images(whole, whole.labels == k) for k, letter in enumerate("ab")}
    reals = SimpleNamespace(
        records=lambda split, letter: sides[letter].patients,
        sets=lambda letter, size: (sides[letter], None, ""),
    )
    metric.expect_data(SimpleNamespace(reals=reals))
    plain = tumours(16, 1, 0, "q")
    blobs = tumours(16, 2, 1, "q")
    about = replace(plain, inputs=plain.images, to="b")
    copied, moved = (
        metric(sides["b"], blobs, replace(about, images=x)) for x in (plain.images, blobs.images)
    )
    before = moved["identity/transfer"].value

    assert copied["transfer"].value == before < 0.3 < 0.8 < moved["transfer"].value
    assert copied["transfer_ssim"].value == pytest.approx(1.0)
    assert moved["transfer_ssim"].value < 0.5
    unknown = replace(about, images=blobs.images, patients=[""] * 16)
    found = set_scores(metric, sides["b"], blobs, unknown)["transfer_ssim"]
    assert (found.patients_unknown, found.images) == (True, 16)
    with pytest.raises(UserError, match="generated from noise"):
        metric(plain, plain, plain)
