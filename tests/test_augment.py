"""Augmentations keep shapes, gradients and registration, and repeat with the seed."""

import math
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
SHAPES = {2: (4, 2, 16, 12), 3: (3, 2, 8, 12, 10)}
every = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
both = pytest.mark.parametrize("dims", [2, 3])


def images(dims, seed=0):
    return torch.rand(SHAPES[dims], generator=torch.Generator().manual_seed(seed)) * 2 - 1


@every
@both
def test_shape_dtype_and_input_are_kept(kind, dims):
    image = images(dims)
    before = image.clone()
    changed = kind(dims, p=1.0)(image)
    assert changed.shape == image.shape and changed.dtype == image.dtype
    assert torch.equal(image, before) and not torch.equal(changed, image)


@every
@both
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_memory_format_is_kept(kind, dims, channels_last):
    kept = (torch.channels_last if dims == 2 else torch.channels_last_3d) if channels_last else torch.contiguous_format
    image = images(dims).contiguous(memory_format=kept)
    assert kind(dims)(image).is_contiguous(memory_format=kept)


@every
@both
def test_a_graph_can_hold_it(kind, dims):
    change, image, recording = kind(dims, p=0.7), images(dims), Recording()
    assert host_reads(lambda: change(image)) == []
    out = recording.record(lambda: change(image))
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = change(image)
        torch.manual_seed(seed)
        recording.replay()
        assert torch.equal(out, expected)


@every
@both
def test_the_seed_repeats_it(kind, dims):
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(kind(dims, p=0.7)(torch.cat([images(dims)] * 10)))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


@every
@both
def test_gradients_flow_to_the_image(kind, dims):
    image = images(dims).requires_grad_()
    kind(dims, p=1.0)(image).square().sum().backward()
    assert torch.isfinite(image.grad).all() and image.grad.abs().sum() > 0


@every
@both
def test_a_share_of_zero_changes_nothing(kind, dims):
    assert torch.equal(kind(dims, p=0.0)(images(dims)), images(dims))


@every
def test_images_of_a_batch_draw_their_own_change(kind):
    torch.manual_seed(0)
    same = images(2)[:1].repeat(64, 1, 1, 1)
    taken = (kind(2, p=0.5)(same) != same).flatten(1).any(dim=1).sum()
    assert 10 < taken < 54


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.geometric], ids=lambda kind: kind.__name__)
@both
def test_channels_move_together(kind, dims):
    single = images(dims)[:, :1]
    changed = kind(dims, p=1.0)(torch.cat([single, single], dim=1))
    assert torch.equal(changed[:, 0], changed[:, 1])


@pytest.mark.parametrize("kind", [augment.Rotate, augment.Affine, augment.Crop, augment.Translate, augment.Cutout])
@both
def test_no_value_appears_that_was_not_there(kind, dims):
    image = images(dims) * 0.5 - 0.5  # 0 would be brighter than all of it
    image[..., 3:-3, 3:-3] = -0.4
    changed = kind(dims, p=1.0)(image)
    assert changed.max() <= image.max() + 1e-5 and changed.min() >= image.min() - 1e-5


def test_flips_and_quarter_turns_are_exact():
    image = images(2)
    assert torch.equal(augment.HFlip(2, p=1.0)(image), image.flip(-1))
    assert torch.equal(augment.VFlip(2, p=1.0)(image), image.flip(-2))
    square = torch.rand(30, 1, 6, 6)
    turned = augment.Rot90(2, p=1.0)(square)
    kinds = {
        k
        for one, other in zip(square, turned, strict=True)
        for k in (1, 2, 3)
        if torch.equal(other, one.rot90(k, (-2, -1)))
    }
    assert kinds == {1, 2, 3}


def test_brightness_adds_and_contrast_keeps_the_mean():
    image = images(2)
    difference = augment.Brightness(2, p=1.0, by=0.3)(image) - image
    assert difference.abs().max() <= 0.3 and difference.flatten(1).std(dim=1).max() < 1e-6
    changed = augment.Contrast(2, p=1.0, by=0.3)(image)
    torch.testing.assert_close(changed.mean(dim=(2, 3)), image.mean(dim=(2, 3)))


