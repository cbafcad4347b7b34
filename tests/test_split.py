"""Splits: nothing that belongs together is divided, nothing is on two sides, and the same seed gives the same split."""

import hashlib
import zlib
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantk.data.leakage import check_leakage
from gantk.data.phantom import Phantom
from gantk.data.records import Record
from gantk.data.split import SETS, split_json, split_records, unpair
from gantk.errors import UserError


def pixels(number):
    return np.full((1, 8, 8), number, np.float32) + np.arange(8, dtype=np.float32)


def stack(count, domain="a", subject="", shift=0, pairs=True, start=0):
    """Slices of one subject in order; slice i of a is registered with slice i + shift of b."""
    return [
        Record(
            domain=domain,
            subject=subject,
            key=f"{subject}/{domain}{i:03d}",
            read=partial(pixels, zlib.crc32(f"{domain}{subject}{i}".encode()) % 2**22),
            pair=f"{subject}/{i - shift if domain == 'b' else i}" if pairs else None,
            position=float(i),
        )
        for i in range(start, start + count)
    ]


def study(patients, slices=2):
    return [
        record
        for number in range(patients)
        for domain in "ab"
        for record in stack(slices, domain, subject=f"p{number:02d}")
    ]


def names(records):
    return sorted((record.domain, record.key) for record in records)


