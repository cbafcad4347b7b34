"""A run's split.json decides who was trained on and who is held out, whatever has happened to the
data since.
"""

import dicom_files as made
import numpy as np
import pytest
import SimpleITK as sitk
from tiny import draw_pictures, read_json
from volumes import FROM_NOISE, PAIRED, SIZE, UNPAIRED, volume

from gantk import Data, evaluate, resume
from gantk.data.split_json import RecordedSplit
from gantk.errors import UserError
from gantk.recipe.load import Recipe

COUNT = 4
THREE = ("T1", "T2", "FLAIR")


def picture_folders(root, n):
    for k, domain in enumerate("AB"):
        draw_pictures(root / domain / f"p{n}", 2, seed=10 * n + k)


def nifti(root, n, names=("T1", "T2"), suffix=".nii.gz", folder="p{}"):
    for k, name in enumerate(names):
        volume(root / folder.format(n) / f"{name}{suffix}", 10 * n + k)


def with_masks(root, n):
    nifti(root, n)
    volume(
        root / f"p{n}" / "seg.nii.gz", values=(np.indices((12, 14, 16))[0] > 5).astype(np.float32)
    )


def coarser(root, n):
    nifti(root, n, ("T1",))
    volume(root / f"p{n}" / "T2.nii.gz", 10 * n + 1, (10, 12, 14), np.diag([-1.2, -1.2, 1.2, 1.0]))
    if n == COUNT:  # a second scan of a known patient, who then has no pair any more
        volume(root / "p0" / "T1_again.nii.gz", 99)


def detached(root, n):
    for k, name in enumerate(("T1", "T2")):
        voxels = np.random.default_rng(10 * n + k).random((16, 14, 12)).astype(np.float32)
        (root / f"p{n}").mkdir(exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(voxels), root / f"p{n}" / f"{name}.mhd")


def bids(root, n):
    nifti(root, n, (f"sub-{n}_T1w", f"sub-{n}_T2w"), folder="sub-{}/anat")


def table(root, n):
    nifti(root, n, folder="scans/p{}")
    rows = [f"scans/p{k}/{name}.nii.gz,{name},p{k}" for k in range(n + 1) for name in ("T1", "T2")]
    (root / "scans.csv").write_text("\n".join(["path,domain,patient", *rows]))


def classes(root, n):
    draw_pictures(root / ("yes" if n % 2 else "no") / f"p{n}", 2, seed=n)
    if n == COUNT:
        draw_pictures(root / "maybe" / f"q{n}", 2, seed=n + 1)


STUDIES = {  # how a patient comes to the data, the recipe's source, its method
    "folders": (
        picture_folders,
        {"name": "folders"},
        UNPAIRED,
        {"domains": ["A", "B"], "unpair": True},
    ),
    "blocks": (nifti, {"name": "nifti", "planes": (0, 1)}, UNPAIRED, {"split": {"by": "block"}}),
    "nifti": (nifti, {"name": "nifti"}, PAIRED, {}),
    "masks": (with_masks, {"name": "nifti", "mask": "seg"}, UNPAIRED, {"unpair": True}),
    "onto": (coarser, {"name": "nifti", "onto": "a"}, PAIRED, {}),
    "detached": (detached, {"name": "nifti"}, PAIRED, {}),
    "25d": (
        nifti,
        {"name": "nifti"},
        UNPAIRED,
        {"neighbours": 1, "split": {"by": "block", "gap": 1}, "unpair": True},
    ),
    "contrasts": (
        lambda *of: nifti(*of, THREE),
        {"name": "contrasts"},
        PAIRED,
        {"domains": ["T1+FLAIR", "T2"]},
    ),
    "bids": (bids, {"name": "bids"}, UNPAIRED, {"unpair": True}),
    "csv": (table, {"name": "manifest", "path": "scans.csv"}, UNPAIRED, {}),
    "dicom": (made.patient, {"name": "dicom"}, PAIRED, {}),
    "classes": (classes, {"name": "images"}, FROM_NOISE, {"domains": ["MR"], "labels": True}),
}


