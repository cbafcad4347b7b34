"""Scores of usefulness: learned on one side, tested on patients of the other, with chance written beside."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gantk.errors import UserError
from gantk.metrics.sets import ImageGroup, halves
from gantk_tasks.classification import (
    Classification,
    TwoSample,
    accuracy,
    apart,
    area_under_roc,
    balanced_accuracy,
    crossed,
    strangers,
)
from gantk_tasks.classifier import Classifier

QUICK = {"backbone": "small", "steps": 40, "side": 16}


def tumours(count: int, seed: int, only: int | None = None, named: str = "") -> ImageGroup:
    """Noise of 16 pixels a side from 0 to 2; every second one (class 1) has a bright blob at a random place."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 0.8, (count, 1, 16, 16)).astype(np.float32)
    labels = np.arange(count) % 2 if only is None else np.full(count, only)
    for image, label in zip(images, labels, strict=True):
        y, x = rng.integers(2, 10, 2)
        image[0, y : y + 4, x : x + 4] += 1.2 * label
    patients = [f"{named}{i // 2}" if named else "" for i in range(count)]
    return ImageGroup(torch.from_numpy(images), patients, torch.from_numpy(labels))


def inverted(group: ImageGroup) -> ImageGroup:
    return ImageGroup(group.images, group.patients, 1 - group.labels)


def test_accuracies_and_the_area_under_the_curve_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 60)
    likely = np.clip(truth * 0.3 + rng.uniform(0, 0.7, 60), 0, 1).round(1)  # with ties
    found = np.stack([1 - likely, likely], 1)
    assert accuracy(found, truth) == pytest.approx(metrics.accuracy_score(truth, found.argmax(1)))
    assert balanced_accuracy(found, truth) == pytest.approx(metrics.balanced_accuracy_score(truth, found.argmax(1)))
    assert area_under_roc(found, truth) == pytest.approx(metrics.roc_auc_score(truth, likely))
    three, scores = rng.integers(0, 3, 60), rng.dirichlet([1, 1, 1], 60)
    assert area_under_roc(scores, three) == pytest.approx(metrics.roc_auc_score(three, scores, multi_class="ovr"))
    assert np.isnan(area_under_roc(found, np.ones(60, int)))


def test_good_synthetic_images_teach_and_bad_ones_do_not():
    train, test = tumours(40, 0, named="p"), tumours(30, 1, named="q")
    score = Classification(2.0, 2, **QUICK)
    good = score(train, test, tumours(40, 2))
    assert set(good) == {"classification", "classification_real", "classification_both"}
    assert min(found.value for found in good.values()) > 0.85
    low, high = good["classification"].ci95
    assert low <= good["classification"].value <= high and good["classification"].n == 30
    assert good["classification"].details["auroc"]["value"] > 0.9
    assert "synthetic=40" in good["classification"].definition and "real=30" in good["classification"].definition
    bad = score(train, test, inverted(tumours(40, 2)))
    assert bad["classification"].value < 0.3
    assert bad["classification_real"] == good["classification_real"]


def test_a_generator_of_one_class_is_joined_by_real_images_of_the_other():
    train, test = tumours(40, 0), tumours(30, 1)
    found = Classification(2.0, 2, **QUICK)(train, test, tumours(20, 2, only=1))["classification"]
    assert "synthetic=20+real-of-other-classes=20" in found.definition and found.value > 0.85


def test_training_images_of_tested_patients_and_copies_of_tested_images_are_left_out():
    train, test = tumours(10, 0, named="p"), tumours(6, 1, named="q")
    train.patients[3] = "q1"
    train.images[5] = test.images[0]
    kept = apart(train, test)
    assert len(kept) == 8 and "q1" not in kept.patients
    assert kept.labels.tolist() == [label for i, label in enumerate(train.labels.tolist()) if i not in (3, 5)]


