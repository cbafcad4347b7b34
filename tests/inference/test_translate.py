"""Files and folders through a trained run: nothing lost, nothing done twice, whatever the network
sees of them.
"""

import csv
import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from one_pipeline import OnePipeline, model_of
from PIL import Image as Picture
from tiny import PATCHGAN, UNET, read_json, small_run, train_without_scores, write_json

import gantk as toolkit
from gantk.data.look import QUANTILE_COUNT
from gantk.data.masks import with_dark_background
from gantk.data.skull import shows_skull
from gantk.errors import GantkError, UserError
from gantk.formats.files import read, scan_of
from gantk.formats.image import Image
from gantk.inference.frame import TranslateOptions
from gantk.runs.folder import RunFolder

PIX2PIX = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
SHAPE = (40, 36, 5)


def volume(path: Path, seed: int = 0, shape: tuple[int, ...] = SHAPE, factor: float = 1.0) -> Path:
    """A NIfTI file of numbers on the phantom's scale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = factor * np.random.default_rng(seed).uniform(0, 600, shape)
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([2.0, 2, 3, 1])), path)
    return path


def values(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata()


def translate(run: Path, source: Path, target: Path, **options) -> list[Path]:
    return toolkit.translate(
        run, source, target, device="cpu", **{"say": lambda line: None} | options
    )


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory) -> Path:
    method = {"name": "munit", "width": 4, "blocks": 1, "mlp_dim": 8, "scales": 1}
    return small_run(tmp_path_factory.mktemp("munit"), method)


@pytest.fixture(scope="module")
def contrasts(tmp_path_factory) -> Path:
    return small_run(tmp_path_factory.mktemp("contrasts"), PIX2PIX, domains=["T1+FLAIR", "T2"])


# ---- files and folders


def test_results_are_reused_for_equal_inputs_and_options(tiny_run, tmp_path):
    """A broken file keeps the folder from being done; files read ahead give what they give one
    after the other.
    """
    source = tmp_path / "in"
    out = tmp_path / "out"
    said = []
    for k in range(3):
        volume(source / f"{k}.nii.gz", seed=k)

    (source / "bad.nii.gz").write_bytes(b"no image at all")

    def times(**options) -> list[int]:
        with pytest.raises(
            GantkError, match=r"1 of 4 images could not be translated(.|\n)*bad\.nii\.gz"
        ):
            translate(tiny_run, source, out, say=said.append, **options)
        return [(out / f"{k}.nii.gz").stat().st_mtime_ns for k in range(3)]

    first = times()
    volume(source / "1.nii.gz", seed=9)  # an input that changed is done anew
    again = times()

    assert [one == other for one, other in zip(first, again, strict=True)] == [True, False, True]
    assert "2 of 4 inputs were already translated" in said[-1]
    assert not set(times(to="T1")) & set(again)  # another question: all is done anew

    (source / "bad.nii.gz").unlink()
    translate(tiny_run, source, out, to="T1")

    assert not (tmp_path / ".out.translation.json").exists()  # all is done


# ---- the pipeline around a network


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_an_identity_network_gives_the_volume_back(plane):
    pixels = np.random.default_rng(0).uniform(0, 100, (1, 6, 50, 40)).astype(np.float32)
    model = model_of(lambda seen: seen, size=(64, 64), white=100.0, plane=plane)
    (done,) = model(Image(pixels))

    np.testing.assert_allclose(done.pixels, pixels, atol=1e-3)


def test_a_network_sees_neighbouring_slices_in_their_order():
    pixels = np.random.default_rng(0).uniform(0, 100, (1, 5, 32, 32)).astype(np.float32)
    gives_the_slice_before = model_of(lambda seen: seen.roll(1, 1), white=100.0, neighbours=1)
    (done,) = gives_the_slice_before(Image(pixels))

    np.testing.assert_allclose(done.pixels, pixels[:, [0, 0, 1, 2, 3]], atol=1e-3)


def test_a_post_step_is_applied_once_to_what_the_network_made():
    pixels = np.random.default_rng(0).uniform(0, 100, (1, 5, 32, 32)).astype(np.float32)
    gray = model_of(torch.zeros_like, white=100.0)
    gray.pipelines["b"].post_steps = lambda made, seen: (made + seen) / 2
    (done,) = gray(Image(pixels))

    np.testing.assert_allclose(done.pixels, (50 + pixels) / 2, atol=1e-3)


def plate_with_holes(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels that are 5 outside of a plate and in its holes; what lies outside, with the holes that
    are open to it; the holes that are closed.
    """
    outside = np.ones(shape, bool)
    outside[..., 8:-4, 8:-4] = False
    closed = np.zeros(shape, bool)
    closed[..., 12:15, 12:15] = True
    opened = np.zeros(shape, bool)
    opened[..., 20:24, 20:24] = True
    if shape[0] == 6:
        # closed at both ends, one but for a voxel; a third goes up and down on its way out
        closed[[0, -1]] = False
        opened[[0, -1]] = False
        opened[0, 21, 21] = True
        opened[1:5, 30, 30] = True
        opened[4, 30:34, 30] = True
        opened[1:5, 33, 30] = True
        opened[1, 33, 30:] = True
    else:
        opened[..., 24:, 21] = True

    pixels = np.random.default_rng(0).uniform(20, 90, (1, *shape)).astype(np.float32)
    pixels[:, outside | closed | opened] = 5.0
    return pixels, outside | opened, closed


