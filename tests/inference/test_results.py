"""What results are written as: overshoot, kinds of file, names of BIDS, and what is said of a
folder's images.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture
from tiny import ROOT

from gantk import api
from gantk.data.intensity import Percentile
from gantk.errors import GantkError, UserError
from gantk.formats.contrasts import values_of
from gantk.inference import load
from gantk.inference.frame import Frame, TranslateOptions
from gantk.inference.model import TrainedModel
from gantk.inference.pipeline import Pipeline
from gantk_parts.ct.intensity import Window
from gantk_trust.wrong_contrast import no_anatomy

RANGE = values_of([np.linspace(0, 250, 1024).reshape(1, 32, 32).round()])


class Stretched(TrainedModel):
    """A T1 to T2 model that stretches what it sees by a third, about the middle: black and white
    overshoot.
    """

    def __init__(self, target: dict | None = None, source: dict | None = None):
        values = {"source": source or target, "target": target} if target else {}
        self._frame = Frame("T1", "T2", 2, (32, 32), 1, (-1.0, 1.0), values=values)

    def domain(self, name):
        return "b"

    def contrasts(self, letter):
        return ["T2" if letter == "b" else "T1"]

    def frame(self, letter):
        return self._frame

    def identity(self):
        return {"name": "stretched", "sha256": "0"}

    def pipeline(self, letter, options=TranslateOptions()):  # noqa: B008
        window = Window(low=0.0, high=250.0)
        count = options.variants or 1
        maps = ("image",) * count
        return Pipeline(
            self._frame, window, window, lambda x: np.concatenate([4 / 3 * x] * count, axis=1), maps
        )


@pytest.fixture
def model(monkeypatch):
    """`model(...)` is what `api.translate` loads from then on."""
    return lambda *values: monkeypatch.setattr(
        load, "load_model", lambda run, device=None, say=None: Stretched(*values)
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
    api.translate("run", source, target, say=said.append, **options)
    return said


@pytest.mark.parametrize(
    "values", [(), (RANGE,)], ids=["a run of before", "a run that kept its range"]
)
def test_clipping_in_a_folder_is_told_once(tmp_path, model, values):
    model(*values)
    for name in ("a.png", "sub/b ä.bmp", "c.tif", "d.jpg"):
        picture(tmp_path / "in" / name, colour=name == "d.jpg")
    picture(tmp_path / "in" / "calm.png", 60, 190)
    picture(tmp_path / "in" / "deep.tif", 0, 250, np.uint16)
    said = translate(tmp_path / "in", tmp_path / "out", variants=2)
    assert len([path for path in (tmp_path / "out").rglob("*-[12].*")]) == 12
    assert [line.split(maxsplit=1)[0] for line in said] == ["note", "clipped", "written"]
    assert "colour, taken as gray (1 of 6 images: d.jpg)" in said[0]
    assert (
        "% of all values to 0 .. 255 or 0 .. 65535 in 10 of 12 images, which run from -41.67 to 291"
        in said[1]
    )
    made = np.asarray(Picture.open(tmp_path / "out" / "a-1.png"))
    expected = (np.asarray(Picture.open(tmp_path / "in" / "a.png")) - 125.0) * 4 / 3 + 125
    assert made.dtype == np.uint8
    assert np.array_equal(made, np.clip(np.rint(expected), 0, 255))
    assert {Picture.open(path).mode for path in (tmp_path / "out").glob("deep*")} == {"I;16"}


def test_without_clipping_only_float_formats_are_written(tmp_path, model):
    model(RANGE)
    for k in range(3):
        picture(tmp_path / "in" / f"{k}.png", 0, 250 - k)
    words = r"3 of 3 files(.|\n)*0.png: values from -41.+The same \(3 of 3 images"
    with pytest.raises(GantkError, match=words) as failed:
        translate(tmp_path / "in", tmp_path / "out", clip=False)
    # two lines; nothing but a user's mistake
    assert len(str(failed.value).splitlines()) == failed.value.exit_code == 2
    with pytest.raises(UserError, match="one.png"):
        translate(tmp_path / "in" / "0.png", tmp_path / "one.png", clip=False)
    for kind, read in (("tif", Picture.open), (".nii.gz", lambda path: nib.load(path).get_fdata())):
        said = translate(tmp_path / "in", tmp_path / kind.strip("."), format=kind)
        paths = sorted((tmp_path / kind.strip(".")).iterdir())
        assert len(said) == 1
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
        "both": ("format", "jpg", "2 images would become '0.jpg'"),
    }
    cases["maps"] = "uncertainty", "flips", "2 images would become '0_uncertainty.png'"
    for folder, (option, value, words) in cases.items():
        with pytest.raises(UserError, match=words):
            translate(tmp_path / folder, tmp_path / "new", **{option: value})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("low", "high", "whole"), [(-1000.0, 2000.0, True), (0.0, 1.0, False)])
def test_where_whole_numbers_cannot_hold_the_target_tiff_does(tmp_path, model, low, high, whole):
    model(RANGE | {"low": low, "high": high, "whole": whole})
    said = translate((source := picture(tmp_path / "in" / "a.png")).parent, tmp_path / "out")
    assert (
        f"T2 runs from {low:g} to {high:g}, which no .png file holds: written as .tif"
        in "".join(said)
    )
    assert Picture.open(tmp_path / "out" / "a.tif").mode == "F"
    picture(tmp_path / "in" / "a.bmp")  # would become a.tif too
    with pytest.raises(GantkError, match=r"1 of 2 files could not(.|\n)*a.png(.|\n)*--format tif"):
        translate(tmp_path / "in", tmp_path / "two")
    with pytest.raises(UserError, match="--format tif"):
        translate(source, tmp_path / "b.png")


def test_almost_blank_images_and_dicom_colour_are_translated(tmp_path, model, shared_data):
    model()
    (tmp_path / "in").mkdir()
    Picture.fromarray(np.diag([9] + 63 * [0]).astype(np.uint8)).save(tmp_path / "in" / "blank.png")
    (tmp_path / "in" / "colour.dcm").write_bytes(
        (shared_data / "io" / "dicom" / "color-pl.dcm").read_bytes()
    )
    assert "written  2 files" in translate(tmp_path / "in", tmp_path / "out")[-1]


def test_other_contrasts_are_noticed_by_name_or_values(tmp_path, model):
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
    images |= {"T1_noise": noise[0], "bottle": [np.full((1, 40, 40), 180) - 175 * np.tri(40)] * 4}
    for name, values in images.items():
        picture(path := tmp_path / "in" / f"{name}.png")
        Picture.fromarray(values[3][0].clip(0, 255).astype(np.uint8)).save(path)
    warned = [
        line for line in translate(tmp_path / "in", tmp_path / "out") if line.startswith("warning")
    ]
    assert sorted(warned) == [
        f"warning  {what}, and this model translates T1 ({count} of 8 images: {names})"
        for what, count, names in [
            ("called FLAIR", 1, "x_flair.png"),
            ("has the values of T2", 2, "MR_u.png, w.png"),
            ("is noise: neighbouring pixels have nothing in common", 1, "T1_noise.png"),
            ("is of one even material, as a bottle or a mask", 1, "bottle.png"),
        ]
    ]
    # and the other way round
    assert "Hounsfield" in no_anatomy(bright[0] * 10 - 3000, values_of(bright))
    assert "Hounsfield" in no_anatomy(bright[0], values_of(bright) | {"low": -1000.0})


def test_a_bids_tree_becomes_a_derivative_with_sidecars(tmp_path, model):
    # in shares of these the stretched image is the same
    model(RANGE | {"low": -125 / 3, "high": 875 / 3}, RANGE)
    root = tmp_path / "bids"
    out = tmp_path / "bids" / "derivatives" / "gantk"
    names = [
        "sub-01/ses-1/anat/sub-01_ses-1_acq-a_T1w",
        "sub-02/anat/sub-02_space-MNI_desc-brain_T1w",
    ]
    for name in (*names, "sub-02/anat/sub-02_FLAIR", "derivatives/other/sub-02/anat/sub-02_T1w"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        ramp = np.linspace(0, 250, 162, dtype=np.float32).reshape(9, 9, 2)
        nib.save(nib.Nifti1Image(ramp, np.eye(4)), root / f"{name}.nii.gz")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    assert "left out, not called T1 (2 of 4 images" in translate(root, out, variants=2)[0]
    made = [
        "sub-01/ses-1/anat/sub-01_ses-1_acq-a_space-T1w_desc-gantk{}_T2w",
        "sub-02/anat/sub-02_space-MNI_desc-gantk{}_T2w",
    ]
    expected = {
        f"{name.format(k)}{suffix}"
        for name in made
        for k in (1, 2)
        for suffix in (".nii.gz", ".json")
    }
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {*expected, "dataset_description.json"}
    sidecar = json.loads((out / f"{made[1].format(1)}.json").read_text())
    assert sidecar["Sources"] == [f"bids:raw:{names[1]}.nii.gz"]
    assert sidecar["SkullStripped"]
    assert sidecar["Warnings"] == ["became nearly what it was: the translation changed nothing"]
    assert sidecar["SpatialReference"] == sidecar["Sources"][0]
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["DatasetLinks"] == {"raw": "../.."}
    assert described["GeneratedBy"][0]["Name"] == "gantk"
    (one,) = api.translate(
        "run", root / f"{names[0]}.nii.gz", tmp_path / "one", say=lambda line: None
    )
    assert one.relative_to(tmp_path / "one").as_posix() == f"{made[0].format('')}.nii.gz"
    with pytest.raises(UserError, match="no derivative.*derivatives/gantk"):
        translate(root / "sub-01", root)


@pytest.mark.parametrize("per", ["set", "volume", "image"])
@pytest.mark.parametrize("foreground", [False, "otsu"])
def test_blank_images_stay_blank_and_are_counted(tmp_path, monkeypatch, per, foreground):
    scale = Percentile(per=per, foreground=foreground)
    scale.fit([np.random.default_rng(0).normal(100, 20, (1, 40, 50)).astype(np.float32)])
    model = Stretched(RANGE)
    model.pipeline = lambda letter, options: Pipeline(model.frame("b"), scale, scale, lambda x: x)
    monkeypatch.setattr(load, "load_model", lambda run, device=None, say=None: model)
    # resized, one value is not quite one any more
    for name, value in (("a", 0), ("b", 250), ("c", 251)):
        (tmp_path / "in").mkdir(exist_ok=True)
        Picture.fromarray(np.full((40, 50), value, np.uint8)).save(tmp_path / "in" / f"{name}.png")
    picture(tmp_path / "in" / "d.png")
    said = translate(tmp_path / "in", tmp_path / "out")
    assert any(
        "blank, of one value throughout, as is their T2 (3 of 4 images: a.png, b.png, c.png)" in s
        for s in said
    )
    made = [np.asarray(Picture.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    assert [np.ptp(each) for each in made[:3]] == [0, 0, 0]
    assert made[0][0, 0] <= made[1][0, 0] < 200
    almost = (
        np.float32(3000)
        + np.float32(2e-4) * np.arange(2000, dtype=np.float32).reshape(1, 40, 50) % 5
    )
    assert np.isfinite(scale.forward(almost)).all()  # of what differs by less than float32 can tell


def test_overlong_result_names_are_refused_first(tmp_path, model):
    model(RANGE)
    [picture(tmp_path / "in" / f"{name}.png") for name in ("a" * 251, "é" * 125 + "a", "b")]
    with pytest.raises(
        UserError, match=r"20 results would have a name of more than 255 bytes, such as 'a.*-1.png'"
    ):
        translate(tmp_path / "in", tmp_path / "out", variants=10)
    assert not (tmp_path / "out").exists()
    translate(tmp_path / "in", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        p.name for p in (tmp_path / "in").iterdir()
    )


def test_independent_scorer_accepts_any_axis_order(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from score_volumes import score

    rng = np.random.default_rng(0)
    head = np.zeros((40, 36, 12))
    head[6:34, 6:30] = rng.uniform(100, 1000, (28, 24, 12))
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    order = np.array([[0, 1, 0, 0], [0, 0, -1, 35], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(head, affine), tmp_path / "truth.nii.gz")
    nib.save(
        nib.Nifti1Image(head[:, ::-1].transpose(2, 0, 1), affine @ order), tmp_path / "same.nii.gz"
    )
    nib.save(nib.Nifti1Image(1100 * (head > 0) - head, affine), tmp_path / "inverted.nii.gz")
    found = score(*(str(tmp_path / f"{name}.nii.gz") for name in ("same", "truth", "inverted")))
    assert found["prediction"] == pytest.approx((100, 1, 1), abs=1e-3)
    assert found["input"][0] < 10 and found["map"][0] > found["input"][0], (
        "a falling map undoes the inversion in part"
    )
