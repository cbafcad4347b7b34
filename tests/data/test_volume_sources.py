"""Volumes, patients' folders and several contrasts become records: in any plane, decoded once,
paired on one grid.
"""

import re
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny import registered, write_json
from volumes import PAIRED, UNPAIRED, far_apart, load, of, pairs_of, records_of, tree_of, volume

from gantk import check
from gantk.data.augment import hide_contrasts
from gantk.data.sources.pairing import expect_pairs
from gantk.errors import UserError
from gantk.method import Batch
from gantk.prepare.grid import SamplingGrid

Files = registered("source", "files")

tree = pytest.fixture(lambda tmp_path: tree_of(tmp_path))


def nifti(path, *arguments, **options):
    return records_of(Files, path, *arguments, **options)


# --- scans and their slices


def test_stacks_of_which_one_slice_is_used_name_the_setting(tmp_path):
    for n, name in enumerate(("T1", "T2")):
        volume(tmp_path / "p0" / f"{name}.nii", n)
    with pytest.raises(UserError, match="leaves only one slice of T1") as error:
        nifti(tmp_path, planes=(0.5, 0.55))
    assert "data.source.planes=[0,1]" in str(error.value)


def test_spacing_resamples_images_and_masks_alike(tmp_path):
    lesion = np.zeros((12, 14, 16), np.float32)
    lesion[4:8, 4:10, 4:12] = 3.0
    affine = np.diag([-2.0, -2.0, 1.0, 1.0])
    for n in range(2):
        patient = tmp_path / f"p{n}"
        volume(patient / "T1.nii", n, affine=affine)
        volume(patient / "T2.nii", n, affine=affine)
        volume(patient / "seg.nii", affine=affine, values=lesion)

    view = SamplingGrid("coronal", (2.0, 1.0, 1.0))
    records = nifti(tmp_path, view=view, mask="seg")

    assert records[0].read().shape == (1, 16, 24)
    assert len(of(records, "a")) == 2 * 7
    mask = next(record for record in records if record.position == 6).mask()
    assert set(np.unique(mask)) == {0.0, 1.0}
    assert mask.shape == (1, 16, 24)
    assert mask.sum() == 8 * 8, "4 voxels of 2 mm are 8 of 1 mm"
    whole = nifti(tmp_path, dims=3, view=view, mask="seg")[0]
    assert whole.mask().sum() == 6 * 8 * 8


# --- nifti


@pytest.fixture
def several_contrasts(tmp_path):
    """Two patients whose files are called by contrasts and by what was made of them."""
    for n in range(2):
        for name in ("T1", "T1w", "T2", "T2_FLAIR", "T1_to_T2"):
            volume(tmp_path / "x" / f"patient{n}" / f"{name}.nii", n)
    return tmp_path / "x"


@pytest.mark.parametrize(
    "domains, options, expected",
    [
        (("x", "y"), {"a": "*T1w*", "b": "T2_FLAIR*"}, {("a", "T1w"), ("b", "T2_FLAIR")}),
        (("x", "y"), {"a": "*T1w.nii", "b": "**/T2.nii"}, {("a", "T1w"), ("b", "T2")}),
    ],
    ids=["names", "globs"],
)
def test_options_name_the_files_of_domains(several_contrasts, domains, options, expected):
    records = nifti(several_contrasts, domains, dims=3, **options)
    assert {(r.domain, r.path.stem) for r in records} == expected


@pytest.mark.parametrize("stray", ["", "T1_b", "new/T1", "phantom/T1", "T1 (1)"])
def test_a_stray_file_is_asked_about_or_left_out(tmp_path, stray):
    names = [f"p{n}/{contrast}" for n in range(4) for contrast in ("T1", "T2", "seg")]
    names += [f"p0/{stray}"] if stray and "phantom" not in stray else [stray][: bool(stray)]
    for n, name in enumerate(names):
        volume(tmp_path / f"{name}.nii", n)
    source = Files(("T1", "T2"), 3, (8, 8, 8), path=str(tmp_path))
    if stray in ("", "T1 (1)"):
        source.records()
        copy = "5 left out (4 masks, 1 copy by name)" if stray else "4 left out (4 masks)"
        said = f"T1 4, T2 4; 4 patients; 4 pairs; {copy}"
        assert source.layout_in_words.endswith(f": {said}")
        return
    with pytest.raises(UserError, match="has 2 files of T1|alone has no T2|another form") as asked:
        source.records()
    assert "--layout" in str(asked.value)


