"""The cache: nothing is decoded twice, nothing stale or half-written is read, many may use it, none
depends on it.
"""

import getpass
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from volumes import FROM_NOISE, SIZE, UNPAIRED, load, records_of, volume

from gantk.data import cache as caching
from gantk.data import preparation as preparing
from gantk.data.cache import Cache
from gantk.data.preparation import Preparation
from gantk.data.sources.files import Files
from gantk.errors import UserError
from gantk.machine.runtime import start
from gantk_parts.nyul import Nyul

LONG_AGO = 1e9  # seconds: entries that no run uses any more
GIB = 2**30
PLANES = (0.25, 0.75)


def save(path, seed, above=None):
    """A volume of whole numbers, or of where they are high."""
    values = np.random.default_rng(seed).integers(0, 900, (20, 24, 12)).astype(np.int16)
    return volume(
        path,
        values=values if above is None else (values > above).astype(np.uint8),
        affine=np.eye(4),
    )


@pytest.fixture
def study(tmp_path):
    """A folder of three volumes."""
    for number in range(3):
        save(tmp_path / "study" / f"p{number}.nii", number)
    return tmp_path / "study"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "cache"))
    return Cache.default()


@pytest.fixture
def no_decoding(monkeypatch):
    """From here on nothing can be decoded: `no_decoding()`."""
    return lambda: monkeypatch.setattr(
        "gantk.formats.files.read", lambda *args: pytest.fail("decoded again")
    )


def all_images(study, cache, size=SIZE, fit="pad", about="", planes=PLANES):
    records = records_of(Files, study, ("MR",), planes=planes)
    preparation = Preparation(records, size, fit, cache=cache, about=about)
    return np.stack([preparation.to_size(record) for record in records])


def entries(cache):
    return sorted(cache.entries.glob("*.npy"))


def put(cache, key, kibibytes=64, used=None):
    """An entry of that size, used at that time."""
    cache.rows(key * 32, lambda: np.full((1, kibibytes * 256), 0.5, np.float32))
    if used is not None:
        os.utime(cache.entries / f"{key * 32}.npy", (used, used))


# ---- when an entry holds


@pytest.mark.parametrize("fit", ["pad", "resize", "crop"])
def test_cached_images_are_not_decoded_again(study, cache, no_decoding, fit):
    plain = all_images(study, None, fit=fit)
    np.testing.assert_array_equal(all_images(study, cache, fit=fit), plain)
    no_decoding()
    np.testing.assert_array_equal(all_images(study, Cache.default(), fit=fit), plain)


def test_other_files_size_fit_or_source_are_other_entries(study, cache):
    first = all_images(study, cache)
    counts = []
    for options in (
        {},
        {"size": (12, 16)},
        {"fit": "resize"},
        {"about": "gray"},
        {"planes": (0.2, 0.8)},
    ):
        all_images(study, cache, **options)
        counts.append(len(entries(cache)))

    assert counts == [3, 6, 9, 12, 15]

    old = (study / "p1.nii").stat()
    os.replace(save(study.parent / "new.nii", 77), study / "p1.nii")
    os.utime(study / "p1.nii", ns=(old.st_atime_ns, old.st_mtime_ns))
    changed = all_images(study, cache)  # as large and as old as the file before it
    same = [np.array_equal(one, other) for one, other in zip(first, changed, strict=True)]

    assert same == [True] * 6 + [False] * 6 + [True] * 6
    assert len(entries(cache)) == 16


def test_a_raised_version_makes_other_entries(study, no_decoding, monkeypatch):
    source = {"name": "images", "path": str(study)}
    load(source, **ONE_CONTRAST)
    no_decoding()
    monkeypatch.setattr(preparing, "VERSION", preparing.VERSION + 1)

    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        load(source, **ONE_CONTRAST)


def test_whoever_changes_prepared_pixels_raises_the_version(study):
    """Entries are named by it: with other figures here, other images would be read from earlier
    entries.
    """
    image = all_images(study, None)[7]
    mapping = Nyul()
    mapping.fit([record.scan() for record in records_of(Files, study, ("MR",), planes=PLANES)[::6]])
    figures = [
        image.mean(),
        image.std(),
        image[0, 3, 5],
        image[0, 10, 10],
        *mapping.fitted["mean"][:2],
    ]
    expected = {5: [366.37494, 206.86739, 525.72327, 630.16248, 222.66667, 453.66667]}

    np.testing.assert_allclose(figures, expected[preparing.VERSION], rtol=1e-5)


