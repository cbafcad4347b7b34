"""Folders of images become records of the right domain, split, patient and pair; what is wrong is named."""

from pathlib import Path

import nibabel as nib
import numpy as np
import PIL.Image
import pytest

from gantk.data.items import Record
from gantk.data.sources.choice import nothing_fits, source_for
from gantk.data.sources.file_names import domain_match, split_of
from gantk.data.sources.folders import Aligned, Folders, Images
from gantk.data.sources.pairing import NAMED_ALIKE
from gantk.data.split.split import split_records
from gantk.errors import UserError

SIZE = (32, 32)


def picture(path: Path, number: int = 0, shape=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng([number, len(path.name)]).integers(0, 256, shape, dtype=np.uint8)
    PIL.Image.fromarray(values).save(path)
    return path


def tree(root: Path, *names: str, shape=(12, 10)) -> Path:
    for number, name in enumerate(names):
        picture(root / name, number, shape)
    return root


def folders(path, domains=("T1", "T2"), dims=2, **options):
    return Folders(domains, dims, SIZE, path=str(path), **options).records()


def keys(records, letter):
    return [record.key for record in records if record.domain == letter]


def by_pair(records):
    found: dict[str, dict[str, str]] = {}
    for record in records:
        if record.pair is not None:
            found.setdefault(record.pair, {})[record.domain] = record.key
    return sorted((pair["a"], pair["b"]) for pair in found.values() if len(pair) == 2)


def test_train_and_test_folders_of_a_and_b(tmp_path):
    tree(tmp_path, *(f"{split}{letter}/{n}.png" for split in ("train", "test", "val") for letter in "AB" for n in "12"))
    records = folders(tmp_path)
    assert keys(records, "a") == [f"{split}A/{n}.png" for split in ("test", "train", "val") for n in "12"]
    assert {(r.key.split("/")[0], r.split) for r in records if r.domain == "b"} == {
        ("trainB", "train"), ("testB", "test"), ("valB", "validation"),
    }  # fmt: skip
    splits, _ = split_records(records)
    assert {len(part) for part in splits.values()} == {4}


def test_training_folders_alone_leave_the_split_to_the_recipe(tmp_path):
    tree(tmp_path, "trainA/1.png", "trainA/2.png", "trainB/1.png", "trainB/2.png")
    assert {record.split for record in folders(tmp_path)} == {None}


@pytest.mark.parametrize(
    "first, second, domains",
    [
        ("T1", "T2", ("T1", "T2")),
        ("Tr1/TrainT1", "Tr2/TrainT2", ("T1", "T2")),
        ("x/mr_t1_weighted", "x/mr_t2_weighted", ("T1", "T2")),
        ("MRI", "CT", ("MR", "CT")),
        ("setA", "setB", ("horse", "zebra")),
        ("apples", "oranges", ("A fruit", "another")),
        ("T2", "T1", ("T2", "T1")),
        ("T1", "T1ce", ("T1", "T1ce")),
    ],
)
def test_folder_names_say_the_domain(tmp_path, first, second, domains):
    tree(tmp_path, f"{first}/1.png", f"{first}/2.png", f"{second}/5.png", f"{second}/6.png")
    records = folders(tmp_path, domains)
    assert keys(records, "a") == [f"{first}/1.png", f"{first}/2.png"]
    assert keys(records, "b") == [f"{second}/5.png", f"{second}/6.png"]


def test_folders_that_mean_neither_domain_are_left_alone(tmp_path):
    tree(tmp_path, *(f"{name}/{n}.png" for name in ("T1", "T2", "labels", "FLAIR") for n in "12"))
    assert len(folders(tmp_path)) == 4


def test_names_nobody_understands_are_listed(tmp_path):
    tree(tmp_path, *(f"{name}/{n}.png" for name in ("red", "green", "blue") for n in "12"))
    with pytest.raises(UserError, match="'blue', 'green', 'red'") as error:
        folders(tmp_path)
    assert "data.source.a" in str(error.value)


def test_file_names_say_the_domain_where_folders_are_patients(tmp_path):
    tree(tmp_path, *(f"patient{p}/scan_{kind}.png" for p in range(6) for kind in ("T1", "T1C", "T2", "seg")))
    records = folders(tmp_path)
    assert len(records) == 12 and by_pair(records)[0] == ("patient0/scan_T1.png", "patient0/scan_T2.png")
    assert {record.subject for record in records} == {f"patient{p}" for p in range(6)}
    assert split_records(records)[0].by == "patient"


def test_sub_folders_are_patients_where_they_are_numbered(tmp_path):
    tree(tmp_path, *(f"{kind}/p{p}/{n}.png" for kind in ("T1", "T2") for p in range(3) for n in range(2)))
    records = folders(tmp_path)
    assert {record.subject for record in records} == {"p0", "p1", "p2"} and len(by_pair(records)) == 6
    tree(tmp_path / "kinds", *(f"{kind}/{n}.png" for kind in ("tumour", "healthy") for n in range(2)))
    assert {record.subject for record in Images(("MR",), 2, SIZE, path=str(tmp_path / "kinds")).records()} == {""}


@pytest.mark.parametrize("pattern", [r"(p\d+)_", r"(x|T\d)/(?P<patient>p\d+)_"])
def test_a_pattern_finds_the_patient_in_the_path(tmp_path, pattern):
    tree(tmp_path, *(f"{kind}/p{p}_{n}.png" for kind in ("T1", "T2") for p in range(5) for n in range(2)))
    assert {record.subject for record in folders(tmp_path, patient=pattern)} == {f"p{p}" for p in range(5)}


@pytest.mark.parametrize(
    "pattern, says", [("(", "no regular"), ("abc", "0 groups"), ("(q)", "finds no patient in 'T1/")]
)
def test_a_wrong_pattern_is_explained(tmp_path, pattern, says):
    tree(tmp_path, "T1/1.png", "T1/2.png", "T2/1.png", "T2/2.png")
    with pytest.raises(UserError, match=says):
        folders(tmp_path, patient=pattern)


def test_explicit_folders_and_globs(tmp_path):
    tree(tmp_path, "x/1.png", "x/2.png", "y/deep/3.png", "y/deep/4.png", "y/5.jpg")
    for a, b in (("x", "y/deep"), ("x/*.png", "y/*/*.png"), (str(tmp_path / "x"), str(tmp_path / "y/deep"))):
        records = folders(tmp_path, a=a, b=b)
        assert keys(records, "a") == ["x/1.png", "x/2.png"] and keys(records, "b") == ["y/deep/3.png", "y/deep/4.png"]
    with pytest.raises(UserError, match="no images match"):
        folders(tmp_path, a="x", b="z/*.png")
    with pytest.raises(UserError, match="both a and b"):
        folders(tmp_path, a="x")


def test_equal_names_are_pairs_unless_they_are_few_or_switched_off(tmp_path):
    tree(tmp_path, *(f"{kind}/{n}.png" for kind in ("T1", "T2") for n in range(10)))
    assert len(by_pair(folders(tmp_path))) == 10 and not by_pair(folders(tmp_path, pairs="none"))
    for n in range(4):
        (tmp_path / f"T2/{n}.png").rename(tmp_path / f"T2/{n + 100}.png")
    assert NAMED_ALIKE > 0.6 and not by_pair(folders(tmp_path))


@pytest.mark.parametrize("first, second", [("T1W_{}", "T2W_{}"), ("{}_T1", "{}-T2"), ("T1.{}", "T2.{}"), ("{}", "{}")])
def test_pairs_by_name_look_past_the_domains_name(tmp_path, first, second):
    tree(tmp_path, *(f"x/{first.format(n)}.png" for n in range(3)), *(f"y/{second.format(n)}.png" for n in range(3)))
    assert len(by_pair(folders(tmp_path, a="x", b="y"))) == 3


def test_a_csv_of_pairs_is_found_and_wins_over_names(tmp_path):
    tree(tmp_path, *(f"{kind}/{n}.png" for kind in ("T1", "T2") for n in range(3)))
    (tmp_path / "notes.csv").write_text("who,what\nme,this\n")
    (tmp_path / "PAIRS.csv").write_text("no,t2,t1\n1,T2/2.png,T1/0.png\n2,T2/1.png,T1/1.png\n")
    assert by_pair(folders(tmp_path)) == [("T1/0.png", "T2/2.png"), ("T1/1.png", "T2/1.png")]


@pytest.mark.parametrize(
    "text, says",
    [
        ("a,b\nT1/0.png,T2/0.png\nT1/9.png,T2/1.png\n", "'T1/9.png' is no image.*line 3"),
        ("a,b\nT1/0.png,T2/0.png\nT1/0.png,T2/1.png\n", "'T1/0.png' is in two pairs.*line 3"),
        ("a,b\nx,y\n", "no two columns"),
    ],
)
def test_a_wrong_csv_names_its_line(tmp_path, text, says):
    tree(tmp_path, *(f"{kind}/{n}.png" for kind in ("T1", "T2") for n in range(3)))
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        folders(tmp_path, pairs="p.csv")


def test_positions_count_as_people_do(tmp_path):
    tree(tmp_path, *(f"T{kind}/Image #{n}.png" for kind in "12" for n in (10, 9, 11, 100)))
    records = sorted((r for r in folders(tmp_path) if r.domain == "a"), key=lambda record: record.position)
    assert [record.key[10:] for record in records] == ["9.png", "10.png", "11.png", "100.png"]


@pytest.mark.parametrize(
    "names, says",
    [
        ((), "no images in"),
        (("T1/1.png", "T2/1.png", "T2/2.png"), "only one image of T1.*T1/1.png"),
        (None, "not exist"),
    ],
)
def test_missing_empty_and_single_image_folders_are_named(tmp_path, names, says):
    root = tmp_path / "data"
    if names is not None:
        root.mkdir()
        tree(root, *names)
    with pytest.raises(UserError, match=says):
        folders(root)


def test_no_file_is_decoded_before_it_is_read(tmp_path):
    tree(tmp_path, "T1/1.png", "T1/2.png", "T2/1.png", "T2/2.png")
    (tmp_path / "T1/2.png").write_bytes((tmp_path / "T1/1.png").read_bytes()[:60])
    records = folders(tmp_path)
    with pytest.raises(UserError, match="T1/2.png"):
        [record for record in records if record.key == "T1/2.png"][0].read()


def test_mixed_channels_and_tiny_images_are_named(tmp_path):
    tree(tmp_path, "T1/1.png", "T1/2.png", "T2/1.png", "T2/2.png")
    picture(tmp_path / "T1/2.png", shape=(12, 10, 3))
    picture(tmp_path / "T2/2.png", shape=(12, 4))
    records = {record.key: record for record in folders(tmp_path)}
    assert records["T1/1.png"].read().shape == (1, 12, 10)
    with pytest.raises(UserError, match="T1/2.png' has 3 channels, while .*T1/1.png' has 1.*channels = 1"):
        records["T1/2.png"].read()
    with pytest.raises(UserError, match="T2/2.png' is only 12 x 4"):
        records["T2/2.png"].read()
    for wanted in (1, 3):
        asked = {record.key: record for record in folders(tmp_path, channels=wanted)}
        assert {len(asked[f"T1/{n}.png"].read()) for n in "12"} == {wanted}


def test_side_by_side_pictures_are_registered_halves(tmp_path):
    left, right = np.full((16, 16), 50, np.uint8), np.full((16, 16), 200, np.uint8)
    for split in ("train", "test"):
        for n in range(3):
            path = tmp_path / split / f"{n}.png"
            path.parent.mkdir(exist_ok=True)
            PIL.Image.fromarray(np.hstack([left + n, right + n])).save(path)
    records = Aligned(("x", "y"), 2, SIZE, path=str(tmp_path)).records()
    assert len(by_pair(records)) == 6 and {record.split for record in records} == {"train", "test"}
    values = {record.domain: record.read() for record in records if record.key == "train/0.png"}
    assert values["a"].shape == (1, 16, 16) and values["a"].max() == 50 and values["b"].min() == 200
    turned = Aligned(("x", "y"), 2, SIZE, path=str(tmp_path), order="BA").records()
    assert {r.domain: r.read().max() for r in turned if r.key == "train/0.png"} == {"a": 200, "b": 50}


def test_an_odd_width_cannot_be_halved(tmp_path):
    tree(tmp_path, "1.png", "2.png", shape=(16, 33))
    with pytest.raises(UserError, match="33 pixels wide"):
        Aligned(("x", "y"), 2, SIZE, path=str(tmp_path)).records()[0].read()


def test_one_folder_of_one_domain(tmp_path):
    tree(tmp_path, "1.png", "deep/2.png", "3.jpg")
    records = Images(("MR",), 2, SIZE, path=str(tmp_path)).records()
    assert {record.domain for record in records} == {"image"} and len(records) == 3


def test_volumes_give_volumes_or_axial_planes(tmp_path):
    for patient in range(3):
        for kind in ("T1", "T2"):
            values = np.random.default_rng(patient).random((10, 12, 16)).astype(np.float32)
            path = tmp_path / f"patient{patient}" / f"{kind}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), path)
    volumes = folders(tmp_path, dims=3)
    assert len(volumes) == 6 and volumes[0].read().shape == (1, 16, 12, 10) and len(by_pair(volumes)) == 3
    planes = folders(tmp_path, planes=(0.25, 0.75))
    assert len(planes) == 6 * 8 and {record.position for record in planes} == set(range(4, 12))
    np.testing.assert_array_equal(planes[0].read(), volumes[0].read()[:, 4])
    assert {record.subject for record in planes} == {"patient0", "patient1", "patient2"} and len(by_pair(planes)) == 24


def test_scans_on_different_grids_are_no_pairs(tmp_path):
    for kind, spacing in (("T1", 1.0), ("T2", 2.0)):
        for n in range(2):
            (tmp_path / kind).mkdir(exist_ok=True)
            affine = np.diag([spacing, 1.0, 1.0, 1.0])
            nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.float32), affine), tmp_path / kind / f"{n}.nii")
    assert not by_pair(folders(tmp_path, dims=3))


