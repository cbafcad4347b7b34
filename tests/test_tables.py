"""Tables of many rows: what is done for a row does not grow with their number, and no pattern or cell holds them up."""

import csv
import sys
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from gantk.data.sources.file_names import patient_of, regex_option
from gantk.data.sources.rows import read_rows
from gantk.data.split import near_duplicates
from gantk.data.split.near_duplicates import around_held_out, exact_copies
from gantk.data.split.split import split_records
from gantk.errors import UserError
from gantk_check.check import check
from gantk_manifest.source import Manifest


def calls(function) -> int:
    """How many functions a call of this one calls, whatever the load of the machine."""
    count = 0

    def one(frame, event, argument):
        nonlocal count
        count += 1

    sys.setprofile(one)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.fixture
def study(tmp_path):
    """`study(count)`: a table of so many noisy pictures, of ten patients, T1 and T2 in turn."""

    def make(count, side=16, name="table.csv"):
        with open(tmp_path / name, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "domain", "patient"])
            for number in range(count):
                path = tmp_path / f"{number:05d}.png"
                pixels = np.random.default_rng(number).integers(0, 255, (side, side))
                path.exists() or Image.fromarray(pixels.astype(np.uint8)).save(path)
                table.writerow([path.name, ("T1", "T2")[number % 2], f"p{number // 2 % 10}"])
        return tmp_path / name

    return make


def test_checking_a_table_calls_as_many_functions_a_row_however_many_rows_there_are(study):
    few, many = study(60, name="few.csv"), study(240)
    check(few)  # what is imported and compiled once
    assert calls(lambda: check(many)) < 5 * calls(lambda: check(few))


def test_a_check_decodes_every_picture_of_a_folder_and_of_a_table_once(study):
    table, ended = study(40, side=32), PngImageFile.load_end  # of the pixels of a file
    for path in (table, table.parent):
        with patch.object(PngImageFile, "load_end", autospec=True, side_effect=ended) as decoded:
            assert len(check(path, every=True)["files"]) == decoded.call_count == 40


def test_the_headers_of_a_tables_pairs_are_read_without_pillow_and_odd_ones_with_it(study):
    table = study(40)
    lines = [f"{n:05d}.png,{n + 1:05d}.png,p{n}" for n in range(0, 40, 2)]
    table.write_text("\n".join(["T1,T2,patient", *lines]))
    source = Manifest(("T1", "T2"), 2, (16, 16), path=str(table))
    with patch.object(Image, "open") as opened:
        assert {record.pair for record in source.records()} == {f"{n:05d}.png" for n in range(0, 40, 2)}
    assert not opened.called
    Image.open(table.parent / "00000.png").save(table.parent / "00000.png", dpi=(72, 72))  # a chunk before its pixels
    Image.new("P", (16, 16)).save(table.parent / "00003.png")
    Image.new("L", (16, 18)).save(table.parent / "00005.png")
    with patch.object(Image, "open", wraps=Image.open) as opened:
        pairs = [record.pair for record in source.records()]
    assert opened.call_count == 2 and pairs.count("00002.png") == 2 and "00004.png" not in pairs


def test_the_progress_of_a_check_moves_while_a_tables_rows_are_read(study):
    table, told = study(40), []
    with open(table, "a") as file:
        file.writelines(f"{n}.png,FLAIR,p{n}\n" for n in range(3000))
    check(table, set=["data.domains=['T1', 'T2']"], progress=lambda share, what: told.append((share, what)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[-1] == 1
    assert len({share for share, what in told if what.startswith(f"reading {table.name}, line")}) > 4


def test_the_pixels_of_a_very_large_set_are_sampled_and_equal_files_are_found_in_all_of_it(study, monkeypatch):
    monkeypatch.setattr(near_duplicates, "MOST", 30)
    monkeypatch.setattr(near_duplicates, "SOME", 10)
    table = study(60)
    found = check(table)
    assert found["images"] == 60 and len(found["files"]) == 10 and found["problems"][-1]["kind"] == "sample"
    assert (found["source"]["name"], found["patients"], found["domains"]["T2"]["images"]) == ("manifest", 10, 30)
    assert len(check(table, every=True)["files"]) == 60
    copy = (table.parent / "00000.png").read_bytes()  # of p0, for the patients on the other side of the split
    for number in range(2, 20, 2):
        (table.parent / f"{number:05d}.png").write_bytes(copy)
    leaks = [problem["what"] for problem in check(table)["problems"] if problem["kind"] == "leak"]
    assert len(leaks) == 1 and "file '0" in leaks[0]


def test_equal_files_are_as_many_pairs_as_files_and_none_stays_on_both_sides(study):
    from gantk.data.sources.folders import Images

    table = study(40)
    for path in list(table.parent.glob("*.png"))[5:35]:
        path.write_bytes((table.parent / "00000.png").read_bytes())
    records = Images(("MR",), 2, (16, 16), path=str(table.parent)).records()
    pairs, places = exact_copies(records), ["train"] * 20 + ["test"] * 20
    assert len(pairs) < len(records)
    assert {places[i] for i, _ in around_held_out(pairs, places)} == {"test"}
    splits, _ = split_records(records, by="block", gap=0)
    sides = [{record.path.read_bytes() for record in splits[name]} for name in ("train", "test")]
    assert not sides[0] & sides[1]


@pytest.mark.parametrize(
    "pattern, says",
    [("(a+)+$", "takes more than"), ("(.*.*.*.*.*.*.*.*b)", "takes more than"), ("(a)" * 100_000, "longer than 1000"),
     ("(a{" + "9" * 30 + "})", "is no regular"), ("(?:" * 300 + "(a)" + ")" * 300, "is no regular")],
    ids=["nested", "many", "long", "a number", "deep"],
)  # fmt: skip
def test_a_pattern_that_would_search_for_ever_ends(pattern, says, monkeypatch):
    monkeypatch.setattr("gantk.data.sources.file_names.PATIENCE", 0.1)
    with pytest.raises(UserError, match=says) as told:
        patient_of("a" * 200 + "!.png", regex_option(pattern))
    assert len(str(told.value)) < 500


def test_a_table_is_read_row_by_row_and_a_setting_of_thousands_of_keys_is_refused(tmp_path, gantk):
    path = tmp_path / "table.csv"
    path.write_bytes("\n\n ; ;\nPath;Patient\na;Zoë\n;\n\n b;c;d\n".encode("utf-8-sig"))
    rows = [(5, {"path": "a", "patient": "Zoë"}), (8, {"path": "b", "patient": "c"})]
    assert read_rows(path) == (["path", "patient"], rows)
    for setting in ("a." * 9000 + "b=1", "data.x={" + "a." * 9000 + "b=1}", "x" * 9000):
        found = gantk("run", "dualgan_t1t2", "--set", setting)
        assert found.code == 2 and len(found.err) < 1000
