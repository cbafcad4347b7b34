"""Nobody leaks: no patient, no image and no near copy on two sides of a split, and what was held
out is on record.
"""

import hashlib
import json
import re
import shutil
from itertools import product
from pathlib import Path

import files
import nibabel as nib
import numpy as np
import pytest
from tiny import read_json

from gantk import check, translate, write_report

OF_OWN_PATIENT = r"\d+ of \d+ training images are matched with an image of their own patient, \d+"
SIDES = ("train", "validation", "test")
SETS = [*3 * ["test"], *2 * ["validation"], *4 * ["train"], "none"]  # of p00 to p09


@pytest.fixture
def scans(tmp_path) -> Path:
    """Ten patients, a folder for each, with a T1 and a T2 on one grid."""
    lines = ["T1,T2,patient,split"]
    for k, name in enumerate(SETS):
        t1, t2 = (f"scans/p{k:02d}/p{k:02d}_{domain}.nii.gz" for domain in ("T1", "T2"))
        lines.append(f"{t1},{t2},p{k:02d},{name}")
    (tmp_path / "scans.csv").write_text("\n".join(lines), "utf-8")
    return files.patients(tmp_path / "scans", 10)


@pytest.fixture(scope="module")
def divided(tmp_path_factory) -> Path:
    """A run of ten patients, divided as it comes: only to be read."""
    scans = files.patients(tmp_path_factory.mktemp("divided") / "scans", 10)
    trained(scans)
    return scans.parent / "run"


def train(data: Path, *options: str, out: str = "run") -> files.Outcome:
    recipe = files.recipe(data.parent / "tiny.toml")
    return files.gantk(
        "run", recipe, "--data", data, "--out", data.parent / out, "--device", "cpu", *options
    )


def split_of(run: Path) -> dict:
    return read_json(run / "split.json")


def sides(run: Path) -> dict[str, set[str]]:
    """Whose images stand on each side."""
    splits = split_of(run)["splits"]
    return {side: {record["subject"] for record in splits[side]} for side in SIDES}


def trained(data: Path, *options: str, out: str = "run") -> dict[str, set[str]]:
    train(data, *options, out=out).ok()
    return sides(data.parent / out)


def refused(data: Path, *options: str) -> str:
    """The message of a run that does not begin, and leaves nothing."""
    outcome = train(data, *options)
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error  "), outcome
    assert outcome.err.count("\n") == 1, outcome
    assert not (data.parent / "run").exists()
    return outcome.err


def test_no_patient_is_on_two_sides_and_none_is_lost(divided):
    found = sides(divided)
    assert all(found.values())
    patients = set.union(*found.values())
    assert len(patients) == 10
    assert sum(len(side) for side in found.values()) == 10
    splits = split_of(divided)
    assert "by patient" in splits["how"]
    assert splits["leakage_allowed"] is None
    counts = {side: len({r["path"] for r in splits["splits"][side]}) for side in SIDES}
    assert counts == {"train": 6, "validation": 4, "test": 4}


def test_a_split_says_of_every_image_whose_it_is_and_its_hash(divided):
    splits = split_of(divided)["splits"]
    for side in SIDES:
        for record in splits[side]:
            path = Path(record["path"])
            assert path.parent.name == record["subject"]
            assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_unpaired_patients_are_trained_on_in_one_domain(divided):
    records = split_of(divided)["splits"]["train"]
    domain_of = {record["subject"]: record["domain"] for record in records}
    for record in records:
        assert record["domain"] == domain_of[record["subject"]]


def test_held_out_patients_are_named_and_known_to_translate(divided):
    found = sides(divided)
    line = f"validation: {', '.join(sorted(found['validation']))}; test: {', '.join(sorted(found['test']))}"
    assert line in (divided / "report.html").read_text("utf-8")
    found_by_check = check(divided.parent / "scans", recipe=divided.parent / "tiny.toml")
    assert line == found_by_check["summary"]["held out"]
    packed = divided.parent / "packed"
    files.gantk("pack", divided, packed).ok()
    for model, side in product((divided, packed), ("train", "test")):
        records = [each for each in split_of(divided)["splits"][side] if each["domain"] == "a"]
        said: list[str] = []
        out = divided.parent / f"{model.name} {side}"
        translate(model, records[0]["path"], out, to="T2", say=said.append)
        notes = [each for each in said if each.startswith(("note ", "warning "))]
        first = next(each for each in notes if "this image" in each or "fits the" in each)
        assert ("the model was trained on this image" in first) == (side == "train"), said


