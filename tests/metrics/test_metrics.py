"""Pair metrics agree with scikit-image, torchmetrics, lpips and closed forms; baselines are what
they claim.
"""

import urllib.error

import pytest
import torch
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.metrics.baselines import HistogramMatching, IntensityMap, identity, linearly_corrected
from gantk.metrics.pairs import MAE, NRMSE, PSNR, RMSE, SSIM, LesionContrast
from gantk_scores.lpips_metric import LPIPS, NETS
from gantk_scores.sets.ms_ssim import MSSSIM
from gantk_scores.tasks.regression import Regression

MAPS = [PSNR, SSIM, MAE, RMSE, NRMSE]


def pair(shape, seed: int = 0, error: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    """A noisy output of a smooth truth, both about from -1 to 1."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(shape, generator=generator).cumsum(-1)
    truth = 1.6 * truth / truth.amax() - 0.8
    return truth + error * torch.randn(shape, generator=generator), truth


def box(*shape: int, start: int, stop: int) -> torch.Tensor:
    mask = torch.zeros(shape)
    mask[..., start:stop, start:stop] = 1
    return mask


# ---- the libraries of reference


@pytest.mark.parametrize("size", [(24, 30), (14, 13, 12)], ids=["2d", "3d"])
def test_errors_and_ssim_match_scikit_image(size):
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

    output, truth = pair((3, 2, *size))
    dims = len(size)
    both = list(zip(truth.numpy(), output.numpy(), strict=True))
    psnr = [peak_signal_noise_ratio(t, o, data_range=3.5) for t, o in both]
    rmse = [mean_squared_error(t, o) ** 0.5 for t, o in both]
    options = dict(
        data_range=3.5,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=0,
    )
    ssim, maps = zip(
        *(structural_similarity(t, o, full=True, **options) for t, o in both), strict=True
    )
    assert PSNR(3.5, dims)(output, truth).tolist() == pytest.approx(psnr, abs=1e-4)
    assert RMSE(3.5, dims)(output, truth).tolist() == pytest.approx(rmse, rel=1e-5)
    assert NRMSE(3.5, dims)(output, truth).tolist() == pytest.approx(
        [each / 3.5 for each in rmse], rel=1e-5
    )
    assert SSIM(3.5, dims)(output, truth).tolist() == pytest.approx(ssim, abs=1e-4)
    mask = torch.zeros(3, 1, *size)
    mask[(..., *(slice(5, side - 6) for side in size))] = 1
    expected = [
        whole[:, inside > 0].mean() for whole, inside in zip(maps, mask[:, 0].numpy(), strict=True)
    ]
    assert SSIM(3.5, dims)(output, truth, mask).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("size", "scales"), [((176, 180), 5), ((26, 24, 24), 2), ((21, 40), 1)])
def test_ms_ssim_matches_torchmetrics_parts(size, scales):
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    output, truth = pair((2, 1, *size), error=0.4)
    published = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[:scales]
    expected = torch.ones(2)
    made = output
    real = truth
    for weight in published[:-1]:
        _, contrast = ssim(
            made, real, data_range=2.5, reduction="none", return_contrast_sensitivity=True
        )
        expected = expected * contrast ** (weight / sum(published))
        made, real = (
            (F.avg_pool2d if len(size) == 2 else F.avg_pool3d)(x, 2) for x in (made, real)
        )
    _, whole = ssim(made, real, data_range=2.5, return_full_image=True)
    # windows wholly inside the image: torchmetrics mirrors it to have others too
    for axis in range(2, whole.ndim):
        whole = whole.narrow(axis, 5, whole.shape[axis] - 10)
    expected = expected * whole.flatten(1).mean(1) ** (published[-1] / sum(published))
    assert torch.allclose(MSSSIM(2.5, len(size))(output, truth), expected, atol=1e-4)
    assert expected.min() > 0.1
    assert expected.max() < 0.95


def test_lpips_matches_its_package(tmp_path, monkeypatch):
    import lpips
    from torchvision import models

    monkeypatch.setenv("GANTK_WEIGHTS", str(tmp_path))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        known = models.squeezenet1_1(weights=None).state_dict()
    torch.save(known, tmp_path / NETS["squeeze"][0])
    reference = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False).eval()
    own = reference.net.state_dict()
    reference.net.load_state_dict(
        {name: known[f"features.{name.partition('.')[2]}"] for name in own}
    )
    shift = lambda x: (2 * x / 3.0 - 1).expand(-1, 3, -1, -1)  # noqa: E731  from 0..3 to -1..1
    output, truth = (
        torch.rand(2, 3, 40, 36, generator=torch.Generator().manual_seed(seed)) * 3
        for seed in (0, 1)
    )
    metric = LPIPS(3.0, 2, net="squeeze")
    solid = LPIPS(3.0, 3, net="squeeze")
    made, real = (x[:, :1, None].expand(-1, -1, 36, -1, -1).clone() for x in (output, truth))
    made[:, :, 1] = 9.0  # of a volume three slices through the middle are looked at
    with torch.no_grad():
        colour = reference(shift(output), shift(truth)).flatten()
        gray = [
            reference(*(shift(x[:, c : c + 1]) for x in (output, truth))).flatten()
            for c in range(2)
        ]
        views = [
            reference(*(shift(x.select(a, x.shape[a] // 2)) for x in (made, real)))
            for a in (2, 3, 4)
        ]
    assert torch.allclose(metric(output, truth), colour, atol=1e-6)
    assert torch.allclose(metric(output[:, :2], truth[:, :2]), sum(gray) / 2, atol=1e-6)
    assert torch.allclose(solid(made, real), sum(views).flatten() / 3, atol=1e-6)


# ---- closed forms


@pytest.mark.parametrize("metric", MAPS)
def test_masks_limit_scores_to_their_region(metric):
    output, truth = pair((2, 2, 40, 24))
    score = metric(2.0, 2)
    mask = box(2, 1, 40, 24, start=8, stop=16)
    perfect = {PSNR: 100.0, SSIM: 1.0}.get(metric, 0.0)
    assert score(truth, truth).tolist() == pytest.approx([perfect] * 2, abs=1e-6)
    expected = score(output, truth, mask)
    spoiled = output.clone()
    spoiled[..., 30:, :] = torch.nan  # beyond every window of SSIM too
    assert torch.equal(score(spoiled, truth, mask), expected)
    assert score(output, truth, torch.zeros_like(mask)).isnan().all()
    assert torch.allclose(
        score(output, truth, torch.ones_like(mask)), score(output, truth), atol=1e-6
    )
    means = score.means(output, truth, [None, mask])
    assert torch.equal(score.of_mean(means[0][0]), score(output, truth))
    assert torch.equal(score.of_mean(means[1][0]), expected)
    seen = mask[..., 5:-5, 5:-5] if metric is SSIM else mask
    assert means[0][1].tolist() == [2 * seen[0].numel()] * 2
    assert means[1][1].tolist() == (2 * seen.flatten(1).sum(1)).tolist()


def test_lesion_contrast_is_one_where_kept_and_zero_where_gone():
    truth = torch.full((4, 2, 24, 24), 0.5)
    mask = box(4, 1, 24, 24, start=10, stop=14)
    mask[3] = 0
    truth[:2, :, 10:14, 10:14] += torch.tensor([0.4, -0.2])[:, None, None]
    output = 0.5 + 0.5 * (truth - 0.5)
    score = LesionContrast(2.0, 2)
    for made, kept in (
        (truth, 1.0),
        (output, 0.5),
        (torch.full_like(truth, 0.3), 0.0),
        (1 - truth, -1.0),
    ):
        assert score(made, truth, mask)[:2].tolist() == pytest.approx([kept] * 2, abs=1e-6)
    assert score(truth, truth, mask)[2:].isnan().all()  # invisible in the truth; no lesion
    output[..., :4, :] = 9.0  # beyond the ring
    assert score(output, truth, mask)[:2].tolist() == pytest.approx([0.5] * 2, abs=1e-6)
    # 2.3 % of the range: with itself in its surroundings it would not be
    faint = box(1, 1, 30, 30, start=10, stop=20)
    assert score(0.5 + 0.046 * faint, 0.5 + 0.046 * faint, faint).item() == pytest.approx(1)
    assert score(0.5 + 0.046 * faint, 0.5 + 0.034 * faint, faint).isnan().all()


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
    runtime=Runtime(torch.device("cpu"), "fp32", False),
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_identity_gives_the_source_in_the_targets_channels():
    x = torch.rand(2, 3, 4, 4)
    assert identity(x) is x
    assert identity(x, 3) is x
    assert torch.allclose(identity(x, 1), x.mean(1, keepdim=True))
    assert identity(x[:, :1], 3).shape == (2, 3, 4, 4)


def test_histogram_matching_keeps_order_and_air():
    source = torch.rand(2, 1, 40, 40) * 2 - 1
    target = [torch.randn(1, 30, 30) * 0.2 + 0.4 for _ in range(4)]
    matched = HistogramMatching(target)(source)
    pool = torch.cat([t.flatten() for t in target])
    levels = torch.linspace(0.05, 0.95, 10)
    assert torch.allclose(matched[0].flatten().quantile(levels), pool.quantile(levels), atol=0.02)
    assert (matched[0].flatten()[source[0].flatten().argsort()].diff() >= 0).all()
    air = torch.full((1, 1, 20, 20), -1.0)
    air[..., :10] = torch.rand(1, 1, 20, 10)
    target = [
        torch.where(torch.rand(1, 20, 20) < 0.4, -0.9, torch.rand(1, 20, 20)) for _ in range(3)
    ]
    assert torch.allclose(HistogramMatching(target)(air)[..., 10:], torch.tensor(-0.9), atol=1e-6)


def test_intensity_map_finds_any_function_of_intensity():
    source = [torch.rand(1, 48, 48) * 2 - 1 for _ in range(3)]
    pairs = [(s, torch.cat([(3 * s).sin(), -s.abs()])) for s in source]  # neither is monotone
    test = torch.rand(2, 1, 16, 16) * 2 - 1
    assert torch.allclose(
        IntensityMap(pairs)(test), torch.cat([(3 * test).sin(), -test.abs()], 1), atol=0.03
    )
    one = IntensityMap(
        [(torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), torch.tensor([[[0.0, 1.0, 4.0, 6.0]]]))]
    )
    assert one(torch.tensor([[[[0.0, 0.5, 1.0, 2.0]]]])).flatten().tolist() == pytest.approx(
        [0.5, 2.75, 5.0, 5.0]
    )
    constant = IntensityMap([(torch.ones(1, 4, 4), torch.ones(1, 4, 4) * 3)])
    assert constant(torch.zeros(1, 1, 4, 4)).unique().item() == 3


def test_linear_correction_undoes_brightness_and_contrast():
    truth = torch.rand(2, 2, 12, 12) * 2 - 1
    scale = torch.tensor([[0.5, -2.0], [3.0, 0.1]])[:, :, None, None]
    assert torch.allclose(linearly_corrected(scale * truth + 0.3, truth), truth, atol=1e-5)
    assert (linearly_corrected(truth.square(), truth) - truth).abs().mean() > 0.01
    constant = linearly_corrected(torch.full_like(truth, 0.2), truth)
    assert torch.allclose(constant, truth.mean((2, 3), keepdim=True).expand_as(truth), atol=1e-6)


# ---- L1 regression


def pairs(count: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Smooth sources, and targets that no look-up table gives: how far a pixel is above its
    surroundings.
    """
    noise = torch.rand((count, 1, 16, 16), generator=torch.Generator().manual_seed(seed)) * 4 - 2
    sources = F.avg_pool2d(noise, 3, 1, 1).clamp(-1, 1)
    targets = (2 * (sources - F.avg_pool2d(sources, 3, 1, 1, count_include_pad=False)) - 0.5).clamp(
        -1, 1
    )
    return list(zip(sources, targets, strict=True))


def error(model, held_out) -> float:
    sources, targets = (torch.stack(images) for images in zip(*held_out, strict=True))
    return float((model(sources) - targets).abs().mean())


def test_regression_beats_identity_and_intensity_map():
    train = pairs(24)
    test = pairs(12, seed=1)
    limit = 0.5 * error(IntensityMap(train), test)
    found = error(Regression(train, **SETTINGS), test)
    with torch.inference_mode():  # the same seed gives the same bits whatever surrounds it
        assert error(Regression(iter(train), **SETTINGS), test) == found
    assert found < limit < error(lambda x: x, test)
    wide = [[(5 * (s + 1), 5 * (t + 1)) for s, t in some] for some in (train, test)]
    scaled = Regression(wide[0], **SETTINGS | {"low": 0.0, "high": 10.0})
    assert error(scaled, wide[1]) == pytest.approx(5 * found, rel=0.05)
    lacking = [
        (
            torch.cat([s, s * torch.nan if k % 3 else -s]),
            torch.cat([t, t * torch.nan if k % 2 else 0 * t]),
        )
        for k, (s, t) in enumerate(train)
    ]
    outputs = Regression(lacking, **SETTINGS)(
        torch.stack([torch.cat([s, s * torch.nan]) for s, _ in test])
    )
    assert outputs.shape == (12, 2, 16, 16)
    assert outputs.isfinite().all()
    assert (outputs[:, :1] - torch.stack([t for _, t in test])).abs().mean() < limit


@pytest.mark.parametrize(
    "size", [(19, 21), (2, 3), (9, 10, 11)], ids=lambda size: "x".join(map(str, size))
)
def test_sides_that_do_not_halve_are_handled(size):
    images = torch.rand((4, 1, *size)) * 2 - 1
    model = Regression(
        zip(images, images, strict=True), **SETTINGS | {"dims": len(size), "steps": 2}
    )
    for sides in (size, [side + 3 for side in size]):  # another size than that of the training too
        assert model(torch.zeros(1, 1, *sides)).shape == (1, 1, *sides)


def test_what_cannot_be_learned_from_is_refused():
    odd = [(torch.zeros(1, 16, 18), torch.zeros(1, 16, 18))]
    for some, word in (([], "registered training pairs"), (pairs(1) + odd, "one size")):
        with pytest.raises(UserError, match=word):
            Regression(some, **SETTINGS)
