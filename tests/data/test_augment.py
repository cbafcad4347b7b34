"""Augmentations keep shapes, gradients and registration, repeat with the seed, and fit into a CUDA
graph.
"""

import pytest
import torch
from recorded import Recording, host_reads
from tiny import method_of, random_images

from gantk.data.augment import augment_batch
from gantk.method import Batch
from gantk_parts import AUGMENTATIONS
from gantk_parts import augment as changes

SHAPES = {2: (4, 2, 16, 12), 3: (3, 2, 8, 12, 10)}
KINDS = list(AUGMENTATIONS.values())
every = pytest.mark.parametrize("name", KINDS)
both = pytest.mark.parametrize("dims", [2, 3])


def images(dims):
    """Images of two channels, drawn evenly from -1 to 1."""
    count, channels, *size = SHAPES[dims]
    return random_images(count, channels, size)


@every
@both
def test_augmentation_keeps_shape_layout_and_gradients(name, dims):
    kind = getattr(changes, name)
    for kept in (
        torch.contiguous_format,
        torch.channels_last if dims == 2 else torch.channels_last_3d,
    ):
        image = images(dims).contiguous(memory_format=kept).requires_grad_()
        changed = kind(dims, p=1.0)(image)
        assert changed.shape == image.shape
        assert changed.is_contiguous(memory_format=kept)
        assert torch.equal(image, images(dims))
        assert not torch.equal(changed, image)
        changed.square().sum().backward()
        assert torch.isfinite(image.grad).all()
        assert image.grad.abs().sum() > 0

    assert torch.equal(kind(dims, p=0.0)(images(dims)), images(dims)), (
        "a share of zero changes nothing"
    )


@every
@both
def test_the_seed_repeats_it_and_a_graph_can_hold_it(name, dims):
    change = getattr(changes, name)(dims, p=0.7)
    image = images(dims)
    recording = Recording()
    change(image)  # imports what it needs

    assert host_reads(lambda: change(image)) == []

    out = recording.record(lambda: change(image))
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = change(image)
        torch.manual_seed(seed)
        recording.replay()
        assert torch.equal(out, expected)

    assert not torch.equal(change(many := torch.cat([image] * 10)), change(many))


@pytest.mark.parametrize("name", [name for name in KINDS if getattr(changes, name).geometric])
@both
def test_channels_move_together_and_no_value_is_invented(name, dims):
    image = images(dims) * 0.5 - 0.5  # 0 would be brighter than all of it
    image[..., 3:-3, 3:-3] = -0.4
    image[:, 1] = image[:, 0]
    change = getattr(changes, name)(dims, p=1.0)
    changed = change(image)

    assert torch.equal(changed[:, 0], changed[:, 1])
    assert changed.max() <= image.max() + 1e-5
    assert changed.min() >= image.min() - 1e-5


@both
def test_a_curve_keeps_black_and_the_order_of_tissues(dims):
    image = images(dims)
    flat = image.flatten(1)
    order = flat.argsort(dim=1)
    curved = changes.Curve(dims, p=1.0)(image).flatten(1)

    assert (curved.gather(1, order).diff(dim=1) >= -1e-6).all()
    darkest = order[:, :1]
    torch.testing.assert_close(curved.gather(1, darkest), flat.gather(1, darkest))


@pytest.mark.parametrize("paired", [False, True])
def test_a_mask_and_companions_move_with_their_image(paired):
    torch.manual_seed(0)
    batch = Batch({name: torch.rand(8, 1, 6, 5) for name in ("a", "b")})
    for name in ("a", "b"):
        batch[f"mask_{name}"] = (batch[name] > 0.5).float()
        batch[f"near_{name}"] = batch[name] + 1
    flips = [changes.HFlip(2)]

    moved = augment_batch(batch, flips, paired)

    flipped = {}
    for name in ("a", "b"):
        assert torch.equal(moved[f"mask_{name}"], (moved[name] > 0.5).float())
        assert torch.equal(moved[f"near_{name}"], moved[name] + 1)
        flipped[name] = (moved[name] != batch[name]).flatten(1).any(1)
        assert 0 < flipped[name].sum() < 8  # some of them, by chance
    assert torch.equal(flipped["a"], flipped["b"]) == paired


@pytest.mark.parametrize("method", ["regression", "pix2pix"])
def test_paired_sources_are_augmented_and_targets_are_not(method):
    generator = {"name": "unet", "width": 2, "depth": 1}
    table = {"name": method, "generator": generator, "vary": [{"name": "curve", "p": 1.0}]}
    model = method_of(table, (64, 64))
    a, b = (torch.rand(2, 1, 64, 64) * 2 - 1 for _ in range(2))
    shown = []

    def give_the_target(network, images, made):
        shown.append(images[0])
        return b.clone()

    model.g_ab.register_forward_hook(give_the_target)
    losses = model.phases()[0].loss(Batch(a=a, b=b))

    assert losses["l1_b"].item() == 0, "it is compared with the true image"
    assert not torch.allclose(shown[0], a)
    model.translate(a, "b")
    assert torch.equal(shown[1], a), "in use nothing is changed"
