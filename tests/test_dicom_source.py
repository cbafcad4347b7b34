"""The source over DICOM trees: which series is of which domain, patient and pair."""

from __future__ import annotations

from pathlib import Path

import dicom_files as made
import numpy as np
import pytest

from gantk.data.resample import SamplingGrid
from gantk.data.sources.choice import source_for
from gantk.data.sources.dicom import Dicom, contrast_of
from gantk.errors import UserError


def tree(root: Path, patients: int = 3, *, far: bool = False, folders: str = "export/{n}/{k}", **elements) -> Path:
    """Patients with a T1 and a T2 series each, by header; `far`: the T2 on a coarser grid that is moved by half."""
    for n in range(patients):
        for k, words in enumerate(("t1_se_tra", "t2_tse_tra")):
            header = {
                "PatientID": f"P{n}", "SeriesInstanceUID": f"1.2.{n}.{k}", "SeriesDescription": words,
                "ProtocolName": words, "StudyInstanceUID": f"1.3.{n}", "FrameOfReferenceUID": f"1.4.{n}",
            } | elements  # fmt: skip
            grid = {"spacing": (3.0, 2.5), "step": 6.0} if far and k else {}
            sides = (4, 12, 10) if far and k else (8, 24, 20)
            folder = root / folders.format(n=n, k=k, word=words)
            made.series(folder, made.head(*sides, seed=10 * n + k), prefix=f"{k}-{n}-", **header, **grid)
    return root


def source(root: Path, domains=("T1", "T2"), dims: int = 2, **options) -> Dicom:
    return Dicom(domains, dims, (24, 20), path=str(root), **options)


def test_series_are_told_apart_by_what_their_headers_say(tmp_path):
    records = source(tree(tmp_path), planes=(0.25, 0.75)).records()
    assert {(r.domain, r.subject) for r in records} == {(letter, f"P{n}") for letter in "ab" for n in range(3)}
    first = next(record for record in records if record.domain == "b")
    assert first.position == 2.0 and np.array_equal(first.read()[0], made.head(8, seed=1)[2])
    assert np.array_equal(first.scan()[0], made.head(8, seed=1)) and len(first.files) == 8
    assert len(records) == 3 * 2 * 4


def test_a_study_on_one_grid_is_a_pair(tmp_path):
    records = source(tree(tmp_path)).records()
    pairs = {letter: sorted(r.pair for r in records if r.domain == letter) for letter in "ab"}
    assert pairs["a"] == pairs["b"] and len(set(pairs["a"])) == 12


def test_series_of_two_frames_of_reference_are_no_pair(tmp_path):
    root = tree(tmp_path, 2)
    made.series(root / "more", made.head(8), PatientID="P9", SeriesInstanceUID="1.9.1", SeriesDescription="T1")
    made.series(root / "more2", made.head(8), PatientID="P9", SeriesInstanceUID="1.9.2", SeriesDescription="T2",
                FrameOfReferenceUID="1.9.9")  # fmt: skip
    pairs = {record.pair for record in source(root).records() if record.subject == "P9"}
    assert all(pair.startswith("alone/") for pair in pairs)


def test_series_on_two_grids_are_brought_onto_one_by_their_headers(tmp_path):
    root = tree(tmp_path, far=True)
    assert all(record.pair is None for record in source(root).records())
    records = source(root, onto="a").records()
    by_pair = {letter: {r.pair: r for r in records if r.domain == letter} for letter in "ab"}
    assert by_pair["a"].keys() == by_pair["b"].keys()
    pair = next(iter(by_pair["a"]))
    assert by_pair["a"][pair].read().shape == by_pair["b"][pair].read().shape == (1, 24, 20)


def test_one_folder_may_hold_everything(tmp_path):
    records = source(tree(tmp_path, folders="all")).records()
    assert {(r.domain, r.subject) for r in records} == {(letter, f"P{n}") for letter in "ab" for n in range(3)}


def test_folders_name_domain_and_patient_where_headers_do_not(tmp_path):
    root = tree(tmp_path, folders="patient{n}/{word}", SeriesDescription="", ProtocolName=None, PatientID=None)
    assert {(r.domain, r.subject) for r in source(root).records()} == {
        (letter, f"patient{n}") for letter in "ab" for n in range(3)
    }


def test_the_patient_may_be_a_part_of_the_folder(tmp_path):
    root = tree(tmp_path, folders="site1_case-{n}/{k}", PatientID="ANONYMOUS")
    subjects = {record.subject for record in source(root, patient=r"case-(\d+)").records()}
    assert subjects == {"0", "1", "2"}


