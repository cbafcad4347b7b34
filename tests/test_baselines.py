"""Baselines are what they claim: identity, histogram matching, intensity map, linear correction, L1 regression."""

import pytest
import torch
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.metrics.baselines import HistogramMatching, IntensityMap, identity, linearly_corrected
from gantk_tasks.regression import Regression

SETTINGS = dict(dims=2, steps=60, seed=0, low=-1.0, high=1.0, runtime=Runtime(torch.device("cpu"), "fp32", False))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_identity_gives_the_source_in_the_targets_channels():
    x = torch.rand(2, 3, 4, 4)
    assert identity(x) is x and identity(x, 3) is x
    assert torch.allclose(identity(x, 1), x.mean(1, keepdim=True))
    assert identity(x[:, :1], 3).shape == (2, 3, 4, 4)


def test_histogram_matching_gives_the_targets_distribution_and_keeps_the_order_and_air():
    source = torch.rand(2, 1, 40, 40) * 2 - 1
    target = [torch.randn(1, 30, 30) * 0.2 + 0.4 for _ in range(4)]
    matched = HistogramMatching(target)(source)
    pool, levels = torch.cat([t.flatten() for t in target]), torch.linspace(0.05, 0.95, 10)
    assert torch.allclose(matched[0].flatten().quantile(levels), pool.quantile(levels), atol=0.02)
    assert (matched[0].flatten()[source[0].flatten().argsort()].diff() >= 0).all()
    air = torch.full((1, 1, 20, 20), -1.0)
    air[..., :10] = torch.rand(1, 1, 20, 10)
    target = [torch.where(torch.rand(1, 20, 20) < 0.4, -0.9, torch.rand(1, 20, 20)) for _ in range(3)]
    assert torch.allclose(HistogramMatching(target)(air)[..., 10:], torch.tensor(-0.9), atol=1e-6)


def test_the_intensity_map_finds_any_function_of_intensity_and_else_the_mean():
    source = [torch.rand(1, 48, 48) * 2 - 1 for _ in range(3)]
    pairs = [(s, torch.cat([(3 * s).sin(), -s.abs()])) for s in source]  # neither is monotone
    test = torch.rand(2, 1, 16, 16) * 2 - 1
    assert torch.allclose(IntensityMap(pairs)(test), torch.cat([(3 * test).sin(), -test.abs()], 1), atol=0.03)
    one = IntensityMap([(torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), torch.tensor([[[0.0, 1.0, 4.0, 6.0]]]))])
    assert one(torch.tensor([[[[0.0, 0.5, 1.0, 2.0]]]])).flatten().tolist() == pytest.approx([0.5, 2.75, 5.0, 5.0])
    constant = IntensityMap([(torch.ones(1, 4, 4), torch.ones(1, 4, 4) * 3)])
    assert constant(torch.zeros(1, 1, 4, 4)).unique().item() == 3


def test_linear_correction_undoes_brightness_and_contrast_and_nothing_else():
    truth = torch.rand(2, 2, 12, 12) * 2 - 1
    scale = torch.tensor([[0.5, -2.0], [3.0, 0.1]])[:, :, None, None]
    assert torch.allclose(linearly_corrected(scale * truth + 0.3, truth), truth, atol=1e-5)
    assert (linearly_corrected(truth.square(), truth) - truth).abs().mean() > 0.01
    constant = linearly_corrected(torch.full_like(truth, 0.2), truth)
    assert torch.allclose(constant, truth.mean((2, 3), keepdim=True).expand_as(truth), atol=1e-6)


# ---- L1 regression


def pairs(count: int, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Smooth sources, and targets that no look-up table gives: how far a pixel is above its surroundings."""
    noise = torch.rand((count, 1, 16, 16), generator=torch.Generator().manual_seed(seed)) * 4 - 2
    sources = F.avg_pool2d(noise, 3, 1, 1).clamp(-1, 1)
    targets = (2 * (sources - F.avg_pool2d(sources, 3, 1, 1, count_include_pad=False)) - 0.5).clamp(-1, 1)
    return list(zip(sources, targets, strict=True))


def error(model, held_out) -> float:
    sources, targets = (torch.stack(images) for images in zip(*held_out, strict=True))
    return float((model(sources) - targets).abs().mean())


def test_regression_beats_the_identity_and_the_best_look_up_table_in_any_range_and_with_missing_contrasts():
    train, test = pairs(24), pairs(12, seed=1)
    limit = 0.5 * error(IntensityMap(train), test)
    found = error(Regression(train, **SETTINGS), test)
    with torch.inference_mode():  # the same seed gives the same bits whatever surrounds it
        assert error(Regression(iter(train), **SETTINGS), test) == found
    assert found < limit < error(lambda x: x, test)
    wide = [[(5 * (s + 1), 5 * (t + 1)) for s, t in some] for some in (train, test)]
    scaled = Regression(wide[0], **SETTINGS | {"low": 0.0, "high": 10.0})
    assert error(scaled, wide[1]) == pytest.approx(5 * found, rel=0.05)
    lacking = [
        (torch.cat([s, s * torch.nan if k % 3 else -s]), torch.cat([t, t * torch.nan if k % 2 else 0 * t]))
        for k, (s, t) in enumerate(train)
    ]
    outputs = Regression(lacking, **SETTINGS)(torch.stack([torch.cat([s, s * torch.nan]) for s, _ in test]))
    assert outputs.shape == (12, 2, 16, 16) and outputs.isfinite().all()
    assert (outputs[:, :1] - torch.stack([t for _, t in test])).abs().mean() < limit


@pytest.mark.parametrize("size", [(19, 21), (2, 3), (9, 10, 11)], ids=lambda size: "x".join(map(str, size)))
def test_sides_that_do_not_halve_are_handled(size):
    images = torch.rand((4, 1, *size)) * 2 - 1
    model = Regression(zip(images, images, strict=True), **SETTINGS | {"dims": len(size), "steps": 2})
    for sides in (size, [side + 3 for side in size]):  # another size than that of the training too
        assert model(torch.zeros(1, 1, *sides)).shape == (1, 1, *sides)


def test_what_cannot_be_learned_from_is_refused():
    odd = [(torch.zeros(1, 16, 18), torch.zeros(1, 16, 18))]
    for some, word in (([], "registered training pairs"), (pairs(1) + odd, "one size")):
        with pytest.raises(UserError, match=word):
            Regression(some, **SETTINGS)
