"""Augmentations keep shapes, gradients and registration, repeat with the seed, and fit into a CUDA graph."""

import pytest
import torch

from gantk.errors import UserError
from gantk.testing.recorded import Recording, host_reads
from gantk_augment import changes as augment

ALL = [
    augment.HFlip, augment.VFlip, augment.Rot90, augment.Rotate, augment.Affine, augment.Crop, augment.Translate,
    augment.Cutout, augment.Brightness, augment.Contrast, augment.Noise,
]  # fmt: skip
SHAPES = {2: (4, 2, 16, 12), 3: (3, 2, 8, 12, 10)}
every = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
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
