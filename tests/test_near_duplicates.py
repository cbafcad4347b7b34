"""Near duplicates: copies that were saved again are found, and what is merely alike is not taken for one."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Picture
from scipy.ndimage import zoom

from gantk.data.split.near_duplicates import COPY, COPY_OF_UNKNOWN, fingerprint_of, near_copies, thumbnails
from gantk_phantom.phantom import Phantom

SLICES = {
    size: [record.read() for record in Phantom(("T1",), 2, (size, size), subjects=5, slices=4).records()]
    for size in (48, 96)
}


def saved_as_jpeg(pixels):
    low, high = pixels.min(), pixels.max()
    file = io.BytesIO()
    Picture.fromarray(np.uint8((pixels[0] - low) * (255 / (high - low)))).save(file, "JPEG", quality=75)
    return np.asarray(Picture.open(file), np.float32)[None]


CHANGES = {
    "jpeg": saved_as_jpeg,
    "rescaled": lambda pixels: pixels * 0.03 - 7,
    "brighter": lambda pixels: pixels.max() * (pixels / pixels.max()) ** 0.8,
    "smaller": lambda pixels: zoom(pixels, (1, 0.9, 0.9), order=1),
    "larger": lambda pixels: zoom(pixels, (1, 1.1, 1.1), order=3),
    "shifted": lambda pixels: np.roll(pixels, (1, -1), (1, 2)),
    "margin": lambda pixels: np.pad(pixels, ((0, 0), (9, 3), (5, 9))),
    "colour": lambda pixels: np.repeat(pixels, 3, axis=0),
    "missing contrast": lambda pixels: np.concatenate([pixels, np.full_like(pixels, np.nan)]),
    "smaller and jpeg": lambda pixels: saved_as_jpeg(zoom(pixels, (1, 0.9, 0.9), order=1)),
}


def found(images, *, subjects=True):
    """Pairs of near copies among images, of different patients or of unknown ones."""
    prints = [
        replace(fingerprint_of(str(n), pixels), subject=str(n) * subjects, stack=n) for n, pixels in enumerate(images)
    ]
    return near_copies(prints)


@pytest.mark.parametrize("subjects", [True, False], ids=["patients", "unknown"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [48, 96])
def test_a_changed_copy_is_found_and_no_other_head_is_taken_for_one(size, change, subjects):
    heads = SLICES[size][::4]
    pairs = found([*heads, *(CHANGES[change](head) for head in heads)], subjects=subjects)
    assert [(i, j) for i, j, _ in pairs] == [(n, n + len(heads)) for n in range(len(heads))]
    assert all(score > (COPY if subjects else COPY_OF_UNKNOWN) for _, _, score in pairs)


def test_slices_of_one_patient_are_not_compared():
    head = SLICES[96][0]
    prints = [fingerprint_of(str(n), pixels) for n, pixels in enumerate((head, CHANGES["shifted"](head), head * 2))]
    assert near_copies([replace(one, subject="same") for one in prints]) == []
    others = near_copies([replace(one, subject=one.name) for one in prints])
    assert [pair[:2] for pair in others] == [(0, 1), (0, 2), (1, 2)]


def test_volumes_are_compared_by_three_planes():
    heads = [record.read() for record in Phantom(("T1",), 3, (32, 32, 32), subjects=3).records()]
    assert thumbnails(heads[0]).shape == (2, 3, 32, 32)
    copy = np.roll(heads[0], (1, 1, -1), (1, 2, 3)) * 2 + 5
    assert [pair[:2] for pair in found([*heads, copy, SLICES[48][0]])] == [(0, 3)]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 64, 64)),
        np.full((1, 64, 64), np.nan),
        np.full((1, 64, 64), 7.0) + np.arange(64),
        np.add.outer(np.arange(64.0), 3 * np.arange(64.0))[None],
        SLICES[96][0][:, 40:50, 40:90],
        np.pad(SLICES[96][0][:, 44:50, 44:50], ((0, 0), (30, 30), (30, 30))),
    ],
    ids=["empty", "missing", "ramp", "slope", "too few pixels", "too small a thing"],
)
def test_there_is_nothing_to_compare_in(pixels):
    assert thumbnails(pixels.astype(np.float32)) is None


def test_real_slices_of_other_patients_are_no_copies(shared_data):
    from gantk.formats.files import read

    paths = sorted(path for folder in ("MRI", "CT") for path in (shared_data / "ct_mri" / folder).iterdir())[::3]
    prints = [replace(fingerprint_of(path.name, read(path).pixels), subject=path.stem[:-3]) for path in paths]
    assert len({one.subject for one in prints}) == 6 and near_copies(prints) == []
