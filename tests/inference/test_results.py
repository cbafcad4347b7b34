"""What results are written as: overshoot, kinds of file, names of BIDS, and what is said of a
folder's images.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from one_pipeline import OnePipeline, model_of
from PIL import Image as Picture
from tiny import ROOT, read_json, write_json

import gantk as package
from gantk.data.intensity import Percentile
from gantk.data.look import values_of
from gantk.errors import GantkError, UserError
from gantk.inference.pipeline import Pipeline
from gantk_trust.wrong_contrast import no_anatomy

RANGE = values_of([np.linspace(0, 250, 1024).reshape(1, 32, 32).round()])


class Stretched(OnePipeline):
    """A T1 to T2 model that stretches what it sees by a third, about the middle: black and white
    overshoot.
    """

    def __init__(self, target: dict | None = None, source: dict | None = None):
        values = {"source": source or target, "target": target} if target else {}
        own = model_of(None, values=values).pipelines["b"]
        super().__init__(own, lambda seen: 4 / 3 * seen)

    def network_of(self, letter, options):
        return lambda seen: torch.cat([self.network(seen)] * len(options.tails), dim=1)


@pytest.fixture
def model(monkeypatch):
    """`model(...)` is what `package.translate` loads from then on."""
    return lambda *values: monkeypatch.setattr(
        "gantk.inference.load.load_model", lambda run, device=None, say=None: Stretched(*values)
    )


def picture(
    path: Path, low: int = 0, high: int = 250, dtype=np.uint8, colour: bool = False
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(low, high, 32 * 32).reshape(32, 32).astype(dtype)
    Picture.fromarray(np.stack([ramp] * 3, axis=-1) if colour else ramp).save(path)
    return path


def translate(source: Path, target: Path, **options) -> list[str]:
    """The lines that were said."""
    said = []
    package.translate("run", source, target, say=said.append, **options)
    return said


@pytest.fixture
def mixed_folder(tmp_path):
    """Six pictures of several kinds, one without dark and bright values, one of 16 bits."""
    folder = tmp_path / "in"
    picture(folder / "a.png")
    picture(folder / "sub" / "b ä.bmp")
    picture(folder / "c.tif")
    picture(folder / "d.jpg", colour=True)
    picture(folder / "calm.png", 60, 190)
    picture(folder / "deep.tif", 0, 250, np.uint16)
    return folder


kept_ranges = pytest.mark.parametrize(
    "values", [(), (RANGE,)], ids=["a run of before", "a run that kept its range"]
)


def test_float_formats_are_written_without_clipping(tmp_path, model):
    model(RANGE)
    for k in range(3):
        picture(tmp_path / "in" / f"{k}.png", 0, 250 - k)

    for kind, read in (("tif", Picture.open), (".nii.gz", lambda path: nib.load(path).get_fdata())):
        said = translate(tmp_path / "in", tmp_path / kind.strip("."), format=kind)
        paths = sorted((tmp_path / kind.strip(".")).glob(f"*{kind}"))
        assert not any(line.startswith("clipped") for line in said)
        assert len(paths) == 3
        assert np.asarray(read(paths[0])).min() < -41

    translate(tmp_path / "tif", tmp_path / "png", format="png")

    assert Picture.open(tmp_path / "png" / "0.png").mode == "L"

    [
        picture(tmp_path / name)
        for name in ("both/0.png", "both/0.bmp", "maps/0.png", "maps/0_uncertainty.png")
    ]
    cases = {
        "in": ("format", "dcm", "tif, tiff"),
        "both": ("format", "jpg", "2 images would be written to the same file '0.jpg'"),
    }
    cases["maps"] = (
        "uncertainty",
        True,
        "2 images would be written to the same file '0_uncertainty.png'",
    )
    for folder, (option, value, words) in cases.items():
        with pytest.raises(UserError, match=words):
            translate(tmp_path / folder, tmp_path / "new", **{option: value})

    assert not (tmp_path / "new").exists()


def test_notes_that_differ_in_numbers_are_one_line(tmp_path, model):
    model(RANGE | {"traits": {"spacing": [[1.0, 1.0, 1.0]] * 2}})
    ramp = np.linspace(0, 250, 162, dtype=np.float32).reshape(9, 9, 2)
    for side in (3, 10.5, 4):
        image = nib.Nifti1Image(ramp, np.diag([1, side, 1, 1]))
        nib.save(image, tmp_path / f"p{side}_T1.nii.gz")

    said = [line for line in translate(tmp_path, tmp_path / "out") if "spacing" in line]

    of_files = "(3 of 3 images: p3_T1.nii.gz, p4_T1.nii.gz, p10.5_T1.nii.gz)"
    about = "spacing: 1 x 3 to 10.5 x 1 mm, this model is for 1 x 1 x 1 mm"
    assert said == [f"warning  {about} {of_files}"]


@kept_ranges
def test_results_are_of_the_kind_of_their_input_and_clipped(tmp_path, mixed_folder, model, values):
    model(*values)
    out = tmp_path / "out"
    translate(mixed_folder, out, variants=2)

    assert len(list(out.rglob("*-[12].*"))) == 12

    made = np.asarray(Picture.open(out / "a-1.png"))
    source = np.asarray(Picture.open(mixed_folder / "a.png"))
    stretched = (source - 125.0) * 4 / 3 + 125

    assert made.dtype == np.uint8
    assert np.array_equal(made, np.clip(np.rint(stretched), 0, 255))
    assert {Picture.open(path).mode for path in out.glob("deep*")} == {"I;16"}


@pytest.mark.parametrize(
    ("low", "high", "dark", "bright"),
    [(0, 250, True, "warning"), (30, 225, False, "clipped"), (60, 190, False, "")],
)
def test_results_darker_than_black_or_brighter_than_white(tmp_path, model, low, high, dark, bright):
    model(RANGE | {"looks": []})
    said = translate(picture(tmp_path / "a.png", low, high), tmp_path / "b.png")
    by_end = [
        [line for line in said if words in line]
        for words in ("darker than any T2 of the training", "clipped to white")
    ]

    assert bool(by_end[0]) == dark
    assert [line.split()[0] for line in by_end[1]] == ([bright] if bright else [])


@pytest.mark.parametrize(("low", "high", "whole"), [(-1000.0, 2000.0, True), (0.0, 1.0, False)])
def test_files_that_cannot_hold_the_target_are_not_written(tmp_path, model, low, high, whole):
    model(RANGE | {"low": low, "high": high, "whole": whole})
    source = picture(tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "a.tif")
    words = f"the values of T2 range from {low:g} to {high:g}, which a .png file cannot hold"
    with pytest.raises(UserError, match=f"{words}.*--format tif"):
        translate(source, tmp_path / "b.png")
    with pytest.raises(GantkError, match=rf"1 of 2 images could not(.|\n)*a.png: {words}"):
        translate(source.parent, tmp_path / "out")

    assert Picture.open(tmp_path / "out" / "a.tif").mode == "F"


def test_contrasts_of_a_domain_may_have_spaces_about_their_plus(tmp_path):
    two = model_of(lambda seen: torch.cat([seen, seen], dim=1), target="T2 + PD")
    source = picture(tmp_path / "in" / "p01.png").parent
    package.translate(two, source, tmp_path / "out", say=lambda line: None)

    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"p01_T2.png", "p01_PD.png"}


def test_blank_images_are_translated_and_dicom_colour_refused(tmp_path, model, shared_data):
    model()
    folder = tmp_path / "in"
    folder.mkdir()
    almost_blank = np.diag([9] + 63 * [0]).astype(np.uint8)
    Picture.fromarray(almost_blank).save(folder / "blank.png")
    colour = shared_data / "io" / "dicom" / "color-pl.dcm"
    (folder / "colour.dcm").write_bytes(colour.read_bytes())

    with pytest.raises(GantkError, match=r"1 of 2 images(.|\n)*colour.dcm.*it is not gray"):
        translate(folder, tmp_path / "out")
    assert (tmp_path / "out" / "blank.png").is_file()


def test_other_contrasts_and_no_anatomy_are_noticed(tmp_path, model):
    rng = np.random.default_rng(0)
    noise = [
        [rng.normal(middle, middle / 7, (1, 40, 40)) for _ in range(20)] for middle in (60, 180)
    ]
    dark, bright = ([np.sort(image) for image in images] for images in noise)
    model(values_of(bright), values_of(dark))
    images = {
        "x_flair": dark,
        "y_T1w": bright,
        "z": dark,
        "w": bright,
        "v_t1_to_t2": bright,
        "MR_u": bright,
    }
    bottle = rng.integers(180, 184, (1, 40, 40)) - 175 * np.tri(40)
    images |= {"T1_noise": noise[0], "T1_bottle": [bottle] * 4}
    for name, values in images.items():
        picture(path := tmp_path / "in" / f"{name}.png")
        Picture.fromarray(values[3][0].clip(0, 255).astype(np.uint8)).save(path)

    said = translate(tmp_path / "in", tmp_path / "out")
    said += translate(tmp_path / "in" / "x_flair.png", tmp_path / "flair.png")
    warned = [line for line in said if ", but it is translated as" in line]

    assert "warning  fits the training data: no (lesions are not checked)" in said
    # beside those whose names say T1, the others are left out
    unnamed = "2 images not used (nothing says what it shows): 'w.png', 'z.png' (to translate one,"
    assert f"{unnamed} name it: INPUT)" in " ".join(said)
    assert "1 image not used (shows FLAIR): 'x_flair.png'" in " ".join(said)
    assert sorted(warned) == [
        f"warning  {what}, but it is translated as T1{names}"
        for what, names in [
            ("the header or the name says FLAIR", ""),
            (
                "the input has nearly one brightness, as a bottle, a mask or an inverted image has",
                " (1 of 5 images: T1_bottle.png)",
            ),
            (
                "the input is noise (neighbouring pixels are uncorrelated)",
                " (1 of 5 images: T1_noise.png)",
            ),
        ]
    ]
    # and the other way round
    assert "Hounsfield" in no_anatomy(bright[0] * 10 - 3000, values_of(bright))
    assert "Hounsfield" in no_anatomy(bright[0], values_of(bright) | {"low": -1000.0})


BIDS_NAMES = [
    "sub-01/ses-1/anat/sub-01_ses-1_acq-a_T1w",
    "sub-02/anat/sub-02_space-MNI_desc-brain_T1w",
]


@pytest.fixture
def bids(tmp_path, model):
    """A BIDS tree of two T1w images and others, and a model that changes nothing of them."""
    # in shares of these the stretched image is the same
    model(RANGE | {"low": -125 / 3, "high": 875 / 3}, RANGE)
    root = tmp_path / "bids"
    others = ["sub-02/anat/sub-02_FLAIR", "derivatives/other/sub-02/anat/sub-02_T1w"]
    ramp = np.linspace(0, 250, 162, dtype=np.float32).reshape(9, 9, 2)
    for name in BIDS_NAMES + others:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(ramp, np.eye(4)), root / f"{name}.nii.gz")

    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    return root


def test_a_bids_tree_becomes_a_derivative(bids):
    out = bids / "derivatives" / "gantk"
    said = translate(bids, out, variants=2)

    said_of_unused = " ".join(said[:3])
    assert "1 image not used (derivative): 'derivatives/other/sub-02/anat/sub-02" in said_of_unused
    assert "1 image not used (shows FLAIR): 'sub-02/anat/sub-02_FLAIR" in said_of_unused

    expected = {"dataset_description.json"}
    for k in (1, 2):
        for suffix in (".nii.gz", ".json"):
            first = f"sub-01_ses-1_acq-a_space-T1w_desc-gantk{k}_T2w{suffix}"
            second = f"sub-02_space-MNI_desc-gantk{k}_T2w{suffix}"
            expected |= {f"sub-01/ses-1/anat/{first}", f"sub-02/anat/{second}"}

    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}

    assert files == expected
    described = read_json(out / "dataset_description.json")
    assert described["DatasetType"] == "derivative"
    assert described["DatasetLinks"] == {"raw": "../.."}
    assert described["GeneratedBy"][0]["Name"] == "gantk"


def test_a_bids_sidecar_names_source_space_and_warnings(bids):
    out = bids / "derivatives" / "gantk"
    translate(bids, out)
    path = out / "sub-02" / "anat" / "sub-02_space-MNI_desc-gantk_T2w.json"
    sidecar = read_json(path)

    assert sidecar["Sources"] == [f"bids:raw:{BIDS_NAMES[1]}.nii.gz"]
    assert sidecar["SpatialReference"] == sidecar["Sources"][0]
    assert sidecar["SkullStripped"]
    assert sidecar["Warnings"] == [
        "the output is nearly identical to the input: the translation changed nothing"
    ]


@pytest.mark.parametrize(
    ("low", "first", "negative"),
    [(0.0, 0.0, False), (0.0, -200.0, True), (-1000.0, -200.0, True)],
    ids=["magnitudes", "a negative input", "Hounsfield units"],
)
def test_volumes_are_negative_only_if_images_or_training_were(
    low, first, negative, model, tmp_path
):
    model(RANGE | {"low": low, "high": 250.0})
    path = tmp_path / "T1.nii.gz"
    ramp = np.linspace(first, 200, 16**3).reshape(16, 16, 16).astype(np.float32)
    nib.save(nib.Nifti1Image(ramp, np.eye(4)), path)
    translate(path, tmp_path / "T2.nii.gz")
    made = nib.load(tmp_path / "T2.nii.gz").get_fdata()

    assert made.max() > 200
    assert (made.min() < 0) == negative


@pytest.fixture(params=["set", "volume"])
def scale(request):
    fitted = Percentile(per=request.param)
    fitted.fit([np.random.default_rng(0).normal(100, 20, (1, 40, 50)).astype(np.float32)])
    return fitted


def test_blank_images_stay_blank_and_are_counted(tmp_path, monkeypatch, scale):
    model = Stretched(RANGE)
    model.pipelines = {"b": Pipeline(model.frames["b"], scale, scale)}
    model.network = lambda seen: seen
    monkeypatch.setattr("gantk.inference.load.load_model", lambda run, device=None, say=None: model)
    folder = tmp_path / "in"
    picture(folder / "d.png")
    for name, value in (("a", 0), ("b", 250), ("c", 251)):
        blank = np.full((40, 50), value, np.uint8)
        Picture.fromarray(blank).save(folder / f"{name}.png")

    said = translate(folder, tmp_path / "out")
    words = "the image has the same value everywhere, and so has its T2 (3 of 4 images: a.png, b.png, c.png)"

    assert any(words in line for line in said)
    results = [np.asarray(Picture.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    # resized, one value is not quite one any more
    assert [np.ptp(result) for result in results[:3]] == [0, 0, 0]
    assert results[0][0, 0] < 10
    assert results[0][0, 0] <= results[1][0, 0] < 200


def test_almost_constant_values_are_mapped_to_finite_ones(scale):
    steps = np.float32(2e-4) * np.arange(2000, dtype=np.float32).reshape(1, 40, 50) % 5
    almost = np.float32(3000) + steps  # differs by less than float32 can tell

    assert np.isfinite(scale.of(almost).forward(almost)).all()


@pytest.mark.parametrize("better", [True, False])
def test_a_translation_says_that_its_model_lost_to_a_baseline(copied_run, better, tmp_path):
    file = copied_run / "metrics.json"
    results = read_json(file)
    for scores in results["verdict"].values():
        for verdict in scores.values():
            verdict["better"] = better
    write_json(file, results)

    said = []
    source = picture(tmp_path / "in.png")
    package.translate(copied_run, source, tmp_path / "out.png", to="T2", say=said.append)
    assert any("not better than" in line for line in said) != better


def test_independent_scorer_accepts_any_axis_order(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from score_volumes import score

    def save(name, voxels, affine):
        path = str(tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(voxels, affine), path)
        return path

    head = np.zeros((40, 36, 12))
    head[6:34, 6:30] = np.random.default_rng(0).uniform(100, 1000, (28, 24, 12))
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    order = np.array([[0, 1, 0, 0], [0, 0, -1, 35], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    truth = save("truth", head, affine)
    same = save("same", head[:, ::-1].transpose(2, 0, 1), affine @ order)
    inverted = save("inverted", 1100 * (head > 0) - head, affine)
    found = score(same, truth, inverted)

    assert found["prediction"] == pytest.approx((100, 1, 1), abs=1e-3)
    assert found["input"][0] < 10
    assert found["map"][0] > found["input"][0], "a falling map undoes the inversion in part"
