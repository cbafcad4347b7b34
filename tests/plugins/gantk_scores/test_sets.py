"""Metrics of sets are those of the implementations that papers use, know alike from different, and
say how.
"""

import numpy as np
import pytest
import torch
from tiny import registered

from gantk.errors import UserError
from gantk.metrics.intervals import left_out_interval
from gantk.metrics.sets import ImageGroup, Kid, set_scores, squared_mmd
from gantk_scores.sets.fid import frechet, gaussian
from gantk_scores.sets.neighbours import shares_of

Diversity = registered("metric", "diversity")
Fid = registered("metric", "fid")
Prdc = registered("metric", "prdc")


def blobs(count: int, seed: int = 0) -> torch.Tensor:
    """Images (count, 1, 32, 32) of one soft disc each, at a random place, from 0 to 2."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((32, 32))
    centres = 32 * rng.uniform(0.3, 0.7, (count, 2))
    images = [2 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 50) for y, x in centres]
    return torch.tensor(np.array(images), dtype=torch.float32)[:, None]


def drawn(count: int) -> list[str]:
    """Patients of images that are of one each, as of images from noise."""
    return [f"drawn {i}" for i in range(count)]


def group(images: torch.Tensor) -> ImageGroup:
    return ImageGroup(images, drawn(len(images)))


def groups(real: np.ndarray, fake: np.ndarray) -> list[ImageGroup]:
    """Sets whose vectors are known, and training images that leave their scale as it is."""
    unit = np.stack([-np.ones(real.shape[1]), np.ones(real.shape[1])])
    name = "random-conv-256-seed-0"
    return [
        ImageGroup(torch.zeros(len(x), 1, 8, 8), drawn(len(x)), found={name: x})
        for x in (unit, real, fake)
    ]


@pytest.fixture
def sets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7)), rng.normal(0.5, 1.5, (60, 7))


def fid_of(real: np.ndarray, fake: np.ndarray) -> float:
    return frechet(gaussian(real), gaussian(fake))


# ---- FID and KID


def test_the_frechet_distance_is_pytorch_fids(sets, monkeypatch):
    from pytorch_fid.fid_score import calculate_frechet_distance, linalg

    # SciPy 1.18 has no disp
    monkeypatch.setattr(linalg, "sqrtm", lambda x, disp, root=linalg.sqrtm: (root(x), 0.0))
    theirs = calculate_frechet_distance(
        *(moment for x in sets for moment in (x.mean(0), np.cov(x.T)))
    )

    assert fid_of(*sets) == pytest.approx(theirs, rel=1e-8)
    assert fid_of(sets[0], sets[0]) == pytest.approx(0, abs=1e-9)


def mmd_by_formula(x: np.ndarray, y: np.ndarray) -> float:
    """KID of sets of any sizes; torchmetrics' is of sets of one size."""

    def kernel(a, b):
        return (a @ b.T / 7 + 1) ** 3

    def within(a):
        products = kernel(a, a)
        return (products.sum() - np.trace(products)) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()


def test_kid_and_its_interval_match_the_formula(sets):
    real = sets[0]
    fake = sets[1][:40]
    of_real = [f"p{i}" for i in np.random.default_rng(1).integers(0, 6, 60)]
    of_fake = drawn(40)
    value, ci95 = squared_mmd(real, fake, of_real, of_fake)
    expected, interval = left_out_interval(
        lambda r, f: mmd_by_formula(real[r], fake[f]), of_real, of_fake
    )

    assert value == pytest.approx(expected, rel=1e-9)
    assert ci95 == pytest.approx(interval, rel=1e-9)


@pytest.mark.parametrize(("metric", "least"), [(Kid, 2), (Fid, 8), (Prdc, 6), (Diversity, 2)])
def test_too_few_images_are_refused_without_harm(metric, least):
    few = group(blobs(least - 1))
    enough = group(blobs(least + 2))
    for sets in ((few, enough), (enough, few)):
        with pytest.raises(UserError, match=f"{least} or more"):
            metric(2.0, 2)(enough, *sets)
        (row, *_) = set_scores(metric(2.0, 2), enough, *sets).values()
        assert row.value is None
        assert "not-computed" in row.definition

    assert metric(2.0, 2)(enough, group(blobs(least)), group(blobs(least, 1)))


# ---- precision, recall, density, coverage


def naive(real: np.ndarray, fake: np.ndarray, k: int) -> list[float]:
    """The definitions of both papers, pair by pair."""
    between, *inside = (
        np.linalg.norm(x[:, None] - y, axis=2)
        for x, y in ((real, fake), (real, real), (fake, fake))
    )
    # the nearest is the vector itself
    of_real, of_fake = (np.sort(away, 1)[:, k] for away in inside)
    held = between <= of_real[:, None]
    return [
        held.any(0).mean(),
        (between <= of_fake).any(1).mean(),
        held.sum() / (k * len(fake)),
        held.any(1).mean(),
    ]


@pytest.fixture(params=[1, 5])
def neighbourhood(request):
    """A number of neighbours, and two sets of vectors that overlap."""
    k = request.param
    rng = np.random.default_rng(k)
    return k, rng.normal(3, 1, (26, 3)), rng.normal(3.4, 1.1, (21, 3))


# ---- diversity


def test_diversity_is_one_for_real_and_low_for_copies():
    train = group(blobs(30, 0))
    test = group(blobs(30, 1))
    score = Diversity(2.0, 2)
    real = group(blobs(30, 3))

    assert score(train, test, real).value == pytest.approx(1, abs=0.15)

    one_image = blobs(1, 2).repeat(20, 1, 1, 1)
    of_copies = score(train, test, group(one_image + 0.01 * torch.rand(20, 1, 32, 32)))

    assert of_copies.value < 0.1
    assert of_copies.ci95[1] < 0.5
    noise = group(2 * torch.rand(20, 1, 32, 32))
    assert score(train, test, noise).value > 1


def test_kid_is_the_formula_of_its_vectors(sets):
    expected, _ = squared_mmd(*map(np.arcsinh, sets), [""] * len(sets[0]), [""] * len(sets[1]))
    kid = Kid(2.0, 2)(*groups(*sets))

    assert kid.value == pytest.approx(expected, rel=1e-9)
    low, high = kid.ci95
    assert low < expected < high


def test_prdc_shares_match_their_definitions(neighbourhood):
    k, real, fake = neighbourhood
    expected = naive(real, fake, k)

    assert len(set(expected)) == 4
    every = shares_of(real, fake, k)(np.ones(26, bool), np.ones(21, bool))
    assert every.tolist() == pytest.approx(expected)


def test_prdc_scores_are_shares_of_its_vectors(neighbourhood):
    k, real, fake = neighbourhood
    scores = Prdc(2.0, 2, k=k)(*groups(real, fake))
    values = {name: score.value for name, score in scores.items()}
    names = [f"{name}_random" for name in ("precision", "recall", "density", "coverage")]
    shares = naive(np.arcsinh(real), np.arcsinh(fake), k)

    assert values == pytest.approx(dict(zip(names, shares, strict=True)))


def test_fid_is_the_formula_of_its_vectors(sets):
    real = np.arcsinh(sets[0])
    fake = np.arcsinh(sets[1])
    value, interval = left_out_interval(lambda r, f: fid_of(real[r], fake[f]), drawn(60), drawn(60))
    low, high = interval
    fid = Fid(2.0, 2)(*groups(*sets))

    assert fid.value == pytest.approx(value, rel=1e-9)
    assert fid.ci95 == pytest.approx((max(0, low), high), rel=1e-9)