@pytest.mark.parametrize("shape", [(6, 40, 40), (1, 40, 40), (40, 40)])
def test_masked_out_voxels_stay_and_holes_are_translated(shape):
    pixels, outside, closed = plate_with_holes(shape)

    def brightened(masked: bool) -> np.ndarray:
        brighter = model_of(lambda seen: seen + 0.2, white=100.0, masked=masked)
        return brighter(Image(pixels))[0].pixels[0]

    free = brightened(masked=False)
    masked = brightened(masked=True)

    np.testing.assert_allclose(masked[outside], 5.0, atol=1e-4)
    assert free[outside].mean() > 10
    assert np.array_equal(masked[~outside], free[~outside])
    assert masked[closed].mean() > 10


VARIANTS = TranslateOptions(variants=3)
TWO = TranslateOptions(variants=2)
WAYS = {  # keys of the frame, options, memory beside the input and the results in volumes
    "masked": ({"masked": True}, TranslateOptions(), 0.6),
    "variants": ({}, VARIANTS, 0.3),
    "masked, coronal": ({"masked": True, "plane": "coronal"}, TWO, 0.6),
    "coarser": ({"spacing": (1.4, 1.0, 1.6)}, TWO, 0.3),
    "finer": ({"spacing": (1.0, 0.7, 0.7), "plane": "sagittal"}, TranslateOptions(), 0.4),
}


def framed_block() -> np.ndarray:
    """A volume of 72 x 96 x 96 of noise between dark borders."""
    pixels = np.random.default_rng(0).uniform(50, 200, (1, 72, 96, 96)).astype(np.float32)
    pixels[:, 7] = 20.0
    pixels[:, :, :4] = 20.0
    pixels[:, :, -4:] = 20.0
    pixels[..., :4] = 20.0
    pixels[..., -4:] = 20.0
    return pixels


def model_of_maps(options: TranslateOptions, keys: dict) -> OnePipeline:
    """A model whose network gives paler and paler images, and a shadow of them."""

    def run(batch: torch.Tensor) -> torch.Tensor:
        made = []
        for number in range(options.variants or 1):
            made.append(batch * (1 - 0.1 * number) + 0.2 * batch.roll(2, -1))
        return torch.cat(made, 1)

    made = model_of(run, batch=2, **keys)
    # which draws at most 64 MB of a volume, more than this one has
    own = made.pipelines["b"]
    own.own_scale = lambda pixels: own.source
    return made


