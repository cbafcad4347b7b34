"""Style transfer at work: as a method, as a step after a generator, on files, and the recipes that use it."""

from __future__ import annotations

import shutil

import nibabel
import numpy as np
import pytest
import torch
from drawings import SHALLOW, blobs, no_network, refusal, stripes  # noqa: F401
from PIL import Image

import gantk as toolkit
from gantk.formats.files import readable
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind_or_raise
from gantk.recipe.load import load_recipe
from gantk.runs import checkpoint
from gantk.training.assemble import assemble
from gantk_style.stylize import stylize

FAST = SHALLOW | {"weights": "random"}


def method(channels: tuple[int, int] = (1, 1), **options):
    part = bind_or_raise("method", {"name": "style", "translate_steps": 4} | FAST | options)
    return part(Geometry(2, (32, 32), dict(zip("ab", channels, strict=True))))


def post(dims: int = 2, **options):
    return bind_or_raise("post", {"name": "style", "steps": 3} | FAST | options)(dims, (-1.0, 1.0))


def real(count: int) -> torch.Tensor:
    """Training images as a post-step is given them."""
    return torch.cat([stripes(), blobs(max(1, count - 1), seed=20)])[:count]


# ---- the method


def test_contents_and_styles_are_placed_once_and_before_that_images_stay():
    style = method(images=2)
    assert torch.equal(style.translate(blobs(2), "b"), blobs(2))
    style.begin(style.stages(4)[0], Batch(a=blobs(2), b=stripes().repeat(2, 1, 1, 1)))
    first = {name: tensor.clone() for name, tensor in style.state_dict().items()}
    style.begin(style.stages(4)[0], Batch(a=blobs(2, seed=8), b=blobs(2, seed=9)))
    assert all(torch.equal(tensor, first[name]) for name, tensor in style.state_dict().items())
    assert torch.equal(style.canvas.image, blobs(2)) and not torch.equal(style.translate(blobs(2), "b"), blobs(2))
    assert sorted(first) == ["canvas.image", "contents", "placed", "styles"]  # not the network


def test_the_embedded_recipe_lowers_its_objective_tenfold_and_keeps_the_content():
    parts = assemble(load_recipe("style_t1t2").check(), Runtime(torch.device("cpu"), "fp32", channels_last=True))
    style, batch = parts.method, Batch(parts.batches.at(0))
    style.begin(style.stages(1)[0], batch)
    start = sum(float(loss.detach()) for loss in style.losses(batch).values())
    for _, _, losses in parts.engine.fit(lambda step, stage: batch):
        end = sum(map(float, losses.values()))
    ssim = bind_or_raise("metric", "ssim")(2.0, 2)
    assert start / end >= 10 and float(ssim(style.canvas.image.detach() + 1, style.contents + 1)) >= 0.55


