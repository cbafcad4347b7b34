"""Scores of sets agree with their formulas, know alike from different, and say what they looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gantk.errors import UserError
from gantk.metrics import distances, neighbours
from gantk.metrics.bootstrap import left_out_interval, parts_of
from gantk.metrics.distances import (
    KernelSums,
    frechet,
    kernels,
    parts_interval,
    squared_distances,
    squared_mmd,
)
from gantk.metrics.diversity import Diversity, different_pairs
from gantk.metrics.neighbours import Neighbourhoods, Prdc, expected_coverage
from gantk.metrics.pairs import MSSSIM
from gantk.metrics.scoring import set_rows
from gantk.metrics.sets import Fid, ImageGroup, Kid


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
    assert "/subsets=20x8" in found.definition and found.ci95[0] < found.value < found.ci95[1]
    small = Kid(2.0, 2)(group(blobs(12, 0)), group(blobs(8, 1)), group(blobs(12, 2, width=6.0)))
    assert "/whole-sets" in small.definition


def test_subsets_are_of_the_size_that_was_asked_for_and_agree_with_the_whole():
    train, test, fake = group(blobs(30, 0)), group(blobs(40, 1)), group(blobs(40, 2, width=6.0))
    whole, drawn = (Kid(2.0, 2, subset=size)(train, test, fake) for size in (0, 20))
    assert "/whole-sets" in whole.definition and "/subsets=100x20" in drawn.definition
    assert drawn.value == pytest.approx(whole.value, rel=0.1) and drawn.value != whole.value
    assert drawn.ci95[1] - drawn.ci95[0] == pytest.approx(whole.ci95[1] - whole.ci95[0])
    assert sum(drawn.ci95) / 2 == pytest.approx(drawn.value)
    with pytest.raises(UserError, match="41 or more.*subset = 0"):
        Kid(2.0, 2, subset=41)(train, test, fake)
    for size in (1, -3):
        with pytest.raises(UserError, match="subset"):
            Kid(2.0, 2, subset=size)


@pytest.mark.parametrize("metric, least", [(Kid, 2), (Fid, 8), (Prdc, 6), (Diversity, 2)])
def test_too_few_images_are_refused(metric, least):
    few, enough = group(blobs(least - 1)), group(blobs(least + 2))
    for sets in ((few, enough), (enough, few)):
        with pytest.raises(UserError, match=f"{least} or more"):
            metric(2.0, 2)(enough, *sets)
    found = metric(2.0, 2)(enough, group(blobs(least)), group(blobs(least, 1)))
    if metric is Prdc:  # without one image there is no fifth neighbour
        assert all(score.ci95 is None for score in found.values())


def test_a_refused_frechet_distance_names_its_alternative_and_costs_a_training_nothing_else():
    sets = group(blobs(9)), group(blobs(7)), group(blobs(9))
    row = set_rows(Fid(2.0, 2), *sets)["fid_random"]
    assert row["value"] is None and "not-computed" in row["definition"] and "use kid" in row["definition"]
    assert set_rows(Kid(2.0, 2), *sets)["kid_random"]["value"] is not None


def test_few_images_are_said_in_the_definition_and_in_a_warning(monkeypatch):
    sets = [group(blobs(40, seed)) for seed in range(3)]
    fid, kid = Fid(2.0, 2)(*sets), Kid(2.0, 2)(sets[0], group(blobs(32, 1)), sets[2])
    assert "biased-upwards-below-2048-images" in fid.definition and "2048" in fid.details["warning"]
    assert "few" not in kid.definition and not kid.details
    few = Kid(2.0, 2)(sets[0], group(blobs(31)), sets[2])
    assert few.definition.endswith("/few-images") and "32" in few.details["warning"]
    monkeypatch.setattr("gantk.metrics.sets.FID_FEW", 40)
    assert "biased" not in Fid(2.0, 2)(*sets).definition and not Fid(2.0, 2)(*sets).details


def test_a_frechet_distance_falls_with_the_number_of_images_and_kid_does_not():
    rng = np.random.default_rng(7)
    draw = lambda n: rng.normal(size=(n, 16))  # noqa: E731
    fids, kids = {}, {}
    for n in (20, 320):
        drawn = [(draw(n), draw(n)) for _ in range(30)]
        fids[n] = np.mean([frechet(x, y) for x, y in drawn])
        kids[n] = [squared_mmd(*kernels(x, y)) for x, y in drawn]
    assert fids[20] > 5 * fids[320]
    assert abs(np.mean(kids[20])) < 3 * np.std(kids[20]) / 30**0.5


# ---- without some patients, in blocks


@pytest.fixture
def vectors():
    """Two sets, and the parts that their patients make."""
    rng = np.random.default_rng(11)
    patients = [f"p{i}" for i in rng.integers(0, 6, 23)]
    return rng.normal(size=(23, 5)), rng.normal(0.4, 1.2, (27, 5)), parts_of(patients), parts_of([""] * 27)


@pytest.mark.parametrize("block", [1, 40, 10**9])
def test_sums_in_blocks_are_the_kernels_of_whole_sets_and_of_every_part_left_out(vectors, block, monkeypatch):
    monkeypatch.setattr("gantk.metrics.distances.BLOCK", block)
    real, fake, of_real, of_fake = vectors
    sums = KernelSums.of(real, fake, of_real, of_fake)
    whole = np.ones(of_real.max() + 1, bool), np.ones(of_fake.max() + 1, bool)
    assert sums.squared_mmd(*whole) == pytest.approx(squared_mmd(*kernels(real, fake)), rel=1e-9)
    for part in range(of_real.max() + 1):
        kept = np.arange(of_real.max() + 1) != part
        expected = squared_mmd(*kernels(real[of_real != part], fake))
        assert sums.squared_mmd(kept, whole[1]) == pytest.approx(expected, rel=1e-9)
    expected = squared_mmd(*kernels(real, fake[of_fake != 3]))
    assert sums.squared_mmd(whole[0], np.arange(of_fake.max() + 1) != 3) == pytest.approx(expected, rel=1e-9)


def test_intervals_leave_out_the_same_images_in_blocks_as_at_once(vectors):
    real, fake, of_real, of_fake = vectors
    patients, makers = [f"p{part}" for part in of_real], [""] * len(fake)
    plain = left_out_interval(lambda r, f: squared_mmd(*kernels(real[r], fake[f])), patients, makers)
    sums = KernelSums.of(real, fake, parts_of(patients), parts_of(makers))
    found = parts_interval(sums.squared_mmd, parts_of(patients), parts_of(makers))
    assert found == pytest.approx(plain, rel=1e-9)


def test_the_interval_of_a_frechet_distance_is_that_of_its_formula(vectors):
    real, fake, of_real, _ = vectors
    patients = [f"p{part}" for part in of_real]
    what = "random-conv-256-seed-0"
    train = ImageGroup(blobs(2), ["", ""], found={what: np.array([[-1.5] * 5, [2.5] * 5])})  # mean 0.5, deviation 2
    sets = ImageGroup(blobs(23), patients, found={what: real}), ImageGroup(blobs(27), [""] * 27, found={what: fake})
    score = Fid(2.0, 2)(train, *sets)
    x, y = np.arcsinh((real - 0.5) / 2), np.arcsinh((fake - 0.5) / 2)
    assert score.value == pytest.approx(frechet(x, y))
    low, high = left_out_interval(lambda r, f: frechet(x[r], y[f]), patients, [""] * 27)
    assert score.ci95 == pytest.approx((max(0, low), high))


# ---- neighbours


def shares(real, fake, k=3, parts=None) -> dict[str, float]:
    parts = parts or [np.arange(len(x)) % 4 for x in (real, fake)]
    found = Neighbourhoods(real, fake, *parts, k)
    return found.shares(*(np.ones(p.max() + 1, bool) for p in parts))


def test_density_and_coverage_of_one_distribution_are_what_theory_says():
    rng, k = np.random.default_rng(5), 3
    drawn = [shares(rng.normal(size=(30, 4)), rng.normal(size=(24, 4)), k) for _ in range(300)]
    for name, expected in (("density", 1.0), ("coverage", expected_coverage(30, 24, k))):
        values = [each[name] for each in drawn]
        assert abs(np.mean(values) - expected) < 4 * np.std(values) / 300**0.5
    assert expected_coverage(30, 24, 3) == pytest.approx(1 - 29 * 28 * 27 / (53 * 52 * 51))


def test_precision_is_lost_by_bad_fakes_and_recall_by_missing_ones():
    rng = np.random.default_rng(6)
    real, narrow, wide = (rng.normal(0, width, (80, 3)) for width in (1, 0.2, 5))
    found = shares(real, narrow)
    assert found["precision"] > 0.95 and found["recall"] < 0.3 and found["coverage"] < 0.5
    found = shares(real, wide)
    assert found["precision"] < 0.4 and found["recall"] > 0.9 and found["density"] < 0.4
    assert shares(real, real) | {"density": 1} == {"precision": 1, "recall": 1, "density": 1, "coverage": 1}
    assert set(shares(real, real + 100).values()) == {0.0}


def test_a_ball_is_closed_and_nothing_is_its_own_neighbour():
    real = np.array([[-8.0], [-1.0], [1.0], [8.0]])  # nearest others at 7, 2, 2 and 7
    found = shares(real, np.array([[-15.0], [3.0], [-19.0], [16.0]]), k=1)
    assert found == {"precision": 0.5, "recall": 1.0, "density": 0.75, "coverage": 0.75}
    copies = np.zeros((6, 3)) + 1 / 3  # equal images are at distance 0, not at what rounding leaves
    assert set(shares(copies, copies, k=2, parts=[np.arange(6) % 2] * 2).values()) - {3.0} == {1.0}


def test_distances_are_exact_for_copies_and_for_what_nearly_is_one():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(50, 300)) + 2
    near = x + 1e-4 * rng.normal(size=x.shape)
    assert (np.diag(squared_distances(x, x.copy())) == 0).all()
    assert np.allclose(np.diag(squared_distances(x, near)), np.square(x - near).sum(1), rtol=1e-5, atol=0)


def test_prdc_is_four_scores_with_names_intervals_and_what_they_looked_at():
    train, test, fake = group(blobs(30, 0)), group(blobs(30, 1), "p"), group(blobs(40, 2))
    metric = Prdc(2.0, 2, k=3)
    scores = metric(train, test, fake)
    assert list(scores) == ["precision_random", "recall_random", "density_random", "coverage_random"]
    for name, score in scores.items():
        assert score.definition.startswith(name.removesuffix("_random") + "/k=3/features=random-conv-256-seed-0")
        assert "n=40,real=30" in score.definition and "depends-on-n-below-1000" in score.definition
        assert score.n == 40 and "number of images" in score.details["warning"]
        assert score.ci95 is None or score.ci95[0] < score.value < score.ci95[1] or score.value in (0, 1)
    assert scores["coverage_random"].details["if_alike"] == pytest.approx(expected_coverage(30, 40, 3))
    noise = metric(train, test, group(2 * torch.rand(40, 1, 32, 32)))
    assert noise["precision_random"].value == noise["coverage_random"].value == 0 < scores["coverage_random"].value
    assert noise["precision_random"].ci95 is None  # leaving out changes nothing, which says nothing
    assert scores["density_random"].ci95[0] < scores["density_random"].value < scores["density_random"].ci95[1]
    alone = metric(train, ImageGroup(test.images, ["p"] * 30), fake)
    assert all(score.ci95 is None for score in alone.values())
    with pytest.raises(UserError, match="k = 0"):
        Prdc(2.0, 2, k=0)


def test_memory_does_not_grow_with_the_number_of_pairs(monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", 1000)
    largest = []
    for module, name in ((neighbours, "squared_distances"), (distances, "_kernel")):
        known = getattr(module, name)
        counted = lambda x, y, known=known: largest.append(len(x) * len(y)) or known(x, y)  # noqa: E731
        monkeypatch.setattr(module, name, counted)
    x = np.random.default_rng(0).normal(size=(90, 3))
    parts = np.arange(90) % 5
    Neighbourhoods(x, x, parts, parts, 3)
    KernelSums.of(x, x, parts, parts)
    assert len(largest) > 40 and max(largest) <= 1000


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
