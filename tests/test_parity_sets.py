"""Scores of sets are those of the implementations that papers use, and of definitions written out in loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gantk.metrics.distances import frechet, kernels, squared_mmd
from gantk.metrics.features import INCEPTION_FILE, Features
from gantk.metrics.neighbours import Neighbourhoods, Prdc
from gantk.metrics.sets import Fid, ImageGroup, Kid

RANDOM = "random-conv-256-seed-0"


@pytest.fixture
def sets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 7)) @ rng.normal(size=(7, 7)), rng.normal(0.5, 1.5, (60, 7))


def exactly(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Vectors whose sample mean and covariance are exactly these."""
    drawn = np.random.default_rng(seed).normal(size=(count, len(mean)))
    drawn -= drawn.mean(0)
    whitened = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn.T)).T)
    return whitened @ np.linalg.cholesky(covariance).T + mean


# ---- Frechet


def test_the_distance_of_two_gaussians_is_its_closed_form():
    rng = np.random.default_rng(1)
    turn, m1, m2 = np.linalg.qr(rng.normal(size=(6, 6)))[0], rng.normal(size=6), rng.normal(size=6)
    a, b = rng.uniform(0.1, 4, (2, 6))
    real = exactly(m1, turn @ np.diag(a) @ turn.T, 40, 2)
    fake = exactly(m2, turn @ np.diag(b) @ turn.T, 30, 3)
    expected = np.square(m1 - m2).sum() + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert frechet(real, fake) == pytest.approx(expected, rel=1e-9)
    assert frechet(real, real + 3) == pytest.approx(6 * 9, rel=1e-9)  # the means alone
    assert frechet(real - m1, 2 * (real - m1)) == pytest.approx(a.sum(), rel=1e-9)  # the spreads alone


def test_the_frechet_distance_is_scipys_pytorch_fids_and_torchmetrics(sets):
    from pytorch_fid.fid_score import calculate_frechet_distance
    from scipy.linalg import sqrtm

    real, fake = sets
    (m1, s1), (m2, s2) = ((x.mean(0), np.cov(x.T)) for x in sets)
    expected = np.square(m1 - m2).sum() + np.trace(s1 + s2 - 2 * np.real(sqrtm(s1 @ s2)))
    assert frechet(real, fake) == pytest.approx(expected, rel=1e-8)
    assert frechet(real, fake) == pytest.approx(calculate_frechet_distance(m1, s1, m2, s2), rel=1e-8)
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance(feature=Given())
    fid.set_dtype(torch.float64)
    fid.update(torch.from_numpy(real), real=True)
    fid.update(torch.from_numpy(fake), real=False)
    assert frechet(real, fake) == pytest.approx(fid.compute().item(), rel=1e-4)


class Given(nn.Module):
    """Features that are the images themselves."""

    num_features = 7

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


# ---- KID


def test_kid_is_torchmetrics(sets):
    kid = pytest.importorskip("torchmetrics.image.kid")
    real, fake = sets
    expected = kid.poly_mmd(torch.from_numpy(real), torch.from_numpy(fake)).item()
    assert squared_mmd(*kernels(real, fake)) == pytest.approx(expected, rel=1e-9)
    whole = kid.KernelInceptionDistance(feature=Given(), subsets=1, subset_size=60)
    whole.set_dtype(torch.float64)
    whole.update(torch.from_numpy(real), real=True)
    whole.update(torch.from_numpy(fake), real=False)
    assert squared_mmd(*kernels(real, fake)) == pytest.approx(whole.compute()[0].item(), rel=1e-4)


@pytest.mark.parametrize("subset", [0, 30])
def test_the_metric_is_the_formula_of_its_vectors(sets, subset):
    train, test, fake = groups(*sets)
    x, y = np.arcsinh(sets[0]), np.arcsinh(sets[1])
    assert Fid(2.0, 2)(train, test, fake).value == pytest.approx(frechet(x, y), rel=1e-9)
    kid = Kid(2.0, 2, subset=subset)(train, test, fake)
    expected = squared_mmd(*kernels(x, y))
    assert kid.value == pytest.approx(expected, rel=0.15 if subset else 1e-9)
    assert kid.ci95[0] < expected < kid.ci95[1]


def groups(real: np.ndarray, fake: np.ndarray) -> list[ImageGroup]:
    """Sets whose vectors are known, and training images that leave their scale as it is."""
    unit = np.stack([-np.ones(real.shape[1]), np.ones(real.shape[1])])
    return [ImageGroup(torch.zeros(len(x), 1, 8, 8), [""] * len(x), found={RANDOM: x}) for x in (unit, real, fake)]