@pytest.fixture(params=STUDIES)
def study(request, tmp_path):
    """(load, patient, root): the data as a run sees them, by its split.json or anew; and how a
    patient is added.
    """
    patient, source, method, options = STUDIES[request.param]
    root = tmp_path / "data"
    root.mkdir()
    for n in range(COUNT):
        patient(root, n)

    def load(known=None, root=root):
        own = source | {"path": str(root / source.get("path", ""))}
        tables = (
            {"domains": ["T1", "T2"], "size": SIZE, "split": {"validation": 0.2}}
            | options
            | {"source": own}
        )
        return Data(Recipe({"data": tables}).data_table(), method, known)

    return load, patient, root


def seen(data):
    """All that scores and weights depend on."""
    sets = {**data.splits, "training": data.training}
    masked = data.preparation.mask

    def image(r):
        return r.id, r.subject, r.pair, r.label, data.image(r).numpy().tobytes(), masked(r) is None

    return {name: [image(r) for r in own] for name, own in sets.items()} | {"classes": data.classes}


@pytest.mark.quick_cases("folders", "classes", "csv", "nifti")
def test_added_images_are_left_out_and_lost_ones_are_an_error(study, tmp_path):
    load, patient, root = study
    first = load()
    known = RecordedSplit.model_validate_json(first.split_json().model_dump_json())
    was = seen(first)

    assert seen(load(known)) == was
    assert not load(known).notes
    earlier = known.model_copy(update={"catalog": None})
    assert seen(load(earlier)) == was

    patient(root, COUNT)
    patient(root, COUNT + 1)
    later = load(known)

    assert seen(later) == was
    assert later.split_description == first.split_description
    assert not later.notes
    root = root.rename(tmp_path / "elsewhere")
    assert seen(load(known, root)) == was

    record = first.splits["test"][0]
    for path in (record.files[0], *record.mask_files):
        path = tmp_path / "elsewhere" / path.relative_to(tmp_path / "data")
        path = path.with_suffix(".raw") if path.suffix == ".mhd" else path
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(UserError, match="differ from those of the run: .* changed") as error:
            load(known, root)

        assert record.key.partition("/plane-")[0] in str(error.value)
        path.unlink()
        with pytest.raises(UserError, match="missing|changed|does not exist|not evenly spaced"):
            load(known, root)

        path.write_bytes(whole)

    assert seen(load(known, root)) == was


def test_eval_and_resume_score_the_patients_that_were_held_out(copied_run):
    recipe = copied_run / "recipe.toml"
    metrics = copied_run / "metrics.json"
    text = recipe.read_text()
    was = read_json(metrics)
    said = []
    recipe.write_text(text.replace("subjects = 6", "subjects = 9"))  # which would hold out others
    for again in (evaluate, resume):
        metrics.unlink()
        again(copied_run, device="cpu", say=said.append)
        assert read_json(metrics)["metrics"] == was["metrics"]

    assert (
        sum("6 images ('subject-006/slice-000'" in line and "left out" in line for line in said)
        == 2
    )

    recipe.write_text(text.replace("subjects = 6", "subjects = 5"))
    for again in (evaluate, resume):
        with pytest.raises(UserError, match="2 images .'subject-005/slice-000', .* missing"):
            again(copied_run, device="cpu")

    (copied_run / "split.json").unlink()

    with pytest.raises(UserError, match="split.json' does not exist"):
        evaluate(copied_run, device="cpu")


@pytest.mark.parametrize("method", [PAIRED, UNPAIRED])
def test_a_patient_who_is_left_out_is_in_no_set(method, tmp_path):
    for n in range(COUNT):
        nifti(tmp_path, n)
    tables = {
        "source": {"name": "files", "path": str(tmp_path)},
        "domains": ["T1", "T2"],
        "size": list(SIZE),
        "leave_out": ["p2"],
    }
    data = Data(Recipe({"data": tables}).data_table(), method)
    used = {record.subject for records in data.splits.values() for record in records}
    assert used == {"p0", "p1", "p3"}
    assert "without p2" in data.split_description

    tables["leave_out"] = ["p9"]
    with pytest.raises(UserError, match="no patient 'p9'.*p0, p1, p2, p3"):
        Data(Recipe({"data": tables}).data_table(), method)