def test_a_regex_chooses_series(tmp_path):
    root = tree(tmp_path)
    made.series(root / "x", made.head(8), PatientID="P0", SeriesInstanceUID="1.8", SeriesDescription="t1_se_cor")
    tra = source(root, a=r"t1.*tra", b="T2_TSE").records()
    assert len({record.scan_key for record in tra if record.domain == "a"}) == 3
    with pytest.raises(UserError, match="no regular expression"):
        source(root, a="t1(")
    with pytest.raises(UserError, match="belongs to both domains"):
        source(root, a="tra", b="t2").records()


def test_ct_and_mr_are_told_apart_by_modality(tmp_path):
    for n in range(2):
        for modality in ("CT", "MR"):
            header = {"SeriesInstanceUID": f"1.{n}.{modality == 'CT':d}", "SeriesDescription": "Head"}
            made.series(tmp_path / f"{n}{modality}", made.head(8), modality=modality, PatientID=f"P{n}", **header)
        made.series(tmp_path / f"{n}scout", made.head(8), modality="CT", PatientID=f"P{n}",
                    SeriesInstanceUID=f"1.{n}.7", SeriesDescription="Topogram 0.6", ImageType=["ORIGINAL", "PRIMARY",
                    "LOCALIZER"])  # fmt: skip
    records = source(tmp_path, ("CT", "MRI"), planes=(0, 1)).records()
    assert len({record.scan_key for record in records if record.domain == "a"}) == 2
    assert min(record.read().min() for record in records if record.domain == "a") == -1024


def test_another_plane_and_whole_volumes_are_seen(tmp_path):
    coronal = source(tree(tmp_path), planes=(0, 1))
    coronal.sees(SamplingGrid("coronal"))
    assert {record.read().shape for record in coronal.records()} == {(1, 8, 20)}
    whole = source(tmp_path, dims=3).records()
    assert len(whole) == 6 and whole[0].read().shape == (1, 8, 24, 20) and whole[0].scan is None


@pytest.mark.parametrize(
    "text, contrast",
    [
        ("t1_mprage_sag_p2_iso", "t1"), ("sT2W/FLAIR", "flair"), ("T1/SE/extrp", "t1"), ("sT2/TSE/T", "t2"),
        ("Ax T1 FLAIR", "t1"), ("AX T1 +C", "t1ce"), ("T1 post Gd tra", "t1ce"), ("Sag FSPGR BRAVO", "t1"),
        ("t2_tirm_tra_dark-fluid", "flair"), ("MR T2 tse", "t2"), ("ep2d_diff ADC", "adc"), ("AAHScout", None),
    ],
)  # fmt: skip
def test_descriptions_of_scanners_are_understood(text, contrast):
    assert contrast_of(text) == contrast


def test_what_gantk_wrote_is_not_trained_on(tmp_path):
    from gantk.formats import files as io

    root = tree(tmp_path)
    io.write(root / "synthetic", io.read(io.scans(root)[0]), "T2")
    assert len({r.scan_key for r in source(root).records() if r.domain == "b"}) == 3


def test_a_domain_without_series_says_what_there_is(tmp_path):
    with pytest.raises(UserError, match=r"no DICOM series of FLAIR .* there are .*MR t1_se_tra") as told:
        source(tree(tmp_path), ("T1", "FLAIR")).records()
    assert "SeriesDescription, ProtocolName or the folder" in str(told.value)


def test_data_points_at_a_dicom_tree(tmp_path, pictures):
    assert source_for(tree(tmp_path / "d"))["name"] == "dicom"
    pictures(tmp_path / "p" / "A", 3)
    pictures(tmp_path / "p" / "B", 3)
    assert Dicom.accepts(tmp_path / "p") is None
    made.series(tmp_path / "one", made.head())
    assert source_for(tmp_path / "one", domains=1)["name"] == "dicom"


def test_one_domain_takes_every_series(tmp_path):
    records = source(tree(tmp_path), ("brain",)).records()
    assert {record.domain for record in records} == {"image"} and len({r.scan_key for r in records}) == 6


def test_real_series_of_one_study_are_told_apart_and_paired(shared_data):
    root = shared_data / "brainix_dicom"
    records = source(root, planes=(0, 1)).records()
    assert sorted((r.domain, r.key) for r in records) == [
        (letter, f"T{n}/plane-00{k}") for letter, n in (("a", 1), ("b", 2)) for k in (0, 1)
    ]
    paired = source(root, planes=(0, 1), onto="a").records()
    assert {record.read().shape for record in paired} == {(1, 512, 512)} and len({r.pair for r in paired}) == 2
    assert {record.subject for record in paired} == {"5Yp0E"}
