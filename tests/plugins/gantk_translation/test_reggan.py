"""RegGAN (Kong et al. 2021): what it minimises, how it finds a moved pair; the source that moves
pairs; NMI.
"""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import PATCHGAN, UNET

import gantk
from gantk.errors import UserError
from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind_or_raise
from gantk.testing.small import random_images
from gantk_translation.misaligned.source import drawn_field
from gantk_translation.reggan.network import roughness, warp
from gantk_translation.reggan.search import Search, edges, find_field, gray_levels, likely, zoom

METHOD = {"name": "reggan", "generator": UNET, "discriminator": PATCHGAN, "registration_width": 8}
PHANTOM = {"name": "phantom", "subjects": 6, "slices": 2}
HEALTH = ("healthy", "tumour")


def build(dims: int = 2, side: int = 16, **options):
    torch.manual_seed(0)
    return bind_or_raise("method", METHOD | options)(
        Geometry(dims, (side,) * dims, {"a": 1, "b": 2})
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_losses_match_the_paper_and_begin_without_motion(dims):
    method = build(dims)
    size = (16,) * dims
    batch = Batch(a=random_images(2, 1, size, 1), b=random_images(2, 2, size, 2))
    fake = method.translate(batch["a"], "b")
    assert not method.r_ab(fake, batch["b"]).any()
    found = {name: float(loss.detach()) for name, loss in method.generator_losses(batch).items()}
    assert found["correction_b"] == pytest.approx(
        20 * float((fake - batch["b"]).detach().abs().mean()), rel=1e-5
    )
    assert found["adversarial_b"] == pytest.approx(
        float(F.softplus(-method.d_b(fake)).mean().detach())
    )
    assert found["smoothness_b"] == 0
    assert len(found) == 3
    assert {*method.discriminator_losses(batch)} == {"d_b"}
    assert len(build(gan=0.0).phases()) == 1


@pytest.mark.parametrize("dims", [2, 3])
def test_search_moves_the_translation_where_it_helps(
    dims,
):
    search = {"registration": "search", "smoothness": 1.0, "gain": 0.0}
    mode = {2: "bicubic", 3: "bilinear"}[dims]
    method = build(dims, edges=2.0, **search)
    size = (16,) * dims
    batch = Batch(a=random_images(2, 1, size, 1), b=random_images(2, 2, size, 2))
    fake = method.translate(batch["a"], "b").detach()
    laid = warp(
        fake, build(dims, **search).r_ab(batch["a"], fake, batch["b"], torch.zeros(())), mode
    )
    found = {name: float(loss.detach()) for name, loss in method.generator_losses(batch).items()}
    assert found["correction_b"] == pytest.approx(
        20 * float((laid - batch["b"]).abs().mean()), rel=1e-3
    )
    # it grows
    assert {*found} == {"correction_b", "adversarial_b", "edges_b"}
    assert found["edges_b"] == 0
    # to D, as G made it or as T moved it
    for shown in zip(batch["fake_b"], fake, laid, strict=True):
        assert min((shown[0] - each).abs().max() for each in shown[1:]) < 1e-3
    # it saves less
    found = build(dims, **search | {"gain": 0.9}).generator_losses(batch)["correction_b"]
    assert float(found.detach()) == pytest.approx(
        20 * float((fake - batch["b"]).abs().mean()), rel=1e-5
    )


def test_the_equations_on_tiny_tensors():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    field = torch.zeros(1, 2, 3, 4)
    torch.testing.assert_close(warp(image, field), image)
    field[:, 1] = 1.0  # one pixel further along the last axis, the edge repeated
    torch.testing.assert_close(warp(image, field), image[..., [1, 2, 3, 3]])
    places = zoom(torch.zeros(2, 2, 16, 16), share := F.pad(torch.ones(2, 1, 8, 8), (3, 5, 4, 4)))[
        1
    ]
    assert zoom(0.02 * places - 1.5, share)[0].item() == pytest.approx(0.02, abs=1e-5)
    field[:, 0] = torch.tensor([0.0, 0.5, 1.0])[:, None]  # 0.5 a row, in one of two channels
    assert roughness(field).item() == pytest.approx(0.5**2 / 2)
    volume = torch.rand(1, 1, 3, 4, 5)
    field = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1, 1).expand(1, 3, 3, 4, 5)
    torch.testing.assert_close(warp(volume, field)[:, :, :2], volume[:, :, 1:])


