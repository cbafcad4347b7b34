"""Which files of a folder a model translates: tree -> inputs, from names alone."""

import json
from pathlib import Path

import pytest
import torch
from dicom_files import head, series
from one_pipeline import OnePipeline, model_of
from volumes import volume

import gantk
from gantk.catalog.catalog import Catalog, Row
from gantk.errors import GantkError
from gantk.formats.image import Scan
from gantk.inference.jobs import inputs_below, jobs_of_cases, rows_of_one
from gantk.inference.model import Results
from gantk.inference.notes import InputCheck


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


OF_ONE = {
    "all where no name says a contrast": (
        ["a.png", "b.png", "notes.txt"],
        ["a.png", "b.png"],
    ),
    "its contrast, not another or a mask": (
        ["p1/T1.nii.gz", "p1/T2.nii.gz", "p1/seg.nii.gz", "p2/lesions.nii.gz", "p2/t1w.nii.gz"],
        ["p1/T1.nii.gz", "p2/t1w.nii.gz"],
    ),
    "no image made of it": (
        ["p1/T1.nii.gz", "p1/T1_brain.nii.gz", "p1/T1_brain_mask.nii.gz"],
        ["p1/T1.nii.gz"],
    ),
    "none that says nothing where others say it": (
        ["p1/T1.nii.gz", "p2/scan.nii.gz", "p3/MR.nii.gz", "p4/FLAIR.nii.gz"],
        ["p1/T1.nii.gz", "p3/MR.nii.gz"],
    ),
    "not those without a contrast in its folder": (
        ["p1/T1.nii.gz", "p1/Segmentierung.nii.gz", "p1/lesion 2.nii.gz", "p2/T1.nii.gz"],
        ["p1/T1.nii.gz", "p2/T1.nii.gz"],
    ),
    "all where names say other contrasts only": (
        ["p1/T2.nii.gz", "p1/FLAIR.nii.gz"],
        ["p1/FLAIR.nii.gz", "p1/T2.nii.gz"],
    ),
    "no results of earlier calls": (
        ["p1/T1.nii.gz", "out/p1/T1.nii.gz", "outer/T1.nii.gz"],
        ["outer/T1.nii.gz", "p1/T1.nii.gz"],
    ),
    "pictures and volumes": (["a.nii.gz", "b.nii.gz", "c.png"], ["a.nii.gz", "b.nii.gz", "c.png"]),
    "masks alone": (["label_1.png", "label_2.png"], ["label_1.png", "label_2.png"]),
}


@pytest.mark.parametrize(("names", "expected"), OF_ONE.values(), ids=OF_ONE)
def test_inputs_of_a_model_of_one_contrast(names, expected, tmp_path):
    catalog = inputs_below(tree(tmp_path, *names), tmp_path / "out", ["T1"])

    assert [row.scan_below(tmp_path).name for row in rows_of_one(catalog, "T1")] == expected
    assert not catalog.in_words  # no patient is asked for


def test_another_patient_beside_one_of_the_contrast_stays():
    series = [("A", "T1"), ("A", ""), ("B", "")]
    rows = [
        Row(Scan(Path(f"scans/{number}"), is_series=True), contrast, patient)
        for number, (patient, contrast) in enumerate(series)
    ]

    assert [row.path.name for row in rows_of_one(Catalog(rows), "T1")] == ["0", "2"]


NAMES = ["T1", "T1CE", "T2", "FLAIR"]
# files -> by patient: its folder, its contrasts, and the file of the first one that it lacks
OF_PATIENTS = {
    "a folder for each patient": (
        ["p1/T1.nii.gz", "p1/T2.nii.gz", "p2/T1.nii.gz"],
        ["p1: T1 T2 -> T1CE.nii.gz", "p2: T1 -> T1CE.nii.gz"],
    ),
    "a folder for each contrast": (
        ["T1/p1.nii.gz", "T2/p1.nii.gz", "T1/p2.nii.gz"],
        [".: T1 T2 -> p1_T1CE.nii.gz", ".: T1 -> p2_T1CE.nii.gz"],
    ),
    "folders of contrasts below patients (Erasmus Glioma Database)": (
        ["E1/1_T1/NIFTI/T1.nii.gz", "E1/2_T1GD/NIFTI/T1GD.nii.gz", "E1/3_T2/NIFTI/T2.nii.gz"],
        ["E1: T1 T1CE T2 -> FLAIR.nii.gz"],
    ),
    "no masks, no other contrasts": (
        ["p1/T1.nii.gz", "p1/T2.nii.gz", "p1/CT.nii.gz", "p1/T1_seg.nii.gz"],
        ["p1: T1 T2 -> T1CE.nii.gz"],
    ),
    "words that mean a contrast only beside others (HD-GLIO)": (
        ["l/CT1_r2s_bet.nii.gz", "l/T1_r2s_bet.nii.gz", "l/T2_r2s_bet.nii.gz", "l/CT1_seg.nii.gz"],
        ["l: T1 T1CE T2 -> FLAIR_r2s_bet.nii.gz"],
    ),
    "the result is named as the others (BraTS)": (
        ["x/x_t1.nii.gz", "x/x_t1ce.nii.gz", "x/x_t2.nii.gz"],
        ["x: T1 T1CE T2 -> x_flair.nii.gz"],
    ),
    "the result is named as the others (BraTS 2023)": (
        ["x/x_t1n.nii.gz", "x/x_t2w.nii.gz", "x/x_t2f.nii.gz"],
        ["x: T1 T2 FLAIR -> x_t1c.nii.gz"],
    ),
    "the result is named as the others (BIDS)": (
        ["x/x_T1w-gd.nii.gz", "x/x_T2w.nii.gz", "x/x_FLAIR.nii.gz"],
        ["x: T1CE T2 FLAIR -> x_T1w.nii.gz"],
    ),
    "no images that gantk generated": (
        ["p1/t1.nii.gz", "p1/t2.nii.gz", "p1/made/flair.nii.gz", "p1/made/flair.json"],
        ["p1: T1 T2 -> t1ce.nii.gz"],
    ),
}


