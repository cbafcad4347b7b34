"""Unpaired translations: MUNIT, CUT and Style Transfer GAN against the formulas of their papers."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import PATCHGAN, UNET, method_of, random_images

import gantk as package
from gantk import UNet
from gantk.errors import UserError
from gantk.losses.structure import local_ncc_and_flat_region
from gantk.method import Batch, Geometry, Method
from gantk.plugin.spec import bind
from gantk_translation.cut.patchnce import PatchNCE
from gantk_translation.munit.network import AdaIN, LayerNorm

# ---- MUNIT ---------------------------------------------------------------------------------------

JUDGE = {"name": "munit", "width": 4, "layers": 2}
SMALL = {"width": 4, "blocks": 1, "mlp_dim": 16, "discriminator": JUDGE}


def build(**options) -> Method:
    return method_of({"name": "munit"} | SMALL | options, (32, 32))


def images() -> Batch:
    return Batch({name: random_images(2, 1, (32, 32), seed=k) for k, name in enumerate("ab")})


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_adain_and_layer_norm_match_the_paper(dims, dtype):
    """Each from sums in float64; bfloat16 keeps 8 bits of the result."""
    x = random_images(3, 5, (6,) * dims, seed=1).to(dtype) * 3 + 1
    scale = torch.randn(3, 5)
    offset = torch.randn(3, 5)
    ones = (1,) * dims
    layer = LayerNorm(5)
    layer.weight.copy_(scale[0])
    layer.bias.copy_(offset[0])
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    for found, first, a, b in (
        (AdaIN(5)(x, scale, offset), 2, scale, offset),
        (layer(x), 1, scale[:1], offset[:1]),
    ):
        wide = x.double()
        axes = tuple(range(first, dims + 2))
        expected = (wide - wide.mean(axes, keepdim=True)) / (
            wide.var(axes, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        expected = expected * a.view(-1, 5, *ones) + b.view(-1, 5, *ones)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_parameter_counts_match_the_publication():
    """RGB, width w = 64, 2 halvings, 4 + 4 blocks, style 8, MLP 256 (appendix B.1); every
    convolution has an offset.

    With k(n, i, o) = n**2 * i * o + o for an n x n convolution, and 8 = 2 * 4 convolutions in the
    blocks:
    content  k(7,3,w) + k(4,w,2w) + k(4,2w,4w) + 8 k(3,4w,4w)                      =  5,385,856
    style    k(7,3,w) + k(4,w,2w) + k(4,2w,4w) + 2 k(4,4w,4w) + k(1,4w,8)          =  2,764,936
    MLP      k(1,8,256) + k(1,256,256) + k(1,256, 8 * 2 * 4w)                      =  1,120,768
    decoder  8 k(3,4w,4w) + k(5,4w,2w) + 2 * 2w + k(5,2w,w) + 2 * w + k(7,w,3)     =  5,754,627
    one autoencoder 15,026,187; one scale of a discriminator
             k(4,3,w) + k(4,w,2w) + k(4,2w,4w) + k(4,4w,8w) + k(1,8w,1)            =  2,757,057
    two domains, three scales: 2 * (15,026,187 + 3 * 2,757,057)                    = 46,594,716
    """
    with torch.device("meta"):
        method = bind("method", "munit")(Geometry(2, (256, 256), {"a": 3, "b": 3}))

    auto = method.auto_a
    parts = [count(part) for part in (auto.content, auto.style, auto.decode.mlp, auto.decode)]

    assert parts == [5_385_856, 2_764_936, 1_120_768, 1_120_768 + 5_754_627]
    assert [count(judge) for judge in method.d_b.judges] == [2_757_057] * 3
    assert count(method) == 46_594_716


def test_losses_are_the_formulas_of_the_paper():
    """Equations 1 to 4, written out for fakes of `b` with the styles that were drawn."""
    method = build(image=10.0, content=1.0, style=2.0, local_ncc=4.0, flat_region=5.0)
    batch = images()
    torch.manual_seed(5)
    losses = method.generator_losses(batch)
    torch.manual_seed(5)
    drawn_a = torch.randn(2, 8)
    drawn_b = torch.randn(2, 8)
    a = batch["a"]
    b = batch["b"]
    auto_a = method.auto_a
    auto_b = method.auto_b
    l1 = lambda x, y: (x - y).abs().mean()  # noqa: E731
    fake_b = auto_b.decode(auto_a.content(a), drawn_b)
    expected = {
        "image_b": 10 * l1(auto_b(b), b),
        "content_a": l1(auto_b.content(fake_b), auto_a.content(a)),
        "style_b": 2 * l1(auto_b.style(fake_b), drawn_b),
        "adversarial_b": sum(((logits - 1) ** 2).mean() for logits in method.d_b(fake_b)),
    }
    structure, flatness = local_ncc_and_flat_region(fake_b, a)
    expected |= {"local_ncc_b": 4 * structure, "flat_region_b": 5 * flatness}
    for name, value in expected.items():
        torch.testing.assert_close(
            losses[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )

    assert len(losses) == 12
    none = build(image=0.0, content=0.0, style=0.0).generator_losses(images())
    assert set(none) == {"adversarial_a", "adversarial_b"}
    torch.testing.assert_close(
        batch["fake_a"], auto_a.decode(auto_b.content(b), drawn_a), rtol=1e-4, atol=1e-5
    )
    assert not batch["fake_b"].requires_grad


# ---- CUT -----------------------------------------------------------------------------------------

RESNET = {"name": "resnet", "width": 4, "blocks": 2}


def cut(channels: tuple[int, int] = (1, 1), **options):
    table = {
        "name": "cut",
        "generator": RESNET,
        "discriminator": PATCHGAN,
        "width": 8,
        "patches": 16,
    }
    return method_of(table | options, channels=channels)


def test_patchnce_is_equation_3_averaged_over_maps():
    torch.manual_seed(0)
    nce = PatchNCE([3, 2], width=6, patches=64).double()
    for parameter in nce.parameters():
        torch.nn.init.normal_(parameter)

    maps = [[torch.rand(2, 3, 4, 4).double(), torch.rand(2, 2, 2, 2).double()] for _ in range(2)]
    expected = 0.0
    # every place is compared: their order plays no part
    for head, query, key in zip(nce.heads, *maps, strict=True):
        sides = []
        for features in (query, key):
            flat = features.flatten(2).transpose(1, 2)
            hidden = (flat @ head[0].weight.T + head[0].bias).clamp_min(0)
            made = hidden @ head[2].weight.T + head[2].bias
            sides.append(made / made.norm(dim=-1, keepdim=True))
        wanted = sides[1].detach()  # no gradient through the sources
        log_odds = torch.log_softmax(sides[0] @ wanted.transpose(1, 2) / 0.07, dim=-1)
        expected = expected - log_odds.diagonal(dim1=1, dim2=2).mean() / 2

    loss = nce(*maps).double()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    weights = [*nce.parameters()]
    gradients = (torch.autograd.grad(each, weights) for each in (loss, expected))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    # one place
    assert PatchNCE([3], width=4)([torch.rand(2, 3, 1, 1)], [torch.rand(2, 3, 1, 1)]).item() == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_patch_places_are_shared_by_query_and_key(layout):
    rows = torch.arange(12.0).view(1, 1, 3, 4).expand(2, 2, 3, 4).contiguous(memory_format=layout)
    taken = []

    class Seen(torch.nn.Module):
        def forward(self, x):
            taken.append(x[..., 0])
            return x

    nce = PatchNCE([2], width=4, patches=5)
    nce.heads[0] = Seen()
    nce([rows], [rows])
    query, key = taken

    assert torch.equal(query, key)
    assert torch.equal(query[0], query[1])
    assert len(set(query[0].tolist())) == 5  # no place twice: a right one would also count as wrong


def test_what_cannot_work_is_refused_with_the_way_out(monkeypatch):
    assert cut().directions() == ["b"]

    with pytest.raises(UserError, match=r"these have 1 and 3.*cyclegan"):
        cut(channels=(1, 3))

    with pytest.raises(UserError, match=r"layers = \[0, 9\].*0 \(the image\) to 5"):
        cut(layers=[0, 9])

    monkeypatch.delattr(UNet, "features")  # a generator that does not show its maps
    with pytest.raises(UserError, match=r"the generator 'unet' cannot be used here.*resnet"):
        cut(generator="unet")


# ---- Style Transfer GAN: whose tumour a translation carries over, and the way there and back


STYLE_GAN = {"name": "style_gan", "generator": UNET, "discriminator": PATCHGAN, "defense": 0.0}
PHANTOM = {
    "name": "phantom",
    "contrast": "FLAIR",
    "lesions": 1,
    "radius": [10.0, 16.0],
    "subjects": 6,
}


def method(**options):
    return method_of(STYLE_GAN | options, (32, 32))


def test_translations_follow_the_most_similar_example():
    model = method(examples=3).eval()
    y = random_images(4, 1, (32, 32), seed=2)
    with torch.no_grad():
        for first in (0, 2):  # the fourth finds no place
            model.generator_losses(Batch(a=y[first : first + 2], b=y[first : first + 2]))
        torch.testing.assert_close(
            model.translate(0.9 * y[:3], "b"), model.translate_like(0.9 * y[:3], "b", y[:3])
        )
        drawn = model.variants(y[:2], "b", 8, seed=0)

    assert torch.equal(model.examples, y[:3])
    assert torch.equal(drawn, model.variants(y[:2], "b", 8, seed=0))
    assert drawn.shape == (8, 2, 1, 32, 32)
    assert 1 < len(drawn.flatten(1).unique(dim=0)) <= 3

    with pytest.raises(UserError, match="removing a tumour"):
        model.variants(y, "a", 2, 0)

    with pytest.raises(UserError, match="needs? domains with equal numbers of channels"):
        method_of(STYLE_GAN, channels=(1, 2))


def test_command_line_adds_and_removes_a_tumour(gantk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = {"source": PHANTOM | {"subjects": 8}, "domains": ["healthy", "tumour"], "size": [32, 32]}
    tables = {
        "method": STYLE_GAN,
        "data": data,
        "train": {"steps": 2, "batch": 2},
        "evaluate": {"metrics": ["kid"]},
    }
    scores = package.run(tables, out=tmp_path / "run", device="cpu", say=lambda line: None).metrics[
        "a_to_b"
    ]

    assert scores["example_mae"]["value"] == pytest.approx(
        scores["example_mae"]["details"]["inputs"]["value"], rel=0.3
    )
    assert (
        0.3
        < scores["example_ssim"]["value"]
        < 1
        == scores["example_ssim"]["details"]["inputs"]["value"]
    )

    Image.fromarray(
        picture := np.random.default_rng(0).integers(0, 255, (40, 36), dtype=np.uint8)
    ).save("healthy.png")
    Image.fromarray(picture.T).save("example.png")
    for words in (
        ["--to", "tumour"],
        ["--to", "tumour", "--style", "example.png"],
        ["--to", "healthy"],
    ):
        gantk("translate", "run", "healthy.png", out := f"{len(words)}{words[1]}.png", *words)
        assert Image.open(out).size == (36, 40)

    assert not np.array_equal(*(np.asarray(Image.open(f"{n}tumour.png")) for n in (2, 4)))
    told = gantk(
        "translate", "run", "healthy.png", "no.png", "--to", "healthy", "--style", "example.png"
    ).refused()
    assert "removing a tumour" in told.lower()


def test_under_bf16_the_heads_learn_as_they_do_in_float32():
    """Autocast keeps weights that it made for sources, which get no gradient, and would use them
    for outputs too.
    """
    torch.manual_seed(0)
    nce = PatchNCE([4], width=8)
    query = torch.rand(1, 4, 6, 6)
    key = torch.rand(1, 4, 6, 6)
    found = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = nce([query], [key])
        found.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(nce.parameters()))])
        )

    assert (found[0] - found[1]).norm() < 0.2 * found[0].norm()
