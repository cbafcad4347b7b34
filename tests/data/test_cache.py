"""The cache: nothing is decoded twice, nothing stale or half-written is read, many may use it, none
depends on it.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from tiny import registered
from volumes import FROM_NOISE, SIZE, UNPAIRED, load, records_of, volume

from gantk.data import preparation as preparing
from gantk.data.cache import Cache
from gantk.data.preparation import Preparation

Files = registered("source", "files")
Nyul = registered("intensity", "nyul")

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
    expected = {6: [366.37494, 206.86739, 525.72327, 630.16248, 222.66667, 453.66667]}

    np.testing.assert_allclose(figures, expected[preparing.VERSION], rtol=1e-5)


def test_masks_and_missing_contrasts_are_cached(study, no_decoding):
    for number in range(6):
        patient = study / f"patient{number}"
        contrasts = ("T1", "T2") if number == 1 else ("T1", "T2", "FLAIR")
        for k, name in enumerate(contrasts):
            save(patient / f"{name}.nii", 10 * number + k)
        save(patient / "seg.nii", 99 + number, above=700)

    source = {"name": "contrasts", "path": str(study), "mask": "seg"}
    source["layout"] = "{patient}/{contrast}.nii"
    options = {"source": source, "mask": True, "missing": "mask"}
    options |= {"method": UNPAIRED, "domains": ("T1+FLAIR", "T2")}
    for data in data_with_cache(ONE_CONTRAST | options, no_decoding):
        assert any(data.training_sets()["a"].image_and_mask(0)[1].flatten())


def test_unsafe_or_foreign_entries_are_made_anew(study, cache):
    expected = all_images(study, cache)
    first, second, third = entries(cache)
    first.rename(study / "first")
    second.rename(first)  # whole, and another image's
    (study / "first").rename(second)
    third.chmod(0o622)

    np.testing.assert_array_equal(all_images(study, Cache.default()), expected)
    assert all(entry.stat().st_mode & 0o777 == 0o600 for entry in entries(cache))
