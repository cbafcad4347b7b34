"""Pairs that an unpaired method finds itself: alike whatever the contrast, registered, and moved
with their images.
"""

import pickle

import numpy as np
import pytest
import torch
from tiny import PATCHGAN, UNET, method_of, random_images, registered

from gantk.method import Batch
from gantk.plugin.spec import bind
from gantk_translation.weak_pairs.matching import grid, sample_at

WeakPairs = registered("loss", "weak_pairs")


@pytest.fixture(scope="module")
def heads() -> dict[str, torch.Tensor]:
    """T1 and T2 of the same six slices each of two heads, black to white as -1 to 1: (12, 1, 64,
    64).
    """
    part = bind("source", {"name": "phantom", "subjects": 2, "slices": 6})
    found = {"a": [], "b": []}
    for record in part(("T1", "T2"), 2, (64, 64)).records():
        found[record.domain].append(torch.from_numpy(record.read()))

    stacks = {letter: torch.stack(images) for letter, images in found.items()}
    return {
        letter: (images / np.quantile(images, 0.999) * 2 - 1).clamp(-1, 1)
        for letter, images in stacks.items()
    }


def companions(finder, sets):
    """What goes with each image, of a copy as other ranks are sent it."""
    found = pickle.loads(pickle.dumps(finder.companions(sets)))
    return {
        letter: [like(n, sets) for n in range(len(sets[letter]))] for letter, like in found.items()
    }


def test_the_most_similar_image_is_the_same_slice(heads):
    mixed = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    found = companions(WeakPairs(candidates=1), {"a": heads["a"], "b": heads["b"][mixed]})
    for one, other, own in (("a", "b", range(12)), ("b", "a", mixed.tolist())):
        right = [
            torch.equal(like, heads[other][n]) for like, n in zip(found[one], own, strict=True)
        ]
        assert all(right), "MIND is blind to contrast, not to anatomy"


def test_a_moved_and_bent_image_is_registered(heads):
    affine = torch.tensor([[[0.05, 0.06, 0.04], [-0.06, -0.04, -0.05]]]).expand(6, 2, 3)
    moved = sample_at(heads["b"][:6], grid(affine, 0.04 * torch.randn(6, 2, 4, 4), (64, 64)))
    found = companions(WeakPairs(candidates=1), {"a": heads["a"][:6], "b": moved})["a"]
    apart = [(each - heads["b"][:6]).abs().mean() for each in (moved, torch.stack(found))]

    assert apart[1] < 0.6 * apart[0]


@pytest.mark.parametrize("name", ["cyclegan", "dualgan"])
def test_a_method_with_pairs_pulls_both_outputs_towards_them(name):
    table = {
        "name": name,
        "generator": UNET,
        "discriminator": PATCHGAN,
        "pool": 0,
        "pairs": "weak_pairs",
    }
    table |= {"identity": 0.0} if name == "cyclegan" else {}
    method = method_of(table, channels=(1, 2))
    images = {
        "a": random_images(3, 1, (16, 16), seed=1),
        "b": random_images(4, 2, (16, 16), seed=2),
    }
    found = {letter: torch.stack(each) for letter, each in companions(method, images).items()}

    # noise explains noise nowhere
    assert found["a"].shape == (3, 2, 16, 16)
    assert found["b"].shape == (4, 1, 16, 16)

    batch = Batch(
        {"a": images["a"], "b": images["b"][:3], "near_a": found["a"], "near_b": found["b"][:3]}
    )
    losses = method.generator_losses(batch)
    for to, network in (("b", method.g_ab), ("a", method.g_ba)):
        gradients = torch.autograd.grad(
            losses[f"pairs_{to}"], list(network.parameters()), retain_graph=True
        )
        assert all(each.isfinite().all() for each in gradients)
        assert any(each.abs().sum() > 0 for each in gradients)


@pytest.mark.parametrize(("in_warmup", "small_has_it"), [(True, True), (False, False)])
def test_source_losses_can_be_left_out_of_the_half_size_steps(in_warmup, small_has_it):
    table = {"name": "dualgan", "generator": UNET, "discriminator": PATCHGAN}
    table |= {"source_losses": ["edge_direction"], "source_losses_in_warmup": in_warmup}
    table |= {"flat_region": 1.0, "low_res_warmup": 0.5}
    method = method_of(table, (32, 32))

    def names(side):
        images = {name: random_images(2, 1, (side, side), seed=1) for name in "ab"}
        return method.generator_losses(Batch(images)).keys()

    assert ("edge_direction_b" in names(16)) == small_has_it
    assert {"flat_region_a", "flat_region_b"} <= names(16)
    assert {"edge_direction_a", "edge_direction_b"} <= names(32)