def watch(monkeypatch) -> list[tuple[set[bytes], set[bytes]]]:
    """(learned from, asked about) of each classifier, images as bytes."""
    seen, fit, probabilities = [], Classifier.fit, Classifier.probabilities

    def learns(self, images, labels, classes):
        seen.append(({image.numpy().tobytes() for image in images}, set()))
        return fit(self, images, labels, classes)

    def asked(self, images):
        seen[-1][1].update(image.numpy().tobytes() for image in images)
        return probabilities(self, images)

    monkeypatch.setattr(Classifier, "fit", learns)
    monkeypatch.setattr(Classifier, "probabilities", asked)
    return seen


def test_no_classifier_is_tested_on_patients_whose_translations_it_learned_from(monkeypatch):
    seen = watch(monkeypatch)
    train, test = tumours(14, 0, named="p"), tumours(12, 1, named="q")
    train.patients[:2] = ["q1", "q5"]
    fake = ImageGroup(tumours(12, 2).images, test.patients, test.labels)
    found = Classification(2.0, 2, **QUICK | {"steps": 1})(train, test, fake)
    of = {image.numpy().tobytes(): patient for g in (train, test, fake)
          for image, patient in zip(g.images, g.patients, strict=True)}  # fmt: skip
    assert len(seen) == 5  # two of synthetic images, one of real ones, two of both
    for learned, asked in seen:
        assert {of[image] for image in learned}.isdisjoint(of[image] for image in asked)
    real = {image.numpy().tobytes() for image in test.images}
    assert seen[0][1] | seen[1][1] == seen[2][1] == seen[3][1] | seen[4][1] == real
    assert len(seen[0][0]) == len(seen[1][0]) == 6 and len(seen[2][0]) == 12 and len(seen[3][0]) == 18
    assert "synthetic=12/crossed-over-halves-of-the-patients/tested-on:real=12" in found["classification"].definition
    assert found["classification"].n == 12


def test_good_translations_teach_across_the_halves_and_one_patient_teaches_nobody():
    train, test = tumours(40, 0, named="p"), tumours(40, 1, named="q")
    score = Classification(2.0, 2, **QUICK)
    made = ImageGroup(tumours(40, 2).images, test.patients, test.labels)
    assert score(train, test, made)["classification"].value > 0.85
    assert score(train, test, inverted(made))["classification"].value < 0.3
    test.patients[:], made.patients[:] = ["q"] * 40, ["q"] * 40
    alone = score(train, test, made)
    assert alone["classification"].value is None and "too few patients" in alone["classification"].definition
    assert alone["classification_both"].value is None and alone["classification_real"].value > 0.85


def test_sets_are_crossed_where_they_share_a_patient_and_whole_where_not():
    test, apart_from_it = tumours(8, 1, named="q"), tumours(6, 2, named="r")
    assert [(len(made), len(asked)) for made, asked in crossed(apart_from_it, test)] == [(6, 8)]
    shared = tumours(8, 2, named="q")
    folds = crossed(shared, test)
    assert [(len(made), len(asked)) for made, asked in folds] == [(4, 4), (4, 4)]
    assert all(set(made.patients).isdisjoint(asked.patients) for made, asked in folds)
    unknown = tumours(8, 2)
    assert [len(made) for made, _ in crossed(unknown, tumours(8, 3))] == [8]
    assert strangers(shared, test).tolist() == [False] * 8 and strangers(apart_from_it, test).all()


def test_images_without_a_class_are_refused_or_left_out():
    train, test, fake = tumours(20, 0), tumours(20, 1), tumours(20, 2)
    with pytest.raises(UserError, match="class of every image.*made images"):
        Classification(2.0, 2, **QUICK)(train, test, ImageGroup(fake.images, fake.patients))
    test.labels[4:8] = -1
    assert Classification(2.0, 2, **QUICK)(train, test, fake)["classification"].n == 16
    test.labels[:] = 1
    with pytest.raises(UserError, match="two classes"):
        Classification(2.0, 2, **QUICK)(train, test, fake)


