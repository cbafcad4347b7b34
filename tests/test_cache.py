"""The cache: nothing is decoded twice, nothing stale or half-written is read, many may use it, none depends on it."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gantk.data import cache as caching
from gantk.data import preparation as preparing
from gantk.data.cache import Cache
from gantk.data.dataset import Data
from gantk.data.preparation import Preparation
from gantk.errors import UserError
from gantk.method import Method
from gantk.plugin.loader import registry
from gantk.recipe.tables import DataTable
from gantk_nyul.nyul import Nyul

SIZE = (16, 16)
LONG_AGO = 1e9  # seconds: files are not as young as the test
GIB = 2**30


class OneDomain(Method):
    """A method that learns images of one domain."""

    reads = ("image",)


class Translator(Method):
    """A method that learns unpaired images of two."""


def images(path, size=SIZE, dims=2, **options):
    return registry().get("source", "images").load()(("MR",), dims, size, path=str(path), **options).records()


def volume(seed, shape=(20, 24, 12)):
    """Whole numbers, (i, j, k) as in the file."""
    return np.random.default_rng(seed).integers(0, 900, shape).astype(np.int16)


def save(path, pixels, time=LONG_AGO):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(pixels, np.eye(4)), path)
    os.utime(path, (time, time))
    return path


@pytest.fixture
def study(tmp_path):
    """A folder of three volumes."""
    for number in range(3):
        save(tmp_path / "study" / f"p{number}.nii.gz", volume(number))
    return tmp_path / "study"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANTK_CACHE", str(tmp_path / "cache"))
    return Cache.default()


@pytest.fixture
def no_decoding(monkeypatch):
    """From here on nothing can be decoded: `no_decoding()`."""

    def refuse(*args, **keywords):
        raise AssertionError("something was decoded again")

    def forbid():
        monkeypatch.setattr("gantk.formats.files.read", refuse)

    return forbid


def prepared(study, cache, size=SIZE, fit="pad", about="", planes=(0.25, 0.75)):
    records = images(study, size, planes=planes)
    return records, Preparation(records, size, fit, cache=cache, about=about)


def all_images(study, cache, **options):
    records, preparation = prepared(study, cache, **options)
    return np.stack([preparation.to_size(record) for record in records])


def entries(cache):
    return sorted(cache.entries.glob("*.npy"))


# ---- what it saves


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
def test_the_second_epoch_and_run_never_decode_and_see_the_same_to_the_bit(study, cache, no_decoding, fit):
    plain = all_images(study, None, fit=fit)
    records, preparation = prepared(study, cache, fit=fit)
    preparation.to_size(records[8])
    assert [np.load(entry).shape for entry in entries(cache)] == [(6, 1, *SIZE)], "all slices of that scan"
    np.testing.assert_array_equal([preparation.to_size(record) for record in records], plain)
    no_decoding()
    np.testing.assert_array_equal([preparation.to_size(record) for record in records], plain)
    np.testing.assert_array_equal(all_images(study, Cache.default(), fit=fit), plain)
    rows = cache.rows(entries(cache)[0].stem, lambda: 1 / 0)
    assert len(entries(cache)) == 3 and isinstance(rows, np.memmap) and not rows.flags.writeable


# ---- when an entry holds


def test_other_content_size_fit_or_source_are_other_entries(study, cache):
    first, counts = all_images(study, cache), []
    for options in ({}, {"size": (12, 16)}, {"fit": "stretch"}, {"about": "gray"}, {"planes": (0.2, 0.8)}):
        all_images(study, cache, **options)
        counts.append(len(entries(cache)))
    assert counts == [3, 6, 9, 12, 15]
    save(study / "p1.nii.gz", volume(77), LONG_AGO + 9)
    changed = all_images(study, Cache.default())
    same = [np.array_equal(one, other) for one, other in zip(first, changed, strict=True)]
    assert same == [True] * 6 + [False] * 6 + [True] * 6 and len(entries(cache)) == 16


def test_a_file_that_is_replaced_by_one_as_large_and_as_old_is_read_again(study, cache):
    before = all_images(study, cache)
    os.replace(save(study.parent / "new.nii.gz", volume(0)[::-1]), study / "p0.nii.gz")
    assert not np.array_equal(all_images(study, cache), before)


def test_whoever_changes_prepared_pixels_raises_a_version(study):
    """Entries are named by versions: with other figures here, other images would be read from earlier entries."""
    image, mapping = all_images(study, None)[7], Nyul()
    mapping.fit([volume(number).astype(np.float32)[None] for number in range(3)])
    figures = [image.mean(), image.std(), image[0, 3, 5], image[0, 10, 10], *mapping.fitted["mean"][:2]]
    expected = {2: [366.37494, 206.86739, 525.72327, 630.16248, 222.66667, 453.66667]}
    np.testing.assert_allclose(figures, expected[preparing.VERSION], rtol=1e-5)


# ---- many at once, killed, broken

FILL = """
import hashlib, sys
from pathlib import Path
from gantk.data.cache import Cache
from gantk.data.preparation import Preparation
from gantk.plugin.loader import registry

