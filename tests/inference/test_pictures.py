"""Pictures and normalised arrays have no units: their translations keep bit depth and brightness."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from one_pipeline import OnePipeline, model_of
from PIL import Image as Picture

import gantk
import gantk as package
from gantk.catalog.scan import is_generated
from gantk.data.intensity import Percentile
from gantk.data.look import values_of
from gantk.errors import UserError
from gantk.formats.files import read, write
from gantk.formats.image import Image
from gantk.inference.pipeline import Pipeline

NAMES = (
    *("gray.png", "gray.jpg", "gray.bmp", "gray.tif", "colour.png", "colour.jpg", "colour.tif"),
    *("sixteen.png", "sixteen.tif", "twelve.png", "dark.png", "normalised.tif"),
)


@pytest.fixture(scope="module")
def model():
    return gantk.load("t1t2", device="cpu")


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """A T1 slice of a synthetic head with its skull, 8 bits, (96, 80)."""
    from tiny import phantom

    source = phantom(("T1", "T2"), 2, (96, 80), subjects=1, slices=1, skull=True)
    pixels = next(record for record in source.records() if record.domain == "a").read()[0]
    return (255 * pixels / pixels.max()).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folders(head, tmp_path_factory) -> tuple[Path, Path]:
    """A folder of pictures of all kinds, and their translations to T2."""
    folder = tmp_path_factory.mktemp("pictures")
    given = folder / "in"
    given.mkdir()
    deep = head.astype(np.uint16) * 257
    arrays = {
        "gray": head,
        "colour": np.stack([head] * 3, axis=-1),
        "sixteen": deep,
        "twelve": head.astype(np.uint16) * 16,
        "dark": head // 3,
        "normalised": head.astype(np.float32) / 255,
    }
    for name in NAMES:
        Picture.fromarray(arrays[name.partition(".")[0]]).save(given / name)

    package.translate("t1t2", given, folder / "out", to="T2", device="cpu", say=lambda line: None)
    return given, folder / "out"


def expect_same_brightness(made: np.ndarray, given: np.ndarray) -> None:
    assert 0.5 < made.mean() / given.mean() < 2


@pytest.mark.parametrize("name", NAMES)
def test_pictures_keep_bit_depth_and_brightness(folders, name):
    given, made = (read(folder / name) for folder in folders)

    assert made.dtype == given.dtype
    expect_same_brightness(made.pixels, given.pixels)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 255)])
def test_normalised_arrays_come_back_on_their_scale(model, head, low, high):
    array = low + (high - low) * (head / 255)
    array = array.astype(np.uint8 if high == 255 else np.float32)
    made = model.translate(array, to="T2")

    expect_same_brightness(made - low, array - low)


def test_a_picture_is_judged_in_the_units_of_the_training(head):
    given = head[None].astype(np.float32)
    source, target = Percentile(), Percentile()
    source.fit([given])
    target.fit([4 * given])
    frame = model_of(None, size=head.shape).frames["b"]
    model = OnePipeline(Pipeline(frame, source, target), lambda seen: seen)
    picture = Image(np.rint(given / 4), dtype=np.dtype(np.uint8))  # darker than the training's
    (made,) = model(picture)
    given_in_units, made_in_units = model.pipelines["b"].in_training_units(picture)

    assert made.own_scale
    np.testing.assert_allclose(given_in_units(picture.pixels), given, atol=5)
    np.testing.assert_allclose(made_in_units(made.pixels), 4 * given, atol=20)


def test_a_dark_slice_keeps_the_scale_of_the_others(head):
    given = head[None].astype(np.float32)
    scale = Percentile()
    scale.fit([given])
    values = values_of([given])
    frame = model_of(None, size=head.shape).frames["b"]
    frame = replace(frame, values={"source": values, "target": values})
    model = OnePipeline(Pipeline(frame, scale, scale), lambda seen: seen)
    top = np.rint(given / 4)  # of a head, where few voxels are as bright as elsewhere
    top[0, :2, :2] = 230
    picture = Image(top, dtype=np.dtype(np.uint8))
    (made,) = model(picture)

    assert not made.own_scale
    np.testing.assert_allclose(made.pixels, top, atol=1)


@pytest.mark.parametrize("name", ["T2", "t2", "b", "t2w", "T2W", "T2_W", "T2wi"])
def test_usual_spellings_name_the_domain_to_make(model, name):
    assert model.domain(name) == "b"


def test_formats_with_units_keep_the_units_of_the_model(model, head, tmp_path):
    values = head.T[:, ::-1, None].astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    package.translate(
        *("t1t2", tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"),
        to="T2",
        device="cpu",
        say=lambda line: None,
    )
    made = nib.load(tmp_path / "b.nii.gz").get_fdata()
    median = np.median(made[made > 100])

    assert median == pytest.approx(538, rel=0.3)  # the model's median of tissue in T2


def test_pictures_of_the_training_keep_their_exact_values(tmp_path, monkeypatch, head):
    """A model of 8-bit pictures that changes nothing returns 8-bit pictures unchanged."""
    from test_results import Stretched

    from gantk.data.look import values_of

    line = Percentile()
    line.fit([head[None].astype(np.float32)])
    stretched = Stretched(values_of([head[None].astype(np.float32)]))
    stretched.pipelines = {"b": Pipeline(stretched.frames["b"], line, line)}
    stretched.network = lambda seen: seen
    monkeypatch.setattr(
        "gantk.inference.load.load_model", lambda run, device=None, say=None: stretched
    )
    Picture.fromarray(head).save(tmp_path / "a.png")
    package.translate("run", tmp_path / "a.png", tmp_path / "b.png", say=lambda line: None)

    assert np.array_equal(read(tmp_path / "b.png").pixels[0], head)


@pytest.mark.parametrize(
    ("top", "whole", "kind"),
    [(2001, False, "tif"), (30.0, False, "tif"), (190.0, False, "png"), (255, True, "png")],
)
def test_samples_have_the_values_of_the_training_images(head, tmp_path, top, whole, kind):
    torch = pytest.importorskip("torch")
    from gantk import Model
    from gantk.data.look import values_of
    from gantk.inference.samples import write_samples
    from gantk.machine.runtime import Runtime

    training = head / head.max() * top
    training = np.rint(training) if whole else training
    mapping = Percentile()
    mapping.fit([training[None]])
    seen = torch.from_numpy(mapping.forward(training[None]).astype(np.float32))[None]
    method = SimpleNamespace(
        sample=lambda n, seed, labels: seen.expand(n, *seen.shape[1:]), conditional=False
    )
    data = SimpleNamespace(neighbours=0, domains=["T1"])
    model = Model(
        *(SimpleNamespace(data=data, method=SimpleNamespace(name="gan")), method),
        {"image": mapping},
        *(Runtime(torch.device("cpu"), "fp32", True), tmp_path / "run" / "checkpoints" / "0"),
        values={"image": values_of([training[None]])},
    )
    (path,) = write_samples(model, tmp_path / "out", 1, 0, None, post=False)
    made = read(path)

    assert path.suffix == f".{kind}"
    assert np.abs(made.pixels - training).mean() < 0.01 * top
    assert is_generated(path, made.description)
    with pytest.raises(UserError, match="holds 1 sample of an earlier call"):
        write_samples(model, path.parent, 1, 1, None, post=False)
    write_samples(model, path.parent, 2, 1, None, post=False, overwrite=True)
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "nii", "nii.gz", "mha", "nrrd"])
def test_a_generated_image_says_so_itself(head, tmp_path, suffix):
    image = Image(np.rint(head[None]).clip(0, 255).astype(np.float32))
    for name, description in (("made", "T2"), ("scan", "")):
        write(tmp_path / f"{name}.{suffix}", image, description)
    made, scan = (tmp_path / f"{name}.{suffix}" for name in ("made", "scan"))
    assert is_generated(made, read(made).description)
    assert not is_generated(scan, read(scan).description)


@pytest.mark.parametrize("to", ["T1", "T2"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("white", [255.0, 1.0])
def test_gradients_do_not_change_results(model, head, white, masked, to):
    torch = pytest.importorskip("torch")
    image = np.where(head > 40, head, 0) if masked else head
    tensor = torch.from_numpy(image * (white / 255)).float()
    plain = model.translate(tensor, to=to)
    differentiable = model.translate(tensor.requires_grad_(), to=to)

    torch.testing.assert_close(differentiable, plain, rtol=0, atol=1e-4 * float(np.ptp(plain)))
    differentiable[..., :3, :].sum().backward()  # of the air
    assert masked != bool(tensor.grad.any())


@pytest.mark.parametrize("paths", [(), ("t2.nii.gz",)])
def test_arrays_are_sent_to_the_loaded_model(head, paths):
    with pytest.raises(package.UserError, match=r"gantk\.load\(run\)\.translate\(images\)"):
        package.translate("t1t2", head, *paths, to="T2")