@pytest.mark.parametrize(("names", "expected"), OF_PATIENTS.values(), ids=OF_PATIENTS)
def test_patients_of_a_model_of_several_contrasts(names, expected, tmp_path):
    for path in tree(tmp_path, *names).rglob("*.json"):
        path.write_text('{"SyntheticData": true}')
    catalog = inputs_below(tmp_path, tmp_path / "out", NAMES)

    found = []
    for patient in jobs_of_cases(catalog, tmp_path, NAMES):
        lacks = next(name for name in NAMES if name not in patient.candidates)
        has = f"{patient.place.as_posix()}: {' '.join(patient.candidates)}"
        found.append(f"{has} -> {patient.result_paths(Path(), [lacks], False)[0].name}")
    assert found == expected


def test_an_image_without_skull_replaces_the_whole_head(tmp_path):
    names = ["p1/T1.nii.gz", "p1/T1_brain.nii.gz"]
    catalog = inputs_below(tree(tmp_path, *names), tmp_path / "out", ["T1", "T2"], stripped=True)

    (patient,) = jobs_of_cases(catalog, tmp_path, ["T1", "T2"])
    assert patient.scans["T1"].path.name == "T1_brain.nii.gz"


class Seen(OnePipeline):
    """A model of two contrasts, which patient p02 does not fit and which fails at p03."""

    failing = True

    def check(self, image, to=None, contrast=""):
        fits = "no" if "p02" in image.path.name else "yes"
        return image, InputCheck(fits, [], contrast)

    def results(self, image, to, options, pixels=None):
        if self.failing and "p03" in image.path.name:
            raise MemoryError
        return Results([torch.from_numpy(image.pixels[:1])], False, [])


def test_patients_of_one_folder_keep_their_own_verdict(tmp_path):
    for number in (1, 2, 3):
        for contrast in ("T1", "FLAIR"):
            volume(tmp_path / "flat" / f"p0{number}_{contrast}.nii.gz", number)
    model = Seen(model_of(None, source="T1+FLAIR", channels=2).pipelines["b"], None)
    said = []

    def translate() -> None:
        gantk.translate(model, tmp_path / "flat", tmp_path / "out", say=said.append)

    with pytest.raises(GantkError, match="1 of 3 patients"):
        translate()
    model.failing = False
    translate()

    assert "2 of 3 inputs were already translated" in said[-1]
    found = {}
    for path in sorted((tmp_path / "out").glob("*.json")):
        facts = json.loads(path.read_text())
        fits = {each["Fits"] for each in facts["FitsTrainingData"].values()}
        found[path.name] = (fits, "Warnings" in facts)
    assert found == {
        "p01_T2.json": ({"yes"}, False),
        "p02_T2.json": ({"no"}, True),
        "p03_T2.json": ({"yes"}, False),
    }


# paths of the table's images, below its folder and elsewhere -> the results
TABLES = {
    "below the table": (["scans/p1/T1.nii.gz", "scans/p2/T1.nii.gz"], "scans/p{n}/T2.nii.gz"),
    "elsewhere": (["../store/p1/T1.nii.gz", "../store/p2/T1.nii.gz"], "p{n}/T2.nii.gz"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_chooses_images_of_a_model_of_one_contrast(name, tmp_path, tiny_run, monkeypatch):
    paths, made = TABLES[name]
    folder = tmp_path / "tables"
    for number, path in enumerate(paths):
        volume(folder / path, number)
        volume((folder / path).with_name("T1_KM.nii.gz"), number)
    lines = ["path,domain", *(f"{path},T1" for path in paths)]
    (folder / "scans.csv").write_text("\n".join(lines))

    out = tmp_path / "out"
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    said = []
    gantk.translate(tiny_run, "../tables/scans.csv", out, to="T2", say=said.append)
    results = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz"))
    assert results == [made.format(n=number) for number in (1, 2)]
    assert not [line for line in said if "not used" in line]


def test_a_series_folder_names_the_images_that_are_left_out(tmp_path, tiny_run):
    folder = tmp_path / "series"
    shared = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2"}
    series(folder, head(6), prefix="a", **shared, SeriesDescription="t1_se", ProtocolName="t1_se")
    series(folder, head(6), prefix="b", **shared, SeriesDescription="t2_tse", ProtocolName="t2_tse")
    said = []

    gantk.translate(tiny_run, folder, tmp_path / "out", to="T2", say=said.append)

    written = [path for path in (tmp_path / "out").iterdir() if path.suffix == ".dcm"]
    assert len(written) == 6
    assert [line for line in said if "1 image not used (shows T2): '3-t2_tse" in line], said
