"""Splits: nothing that belongs together is divided, nothing is on two sides, and the same seed gives the same split."""

import hashlib
import json
import zlib
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantk.data.items import Record
from gantk.data.phantom.source import Phantom
from gantk.data.split.leakage import check_leakage
from gantk.data.split.split import SETS, Splits, split_json, split_records, unpair
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


def test_a_lone_patient_of_both_domains_gives_what_the_others_leave_open():
    others = [r for n in range(3) for r in stack(2, "b", f"only-b-{n}")]
    kept = unpair([*study(1), *others])
    assert {r.domain for r in kept if r.subject == "p00"} == {"a"} and len(kept) == 2 + 6


SEEDED = {  # of the keys of each set, in order: these are what runs of earlier versions were trained and scored on
    "patient": ["84f806e6", "7a5c3720", "ffb2a4ab"],
    "block": ["753f417f", "dad77dfe", "df4128fb"],
    "image": ["dea70ee9", "efe38330", "6b44c4ee"],
}


def digest(records):
    return hashlib.sha256(json.dumps([(r.domain, r.key) for r in records]).encode()).hexdigest()[:8]


@pytest.mark.parametrize("by", ["patient", "block", "image"])
def test_a_seeded_split_stays_what_it_was(by):
    records = study(13, slices=12) if by == "patient" else stack(60) + stack(64, "b", shift=4)
    splits, _ = split_records(records, by=by, seed=1)
    assert [digest(splits[name]) for name in SETS] == SEEDED[by]


def test_planes_of_one_series_are_no_copies_of_each_other(tmp_path):
    files = [tmp_path / f"{n}.dcm" for n in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 100)  # slices of a scanner are files of one size
    records = [
        Record(**vars(r) | {"path": files[0], "others": tuple(files[1:]), "scan_key": "series"})
        for r in stack(40, subject="p")
    ]
    splits, how = split_records(records, by="block")
    assert "copies" not in how and len(splits["train"]) == 18


