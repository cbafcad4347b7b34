"""Pair metrics agree with scikit-image, torchmetrics, the package lpips and closed forms, and keep their promises."""

from __future__ import annotations

import math
import urllib.error

import numpy as np
import pytest
import torch
from test_metrics import pair

from gantk.errors import UserError
from gantk.metrics.aggregation import Values, of_volumes, per_level
from gantk.metrics.baselines import linearly_corrected
from gantk.metrics.bootstrap import estimate, estimate_alike, probability_better
from gantk.metrics.pair_scores import PairScorer, Truth
from gantk.metrics.pairs import MAE, MSSSIM, NRMSE, PSNR, RMSE, SSIM
from gantk.metrics.perceptual import FILES, LPIPS
from gantk.metrics.uncertainty import foreground
from gantk.metrics.units import Units
from gantk.metrics.verdicts import pair_verdict, set_verdict

SIZES = {2: (24, 30), 3: (14, 13, 12)}
METRICS = [PSNR, SSIM, MSSSIM, MAE, RMSE, NRMSE]
MAPS = [PSNR, SSIM, MAE, RMSE, NRMSE]


# ---- the libraries of reference


def inner(similarity: torch.Tensor) -> torch.Tensor:
    """The windows that lie wholly inside the image: torchmetrics mirrors the image to have others too."""
    for axis in range(2, similarity.ndim):
        similarity = similarity.narrow(axis, 5, similarity.shape[axis] - 10)
    return similarity


@pytest.mark.parametrize("dims", [2, 3])
def test_psnr_and_nrmse_are_those_of_scikit_image(dims):
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

    output, truth = (x.numpy() for x in pair((3, 2, *SIZES[dims])))
    both = list(zip(truth, output, strict=True))
    psnr = [peak_signal_noise_ratio(t, o, data_range=3.5) for t, o in both]
    rmse = [mean_squared_error(t, o) ** 0.5 for t, o in both]
    made, real = torch.from_numpy(output), torch.from_numpy(truth)
    assert PSNR(3.5, dims)(made, real).tolist() == pytest.approx(psnr, abs=1e-4)
    assert RMSE(3.5, dims)(made, real).tolist() == pytest.approx(rmse, rel=1e-5)
    assert NRMSE(3.5, dims)(made, real).tolist() == pytest.approx([each / 3.5 for each in rmse], rel=1e-5)


