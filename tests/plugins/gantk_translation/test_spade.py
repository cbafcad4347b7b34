"""SPADE (Park et al. 2019): equation 1, images of label maps; label maps on their way to it, and
new ones.
"""

import numpy as np
import pytest
import torch
from tiny import PATCHGAN, method_of, random_images, train_without_scores
from volumes import volume

import gantk
from gantk.errors import UserError
from gantk.method import Batch
from gantk_translation.spade.network import SPADE

METHOD = {
    "name": "spade",
    "classes": 3,
    "width": 4,
    "ups": 2,
    "hidden": 4,
    "style": 2,
    "discriminator": PATCHGAN,
}
MAPPING = {"name": "domains", "a": {"name": "label_map", "classes": 3}, "b": "percentile"}


@pytest.mark.parametrize("dims", [2, 3])
def test_equation_1_scales_and_shifts_by_the_map(dims):
    layer = SPADE(dims, 3, 2, 4)
    h = random_images(2, 3, (8,) * dims)
    axes = [*range(2, h.ndim)]
    mean = h.mean(axes, keepdim=True)
    variance = h.var(axes, correction=0, keepdim=True)
    normed = (h - mean) / (variance + 1e-5).sqrt()
    m = torch.zeros(2, 2, *[16] * dims)  # is brought to the size of h
    constant = layer(h, m)
    modulation = layer.modulation(layer.seen(m).relu())
    first_pixel = (..., *[slice(1)] * dims)
    scale, shift = modulation[first_pixel].chunk(2, 1)

    # one scale and one shift of each channel
    torch.testing.assert_close(constant, scale * normed + shift)

    m[..., 8:] = 1.0
    after = layer(h, m)

    assert torch.equal(after[..., :2], constant[..., :2])
    assert (after != constant)[..., 5:].any()


def test_one_map_gives_many_images():
    method = method_of(METHOD | {"grain": True}, channels=(1, 2)).eval()
    classes = (
        torch.tensor([[0, 1], [2, 1]])
        .expand(2, 1, 2, 2)
        .repeat_interleave(8, 2)
        .repeat_interleave(8, 3)
    )
    batch = Batch(a=classes - 1.0, b=torch.randn(2, 2, 16, 16) * (1.0 + classes))
    planes = method.planes(batch["a"])
    losses = method.generator_losses(batch)

    torch.testing.assert_close(
        method.noise / method.pixels, torch.tensor([[1.0, 2, 3]] * 2), rtol=0.3, atol=0
    )
    made = method.variants(batch["a"], "b", 2, 0)
    assert (made[0] - made[1]).abs().mean() > 1e-3
    assert torch.equal(planes.argmax(1, keepdim=True), classes)
    assert torch.equal(made, method.variants(batch["a"], "b", 2, 0))

    inside = [method.d_b(torch.cat([planes, batch[name]], 1)) for name in ("fake_b", "b")]
    pairs = [pair for maps in zip(*inside, strict=True) for pair in zip(*maps, strict=True)]
    unlike = sum((one - two).abs().mean() for one, two in pairs if one.shape[1] > 1)

    # lambda 10, the mean of two scales
    torch.testing.assert_close(losses["features_b"], 5 * unlike)


def test_a_style_is_drawn_as_the_encoder_says():
    method = method_of(METHOD)
    mean, variance = 3.0, 4.0
    codes = torch.tensor([mean, np.log(variance)]).view(1, 2, 1)
    method.e_b.register_forward_hook(lambda _, images, __: codes.expand(len(images[0]), 2, 2))
    shown = []
    method.g_ab.register_forward_pre_hook(lambda _, planes: shown.append(planes[0][:, 3:, 0, 0]))
    images = random_images(100, 1, (16, 16))
    losses = method.generator_losses(Batch(a=images, b=images))

    assert shown[0].mean().item() == pytest.approx(mean, rel=0.1)
    assert shown[0].var().item() == pytest.approx(variance, rel=0.2)
    divergence = (mean**2 + variance - 1 - np.log(variance)) / 2  # of each of two numbers
    assert losses["divergence_b"].item() == pytest.approx(0.05 * 2 * divergence)


def test_label_maps_of_files_keep_their_classes(tiny_recipe, tmp_path):
    for n in range(4):
        levels = np.random.default_rng(n).integers(3, size=(40, 40, 8)).astype(np.float32)
        volume(tmp_path / f"in/p{n}/seg.nii", values=levels)
        volume(
            tmp_path / f"in/p{n}/T1.nii",
            n,
            values=np.random.default_rng(n + 9).random((40, 40, 8), np.float32),
        )

    tiny_recipe["data"] |= {
        "source": {"name": "nifti", "path": str(tmp_path / "in")},
        "domains": ["seg", "T1"],
    }

    def run(name, **data):
        data = tiny_recipe["data"] | {"intensity": MAPPING} | data
        return train_without_scores(tiny_recipe | {"method": METHOD, "data": data}, tmp_path / name)

    augment = ["hflip", {"name": "affine", "nearest": True}]
    model = gantk.load(run("run", augment=augment), device="cpu")

    assert model.translate(levels[None, :, :, 0]).shape == (1, 40, 40)  # by way of 32 x 32

    with pytest.raises(UserError, match=r"contains the values 3.5, 7.*from 0 to 2.*method.classes"):
        model.translate(3.5 * levels[None, :, :, 0])

    for words, data in {
        "label maps of 3 classes, but data.intensity has no such mapping": {
            "intensity": "percentile"
        },
        "'affine' changes the values of label maps.*nearest = true": {"augment": ["affine"]},
        "the values 0.1.*nearest-neighbour": {"spacing": [1.5, 1.5]},
    }.items():
        with pytest.raises(UserError, match=words):
            run(words[:9], **data)

    for n in range(3):  # of fewer than half the pair is left out
        volume(tmp_path / f"in/p{n}/seg.nii", values=levels[:30])

    with pytest.raises(UserError, match="seg.nii.*grids differ"):
        run("unlike")
