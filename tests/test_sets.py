"""Scores of sets agree with their formulas, know alike from different, and say what they looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gantk.errors import UserError
from gantk.metrics.bootstrap import left_out_interval
from gantk.metrics.features import INCEPTION_FILE, Features, RandomConv
from gantk.metrics.pairs import MSSSIM
from gantk.metrics.sets import Diversity, Fid, ImageGroup, Kid, different_pairs, frechet, kernels, squared_mmd


def blobs(count: int, seed: int = 0, size=(32, 32), width: float = 5.0, channels: int = 1) -> torch.Tensor:
    """Images of one soft disc each, at a random place, from 0 to 2."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*[np.arange(side) for side in size], indexing="ij")
    images = []
    for _ in range(count * channels):
        centre = [rng.uniform(0.3, 0.7) * side for side in size]
        radius = sum((grid - c) ** 2 for grid, c in zip(grids, centre, strict=True))
        images.append(2 * np.exp(-radius / (2 * width**2)))
    return torch.tensor(np.array(images), dtype=torch.float32).reshape(count, channels, *size)


def group(images: torch.Tensor, named: str = "") -> ImageGroup:
    return ImageGroup(images, [f"{named}{i}" if named else "" for i in range(len(images))])


def test_kid_is_its_formula_in_plain_loops():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(7, 5)), rng.normal(0.5, 1, (6, 5))

    def k(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / 5 + 1) ** 3

    inside = [
        sum(k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j) / (len(x) * (len(x) - 1))
        for x in (real, fake)
    ]
    across = sum(k(x, y) for x in real for y in fake) / 42
    assert squared_mmd(*kernels(real, fake)) == pytest.approx(sum(inside) - 2 * across, rel=1e-12)


def test_kid_is_zero_on_average_for_one_distribution():
    rng = np.random.default_rng(1)
    values = [squared_mmd(*kernels(rng.normal(size=(20, 8)), rng.normal(size=(30, 8)))) for _ in range(400)]
    error = np.std(values) / 20
    assert abs(np.mean(values)) < 3 * error
    biased = [np.mean(k[0]) + np.mean(k[1]) - 2 * np.mean(k[2]) for k in
              [kernels(rng.normal(size=(20, 8)), rng.normal(size=(30, 8))) for _ in range(100)]]  # fmt: skip
    assert np.mean(biased) > 10 * error


def test_the_frechet_distance_is_that_of_the_two_gaussians():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(2)
    real, fake = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)), rng.normal(1, 2, (40, 4))
    s1, s2 = np.cov(real.T), np.cov(fake.T)
    expected = np.square(real.mean(0) - fake.mean(0)).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert frechet(real, fake) == pytest.approx(expected, rel=1e-9)
    # in one dimension (m1 - m2)^2 + (s1 - s2)^2
    x, y = real[:, :1], fake[:, :1]
    assert frechet(x, y) == pytest.approx((x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2)
    assert frechet(real, real) == pytest.approx(0, abs=1e-9)


def test_the_frechet_distance_is_exact_with_fewer_images_than_features():
    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(6, 40)), rng.normal(size=(8, 40))
    values = np.linalg.eigvals(np.cov(real.T) @ np.cov(fake.T)).real.clip(0)
    expected = np.square(real.mean(0) - fake.mean(0)).sum() + np.cov(real.T).trace() + np.cov(fake.T).trace()
    assert frechet(real, fake) == pytest.approx(expected - 2 * np.sqrt(values[values > 1e-9]).sum(), rel=1e-6)


@pytest.mark.parametrize("metric", [Kid, Fid])
def test_a_distance_is_small_for_two_halves_and_grows_as_images_differ(metric):
    train, test = group(blobs(40, 0)), group(blobs(40, 1), "p")
    score = metric(2.0, 2)
    same, near, far = (
        score(train, test, group(images))
        for images in (blobs(40, 2), blobs(40, 2, width=6.0), 2 * torch.rand(40, 1, 32, 32))
    )
    assert same.value < near.value < far.value
    assert same.ci95[0] <= same.value <= same.ci95[1] < far.ci95[0]
    if metric is Kid:
        assert same.ci95[0] < 0 < same.ci95[1] and near.ci95[0] > 0