def test_dims_that_do_not_fit_are_named(tmp_path):
    tree(tmp_path, "T1/1.png", "T1/2.png", "T2/1.png", "T2/2.png")
    with pytest.raises(UserError, match="is a picture, and data.dims is 3"):
        folders(tmp_path, dims=3)[0].read()


def test_a_path_finds_its_source(tmp_path):
    two, side, one = tmp_path / "two", tmp_path / "side", tmp_path / "one"
    tree(two, "trainA/1.png", "trainB/1.png")
    tree(side, "train/1.png", "test/1.png", shape=(16, 32))
    tree(one, "1.png", "2.png")
    assert source_for(two) == {"name": "folders", "path": str(two)}
    assert source_for(side) == {"name": "aligned", "path": str(side)}
    assert source_for(one) == source_for(one, domains=1) == {"name": "images", "path": str(one)}
    assert source_for(two, domains=1)["name"] == "images"


def test_where_nothing_fits_the_message_says_what_is_there(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"")
    (tmp_path / "b.dcm").write_bytes(b"")
    assert "2 x .dcm" in nothing_fits(tmp_path) and "does not exist" in nothing_fits(tmp_path / "x")
    assert "is a file" in nothing_fits(tmp_path / "a.dcm")
    with pytest.raises(UserError, match="2 x .dcm.*--data"):
        source_for(tmp_path)


