"""Volumes, patients' folders and several contrasts become records: in any plane, decoded once,
paired on one grid.
"""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import registered
from volumes import PAIRED, UNPAIRED, far_apart, load, of, pairs_of, records_of, tree_of, volume

from gantk import check
from gantk.data.augment import hide_contrasts
from gantk.data.dataset import source_and_records
from gantk.data.sources.pairing import expect_pairs
from gantk.errors import UserError
from gantk.method import Batch
from gantk.prepare.grid import SamplingGrid
from gantk.recipe.load import Recipe

Files = registered("source", "files")


def nifti(path, *arguments, **options):
    return records_of(Files, path, *arguments, **options)


# --- scans and their slices


def test_stacks_of_which_one_slice_is_used_name_the_setting(tmp_path):
    for n, name in enumerate(("T1", "T2")):
        volume(tmp_path / "p0" / f"{name}.nii", n)
    with pytest.raises(UserError, match="only one image of T1") as error:
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


# rim with a gap of so many voxels -> the marked voxels of a plane
@pytest.mark.parametrize(("fill", "gap", "marked"), [(True, 0, 36), (True, 2, 34), (False, 2, 18)])
def test_what_masks_enclose_is_lesion_where_asked(tmp_path, fill, gap, marked):
    rim = np.zeros((14, 14, 8), np.float32)
    rim[4:10, 4:10, 2:5] = 1
    rim[5:9, 5:9] = 0
    rim[6 : 6 + gap, 4] = 0
    for name, values in (("T1", rim + 1), ("T2", rim + 2), ("seg", rim)):
        volume(tmp_path / "p0" / f"{name}.nii", values=values)
    source = {"name": "files", "path": str(tmp_path), "mask": "seg"}
    table = Recipe({"data": {"source": source, "domains": ["T1", "T2"], "fill_masks": fill}})
    _, records = source_and_records(table.data_table(), UNPAIRED)

    counts = {record.position: int(record.mask().sum()) for record in records}
    assert sorted(counts.values())[-3:] == [marked] * 3


# --- nifti


def test_options_name_the_files_of_domains(tmp_path):
    for n, name in np.ndindex(2, 4):
        names = ("T1", "T1w", "T2", "T1_to_T2")
        volume(tmp_path / f"patient{n}" / f"{names[name]}.nii", n)
    records = nifti(tmp_path, ("x", "y"), dims=3, a="*T1w*", b="**/T2.nii")
    assert {(r.domain, r.path.stem) for r in records} == {("a", "T1w"), ("b", "T2")}


def test_a_contrast_that_no_file_shows_is_named(tmp_path):
    with pytest.raises(UserError, match="no file is named PET"):
        nifti(tree_of(tmp_path), ("T1", "PET"))


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


def test_contrasts_are_channels_in_order_with_one_mask(patients):
    records = records_of(Files, patients, DOMAINS, dims=3, mask="seg")
    record = next(r for r in of(records, "a") if r.subject == "case2")
    names = [file.name for file in record.files]
    assert names == ["case2_t1.nii", "case2_t1ce.nii", "case2_flair.nii"]
    assert record.mask().shape == (1, 9, 12, 10)
    assert set(np.unique(record.mask())) == {0.0, 1.0}


def test_contrasts_of_a_patient_need_one_grid(patients):
    volume(patients / "case4" / "case4_t2.nii", shape=(10, 12, 7))
    says = "case4_t1.nii' and .*case4_t2.nii' are of one patient.*9 x 12 x 10 against 7 x"
    with pytest.raises(UserError, match=says):
        records_of(Files, patients, DOMAINS)


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
