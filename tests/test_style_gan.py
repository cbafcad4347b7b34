"""Style Transfer GAN: the losses of the paper, whose tumour a translation carries over, and the way there and back."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PATCHGAN, UNET

from gantk import api
from gantk.errors import UserError
from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind_or_raise
from gantk_testing.small import random_images

SMALL = {"name": "style_gan", "generator": UNET, "discriminator": PATCHGAN, "defense": 0.0}
PHANTOM = {"name": "phantom", "contrast": "FLAIR", "lesions": 1, "radius": [10.0, 16.0], "subjects": 6}


def method(**options):
    torch.manual_seed(0)
    return bind_or_raise("method", SMALL | options)(Geometry(2, (32, 32), {"a": 1, "b": 1}))


def test_the_losses_are_the_papers_identity_and_style_beside_two_adversarial_ones():
    model = method(change=False, identity=3.0, style=5.0, example=2.0).eval()
    x, y = (random_images(2, 1, (32, 32), seed=k) for k in (1, 2))
    with torch.no_grad():
        losses = model.generator_losses(batch := Batch(a=x, b=y))
        added, removed = model.g_ab(torch.cat([x, y], 1)), model.g_ba(y)
        back, again, itself = model.g_ba(added), *(model.g_ab(torch.cat([removed, z], 1)) for z in (added, y))
    torch.testing.assert_close(losses["identity"], 3.0 * (back - x).abs().mean())
    torch.testing.assert_close(losses["style"], 5.0 * (again - y).abs().mean())
    torch.testing.assert_close(losses.pop("example"), 2.0 * (itself - y).abs().mean())  # ours, and left out by default
    assert losses.keys() == {"adversarial_a", "adversarial_b", "identity", "style"}
    assert torch.equal(batch["fake_a"], removed) and torch.equal(batch["fake_b"], added)


def test_networks_draw_a_change_that_keeps_to_the_range_comes_back_into_it_and_leaves_noise_alone():
    model, x = method(defense=0.3), random_images(2, 1, (32, 32), seed=1)
    assert float((model.translate(x, "b") - x).abs().mean()) < 0.1  # a new network changes little
    drawn = torch.zeros(1, 1, 32, 32, requires_grad=True)
    model.g_ba.forward, model.g_ab.forward = lambda image: drawn.expand_as(image), lambda pair: 0 * pair[:, :1]
    losses = model.generator_losses(Batch(a=x, b=x))
    assert losses["identity"] + losses["style"] < 1e-4  # for the noise that is put on fakes is asked back
    drawn.data.fill_(0.25)
    torch.testing.assert_close(model.translate(x, "a"), (x + 0.5).clamp(max=1.0))
    (slope,) = torch.autograd.grad(model.generator_losses(Batch(a=x, b=x))["identity"], drawn)
    assert slope.all()  # where both images are beyond white as well


def test_a_translation_follows_the_most_alike_of_the_first_training_images_or_an_example_of_ones_own():
    model, y = method(examples=3).eval(), random_images(4, 1, (32, 32), seed=2)
    with torch.no_grad():
        for first in (0, 2):  # the fourth finds no place
            model.generator_losses(Batch(a=y[first : first + 2], b=y[first : first + 2]))
        torch.testing.assert_close(model.translate(0.9 * y[:3], "b"), model.translate_like(0.9 * y[:3], "b", y[:3]))
        drawn = model.variants(y[:2], "b", 8, seed=0)
    assert torch.equal(model.examples, y[:3]) and torch.equal(drawn, model.variants(y[:2], "b", 8, seed=0))
    assert drawn.shape == (8, 2, 1, 32, 32) and 1 < len(drawn.flatten(1).unique(dim=0)) <= 3
    with pytest.raises(UserError, match="taken away in one way"):
        model.variants(y, "a", 2, 0)
    with pytest.raises(UserError, match="needs as many channels in as out"):
        bind_or_raise("method", SMALL)(Geometry(2, (32, 32), {"a": 1, "b": 2}))


def test_the_phantom_gives_plain_heads_and_heads_with_a_tumour_as_two_domains():
    records = bind_or_raise("source", PHANTOM)(("healthy", "tumour"), 2, (32, 32)).records()
    assert {(r.domain, r.label) for r in records} == {("a", "healthy"), ("b", "tumour")}
    assert all(r.pair is None and bool(r.mask().sum() >= 4) == (r.domain == "b") for r in records)
    with pytest.raises(UserError, match="domains are classes"):
        bind_or_raise("source", PHANTOM)(("T1", "T2"), 2, (32, 32))


def test_a_file_gets_a_tumour_and_loses_it_again_on_the_command_line(gantk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"source": PHANTOM | {"subjects": 8}, "domains": ["healthy", "tumour"], "size": [32, 32]}
    tables = {"method": SMALL, "data": data, "train": {"steps": 2, "batch": 2}, "evaluate": {"metrics": ["kid"]}}
    scores = api.run(tables, out=tmp_path / "run", device="cpu", say=lambda line: None).metrics["a_to_b"]
    assert scores["example_mae"]["value"] == pytest.approx(scores["example_mae"]["details"]["inputs"]["value"], rel=0.3)
    assert 0.3 < scores["example_ssim"]["value"] < 1 == scores["example_ssim"]["details"]["inputs"]["value"]
    Image.fromarray(picture := np.random.default_rng(0).integers(0, 255, (40, 36), dtype=np.uint8)).save("healthy.png")
    Image.fromarray(picture.T).save("example.png")
    for words in (["--to", "tumour"], ["--to", "tumour", "--style", "example.png"], ["--to", "healthy"]):
        gantk("translate", "run", "healthy.png", out := f"{len(words)}{words[1]}.png", *words)
        assert Image.open(out).size == (36, 40)
    assert not np.array_equal(*(np.asarray(Image.open(f"{n}tumour.png")) for n in (2, 4)))
    refused = gantk("translate", "run", "healthy.png", "no.png", "--to", "healthy", "--style", "example.png")
    assert refused.code == 2 and "taken away in one way" in refused.err
