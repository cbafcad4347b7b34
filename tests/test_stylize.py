"""`gantk stylize`: two files in, one out, or one clear message and nothing."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from drawings import SHALLOW, blobs, no_network, refusal, stripes  # noqa: F401
from PIL import Image

from gantk.cli import cli
from gantk.formats.files import readable
from gantk.plugin.loader import attach_commands
from gantk_style.stylize import stylize


@pytest.fixture(autouse=True)
def commands(monkeypatch):
    """The command line as `gantk` starts it, with what plugins attach."""
    monkeypatch.setattr(cli, "commands", dict(cli.commands))
    attach_commands(cli)


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
    assert out.min() >= content.min() and out.max() <= content.max()
    assert not np.array_equal(out, content)
    gantk("stylize", "content.png", "style.png", "again.png", *OPTIONS)
    assert (files / "again.png").read_bytes() == (files / "out.png").read_bytes()


def test_stylize_takes_the_options_of_a_recipe(gantk, files):
    done = gantk("stylize", "content.png", "style.png", "out.png", "--recipe", "style_t1t2", "--set", "steps=2")
    assert done.code == 0, done.err
    assert "step 2 of 2" in done.out
    done = gantk("stylize", "content.png", "style.png", "post.png", "--recipe", "pix2pix_tumour_style",
                 "--profile", "cpu", "--steps", 1)  # fmt: skip
    assert done.code == 0, done.err


def test_stylize_keeps_the_grid_of_nifti_files_and_goes_slice_by_slice(files):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    volume = (blobs(1, size=(20, 18, 3))[0, 0].numpy() * 300 + 400).astype(np.int16)
    volume[..., 2] = 5  # a slice without content
    nibabel.save(nibabel.Nifti1Image(volume, affine), "head.nii.gz")
    options = {"weights": "random", "steps": 2, "device": "cpu", "say": lambda line: None}
    options["set"] = ['content_layers=["conv1_2"]', 'style_layers=["conv1_1"]']
    assert stylize("head.nii.gz", "style.png", "out.nii.gz", **options).name == "out.nii.gz"
    out = nibabel.load("out.nii.gz")
    assert out.shape == volume.shape and out.get_data_dtype() == np.int16
    np.testing.assert_allclose(out.affine, affine)
    found = np.asarray(out.dataobj)
    assert np.array_equal(found[..., 2], volume[..., 2])
    assert not np.array_equal(found[..., 0], volume[..., 0])


def test_stylize_mixes_gray_and_colour_where_it_is_told_how(gantk, files):
    assert gantk("stylize", "content.png", "colour.png", "gray.png", *OPTIONS, "--gray").code == 0
    assert Image.open("gray.png").mode.startswith("I")
    assert gantk("stylize", "colour.png", "style.png", "kept.png", *OPTIONS, "--set", "color=content").code == 0
    assert Image.open("kept.png").mode == "RGB"


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
        ("content.png", "style.png", "out.png", "--recipe", "dualgan_t1t2"),
        "the recipe 'dualgan_t1t2' has no style transfer, neither as its method nor as a [[post]] step. Leave --recipe "
        "out, or name one such as style_t1t2.  (--recipe)",
    ),
    "an option of generators": (
        ("content.png", "style.png", "out.png", "--set", "role=style"),
        "'role' is for generated images: there are two files here.  (--set role)",
    ),
}  # fmt: skip


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


def test_stylize_without_weights_says_which_file_to_put_where(gantk, files):
    done = gantk("stylize", "content.png", "style.png", "out.png")
    assert done.code == 2
    assert "put vgg19.tv_in1k.safetensors" in done.err.lower()
    assert not (files / "out.png").exists()
