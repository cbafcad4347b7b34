"""Augmentations of the published systems by their effect: what becomes of an image that is shown."""

import math

import pytest
import torch
from systems import recipe_of
from tiny import random_images

from gantk.data.augment import augment_batch

pytestmark = pytest.mark.fidelity

COUNT = 600  # images of which each is changed by itself
# system -> how often each of its augmentations changes an image
SHARES = {
    "cyclegan_t1t2_unet15": {
        "vflip": 0.15,
        "rot90": 0.15,
        "brightness": 0.3,
        "contrast": 0.3,
        "hflip": 0.5,
        "crop": 1.0,
    },
    "cyclegan_t1t2_64": {"hflip": 0.5},
    "cyclegan_t1t2_256": {"rotate": 0.5, "hflip": 0.5, "vflip": 0.5, "brightness": 0.5},
}
SHARES["dualgan_t1t2_unet15"] = SHARES["cyclegan_t1t2_unet15"]
EFFECTS = sorted({(name, part) for name, shares in SHARES.items() for part in shares})


def images():
    """Images that no flip or turn leaves as they are, each another, within [-1, 1]."""
    return random_images(COUNT, 1, (8, 8))


def changed_by(name, part, given, always=True):
    """What an augmentation of a recipe makes of images."""
    options = {each.name: each for each in recipe_of(name).data.augment}
    augment = options[part](2)
    if always:
        augment.p = 1.0
    torch.manual_seed(4)
    return augment(given)


def spread(values, low, high):
    """Whether values fill a range evenly, and nothing beyond it."""
    quarters = torch.histc(values.flatten().float(), 4, low, high) / values.numel()
    inside = low - 1e-4 <= values.min() and values.max() <= high + 1e-4
    return bool(inside and (quarters - 0.25).abs().max() < 0.07)


def assert_hflip(name):
    given = images()
    assert torch.equal(changed_by(name, "hflip", given), given[..., range(7, -1, -1)])


def assert_vflip(name):
    given = images()
    assert torch.equal(changed_by(name, "vflip", given), given[:, :, range(7, -1, -1)])


def assert_rot90(name):
    given = images()
    found = changed_by(name, "rot90", given)
    quarter = given.transpose(2, 3).flip(3)
    half = given.flip(2).flip(3)
    turns = [(found == x).flatten(1).all(1) for x in (quarter, half, half.transpose(2, 3).flip(3))]
    assert (sum(turns) == 1).all()
    assert all(0.25 < float(turn.float().mean()) < 0.42 for turn in turns)


def assert_brightness(name):
    given = images()
    added = (changed_by(name, "brightness", given) - given).flatten(1)
    assert (added.amax(1) - added.amin(1)).max() < 1e-5  # one number for an image
    assert spread(added.mean(1), -0.1, 0.1)


def assert_contrast(name):
    given = images()
    found = changed_by(name, "contrast", given)
    mean = given.mean((2, 3), keepdim=True)
    stretch = (found - mean) / (given - mean)
    clear = (given - mean).abs() > 0.05
    own = stretch.where(clear, 0).sum((1, 2, 3)) / clear.sum((1, 2, 3))
    assert (stretch - own.view(-1, 1, 1, 1)).abs()[clear].max() < 1e-3  # about the mean
    assert spread(own, 0.9, 1.1)


def assert_crop(name):
    """A resize to 286 px and a random crop of 256 px: of an image whose values are its own
    coordinates the part is seen that was cut out.
    """
    line = torch.linspace(-1, 1, 32)
    places = torch.stack(torch.meshgrid(line, line, indexing="ij"))
    found = changed_by(name, "crop", places.expand(COUNT, -1, -1, -1))
    part = (found[:, 0, 20, 16] - found[:, 0, 10, 16]) / (line[20] - line[10])
    assert (
        (found[:, 1, 16, 20] - found[:, 1, 16, 10]) / (line[20] - line[10]) - part
    ).abs().max() < 1e-3
    assert (part - 256 / 286).abs().max() < 1e-3
    free = found[:, :, 15:17, 15:17].mean((2, 3)) / (1 - part.view(-1, 1))  # -1: at an edge
    assert spread(free, -1.05, 1.05)


def assert_rotate(name):
    """A line through the centre is turned about it."""
    line = torch.linspace(-1, 1, 33)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    found = changed_by(name, "rotate", torch.stack([rows, columns]).expand(COUNT, -1, -1, -1))
    across = found[:, 1, 16, 24] - found[:, 1, 16, 8]
    along = found[:, 0, 16, 24] - found[:, 0, 16, 8]
    assert (torch.hypot(across, along) - 1).abs().max() < 1e-3  # no change of size
    assert found[:, :, 16, 16].abs().max() < 1e-4  # and no shift
    assert spread(torch.atan2(along, across) * 180 / math.pi, -10.0, 10.0)


@pytest.mark.parametrize(("name", "part"), EFFECTS)
def test_an_augmentation_changes_images_as_stated(name, part):
    globals()[f"assert_{part}"](name)


@pytest.mark.parametrize(("name", "part"), EFFECTS)
def test_an_augmentation_changes_its_share_of_the_images(name, part):
    given = images()
    changed = (changed_by(name, part, given, always=False) != given).flatten(1).any(1)

    assert float(changed.float().mean()) == pytest.approx(SHARES[name][part], abs=0.06)


@pytest.mark.parametrize("name", SHARES)
def test_both_domains_of_a_batch_are_augmented_apart(name):
    parts = [part(2) for part in recipe_of(name).data.augment]
    given = {"a": images(), "b": images()}
    torch.manual_seed(6)

    found = augment_batch(given, parts, paired=False)

    for domain, image in given.items():
        left = (found[domain] == image).flatten(1).all(1).float().mean()
        assert float(left) == pytest.approx(
            math.prod(1 - share for share in SHARES[name].values()), abs=0.06
        )
    assert not torch.equal(found["a"], found["b"])
