"""The L1 regression as a rival: it learns what a look-up table cannot, repeats to the bit, and takes any size."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.metrics import regression
from gantk.metrics.baselines import IntensityMap
from gantk.metrics.regression import Regression, mirrored

CPU = Runtime(torch.device("cpu"), "fp32", False)
SETTINGS = dict(dims=2, steps=60, seed=0, low=-1.0, high=1.0, runtime=CPU)


def pairs(count: int, size: tuple[int, ...] = (16, 16), seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Smooth sources, and targets that no look-up table gives: how far a pixel is above its surroundings."""
    generator = torch.Generator().manual_seed(seed)
    blur = F.avg_pool2d if len(size) == 2 else F.avg_pool3d
    sources = blur(torch.rand((count, 1, *size), generator=generator) * 4 - 2, 3, 1, 1).clamp(-1, 1)
    targets = (2 * (sources - blur(sources, 3, 1, 1, count_include_pad=False)) - 0.5).clamp(-1, 1)
    return list(zip(sources, targets, strict=True))


def error(model, held_out) -> float:
    sources, targets = (torch.stack(images) for images in zip(*held_out, strict=True))
    return float((model(sources) - targets).abs().mean())


def test_it_beats_the_identity_and_the_best_look_up_table():
    train, test = pairs(24), pairs(12, seed=1)
    found = error(Regression(train, **SETTINGS), test)
    assert found < 0.5 * error(IntensityMap(train), test) < error(lambda x: x, test)
    swapped = error(Regression([(target, source) for source, target in train], **SETTINGS), test)
    assert found < 0.25 * swapped


def test_more_steps_are_better():
    train, test = pairs(24), pairs(12, seed=1)
    few, many = (error(Regression(train, **SETTINGS | {"steps": steps}), test) for steps in (3, 40))
    assert many < 0.7 * few


def test_the_same_seed_gives_the_same_bits_and_the_global_generator_stays():
    train, sources = pairs(6), torch.stack([source for source, _ in pairs(3, seed=1)])
    torch.manual_seed(3)
    first = Regression(train, **SETTINGS | {"steps": 3})(sources)
    torch.manual_seed(4)
    again = Regression(iter(train), **SETTINGS | {"steps": 3})(sources)
    other = Regression(train, **SETTINGS | {"steps": 3, "seed": 1})(sources)
    assert torch.equal(first, again) and not torch.equal(first, other)
    state = torch.manual_seed(5).get_state()
    Regression(train, **SETTINGS | {"steps": 1})
    assert torch.equal(torch.get_rng_state(), state)


def test_grad_mode_and_autocast_of_the_caller_do_not_matter():
    train, sources = pairs(6), torch.stack([source for source, _ in pairs(3, seed=1)])
    plain = Regression(train, **SETTINGS | {"steps": 2})(sources)
    with torch.no_grad():
        assert torch.equal(Regression(train, **SETTINGS | {"steps": 2})(sources), plain)
    with torch.inference_mode():
        assert torch.equal(Regression(train, **SETTINGS | {"steps": 2})(sources), plain)
    assert not plain.requires_grad and plain.dtype == torch.float32


@pytest.mark.parametrize("size", [(19, 21), (5, 9), (2, 3), (9, 10, 11), (1, 8, 8)])
def test_sides_that_do_not_halve_are_handled(size):
    dims = len(size)
    images = torch.rand((4, 1, *size)) if dims == 3 else torch.rand((4, 1, *size)) * 2 - 1
    made = Regression(zip(images, images, strict=True), **SETTINGS | {"dims": dims, "steps": 2})(images)
    assert made.shape == images.shape and made.isfinite().all()
    # another size than that of the training is no matter either
    larger = torch.zeros(1, 1, *[side + 3 for side in size])
    assert Regression([(images[0], images[1])], **SETTINGS | {"dims": dims, "steps": 1})(larger).shape == larger.shape