@pytest.mark.parametrize("build", [lambda: Folders(("T1", "T2"), 2, SIZE), lambda: Images(("T1",), 2, SIZE)])
def test_a_source_without_a_path_says_what_to_write(build):
    with pytest.raises(UserError, match="path = "):
        build()


@pytest.mark.parametrize(
    "name, domain, expected",
    [
        ("T1", "T1", 3),
        ("TrainT1", "T1", 3),
        ("traint1", "T1", 3),
        ("brain_T1_ax", "T1", 2),
        ("T1ce", "T1", 1),
        ("MRI", "MR", 1),
        ("Tr1", "T1", 0),
        ("patient1", "T1", 0),
        ("apples", "A", 0),
    ],
)
def test_likeness_of_names(name, domain, expected):
    assert domain_match(name, domain) == expected


@pytest.mark.parametrize(
    "parts, split",
    [
        (("trainA",), "train"),
        (("x", "testing"), "test"),
        (("val_B",), "validation"),
        (("trainers",), None),
        (("T1",), None),
    ],
)
def test_split_words(parts, split):
    assert split_of(parts) == split


def test_the_course_set_is_recognised_with_its_hidden_pairs(shared_data):
    records = folders(shared_data / "t1t2_course")
    assert len(keys(records, "a")) == 43 and len(keys(records, "b")) == 46 and len(by_pair(records)) == 43
    assert ("Tr1/TrainT1/Image #10.png", "Tr2/TrainT2/Image #70.png") in by_pair(records)
    assert {record.subject for record in records} == {""} and records[0].read().shape == (1, 217, 181)


@pytest.mark.parametrize("domains", [("CT", "MRI"), ("CT", "MR")])
def test_ct_and_mr_slices_are_pairs_by_name(shared_data, domains):
    records = folders(shared_data / "ct_mri", domains, patient=r"(\d+)\d{3}\.png")
    assert len(by_pair(records)) == 110 and len({record.subject for record in records}) == 6


def test_facades_are_side_by_side(shared_data):
    records = Aligned(("photo", "labels"), 2, SIZE, path=str(shared_data / "facades")).records()
    assert len(by_pair(records)) == 75 and records[0].read().shape == (3, 256, 256)
    assert isinstance(records[0], Record) and Folders.accepts(shared_data / "facades") is None