@pytest.mark.parametrize("metric", [Kid, Fid, Diversity])
def test_a_score_is_the_same_twice_and_carries_what_it_looked_at(metric):
    train, test, fake = group(blobs(12, 0)), group(blobs(9, 1)), group(blobs(14, 2))
    once, again = (metric(2.0, 2)(*(ImageGroup(g.images, g.patients) for g in (train, test, fake))) for _ in range(2))
    assert once == again and once.n == 14 and "n=14,real=9" in once.definition
    if metric is not Diversity:
        assert "features=random-conv-256-seed-0" in once.definition
        assert metric(2.0, 2).name.endswith("_random")  # the plain name is that of the published features


def test_large_sets_are_compared_in_subsets(monkeypatch):
    monkeypatch.setattr("gantk.metrics.sets.SUBSET", 8)
    monkeypatch.setattr("gantk.metrics.sets.SUBSETS", 20)
    found = Kid(2.0, 2)(group(blobs(12, 0)), group(blobs(12, 1)), group(blobs(12, 2, width=6.0)))
    assert found.definition.endswith("subsets=20x8") and found.ci95[0] < found.value < found.ci95[1]


@pytest.mark.parametrize("metric", [Kid, Fid, Diversity])
def test_a_single_image_is_no_set(metric):
    with pytest.raises(UserError, match="2 or more"):
        metric(2.0, 2)(group(blobs(4)), group(blobs(1)), group(blobs(4)))


# ---- intervals


def test_leaving_out_gives_the_textbook_interval_of_a_difference_of_means():
    rng = np.random.default_rng(4)
    real, fake = rng.normal(size=15), rng.normal(size=12)
    low, high = left_out_interval(lambda r, f: real[r].mean() - fake[f].mean(), [""] * 15, [""] * 12)
    error = np.sqrt(real.var(ddof=1) / 15 + fake.var(ddof=1) / 12)
    assert (low + high) / 2 == pytest.approx(real.mean() - fake.mean())
    assert (high - low) / 2 == pytest.approx(2.20099 * error, rel=1e-4)  # Student's t of 11 degrees of freedom


def test_images_of_one_patient_are_left_out_together():
    values = np.repeat(np.random.default_rng(5).normal(size=6), 5)
    fake = np.zeros(30)

    def width(patients):
        low, high = left_out_interval(lambda r, f: values[r].mean() - fake[f].mean(), patients, [""] * 30)
        return high - low

    assert width([f"p{i // 5}" for i in range(30)]) > 2 * width([""] * 30)
    for nobody in (["p"] * 30, ["p", "q"]):  # one patient; two images, of which one would be left
        assert left_out_interval(lambda r, f: values[r].mean(), nobody, [""] * 30) is None


# ---- features


def test_random_features_are_the_same_for_a_seed_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    x = blobs(3) / 2
    assert torch.equal(RandomConv(0)(x), RandomConv(0)(x)) and not torch.equal(RandomConv(0)(x), RandomConv(1)(x))
    assert torch.equal(state, torch.get_rng_state())
    assert Features("random", 2.0, 2)(blobs(3)).shape == (3, 256)
    assert Features("random", 2.0, 2)(blobs(3)).dtype == np.float64


def test_features_see_each_contrast_and_each_middle_slice():
    two = blobs(4, channels=2)
    features = Features("random", 2.0, 2)
    apart = np.concatenate([features(two[:, :1]), features(two[:, 1:])], 1)
    assert np.allclose(features(two), apart, atol=1e-6)
    volumes = blobs(2, size=(12, 14, 16))
    solid = Features("random", 2.0, 3)
    assert solid(volumes).shape == (2, 768) and "middle-slices" in solid.what
    assert np.allclose(solid(volumes)[:, :256], features(volumes[:, :, 6]), atol=1e-6)