def test_volumes_are_learned():
    train, test = pairs(8, (8, 8, 8)), pairs(4, (8, 8, 8), seed=1)
    assert error(Regression(train, **SETTINGS | {"dims": 3}), test) < 0.8 * error(IntensityMap(train), test)


def test_intensities_are_the_networks_own_and_stay_in_range():
    train, test = ([(5 * (s + 1), 5 * (t + 1)) for s, t in some] for some in (pairs(24), pairs(12, seed=1)))
    scaled = error(Regression(train, **SETTINGS | {"low": 0.0, "high": 10.0}), test)
    assert scaled == pytest.approx(5 * error(Regression(pairs(24), **SETTINGS), pairs(12, seed=1)), rel=0.05)
    wild = Regression(train, **SETTINGS | {"low": 0.0, "high": 10.0, "steps": 1})(torch.rand(4, 1, 16, 16) * 1e3 - 500)
    assert wild.min() >= 0 and wild.max() <= 10 and wild.std() > 0


def test_missing_contrasts_and_unknown_targets_do_not_poison_it():
    def two(some, lacking):
        found = []
        for number, (source, target) in enumerate(some):
            both = torch.cat([source, -source])
            if number % 3 in lacking:
                both[1] = torch.nan
            found.append((both, torch.cat([target, torch.full_like(target, torch.nan if number % 2 else 0.0)])))
        return found

    made = Regression(two(pairs(24), {1, 2}), **SETTINGS)
    test = pairs(12, seed=1)
    for lacking in (set(), {0, 1, 2}):
        sources = torch.stack([source for source, _ in two(test, lacking)])
        outputs = made(sources)
        assert outputs.shape == (12, 2, 16, 16) and outputs.isfinite().all()
        truth = torch.stack([target for _, target in test])
        assert (outputs[:, :1] - truth).abs().mean() < 0.5 * error(IntensityMap(pairs(24)), test)


def test_an_image_is_the_same_whatever_goes_with_it(monkeypatch):
    model = Regression(pairs(6), **SETTINGS | {"steps": 2})
    sources = torch.stack([source for source, _ in pairs(5, seed=1)])
    whole = model(sources)
    monkeypatch.setattr(regression, "PASS", 2 * 16 * 16)
    assert torch.allclose(model(sources), whole, atol=1e-6)
    assert torch.allclose(model(sources[3:4]), whole[3:4], atol=1e-6)


def test_it_computes_as_the_runtime_says(monkeypatch):
    used = []
    autocast = Runtime.autocast
    monkeypatch.setattr(Runtime, "autocast", lambda self: (used.append(self.precision), autocast(self))[1])
    half = Runtime(torch.device("cpu"), "bf16", True)
    model = Regression(pairs(24), **SETTINGS | {"runtime": half})
    assert error(model, pairs(12, seed=1)) < 0.5 * error(IntensityMap(pairs(24)), pairs(12, seed=1))
    assert used == ["bf16"] * 61 and not model.network.training


def test_source_and_target_are_mirrored_together():
    images = torch.arange(32.0).view(8, 1, 1, 4)
    one, other = mirrored([images, 2 * images], torch.Generator().manual_seed(0))
    assert torch.equal(2 * one, other)
    turned = [torch.equal(a, b.flip(-1)) for a, b in zip(one, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(one, images, strict=True)]
    assert any(turned) and any(kept) and all(t != k for t, k in zip(turned, kept, strict=True))


def test_its_definition_says_how_it_was_made():
    assert Regression(pairs(2), **SETTINGS | {"steps": 2}).definition == "regression/l1-unet-16/steps=2"


def test_what_cannot_be_learned_from_is_refused():
    for some, changed, word in (
        ([], {}, "registered training pairs"),
        (pairs(2), {"steps": 0}, "1 or more"),
        (pairs(1) + pairs(1, (16, 18)), {}, "one size"),
        ([(torch.zeros(1, 8, 8), torch.zeros(1, 8, 9))], {}, "one size"),
    ):
        with pytest.raises(UserError, match=word):
            Regression(some, **SETTINGS | changed)