@pytest.mark.quick_cases("masked")
@pytest.mark.parametrize("way", WAYS)
def test_large_volumes_are_translated_in_little_memory(way, tmp_path, monkeypatch):
    keys, options, most = WAYS[way]
    pixels = framed_block()
    model = model_of_maps(options, keys)
    expected = model(Image(pixels, affine=np.eye(4)), options=options)
    monkeypatch.setattr("gantk.formats.image.SLAB", 2**14)
    image = Image(pixels.copy(), affine=np.eye(4))
    tracemalloc.start()
    done = model(image, options=options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    volumes = peak / pixels.nbytes - len(done)

    assert volumes < most, f"{volumes:.2f} volumes beside the input and the results"
    for one, other in zip(done, expected, strict=True):
        np.testing.assert_allclose(one.pixels, other.pixels, rtol=1e-4, atol=1e-3)


# ---- several answers, several contrasts, neighbours, samples


def test_all_slices_get_one_style(multimodal):
    model = toolkit.load(multimodal, device="cpu")
    options = TranslateOptions(variants=2, seed=3)
    pixels = np.random.default_rng(0).uniform(0, 600, (5, 32, 32)).astype(np.float32)
    whole = np.stack(model.translate(pixels, options=options))
    alone = np.stack(model.translate(pixels[3:4], options=options))

    assert whole.shape == (2, 5, 32, 32)
    np.testing.assert_allclose(whole[:, 3:4], alone, rtol=1e-3, atol=0.5)
    others = np.stack(model.translate(pixels[3:4], options=replace(options, seed=4)))
    assert not np.allclose(others, alone, rtol=1e-3, atol=0.5)


def test_the_style_of_an_example_changes_the_translation(multimodal, tmp_path):
    bright = volume(tmp_path / "bright.nii.gz", seed=1, factor=1.0)
    dark = volume(tmp_path / "dark.nii.gz", seed=1, factor=0.3)
    (as_bright,) = translate(multimodal, bright, tmp_path / "as-bright", style=bright)
    (as_dark,) = translate(multimodal, bright, tmp_path / "as-dark", style=dark)

    assert not np.array_equal(values(as_bright), values(as_dark))


def test_the_style_of_a_volume_is_that_of_its_middle_slice(multimodal):
    model = toolkit.load(multimodal, device="cpu")
    pixels = np.random.default_rng(0).uniform(0, 600, (1, 5, 32, 32)).astype(np.float32)
    examples = (pixels, pixels[:, 2:3], pixels[:, :1])
    whole, middle, first = (
        model.translate(pixels[0], options=TranslateOptions(example=Image(example)))
        for example in examples
    )

    np.testing.assert_array_equal(whole, middle)
    assert not np.array_equal(whole, first)


@pytest.fixture
def two_patients(tmp_path) -> Path:
    """A folder of two patients with T1 and FLAIR."""
    for patient in ("p1", "p2"):
        volume(tmp_path / "in" / patient / "t1.nii.gz", seed=1)
        volume(tmp_path / "in" / patient / "flair.nii.gz", seed=2)
    return tmp_path / "in"


@pytest.mark.parametrize("way", ["folders", "one folder"])
def test_contrasts_of_a_patient_make_one_file(way, contrasts, two_patients, tmp_path):
    expected = ["p1/t2.nii.gz", "p2/t2.nii.gz"]
    if way == "one folder":
        for path in [*two_patients.rglob("*.nii.gz")]:
            path.rename(two_patients / f"{path.parent.name}_{path.name}")
        expected = ["p1_t2.nii.gz", "p2_t2.nii.gz"]
    out = tmp_path / "out"
    written = translate(contrasts, two_patients, out)
    names = [path.relative_to(out).as_posix() for path in written]

    assert names == expected
    first = nib.load(written[0])
    assert first.shape == SHAPE
    np.testing.assert_array_equal(first.affine, np.diag([2.0, 2, 3, 1]))


def test_neighbouring_slices_are_used_for_the_middle_one(tmp_path):
    run = small_run(tmp_path, PIX2PIX, neighbours=1, source={"slices": 5})
    scan = volume(tmp_path / "scan.nii.gz")
    done = []
    changed = values(scan)
    changed[:, :, 4] = 300.0  # two slices away from slice 2, next to slice 3
    nib.save(
        nib.Nifti1Image(changed.astype(np.float32), nib.load(scan).affine),
        tmp_path / "changed.nii.gz",
    )
    for name in ("scan", "changed"):
        (path,) = translate(run, tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_t2.nii.gz")
        done.append(values(path))

    assert done[0].shape == SHAPE
    assert np.array_equal(done[0][:, :, 2], done[1][:, :, 2])
    assert not np.array_equal(done[0][:, :, 3], done[1][:, :, 3])


def test_contrasts_go_in_by_their_order(contrasts):
    model = toolkit.load(contrasts, device="cpu")
    pixels = np.random.default_rng(0).uniform(0, 600, (2, 32, 32)).astype(np.float32)

    assert not np.allclose(model.translate(pixels), model.translate(pixels[::-1]))


def test_a_missing_contrast_needs_a_run_that_learnt_without(contrasts, two_patients, tmp_path):
    (two_patients / "p1" / "flair.nii.gz").unlink()
    with pytest.raises(GantkError, match="p1' lacks FLAIR"):
        translate(contrasts, two_patients, tmp_path / "out")

    run = small_run(tmp_path, PIX2PIX, domains=["T1+FLAIR", "T2"], missing="mask")
    for path in translate(run, two_patients, tmp_path / "masked"):
        assert np.isfinite(values(path)).all()


def test_samples_say_their_class_and_are_not_written_over(tmp_path):
    discriminator = {"width": 4, "depth": 3, "name": "dcgan"}
    method = {"name": "dcgan", "width": 4, "latent": 8, "conditional": True}
    method |= {"discriminator": discriminator}
    source = {"lesions": 1, "healthy": 0.5}
    run = small_run(tmp_path, method, domains=["FLAIR"], labels=True, source=source)
    out = tmp_path / "out"
    options = {"device": "cpu", "say": lambda line: None}
    paths = toolkit.sample(run, n=3, out=out, **options)

    assert {np.asarray(Picture.open(path)).shape for path in paths} == {(32, 32)}
    with (out / "labels.csv").open() as file:
        header, *rows = csv.reader(file)

    assert header == ["path", "label"]
    assert [name for name, _ in rows] == [path.name for path in paths]
    assert [label for _, label in rows] == ["healthy", "tumour", "healthy"]
    with pytest.raises(UserError, match="holds 3 samples of an earlier call"):
        toolkit.sample(run, n=1, out=out, **options)
    (again,) = toolkit.sample(run, n=1, out=out, overwrite=True, **options)
    assert [*out.glob("sample-*")] == [again]


def test_a_run_uses_the_checkpoint_of_its_recipe(copied_run):
    run = RunFolder(copied_run)
    recipe = copied_run / "recipe.toml"
    best = copied_run / "best.json"
    write_json(best, read_json(best) | {"step": 2})

    assert (
        toolkit.load(copied_run, device="cpu").checkpoint
        == run.inference_checkpoint()
        == run.latest()
    )
    text = recipe.read_text()
    assert 'checkpoint = "last"' in text
    recipe.write_text(text.replace('checkpoint = "last"', 'checkpoint = "best"'))
    assert (
        toolkit.load(copied_run, device="cpu").checkpoint.name == run.best().name == "step-000002"
    )

    best.write_text('{"step": 3}')
    with pytest.raises(
        UserError, match='step 3, which does not exist.*evaluate.checkpoint = "last"'
    ):
        toolkit.load(copied_run, device="cpu")


# ---- several models as one, mirrored images, and folds


SMALL = {
    "source": {"name": "phantom", "subjects": 6, "slices": 2},
    "domains": ["T1", "T2"],
    "size": [32, 32],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs from T1 to T2, the second with other intensities and larger images; one from T1 to
    FLAIR.
    """
    other = {"size": [48, 48], "intensity": "zscore", "source": {"seed": 3}}
    data = {"first": {}, "second": other, "flair": {"domains": ["T1", "FLAIR"]}}
    return {
        name: small_run(tmp_path_factory.mktemp(name), PIX2PIX, **table)
        for name, table in data.items()
    }


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    return volume(tmp_path_factory.mktemp("scan") / "scan.nii.gz")


def test_several_runs_give_their_mean_and_spread(runs, scan, tmp_path, gantk):
    paths = [runs["first"], runs["second"], runs["first"]]
    names = ",".join(map(str, paths))
    out = tmp_path / "out.nii.gz"
    options = ["--uncertainty", "--device", "cpu"]

    gantk("translate", names, scan, out, *options).ok()

    models = [toolkit.load(path, device="cpu") for path in paths]
    single = np.stack([model.translate(nib.load(scan)).get_fdata() for model in models])
    close = {"rtol": 1e-3, "atol": 0.05}

    np.testing.assert_allclose(nib.load(out).get_fdata(), single.mean(0), **close)
    spread = nib.load(tmp_path / "out_uncertainty.nii.gz").get_fdata()
    np.testing.assert_allclose(spread, single.std(0, ddof=1), **close)


CANNOT = [
    ("first,flair", "", "translates T1 to T2, '"),
    ("first,nowhere", "", "nowhere"),
    (",", "", "RUN names no model"),
    ("first,second", "--variants 2", "Name one run"),
    ("first", "--uncertainty", "several runs"),
    ("first,", "--uncertainty", "several runs"),
]


@pytest.mark.parametrize(("names", "options", "says"), CANNOT)
def test_what_several_runs_cannot_do_is_one_error(
    runs, scan, tmp_path, gantk, names, options, says
):
    text = ",".join(str(runs.get(name, name)) for name in names.split(","))
    told = gantk(
        "translate", text, scan, tmp_path / "out.nii.gz", *options.split(), "--device", "cpu"
    ).refused()

    assert says in told
    assert not (tmp_path / "out.nii.gz").exists()


FOLDED = {
    "method": PIX2PIX,
    "data": SMALL,
    "train": {"steps": 2, "batch": 2},
    "evaluate": {"samples": 1},
}


def test_folds_are_one_model_however_they_are_named(scan, tmp_path):
    for fold in range(2):
        one_fold = {"data.split.folds": 3, "data.split.fold": fold}
        train_without_scores(FOLDED, tmp_path / f"cv/fold-{fold}", set=one_fold)

    names = [str(tmp_path / "cv/fold-*"), [tmp_path / f"cv/fold-{fold}" for fold in range(2)]]
    images = set()
    for number, name in enumerate(names):
        (path,) = translate(name, scan, tmp_path / f"{number}.nii.gz")
        images.add(nib.load(path).get_fdata().tobytes())

    assert len(images) == 1


# ---- backgrounds of z-scores


def stripped_scan(radius: float = 14.0) -> np.ndarray:
    """A ball of tissue from 60 to 300 in a background of 0."""
    shape = (12, 40, 40)
    places = np.meshgrid(*[np.arange(n) - n / 2 for n in shape], indexing="ij")
    inside = sum(np.square(place) for place in places) < radius**2
    tissue = np.random.default_rng(0).uniform(60, 300, shape)
    return np.where(inside, tissue, 0).astype(np.float32)


def z_scores(scan: np.ndarray) -> np.ndarray:
    tissue = scan[scan > 0]
    return np.where(scan > 0, (scan - tissue.mean()) / tissue.std(), 0).astype(np.float32)


def test_the_background_of_z_scores_gets_as_dark_as_tissue():
    one = z_scores(stripped_scan())
    other = z_scores(stripped_scan(radius=11.0))
    scan = np.stack([one, other, np.full_like(one, np.nan), stripped_scan()])
    done = with_dark_background(scan)

    for number, given in enumerate((one, other)):
        assert (done[number][given == 0] < np.quantile(given[given != 0], 0.001)).all()
        assert np.array_equal(done[number][given != 0], given[given != 0])
    assert np.array_equal(done[2:], scan[2:], equal_nan=True)


@pytest.mark.parametrize("channels", [1, 2])
def test_arrays_of_volumes_are_masked_by_a_model_of_volumes(channels):
    quantiles = np.linspace(30, 300, QUANTILE_COUNT).tolist()
    values = {"source": {"low": 0.0, "high": 300.0, "quantiles": quantiles}}
    names = {1: "T1", 2: "T1+FLAIR"}
    options = {"dims": 3, "size": (12, 40, 40), "masked": True, "values": values}
    both = {"source": names[channels], "target": names[channels]}
    model = model_of(lambda seen: seen, white=100.0, channels=channels, **both, **options)

    for radius in (14.0, 11.0):
        scan = z_scores(stripped_scan(radius=radius))
        done = model.translate(scan if channels == 1 else np.stack([scan] * channels))
        made = done if channels == 1 else done[0]

        assert np.ptp(made[scan == 0]) < 1e-4
        np.testing.assert_allclose(made[scan != 0], scan[scan != 0], atol=1e-4)


# ---- heads with skull


@pytest.mark.parametrize(
    ("place", "is_whole"),
    [("open_ms/raw/patient01/*T*W.nii.gz", True), ("brats/*/*_[tf]*.nii.gz", False)],
)
def test_the_skull_of_real_heads_is_seen(shared_data, place, is_whole):
    found = [shows_skull(read(scan_of(file))) for file in shared_data.glob(place)]
    if not found:
        pytest.skip(f"no {place} among the real images")
    assert set(found) == {is_whole}


def test_one_volume_of_several_is_chosen_by_its_number(tiny_run, tmp_path):
    scans = [volume(tmp_path / "4d.nii.gz", shape=(*SHAPE, 3)), tmp_path / "3d.nii.gz"]
    nib.save(nib.load(scans[0]).slicer[..., 2], scans[1])
    for scan, number in zip(scans, (2, None), strict=True):
        translate(tiny_run, scan, tmp_path / f"of-{scan.name}", volume=number)

    assert np.array_equal(*(values(tmp_path / f"of-{scan.name}") for scan in scans))
