"""N ranks are one process with the whole batch, for every method that is registered.

Compared are the weights and their average after two steps of SGD in float32. Image pools and what a discriminator's
augmentation adapts to are each rank's own, so there are none; a norm or a deviation over a batch sees a rank's images
only, so norms here keep the images apart.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import ranked
import torch

from gantk.plugin.loader import registry

GAME = {"name": "wgan_gp"}  # a penalty: its gradient goes through a gradient
NETWORK = {"name": "unet", "width": 4, "depth": 2}
JUDGE = {"name": "munit", "width": 4, "layers": 2}
# What a method needs to be small and to be a mean over its images; every other one is tested with its defaults.
CASES: dict[str, list[dict]] = {
    "cyclegan": [
        {},
        {"options": {"generator": NETWORK, "augment": ["translate"], "defense": 0.05}},
        {"options": {"generator": NETWORK}, "microbatch": 1},
    ],
    "cut": [{"options": {"patches": 16, "width": 8}, "lr": 1e-4}],  # embeddings near 0 have gradients of 1e6
    "dcgan": [{}, {"options": {"critic": 2, "adversarial": GAME}}, {"options": {"conditional": True}}],
    "dualgan": [
        {"options": {"local_ncc": 0.0, "flat_region": 0.0}},
        {"options": {"local_ncc": 0.0, "flat_region": 0.0, "critic": 2, "adversarial": GAME, "low_res_warmup": 0.5}},
    ],
    "munit": [{"options": {"width": 4, "blocks": 1, "mlp_dim": 8, "discriminator": JUDGE}}],
    "pix2pix": [{}, {"options": {"both": True, "generator": NETWORK}, "dims": 3}],
    "progan": [{"options": {"width": 8, "latent": 8}}],  # a stage for each size: most weights take no part at first
    "style": [
        {"options": {"weights": "random", "content_layers": ["conv2_1"], "style_layers": ["conv1_1", "conv2_1"]}},
    ],
}
NAMED = {
    f"{method}-{number}": {"method": method} | case
    for method in registry().names("method")
    for number, case in enumerate(CASES.get(method, [{}]), 1)
}


@pytest.fixture(autouse=True)
def one_thread():
    """As many as the ranks have: sums over several threads add in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def expect_equal(world: int, folder: Path, overlaps: tuple[bool, ...]) -> None:
    found = ranked.trained(NAMED, world, folder, overlaps)
    wrong = []
    for case, ranks in found.items():
        alone = ranked.train(NAMED[case], 0, 1)
        for rank, ways in enumerate(ranks):
            for way, weights in enumerate(ways):
                assert weights.keys() == alone.keys()
                off = [name for name in alone if not torch.allclose(weights[name], alone[name], rtol=1e-4, atol=1e-5)]
                wrong += [f"{case}, overlap {overlaps[way]}, rank {rank}: '{name}' is another" for name in off]
                apart = [name for name in alone if not torch.equal(weights[name], ranks[0][way][name])]
                wrong += [f"{case}: '{name}' of rank {rank} is not rank 0's" for name in apart]
                # of two ranks a + b is the same bits in any order; of more, messages of other sizes add in another
                turned = [name for name in alone if world == 2 and not torch.equal(weights[name], ways[0][name])]
                wrong += [f"{case}: '{name}' depends on train.overlap" for name in turned]
    assert not wrong, f"{len(wrong)} differences:\n" + "\n".join(wrong[:20])


def test_two_ranks_are_one_process_for_every_method(tmp_path):
    expect_equal(2, tmp_path, (True,))


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_are_one_process_for_every_method_overlapped_or_not(tmp_path, world):
    expect_equal(world, tmp_path, (True, False))


def test_the_comparison_would_see_a_difference():
    case = NAMED["pix2pix-1"]
    alone, half = ranked.train(case, 0, 1), ranked.train(case | {"microbatch": 2}, 0, 1)
    assert all(torch.allclose(half[name], alone[name], rtol=1e-4, atol=1e-5) for name in alone)
    ranked.IMAGES, images = 2, ranked.IMAGES
    try:
        other = ranked.train(case, 0, 1)
    finally:
        ranked.IMAGES = images
    assert any(not torch.allclose(other[name], alone[name], rtol=1e-4, atol=1e-5) for name in alone)