@pytest.mark.slow
def test_the_split_depends_on_its_own_seed_only(scans):
    first = trained(scans, out="first")
    assert trained(scans, "--seed", "7", out="second") == first
    assert trained(scans, "--set", "data.split.seed=3", out="third") != first


def test_the_scores_are_of_the_patients_held_out(divided):
    found = sides(divided)
    psnr = read_json(divided / "metrics.json")["metrics"]["a_to_b"]["psnr"]
    tested = [record for record in split_of(divided)["splits"]["test"] if record["domain"] == "a"]

    assert psnr["n"] == len(found["test"]) == 2
    assert psnr["images"] == len(tested)


def test_a_csv_says_who_is_where(scans):
    expected = {
        "train": {"p05", "p06", "p07", "p08"},
        "validation": {"p03", "p04"},
        "test": {"p00", "p01", "p02"},
    }

    assert trained(scans.with_suffix(".csv")) == expected
    assert split_of(scans.parent / "run")["splits"]["by"] == "folders"


def test_the_same_patient_on_two_sides_is_refused_by_name(scans):
    message = refused(scans, "--set", 'data.split.by="image"')
    assert "the sets of the split share patients or images" in message
    assert "--allow-leakage" in message
    assert "patient 'p0" in message
    assert "in train and test" in message


def test_exact_copies_on_two_sides_are_refused(scans):
    shutil.copy(scans / "p00" / "p00_T1.nii.gz", scans / "p07" / "p07_T1.nii.gz")
    leak = "'scans/p00/p00_T1.nii.gz' in train and test"
    table = scans.with_suffix(".csv")

    assert f"image 'scans/p07/p07_T1.nii.gz' = {leak}" in refused(table)
    trained(table, "--allow-leakage")
    assert leak in split_of(scans.parent / "run")["leakage_allowed"]


def test_a_near_copy_on_the_other_side_is_refused_by_name(scans):
    image = nib.load(scans / "p00" / "p00_T1.nii.gz")
    brighter = (np.asarray(image.dataobj) * 3 + 40).astype(np.int16)
    files.nifti(scans / "p07" / "p07_T1.nii.gz", np.roll(brighter, 1, 0))
    message = refused(scans.with_suffix(".csv"))

    assert "near copy" in message
    assert "p07/p07_T1.nii.gz" in message
    assert "p00/p00_T1.nii.gz" in message


def test_shared_patients_of_two_domains_are_refused_if_asked(scans):
    options = ("--set", "data.same_patient=false")
    assert "in both domains" in (message := refused(scans, *options, "--set", "data.unpair=false"))
    assert "data.unpair" in message
    trained(scans, *options, "--set", "data.unpair=true")


@pytest.mark.parametrize(("whole", "told"), [("true", True), ("false", False)])
def test_matches_with_the_own_patient_are_said_beside_scores(scans, whole, told):
    """Both domains of each patient -> whether it is said how many matches are true partners."""
    unpair = "false" if whole == "true" else "true"
    options = (f"data.unpair={unpair}", f"data.same_patient={whole}", 'method.pairs="weak_pairs"')
    outcome = train(scans, *(word for option in options for word in ("--set", option))).ok()

    run = scans.parent / "run"
    other = shutil.copytree(run, scans.parent / "other")
    write_report(run, other, out=scans.parent / "both.html")
    recorded = read_json(run / "environment.json")["matched"]
    page = (run / "report.html").read_text("utf-8")
    comparison = (scans.parent / "both.html").read_text("utf-8")
    for said in (
        outcome.out,
        recorded,
        page,
        comparison,
        (run / "metrics.json").read_text("utf-8"),
    ):
        assert bool(re.search(OF_OWN_PATIENT, " ".join(said.split()))) == told, said[:3000]
        assert "likely partner alone" not in said, "the patients are known"