@given(patients=st.integers(5, 40), test=st.sampled_from([0.0, 0.1, 0.3]), seed=st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_no_patient_is_divided_and_none_is_lost(patients, test, seed):
    records = study(patients)
    splits, _ = split_records(records, test=test, validation=0.1, by="patient", seed=seed)
    subjects = {name: {record.subject for record in splits[name]} for name in SETS}
    assert names(sum(splits.values(), [])) == names(records)
    assert sum(map(len, subjects.values())) == len(set.union(*subjects.values())) == patients
    assert len(subjects["test"]) == (max(1, round(test * patients)) if test else 0)


def test_a_split_is_a_function_of_its_seed():
    splits = [split_records(study(20), seed=seed)[0] for seed in (0, 0, 1)]
    assert names(splits[0]["test"]) == names(splits[1]["test"]) != names(splits[2]["test"])


def test_patients_of_one_domain_are_shared_out_too():
    records = [r for n in range(10) for r in stack(2, "a", f"a{n}", pairs=False)]
    records += [r for n in range(10) for r in stack(2, "b", f"b{n}", pairs=False)]
    splits, _ = split_records(records, test=0.2, validation=0.1, by="patient")
    assert all({record.domain for record in splits[name]} == {"a", "b"} for name in SETS)


@given(
    count=st.integers(30, 150),
    extra=st.integers(0, 5),
    gap=st.integers(0, 3),
    blocks=st.integers(1, 3),
    validation=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_blocks_keep_their_distance_in_both_domains(count, extra, gap, blocks, validation, seed):
    records = stack(count, "a") + stack(count + extra, "b", shift=extra)
    shares = dict(test=0.2, validation=validation, by="block", gap=gap, blocks=blocks, seed=seed)
    splits, _ = split_records(records, **shares)
    for domain in "ab":
        place = {r.position: name for name in SETS for r in splits[name] if r.domain == domain}
        held = [position for position, name in place.items() if name != "train"]
        trained = [position for position, name in place.items() if name == "train"]
        assert trained and min(abs(h - t) for h in held for t in trained) > gap
    for name in ("validation", "test"):
        of = {domain: {r.pair for r in splits[name] if r.domain == domain} for domain in "ab"}
        assert of["a"] == of["b"], "the same anatomy is held out of both domains"
    assert len([r for r in splits["test"] if r.domain == "a"]) == round(0.2 * count)


def test_blocks_are_contiguous_and_as_many_as_asked():
    splits, _ = split_records(stack(60), test=0.2, validation=0, by="block", blocks=3)
    positions = sorted(record.position for record in splits["test"])
    assert 1 + sum(np.diff(positions) > 1) == 3


def test_each_patient_of_a_few_gives_blocks():
    splits, how = split_records(study(3, slices=30), test=0.2, validation=0.1)
    assert splits.by == "block" and "block" in how
    assert {record.subject for record in splits["test"]} == {"p00", "p01", "p02"}
    check_leakage(splits)


def test_auto_goes_by_patient_from_five_on():
    assert split_records(study(5), validation=0.2)[0].by == "patient"
    assert split_records(study(4, slices=30))[0].by == "block"
    no_order = [Record("image", "", f"{i}", partial(pixels, i)) for i in range(10)]
    assert split_records(no_order)[0].by == "image"


def test_pairs_are_never_divided_by_image():
    splits, _ = split_records(stack(20, "a") + stack(23, "b"), by="image")
    for name in SETS:
        pairs = Counter(record.pair for record in splits[name])
        assert all(count == 2 for pair, count in pairs.items() if int(pair[1:]) < 20)


def test_what_the_folders_say_wins():
    records = [Record(**{**vars(r), "split": "test" if r.position >= 40 else "train"}) for r in stack(50)]
    splits, how = split_records(records, test=0.5, validation=0.1)
    assert {r.position for r in splits["test"]} == set(range(40, 50)) and "folders" in how
    assert splits["validation"] and splits.by == "folders"


@pytest.mark.parametrize(
    "records, options, says",
    [
        (study(2), dict(by="patient"), "2 patients are too few"),
        (stack(8), dict(by="block"), "a stack of 8 slices is too short"),
        (stack(10), dict(by="patient"), "does not know which image is of which patient"),
        (study(9), dict(test=0.6, validation=0.4), "leave nothing to train on"),
    ],
)
def test_what_cannot_be_split_is_said_with_a_remedy(records, options, says):
    with pytest.raises(UserError, match=says) as error:
        split_records(records, **options)
    assert "data.split" in str(error.value) and error.value.allowed


def test_zero_shares_train_on_everything():
    splits, _ = split_records(stack(5), test=0, validation=0)
    assert len(splits["train"]) == 5 and not splits["test"] and not splits["validation"]


def test_the_same_patient_on_two_sides_is_listed():
    records = study(6)
    splits = {"train": records[:6], "validation": [], "test": records[6:] + records[:1]}
    with pytest.raises(UserError, match="patient 'p00'.*train.*test"):
        check_leakage(splits)


def test_the_same_pixels_on_two_sides_are_listed_whatever_their_names():
    splits, _ = split_records(stack(40), by="block")
    copied = Record("a", "", "copy.png", splits["train"][0].read, position=99.0)
    with pytest.raises(UserError, match=f"{splits['train'][0].key}' = 'copy.png"):
        check_leakage(splits | {"test": [*splits["test"], copied]})


def test_empty_images_are_no_leak():
    blank = [Record("a", "", f"{i}", partial(np.zeros, (1, 8, 8), np.float32), position=float(i)) for i in range(40)]
    check_leakage(split_records(blank, by="block")[0])


def test_a_split_of_the_phantom_leaks_nothing():
    records = Phantom(("T1", "T2"), 2, (32, 32), subjects=6, slices=2).records()
    splits, how = split_records(records)
    check_leakage(splits)
    assert "4 train, 1 validation, 1 test patients" in how


def test_split_json_names_every_file_with_its_hash(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]))
    records = [Record("a", f"p{i}", file.name, partial(pixels, i), path=file) for i, file in enumerate(files)]
    written = split_json(split_records(records, validation=0.2)[0])
    entries = {entry["key"]: entry for name in SETS for entry in written[name]}
    assert entries["3.png"]["sha256"] == hashlib.sha256(bytes([3])).hexdigest() and entries["3.png"]["subject"] == "p3"
    assert len(entries) == 6 and written["by"] == "patient"


def test_unpaired_training_shares_no_patient_between_domains():
    kept = unpair(study(9), seed=3)
    subjects = {domain: {r.subject for r in kept if r.domain == domain} for domain in "ab"}
    assert not subjects["a"] & subjects["b"] and len(subjects["a"]) == 5 and len(subjects["b"]) == 4
    assert names(kept) == names(unpair(study(9), seed=3))


@pytest.mark.parametrize(
    "records", [stack(10, "a") + stack(10, "b"), study(1), stack(4, "a", "x") + stack(4, "b", "y")]
)
def test_unpairing_keeps_what_it_cannot_share_out(records):
    assert unpair(records) == records


def test_the_course_set_holds_out_the_same_anatomy_of_both_domains(shared_data):
    from gantk.data.sources import Folders

    records = Folders(("T1", "T2"), 2, (96, 96), path=str(shared_data / "t1t2_course")).records()
    splits, _ = split_records(records, test=0.2, validation=0.1)
    pairs = Counter(record.pair for record in splits["test"])
    assert 7 <= len(pairs) <= 10 and set(pairs.values()) == {2}
    positions = sorted(record.position for record in splits["test"] if record.domain == "a")
    assert 1 + sum(np.diff(positions) > 1) == 2
    check_leakage(splits)