@pytest.mark.parametrize(
    "options, says",
    [
        (
            {"domains": ("T1", "PET")},
            "no file is named PET",
        ),
        ({"a": "no/*.nii", "b": "T2"}, "no images match .*no/\\*.nii'.*data.source.a"),
        ({"a": "T1*", "b": "*T1*"}, "T1.nii.gz' belongs to both domains, T1 and T2"),
    ],
    ids=str,
)
def test_what_a_tree_does_not_hold_is_said(tree, options, says):
    with pytest.raises(UserError, match=says):
        nifti(tree, **options)


@pytest.mark.parametrize("onto", ["none", "a"])
def test_one_file_of_several_volumes_serves_both_domains(tmp_path, onto):
    for n in range(2):
        volume(tmp_path / f"BRATS_{n:03d}.nii.gz", n, shape=(12, 14, 16, 4))

    names = {"channel_names": {"0": "FLAIR", "1": "T1w", "2": "T1gd", "3": "T2w"}}
    write_json(tmp_path / "dataset.json", names)
    records = nifti(tmp_path, ("FLAIR", "T2"), onto=onto)

    assert len(pairs_of(records)) == 2 * 8
    assert {r.subject for r in records} == {"BRATS_000", "BRATS_001"}
    stored = nib.load(tmp_path / "BRATS_000.nii.gz").get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(of(records, "a")[0].scan()[0], stored[..., 0].T)
    np.testing.assert_array_equal(of(records, "b")[0].scan()[0], stored[..., 3].T)


def test_scans_on_different_grids_pair_only_when_resampled(tmp_path):
    apart = far_apart(tmp_path)
    records = nifti(apart)

    assert {record.pair for record in records} == {None}

    with pytest.raises(
        UserError,
        match=r"p0/T1.nii' and .*p0/T2.nii' are of one patient, but their grids differ: "
        r"16 x 14 x 12 against 18 x 26 x 24.*onto=a",
    ):
        expect_pairs(records, ("T1", "T2"))

    for view in (None, SamplingGrid("sagittal", (1.0, 2.0, 1.0))):
        moved = nifti(apart, onto="a", view=view)
        for pair in pairs_of(moved).values():
            np.testing.assert_allclose(pair["b"].read(), 2 * pair["a"].read(), atol=2e-2)

    assert of(moved, "b")[0].files == (apart / "p0" / "T2.nii", apart / "p0" / "T1.nii")
    other = nifti(apart, onto="b", planes=(0.3, 0.6))
    assert of(other, "a")[0].read().shape == of(other, "b")[0].read().shape == (1, 26, 24)


def test_a_check_tells_another_grid(tmp_path):
    tree = tree_of(tmp_path)
    far_apart(tree)
    volume(tree / "p2" / "T1.nii")

    found = check(tree, set=['data.domains=["T1", "T2"]'], layout="patients")
    said = [each for each in found["problems"] if re.search("a partner|no partner", each["what"])]
    assert [each["what"].partition(":")[0] for each in said] == [
        "these images have a partner, but on another grid"
    ]
    assert len(said[0]["files"]) == 4
    assert "data.source.onto=a" in said[0]["remedy"]


# --- several contrasts of a patient


CONTRASTS = {"t1": 100.0, "t1ce": 500.0, "t2": 1000.0, "flair": 2000.0}
DOMAINS = ("T1+T1ce+FLAIR", "T2")


@pytest.fixture
def patients(tmp_path):
    """Six patients with four contrasts and a mask each."""
    mask = np.zeros((10, 12, 9), np.float32)
    mask[3:6, 4:7] = 4
    for n in range(6):
        folder = tmp_path / f"case{n}"
        pattern = 1 + np.random.default_rng(n).random((10, 12, 9), dtype=np.float32)
        for kind, scale in CONTRASTS.items():
            volume(folder / f"case{n}_{kind}.nii", values=scale * pattern)
        volume(folder / f"case{n}_seg.nii", values=mask)

    return tmp_path


