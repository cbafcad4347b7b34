"""The cache: nothing is decoded twice, nothing stale or half-written is read, many may use it, none depends on it."""

import json
import os
import subprocess
import sys
import time
import warnings
import zipfile
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gantk.data import cache as caching
from gantk.data.cache import FORGOTTEN, Cache, Journal, digest, narrowest
from gantk.data.dataset import Data
from gantk.data.intensity import Percentile
from gantk.data.items import Record
from gantk.data.preparation import Preparation, Stacks, code_of, named_files
from gantk.data.sources.folders import Images
from gantk.errors import UserError
from gantk.method import Method
from gantk.recipe.tables import DataTable

SIZE = (16, 16)
LONG_AGO = 1e9  # seconds: files are not as young as the test
GIB = 2**30


class OneDomain(Method):
    """A method that learns images of one domain."""

    reads = ("image",)


class Translator(Method):
    """A method that learns unpaired images of two."""


def volume(seed, shape=(20, 24, 12)):
    """Whole numbers, (i, j, k) as in the file."""
    return np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(pixels, np.diag([1.0, 1.0, 1.0, 1.0])), path)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def study(tmp_path):
    """A folder of three volumes."""
    for number in range(3):
        save(tmp_path / "study" / f"p{number}.nii.gz", volume(number))
    return tmp_path / "study"


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", GIB)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_decoding(monkeypatch):
    """From here on nothing can be decoded: `no_decoding()`."""

    def forbid():
        def refuse(*args, **keywords):
            raise AssertionError("something was decoded again")

        for format in ("nifti", "pictures"):
            monkeypatch.setattr(f"gantk.formats.{format}.read", refuse)

    return forbid


def prepared(study, cache, size=SIZE, fit="pad", about="", planes=(0.25, 0.75)):
    records = Images(("MR",), 2, size, path=str(study), planes=planes).records()
    return records, Preparation(records, size, fit, cache=cache, about=about)


def all_images(study, cache, **options):
    records, preparation = prepared(study, cache, **options)
    return np.stack([preparation.to_size(record) for record in records])


def entries(cache):
    return sorted(cache.images.glob("*.npy"))


# ---- what it saves


def test_the_second_epoch_and_the_second_run_never_decode(study, cache, no_decoding):
    records, preparation = prepared(study, cache)
    first = [preparation.to_size(record) for record in records]
    no_decoding()
    for record, image in zip(records, first, strict=True):
        np.testing.assert_array_equal(preparation.to_size(record), image)
    again = all_images(study, Cache(cache.folder, GIB))
    np.testing.assert_array_equal(again, first)
    assert len(entries(cache)) == 3, "one file for each scan"
    assert all(isinstance(rows, np.memmap) and not rows.flags.writeable for rows in cache._maps.values())


def test_what_comes_from_the_cache_is_what_was_decoded_to_the_bit(study, cache):
    for fit in ("pad", "stretch", "crop"):
        plain = all_images(study, None, fit=fit)
        for _ in range(2):
            np.testing.assert_array_equal(all_images(study, cache, fit=fit), plain)


def test_one_slice_fills_the_entry_of_its_scan_alone(study, cache):
    records, preparation = prepared(study, cache)
    preparation.to_size(records[8])
    (entry,) = entries(cache)
    assert np.load(entry).shape == (6, 1, *SIZE)


def test_slices_of_one_resolution_are_kept_in_the_type_that_holds_them(study, cache):
    all_images(study, cache, fit="crop")
    assert {np.load(entry).dtype for entry in entries(cache)} == {np.dtype(np.int16)}


@given(
    hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32))
    | hnp.arrays(np.float32, (3, 4), elements=st.integers(-40000, 70000).map(float))
    | hnp.arrays(np.float32, (3, 4), elements=st.integers(0, 255).map(float))
)
@settings(max_examples=80, deadline=None)
def test_narrowing_changes_no_value(images):
    images[0, 0] = np.nan if images[0, 1] == 7 else images[0, 0]
    narrow = narrowest(images)
    np.testing.assert_array_equal(narrow.astype(np.float32), images)
    assert narrow.nbytes <= images.nbytes
    whole = np.array_equal(images, np.rint(images))
    assert narrow.itemsize == (1 if whole and images.min() >= 0 and images.max() <= 255 else narrow.itemsize)


