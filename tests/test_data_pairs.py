"""Paired methods get registered pairs or a message that counts what has no partner."""

import json

import pytest

from gantk.data.batches import Batches
from gantk.data.dataset import Data
from gantk.data.sources.choice import source_for
from gantk.data.sources.folders import Folders
from gantk.data.split.split import SETS
from gantk.errors import UserError
from gantk.method import Method
from gantk.recipe.tables import DataTable


class Paired(Method):
    """A method that learns from pairs."""

    paired = True


class Unpaired(Method):
    """A method that does not."""


def table(path, source=None, **options):
    given = {"name": "folders", "path": str(path)} | (source or {})
    split = {"test": 0.2, "validation": 0.2, "by": "image"}
    keys = {"source": given, "domains": ("T1", "T2"), "size": (16, 16), "split": split} | options
    return DataTable.model_validate_json(json.dumps(keys))


@pytest.fixture
def study(tmp_path, pictures):
    pictures(tmp_path / "T1", 12, seed=1)
    pictures(tmp_path / "T2", 12, seed=2)
    return tmp_path


def test_unpaired_data_are_counted_and_the_first_is_named(study):
    for file in (study / "T2").iterdir():
        file.rename(study / "T2" / f"other-{file.name}")
    said = r"knows none among 12 images of T1 and 12 of T2: the first without a partner is 'T1/slice-00.png'.*dualgan"
    with pytest.raises(UserError, match=said):
        Data.load(table(study), Paired)
    assert len(Data.load(table(study), Unpaired).training) > 10


def test_one_missing_partner_is_named_and_not_passed_over(study):
    (study / "T2" / "slice-07.png").unlink()
    with pytest.raises(
        UserError, match="1 of 23 images have no partner: the first is 'T1/slice-07.png', which T2 lacks"
    ):
        Data.load(table(study), Paired)
    data = Data.load(table(study), Unpaired)
    assert sum(len(data.pairs(name)) for name in SETS) == 11, "the others are pairs to score with"


def test_what_a_csv_does_not_list_was_left_out_on_purpose(study):
    rows = [f"T1/slice-{n:02d}.png,T2/slice-{n:02d}.png" for n in range(9)]
    (study / "pairs.csv").write_text("\n".join(["one,other", *rows]))
    data = Data.load(table(study), Paired)
    assert sum(len(data.pairs(name)) for name in SETS) == 9
    assert {record.pair for record in data.training} <= {row.split(",")[0] for row in rows}


def test_a_paired_batch_shows_partners(study):
    batches = Batches(Data.load(table(study), Paired).training_sets(), 3, 0, paired=True)
    sets = {name: [record.pair for record in images.records] for name, images in batches.sets.items()}
    assert sets["a"] == sets["b"] and batches._indices("a", 3) == batches._indices("b", 3)


def test_the_course_set_trains_on_its_pairs(shared_data):
    split = {"test": 0.2, "validation": 0.1}
    data = Data.load(table(shared_data / "t1t2_course", split=split), Paired)
    assert len(data.training_sets()["a"]) == len(data.training_sets()["b"]) > 15 and len(data.pairs("test")) >= 7


@pytest.mark.parametrize("pattern", [r"(?P<patient>.+)\d{3}$", r"(\d+)\d{3}\.png"])
@pytest.mark.parametrize("domains", [("CT", "MR"), ("CT", "MRI"), ("T1", "T2")])
def test_ct_and_mr_are_pairs_of_six_patients(shared_data, pattern, domains):
    path = shared_data / "ct_mri"
    assert source_for(path) == {"name": "folders", "path": str(path)}
    split = {"test": 0.2, "validation": 0.2, "by": "patient"}
    data = Data.load(table(path, {"patient": pattern}, domains=domains, split=split), Paired)
    subjects = {name: {record.subject for record in data.splits[name]} for name in SETS}
    assert sum(map(len, subjects.values())) == len(set.union(*subjects.values())) == 6 and data.leaks() is None
    assert sum(len(data.pairs(name)) for name in SETS) == 110 and data.channels == {"a": 1, "b": 1}


def test_ct_and_mr_need_no_settings(shared_data):
    data = Data.load(table(shared_data / "ct_mri", domains=("CT", "MR"), split={}), Paired)
    assert data.leaks() is None and len(data.pairs("test")) > 15


def test_the_patient_is_searched_in_the_path_before_the_stem(study):
    records = Folders(("T1", "T2"), 2, (16, 16), path=str(study), patient=r"(T\d)/").records()
    assert {record.subject for record in records} == {"T1", "T2"}
    records = Folders(("T1", "T2"), 2, (16, 16), path=str(study), patient=r"^slice-(\d)\d$").records()
    assert {record.subject for record in records} == {"0", "1"}