def test_many_may_fill_it_at_once(study, cache):
    with ThreadPoolExecutor(8) as pool:  # each with an instance of its own, as processes have
        found = list(pool.map(lambda _: all_images(study, Cache.default()), range(8)))
    assert all(np.array_equal(each, all_images(study, None)) for each in found)
    assert len(entries(cache)) == 3
    assert not list(cache.entries.glob(".*"))


@pytest.mark.parametrize(
    "broken",
    [
        lambda content: content[:-100],
        lambda content: content.replace(b"(6, 1,", b"(9, 1,"),
        lambda content: content.replace(b"'<f4'", b"'|O'  "),
        lambda content: content[:-1],
        lambda content: content[:-4],
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    ],
    ids=[
        "cut short",
        "a header that lies",
        "objects",
        "part of a checksum",
        "an earlier version's",
        "one bit",
    ],
)
def test_broken_entries_are_made_anew(study, cache, broken):
    expected = all_images(study, cache)
    for entry in entries(cache):
        content = entry.read_bytes()
        entry.unlink()  # not written over: what is mapped stays as it is
        entry.write_bytes(broken(content))

    np.testing.assert_array_equal(all_images(study, Cache.default()), expected)
    assert all(np.load(entry).shape[0] == 6 for entry in entries(cache))


def test_unsafe_or_foreign_entries_are_made_anew(study, cache):
    expected = all_images(study, cache)
    first, second, third = entries(cache)
    first.rename(study / "first")
    second.rename(first)  # whole, and another image's
    (study / "first").rename(second)
    third.chmod(0o622)

    np.testing.assert_array_equal(all_images(study, Cache.default()), expected)
    assert all(entry.stat().st_mode & 0o777 == 0o600 for entry in entries(cache))


def test_an_entry_holds_all_slices_of_a_scan_and_is_mapped(study, cache):
    all_images(study, cache)
    shapes = [np.load(entry).shape for entry in entries(cache)]

    assert shapes == [(6, 1, *SIZE)] * 3
    rows = cache.rows(entries(cache)[0].stem, lambda: 1 / 0)
    assert isinstance(rows, np.memmap)
    assert not rows.flags.writeable


@pytest.mark.parametrize("years", [-20, 20])
def test_a_clock_that_jumps_does_not_break_the_size_limit(tmp_path, monkeypatch, years):
    caches = [Cache(tmp_path, 10 * 65 * 2**10) for _ in range(4)]
    for number, key in enumerate("abcdefgh"):
        put(caches[number % 4], key)

    now = caching.time.time() + years * 3.15e7
    monkeypatch.setattr(caching.time, "time", lambda: now)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an hour's entries fill it
        for number, key in enumerate("ijklmnopqrstuvwx"):
            put(caches[number % 4], key)

    sizes = [entry.stat().st_size for entry in entries(caches[0])]

    assert sum(sizes) <= caches[0].limit
    newest = "x" * 32
    assert (tmp_path / "images" / f"{newest}.npy").exists()


# ---- where it cannot be written, and how large it gets


def test_least_recently_used_entries_are_dropped_first(tmp_path):
    def names(cache):
        return "".join(entry.name[0] for entry in entries(cache))

    earlier = Cache(tmp_path, GIB)
    for key, used in (("a", 100), ("b", 300), ("c", 200), ("d", 400)):
        put(earlier, key, used=LONG_AGO + used)

    half = earlier.entries / ".e.npy.1.1"  # of a run that was killed
    half.write_bytes(b"half")
    os.utime(half, (LONG_AGO, LONG_AGO))
    later = Cache(tmp_path, 4 * 65 * 2**10)
    put(later, "a")  # used again
    put(later, "e")

    assert names(later) == "abde"
    assert not half.exists()
    put(later, "f", kibibytes=120)
    assert names(later) == "aef"
    assert sum(entry.stat().st_size for entry in entries(later)) <= later.limit
    with pytest.warns(RuntimeWarning, match="used in the last hour"):
        put(later, "g", kibibytes=120)

    assert names(later) == "aef"