# ---- precision, recall, density, coverage


def naive(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """The definitions of both papers, pair by pair."""

    def radius(points: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)[k - 1]

    of_real, of_fake = ([radius(points, i) for i in range(len(points))] for points in (real, fake))

    def inside(point: np.ndarray, centres: np.ndarray, radii: list[float]) -> list[bool]:
        return [np.linalg.norm(point - c) <= r for c, r in zip(centres, radii, strict=True)]

    return {
        "precision": np.mean([any(inside(y, real, of_real)) for y in fake]),
        "recall": np.mean([any(inside(x, fake, of_fake)) for x in real]),
        "density": sum(sum(inside(y, real, of_real)) for y in fake) / (k * len(fake)),
        "coverage": np.mean(
            [any(np.linalg.norm(y - x) <= r for y in fake) for x, r in zip(real, of_real, strict=True)]
        ),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("block", [1, 100, 10**9])
def test_neighbourhoods_are_the_definitions_whole_and_without_any_part(k, block, monkeypatch):
    monkeypatch.setattr("gantk.metrics.distances.BLOCK", block)
    rng = np.random.default_rng(k)
    real, fake = rng.normal(3, 1, (26, 3)), rng.normal(3.4, 1.1, (21, 3))
    parts = rng.integers(0, 4, 26), rng.integers(0, 3, 21)
    found = Neighbourhoods(real, fake, *parts, k)
    whole = np.ones(4, bool), np.ones(3, bool)
    expected = naive(real, fake, k)
    assert found.shares(*whole) == pytest.approx(expected)
    assert len(set(expected.values())) == 4 and all(0 < value < 1.5 for value in expected.values())
    for part in range(4):
        kept = np.arange(4) != part
        assert found.shares(kept, whole[1]) == pytest.approx(naive(real[parts[0] != part], fake, k))
    for part in range(3):
        kept = np.arange(3) != part
        assert found.shares(whole[0], kept) == pytest.approx(naive(real, fake[parts[1] != part], k))


def test_the_four_scores_are_the_definitions_of_their_vectors(sets):
    real, fake = sets[0][:40], sets[1][:30]
    scores = Prdc(2.0, 2, k=4)(*groups(real, fake))
    expected = naive(np.arcsinh(real), np.arcsinh(fake), 4)
    assert {name: score.value for name, score in scores.items()} == pytest.approx(
        {f"{name}_random": value for name, value in expected.items()}
    )


# ---- Inception


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """A folder with a file of pytorch-fid's kind: random weights, norms that keep numbers from fading."""
    from pytorch_fid import inception

    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(nn.Module, "load_state_dict", lambda self, state: None)
        network = inception.fid_inception_v3()
        for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.momentum = 1.0
        network.train()(torch.randn(4, 3, 107, 107))
    torch.save(network.state_dict(), folder / INCEPTION_FILE)
    return folder


@pytest.fixture
def theirs(inception_weights, monkeypatch):
    """pytorch-fid's own network with that file."""
    from pytorch_fid import inception

    state = torch.load(inception_weights / INCEPTION_FILE, weights_only=True)
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    network = inception.InceptionV3([3]).eval()
    monkeypatch.undo()
    monkeypatch.setenv("GANTK_WEIGHTS", str(inception_weights))
    return network


def test_inception_features_are_pytorch_fids_own(theirs, tmp_path):
    from PIL import Image
    from pytorch_fid.fid_score import get_activations

    pictures = np.random.default_rng(0).integers(0, 256, (3, 40, 52, 3), dtype=np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, picture in zip(files, pictures, strict=True):
        Image.fromarray(picture).save(file)
    expected = get_activations(files, theirs, batch_size=3, num_workers=0)
    features = Features("inception", 255.0, 2)
    assert features.what == "inception-2048" and features.suffix == ""
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    found = features(images)
    assert found.shape == (3, 2048) and expected.std(0).mean() > 0.01
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    gray = features(images[:1, :1])
    with torch.no_grad():
        pooled = theirs(images[:1, :1].expand(-1, 3, -1, -1) / 255)[0].flatten(1).numpy()
    assert np.allclose(gray, pooled, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_the_published_features_alone_give_a_score_its_plain_name(monkeypatch):
    monkeypatch.setattr("gantk.metrics.features._Inception", nn.Identity)
    for metric, plain in ((Kid, "kid"), (Fid, "fid"), (Prdc, "prdc")):
        assert metric(2.0, 2, features="inception").name == plain
        assert metric(2.0, 2).name == f"{plain}_random"