# ---- when an entry holds


def test_other_content_another_size_fit_or_source_are_other_entries(study, cache):
    first = all_images(study, cache)
    counts = [len(entries(cache))]
    for options in ({"size": (12, 16)}, {"fit": "stretch"}, {"about": "gray"}, {"planes": (0.2, 0.8)}):
        all_images(study, cache, **options)
        counts.append(len(entries(cache)))
    assert counts == [3, 6, 9, 12, 15]
    save(study / "p1.nii.gz", volume(77))
    os.utime(study / "p1.nii.gz", (LONG_AGO + 9, LONG_AGO + 9))
    changed = all_images(study, Cache(cache.folder, GIB))
    same = [np.array_equal(one, other) for one, other in zip(first, changed, strict=True)]
    assert same == [True] * 6 + [False] * 6 + [True] * 6 and len(entries(cache)) == 16


def test_a_copied_study_and_a_touched_file_are_no_other_content(study, cache, tmp_path, no_decoding):
    first = all_images(study, cache)
    os.utime(study / "p0.nii.gz", (LONG_AGO + 5, LONG_AGO + 5))
    other = tmp_path / "elsewhere"
    other.mkdir()
    for file in study.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    no_decoding()
    np.testing.assert_array_equal(all_images(study, Cache(cache.folder, GIB)), first)
    np.testing.assert_array_equal(all_images(other, cache), first)


def test_files_are_hashed_once_for_as_long_as_they_stay_the_same(study, cache, monkeypatch):
    hashed = []
    digesting = caching.hashlib.file_digest
    monkeypatch.setattr(
        caching.hashlib, "file_digest", lambda file, kind: hashed.append(file.name) or digesting(file, kind)
    )
    path = study / "p0.nii.gz"
    known = cache.content(path)
    assert Cache(cache.folder, GIB).content(path) == cache.content(path) == known and len(hashed) == 1
    replacement = save(study.parent / "new.nii.gz", volume(5))
    os.replace(replacement, path)  # as old as before: another inode
    assert Cache(cache.folder, GIB).content(path) != known and len(hashed) == 2
    os.utime(path)  # it may change again within one tick of the clock
    cache.content(path)
    Cache(cache.folder, GIB).content(path)
    assert len(hashed) == 4


def test_the_voxels_behind_a_header_are_part_of_its_content(tmp_path, cache):
    sitk = pytest.importorskip("SimpleITK")
    paths = [tmp_path / "one.mhd", tmp_path / "two.nhdr"]
    preparation = Preparation([], SIZE, "pad", cache=cache)
    contents = []
    for value in (3, 4):
        for path in paths:
            sitk.WriteImage(sitk.GetImageFromArray(np.full((9, 10, 11), value, np.int16)), str(path))
        contents.append([preparation._contents([path]) for path in paths])
    for before, after in zip(*contents, strict=True):
        assert len(before) == 2 and before[0] == after[0] and before[1] != after[1]


def test_changed_code_makes_entries_of_its_own(add_plugin):
    folder = add_plugin("my-reader", "my_reader", "class Source:\n    gain = 1\n")
    import my_reader

    first = code_of(my_reader.Source)
    assert first == code_of(my_reader.Source) != code_of(Images)
    (folder / "my_reader.py").write_text("class Source:\n    gain = 2\n")
    code_of.cache_clear()
    assert code_of(my_reader.Source) != first


def test_computed_images_are_not_kept(cache):
    records = [Record("a", "", str(n), partial(np.full, (1, 8, 8), n, np.float32)) for n in range(3)]
    preparation = Preparation(records, SIZE, "pad", cache=cache)
    assert [float(preparation.to_size(record).max()) for record in records] == [0, 1, 2]
    assert not cache.folder.exists()