@given(
    patients=st.integers(4, 30),
    lone=st.integers(0, 12),
    folds=st.integers(2, 10),
    validation=st.sampled_from([0.0, 0.1, 0.2]),
    seed=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_every_patient_is_tested_in_exactly_one_fold(patients, lone, folds, validation, seed):
    folds = min(folds, patients)
    records = study(patients) + [r for n in range(lone) for r in stack(1, "a", f"lone{n:02d}")]
    asked = dict(folds=folds, validation=validation, seed=seed)
    splits = [split_records(records, **asked, fold=fold)[0] for fold in range(folds)]
    tested = Counter(subject for one in splits for subject in {record.subject for record in one["test"]})
    assert len(tested) == patients + lone and set(tested.values()) == {1}
    sizes = [len({record.subject for record in one["test"]}) for one in splits]
    with_b = [len({record.subject for record in one["test"] if record.domain == "b"}) for one in splits]
    assert max(sizes) - min(sizes) <= 1 and max(with_b) - min(with_b) <= 1
    for one in splits:
        subjects = [{record.subject for record in one[name]} for name in SETS]
        assert sum(map(len, subjects)) == len(set.union(*subjects)) == patients + lone, "nobody is divided or lost"
        assert names(sum(one.values(), [])) == names(records)
        assert bool(one["validation"]) == bool(validation)


def test_folds_hold_of_every_class_alike():
    records = [
        Record("image", f"{label}{n:02d}", f"{label}{n:02d}", partial(pixels, n), label=label)
        for label, count in (("no", 9), ("yes", 21))
        for n in range(count)
    ]
    for fold in range(3):
        splits, how = split_records(records, folds=3, fold=fold)
        assert Counter(record.label for record in splits["test"]) == {"no": 3, "yes": 7}
        assert f"fold {fold} of 3" in how and splits.by == "patient"


def test_folds_deal_out_what_folders_call_test_too():
    records = [Record(**{**vars(r), "split": "test" if r.subject < "p03" else "train"}) for r in study(6)]
    tested = [r.subject for fold in range(3) for r in split_records(records, folds=3, fold=fold)[0]["test"]]
    assert set(tested) == {f"p{n:02d}" for n in range(6)}


def test_images_without_stacks_have_folds_too_and_copies_share_one(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02d}.png").write_bytes(bytes([number % 9] * 40))
    records = [
        Record("image", "", f"{n}", partial(pixels, n % 9), path=tmp_path / f"{n:02d}.png", position=float(n))
        for n in range(12)
    ]
    splits = [split_records(records, folds=3, fold=fold, by="image")[0] for fold in range(3)]
    assert sorted(r.key for one in splits for r in one["test"]) == sorted(r.key for r in records)
    for one in splits:
        check_leakage(one)


@pytest.mark.parametrize(
    "records, options, says, where",
    [
        (study(4), dict(folds=5), "4 patients cannot be dealt out to 5 folds", "data.split.folds"),
        (study(4), dict(folds=1), "folds = 1 leaves nothing to train on", "data.split.folds"),
        (study(4), dict(folds=4, fold=4), "there is no fold 4 of 4", "data.split.fold"),
        (stack(40), dict(folds=4), "does not know which image is of which patient", "data.split.folds"),
        (study(4), dict(folds=4, by="block"), "by = 'block' holds out runs of slices", "data.split"),
        (study(4) + stack(2, "a", "q"), dict(folds=3, validation=0.9), "leave nothing to train on", "data.split"),
        (study(2) + [r for n in range(6) for r in stack(2, "a", f"q{n}")], dict(folds=4), "no image of domain b",
         "data.split.folds"),
    ],
)  # fmt: skip
def test_folds_that_cannot_be_are_said_before_training(records, options, says, where):
    with pytest.raises(UserError, match=says) as error:
        split_records(records, **options)
    assert error.value.where == where and (error.value.allowed or error.value.remedy)


def table(tmp_path, *lines, name="split.csv"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def subjects_of(splits):
    return [sorted({record.subject for record in splits[name]}) for name in SETS]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_file_says_who_is_where(tmp_path, separator):
    rows = ["Patient,age,Split", "p00,31,train", "p01,44,Training", "", "p02,50,val", "p03,27,test", "p04,61,none"]
    file = table(tmp_path, *(row.replace(",", separator) for row in rows), "stranger,1,test".replace(",", separator))
    splits, how = split_records(study(5), file=file)
    assert subjects_of(splits) == [["p00", "p01"], ["p02"], ["p03"]]
    assert splits.by == "file" and "split.csv" in how


def test_what_a_file_leaves_open_is_taken_from_its_training_patients(tmp_path):
    file = table(tmp_path, "patient,split", *(f"p{n:02d},{'test' if n > 7 else 'train'}" for n in range(10)))
    splits, how = split_records(study(10), file=file, validation=0.2)
    train, validation, test = subjects_of(splits)
    assert test == ["p08", "p09"] and len(validation) == 2 and len(train) == 6
    assert "test as 'split.csv' says, the rest from its training images by patient" in how


def test_a_file_of_folds_gives_each_its_turn(tmp_path):
    file = table(tmp_path, "patient,fold", *(f"p{n:02d},{1 + n % 3}" for n in range(9)))
    tested = [subjects_of(split_records(study(9), file=file, fold=fold, validation=0)[0])[2] for fold in (1, 2, 3)]
    assert tested == [[f"p{n:02d}" for n in range(9) if n % 3 == fold] for fold in range(3)]
    with pytest.raises(UserError, match="it has no fold 0") as error:
        split_records(study(9), file=file)
    assert error.value.allowed == "1, 2, 3" and error.value.where == "data.split.fold"


def test_a_file_may_name_images_by_path_or_by_key(tmp_path):
    (tmp_path / "images").mkdir()
    files = [tmp_path / "images" / f"{n}.png" for n in range(9)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
    records = [Record("a", "", file.name, partial(pixels, n), path=file) for n, file in enumerate(files)]
    words = ["train"] * 5 + ["validation"] * 2 + ["test"] * 2
    by_path = table(tmp_path, "path,split", *(f"images/{n}.png,{word}" for n, word in enumerate(words)))
    by_key = table(tmp_path, "key,split", *(f"{n}.png,{word}" for n, word in enumerate(words)), name="keys.csv")
    for file in (by_path, by_key):
        splits, _ = split_records(records, file=file)
        assert [[record.key for record in splits[name]] for name in SETS] == [
            [f"{n}.png" for n, word in enumerate(words) if word == name] for name in SETS
        ]


@pytest.mark.parametrize(
    "rows, says, where",
    [
        (["patient,split", "p00,train", "p01,tset"], "'tset' is no split.*Did you mean 'test'", "line 3"),
        (["patient,split", "p00,train", "p00,test"], "'p00' is in 'test' here, and in 'train' in line 2", "line 3"),
        (["patient,split", "p00,train", ",test"], "this row names no patient", "line 3"),
        (["patient,split", "p00,train", "p01"], "this row says no split", "line 3"),
        (["patient,patient,split", "p00,p01,train"], "two columns 'patient'", "data.split.file"),
        (["patient,split", "p00,train", "p01,"], "this row says no split", "line 3"),
        (["patient,fold", "p00,0", "p01,-1"], "'-1' is no fold", "line 3"),
        (["patient,fold", "p00,0", "p01,0"], "it has one fold only", "data.split.fold"),
        (["person,split", "p00,train"], "no column 'patient'", "line 1"),
        (["patient,set", "p00,train"], "no column 'split'", "line 1"),
        (["patient,split,fold", "p00,train,1"], "both 'split' and 'fold'", "line 1"),
        (["patient,split", "p00,train", "p01,test"], "2 of 4 patients have no row.*'p02', 'p03'", "data.split.file"),
        (["patient,split", *(f"p0{n},test" for n in range(4))], "leaves no image to train on", "data.split.file"),
        ([""], "is empty", "data.split.file"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_error_with_its_line(tmp_path, rows, says, where):
    with pytest.raises(UserError, match=says) as error:
        split_records(study(4), file=table(tmp_path, *rows))
    assert where in str(error.value) and "data.split" in error.value.where


def test_a_file_that_is_no_csv_or_not_there_is_said(tmp_path):
    (tmp_path / "binary.csv").write_bytes(b"patient,split\n\xff\xfe\x00,train\n")
    for name, says in (("binary.csv", "cannot be read"), ("none.csv", "does not exist"), ("", "cannot be read")):
        with pytest.raises(UserError, match=says):
            split_records(study(4), file=str(tmp_path / name))


def test_a_file_by_patient_needs_patients_and_one_by_path_keeps_pairs_whole(tmp_path):
    with pytest.raises(UserError, match="goes by patient, and the source does not know"):
        split_records(stack(10), file=table(tmp_path, "patient,split", "p00,train"))
    records = stack(4, "a") + stack(4, "b")
    rows = [f"/{r.domain}00{i % 4},{'test' if r.domain == 'b' and i == 5 else 'train'}" for i, r in enumerate(records)]
    with pytest.raises(UserError, match="registered pair, and line 3 puts the first into train, line 7 the second"):
        split_records(records, file=table(tmp_path, "key,split", *rows))


def test_a_file_and_folds_do_not_go_together(tmp_path):
    with pytest.raises(UserError, match="deals them out anew"):
        split_records(study(4), file=table(tmp_path, "patient,split", "p00,train"), folds=2)
    file = table(tmp_path, "patient,fold", *(f"p{n:02d},{n % 2}" for n in range(4)))
    with pytest.raises(UserError, match="it has 2 folds, not 3"):
        split_records(study(4), file=file, folds=3)
    assert split_records(study(4), file=file, folds=2, validation=0)[0]["test"]


def test_split_json_says_how_to_make_the_split_again(tmp_path):
    assert split_json(split_records(study(6), seed=7)[0])["seed"] == 7
    folded = split_json(split_records(study(6), folds=3, fold=2)[0] | {})
    assert (folded["folds"], folded["fold"], folded["seed"]) == (3, 2, 0)
    file = table(tmp_path, "patient,split", *(f"p{n:02d},{'test' if n > 3 else 'train'}" for n in range(6)))
    written = split_json(split_records(study(6), file=file, validation=0)[0])
    content = (tmp_path / "split.csv").read_bytes()
    assert written["by"] == "file"
    assert written["file"] == {"path": file, "sha256": hashlib.sha256(content).hexdigest()}
    assert "folds" not in written and json.dumps(written)


def test_splits_keep_what_they_are_when_a_set_is_replaced():
    splits = Splits({"train": study(2)}, "patient", {"seed": 3})
    assert ((splits | {"test": []}).by, (splits | {"test": []}).made) == ("patient", {"seed": 3})


def test_the_course_set_holds_out_the_same_anatomy_of_both_domains(shared_data):
    from gantk.data.sources.folders import Folders

    records = Folders(("T1", "T2"), 2, (96, 96), path=str(shared_data / "t1t2_course")).records()
    splits, _ = split_records(records, test=0.2, validation=0.1)
    pairs = Counter(record.pair for record in splits["test"])
    assert 7 <= len(pairs) <= 10 and set(pairs.values()) == {2}
    positions = sorted(record.position for record in splits["test"] if record.domain == "a")
    assert 1 + sum(np.diff(positions) > 1) == 2
    check_leakage(splits)