def test_the_folder_and_size_come_from_the_environment(tmp_path, monkeypatch):
    assert Cache.default().folder == tmp_path / "cache"
    assert Cache.default().limit == 20 * GIB
    monkeypatch.setenv("GANTK_CACHE_GIB", "0")
    assert Cache.default() is None

    monkeypatch.setenv("GANTK_CACHE_GIB", "nan")
    with pytest.raises(
        UserError, match=r"'nan' is not a valid cache size.*GiB.*\(GANTK_CACHE_GIB\)"
    ):
        Cache.default()


def test_a_user_id_unknown_to_the_system_trains_without_cache(
    monkeypatch,
):
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    monkeypatch.delenv("HOME", raising=False)
    for name in ("GANTK_CACHE", "XDG_CACHE_HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")

    assert Cache.default() is None
    assert start("cpu").device.type == "cpu"
    assert getpass.getuser() == str(os.getuid())


def no_more_images_are_kept_and_it_is_said_once(study, cache):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(all_images(study, cache), all_images(study, None))
    (warning,) = told
    assert "cannot store more images" in str(warning.message)
    assert "GANTK_CACHE" in str(warning.message)


def test_a_file_in_the_place_of_the_cache_is_said_once(study, cache):
    cache.folder.write_text("here")
    no_more_images_are_kept_and_it_is_said_once(study, cache)


def test_a_full_disk_is_said_once_and_nothing_kept(study, cache, monkeypatch):
    usage = caching.shutil.disk_usage(study)
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    no_more_images_are_kept_and_it_is_said_once(study, cache)

    assert not list(cache.entries.iterdir())


ONE_CONTRAST = {
    "method": FROM_NOISE,
    "domains": ("MR",),
    "split": {"test": 0.34, "validation": 0.0, "by": "patient"},
}


def seen(data):
    """Every image by domain and key, with its mask where it is trained on, as one list of names and
    bytes.
    """
    found = []
    for letter, images in data.training_sets().items():
        for number, record in enumerate(images.records):
            found += [
                (letter, record.key, part.numpy().tobytes())
                for part in images.image_and_mask(number)
            ]

    return found + [
        (record.key, data.image(record).numpy().tobytes()) for record in data.splits["test"]
    ]


def data_with_cache(table, no_decoding):
    """The data of a table with an empty cache, then with what was cached: those without a cache."""
    table = table | {"memory": 1e-9}
    plain = load(**table, cache=False)
    expected = seen(plain)
    assert not Path(os.environ["GANTK_CACHE"]).exists()
    for run in range(2):
        if run == 1:
            no_decoding()
        data = load(**table)
        assert seen(data) == expected
        assert data.intensity_state() == plain.intensity_state()
        assert data.channels == plain.channels
        yield data


@pytest.mark.parametrize(
    "options",
    [
        {"intensity": "nyul", "fit": "crop"},
        {"neighbours": 1, "size": (20, 12)},
        {"dims": 3, "size": (8, 16, 16)},
    ],
    ids=["nyul", "neighbours", "volumes"],
)
def test_training_is_the_same_with_and_without_cache(study, options, no_decoding):
    source = {"name": "images", "path": str(study)}
    table = ONE_CONTRAST | options | {"source": source}
    for data in data_with_cache(table, no_decoding):
        assert data.leaks() is None


def test_masks_and_missing_contrasts_are_cached(study, no_decoding):
    for number in range(6):
        patient = study / f"patient{number}"
        contrasts = ("T1", "T2") if number == 1 else ("T1", "T2", "FLAIR")
        for k, name in enumerate(contrasts):
            save(patient / f"{name}.nii", 10 * number + k)
        save(patient / "seg.nii", 99 + number, above=700)

    source = {"name": "contrasts", "path": str(study), "mask": "seg"}
    options = {"source": source, "mask": True, "missing": "mask"}
    options |= {"method": UNPAIRED, "domains": ("T1+FLAIR", "T2")}
    for data in data_with_cache(ONE_CONTRAST | options, no_decoding):
        assert any(data.training_sets()["a"].image_and_mask(0)[1].flatten())