def test_a_file_that_is_gone_is_the_readers_to_complain_of(study, cache):
    records, preparation = prepared(study, cache)
    (study / "p0.nii.gz").unlink()
    with pytest.raises(UserError, match="p0.nii.gz"):
        preparation.to_size(records[0])


# ---- many at once

FILL = """
import hashlib, sys
from pathlib import Path
from gantk.data.cache import Cache
from gantk.data.sources.folders import Images
from gantk.data.preparation import Preparation

study, folder = sys.argv[1:3]
print("ready", flush=True)
sys.stdin.readline()
records = Images(("MR",), 2, (16, 16), path=study).records()
preparation = Preparation(records, (16, 16), "pad", cache=Cache(Path(folder), 2**30))
pixels = hashlib.sha256()
for _ in range(2):
    for record in records:
        pixels.update(preparation.to_size(record).tobytes())
print(pixels.hexdigest())
"""


def start(script, *args):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_two_processes_may_fill_it_at_once(study, cache, tmp_path):
    both = [start(FILL, study, cache.folder) for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=600) for process in both]
    alone = start(FILL, study, tmp_path / "other")
    expected = alone.communicate("go\n", timeout=600)[0].splitlines()[1]
    assert [(out.strip(), err) for out, err in told] == [(expected, "")] * 2
    assert len(entries(cache)) == 3 and len(list(cache.images.iterdir())) == 3


KILLED = FILL.replace(
    'print("ready", flush=True)',
    """
import numpy as np
def half(file, array, **options):
    file.write(b"\\x93NUMPY half of it")
    file.flush()
    print("half", flush=True)
    sys.stdin.readline()
np.lib.format.write_array = half
""",
).replace("\nsys.stdin.readline()\nrecords", "\nrecords")


def test_a_run_that_is_killed_while_it_fills_leaves_nothing_that_hinders(study, cache):
    process = start(KILLED, study, cache.folder)
    assert process.stdout.readline() == "half\n", process.stderr.read()
    process.kill()
    process.communicate(timeout=600)
    (left,) = cache.images.iterdir()
    assert left.name.startswith("."), "readers never see a file that is not whole"
    np.testing.assert_array_equal(all_images(study, cache), all_images(study, None))
    assert len(entries(cache)) == 3 and left.exists(), "it may belong to a run that still writes"
    os.utime(left, (time.time() - FORGOTTEN - 60,) * 2)
    Cache(cache.folder, GIB).rows("0" * 32, lambda: np.zeros((1, 2), np.float32))
    assert not left.exists() and len(entries(cache)) == 4


def test_threads_make_an_entry_once(cache):
    from concurrent.futures import ThreadPoolExecutor

    made = []

    def make():
        made.append(1)
        return np.arange(6, dtype=np.float32).reshape(2, 3) / 7

    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda _: cache.rows("a" * 32, make), range(64)))
    assert made == [1] and all(np.array_equal(each, rows[0]) for each in rows)


# ---- what is broken is made anew

BROKEN = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:-100],
    "without its end": lambda content: content[:-8],
    "one bit of an image": lambda content: content[:-60] + bytes([content[-60] ^ 4]) + content[-59:],
    "a longer file": lambda content: content + b"more",
    "a header of garbage": lambda content: content[:8] + b"\xff" * 60 + content[68:],
    "a header that lies": lambda content: content.replace(b"(6, 1,", b"(9, 1,"),
    "no array at all": lambda content: b"a text " * 100,
    "objects": lambda content: content.replace(b"'<f4'", b"'|O'  "),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_entries_are_made_anew(study, cache, how):
    expected = all_images(study, cache)
    for entry in entries(cache):
        content = entry.read_bytes()
        entry.unlink()  # not written over: what is mapped stays as it is
        entry.write_bytes(BROKEN[how](content))
        assert entry.read_bytes() != content
    np.testing.assert_array_equal(all_images(study, Cache(cache.folder, GIB)), expected)
    assert all(np.load(entry).shape[0] == 6 for entry in entries(cache))


