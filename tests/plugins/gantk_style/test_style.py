"""Style transfer: network and objective, how an image is brought there, the method, the post-step,
the command.
"""

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import method_of

from gantk.errors import UserError
from gantk.machine.runtime import Runtime
from gantk.method import Batch
from gantk.plugin.spec import bind
from gantk.recipe.load import load_recipe
from gantk.training.assemble import assemble
from gantk_style.objective import StyleOptions
from gantk_style.stylize import stylize
from gantk_style.transfer import transfer

SHALLOW = {"content_layers": ("conv1_2",), "style_layers": ("conv1_1", "conv2_1")}
FAST = SHALLOW | {"weights": "random"}


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    monkeypatch.delenv("GANTK_WEIGHTS", raising=False)


def blobs(
    count: int, channels: int = 1, size: tuple[int, ...] = (32, 32), seed: int = 0
) -> torch.Tensor:
    """Smooth images in [-1, 1], (count, channels, *size), no two alike."""
    coarse = torch.rand(
        count, channels, *[4] * len(size), generator=torch.Generator().manual_seed(seed)
    )
    return (
        F.interpolate(
            coarse, size, mode="bilinear" if len(size) == 2 else "trilinear", align_corners=True
        )
        * 2
        - 1
    )


def stripes(size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    """A style: (1, 1, *size), unlike any blob."""
    return torch.sin(torch.arange(size[1]).float()).expand(1, 1, *size).clone()


def method(channels: tuple[int, int] = (1, 1), **options):
    return method_of({"name": "style", "translate_steps": 4} | FAST | options, (32, 32), channels)


def post(dims: int = 2, **options):
    return bind("post", {"name": "style", "steps": 3} | FAST | options)(dims, (-1.0, 1.0))


# ---- the network and the objective


def test_the_gram_loss_compares_maps():
    loss = bind("loss", "gram")()
    image = blobs(2, 3)
    maps = [blobs(2, 3), blobs(2, 5, (16, 16))]
    other = [blobs(2, 3, seed=8), blobs(2, 5, (8, 8), seed=9)]
    described = [loss.describe(each) for each in other]

    assert float(loss([image], [image])) == 0.0
    assert float(loss(maps, maps)) == 0.0
    assert float(loss(maps, other)) > 0
    torch.testing.assert_close(loss(maps, described), loss(maps, other))


# ---- the method and the step after a generator


@pytest.mark.slow
def test_bundled_recipe_lowers_its_objective_tenfold():
    parts = assemble(
        load_recipe("style_t1t2").check(), Runtime(torch.device("cpu"), "fp32", channels_last=True)
    )
    style = parts.method
    batch = Batch(parts.batches.at(0))
    style.begin(style.stages(1)[0], batch)
    start = sum(float(loss.detach()) for loss in style.losses(batch).values())
    for _, _, losses in parts.engine.fit(lambda step, stage: batch):
        end = sum(map(float, losses.values()))

    ssim = bind("metric", "ssim")(2.0, 2)

    assert start / end >= 10
    assert float(ssim(style.canvas.image.detach() + 1, style.contents + 1)) >= 0.55


def test_a_generated_image_takes_the_style_of_training_images():
    def real(count: int) -> torch.Tensor:
        return torch.cat([stripes(), blobs(max(1, count - 1), seed=20)])[:count]

    images = blobs(3)
    done = post()(images, real)

    torch.testing.assert_close(done[1:2], post()(images[1:2], real), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(done, post(batch=2)(images, real), rtol=1e-3, atol=1e-4)

    volume = blobs(1, size=(4, 16, 16))
    done = post(dims=3)(volume, lambda n: blobs(n, size=(4, 16, 16), seed=9))

    assert done.shape == volume.shape
    assert not torch.equal(done, volume)


@pytest.mark.parametrize("role", ["content", "style"])
def test_the_other_image_can_be_a_file_of_any_size(files, role):
    done = post(image="style.png", role=role)(blobs(2), lambda n: pytest.fail("a file was named"))
    assert done.shape == (2, 1, 32, 32)


def begun(**options):
    style = method(**options)
    style.begin(style.stages(4)[0], Batch(a=blobs(2), b=blobs(2)))


def transferred(content=(2, 1), style=(1, 1), **options):
    encoder = StyleOptions(**FAST).encoder((-1.0, 1.0))
    how = StyleOptions(**SHALLOW | options)
    transfer(blobs(*content), blobs(*style), encoder=encoder, how=how, steps=100, shared=True)


@pytest.mark.parametrize(
    ("call", "options", "message"),
    [
        (post, {"style_layers": ["conv2_3"]}, "or 'conv5_4', not \"conv2_3\""),
        (transferred, {"content": (2, 2)}, "VGG19 takes gray or RGB images, but an image has 2"),
        (
            transferred,
            {"content_weight": 0.0, "style_weight": 0.0},
            "are both 0, so there is nothing",
        ),
        (
            begun,
            {"images": 3},
            "3 images are painted at once, but a step brings only 2. Set train.batch = 3.",
        ),
        (post, {"image": "flat.png"}, "'flat.png' has no contrast: nearly all its pixels are 7."),
        (
            post,
            {"image": "flat.png", "dims": 3},
            "has 2 dimensions, but the generated images have 3.",
        ),
        (post, {"weights": "pretrained"}, "GANTK_WEIGHTS"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_message(files, call, options, message):
    Image.fromarray(np.full((32, 32), 7, dtype=np.uint8)).save("flat.png")
    with pytest.raises(UserError) as caught:
        call(**options)

    assert message in str(caught.value)


# ---- gantk stylize

LAYER = ('content_layers=["conv1_2"]', 'style_layers=["conv1_1"]')
OPTIONS = (
    "--weights",
    "random",
    "--steps",
    4,
    "--device",
    "cpu",
    "--set",
    LAYER[0],
    "--set",
    LAYER[1],
)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder to work in: a 16-bit content, 8-bit gray and colour styles of other sizes."""
    monkeypatch.chdir(tmp_path)
    content = ((blobs(1, size=(32, 40))[0, 0].numpy() + 1) * 15_000 + 900).astype(np.uint16)
    style = ((stripes(size=(24, 36))[0, 0].numpy() + 1) * 120).astype(np.uint8)
    colour = np.stack([style, style // 2, 255 - style], -1)
    for name, pixels in (("content", content), ("style", style), ("colour", colour)):
        Image.fromarray(pixels).save(f"{name}.png")
    return tmp_path


def test_stylize_keeps_size_bits_and_range(gantk, files):
    for name in ("out", "again"):
        done = gantk("stylize", "content.png", "style.png", f"{name}.png", *OPTIONS).ok()

    assert "the style is resized from 24 x 36 to the content's 32 x 40" in done.out
    content, out, again = (
        np.asarray(Image.open(f"{name}.png")) for name in ("content", "out", "again")
    )
    assert out.dtype == content.dtype
    assert out.shape == content.shape
    assert np.array_equal(out, again)
    assert out.min() >= content.min()
    assert out.max() <= content.max()
    assert not np.array_equal(out, content)


@pytest.mark.parametrize(
    ("content", "style", "options", "mode"),
    [
        ("content", "style", ("--recipe", "style_t1t2", "--set", "steps=1"), "I"),
        (
            "content",
            "style",
            ("--recipe", "pix2pix_tumour_style", "--profile", "cpu", "--steps", 1),
            "I",
        ),
        ("content", "colour", OPTIONS, "I"),
        ("colour", "style", OPTIONS, "RGB"),
    ],
)
def test_stylize_takes_options_of_recipes(gantk, files, content, style, options, mode):
    gantk("stylize", f"{content}.png", f"{style}.png", "out.png", *options).ok()
    assert Image.open("out.png").mode.startswith(mode)


def test_stylize_keeps_nifti_grids_slice_by_slice(files):
    volume = (blobs(1, size=(20, 18, 3))[0, 0].numpy() * 300 + 400).astype(np.int16)
    volume[..., 2] = 5  # a slice without content
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0])), "head.nii.gz")
    options = {
        "weights": "random",
        "steps": 2,
        "device": "cpu",
        "set": LAYER,
        "say": lambda line: None,
    }
    out = nibabel.load(stylize("head.nii.gz", "style.png", "out.nii.gz", **options))

    assert out.get_data_dtype() == np.int16
    np.testing.assert_allclose(out.affine, np.diag([2.0, 2.0, 3.0, 1.0]))
    found = np.asarray(out.dataobj)
    assert np.array_equal(found[..., 2], volume[..., 2])
    assert not np.array_equal(found[..., 0], volume[..., 0])
