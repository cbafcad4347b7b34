"""Several contrasts are channels with their own intensities; files are told apart by name, missing ones are said."""

import json
from functools import partial
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from gantk.data.augment import hide_contrasts
from gantk.data.batches import Batches
from gantk.data.dataset import Data, intensity_from
from gantk.data.intensity import MinMax, Percentile, PerChannel, Window, to_network
from gantk.data.resample import Resize
from gantk.data.sources.choice import source_for
from gantk.data.sources.patients import Contrasts, contrast_files
from gantk.data.split.split import split_records
from gantk.errors import UserError
from gantk.method import Batch, Method
from gantk.recipe.tables import DataTable

SCALE = {"t1": 100.0, "t1ce": 500.0, "t2": 1000.0, "flair": 2000.0}
DOMAINS = ("T1+T1ce+FLAIR", "T2")


class Paired(Method):
    """A method that learns from pairs."""

    paired = True


class Unpaired(Method):
    """A method that does not."""


def scan(path, number=0, scale=100.0, shape=(10, 12, 9), affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = scale * (1 + np.random.default_rng(number).random(shape, dtype=np.float32))
    nib.save(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0]) if affine is None else affine), path)


@pytest.fixture
def patients(tmp_path):
    for number in range(6):
        for kind, scale in SCALE.items():
            scan(tmp_path / f"case{number}" / f"case{number}_{kind}.nii", number, scale)
        mask = np.zeros((10, 12, 9), np.float32)
        mask[3:6, 4:7] = 4
        nib.save(
            nib.Nifti1Image(mask, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / f"case{number}/case{number}_seg.nii"
        )
    return tmp_path


def source(path, domains=DOMAINS, dims=3, **options):
    return Contrasts(domains, dims, (16,) * dims, path=str(path), **options)


def table(path, **options):
    given = {"name": "contrasts", "path": str(path), "planes": (0, 1)} | options.pop("source", {})
    split = {"test": 0.2, "validation": 0.2}
    keys = {"source": given, "domains": DOMAINS, "size": (16, 16), "split": split} | options
    return DataTable.model_validate_json(json.dumps(keys))


def test_every_contrast_is_a_channel_in_the_order_asked(patients):
    records = source(patients, mask="seg").records()
    assert len(records) == 12 and len({r.pair for r in records}) == 6 and not any(r.missing for r in records)
    one = next(r for r in records if r.domain == "a" and r.subject == "case2")
    assert one.read().shape == (3, 9, 12, 10) and [round(c.min(), -2) for c in one.read()] == [100, 500, 2000]
    assert one.mask().shape == (1, 9, 12, 10) and set(np.unique(one.mask())) == {0.0, 1.0}
    assert [file.name for file in one.files] == [f"case2_{kind}.nii" for kind in ("t1", "t1ce", "flair")]
    planes = source(patients, dims=2, planes=(0, 1)).records()
    assert len(planes) == 12 * 9 and planes[0].read().shape == (3, 12, 10) and planes[0].position == 0
    assert split_records(planes)[0].by == "patient"


@pytest.mark.parametrize(
    "names, expected",  # in the order T1, T1ce, T2, FLAIR
    [
        ("x_T1 x_T1C x_T2", ("x_T1", "x_T1C", "x_T2", None)),
        ("t1ce flair", (None, "t1ce", None, "flair")),
        ("a-t1n a-t1c a-t2w a-t2f", ("a-t1n", "a-t1c", "a-t2w", "a-t2f")),
        ("T1_post T1 T2_FLAIR", ("T1", "T1_post", None, "T2_FLAIR")),
        ("sub_T1w T2_regtoFLAIR GOLD_regtoFLAIR", ("sub_T1w", None, "T2_regtoFLAIR", None)),
    ],
)
def test_contrasts_are_told_apart_by_the_words_of_a_name(tmp_path, names, expected):
    for name in names.split():
        (tmp_path / f"{name}.nii").write_bytes(b"never read")
    found = contrast_files(tmp_path, ("T1", "T1ce", "T2", "FLAIR"))
    assert tuple(file and file.stem for file in found.values()) == expected


def test_two_files_of_one_contrast_are_named(tmp_path):
    for name in ("a_T1.nii", "b_T1.nii"):
        (tmp_path / name).write_bytes(b"never read")
    with pytest.raises(UserError, match="two files of T1: 'a_T1.nii' and 'b_T1.nii'"):
        contrast_files(tmp_path, ("T1", "T2"))
    assert contrast_files(tmp_path, ("T1",), mask="b*")["T1"].name == "a_T1.nii"


def test_files_of_one_patient_on_different_grids_are_named(patients):
    scan(patients / "case4" / "case4_t2.nii", 4, shape=(10, 12, 7))
    with pytest.raises(
        UserError, match=r"case4_t1.nii' and .*case4_t2.nii' are of one patient.*9 x 12 x 10 against 7 x"
    ):
        source(patients).records()
    scan(patients / "case4" / "case4_t2.nii", 4)
    nib.save(nib.Nifti1Image(np.zeros((10, 12, 7), np.float32), np.eye(4)), patients / "case3" / "case3_seg.nii")
    with pytest.raises(UserError, match="case3_seg.nii' is on another grid than its image"):
        source(patients, mask="seg").records()


def test_templates_among_numbered_patients_are_left_alone(patients):
    for kind in ("t1", "t1ce", "t2", "flair"):
        scan(patients / "template" / f"{kind}.nii", 99)
    assert {record.subject for record in source(patients).records()} == {f"case{n}" for n in range(6)}


def test_domains_that_no_file_means_are_listed(patients):
    with pytest.raises(
        UserError, match="no folder in .* holds a file named PET or SWI; there are 'case0/case0_flair.nii'"
    ):
        source(patients, ("PET", "SWI")).records()


def test_a_contrast_that_a_patient_lacks_is_refused_or_black(patients):
    (patients / "case1" / "case1_flair.nii").unlink()
    (patients / "case3" / "case3_t1ce.nii").unlink()
    with pytest.raises(
        UserError, match=r"18 of 108 images lack a contrast: .*'case1/plane-000' without FLAIR.*data\.missing"
    ):
        Data.load(table(patients), Paired)
    data = Data.load(table(patients, missing="mask"), Paired)
    records = [r for split in data.splits.values() for r in split if r.subject == "case1" and r.domain == "a"]
    native = records[0].read()
    assert np.isnan(native[2]).all() and np.isfinite(native[:2]).all()
    seen = to_network(native, data.intensity["a"], Resize(native.shape[1:], (16, 16)))
    assert np.isfinite(seen).all() and (seen[2] == -1).all() and seen[0].max() > 0
    assert data.leaks() is None


def test_a_target_cannot_be_missing_where_pairs_are_learnt(patients):
    for number in range(2):
        (patients / f"case{number}" / f"case{number}_flair.nii").unlink()
    keys = dict(domains=("T1+T1ce", "T2+FLAIR"), missing="mask")
    with pytest.raises(
        UserError, match="lack a contrast that is to be made: the first is 'case0/plane-000' without FLAIR"
    ):
        Data.load(table(patients, **keys), Paired)
    assert Data.load(table(patients, **keys), Unpaired).channels == {"a": 2, "b": 2}


def test_a_patient_without_a_whole_domain_is_a_broken_pair(patients):
    (patients / "case1" / "case1_t2.nii").unlink()
    records = source(patients).records()
    assert [r.domain for r in records if r.subject == "case1"] == ["a"]
    with pytest.raises(
        UserError, match="9 of 99 images have no partner: the first is 'case1/plane-000', which T2 lacks"
    ):
        Data.load(table(patients), Paired)
    Data.load(table(patients), Unpaired)


def test_intensities_are_fitted_and_restored_for_each_contrast(patients):
    data = Data.load(table(patients, intensity="minmax"), Paired)
    mapping = data.intensity["a"]
    assert data.contrasts == {"a": ("T1", "T1ce", "FLAIR"), "b": ("T2",)} and data.channels == {"a": 3, "b": 1}
    assert isinstance(mapping, PerChannel) and isinstance(data.intensity["b"], MinMax)
    batch = Batches(data.training_sets(), 16, 0, paired=True).at(0)
    for channel in range(3):
        assert -1.01 <= batch["a"][:, channel].min() < -0.9 < 0.5 < batch["a"][:, channel].max() <= 1.01
    state = json.loads(json.dumps(data.intensity_state()))
    again = intensity_from(data.table, state)
    native = data.training[0].read()
    np.testing.assert_array_equal(again["a"].forward(native), mapping.forward(native))
    assert again["a"].state() == mapping.state() and again["a"].range == (-1.0, 1.0)


@pytest.mark.parametrize("shape", [(6, 5, 4), (2, 6, 5, 4)])
def test_a_mapping_per_channel_is_undone_and_repeats_over_neighbours(shape):
    lines = [Window(low=0.0, high=1.0), Window(low=0.0, high=10.0), Window(low=-5.0, high=5.0)]
    mapping = PerChannel(lines, ("T1", "T2", "PD"), 2)
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    done, channel = mapping.forward(image), len(shape) - 3
    for k in range(6):
        index = (slice(None),) * channel + (k,)
        np.testing.assert_array_equal(done[index], lines[k % 3].forward(image[index]))
    np.testing.assert_allclose(mapping.inverse(done), image, atol=1e-5)
    tensor = mapping.forward(torch.from_numpy(image))
    assert tensor.dtype == torch.float32 and done.dtype == np.float32
    np.testing.assert_allclose(tensor.numpy(), done, rtol=1e-6, atol=1e-6)


def test_a_contrast_that_nobody_has_cannot_be_fitted():
    images = [np.stack([np.arange(64.0).reshape(8, 8), np.full((8, 8), np.nan)])] * 2
    with pytest.raises(UserError, match="none of 2 training images has the contrast 'FLAIR'"):
        PerChannel([Percentile(), Percentile()], ("T1", "FLAIR"), 2).fit(images)


def test_padding_is_each_contrasts_own_air():
    native = np.stack([np.full((4, 8), -1000.0), np.full((4, 8), 50.0)]).astype(np.float32)
    mapping = PerChannel([Window(low=-1000.0, high=0.0), Window(low=50.0, high=60.0)], ("CT", "MR"), 2)
    assert (to_network(native, mapping, Resize((4, 8), (8, 8))) == -1).all()


def test_a_domain_of_contrasts_needs_as_many_channels(tmp_path, pictures):
    for name in ("A", "B"):
        pictures(tmp_path / f"train{name}", 12)
    keys = dict(source={"name": "folders", "path": str(tmp_path)}, domains=("A", "B+C"), size=(16, 16))
    with pytest.raises(UserError, match=r"'B\+C' is 2 contrasts, and its images have 1 channel.*\"contrasts\""):
        Data.load(DataTable.model_validate_json(json.dumps(keys)), Unpaired)


def shown(contrasts=3, slices=1, paired=True, count=4000):
    batch = Batch({"a": torch.ones(count, contrasts * slices, 2, 2), "b": torch.ones(count, 2, 2, 2)})
    names = {"a": tuple("xyz"[:contrasts]), "b": ("u", "v")}
    torch.manual_seed(0)
    return hide_contrasts(batch, SimpleNamespace(contrasts=names, paired=paired, range=(-1.0, 1.0)))


def test_half_of_the_images_lose_some_contrasts_but_never_all():
    black = (shown()["a"] == -1).all(dim=(2, 3))
    assert ((shown()["a"] == -1).any(dim=(2, 3)) == black).all()
    lost = black.sum(1)
    assert abs(float((lost > 0).float().mean()) - 0.5) < 0.03 and lost.max() == 2
    kinds = {tuple(row) for row in black.tolist()}
    assert len(kinds) == 7, "every proper subset comes, and nothing lost"


def test_targets_of_pairs_and_single_contrasts_are_never_hidden():
    assert (shown()["b"] == 1).all() and (shown(paired=False)["b"] == -1).any()
    assert (shown(contrasts=1)["a"] == 1).all()


def test_neighbouring_slices_lose_the_same_contrast():
    black = (shown(slices=3)["a"] == -1).all(dim=(2, 3)).reshape(-1, 3, 3)
    assert black.any() and (black == black[:, :1]).all()


def test_a_folder_of_patients_finds_this_source_and_others_keep_theirs(patients, tmp_path, shared_data):
    assert source_for(patients)["name"] == "contrasts"
    expected = {"t1t2_course": "folders", "open_ms": "folders", "ct_mri": "folders", "brats2d": "contrasts",
                "brats": "contrasts", "facades": "aligned"}  # fmt: skip
    assert {name: source_for(shared_data / name)["name"] for name in expected} == expected


def test_eight_glioma_patients_have_four_contrasts_each(shared_data):
    records = Contrasts(("T1+T1C+FLAIR", "T2"), 2, (64, 64), path=str(shared_data / "brats2d"), mask="truth").records()
    assert len(records) == 16 and len({record.subject for record in records}) == 8
    for record in records:
        image = record.read()
        assert len(image) == (3 if record.domain == "a" else 1) and record.mask().shape == (1, *image.shape[1:])
    assert {record.split for record in records} == {"train", "test"}


def test_one_glioma_volume_gives_planes(shared_data):
    records = Contrasts(("T1+T1ce+FLAIR", "T2"), 2, (64, 64), path=str(shared_data / "brats"), mask="seg").records()
    assert len(records) == 2 * 78 and records[80].read().shape == (3, 240, 240) and records[80].mask().max() == 1


def test_patients_without_flair_are_counted(shared_data, tmp_path):
    for name in ("patient07", "patient19"):
        (tmp_path / name).mkdir()
        for file in (shared_data / "open_ms" / name).iterdir():
            (tmp_path / name / file.name).symlink_to(file)
    keys = dict(domains=("T1+FLAIR", "T2"), source={"mask": "GOLD*", "planes": (0.5, 0.55)})
    with pytest.raises(UserError, match=r"without FLAIR"):
        Data.load(table(tmp_path, **keys), Paired)
    read = partial(Contrasts, ("T1", "T2"), 3, (16, 16, 16), path=str(tmp_path), mask="GOLD*")
    assert len(read().records()) == 4