def test_an_archive_in_place_of_an_entry_is_made_anew(cache):
    cache.images.mkdir(parents=True)
    with zipfile.ZipFile(cache.images / f"{'b' * 32}.npy", "w") as archive:
        archive.writestr("x", "y")
    assert cache.rows("b" * 32, lambda: np.ones((1, 2), np.float32)).tolist() == [[1, 1]]


def test_journals_pass_over_broken_lines(tmp_path):
    first, second = Journal(tmp_path / "j.jsonl"), Journal(tmp_path / "j.jsonl")
    assert first.get("a") is second.get("a") is None
    first.put("a", [1.5, None])
    with open(first.path, "ab") as file:
        file.write(b'["killed", {"half": ')
    second.put("b", "x")
    with open(first.path, "ab") as file:
        file.write(b'\n\x00\xff\n{}\n[1]\n["c"]\n[[], 2]\n')
    second.put("c", 3)
    again = Journal(first.path)
    assert [again.get(name) for name in ("a", "b", "c", "killed")] == [[1.5, None], "x", 3, None]


def test_a_journal_that_has_grown_too_large_is_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("gantk.data.cache.JOURNAL_LIMIT", 1000)
    journal = Journal(tmp_path / "j.jsonl")
    for number in range(100):
        journal.put(f"name {number}", "value " * 5)
    assert journal.get("name 3") and Journal(journal.path).get("name 3") is None
    assert not journal.path.exists() or journal.path.stat().st_size < 1000


# ---- where it cannot be written