def test_every_contrast_is_a_channel_in_the_order_asked(patients):
    records = records_of(Files, patients, DOMAINS, dims=3, mask="seg")
    record = next(r for r in of(records, "a") if r.subject == "case2")
    pixels = record.read()

    assert pixels.shape == (3, 9, 12, 10)
    assert [round(channel.min(), -2) for channel in pixels] == [100, 500, 2000]
    names = [file.name for file in record.files]
    assert names == ["case2_t1.nii", "case2_t1ce.nii", "case2_flair.nii"]
    mask = record.mask()
    assert mask.shape == (1, 9, 12, 10)
    assert set(np.unique(mask)) == {0.0, 1.0}


def test_what_a_patients_folder_cannot_hold_is_named(patients):
    def refuses(says, domains=DOMAINS, **options):
        with pytest.raises(UserError, match=says):
            records_of(Files, patients, domains, **options)

    refuses(
        "fit no layout",
        ("PET", "SWI"),
    )
    volume(patients / "case3" / "case3_seg.nii", shape=(10, 12, 7))
    refuses("case3_seg.nii' and its image .* are on different voxel grids", mask="seg")
    volume(patients / "case4" / "case4_t2.nii", shape=(10, 12, 7))
    refuses("case4_t1.nii' and .*case4_t2.nii' are of one patient.*9 x 12 x 10 against 7 x")


def test_a_contrast_that_a_patient_lacks_is_refused_or_black(patients):
    def found(method=PAIRED, domains=DOMAINS, **options):
        source = {
            "name": "contrasts",
            "path": str(patients),
            "planes": (0, 1),
            "layout": "patients",
        }
        return load(
            source, method, domains=domains, split={"test": 0.2, "validation": 0.2}, **options
        )

    (patients / "case1" / "case1_flair.nii").unlink()

    with pytest.raises(
        UserError, match=r"9 of 108 images lack.*'case1/plane-000', without FLAIR.*data\.missing"
    ):
        found()

    data = found(missing="mask")
    record = next(
        r for members in data.splits.values() for r in of(members, "a") if r.subject == "case1"
    )
    seen = data.image(record).numpy()

    assert np.isfinite(seen).all()
    assert (seen[2] == -1).all()
    assert seen[0].max() > 0
    assert data.leaks() is None

    made = ("T1+T1ce", "T2+FLAIR")
    with pytest.raises(
        UserError,
        match="lack a contrast. The first is 'case1/plane-000', without",
    ):
        found(domains=made, missing="mask")

    assert found(UNPAIRED, made, missing="mask").channels == {"a": 2, "b": 2}

    for case in ("case1", "case2", "case3", "case4", "case5"):
        (patients / case / f"{case}_t2.nii").unlink()
    with pytest.raises(
        UserError,
        match="45 of 63 images of .* have no partner. The first is 'case1/plane-000'",
    ):
        found(missing="mask")


def test_hidden_contrasts_leave_one_and_the_target():
    def hidden(slices=1, paired=True):
        batch = Batch(a=torch.ones(4000, 3 * slices, 2, 2), b=torch.ones(4000, 2, 2, 2))
        names = {"a": tuple("xyz"), "b": ("u", "v")}
        torch.manual_seed(0)
        return hide_contrasts(
            batch, SimpleNamespace(contrasts=names, paired=paired, range=(-1.0, 1.0))
        )

    black = (hidden()["a"] == -1).all(dim=(2, 3))

    assert abs(float((black.sum(1) > 0).float().mean()) - 0.5) < 0.03
    assert len({tuple(row) for row in black.tolist()}) == 7, (
        "every proper subset comes, and nothing lost"
    )
    assert (hidden()["b"] == 1).all()
    assert (hidden(paired=False)["b"] == -1).any()
    black = (hidden(slices=3)["a"] == -1).all(dim=(2, 3)).reshape(-1, 3, 3)
    assert black.any(), "neighbouring slices lose the same contrast"
    assert (black == black[:, :1]).all(), "neighbouring slices lose the same contrast"
