"""The scores agree with their references, the baselines are what they claim, and intervals count patients."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from gantk.errors import UserError
from gantk.metrics.baselines import HistogramMatching, IntensityMap, identity, linearly_corrected
from gantk.metrics.bootstrap import estimate, per_patient, probability_better
from gantk.metrics.pairs import MAE, NRMSE, PSNR, SSIM

METRICS = [PSNR, SSIM, MAE, NRMSE]


def pair(shape, seed: int = 0, error: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth truth in [-1, 1] and a noisy output of it."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(shape, generator=generator).cumsum(-1)
    truth = 1.6 * truth / truth.amax() - 0.8
    return truth + error * torch.randn(shape, generator=generator), truth


def test_psnr_is_that_of_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio

    output, truth = pair((3, 1, 20, 24))
    expected = [peak_signal_noise_ratio(t.numpy(), o.numpy(), data_range=2) for o, t in zip(output, truth, strict=True)]
    assert PSNR(2.0, 2)(output, truth).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [(24, 30), (14, 13, 12)])
@pytest.mark.parametrize("error", [0.02, 0.3])
def test_ssim_is_that_of_scikit_image(size, error):
    from skimage.metrics import structural_similarity

    output, truth = pair((2, 1, *size), error=error)
    expected = [
        structural_similarity(
            t[0].numpy(), o[0].numpy(), data_range=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for o, t in zip(output, truth, strict=True)
    ]
    assert SSIM(2.0, len(size))(output, truth).tolist() == pytest.approx(expected, abs=1e-4)


def test_mae_and_nrmse_values():
    truth, output = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.0, 1.0], [1.0, -1.0]]]])
    assert MAE(2.0, 2)(output, truth).item() == pytest.approx(0.75)
    assert NRMSE(2.0, 2)(output, truth).item() == pytest.approx(math.sqrt(0.75) / 2)
    assert NRMSE(2.0, 2)(truth - 1, truth + 1).item() == pytest.approx(1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dims", [2, 3])
def test_a_better_image_scores_better_in_the_stated_sense(metric, dims):
    shape = (2, 2, *[13] * dims)
    near, truth = pair(shape, error=0.1)
    far, _ = pair(shape, error=0.4)
    score = metric(2.0, dims)
    gain = score(near, truth) - score(far, truth)
    assert gain.shape == (2,) and gain.dtype == torch.float32
    assert ((gain > 0) == score.higher_is_better).all()


@pytest.mark.parametrize("metric", METRICS)
def test_no_score_depends_on_the_images_own_maximum(metric):
    # One far outlier in output and truth alike: a range of max - min would raise PSNR and lower NRMSE.
    output, truth = pair((1, 1, 16, 16))
    score = metric(2.0, 2)
    mask = torch.ones(1, 1, 16, 16)
    mask[..., 0, 0] = 0
    spiked = [x.clone() for x in (output, truth)]
    for x in spiked:
        x[..., 0, 0] = 50.0
    if metric is not SSIM:  # whose windows contain the spike by definition
        assert score(*spiked, mask).item() == pytest.approx(score(output, truth, mask).item(), abs=1e-6)
    quarter = metric(8.0, 2)
    expected = {
        PSNR: score(output, truth) + 20 * math.log10(4),
        MAE: score(output, truth),
        NRMSE: score(output, truth) / 4,
        SSIM: metric(2.0, 2)(output / 4, truth / 4),
    }[metric]
    assert quarter(output, truth).item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_an_inverted_image_is_not_mistaken_for_a_good_one(metric):
    output, truth = pair((1, 1, 16, 16), error=0.05)
    score = metric(2.0, 2)
    gap = score(output, truth) - score(-output, truth)
    assert gap.item() > 0.2 if score.higher_is_better else gap.item() < -0.1


@pytest.mark.parametrize("metric", METRICS)
def test_identical_images_score_perfectly_and_finitely(metric):
    _, truth = pair((2, 1, 16, 16))
    values = metric(2.0, 2)(truth, truth).tolist()
    assert values == pytest.approx([{PSNR: 100.0, SSIM: 1.0}.get(metric, 0.0)] * 2, abs=1e-6)
    assert "Infinity" not in json.dumps(values)
    assert PSNR(2.0, 2)(truth + 1e-7, truth).max() <= 100


@pytest.mark.parametrize("metric", METRICS)
def test_a_mask_limits_the_score_to_its_region(metric):
    output, truth = pair((2, 2, 24, 24))
    score, mask = metric(2.0, 2), torch.zeros(2, 1, 24, 24)
    mask[..., 8:18, 8:18] = 1
    spoiled = output.clone()
    spoiled[..., 22:, :] = 9.0  # outside, and for SSIM beyond every window of the masked centres
    inside = mask.clone()
    inside[..., 17:, :] = 0
    assert torch.equal(score(output, truth, inside), score(spoiled, truth, inside))
    assert not torch.allclose(score(output, truth, mask), score(output, truth))
    assert score(output, truth, torch.zeros_like(mask)).isnan().all()
    assert torch.allclose(score(output, truth, torch.ones_like(mask)), score(output, truth), atol=1e-6)


def test_definitions_say_how_the_number_was_made():
    definitions = {m.name: m.definition for m in (metric(2.0, 2) for metric in METRICS)}
    assert definitions == {
        "psnr": "psnr/fixed-range-2/at-most-100-dB/whole-image",
        "ssim": "ssim/fixed-range-2/gaussian-11-1.5/whole-image",
        "mae": "mae/fixed-range-2/whole-image",
        "nrmse": "nrmse/fixed-range-2/whole-image",
    }
    assert PSNR(2.0, 2).in_mask.endswith("/mask") and PSNR(2.0, 2).unit == "dB"


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_ignore_autocast(metric):
    output, truth = pair((1, 1, 16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        cast = metric(2.0, 2)(output, truth)
    assert torch.equal(cast, metric(2.0, 2)(output, truth))


def test_metrics_name_what_they_cannot_compare():
    x = torch.zeros(1, 1, 16, 16)
    for make, word in (
        (lambda: PSNR(0.0, 2), "data range"),
        (lambda: MAE(2.0, 2)(x, x[..., :8]), "(1, 1, 16, 8)"),
        (lambda: MAE(2.0, 3)(x, x), "3-D"),
        (lambda: SSIM(2.0, 2)(x[..., :9], x[..., :9]), "11 or more"),
    ):
        with pytest.raises(UserError) as error:
            make()
        assert word in str(error.value)


# ---- baselines


def test_identity_gives_the_source_in_the_targets_channels():
    x = torch.rand(2, 3, 4, 4)
    assert identity(x) is x and identity(x, 3) is x
    assert identity(x, 1).shape == (2, 1, 4, 4) and torch.allclose(identity(x, 1), x.mean(1, keepdim=True))
    assert identity(x[:, :1], 3).shape == (2, 3, 4, 4)


def test_histogram_matching_gives_the_targets_distribution_and_keeps_the_order():
    source = torch.rand(2, 1, 40, 40) * 2 - 1
    target = [torch.randn(1, 30, 30) * 0.2 + 0.4 for _ in range(4)]
    matched = HistogramMatching(target)(source)
    pool = torch.cat([t.flatten() for t in target])
    levels = torch.linspace(0.05, 0.95, 10)
    assert torch.allclose(matched[0].flatten().quantile(levels), pool.quantile(levels), atol=0.02)
    order = source[0].flatten().argsort()
    assert (matched[0].flatten()[order].diff() >= 0).all()
    assert matched.dtype == torch.float32 and matched.shape == source.shape


def test_histogram_matching_keeps_air_one_value():
    source = torch.full((1, 1, 20, 20), -1.0)
    source[..., :10] = torch.rand(1, 1, 20, 10)
    target = [torch.where(torch.rand(1, 20, 20) < 0.4, -0.9, torch.rand(1, 20, 20)) for _ in range(3)]
    assert torch.allclose(HistogramMatching(target)(source)[..., 10:], torch.tensor(-0.9), atol=1e-6)


def test_the_intensity_map_finds_any_function_of_intensity():
    source = [torch.rand(1, 48, 48) * 2 - 1 for _ in range(3)]
    pairs = [(s, torch.cat([(3 * s).sin(), -s.abs()])) for s in source]  # neither is monotone
    test = torch.rand(2, 1, 16, 16) * 2 - 1
    mapped = IntensityMap(pairs)(test)
    assert mapped.shape == (2, 2, 16, 16)
    assert torch.allclose(mapped, torch.cat([(3 * test).sin(), -test.abs()], 1), atol=0.03)


def test_the_intensity_map_is_the_mean_where_targets_differ():
    source = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    target = torch.tensor([[[0.0, 1.0, 4.0, 6.0]]])
    mapped = IntensityMap([(source, target)])(torch.tensor([[[[0.0, 0.5, 1.0, 2.0]]]]))
    assert mapped.flatten().tolist() == pytest.approx([0.5, 2.75, 5.0, 5.0])
    constant = IntensityMap([(torch.ones(1, 4, 4), torch.ones(1, 4, 4) * 3)])
    assert constant(torch.zeros(1, 1, 4, 4)).unique().item() == 3


def test_the_intensity_map_beats_every_linear_map_on_its_training_pairs():
    source = torch.rand(4, 1, 32, 32)
    target = (source - 0.5).abs() + 0.05 * torch.randn(4, 1, 32, 32)
    mapped = IntensityMap(list(zip(source, target, strict=True)))(source)
    assert (mapped - target).square().mean() < (linearly_corrected(source, target) - target).square().mean()


def test_baselines_without_training_images_say_so():
    with pytest.raises(UserError, match="pairs"):
        IntensityMap([])
    with pytest.raises(UserError, match="target domain"):
        HistogramMatching([])


def test_linear_correction_undoes_brightness_and_contrast_and_nothing_else():
    _, truth = pair((2, 2, 12, 12))
    scale = torch.tensor([[0.5, -2.0], [3.0, 0.1]])[:, :, None, None]
    assert torch.allclose(linearly_corrected(scale * truth + 0.3, truth), truth, atol=1e-5)
    curved = linearly_corrected(truth.square(), truth)
    assert (curved - truth).abs().mean() > 0.01
    constant = linearly_corrected(torch.full_like(truth, 0.2), truth)
    assert torch.allclose(constant, truth.mean((2, 3), keepdim=True).expand_as(truth), atol=1e-6)


def test_linear_correction_in_a_mask_ignores_what_is_outside():
    _, truth = pair((1, 1, 12, 12))
    output, mask = 0.5 * truth - 0.2, torch.ones(1, 1, 12, 12)
    output[..., :3], mask[..., :3] = 7.0, 0
    corrected = linearly_corrected(output, truth, mask)
    assert torch.allclose(corrected[..., 3:], truth[..., 3:], atol=1e-5)


# ---- patients and intervals


def test_patients_count_alike_however_many_images_they_have():
    values, patients = [1.0, 1.0, 1.0, 4.0], ["p", "p", "p", "q"]
    assert per_patient(values, patients) == {"p": 1.0, "q": 4.0}
    assert estimate(values, patients).value == 2.5 and estimate(values, patients).n == 2


def test_unknown_patients_are_their_own_and_nan_is_left_out():
    assert estimate([1.0, 2.0, math.nan], ["", "", ""]).n == 2
    assert estimate([1.0, math.nan], ["p", "p"]).value == 1.0
    empty = estimate([math.nan], ["p"])
    assert empty.value is None and empty.ci95 is None and empty.n == 0


def test_one_patient_has_no_interval():
    alone = estimate([1.0, 3.0], ["p", "p"])
    assert alone.value == 2.0 and alone.ci95 is None and alone.n == 1
    assert probability_better([1.0, 3.0], [0.0, 0.0], ["p", "p"], higher_is_better=True) is None


def test_intervals_are_seeded_and_cover_the_mean():
    values = np.random.default_rng(1).normal(20, 2, 30).tolist()
    patients = [f"p{i}" for i in range(30)]
    first = estimate(values, patients)
    assert first == estimate(values, patients) != estimate(values, patients, seed=1)
    low, high = first.ci95
    assert low < first.value < high
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / math.sqrt(30), rel=0.15)


def test_intervals_widen_when_images_share_patients():
    values = np.repeat(np.random.default_rng(2).normal(20, 2, 8), 10).tolist()
    apart = estimate(values, [f"p{i}" for i in range(80)]).ci95
    shared = estimate(values, [f"p{i // 10}" for i in range(80)]).ci95
    assert shared[1] - shared[0] > 2 * (apart[1] - apart[0])


def test_the_paired_comparison_sees_a_small_steady_gain_and_its_sign():
    baseline = np.random.default_rng(3).normal(20, 5, 12)
    patients = [f"p{i}" for i in range(12)]
    model = baseline + 0.1
    assert probability_better(model, baseline, patients, higher_is_better=True) == 1.0
    assert probability_better(model, baseline, patients, higher_is_better=False) == 0.0
    assert probability_better(baseline, baseline, patients, higher_is_better=True) == 0.5