def test_the_two_sample_test_is_at_chance_for_real_images_and_certain_for_noise():
    train, test = tumours(60, 0, named="p"), tumours(60, 1, named="q")
    score = TwoSample(2.0, 2, **QUICK)
    same = score(train, test, tumours(120, 2))
    noise = score(train, test, ImageGroup(2 * torch.rand(120, 1, 16, 16), [""] * 120))
    assert same.ci95[0] < 0.5 < same.ci95[1] and same.details["p_value"] > 0.05
    assert noise.value > 0.9 and noise.ci95[0] > 0.5 and noise.details["p_value"] < 1e-6
    assert "learned-from=60+60" in same.definition and "asked-about=60+60" in same.definition
    assert score.higher_is_better is False


def test_the_two_sample_test_knows_no_patient_beforehand(monkeypatch):
    asked = {}
    fit, probabilities = Classifier.fit, Classifier.probabilities

    def watched_fit(self, images, labels, classes):
        asked["learned"] = {image.numpy().tobytes() for image in images}
        return fit(self, images, labels, classes)

    def watched(self, images):
        asked["tested"] = {image.numpy().tobytes() for image in images}
        return probabilities(self, images)

    monkeypatch.setattr(Classifier, "fit", watched_fit)
    monkeypatch.setattr(Classifier, "probabilities", watched)
    test = tumours(20, 1, named="q")
    fake = ImageGroup(tumours(20, 2).images, test.patients)  # translations of the tested patients
    train = tumours(20, 0, named="p")
    TwoSample(2.0, 2, **QUICK | {"steps": 1})(train, test, fake)
    of = {image.numpy().tobytes(): patient for g in (train, test, fake)
          for image, patient in zip(g.images, g.patients, strict=True)}  # fmt: skip
    assert {of[image] for image in asked["learned"]}.isdisjoint(of[image] for image in asked["tested"])
    # real training images in the fakes' place are not learned from as real ones as well
    TwoSample(2.0, 2, **QUICK | {"steps": 1})(train, test, halves(train)[1])
    assert {of[image] for image in asked["learned"]}.isdisjoint(of[image] for image in asked["tested"])


def test_one_set_as_training_and_held_out_images_is_halved():
    real = tumours(40, 0)
    found = TwoSample(2.0, 2, **QUICK)(real, real, tumours(40, 1))
    assert "learned-from=20+20" in found.definition and "asked-about=20+20" in found.definition
    with pytest.raises(UserError, match="two_sample needs more images"):
        TwoSample(2.0, 2, **QUICK)(tumours(2, 0), tumours(2, 1), tumours(2, 2))


def test_a_classifier_is_the_same_for_a_seed_and_leaves_the_global_generator_alone():
    data, state = tumours(20, 0), torch.get_rng_state()
    found = [
        Classifier("small", "random", 5, 16, seed, 2.0).fit(data.images, data.labels, 2).probabilities(data.images)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(state, torch.get_rng_state())


def test_a_classifier_takes_volumes_several_contrasts_and_backbones_of_timm():
    volumes = torch.rand(4, 2, 12, 14, 16)
    labels = torch.tensor([0, 1, 0, 1])
    solid = Classifier("small", "random", 1, 16, 0, 1.0).fit(volumes, labels, 2)
    assert solid.probabilities(volumes).shape == (4, 2)
    flat = Classifier("resnet10t", "random", 1, 32, 0, 1.0).fit(torch.rand(4, 2, 20, 20), labels, 2)
    likely = flat.probabilities(torch.rand(3, 2, 20, 20))
    assert torch.allclose(likely.sum(1), torch.ones(3, dtype=torch.float64), atol=1e-6)
    assert "resnet10t-random" in flat.definition


def test_the_p_value_is_that_of_the_binomial_test():
    from scipy.stats import binomtest

    from gantk_tasks.classification import _chance

    for right in (0, 13, 20, 30):
        assert _chance(right, 30) == pytest.approx(binomtest(right, 30, 0.5, alternative="greater").pvalue)


def test_options_out_of_range_are_refused():
    for options, word in (({"steps": 0}, "steps = 0"), ({"side": 4}, "side = 4")):
        with pytest.raises(UserError, match=word):
            TwoSample(2.0, 2, **options)
