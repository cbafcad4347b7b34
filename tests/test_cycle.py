"""What CycleGAN and DualGAN share: weights of lesions, augmentation of what each discriminator sees."""

from __future__ import annotations

import pytest
import torch

from gantk.errors import UserError
from gantk.losses.reconstruction import L1, L2, Charbonnier, Cycle, Identity, lesion_weight
from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind

SMALL = {
    "generator": {"name": "unet", "width": 4, "depth": 2},
    "discriminator": {"name": "patchgan", "width": 4, "layers": 3},
    "pool": 0,
}


def build(name: str = "cyclegan", size: tuple[int, ...] = (16, 16), **options):
    torch.manual_seed(0)
    return bind("method", {"name": name} | SMALL | options)(Geometry(len(size), size, {"a": 1, "b": 1}))


def images(count: int = 3, size: tuple[int, ...] = (16, 16), seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch({name: torch.rand(count, 1, *size, generator=generator) * 2 - 1 for name in ("a", "b")})


def with_lesions(batch: Batch, share: float = 0.1) -> Batch:
    generator = torch.Generator().manual_seed(9)
    masks = {f"mask_{name}": (torch.rand(batch[name].shape, generator=generator) < share).float() for name in "ab"}
    return Batch(batch | masks)


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (L1(), lambda d: abs(d)),
        (L2(), lambda d: d * d),
        (Charbonnier(epsilon=0.1), lambda d: (d * d + 0.01) ** 0.5 - 0.1),
        (Cycle(), lambda d: abs(d)),
        (Identity(norm="l2"), lambda d: d * d),
    ],
)
@pytest.mark.parametrize("size", [(4, 5), (3, 4, 2)])
def test_a_weight_says_how_often_a_pixel_counts(loss, formula, size):
    generator = torch.Generator().manual_seed(0)
    output, target = torch.rand(2, 2, 3, *size, generator=generator)
    weight = torch.rand(2, 1, *size, generator=generator)
    expected = 0.0
    for n in range(2):  # each image by itself: sum of w x loss over sum of w, in double precision
        w = weight[n, 0].double().flatten().tolist()
        for c in range(3):
            d = (output[n, c].double() - target[n, c].double()).flatten().tolist()
            expected += sum(a * formula(b) for a, b in zip(w, d, strict=True)) / sum(w) / 3 / 2
    assert loss(output, target, weight).item() == pytest.approx(expected, rel=1e-5)
    assert loss(output, target, 7.0 * weight).item() == pytest.approx(expected, rel=1e-5)


def test_a_lesion_weighs_what_the_recipe_says():
    mask = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 3)
    assert lesion_weight(mask, 5.0).flatten().tolist() == [1.0, 3.0, 5.0]
    assert lesion_weight(mask, 1.0) is None and lesion_weight(None, 1.0) is None
    with pytest.raises(UserError, match=r"no mask of them.*data\.mask = true.*method\.lesion"):
        build(lesion=4.0).generator_losses(images())
    with pytest.raises(UserError, match="lesion = -1 is too small"):
        build(lesion=-1.0)


@pytest.mark.parametrize("name", ["cyclegan", "dualgan"])
def test_lesions_weigh_in_cycle_and_identity_losses_only(name):
    batch = with_lesions(images())
    plain, weighed = (build(name, lesion=weight, local_ncc=1.0).phases()[0].loss(Batch(batch)) for weight in (1.0, 8.0))
    changed = {key for key in plain if not torch.equal(plain[key], weighed[key])}
    expected = {"cycle_a", "cycle_b"} | ({"identity_a", "identity_b"} if name == "cyclegan" else set())
    assert changed == expected


def test_each_discriminator_has_its_own_overfitting_told_from_real_images():
    method = build("dualgan", augment=["brightness"], adapt=0.6)
    for phase in method.phases():
        phase.loss(images(4))
    assert float(method.augment_a.images) == float(method.augment_b.images) == 4
    for _ in range(8):
        method.augment_a.observe(torch.ones(4, 1))
    assert float(method.augment_a.p) > 0 == float(method.augment_b.p)
    assert {"augment_a.p", "augment_b.p"} <= method.state_dict().keys()
    assert method.augment_a.undecided == 0.5  # least squares: real is 1, fake is 0
    assert not [name for name in build(augment=["brightness"]).state_dict() if name.startswith("augment")]


@pytest.mark.parametrize("options", [{"lesion": 4.0}, {"local_ncc": 2.0, "flat_region": 4.0}])
def test_losses_of_a_batch_are_the_mean_of_its_images(options):
    method, batch = build(**options), with_lesions(images(2))
    whole = method.generator_losses(Batch(batch))
    parts = [method.generator_losses(Batch({k: v[n : n + 1] for k, v in batch.items()})) for n in range(2)]
    for name, loss in whole.items():
        assert loss.item() == pytest.approx(sum(part[name].item() for part in parts) / 2, rel=1e-4)