def test_nrmse_divides_by_the_stated_range_as_scikit_image_does_by_the_images_own():
    from skimage.metrics import normalized_root_mse

    output, truth = pair((1, 1, 20, 24))
    own = float(truth.max() - truth.min())
    expected = normalized_root_mse(truth.numpy(), output.numpy(), normalization="min-max")
    assert NRMSE(own, 2)(output, truth).item() == pytest.approx(expected, rel=1e-5)
    assert NRMSE(2 * own, 2)(output, truth).item() == pytest.approx(expected / 2, rel=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_ssim_of_several_channels_is_the_mean_of_scikit_images_over_them(dims):
    from skimage.metrics import structural_similarity

    output, truth = pair((1, 2, *SIZES[dims]))
    options = dict(data_range=3.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    expected = structural_similarity(truth[0].numpy(), output[0].numpy(), channel_axis=0, **options)
    assert SSIM(3.0, dims)(output, truth).item() == pytest.approx(expected, abs=1e-4)


def test_ssim_in_a_mask_is_the_mean_of_scikit_images_map_over_it():
    from skimage.metrics import structural_similarity

    output, truth = pair((1, 1, 32, 30))
    options = dict(data_range=2.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    _, whole = structural_similarity(truth[0, 0].numpy(), output[0, 0].numpy(), full=True, **options)
    mask = torch.zeros(1, 1, 32, 30)
    mask[..., 6:20, 9:14] = 1
    expected = whole[mask[0, 0].numpy() > 0].mean()
    assert SSIM(2.0, 2)(output, truth, mask).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_psnr_and_ssim_are_those_of_torchmetrics(dims):
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    output, truth = pair((2, 1, *SIZES[dims]))
    axes = tuple(range(1, dims + 2))
    psnr = peak_signal_noise_ratio(output, truth, data_range=2.5, dim=axes, reduction="none")
    assert torch.allclose(PSNR(2.5, dims)(output, truth), psnr, atol=1e-4)
    _, whole = structural_similarity_index_measure(output, truth, data_range=2.5, return_full_image=True)
    assert torch.allclose(SSIM(2.5, dims)(output, truth), inner(whole).flatten(1).mean(1), atol=1e-4)


@pytest.mark.parametrize(("size", "scales"), [((176, 180), 5), ((50, 47), 3), ((26, 24, 24), 2), ((21, 40), 1)])
def test_ms_ssim_is_made_of_torchmetrics_contrast_and_similarity(size, scales):
    from torch.nn.functional import avg_pool2d, avg_pool3d
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    output, truth = pair((2, 1, *size), error=0.4)
    published = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[:scales]
    expected, made, real = torch.ones(2), output, truth
    for weight in published[:-1]:
        _, contrast = ssim(made, real, data_range=2.5, reduction="none", return_contrast_sensitivity=True)
        expected = expected * contrast ** (weight / sum(published))
        made, real = ((avg_pool2d if len(size) == 2 else avg_pool3d)(x, 2) for x in (made, real))
    _, whole = ssim(made, real, data_range=2.5, return_full_image=True)
    expected = expected * inner(whole).flatten(1).mean(1) ** (published[-1] / sum(published))
    assert torch.allclose(MSSSIM(2.5, len(size))(output, truth), expected, atol=1e-4)
    assert expected.min() > 0.1 and expected.max() < 0.95


def test_ms_ssim_is_that_of_torchmetrics_but_for_windows_beyond_the_border():
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    output, truth = pair((2, 1, 208, 200), error=0.4)
    expected = multiscale_structural_similarity_index_measure(
        output, truth, data_range=2.5, reduction="none", normalize="relu"
    )
    assert torch.allclose(MSSSIM(2.5, 2)(output, truth), expected, atol=5e-3)


# ---- lpips


@pytest.fixture(scope="module")
def random_backbones(tmp_path_factory):
    """Files named and filled as torchvision's are, with weights of a seed."""
    from torchvision import models

    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for net, make in (("alex", models.alexnet), ("squeeze", models.squeezenet1_1)):
            torch.save(make(weights=None).state_dict(), folder / FILES[net])
    return folder


def packages_own(net: str, file) -> torch.nn.Module:
    """The package's metric with a backbone of that file, its linear weights those it was published with."""
    import lpips

    model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    held = torch.load(file, weights_only=True)
    state = {name: held[f"features.{name.partition('.')[2]}"] for name in model.net.state_dict()}
    model.net.load_state_dict(state)
    return model


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_lpips_is_that_of_its_package_for_colour_gray_and_volumes(net, random_backbones, monkeypatch):
    monkeypatch.setenv("GANTK_WEIGHTS", str(random_backbones))
    reference = packages_own(net, random_backbones / FILES[net])
    shift = lambda x: 2 * x / 3.0 - 1  # noqa: E731  from 0..3 to -1..1
    output, truth = (torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(seed)) * 3 for seed in (0, 1))
    metric = LPIPS(3.0, 2, net=net)
    assert metric.name == "lpips" and metric.definition.startswith(f"lpips/fixed-range-3/version-0.1/net={net}")
    with torch.no_grad():
        colour = reference(shift(output), shift(truth)).flatten()
        gray = [reference(*(shift(x[:, c : c + 1]).repeat(1, 3, 1, 1) for x in (output, truth))) for c in range(2)]
    assert torch.allclose(metric(output, truth), colour, atol=1e-6)
    assert torch.allclose(metric(output[:, :2], truth[:, :2]), (gray[0] + gray[1]).flatten() / 2, atol=1e-6)
    made, real = (x[:, :1, None].expand(-1, -1, 36, -1, -1).contiguous() for x in (output, truth))
    made[:, :, 1] = 9.0  # of a volume three slices through the middle are looked at
    solid = LPIPS(3.0, 3, net=net)
    with torch.no_grad():
        views = [reference(*(shift(x.select(a, x.shape[a] // 2)).repeat(1, 3, 1, 1) for x in (made, real)))
                 for a in (2, 3, 4)]  # fmt: skip
    assert torch.allclose(solid(made, real), sum(views).flatten() / 3, atol=1e-6)
    assert solid.definition.endswith("/middle-slices/whole-image")


def test_random_weights_are_named_so_seeded_and_no_lpips():
    state = torch.random.get_rng_state()
    metric = LPIPS(2.0, 2, net="squeeze", weights="random")
    assert torch.equal(torch.random.get_rng_state(), state)
    output, truth = pair((2, 1, 32, 32))
    again, other = (LPIPS(2.0, 2, net="squeeze", weights="random", seed=seed) for seed in (0, 1))
    assert metric.name == "lpips_random" and "random-seed-0" in metric.definition
    assert torch.equal(metric(output, truth), again(output, truth))
    assert not torch.allclose(metric(output, truth), other(output, truth))
    assert metric(truth, truth).tolist() == [0, 0] and (metric(output, truth) > 0).all()
    with pytest.raises(UserError, match="mask"):
        metric(output, truth, torch.ones_like(truth))
    with pytest.raises(UserError, match="16 x 16"):
        metric(output[..., :16, :16], truth[..., :16, :16])


def test_absent_weights_of_lpips_are_one_message_that_says_which_file_to_put_where(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError) as error:
        LPIPS(2.0, 2)
    for word in ("alexnet-owt-7be5be79.pth", str(tmp_path), "no network here", 'weights = "random"'):
        assert word in str(error.value)
    (tmp_path / FILES["alex"]).write_bytes(b"not weights")
    with pytest.raises(UserError, match="alexnet-owt") as error:
        LPIPS(2.0, 2)
    assert error.value.where == "GANTK_WEIGHTS"


# ---- closed forms


@pytest.mark.parametrize("dims", [2, 3])
def test_scores_of_a_constant_offset_are_known_exactly(dims):
    _, truth = pair((2, 1, *SIZES[dims]))
    made = truth + 0.05
    assert PSNR(2.0, dims)(made, truth).tolist() == pytest.approx([20 * math.log10(2 / 0.05)] * 2, abs=1e-3)
    assert MAE(2.0, dims)(made, truth).tolist() == pytest.approx([0.05] * 2, abs=1e-6)
    assert RMSE(2.0, dims)(truth - 0.05, truth).tolist() == pytest.approx([0.05] * 2, abs=1e-6)
    assert NRMSE(2.0, dims)(made, truth).tolist() == pytest.approx([0.025] * 2, abs=1e-6)


def test_ssim_of_constant_images_is_its_luminance_term():
    x, y = 0.4, 1.2
    expected = (2 * x * y + (0.01 * 2) ** 2) / (x**2 + y**2 + (0.01 * 2) ** 2)
    made, real = (torch.full((1, 1, 16, 16), value) for value in (x, y))
    assert SSIM(2.0, 2)(made, real).item() == pytest.approx(expected, abs=1e-4)


def test_ms_ssim_takes_luminance_at_the_coarsest_scale_alone():
    """Constant images have structure 1 at every scale, so that one power of the luminance term is left."""
    x, y, first, second = 0.4, 1.2, 0.0448, 0.2856
    luminance = (2 * x * y + 0.02**2) / (x**2 + y**2 + 0.02**2)
    made, real = (torch.full((1, 1, 24, 24), value) for value in (x, y))
    expected = luminance ** (second / (first + second))
    assert MSSSIM(2.0, 2)(made, real).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("change", ["flip", "transpose", "exchange"])
def test_no_score_depends_on_orientation_or_on_which_image_comes_first(metric, change):
    output, truth = pair((2, 1, 24, 24))
    turn = {
        "flip": lambda o, t: (o.flip(-1), t.flip(-1)),
        "transpose": lambda o, t: (o.mT.contiguous(), t.mT.contiguous()),
        "exchange": lambda o, t: (t, o),
    }[change]
    assert torch.allclose(metric(2.0, 2)(*turn(output, truth)), metric(2.0, 2)(output, truth), atol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_an_image_is_scored_whatever_stands_beside_it(metric):
    output, truth = pair((4, 1, 24, 24))
    score = metric(2.0, 2)
    alone = torch.cat([score(output[i : i + 1], truth[i : i + 1]) for i in range(4)])
    assert torch.allclose(score(output, truth), alone, atol=1e-6)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.allclose(score(output[order], truth[order]), score(output, truth)[order], atol=1e-6)


@pytest.mark.parametrize("metric", MAPS)
def test_a_mask_ignores_even_nan_outside_of_it(metric):
    output, truth = pair((1, 1, 40, 24))
    mask = torch.zeros(1, 1, 40, 24)
    mask[..., 8:16, 8:16] = 1
    expected = metric(2.0, 2)(output, truth, mask)
    output[..., 30:, :] = torch.nan  # beyond every window of SSIM too
    assert torch.equal(metric(2.0, 2)(output, truth, mask), expected)


@pytest.mark.parametrize("metric", MAPS)
def test_means_of_several_regions_are_the_scores_of_each(metric):
    output, truth = pair((3, 2, 24, 26))
    score, mask = metric(2.0, 2), torch.rand(3, 1, 24, 26) > 0.6
    found = [score.of_mean(mean) for mean, _ in score.means(output, truth, [None, mask])]
    assert torch.equal(found[0], score(output, truth)) and torch.equal(found[1], score(output, truth, mask))
    weights = [weight for _, weight in score.means(output, truth, [None, mask])]
    seen = mask[..., 5:-5, 5:-5] if metric is SSIM else mask
    assert weights[0].tolist() == [2 * seen[0].numel()] * 3
    assert weights[1].tolist() == (2 * seen.flatten(1).sum(1)).tolist()


# ---- levels


def test_the_psnr_of_a_volume_pools_the_squared_error_of_its_slices():
    output, truth = pair((6, 1, 12, 12))
    output[:3] = truth[:3] + torch.tensor([0.01, 0.1, 0.4])[:, None, None, None]
    scorer = PairScorer([PSNR(2.0, 2), MAE(2.0, 2)], -1, 2.0, 2, 4, "cpu", ["whole"])
    rows = scorer.rows(scorer(output, Truth(truth, ["p"] * 3 + ["q"] * 3, volumes=["v"] * 3 + ["w"] * 3)))
    volumes = [x.transpose(0, 1)[None] for part in (slice(3), slice(3, 6)) for x in (output[part], truth[part])]
    expected = [PSNR(2.0, 3)(*volumes[:2]).item(), PSNR(2.0, 3)(*volumes[2:]).item()]
    found = rows["psnr"]["per"]
    assert found["volume"]["value"] == pytest.approx(np.mean(expected), abs=1e-3) and found["volume"]["n"] == 2
    assert found["volume"]["how"] == "pooled-over-slices"
    slices = PSNR(2.0, 2)(output, truth)
    assert found["slice"]["value"] == pytest.approx(slices.mean().item(), abs=1e-4) and found["slice"]["n"] == 6
    assert rows["psnr"]["value"] > found["volume"]["value"] + 1  # a mean of decibels flatters
    assert rows["mae"]["per"]["volume"]["value"] == pytest.approx((output - truth).abs().mean().item(), abs=1e-5)


def test_a_volume_weighs_its_slices_by_the_pixels_of_the_region():
    values = Values(np.array([1.0, 5.0, np.nan]), np.array([1.0, 5.0, np.nan]), np.array([30.0, 10.0, 0.0]))
    scores, owners, how = of_volumes(values, ["p"] * 3, ["v"] * 3, lambda mean: mean)
    assert scores.tolist() == [2.0] and owners == ["p"] and how == "pooled-over-slices"
    scores, _, how = of_volumes(Values(values.scores), ["p"] * 3, ["v"] * 3)
    assert scores.tolist() == [3.0] and how == "mean-of-slices"


def test_levels_are_told_apart_by_what_counts_alike():
    values = Values(np.array([1.0, 1.0, 4.0, 10.0, 8.0]))
    patients, volumes = ["p", "p", "p", "q", "q"], ["p/1", "p/1", "p/2", "q/1", "q/1"]
    found = per_level(values, patients, volumes, 2)
    assert estimate(values.scores, patients).value == 5.5
    assert found["slice"]["value"] == pytest.approx(4.8) and found["slice"]["n"] == 5
    assert found["volume"]["value"] == pytest.approx((1 + 4 + 9) / 3) and found["volume"]["n"] == 3
    assert found["slice"]["ci95"] and found["volume"]["ci95"]


def test_levels_that_are_not_known_are_not_there():
    values = Values(np.array([1.0, 2.0]))
    assert set(per_level(values, ["p", "q"], ["", ""], 2)) == {"slice"}
    assert set(per_level(values, ["p", "q"], ["p", "q"], 2)) == {"slice"}  # one slice each is no volume
    assert set(per_level(values, ["p", "q"], ["", ""], 3)) == {"volume"}
    unknown = of_volumes(Values(np.array([1.0, 3.0, 5.0])), ["p"] * 3, ["v", "v", ""])
    assert unknown[0].tolist() == [2.0, 5.0]


# ---- regions and units


def scored(output, truth, scorer=None, **about):
    scorer = scorer or PairScorer([PSNR(2.0, 2), MAE(2.0, 2), NRMSE(2.0, 2)], -1, 2.0, 2, 2, "cpu")
    return scorer.rows(scorer(output, Truth(truth, [f"p{i}" for i in range(len(truth))], **about)))


def test_rows_of_regions_see_their_region_alone():
    output, truth = pair((3, 1, 20, 20))
    inside, lesion = torch.zeros(3, 1, 20, 20), torch.zeros(3, 1, 20, 20)
    inside[..., 5:15, 5:15], lesion[:2, :, 8:10, 8:10] = 1, 1
    rows = scored(output, truth, foreground=inside > 0, masks=lesion)
    spoiled = output.clone()
    spoiled[..., :5, :] = 0.9
    again = scored(spoiled, truth, foreground=inside > 0, masks=lesion)
    for name in ("psnr", "mae", "nrmse"):
        assert rows[name]["value"] != again[name]["value"]
        assert rows[f"{name}_foreground"] == again[f"{name}_foreground"]
        assert rows[f"{name}_lesion"] == again[f"{name}_lesion"]
    assert rows["mae_foreground"]["value"] == pytest.approx((output - truth)[..., 5:15, 5:15].abs().mean().item())
    assert rows["mae_lesion"]["n"] == 2 and rows["mae_foreground"]["n"] == 3
    assert rows["mae_lesion"]["value"] == pytest.approx((output - truth)[:2, :, 8:10, 8:10].abs().mean().item())
    assert rows["psnr_lesion"]["definition"].endswith("/mask")
    assert "/foreground-above-5%-of-range-in-truth-or-source" in rows["psnr_foreground"]["definition"]


def test_the_correction_of_a_region_is_fitted_in_it():
    _, truth = pair((2, 1, 20, 20))
    inside = torch.zeros(2, 1, 20, 20)
    inside[..., 5:15, 5:15] = 1
    output = torch.where(inside > 0, 0.5 * truth + 0.1, 0.9)
    rows = scored(output, truth, foreground=inside > 0)
    assert rows["mae_foreground"]["corrected"] == pytest.approx(0, abs=1e-5)
    whole = (linearly_corrected(output, truth) - truth).abs().mean().item()
    assert rows["mae"]["corrected"] == pytest.approx(whole, abs=1e-5) and whole > 0.05
    assert rows["mae_foreground"]["value"] > 0.05


def test_the_foreground_is_where_truth_or_source_shows_more_than_air():
    source, truth = torch.full((1, 1, 4, 4), -1.0), torch.full((1, 1, 4, 4), -1.0)
    source[..., 0, :], truth[..., 1, :], truth[..., 2, :] = 0.5, 0.5, -0.95  # the last is no more than 5 % of the range
    found = foreground(source, truth, low=-1.0, data_range=2.0)
    assert found[0, 0].any(1).tolist() == [True, True, False, False]


def test_regions_that_are_not_wanted_are_not_scored():
    output, truth = pair((2, 1, 20, 20))
    inside = torch.ones(2, 1, 20, 20) > 0
    for regions, names in ((["whole"], {"mae"}), (["foreground", "lesion"], {"mae_foreground"})):
        scorer = PairScorer([MAE(2.0, 2)], -1, 2.0, 2, 2, "cpu", regions)
        assert set(scored(output, truth, scorer, foreground=inside)) == names
    with pytest.raises(UserError, match="ms_ssim") as error:
        PairScorer([MSSSIM(2.0, 2)], -1, 2.0, 2, 2, "cpu", ["foreground"])
    assert error.value.where == "evaluate.regions"
    with pytest.raises(UserError, match="no region"):
        PairScorer([MAE(2.0, 2)], -1, 2.0, 2, 2, "cpu", [])


def test_a_metric_that_cannot_be_limited_has_no_rows_of_regions():
    output, truth = pair((2, 1, 24, 24))
    scorer = PairScorer([MSSSIM(2.0, 2), MAE(2.0, 2)], -1, 2.0, 2, 2, "cpu")
    rows = scored(output, truth, scorer, foreground=torch.ones(2, 1, 24, 24) > 0)
    assert set(rows) == {"ms_ssim", "mae", "mae_foreground"}


def test_errors_are_told_in_native_intensities_too():
    from gantk.data.intensity import Window

    output, truth = pair((4, 1, 12, 12), error=0.05)
    window = Window(low=-1000, high=2000)
    rows = scored(output, truth, units=Units("HU", [window] * 4))
    native = [torch.from_numpy(window.inverse(x.numpy())) for x in (output, truth)]
    mae = (native[0] - native[1]).abs().flatten(1).mean(1).mean().item()
    rmse = (native[0] - native[1]).square().flatten(1).mean(1).sqrt().mean().item()
    assert rows["mae"]["in_units"]["value"] == pytest.approx(mae, rel=1e-4) == 1500 * rows["mae"]["value"]
    assert rows["nrmse"]["in_units"]["value"] == pytest.approx(rmse, rel=1e-4)
    assert rows["nrmse"]["in_units"]["value"] == pytest.approx(3000 * rows["nrmse"]["value"], rel=1e-4)
    assert rows["mae"]["in_units"]["unit"] == "HU" and "in_units" not in rows["psnr"]
    assert rows["nrmse"]["in_units"]["definition"] == "rmse/hounsfield-intensities/whole-image"
    low, high = rows["mae"]["in_units"]["ci95"]
    assert low < mae < high


def test_errors_in_native_intensities_see_their_region_alone():
    from gantk.data.intensity import Window

    output, truth = pair((2, 1, 12, 12))
    inside = torch.zeros(2, 1, 12, 12)
    inside[..., 4:8, 4:8] = 1
    rows = scored(output, truth, foreground=inside > 0, units=Units("native", [Window(low=0, high=200)] * 2))
    expected = 100 * (output - truth)[..., 4:8, 4:8].abs().mean().item()
    assert rows["mae_foreground"]["in_units"]["value"] == pytest.approx(expected, rel=1e-4)
    assert rows["mae_foreground"]["in_units"]["definition"].startswith("mae/native-intensities/foreground-above")


def test_images_are_counted_from_black():
    output, truth = pair((2, 1, 24, 24))
    row = scored(output, truth, PairScorer([SSIM(2.0, 2)], -1.0, 2.0, 2, 2, "cpu"))["ssim"]
    assert row["value"] == pytest.approx(SSIM(2.0, 2)(output + 1, truth + 1).mean().item(), abs=1e-6)
    assert abs(row["value"] - SSIM(2.0, 2)(output, truth).mean().item()) > 1e-3


def test_each_image_goes_back_by_its_own_mapping():
    from gantk.data.intensity import Window

    output, truth = pair((3, 1, 12, 12))
    mappings = [Window(low=0, high=high) for high in (100, 200, 400)]
    rows = scored(output, truth, units=Units("native", mappings))
    each = (output - truth).abs().flatten(1).mean(1) * torch.tensor([50.0, 100.0, 200.0])
    assert rows["mae"]["in_units"]["value"] == pytest.approx(each.mean().item(), rel=1e-4)


def test_scores_are_the_same_whatever_the_batch():
    output, truth = pair((5, 1, 16, 16))
    about = dict(foreground=truth > -0.5, units=None)
    found = []
    for batch in (1, 2, 5):
        scorer = PairScorer([PSNR(2.0, 2), SSIM(2.0, 2)], -1, 2.0, 2, batch, "cpu")
        found.append(scored(output, truth, scorer, **about))
    assert found[0] == found[1] == found[2]


def test_only_single_numbers_leave_the_device(monkeypatch):
    output, truth = pair((6, 1, 16, 16))
    left = []
    for name in ("cpu", "numpy", "tolist", "item"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda x, own=own: left.append(x.numel()) or own(x))
    scored(output, truth, PairScorer([PSNR(2.0, 2), SSIM(2.0, 2)], -1, 2.0, 2, 3, "cpu"), foreground=truth > -0.5)
    assert left and max(left) <= 11  # one number an image, and the weights of a window


# ---- outputs that are no numbers


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_an_output_that_is_no_number_leaves_no_score_that_looks_like_one(wrong):
    output, truth = pair((4, 1, 16, 16))
    scorer = PairScorer([PSNR(2.0, 2), MAE(2.0, 2)], -1, 2.0, 2, 2, "cpu")
    good = scorer(output, Truth(truth, list("pqrs")))
    output[1, 0, 3, 3] = wrong
    spoiled = scorer(output, Truth(truth, list("pqrs")))
    row = scorer.rows(spoiled)["psnr"]
    assert row["value"] is None and row["ci95"] is None and row["n"] == 0
    assert row["definition"].endswith("/not-computed: 1 of 4 outputs hold NaN or infinite values")
    assert scorer.means(output, Truth(truth, list("pqrs")), ("psnr",)) == {"psnr": None}
    verdict = pair_verdict(spoiled, {"identity": good}, {"psnr": True, "mae": False})
    assert verdict["psnr"]["better"] is False and verdict["psnr"]["probability"] == 0.0
    assert pair_verdict(good, {"identity": spoiled}, {"psnr": True, "mae": False}) == {}  # no rival to beat


def test_an_error_too_large_for_a_number_is_said_to_be():
    output, truth = pair((3, 1, 16, 16))
    output[0] = 1e30
    scorer = PairScorer([NRMSE(2.0, 2)], -1, 2.0, 2, 2, "cpu")
    row = scorer.rows(scorer(output, Truth(truth, list("pqr"))))["nrmse"]
    assert row["value"] is None and "1 of 3 images score infinitely" in row["definition"]


# ---- patients, intervals, verdicts


def test_the_order_of_patients_does_not_matter():
    rng = np.random.default_rng(0)
    values, patients = rng.normal(20, 3, 40), [f"p{i % 9}" for i in range(40)]
    order = rng.permutation(40)
    mixed, owners = values[order], [patients[i] for i in order]
    for function in (estimate, estimate_alike):
        one, other = function(values, patients), function(mixed, owners)
        assert one.value == pytest.approx(other.value, abs=1e-9) and one.n == other.n
        assert one.ci95 == pytest.approx(other.ci95, abs=0.35)
    more = probability_better(values + 1, values, patients, higher_is_better=True)
    assert more == probability_better(mixed + 1, mixed, owners, higher_is_better=True) == 1.0


@pytest.mark.parametrize("function", [estimate, estimate_alike])
def test_intervals_hold_the_true_mean_about_as_often_as_they_say(function):
    """400 studies of 20 patients with 3 images each, whose patients differ more than their images do."""
    rng, held = np.random.default_rng(0), 0
    patients = [f"p{i // 3}" for i in range(60)]
    for _ in range(400):
        values = np.repeat(rng.normal(30, 2, 20), 3) + rng.normal(0, 0.5, 60)
        low, high = function(values, patients, draws=400).ci95
        held += low < 30 < high
    assert 0.88 < held / 400 < 0.97  # the percentile bootstrap of 20 is a little narrow


def test_a_patient_with_many_slices_is_drawn_with_all_of_them():
    same = estimate_alike([5.0] * 8, ["p"] + ["q"] * 2 + ["r"] * 5)
    assert same.value == 5.0 and same.ci95 == pytest.approx((5.0, 5.0))  # however many slices a draw happens to have
    values = np.repeat(np.random.default_rng(2).normal(20, 2, 8), 10)
    widths = []
    for patients in ([f"p{i // 10}" for i in range(80)], [f"p{i}" for i in range(80)]):
        low, high = per_level(Values(values), patients, [""] * 80, 2)["slice"]["ci95"]
        widths.append(high - low)
    assert widths[0] > 2 * widths[1]


def test_one_patient_has_no_interval_at_any_level():
    found = estimate_alike([1.0, 3.0, math.nan], ["p", "p", "p"])
    assert found.value == 2.0 and found.ci95 is None and found.n == 2
    assert estimate_alike([math.nan], ["p"]).value is None
    with pytest.raises(UserError, match="2 values"):
        estimate_alike([1.0, 2.0], ["p"])


def scores(values, names=("psnr",), patients=None):
    values = torch.tensor(values, dtype=torch.float32)
    truth = torch.zeros(len(values), 1, 4, 4)
    error = (2.0 / 10 ** (values / 20))[:, None, None, None].expand_as(truth)
    scorer = PairScorer([PSNR(2.0, 2), MAE(2.0, 2)], 0.0, 2.0, 2, 99, "cpu", ["whole"])
    return scorer(error, Truth(truth, patients or [f"p{i}" for i in range(len(values))]))


def test_the_verdict_is_against_the_best_of_all_rivals_and_of_those_without_pairs():
    model = scores([24.0, 25, 26, 27])
    rivals = {
        "identity": scores([18.0, 18, 18, 18]),
        "histogram": scores([20.0, 21, 20, 21]),
        "intensity_map": scores([23.0, 26, 25, 25]),
        "regression": scores([28.0, 28, 28, 26]),
        "real_split": scores([90.0, 90, 90, 90]),
    }
    verdict = pair_verdict(model, rivals, {"psnr": True, "mae": False})
    assert set(verdict) == {"psnr", "mae"}
    for row in verdict.values():
        assert row["better"] is False and row["best_baseline"] == "regression" and row["probability"] < 0.1
        without = row["without_pairs"]
        assert without["better"] is True and without["best_baseline"] == "histogram"
        assert without["probability"] == 1.0
    del rivals["regression"]
    verdict = pair_verdict(model, rivals, {"psnr": True, "mae": False})
    assert verdict["psnr"]["best_baseline"] == "intensity_map" and 0.5 < verdict["psnr"]["probability"] < 1
    assert pair_verdict(model, rivals, {"psnr": None, "mae": None}) == {}


def test_a_tie_is_not_better():
    model = scores([24.0, 25, 26])
    row = pair_verdict(model, {"identity": model}, {"psnr": True, "mae": False})["psnr"]
    assert row["better"] is False and row["probability"] == 0.5


def test_the_verdict_of_sets_knows_both_rivals_and_both_senses():
    def row(value, half, higher):
        return {"value": value, "ci95": [value - half, value + half], "higher_is_better": higher}

    model = {"kid": row(0.2, 0.05, False), "precision": row(0.8, 0.1, True), "diversity": row(1.0, 0.1, None)}
    rivals = {
        "identity": {"kid": row(0.5, 0.05, False), "precision": row(0.7, 0.1, True)},
        "regression": {"kid": row(0.1, 0.05, False), "precision": row(0.2, 0.1, True)},
        "real_split": {"kid": row(0.0, 0.01, False), "precision": row(1.0, 0.01, True)},
    }
    verdict = set_verdict(model, rivals)
    assert set(verdict) == {"kid", "precision"}
    kid, precision = verdict["kid"], verdict["precision"]
    assert (kid["better"], kid["best_baseline"]) == (False, "regression") and kid["probability"] < 0.05
    assert (kid["without_pairs"]["better"], kid["without_pairs"]["best_baseline"]) == (True, "identity")
    assert (precision["better"], precision["best_baseline"]) == (True, "identity")
    gain = 0.1 / math.hypot(0.1 / 1.96, 0.1 / 1.96)
    assert precision["probability"] == pytest.approx(0.5 * (1 + math.erf(gain / math.sqrt(2))), abs=1e-6)
    assert kid["without_pairs"]["probability"] > 0.99
    rivals["identity"]["kid"]["ci95"] = None
    assert set_verdict(model, rivals)["kid"]["without_pairs"]["probability"] is None


def test_a_tie_of_sets_that_leave_nothing_to_chance_counts_half():
    certain = {"segmentation": {"value": 0.0, "ci95": [0.0, 0.0], "higher_is_better": True}}
    row = set_verdict(certain, {"identity": certain})["segmentation"]
    assert (row["better"], row["probability"]) == (False, 0.5)
