"""Style transfer as a method and as a step after a generator, and the recipes that use it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from drawings import SHALLOW, blobs, no_network, refusal, stripes  # noqa: F401
from PIL import Image

import gantk
from gantk.machine.runtime import Runtime
from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind_or_raise
from gantk.recipe.load import load_recipe
from gantk.runs import checkpoint
from gantk.training.assemble import assemble
from gantk_style.objective import How
from gantk_style.transfer import transfer

FAST = SHALLOW | {"weights": "random"}


def method(channels: tuple[int, int] = (1, 1), **options):
    part = bind_or_raise("method", {"name": "style", "translate_steps": 4} | FAST | options)
    return part(Geometry(2, (32, 32), dict(zip("ab", channels, strict=True))))


def placed(**options):
    style = method(**options)
    style.begin(style.stages(4)[0], Batch(a=blobs(2), b=stripes().repeat(2, 1, 1, 1)))
    return style


def test_contents_and_styles_are_placed_once_and_a_translation_is_optimised_for_each_image_alone():
    style = placed(images=2)
    first = {name: tensor.clone() for name, tensor in style.state_dict().items()}
    style.begin(style.stages(4)[0], Batch(a=blobs(2, seed=8), b=blobs(2, seed=9)))
    assert all(torch.equal(tensor, first[name]) for name, tensor in style.state_dict().items())
    assert torch.equal(style.canvas.image, blobs(2))
    assert sorted(first) == ["canvas.image", "contents", "placed", "styles"]  # not the network
    assert torch.equal(method().translate(blobs(2), "b"), blobs(2))  # before a style is placed
    images = blobs(3, seed=3)
    singles = torch.cat([style.translate(image, "b") for image in images.split(1)])
    torch.testing.assert_close(style.translate(images, "b"), singles, rtol=1e-3, atol=1e-4)


def test_the_methods_refusals_are_one_clear_message():
    style = method(images=3)
    assert refusal(style.begin, style.stages(4)[0], Batch(a=blobs(2), b=blobs(2))) == (
        "3 images are to be placed, and a step brings 2. Set train.batch = 3.  (method.images)"
    )
    assert refusal(method, channels=(1, 3)).startswith("the content is gray and the style is RGB.")
    assert method(channels=(1, 3), color="content").directions() == ["b"]
    assert refusal(method, images=0) == "images = 0 is too small. Allowed: 1 or more.  (method.images)"
    assert refusal(method().translate, blobs(1), "a").startswith("style transfer goes from the contents' domain")
    assert "GANTK_WEIGHTS" in refusal(method, weights="pretrained")


def test_the_embedded_recipe_lowers_its_objective_tenfold_and_keeps_the_content():
    model = load_recipe("style_t1t2").check()
    parts = assemble(model, Runtime(torch.device("cpu"), "fp32", channels_last=True))
    style, engine, batch = parts.method, parts.engine, Batch(parts.batches.at(0))
    style.begin(style.stages(1)[0], batch)
    start = sum(float(loss.detach()) for loss in style.losses(batch).values())
    for _, _, losses in engine.fit(lambda step, stage: batch):
        end = sum(map(float, losses.values()))
    assert start / end >= 10
    ssim = bind_or_raise("metric", "ssim")(2.0, 2)
    assert float(ssim(style.canvas.image.detach() + 1, style.contents + 1)) >= 0.55


# The step after a generator


def post(dims: int = 2, **options):
    return bind_or_raise("post", {"name": "style", "steps": 3} | FAST | options)(dims, (-1.0, 1.0))


def real(count: int) -> torch.Tensor:
    """Training images as a post-step is given them."""
    return torch.cat([stripes(), blobs(max(1, count - 1), seed=20)])[:count]


def test_a_generated_image_takes_the_style_of_training_images_or_lends_its_own():
    images = blobs(3)
    done = post()(images, real)
    assert done.shape == images.shape
    assert torch.equal(done, post()(images, real))
    torch.testing.assert_close(done[1:2], post()(images[1:2], real), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(done, post(batch=2)(images, real), rtol=1e-3, atol=1e-4)
    how = How(**FAST)
    plain = transfer(images, real(4), encoder=how.encoder((-1.0, 1.0)), how=how, steps=3)[0]
    torch.testing.assert_close(done, plain)
    lent = post(role="style", batch=2)(images, real)
    assert float((lent - real(3)).abs().mean()) < float((lent - images).abs().mean())
    volume = blobs(1, size=(4, 16, 16))
    done = post(dims=3)(volume, lambda n: blobs(n, size=(4, 16, 16), seed=9))
    assert done.shape == volume.shape and not torch.equal(done, volume)


def test_the_other_image_can_be_a_file_of_any_size(tmp_path):
    Image.fromarray(((stripes(size=(40, 48))[0, 0].numpy() + 1) * 100).astype(np.uint8)).save(tmp_path / "style.png")
    for role in ("content", "style"):
        done = post(image=str(tmp_path / "style.png"), role=role)(blobs(2), lambda n: pytest.fail("a file was named"))
        assert done.shape == (2, 1, 32, 32)


def test_the_post_steps_refusals_are_one_clear_message(tmp_path):
    Image.fromarray(np.full((32, 32), 7, dtype=np.uint8)).save(tmp_path / "flat.png")
    flat = str(tmp_path / "flat.png")
    assert refusal(post, image=flat) == (
        f"'{flat}' has no contrast: nearly all its pixels are 7. Name an image that shows something."
    )
    assert refusal(post, dims=3, image=flat) == (
        f"'{flat}' has 2 dimensions, and the images that are made have 3. Name an image of as many dimensions.  "
        "(post.image)"
    )
    assert refusal(post, styles=0) == "styles = 0 is too small. Allowed: 1 or more.  (post.styles)"
    assert "GANTK_WEIGHTS" in refusal(post, weights="pretrained")


@pytest.mark.parametrize("name", ["dcgan_tumour_style", "pix2pix_tumour_style", "progan_tumour_style"])
def test_chained_recipes_are_the_plain_ones_and_a_style_step(name):
    published = {"dcgan": (0.875, 0.956), "pix2pix": (0.8902, 0.937), "progan": (0.83, 0.928)}[name.split("_")[0]]
    for profile, weights in ((None, "pretrained"), ("cpu", "random")):
        chained, plain = (
            load_recipe(each).override([], profile).check() for each in (name, name.removesuffix("_style"))
        )
        assert chained.method.table() == plain.method.table()
        assert chained.data == plain.data
        assert chained.train == plain.train
        assert [part.name for part in chained.post] == ["style"]
        assert chained.post[0].options["weights"] == weights
    figures = chained.paper["published"]
    assert (figures["accuracy_without_style_transfer"], figures["accuracy"]) == published


def test_a_run_of_the_method_resumes_exactly_and_translates(tmp_path):
    recipe = load_recipe("style_t1t2").tables
    recipe["method"] |= {"translate_steps": 2}
    recipe["data"] |= {"size": [32, 32], "source": {"name": "phantom", "subjects": 6, "slices": 1}}
    recipe["train"] |= {"steps": 4, "log_every": 1, "sample_every": 4, "save_every": 2, "precision": "fp32"}
    run = gantk.run(recipe, out=tmp_path / "run", device="cpu", say=lambda line: None)
    last = run.path / "checkpoints" / "step-000004"
    whole = checkpoint.load_weights(last)
    shutil.rmtree(last)  # as if it had been killed
    gantk.resume(run.path, device="cpu", say=lambda line: None)
    resumed = checkpoint.load_weights(last)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    found = gantk.load(run.path, device="cpu").translate(blobs(2).numpy() * 300 + 300, to="T2")
    assert found.shape == (2, 1, 32, 32)