def test_a_run_of_the_method_resumes_exactly_and_translates(tmp_path):
    recipe = load_recipe("style_t1t2").tables
    recipe["method"] |= {"translate_steps": 2}
    recipe["data"] |= {"size": [32, 32], "source": {"name": "phantom", "subjects": 6, "slices": 1}}
    recipe["train"] |= {"steps": 4, "log_every": 1, "sample_every": 4, "save_every": 2, "precision": "fp32"}
    run = toolkit.run(recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    last = run.path / "checkpoints" / "step-000004"
    whole = checkpoint.load_weights(last)
    shutil.rmtree(last)  # as if it had been killed
    toolkit.resume(run.path, device="cpu", say=lambda line: None)
    resumed = checkpoint.load_weights(last)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    found = toolkit.load(run.path, device="cpu").translate(blobs(2).numpy() * 300 + 300, to="T2")
    assert found.shape == (2, 1, 32, 32)


# ---- the step after a generator


def test_a_generated_image_takes_the_style_of_training_images_or_lends_its_own():
    images = blobs(3)
    done = post()(images, real)
    assert done.shape == images.shape and torch.equal(done, post()(images, real))
    torch.testing.assert_close(done[1:2], post()(images[1:2], real), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(done, post(batch=2)(images, real), rtol=1e-3, atol=1e-4)
    lent = post(role="style", batch=2)(images, real)
    assert float((lent - real(3)).abs().mean()) < float((lent - images).abs().mean())
    volume = blobs(1, size=(4, 16, 16))
    done = post(dims=3)(volume, lambda n: blobs(n, size=(4, 16, 16), seed=9))
    assert done.shape == volume.shape and not torch.equal(done, volume)


@pytest.mark.parametrize("role", ["content", "style"])
def test_the_other_image_can_be_a_file_of_any_size(tmp_path, role):
    Image.fromarray(((stripes(size=(40, 48))[0, 0].numpy() + 1) * 100).astype(np.uint8)).save(tmp_path / "style.png")
    done = post(image=str(tmp_path / "style.png"), role=role)(blobs(2), lambda n: pytest.fail("a file was named"))
    assert done.shape == (2, 1, 32, 32)


def test_refusals_of_the_method_and_the_step_are_one_clear_message(tmp_path):
    style, flat = method(images=3), str(tmp_path / "flat.png")
    assert refusal(style.begin, style.stages(4)[0], Batch(a=blobs(2), b=blobs(2))) == (
        "3 images are to be placed, and a step brings 2. Set train.batch = 3.  (method.images)"
    )
    assert refusal(method, channels=(1, 3)).startswith("the content is gray and the style is RGB.")
    assert method(channels=(1, 3), color="content").directions() == ["b"]
    assert refusal(method, images=0) == "images = 0 is too small. Allowed: 1 or more.  (method.images)"
    assert refusal(style.translate, blobs(1), "a").startswith("style transfer goes from the contents' domain")
    Image.fromarray(np.full((32, 32), 7, dtype=np.uint8)).save(flat)
    assert refusal(post, image=flat) == (
        f"'{flat}' has no contrast: nearly all its pixels are 7. Name an image that shows something."
    )
    assert "has 2 dimensions, and the images that are made have 3." in refusal(post, dims=3, image=flat)
    assert refusal(post, styles=0) == "styles = 0 is too small. Allowed: 1 or more.  (post.styles)"
    assert all("GANTK_WEIGHTS" in refusal(part, weights="pretrained") for part in (post, method))


@pytest.mark.parametrize(
    ("name", "published"), [("dcgan", (0.875, 0.956)), ("pix2pix", (0.8902, 0.937)), ("progan", (0.83, 0.928))]
)
def test_chained_recipes_are_the_plain_ones_and_a_style_step(name, published):
    for profile, weights in ((None, "pretrained"), ("cpu", "random")):
        recipes = (load_recipe(f"{name}_tumour{end}") for end in ("_style", ""))
        chained, plain = (recipe.override([], profile).check() for recipe in recipes)
        assert (chained.method.table(), chained.data, chained.train) == (plain.method.table(), plain.data, plain.train)
        assert [(part.name, part.options["weights"]) for part in chained.post] == [("style", weights)]
    figures = chained.paper["published"]
    assert (figures["accuracy_without_style_transfer"], figures["accuracy"]) == published


# ---- gantk stylize


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder to work in: a 16-bit content, 8-bit gray and colour styles of other sizes."""
    monkeypatch.chdir(tmp_path)
    content = ((blobs(1, size=(32, 40))[0, 0].numpy() + 1) * 15_000 + 900).astype(np.uint16)
    Image.fromarray(content).save("content.png")
    style = ((stripes(size=(24, 36))[0, 0].numpy() + 1) * 120).astype(np.uint8)
    Image.fromarray(style).save("style.png")
    Image.fromarray(np.stack([style, style // 2, 255 - style], -1)).save("colour.png")
    return tmp_path


OPTIONS = ("--weights", "random", "--steps", 4, "--device", "cpu", "--set", 'content_layers=["conv1_2"]')
OPTIONS += ("--set", 'style_layers=["conv1_1"]')


def test_stylize_writes_the_contents_size_bits_and_range(gantk, files):
    done = gantk("stylize", "content.png", "style.png", "out.png", *OPTIONS)
    assert done.code == 0, done.err
    assert "the style is resized from 24 x 36 to the content's 32 x 40" in done.out
    assert "step 4 of 4, objective" in done.out
    content, out = (Image.open(name) for name in ("content.png", "out.png"))
    assert (out.mode, out.size) == (content.mode, content.size)
    content, out = np.asarray(content), np.asarray(out)
    assert out.min() >= content.min() and out.max() <= content.max() and not np.array_equal(out, content)
    gantk("stylize", "content.png", "style.png", "again.png", *OPTIONS)
    assert (files / "again.png").read_bytes() == (files / "out.png").read_bytes()


def test_stylize_takes_the_options_of_a_recipe_and_mixes_gray_and_colour_where_it_is_told_how(gantk, files):
    def styled(content, style, *options):
        done = gantk("stylize", content, style, "out.png", *options)
        assert done.code == 0, done.err
        return done.out, Image.open("out.png").mode

    assert "step 2 of 2" in styled("content.png", "style.png", "--recipe", "style_t1t2", "--set", "steps=2")[0]
    styled("content.png", "style.png", "--recipe", "pix2pix_tumour_style", "--profile", "cpu", "--steps", 1)
    assert styled("content.png", "colour.png", *OPTIONS, "--gray")[1].startswith("I")
    assert styled("colour.png", "style.png", *OPTIONS, "--set", "color=content")[1] == "RGB"


def test_stylize_keeps_the_grid_of_nifti_files_and_goes_slice_by_slice(files):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    volume = (blobs(1, size=(20, 18, 3))[0, 0].numpy() * 300 + 400).astype(np.int16)
    volume[..., 2] = 5  # a slice without content
    nibabel.save(nibabel.Nifti1Image(volume, affine), "head.nii.gz")
    options = {"weights": "random", "steps": 2, "device": "cpu", "say": lambda line: None}
    options["set"] = ['content_layers=["conv1_2"]', 'style_layers=["conv1_1"]']
    out = nibabel.load(stylize("head.nii.gz", "style.png", "out.nii.gz", **options))
    assert out.shape == volume.shape and out.get_data_dtype() == np.int16
    np.testing.assert_allclose(out.affine, affine)
    found = np.asarray(out.dataobj)
    assert np.array_equal(found[..., 2], volume[..., 2]) and not np.array_equal(found[..., 0], volume[..., 0])


IMAGES = ("content.png", "style.png", "out.png")
REFUSALS = {
    "colours": (
        ("content.png", "colour.png", "out.png"),
        "'content.png' is gray and 'colour.png' is in colour. Add --gray to turn both to gray, or --set color=content "
        "to keep CONTENT's colours as they are.  (STYLE)",
    ),
    "no such file": (("nothing.png", "style.png", "out.png"), "'nothing.png' does not exist. Name one image file."),
    "no image": (
        ("content.png", "notes.txt", "out.png"),
        f"'notes.txt' is not an image that gantk reads. Allowed: {readable()}.  (STYLE)",
    ),
    "too small": (
        ("tiny.png", "style.png", "out.png", "--set", 'content_layers=["conv3_1"]'),
        "an image of 3 x 3 leaves nothing of the map conv3_1 of VGG19. Allowed: 4 or more on each side. Take earlier "
        "layers or larger images.  (tiny.png)",
    ),
    "out is a folder": (
        ("content.png", "style.png", "folder"),
        "'folder' is a folder. Allowed: a file, such as folder.png.  (OUT)",
    ),
    "out is the content": (
        ("content.png", "style.png", "content.png"),
        "OUT is CONTENT itself. Name another file.  (content.png)",
    ),
    "another format": (
        ("content.png", "style.png", "out.nii"),
        "'content.png' cannot become 'out.nii'. Allowed: .png.  (OUT)",
    ),
    "a recipe without style": (
        (*IMAGES, "--recipe", "dualgan_t1t2"),
        "the recipe 'dualgan_t1t2' has no style transfer, neither as its method nor as a [[post]] step. Leave --recipe "
        "out, or name one such as style_t1t2.  (--recipe)",
    ),
    "an option of generators": (
        (*IMAGES, "--set", "role=style"),
        "'role' is for generated images: there are two files here.  (--set role)",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSALS.values(), ids=REFUSALS)
def test_stylize_refuses_in_one_clear_message_and_writes_nothing(gantk, files, arguments, message):
    (files / "notes.txt").write_text("no image")
    (files / "folder").mkdir()
    Image.fromarray(np.arange(9, dtype=np.uint8).reshape(3, 3)).save("tiny.png")
    before = sorted(path.name for path in files.rglob("*"))
    first, second, out, *more = arguments
    done = gantk("stylize", first, second, out, *OPTIONS, *more)
    assert (done.code, done.err) == (2, f"error  {message}\n")
    assert sorted(path.name for path in files.rglob("*")) == before
