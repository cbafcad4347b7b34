"""Pair metrics agree with scikit-image, torchmetrics, lpips and closed forms; baselines are what
they claim.
"""

import urllib.error

import pytest
import torch
from tiny import CPU, registered
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.metrics.baselines import HistogramMatching, IntensityMap
from gantk.metrics.pair_scores import linearly_corrected
from gantk.metrics.pairs import MAE, NRMSE, PSNR, RMSE, SSIM, LesionContrast
from gantk_scores.lpips_metric import NETS

LPIPS = registered("metric", "lpips")
MSSSIM = registered("metric", "ms_ssim")
Regression = registered("baseline", "regression")

MAPS = [PSNR, SSIM, MAE, RMSE, NRMSE]


def pair(shape, error: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    """A noisy output of a smooth truth, both about from -1 to 1."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(shape, generator=generator).cumsum(-1)
    truth = 1.6 * truth / truth.amax() - 0.8
    return truth + error * torch.randn(shape, generator=generator), truth


def box(*shape: int, start: int, stop: int) -> torch.Tensor:
    mask = torch.zeros(shape)
    mask[..., start:stop, start:stop] = 1
    return mask


# ---- the libraries of reference


@pytest.mark.parametrize("size", [(24, 30), (14, 13, 12)], ids=["2d", "3d"])
def test_errors_match_scikit_image(size):
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

    output, truth = pair((3, 2, *size))
    dims = len(size)
    both = list(zip(truth.numpy(), output.numpy(), strict=True))
    psnr = [peak_signal_noise_ratio(real, made, data_range=3.5) for real, made in both]
    rmse = [mean_squared_error(real, made) ** 0.5 for real, made in both]
    nrmse = [error / 3.5 for error in rmse]

    assert PSNR(3.5, dims)(output, truth).tolist() == pytest.approx(psnr, abs=1e-4)
    assert RMSE(3.5, dims)(output, truth).tolist() == pytest.approx(rmse, rel=1e-5)
    assert NRMSE(3.5, dims)(output, truth).tolist() == pytest.approx(nrmse, rel=1e-5)


@pytest.mark.parametrize("size", [(24, 30), (14, 13, 12)], ids=["2d", "3d"])
def test_ssim_matches_scikit_image_in_a_mask_too(size):
    from skimage.metrics import structural_similarity

    output, truth = pair((3, 2, *size))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    values = []
    maps = []
    for real, made in zip(truth.numpy(), output.numpy(), strict=True):
        value, similarity = structural_similarity(
            real, made, full=True, data_range=3.5, channel_axis=0, **options
        )
        values.append(value)
        maps.append(similarity)

    ssim = SSIM(3.5, len(size))

    assert ssim(output, truth).tolist() == pytest.approx(values, abs=1e-4)

    mask = torch.zeros(3, 1, *size)
    mask[(..., *(slice(5, side - 6) for side in size))] = 1
    inside = mask[0, 0].numpy() > 0
    in_mask = [similarity[:, inside].mean() for similarity in maps]

    assert ssim(output, truth, mask).tolist() == pytest.approx(in_mask, abs=1e-4)


MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssim_by_torchmetrics(output, truth, scales: int) -> torch.Tensor:
    """Contrast at all scales but the last, and similarity at that, to the powers of the weights."""
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    halve = F.avg_pool2d if output.ndim == 4 else F.avg_pool3d
    weights = MS_SSIM_WEIGHTS[:scales]
    found = torch.ones(len(output))
    for weight in weights[:-1]:
        _, contrast = ssim(
            output, truth, data_range=2.5, reduction="none", return_contrast_sensitivity=True
        )
        found *= contrast ** (weight / sum(weights))
        output = halve(output, 2)
        truth = halve(truth, 2)

    _, similarity = ssim(output, truth, data_range=2.5, return_full_image=True)
    # windows wholly inside the image: torchmetrics mirrors it to have others too
    for axis in range(2, similarity.ndim):
        similarity = similarity.narrow(axis, 5, similarity.shape[axis] - 10)

    return found * similarity.flatten(1).mean(1) ** (weights[-1] / sum(weights))


@pytest.mark.parametrize(("size", "scales"), [((176, 180), 5), ((26, 24, 24), 2), ((21, 40), 1)])
def test_ms_ssim_matches_torchmetrics_parts(size, scales):
    output, truth = pair((2, 1, *size), error=0.4)
    expected = ms_ssim_by_torchmetrics(output, truth, scales)

    assert expected.min() > 0.1
    assert expected.max() < 0.95
    found = MSSSIM(2.5, len(size))(output, truth)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.fixture
def published_lpips(tmp_path, monkeypatch):
    """LPIPS of its package on images from 0 to 3, by a drawn network that ours uses too."""
    import lpips
    from torchvision import models

    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        known = models.squeezenet1_1(weights=None).state_dict()

    torch.save(known, tmp_path / NETS["squeeze"][0])
    reference = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
    own = reference.net.state_dict()
    named = {name: known[f"features.{name.partition('.')[2]}"] for name in own}
    reference.net.load_state_dict(named)

    @torch.no_grad()
    def distance(output, truth):
        colour = [(2 * x / 3.0 - 1).expand(-1, 3, -1, -1) for x in (output, truth)]
        return reference(*colour).flatten()

    return distance


def drawn_images(seed: int) -> torch.Tensor:
    """Two images of three channels from 0 to 3."""
    return torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(seed)) * 3


def test_lpips_matches_its_package(published_lpips):
    output = drawn_images(0)
    truth = drawn_images(1)
    metric = LPIPS(3.0, 2, net="squeeze")
    colour = published_lpips(output, truth)

    assert torch.allclose(metric(output, truth), colour, atol=1e-6)

    gray = [published_lpips(output[:, c : c + 1], truth[:, c : c + 1]) for c in range(2)]
    two_channels = metric(output[:, :2], truth[:, :2])

    assert torch.allclose(two_channels, sum(gray) / 2, atol=1e-6)


# ---- closed forms


@pytest.mark.parametrize("metric", MAPS)
def test_masks_limit_scores_to_their_region(metric):
    output, truth = pair((2, 2, 40, 24))
    score = metric(2.0, 2)
    mask = box(2, 1, 40, 24, start=8, stop=16)
    spoiled = output.clone()
    spoiled[..., 30:, :] = torch.nan  # beyond every window of SSIM too

    assert torch.equal(score(spoiled, truth, mask), score(output, truth, mask))
    nothing = torch.zeros_like(mask)
    assert score(output, truth, nothing).isnan().all()
    everything = torch.ones_like(mask)
    assert torch.allclose(score(output, truth, everything), score(output, truth), atol=1e-6)


def images_with_lesions():
    """Truths of a bright lesion, a dark one, an invisible one and none; and the masks of them."""
    mask = box(4, 1, 24, 24, start=10, stop=14)
    mask[3] = 0
    truth = torch.full((4, 2, 24, 24), 0.5)
    truth[:2, :, 10:14, 10:14] += torch.tensor([0.4, -0.2])[:, None, None]
    return truth, mask


SHARES_KEPT = {
    "all": (lambda truth: truth, 1.0),
    "half": (lambda truth: 0.5 + 0.5 * (truth - 0.5), 0.5),
    "nothing": (lambda truth: torch.full_like(truth, 0.3), 0.0),
    "inverted": (lambda truth: 1 - truth, -1.0),
}


@pytest.mark.parametrize(("make", "kept"), SHARES_KEPT.values(), ids=SHARES_KEPT)
def test_lesion_contrast_is_one_where_kept_and_zero_where_gone(make, kept):
    truth, mask = images_with_lesions()
    score = LesionContrast(2.0, 2)(make(truth), truth, mask)

    assert score[:2].tolist() == pytest.approx([kept] * 2, abs=1e-6)
    assert score[2:].isnan().all(), "invisible in the truth; no lesion"


@pytest.mark.parametrize("side", [32, 64, 160])
def test_lesion_contrast_at_the_edge_counts_no_air(side):
    """A lesion that is darker than the brain around it, and brighter than the air beside it."""
    x = torch.arange(side)
    tissue = (x < side // 2).float().expand(1, 1, side, side)
    lesion = tissue * (x >= side // 4) * (x[:, None] < side // 2)
    truth = tissue - 0.5 * lesion
    (kept,) = LesionContrast(2.0, 2).in_regions(0.6 * tissue, truth, [lesion, tissue])
    assert kept.item() == pytest.approx(0.0, abs=1e-6)
    inverted = 0.5 * tissue + 0.5 * lesion
    (kept,) = LesionContrast(2.0, 2).in_regions(inverted, truth, [lesion, tissue])
    assert kept.item() == pytest.approx(-1.0, abs=1e-6)


def test_lesion_contrast_counts_no_hole_of_the_mask_as_tissue():
    """A ring-shaped mask around a core that is brighter than lesion and tissue."""
    core = box(1, 1, 64, 64, start=31, stop=33)
    lesion = box(1, 1, 64, 64, start=29, stop=35) - core
    tissue = torch.full_like(lesion, 0.2)
    truth = tissue + 0.4 * lesion + 0.8 * core
    kept = LesionContrast(2.0, 2)(tissue + 0.2 * lesion + 0.8 * core, truth, lesion)
    assert kept.item() == pytest.approx(0.5, abs=1e-6)


REFUSED = {
    "range": (lambda x: PSNR(0.0, 2), "data range"),
    "shape": (lambda x: MAE(2.0, 2)(x, x[..., :8]), r"\(1, 1, 16, 8\)"),
    "dims": (lambda x: MAE(2.0, 3)(x, x), "3-D"),
    "small": (lambda x: SSIM(2.0, 2)(x[..., :9], x[..., :9]), "11 or more"),
    "unmaskable": (lambda x: MSSSIM(2.0, 2)(x, x, x), "mask"),
    "lesions": (lambda x: LesionContrast(2.0, 2)(x, x), "lesion masks"),
    "no weights": (lambda x: LPIPS(2.0, 2), "(?s)alexnet-owt-7be5be79.pth.*GANTK_WEIGHTS"),
    "broken weights": (lambda x: LPIPS(2.0, 2, net="squeeze"), NETS["squeeze"][0]),
}


@pytest.mark.parametrize(("make", "word"), REFUSED.values(), ids=REFUSED)
def test_metrics_name_what_they_cannot_compare_or_have(make, word, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path))
    (tmp_path / NETS["squeeze"][0]).write_bytes(b"not weights")

    with pytest.raises(UserError, match=word):
        make(torch.zeros(1, 1, 16, 16))


# ---- baselines: identity, histogram matching, intensity map, linear correction, L1 regression


SETTINGS = dict(
    dims=2,
    steps=60,
    seed=0,
    low=-1.0,
    high=1.0,
    runtime=CPU,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_histogram_matching_keeps_order_and_gives_target_levels():
    source = torch.rand(2, 1, 40, 40) * 2 - 1
    target = [torch.randn(1, 30, 30) * 0.2 + 0.4 for _ in range(4)]
    matched = HistogramMatching(target)(source)[0].flatten()
    pool = torch.cat([image.flatten() for image in target])
    levels = torch.linspace(0.05, 0.95, 10)

    assert torch.allclose(matched.quantile(levels), pool.quantile(levels), atol=0.02)
    order = source[0].flatten().argsort()
    assert (matched[order].diff() >= 0).all()


def test_pixels_of_equal_value_get_the_middle_of_their_ranks():
    source = torch.rand(1, 1, 40, 40)
    source[..., :30, :] = -1.0  # three quarters are air
    target = torch.rand(1, 50, 50)
    matched = HistogramMatching([target])(source)

    air = matched[..., :30, :]
    assert air.min() == air.max()
    assert air.max().item() == pytest.approx(target.quantile(0.375).item(), abs=0.01)


def test_intensity_map_finds_any_function_of_intensity():
    def two_functions(x, axis):  # neither is monotone
        return torch.cat([(3 * x).sin(), -x.abs()], axis)

    sources = [torch.rand(1, 48, 48) * 2 - 1 for _ in range(3)]
    fitted = IntensityMap([(source, two_functions(source, 0)) for source in sources])
    test = torch.rand(2, 1, 16, 16) * 2 - 1

    assert torch.allclose(fitted(test), two_functions(test, 1), atol=0.03)


def test_linear_correction_undoes_brightness_and_contrast():
    truth = torch.rand(2, 2, 12, 12) * 2 - 1
    scale = torch.tensor([[0.5, -2.0], [3.0, 0.1]])[:, :, None, None]

    assert torch.allclose(linearly_corrected(scale * truth + 0.3, truth), truth, atol=1e-5)
    squared = linearly_corrected(truth.square(), truth)
    assert (squared - truth).abs().mean() > 0.01

    constant = linearly_corrected(torch.full_like(truth, 0.2), truth)
    mean = truth.mean((2, 3), keepdim=True).expand_as(truth)

    assert torch.allclose(constant, mean, atol=1e-6)


# ---- L1 regression


def pairs(count: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Smooth sources, and targets that no look-up table gives: how far a pixel is above its
    surroundings.
    """
    noise = torch.rand((count, 1, 16, 16), generator=torch.Generator().manual_seed(seed)) * 4 - 2
    sources = F.avg_pool2d(noise, 3, 1, 1).clamp(-1, 1)
    surroundings = F.avg_pool2d(sources, 3, 1, 1, count_include_pad=False)
    targets = (2 * (sources - surroundings) - 0.5).clamp(-1, 1)
    return list(zip(sources, targets, strict=True))


def error(model, held_out) -> float:
    sources, targets = (torch.stack(images) for images in zip(*held_out, strict=True))
    return float((model(sources) - targets).abs().mean())


@pytest.fixture(scope="module")
def regression_limit():
    """Half of the error of an intensity map, by what a regression of L1 is judged."""
    return 0.5 * error(IntensityMap(pairs(24)), pairs(12, seed=1))


@pytest.mark.slow
def test_regression_beats_identity_and_intensity_map(regression_limit):
    train = pairs(24)
    test = pairs(12, seed=1)
    found = error(Regression(train, **SETTINGS), test)

    assert found < regression_limit < error(lambda x: x, test)
    with torch.inference_mode():  # the same seed gives the same bits whatever surrounds it
        assert error(Regression(iter(train), **SETTINGS), test) == found