@both
def test_what_is_turned_by_a_quarter_is_turned_exactly(dims):
    image = torch.rand(1, 1, *[6] * dims)
    quarter = augment.turned(torch.eye(dims, dims + 1)[None], [(0, 1)], torch.tensor([[math.pi / 2]]), [6] * dims)
    torch.testing.assert_close(augment.warp(image, quarter), image.rot90(1, (-2, -1)), atol=1e-5, rtol=0)


def test_a_picture_is_warped_as_kornia_warps_it():
    from kornia.geometry.transform import get_affine_matrix2d, warp_affine

    image = images(2)
    height, width = image.shape[2:]
    degrees, sizes = torch.tensor([8.0, -5, 20, 0]), torch.tensor([1.1, 0.8, 1, 1])
    shifts = torch.tensor([[0.1, 0.0], [-0.2, 0.1], [0, 0], [0, 0.05]])  # of each side
    start = torch.cat([torch.eye(2).expand(4, 2, 2), -2 * shifts[:, :, None]], dim=2) / sizes.view(4, 1, 1)
    found = augment.warp(image, augment.turned(start, [(0, 1)], -torch.deg2rad(degrees)[:, None], (width, height)))
    centre = torch.tensor([[(width - 1) / 2, (height - 1) / 2]]).expand(4, 2)
    pixels = shifts * torch.tensor([width, height])
    matrix = get_affine_matrix2d(pixels, centre, sizes[:, None].expand(4, 2), degrees)[:, :2]
    expected = warp_affine(image, matrix, (height, width), padding_mode="border", align_corners=False)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [augment.Affine, augment.Crop])
@both
def test_places_are_exact_under_autocast(kind, dims):
    image, results = images(dims), []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(kind(dims, p=1.0)(image))
    assert torch.equal(*results)


@both
def test_an_affine_change_stays_within_its_options(dims, monkeypatch):
    parts = []
    monkeypatch.setattr(augment, "warp", lambda image, part: parts.append(part) or image)
    many = torch.zeros(4000, 1, *[8] * dims)
    augment.Affine(dims, degrees=10, shift=0.05, scale=0.1)(many)
    augment.Translate(dims, shift=0.1)(many)
    augment.Crop(dims, smallest=0.8)(many)
    affine, shifted, crop = parts
    sizes = 1 / torch.linalg.det(affine[:, :, :dims]) ** (1 / dims)
    assert 0.9 <= sizes.min() < 0.91 and 1.09 < sizes.max() <= 1.1
    cosines = (affine[:, 0, 0] * sizes).clamp(max=1)  # of the angle that x is turned by
    assert 9.5 < torch.rad2deg(torch.arccos(cosines)).max() < (10.01 if dims == 2 else 14.2)
    moved = torch.linalg.solve(affine[:, :, :dims], affine[:, :, dims:]).abs() / 2  # in sides, before turn and size
    assert 0.049 < moved.max() <= 0.0501
    assert torch.equal(shifted[:, :, :dims], torch.eye(dims).expand(4000, -1, -1))
    assert 0.099 < shifted[:, :, dims].abs().max() / 2 <= 0.1
    sides, room = crop[:, 0, 0], 1 - crop[:, 0, 0]
    assert 0.8 <= sides.min() < 0.81 and 0.99 < sides.max() <= 1
    assert bool((crop[:, :, dims].abs() <= room[:, None] + 1e-6).all()), "no part reaches over the border"
    power = 2 if dims == 2 else 1
    assert float((sides**power).mean()) == pytest.approx((0.8**power + 1) / 2, abs=0.01)


def test_cutout_hides_a_box_of_its_side():
    image = torch.ones(8, 1, 20, 20)
    image[:, :, 0, 0] = -1
    hidden = augment.Cutout(2, p=1.0, side=0.5)(image) == -1
    assert (hidden.flatten(1).sum(dim=1) - 100).abs().max() <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: augment.HFlip(2, p=1.5),
        lambda: augment.Affine(2, scale=1.0),
        lambda: augment.Crop(2, smallest=0.0),
        lambda: augment.Cutout(3, side=2.0),
    ],
)
def test_impossible_options_are_the_users_mistake(wrong):
    with pytest.raises(UserError):
        wrong()


def test_importing_the_module_does_not_import_kornia():
    code = "import sys, gantk.data.augment; sys.exit('kornia' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
