"""Augmentations keep shapes, gradients and registration, repeat with the seed, and fit into a CUDA graph."""

import subprocess
import sys

import pytest
import torch

from gantk.data import augment
from gantk.errors import UserError
from gantk.testing.recorded import Recording, host_reads

ALL = [
    augment.HFlip, augment.VFlip, augment.Rot90, augment.Rotate, augment.Affine, augment.Crop, augment.Translate,
    augment.Cutout, augment.Brightness, augment.Contrast, augment.Noise,
]  # fmt: skip
WARPS = [augment.Rotate, augment.Affine, augment.Crop, augment.Translate]
SHAPES = {2: (4, 2, 16, 12), 3: (3, 2, 8, 12, 10)}
every = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
warps = pytest.mark.parametrize("kind", WARPS, ids=lambda kind: kind.__name__)
both = pytest.mark.parametrize("dims", [2, 3])


def images(dims, seed=0):
    return torch.rand(SHAPES[dims], generator=torch.Generator().manual_seed(seed)) * 2 - 1


def seeded(seed, change, image):
    torch.manual_seed(seed)
    return change(image)


@every
@both
def test_shape_type_input_and_memory_format_are_kept_and_gradients_flow(kind, dims):
    for kept in (torch.contiguous_format, torch.channels_last if dims == 2 else torch.channels_last_3d):
        image = images(dims).contiguous(memory_format=kept).requires_grad_()
        before = image.detach().clone()
        changed = kind(dims, p=1.0)(image)
        assert changed.shape == image.shape and changed.dtype == image.dtype
        assert changed.is_contiguous(memory_format=kept)
        assert torch.equal(image, before) and not torch.equal(changed, image)
        changed.square().sum().backward()
        assert torch.isfinite(image.grad).all() and image.grad.abs().sum() > 0
    assert torch.equal(kind(dims, p=0.0)(images(dims)), images(dims)), "a share of zero changes nothing"


@every
@both
def test_the_seed_repeats_it_and_a_graph_can_hold_it(kind, dims):
    change, image, recording = kind(dims, p=0.7), images(dims), Recording()
    change(image)  # imports what it needs
    assert host_reads(lambda: change(image)) == []
    out = recording.record(lambda: change(image))
    for seed in (1, 2):
        expected = seeded(seed, change, image)
        torch.manual_seed(seed)
        recording.replay()
        assert torch.equal(out, expected)
    many = torch.cat([image] * 10)
    assert torch.equal(seeded(3, change, many), seeded(3, change, many))
    assert not torch.equal(seeded(3, change, many), seeded(4, change, many))


@every
def test_images_of_a_batch_draw_their_own_change(kind):
    same = images(2)[:1].repeat(64, 1, 1, 1)
    taken = (seeded(0, kind(2, p=0.5), same) != same).flatten(1).any(dim=1).sum()
    assert 10 < taken < 54


@every
@both
def test_channels_move_together_and_no_value_appears_that_was_not_there(kind, dims):
    image = images(dims) * 0.5 - 0.5  # 0 would be brighter than all of it
    image[..., 3:-3, 3:-3] = -0.4
    image[:, 1] = image[:, 0]
    changed = kind(dims, p=1.0)(image)
    if kind.geometric:
        assert torch.equal(changed[:, 0], changed[:, 1])
        assert changed.max() <= image.max() + 1e-5 and changed.min() >= image.min() - 1e-5


def test_flips_and_quarter_turns_are_exact():
    image = images(2)
    assert torch.equal(augment.HFlip(2, p=1.0)(image), image.flip(-1))
    assert torch.equal(augment.VFlip(2, p=1.0)(image), image.flip(-2))
    square = torch.rand(30, 1, 6, 6)
    turned = zip(square, augment.Rot90(2, p=1.0)(square), strict=True)
    assert {k for one, other in turned for k in (1, 2, 3) if torch.equal(other, one.rot90(k, (-2, -1)))} == {1, 2, 3}