def test_registration_alone_learns_how_a_square_was_moved():
    method = build(side=32, displacement=6.0)
    losses = []
    fake, real = torch.full((2, 2, 2, 32, 32), -1.0)
    fake[..., 10:20, 10:20] = 1.0
    real[..., 12:22, 9:19] = 1.0
    optimizer = torch.optim.Adam(method.r_ab.parameters(), lr=2e-3)
    for _ in range(60):
        field = method.r_ab(fake, real)
        losses.append((warp(fake, field) - real).abs().mean() + 0.1 * roughness(field))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert field.abs().max() <= 6
    assert field[0, 0, 12:22, 9:19].mean() < -1
    assert field[0, 1, 12:22, 9:19].mean() > 0.4


def test_registration_recovers_known_motion():
    records = bind_or_raise("source", PHANTOM)(("T1", "T2"), 2, (64, 64)).records()
    t1, t2 = (
        torch.stack([torch.from_numpy(one.read()) for one in records if one.domain == letter])
        for letter in "ab"
    )
    t1, t2 = (2 * image / image.amax() - 1 for image in (t1, t2))
    field = np.stack(
        [4 * drawn_field(np.random.default_rng(seed), (64, 64)) for seed in range(len(t2))]
    )
    head = (target := warp(t2, field := torch.from_numpy(field)))[:, 0] > -0.9
    for most, pair in {0.25: (t2, target), 0.8: (edges(t1), edges(target))}.items():
        off = (find_field(*pair, 6, 0.1, 16.0) - field).square().sum(1).sqrt()
        assert (
            torch.stack(
                [each[inside].mean() for each, inside in zip(off, head, strict=True)]
            ).median()
            < most
        )
    assert find_field(t2, target, 6, 0.1, 1.0).abs().max() <= 1
    # by which all heads are too small: the zoom, and not what random fields seem to have
    for planted in (0.0, 0.05):
        small = warp(t2, planted * zoom(field, t2 + 1)[1])
        search = Search(6, 0.1, 32.0)
        search(small, small, warp(t2, 2 * field), torch.ones(()))
        assert 100 * search.zoom.item() == pytest.approx(-planted, abs=0.03)
    # dark and bright alike: gray levels that go together tell more than edges
    dented = 2 * t1.square() - 1
    found = Search(6, 0.1, 32.0)(
        t1, torch.full_like(t1, -1.0), warp(dented, field / 2, "bicubic"), torch.zeros(())
    )
    by_edges = find_field(edges(t1), edges(warp(dented, field / 2, "bicubic")), 6, 0.1, 32.0)
    off, before = ((each - field / 2).norm(dim=1)[head].mean() for each in (found, by_edges))
    assert off < 0.15
    assert off < 0.7 * before
    grays = gray_levels(torch.tensor([[[[0.0, 1.0, 7.0]]]]))
    torch.testing.assert_close(grays[0, :, 0].argmax(0), torch.tensor([0, 1, 7]))
    torch.testing.assert_close(
        likely(grays.flip(1).flatten(2) @ grays.flatten(2).mT, grays), grays.flip(1)
    )
    lines = torch.meshgrid(*(torch.arange(16.0) - 7,) * 3, indexing="ij")
    ball = torch.exp(-sum(each.square() for each in lines) / 20)[None, None]
    found = find_field(ball, ball.roll(1, 3), 10, 0.1, 8.0)[..., 5:11, 5:11, 5:11].mean((2, 3, 4))
    torch.testing.assert_close(found, torch.tensor([[0.0, -1.0, 0.0]]), atol=0.1, rtol=0)


def test_only_targets_of_training_pairs_are_moved(tiny_recipe, tmp_path):
    part = {"name": "misaligned", "source": PHANTOM, "pixels": 3.0}
    sources = (
        bind_or_raise("source", each)(("T1", "T2"), 2, (32, 32)) for each in (PHANTOM, part, part)
    )
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
    assert {"nmi", "nmi_input"} <= {
        *json.loads((run.path / "metrics.json").read_text())["metrics"]["a_to_b"]
    }


def test_nmi_is_blind_to_contrast_and_not_to_place():
    nmi = bind_or_raise("metric", "nmi")(2.0, 2)
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
        UserError, match="moves the second image of registered pairs, and this source has none"
    ):
        bind_or_raise("source", {"name": "misaligned", "source": single})(
            HEALTH, 2, (32, 32)
        ).records()
    tiny_recipe["data"] |= {"source": single, "domains": HEALTH}
    with pytest.raises(UserError, match="pair"):
        gantk.run(tiny_recipe | {"method": METHOD}, out=tmp_path / "run", device="cpu", say=str)