@pytest.mark.parametrize(
    ("columns", "unpair", "images", "told"),
    [
        ("path,domain,pair", "auto", 3, False),  # of each pair one
        ("path,domain,pair", "false", 6, True),
        ("T1,T2", "false", 6, True),
        ("path,domain", "false", 6, False),  # names alone say the pairs
    ],
)
def test_pairs_of_a_table_are_true_partners(tmp_path, columns, unpair, images, told):
    rows = [columns]
    for number in range(20):
        head = files.numbers(number, (32, 32))
        t1, t2 = (f"{domain}/{number:02d}.png" for domain in ("T1", "T2"))
        files.picture(tmp_path / t1, head)
        files.picture(tmp_path / t2, 255 - head)
        pair = f",n{number}" * columns.endswith("pair")
        rows += [f"{t1},{t2}"] if columns == "T1,T2" else [f"{t1},T1{pair}", f"{t2},T2{pair}"]
    table = tmp_path / "scans.csv"
    table.write_text("\n".join(rows), "utf-8")
    options = (f"data.unpair={unpair if unpair == 'false' else json.dumps(unpair)}",)
    options += ('method.pairs="weak_pairs"',)

    outcome = train(table, *(word for option in options for word in ("--set", option))).ok()

    assert f"T1: {images} images" in outcome.out
    assert bool(re.search(OF_OWN_PATIENT, " ".join(outcome.out.split()))) == told
    assert check(table)["summary"]["pairs"].split("; ")[0].endswith("by name") == (
        columns == "path,domain"
    )


def test_unknown_people_compared_with_one_partner_are_warned_of(tmp_path):
    """The same heads in both domains, slice by slice."""
    for number in range(20):
        head = files.numbers(number, (32, 32))
        files.picture(tmp_path / "data" / "trainA" / f"{number:02d}.png", head)
        files.picture(tmp_path / "data" / "trainB" / f"{number:02d}.png", 255 - head)
    outcome = train(tmp_path / "data", "--set", 'method.pairs="weak_pairs"').ok()

    counted = "12 of 12 training images are trained against their likely partner alone"
    assert re.search(f"warning +.*{counted}", outcome.out)
    assert re.search(counted, (tmp_path / "run" / "report.html").read_text("utf-8"))


@pytest.mark.parametrize(
    "count, by, counts", [(2, None, (1, 0, 1)), (3, None, (2, 0, 1)), (2, "block", (2, 2, 2))]
)
def test_few_known_patients_are_divided_unless_blocks_are_asked(tmp_path, count, by, counts):
    """Training, saving, choosing and reporting go without a validation set; nothing is probable for
    one patient.
    """
    scans = files.patients(tmp_path / "scans", count, (20, 40, 40))
    outcome = train(
        scans, *("--set", "data.split.validation=0.1", "--set", f'data.split.by="{by or "auto"}"')
    ).ok()

    run = tmp_path / "run"
    assert tuple(map(len, sides(run).values())) == counts

    metrics = read_json(run / "metrics.json")
    report = (run / "report.html").read_text("utf-8")
    said = f"{count} patients with slices in both training and test"
    for text in (
        outcome.out,
        report,
        str(metrics["split"]["consequences"]),
        json.dumps(split_of(run)),
    ):
        assert (said in text) == (by == "block")

    row = metrics["metrics"]["a_to_b"]["psnr"]
    verdict = metrics["verdict"]["a_to_b"]["psnr"]

    assert row["n"] == counts[2] < row["images"]
    assert (row["ci95"] is None) == (verdict["probability"] is None)
    assert (row["ci95"] is None) == (counts[2] < 6)
    assert read_json(run / "best.json")["step"] == 1


def test_one_known_patient_is_refused_without_blocks(tmp_path):
    scans = files.patients(tmp_path / "scans", 1, (20, 40, 40))
    assert 'data.split.by = "block"' in refused(scans)
    (found,) = (each for each in check(scans)["problems"] if each["severity"] == "error")
    assert found["what"].endswith("no patient is left for the test")
    said = f"for a training only, not for `gantk eval RUN --data {scans}`: all images are of one"
    assert found["what"].startswith(said)


def test_slices_without_patient_have_no_number_of_patients(tmp_path):
    outcome = train(files.two_domains(tmp_path / "data", 30, 30), "--set", "data.unpair=false").ok()
    said = "warning  the patients are not known, so scores may be too good\n"
    assert said in outcome.out
    (warned,) = (x for x in check(tmp_path / "data")["problems"] if x["kind"] == "scores")
    assert "data.source.patient" in warned["remedy"]
    said = "On 6 test images of unknown patients in each direction"
    assert said in " ".join(outcome.out.split())
    assert "one patient" not in outcome.out
    results = read_json(tmp_path / "run" / "metrics.json")
    row = results["metrics"]["a_to_b"]["psnr"]
    verdict = results["verdict"]["a_to_b"]["psnr"]
    assert row["n"] == 1
    assert row["images"] == 6
    assert row["patients_unknown"]
    assert row["ci95"] is None
    assert verdict["test"] is None