def test_brightness_adds_and_contrast_keeps_the_mean():
    image = images(2)
    difference = augment.Brightness(2, p=1.0, by=0.3)(image) - image
    assert difference.abs().max() <= 0.3 and difference.flatten(1).std(dim=1).max() < 1e-6
    changed = augment.Contrast(2, p=1.0, by=0.3)(image)
    torch.testing.assert_close(changed.mean(dim=(2, 3)), image.mean(dim=(2, 3)))


@both
def test_a_warp_samples_where_it_says(dims):
    image = torch.rand(1, 1, *[6] * dims)
    quarter = torch.eye(dims)[None].clone()
    quarter[0, :2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    nowhere = torch.zeros(1, dims)
    torch.testing.assert_close(augment.warp(image, quarter, nowhere), image.rot90(1, (-2, -1)), atol=1e-5, rtol=0)
    one = nowhere.clone()
    one[0, 0] = 1.0  # along x, the last axis
    shifted = augment.warp(image, torch.eye(dims)[None], one)
    torch.testing.assert_close(shifted[..., :-1], image[..., 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(shifted[..., -1], image[..., -1], atol=1e-5, rtol=0)


@warps
@both
def test_places_are_exact_under_autocast(kind, dims):
    change, results = kind(dims, p=1.0), []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(seeded(1, change, images(dims)))
    assert torch.equal(*results)


@both
def test_an_affine_change_stays_within_its_options(dims, monkeypatch):
    calls = []
    monkeypatch.setattr(augment, "warp", lambda image, *places: calls.append(places) or image)
    many = torch.zeros(4000, 1, *[8] * dims)
    augment.Affine(dims, degrees=10, shift=0.05, scale=0.1)(many)
    augment.Translate(dims, shift=0.1)(many)
    augment.Crop(dims, smallest=0.8)(many)
    (linear, moved), (plain, shift), (part, place) = calls
    sizes = 1 / torch.linalg.det(linear) ** (1 / dims)
    assert 0.9 <= sizes.min() < 0.91 and 1.09 < sizes.max() <= 1.1
    cosines = (linear[:, 0, 0] * sizes).clamp(max=1)  # of the angle that x is turned by
    assert 9.5 < torch.rad2deg(torch.arccos(cosines)).max() < (10.01 if dims == 2 else 14.2)
    shares = torch.linalg.solve(linear, moved[:, :, None]).abs() / 8  # before turn and size
    assert 0.049 < shares.max() <= 0.0501
    torch.testing.assert_close(plain, torch.eye(dims).expand(4000, -1, -1))
    assert 0.099 < shift.abs().max() / 8 <= 0.1
    sides = part[:, 0, 0]
    assert 0.8 <= sides.min() < 0.81 and 0.99 < sides.max() <= 1
    assert (place.abs() <= 4 * (1 - sides)[:, None] + 1e-5).all(), "no part reaches over the border"
    power = 2 if dims == 2 else 1
    assert float((sides**power).mean()) == pytest.approx((0.8**power + 1) / 2, abs=0.01)


def test_cutout_hides_a_box_of_its_side():
    image = torch.ones(8, 1, 20, 20)
    image[:, :, 0, 0] = -1
    hidden = augment.Cutout(2, p=1.0, side=0.5)(image) == -1
    assert (hidden.flatten(1).sum(dim=1) - 100).abs().max() <= 1


@pytest.mark.parametrize(
    ("kind", "options"),
    [(augment.HFlip, {"p": 1.5}), (augment.Affine, {"scale": 1.0}), (augment.Crop, {"smallest": 0.0}),
     (augment.Cutout, {"side": 2.0})],
    ids=["HFlip", "Affine", "Crop", "Cutout"],
)  # fmt: skip
def test_impossible_options_are_the_users_mistake(kind, options):
    with pytest.raises(UserError, match="data.augment"):
        kind(2, **options)


def test_kornia_is_imported_by_the_change_that_needs_it():
    code = "import sys, torch; from gantk.data.augment import *; HFlip(2, p=1.0)(torch.ones(1, 1, 4, 4)); "
    code += "before = 'kornia' in sys.modules; Affine(2)(torch.ones(1, 1, 4, 4)); "
    code += "sys.exit(before or 'kornia' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
