"""RegGAN (Kong et al. 2021): what it minimises, how it finds a moved pair; the source that moves
pairs; NMI.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import PATCHGAN, UNET, method_of, random_images, read_json

import gantk
from gantk.errors import UserError
from gantk.method import Batch
from gantk.plugin.spec import bind
from gantk_translation.misaligned.source import drawn_field
from gantk_translation.reggan.search import edges, find_field, warp

METHOD = {"name": "reggan", "generator": UNET, "discriminator": PATCHGAN, "refine": 2}
PHANTOM = {"name": "phantom", "subjects": 6, "slices": 2}
HEALTH = ("healthy", "tumour")


def build(dims: int = 2, side: int = 16, **options):
    return method_of(METHOD | options, (side,) * dims, (1, 2))


@pytest.mark.parametrize("dims", [2, 3])
def test_search_moves_the_translation_where_it_helps(monkeypatch, dims):
    search = {"correction": 20.0, "smoothness": 1.0}
    monkeypatch.setattr("gantk_translation.reggan.model.MIN_GAIN", 0.0)
    mode = {2: "bicubic", 3: "bilinear"}[dims]
    method = build(dims, edges=2.0, **search)
    size = (16,) * dims
    batch = Batch(a=random_images(2, 1, size, 1), b=random_images(2, 2, size, 2))
    fake = method.translate(batch["a"], "b").detach()
    laid = warp(
        fake, build(dims, **search).r_ab(batch["a"], fake, batch["b"], torch.zeros(())), mode
    )
    losses = method.generator_losses(batch)
    found = {name: float(loss.detach()) for name, loss in losses.items()}

    assert found["correction_b"] == pytest.approx(
        20 * float((laid - batch["b"]).abs().mean()), rel=1e-3
    )
    # it grows
    assert {*found} == {"correction_b", "adversarial_b", "edges_b"}
    assert found["edges_b"] == 0

    # to D, as G made it or as T moved it
    for shown in zip(batch["fake_b"], fake, laid, strict=True):
        assert min((shown[0] - each).abs().max() for each in shown[1:]) < 1e-3

    adversarial = F.softplus(-method.d_b(batch["fake_b"])).mean()

    assert losses["adversarial_b"].item() == pytest.approx(adversarial.item(), rel=1e-3)
    assert {*method.discriminator_losses(batch)} == {"d_b"}
    assert len(build(dims, gan=0.0).phases()) == 1

    # it saves less
    monkeypatch.setattr("gantk_translation.reggan.model.MIN_GAIN", 0.9)
    found = build(dims, **search).generator_losses(batch)["correction_b"]

    assert float(found.detach()) == pytest.approx(
        20 * float((fake - batch["b"]).abs().mean()), rel=1e-5
    )


@pytest.fixture(scope="module")
def phantom_pair():
    """T1 and T2 images of heads from -1 to 1, and a smooth field of up to 4 pixels or so."""
    records = bind("source", PHANTOM)(("T1", "T2"), 2, (64, 64)).records()
    images = []
    for letter in "ab":
        pixels = [torch.from_numpy(r.read()) for r in records if r.domain == letter]
        stacked = torch.stack(pixels)
        images.append(2 * stacked / stacked.amax() - 1)

    fields = [drawn_field(np.random.default_rng(seed), (64, 64)) for seed in range(len(images[1]))]
    return *images, torch.from_numpy(4 * np.stack(fields))


def median_error(found, field, head) -> float:
    """The median over images of how far the field is off in the head, in pixels."""
    off = (found - field).square().sum(1).sqrt()
    means = [each[inside].mean() for each, inside in zip(off, head, strict=True)]
    return torch.stack(means).median()


@pytest.mark.parametrize("between", ["one contrast", "two contrasts"])
def test_registration_recovers_known_motion(phantom_pair, between):
    t1, t2, field = phantom_pair
    target = warp(t2, field)
    head = target[:, 0] > -0.9
    if between == "one contrast":
        found = find_field(t2, target, 6, 0.1, 16.0)
        max_error = 0.25
    else:
        found = find_field(edges(t1), edges(target), 6, 0.1, 16.0)
        max_error = 0.8

    assert median_error(found, field, head) < max_error


def test_only_targets_of_training_pairs_are_moved(tiny_recipe, tmp_path):
    part = {"name": "misaligned", "source": PHANTOM, "pixels": 3.0}
    sources = (bind("source", each)(("T1", "T2"), 2, (32, 32)) for each in (PHANTOM, part, part))
    plain, first, again = (source.records() for source in sources)
    before = {one.id: one.read() for one in plain}
    changed = [one for one in first if not np.array_equal(one.read(), before[one.id])]

    assert {(one.split, one.domain) for one in changed} == {("train", "b")}
    assert len({one.split for one in first}) == 3
    # not blurred
    assert (
        np.mean([np.diff(one.read()).std() / np.diff(before[one.id]).std() for one in changed])
        > 0.9
    )
    assert all(
        np.array_equal(one.read(), other.read()) for one, other in zip(first, again, strict=True)
    )

    tiny_recipe["data"]["source"] = part
    tiny_recipe["evaluate"]["metrics"] = ["nmi"]
    run = gantk.run(tiny_recipe | {"method": METHOD}, out=tmp_path / "run", device="cpu", say=str)

    assert {"nmi", "nmi_input"} <= {*read_json(run.path / "metrics.json")["metrics"]["a_to_b"]}


def test_nmi_is_blind_to_contrast_and_not_to_place():
    nmi = bind("metric", "nmi")(2.0, 2)
    image = F.avg_pool2d(random_images(3, 1, (40, 40)), 9, 1)

    assert torch.allclose(nmi(-3 * image, image), torch.full((3,), 2.0), atol=0.05)
    assert (nmi(image.roll(3, -1), image) < 1.6).all()
    assert nmi(image, torch.zeros_like(image))[0] == 1
    assert nmi(image, image, torch.zeros_like(image)).isnan().all()


def test_what_cannot_be_is_one_message(tiny_recipe, tmp_path):
    for words, options in {
        "valid number, not .far.*displacement": {"displacement": "far"},
        "greater than 0.*correction": {"correction": 0.0},
    }.items():
        with pytest.raises(UserError, match=words):
            build(**options)

    single = PHANTOM | {"lesions": 1, "contrast": "T1"}

    with pytest.raises(
        UserError, match="moves the second image of registered pairs, but its source has no pairs"
    ):
        bind("source", {"name": "misaligned", "source": single})(HEALTH, 2, (32, 32)).records()

    tiny_recipe["data"] |= {"source": single, "domains": HEALTH}
    with pytest.raises(UserError, match="pair"):
        gantk.run(tiny_recipe | {"method": METHOD}, out=tmp_path / "run", device="cpu", say=str)