study, folder, half = sys.argv[1:]
if half:
    write = Path.write_bytes
    def half_of_it(path, content):
        write(path, content[: len(content) // 2])
        print("half", flush=True)
        sys.stdin.readline()
    Path.write_bytes = half_of_it
else:
    print("ready", flush=True)
    sys.stdin.readline()
records = registry().get("source", "images").load()(("MR",), 2, (16, 16), path=study).records()
preparation = Preparation(records, (16, 16), "pad", cache=Cache(Path(folder), 2**30))
pixels = hashlib.sha256()
for _ in range(2):
    for record in records:
        pixels.update(preparation.to_size(record).tobytes())
print(pixels.hexdigest())
"""


def start(*args):
    command, pipe = [sys.executable, "-c", FILL, *map(str, args)], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_two_processes_may_fill_it_at_once(study, cache):
    both = [start(study, cache.folder, "") for _ in range(2)]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=600) for process in both]
    assert told[0] == told[1] and told[0][0] and not told[0][1]
    assert len(entries(cache)) == 3 and not list(cache.entries.glob(".*"))
    np.testing.assert_array_equal(all_images(study, cache), all_images(study, None))


BROKEN = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:-100],
    "a header of garbage": lambda content: content[:8] + b"\xff" * 60 + content[68:],
    "a header that lies": lambda content: content.replace(b"(6, 1,", b"(9, 1,"),
    "no array at all": lambda content: b"a text " * 100,
    "an archive": lambda content: b"PK\x05\x06" + b"\0" * 18,
    "objects": lambda content: content.replace(b"'<f4'", b"'|O'  "),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_entries_are_made_anew(study, cache, how):
    expected = all_images(study, cache)
    for entry in entries(cache):
        content = entry.read_bytes()
        entry.unlink()  # not written over: what is mapped stays as it is
        entry.write_bytes(BROKEN[how](content))
    np.testing.assert_array_equal(all_images(study, Cache.default()), expected)
    assert all(np.load(entry).shape[0] == 6 for entry in entries(cache))


# ---- where it cannot be written, and how large it gets


def hindered(study, folder, limit=GIB):
    """Every image, and the warnings that were given."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return all_images(study, Cache(folder, limit)), [str(one.message) for one in told]


@pytest.mark.parametrize("why", ["a file in the way", "a full disk", "a write that fails half way"])
def test_what_cannot_be_kept_is_said_once_and_done_without(study, cache, monkeypatch, why):
    folder = cache.folder
    if why == "a file in the way":
        cache.folder.write_text("here")
        folder = cache.folder / "cache"
    elif why == "a full disk":
        usage = caching.shutil.disk_usage(study)
        monkeypatch.setattr(caching.shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    else:

        def fail(path, content):
            path.write_text("some")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", fail)
    found, told = hindered(study, folder)
    np.testing.assert_array_equal(found, all_images(study, None))
    assert len(told) == 1 and "takes no more images" in told[0] and "GANTK_CACHE" in told[0]
    assert why == "a file in the way" or not list(cache.entries.iterdir())


def put(cache, key, kibibytes=64, used=None):
    rows = cache.rows(key * 32, lambda: np.full((1, kibibytes * 256), 0.5, np.float32))
    if used is not None:
        os.utime(cache.entries / f"{key * 32}.npy", (used, used))
    return rows


def names(cache):
    return "".join(entry.name[0] for entry in entries(cache))


def test_the_least_recently_used_leave_first(tmp_path):
    earlier = Cache(tmp_path, GIB)
    for key, used in (("a", 100), ("b", 300), ("c", 200), ("d", 400)):
        rows = put(earlier, key, used=LONG_AGO + used)
    later = Cache(tmp_path, 4 * 65 * 2**10)
    put(later, "a")  # used again
    put(later, "e")
    assert names(later) == "abde"
    put(later, "f", kibibytes=120)
    assert names(later) == "aef" and sum(entry.stat().st_size for entry in entries(later)) <= later.limit
    assert (np.array(rows) == 0.5).all(), "what another run maps stays mapped"
    assert (put(earlier, "d") == 0.5).all(), "and is made anew"


def test_the_folder_and_size_come_from_the_environment(tmp_path, monkeypatch):
    assert Cache.default().folder == tmp_path / "cache" and Cache.default().limit == 20 * GIB
    monkeypatch.delenv("GANTK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("GANTK_CACHE_GIB", "0.5")
    assert Cache.default().folder == tmp_path / "xdg" / "gantk" and Cache.default().limit == GIB / 2
    monkeypatch.setenv("GANTK_CACHE_GIB", "0")
    assert Cache.default() is None
    for said in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv("GANTK_CACHE_GIB", said)
        with pytest.raises(UserError, match=rf"'{said}' is no size.*GiB, 0 or more.*\(GANTK_CACHE_GIB\)"):
            Cache.default()


# ---- a recipe's data


def table_json(path, **options):
    split = {"test": 0.34, "validation": 0.0, "by": "patient"}
    source = {"name": "images", "path": str(path)}
    keys = {"source": source, "domains": ("MR",), "size": SIZE, "memory": 1e-9, "split": split}
    return json.dumps(keys | options)


def table(path, **options):
    return DataTable.model_validate_json(table_json(path, **options))


def seen(data):
    """Every image by domain and key, with its mask where it is trained on."""
    found = {
        (letter, record.key): [part.numpy().copy() for part in images.prepared(number)]
        for letter, images in data.training_sets().items()
        for number, record in enumerate(images.records)
    }
    return found | {record.key: [data.image(record).numpy()] for record in data.splits["test"]}


def same(one, other):
    return one.keys() == other.keys() and all(map(np.array_equal, sum(one.values(), []), sum(other.values(), [])))


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
    plain = Data(table(study, cache=False, **options), OneDomain)
    expected, states = seen(plain), plain.intensity_state()
    assert not Path(os.environ["GANTK_CACHE"]).exists()
    first = Data(table(study, **options), OneDomain)
    assert first.leaks() is None and same(seen(first), expected) and first.intensity_state() == states
    no_decoding()
    second = Data(table(study, **options), OneDomain)
    assert second.leaks() is None
    assert same(seen(second), expected) and second.intensity_state() == states and second.channels == plain.channels


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
    expected = seen(Data(table("", cache=False, **keys), Translator))
    assert same(seen(Data(table("", **keys), Translator)), expected)
    no_decoding()
    again = seen(Data(table("", **keys), Translator))
    assert same(again, expected) and any(parts[-1].any() for parts in again.values() if len(parts) == 2)