def test_features_do_not_depend_on_the_range_or_on_the_company():
    images = blobs(40)
    features = Features("random", 2.0, 2)(images)
    assert np.allclose(features, Features("random", 1.0, 2)(images / 2), atol=1e-6)
    assert np.allclose(features[5:6], Features("random", 2.0, 2)(images[5:6]), atol=1e-5)


def test_large_images_are_looked_at_smaller():
    large = torch.nn.functional.interpolate(blobs(2, size=(128, 128), width=20), scale_factor=2)
    assert np.allclose(Features("random", 2.0, 2)(large), Features("random", 2.0, 2)(large[..., ::2, ::2]), atol=1e-5)


def test_absent_inception_weights_are_one_clear_error(tmp_path, monkeypatch):
    from pytorch_fid import inception

    def no_network(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(inception, "load_state_dict_from_url", no_network)
    with pytest.raises(UserError) as error:
        Kid(2.0, 2, features="inception")
    assert INCEPTION_FILE in str(error.value) and "GANTK_WEIGHTS" in str(error.value)
    assert inception.load_state_dict_from_url is no_network


def test_inception_takes_its_weights_from_a_file_and_gives_the_plain_name(tmp_path, monkeypatch):
    from pytorch_fid import inception

    with torch.random.fork_rng():  # what the file would hold, with weights of no meaning
        monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
        network = inception.fid_inception_v3()
        monkeypatch.undo()
    torch.save(network.state_dict(), tmp_path / INCEPTION_FILE)
    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path))
    score = Kid(2.0, 2, features="inception")
    assert score.name == "kid" and "inception-2048" in score.definition
    assert Fid(2.0, 2, features="inception").name == "fid"
    assert score.features(blobs(2)).shape == (2, 2048)


# ---- diversity


def test_diversity_is_one_for_real_images_low_for_copies_and_above_one_for_noise():
    train, test = group(blobs(30, 0)), group(blobs(30, 1))
    copies = blobs(1, 2).repeat(20, 1, 1, 1) + 0.01 * torch.rand(20, 1, 32, 32)
    for distance in ("ms_ssim", "l1"):
        score = Diversity(2.0, 2, distance=distance)
        assert score(train, test, group(blobs(30, 3))).value == pytest.approx(1, abs=0.15)
        found = score(train, test, group(copies))
        assert found.value < 0.1 and found.ci95[1] < 0.5
    assert Diversity(2.0, 2)(train, test, group(2 * torch.rand(20, 1, 32, 32))).value > 1


def test_real_pairs_are_of_different_patients():
    pairs = different_pairs(["p", "p", "q", "q", "", ""])
    names = [{"ppqq"[i] if i < 4 else i for i in pair} for pair in pairs.tolist()]
    assert len(pairs) == 13 and all(len(pair) == 2 for pair in names)
    assert len(different_pairs(["p"] * 4)) == 6
    assert len(different_pairs([""] * 400)) == 512


def test_ms_ssim_of_one_scale_is_ssim_and_of_equal_images_is_one():
    from gantk.metrics.pairs import SSIM

    x, y = blobs(3, 0, size=(20, 20)), blobs(3, 1, size=(20, 20))
    assert torch.allclose(MSSSIM(2.0, 2)(x, y), SSIM(2.0, 2)(x, y).clamp_min(0), atol=1e-6)
    big = blobs(2, 0, size=(64, 64))
    assert torch.allclose(MSSSIM(2.0, 2)(big, big), torch.ones(2), atol=1e-5)
    assert (MSSSIM(2.0, 2)(big, big.flip(0)) < 0.9).all()
    solid = blobs(1, 0, size=(24, 24, 24))
    assert MSSSIM(2.0, 3)(solid, solid).item() == pytest.approx(1, abs=1e-5)