def hindered(study, folder, limit=GIB):
    """Every image, and the warnings that were given."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        images = all_images(study, Cache(folder, limit))
    return images, [str(one.message) for one in told]


def test_a_folder_that_cannot_be_written_is_said_once_and_done_without(study, tmp_path):
    (tmp_path / "file").write_text("in the way")
    images, told = hindered(study, tmp_path / "file" / "cache")
    np.testing.assert_array_equal(images, all_images(study, None))
    assert len(told) == 1 and "takes no more images" in told[0] and "GANTK_CACHE" in told[0]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_still_read(study, cache, no_decoding):
    expected = all_images(study, cache)
    for folder in (cache.images, cache.folder):
        folder.chmod(0o555)
    no_decoding()
    images, told = hindered(study, cache.folder)
    for folder in (cache.folder, cache.images):
        folder.chmod(0o755)
    np.testing.assert_array_equal(images, expected)
    assert not told


def test_entries_are_read_where_nothing_may_change(study, cache, monkeypatch, no_decoding):
    expected = all_images(study, cache)
    no_decoding()

    def refuse(*args, **keywords):
        raise PermissionError("read-only file system")

    for name in ("utime", "replace", "unlink", "mkdir"):
        monkeypatch.setattr(os, name, refuse)
    opened = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *rest: refuse() if flags & os.O_WRONLY else opened(path, flags))
    images, told = hindered(study, cache.folder)
    np.testing.assert_array_equal(images, expected)
    assert not told


def test_a_full_disk_is_said_once_and_done_without(study, cache, monkeypatch):
    usage = caching.shutil.disk_usage(study)
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    images, told = hindered(study, cache.folder)
    np.testing.assert_array_equal(images, all_images(study, None))
    assert len(told) == 1 and "would be left on the disk" in told[0]
    assert not list(cache.images.iterdir())


def test_a_write_that_fails_half_way_leaves_nothing(study, cache, monkeypatch):
    def fail(file, array, **options):
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caching.np.lib.format, "write_array", fail)
    images, told = hindered(study, cache.folder)
    np.testing.assert_array_equal(images, all_images(study, None))
    assert len(told) == 1 and "No space left" in told[0] and not list(cache.images.iterdir())


def test_after_a_refusal_only_what_is_asked_for_is_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / "scan.nii.gz", volume(0))
    read = []
    records = [
        Record("a", "", f"{n}", lambda n=n: read.append(n) or np.full((1, 8, 8), n, np.float32), path=path)
        for n in range(50)
    ]
    (tmp_path / "file").write_text("in the way")
    preparation = Preparation(records, (8, 8), "pad", cache=Cache(tmp_path / "file" / "x", GIB))
    with pytest.warns(RuntimeWarning, match="takes no more images"):
        preparation.to_size(records[3])
    assert len(read) == 50
    assert preparation.to_size(records[9]).max() == 9 and read[50:] == [9]


# ---- how large it gets


def put(cache, key, kibibytes=64, used=None):
    rows = cache.rows(key * 32, lambda: np.full((1, kibibytes * 256), 0.5, np.float32))
    path = cache.images / f"{key * 32}.npy"
    if used is not None:
        os.utime(path, (used, used))
    return rows


def test_the_least_recently_used_leave_first(tmp_path):
    earlier = Cache(tmp_path, GIB)
    for key, used in (("a", 100), ("b", 300), ("c", 200), ("d", 400)):
        put(earlier, key, used=LONG_AGO + used)
    later = Cache(tmp_path, 4 * 65 * 2**10)
    put(later, "a")  # used again
    put(later, "e")
    assert {entry.name[0] for entry in entries(later)} == {"a", "b", "d", "e"}
    put(later, "f", kibibytes=120)
    assert {entry.name[0] for entry in entries(later)} == {"a", "e", "f"}
    assert sum(entry.stat().st_size for entry in entries(later)) <= later.limit


def test_what_a_run_uses_stays_and_what_has_no_room_is_decoded(tmp_path):
    cache = Cache(tmp_path, 3 * 65 * 2**10)
    for key in "abc":
        put(cache, key)
    with pytest.warns(RuntimeWarning, match="this run alone fills its"):
        assert put(cache, "d").shape == (1, 64 * 256)
    assert {entry.name[0] for entry in entries(cache)} == {"a", "b", "c"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert put(cache, "a") is not None and cache.rows("e" * 32, lambda: 1 / 0) is None


def test_an_entry_that_another_run_removes_stays_mapped(tmp_path):
    one, other = Cache(tmp_path, GIB), Cache(tmp_path, 65 * 2**10)
    rows = put(one, "a", used=LONG_AGO)
    put(other, "b")
    assert {entry.name[0] for entry in entries(one)} == {"b"} and (np.array(rows) == 0.5).all()
    one._maps.clear()
    assert (put(one, "a") == 0.5).all(), "and is made anew"


def test_only_so_many_entries_are_mapped_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "OPEN", 5)
    cache = Cache(tmp_path, GIB)
    for number in range(20):
        cache.rows(digest(number), lambda number=number: np.full((1, 3), number, np.float32))
    assert len(cache._maps) == 5
    for number in range(20):
        assert cache.rows(digest(number), lambda: 1 / 0).tolist() == [[number] * 3]


# ---- where it is


def test_the_folder_and_size_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "mine"))
    assert Cache.default().folder == tmp_path / "mine" and Cache.default().limit == 20 * GIB
    monkeypatch.delenv("GANTK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("GANTK_CACHE_GIB", "0.5")
    assert Cache.default().folder == tmp_path / "xdg" / "gantk" and Cache.default().limit == GIB / 2
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache.default().folder == tmp_path / ".cache" / "gantk"
    monkeypatch.setenv("GANTK_CACHE_GIB", "0")
    assert Cache.default() is None


@pytest.mark.parametrize("said", ["much", "-1", "nan", "inf"])
def test_a_size_that_is_none_is_the_users_mistake(said, monkeypatch):
    monkeypatch.setenv("GANTK_CACHE_GIB", said)
    with pytest.raises(UserError, match=rf"'{said}' is no size.*GiB, 0 or more.*\(GANTK_CACHE_GIB\)"):
        Cache.default()


# ---- a recipe's data


def table(path, **options):
    split = {"test": 0.34, "validation": 0.0, "by": "patient"}
    source = {"name": "images", "path": str(path)}
    keys = {"source": source, "domains": ("MR",), "size": SIZE, "memory": 1e-9, "split": split}
    return DataTable.model_validate_json(json.dumps(keys | options))


def seen(data):
    """Every training image by domain and key, with its mask."""
    return {
        (letter, record.key): [part.numpy().copy() for part in images.prepared(number)]
        for letter, images in data.training_sets().items()
        for number, record in enumerate(images.records)
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        np.array_equal(a, b) for key in one for a, b in zip(one[key], other[key], strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"intensity": {"name": "percentile", "per": "volume", "foreground": "otsu"}},
        {"intensity": "nyul", "fit": "crop"},
        {"neighbours": 1, "size": (20, 12)},
        {"dims": 3, "size": (8, 16, 16)},
    ],
    ids=["plain", "per volume", "nyul", "neighbours", "volumes"],
)
def test_training_is_the_same_with_and_without_it_and_a_second_run_reads_no_image(study, options, no_decoding):
    plain = Data.load(table(study, cache=False, **options), OneDomain)
    expected, states = seen(plain), plain.intensity_state()
    assert not Path(os.environ["GANTK_CACHE"]).exists()
    first = Data.load(table(study, **options), OneDomain)
    assert first.leaks() is None
    no_decoding()
    assert same(seen(first), expected) and first.intensity_state() == states, "the check has read all there is"
    second = Data.load(table(study, **options), OneDomain)
    assert second.leaks() is None
    assert same(seen(second), expected) and second.intensity_state() == states and second.channels == plain.channels


def test_another_intensity_needs_no_new_decoding_of_what_is_trained_on(study, no_decoding):
    data = Data.load(table(study), OneDomain)
    seen(data)
    sets = Data.load(table(study, intensity="minmax"), OneDomain).training_sets()
    no_decoding()
    images = sets["image"]
    assert all(float(images[n].max()) <= 1 for n in range(len(images)))


def test_masks_and_missing_contrasts_are_kept_too(tmp_path, no_decoding):
    for number in range(6):
        folder = tmp_path / "cohort" / f"patient{number}"
        for k, name in enumerate(("T1", "T2", "FLAIR")):
            if (number, name) != (1, "FLAIR"):
                save(folder / f"{name}.nii.gz", volume(10 * number + k))
        save(folder / "seg.nii.gz", (volume(99 + number) > 700).astype(np.uint8))
    keys = {
        "source": {"name": "contrasts", "path": str(tmp_path / "cohort"), "mask": "seg"},
        "domains": ("T1+FLAIR", "T2"),
        "mask": True,
        "missing": "mask",
    }
    expected = seen(Data.load(table("", cache=False, **keys), Translator))
    assert same(seen(Data.load(table("", **keys), Translator)), expected)
    no_decoding()
    again = seen(Data.load(table("", **keys), Translator))
    assert same(again, expected) and any(mask.any() for _, mask in again.values())


def test_masks_are_kept_where_it_is_known_what_is_read_for_them(tmp_path):
    from gantk.data.sources.reader import Item, Reader

    reader, mask = Reader(2), tmp_path / "mask.nii"
    item = Item("a", tmp_path / "image.nii", "image", mask=mask)
    assert mask in named_files(partial(reader.mask, item, 3)) and mask in named_files(
        partial(reader.mask, (item, None))
    )
    assert named_files(lambda: None) == named_files(partial(np.zeros, 3)) == named_files(partial(volume, mask)) == ()


def test_held_out_images_come_from_it_too(study, no_decoding):
    options = {"intensity": {"name": "percentile", "per": "volume"}}
    data = Data.load(table(study, **options), OneDomain)
    first = [data.image(record) for record in data.splits["test"]]
    no_decoding()
    data = Data.load(table(study, **options), OneDomain)
    for record, image in zip(data.splits["test"], first, strict=True):
        np.testing.assert_array_equal(data.image(record), image)
    assert first


def test_neighbours_of_single_pictures_come_from_it(tmp_path, pictures, no_decoding):
    for number in range(3):
        pictures(tmp_path / "pictures" / f"patient{number}", 5, seed=number)
    records = Images(("MR",), 2, (32, 32), path=str(tmp_path / "pictures")).records()
    stacks = Stacks(records, 1)
    expected = {record.key: record.read() for record in stacks.of(records)}

    def images():
        preparation = Preparation(records, (32, 32), "pad", cache=Cache.default())
        preparation.with_neighbours(stacks, records)
        return {record.key: preparation.to_size(record) for record in records}

    for turn in range(2):
        found = images()
        assert all(np.array_equal(found[key], expected[key]) for key in expected)
        if not turn:
            no_decoding()


def test_facts_are_learnt_once(study, cache):
    records, preparation = prepared(study, cache)
    made = []
    for instance in (preparation, prepared(study, Cache(cache.folder, GIB))[1]):
        for _ in range(2):
            assert instance.fact("mean", records[:2], "x", lambda: made.append(1) or {"mean": 3.25}) == {"mean": 3.25}
    assert made == [1]
    other = Preparation(records, SIZE, "pad", cache=cache, intensity={"low": 1})
    other.fact("mean", records[:2], "x", lambda: made.append(2) or {})
    preparation.fact("mean", records[:2], "y", lambda: made.append(3) or {})
    assert made == [1, 2, 3]


def test_a_scans_own_line_is_measured_once_for_all_runs(study, cache, no_decoding):
    mapping = Percentile(per="volume")
    records, preparation = prepared(study, cache)
    first = [preparation.measured(record, mapping) for record in records]
    no_decoding()
    records, preparation = prepared(study, Cache(cache.folder, GIB))
    assert [preparation.measured(record, mapping) for record in records] == first
    assert first[0] == mapping.measure(volume(0).astype(np.float32)[None])


def test_the_search_for_copies_decodes_nothing_twice(study, cache, no_decoding):
    from gantk.data.split.near_duplicates import see
    from gantk.data.split.thumbnails import see_once

    save(study / "p3.nii.gz", np.full((20, 24, 12), 5, np.int16))
    records, preparation = prepared(study, cache, planes=(0.0, 1.0))
    plain = [see(record, "train") for record in records]
    sized = prepared(study, None, planes=(0.0, 1.0))[1]
    expected = [sized.to_size(record) for record in records]
    assert {bool(one.look) for one in plain} == {True, False} and None in {one.digest for one in plain}
    for turn in range(2):
        for record, one in zip(records, plain, strict=True):
            other = see_once(preparation, record, "train")
            fields = ("name", "subject", "stack", "position", "group", "digest")
            assert all(getattr(one, name) == getattr(other, name) for name in fields)
            assert (one.look is None) == (other.look is None)
            if one.look is not None:
                np.testing.assert_array_equal(one.look.thumbnails, other.look.thumbnails)
                np.testing.assert_array_equal(one.look.hashes, other.look.hashes)
        if not turn:
            no_decoding()
            records, preparation = prepared(study, Cache(cache.folder, GIB), planes=(0.0, 1.0))
    np.testing.assert_array_equal([preparation.to_size(record) for record in records], expected)


def test_looks_of_volumes_and_of_computed_images(study, cache):
    from gantk.data.split.near_duplicates import see
    from gantk.data.split.thumbnails import see_once

    records = Images(("MR",), 3, (16, 16, 16), path=str(study)).records()
    computed = Record("a", "", "x", lambda: np.eye(20, dtype=np.float32)[None])
    preparation = Preparation([*records, computed], (16, 16, 16), "pad", cache=cache)
    preparation.to_size = lambda record: None
    for record in (*records, computed):
        for _ in range(2):
            one, other = see(record), see_once(preparation, record)
            assert one.digest == other.digest and (one.look is None) == (other.look is None)
            assert one.look is None or np.array_equal(one.look.hashes, other.look.hashes)
