"""Looks: copies that were saved again are found, and what is merely alike is not taken for one."""

import io

import numpy as np
import pytest
from PIL import Image as Picture
from scipy.ndimage import zoom

from gantk.data.phantom import Phantom
from gantk.data.split import image_hash as perceptual
from gantk.data.split.image_hash import ALIKE, NEAR_BITS, Look, likely_copies, likenesses, look_of

SLICES = {
    size: [record.read() for record in Phantom(("T1",), 2, (size, size), subjects=5, slices=4).records()]
    for size in (48, 96)
}


def saved_as_jpeg(pixels, quality):
    low, high = pixels.min(), pixels.max()
    file = io.BytesIO()
    Picture.fromarray(np.uint8((pixels[0] - low) * (255 / (high - low)))).save(file, "JPEG", quality=quality)
    return np.asarray(Picture.open(file), np.float32)[None]


CHANGES = {
    "jpeg": lambda pixels: saved_as_jpeg(pixels, 75),
    "rescaled": lambda pixels: pixels * 0.03 - 7,
    "brighter": lambda pixels: pixels.max() * (pixels / pixels.max()) ** 0.8,
    "inches": lambda pixels: zoom(pixels, (1, 0.9, 0.9), order=1),
    "larger": lambda pixels: zoom(pixels, (1, 1.1, 1.1), order=3),
    "shifted": lambda pixels: np.roll(pixels, (1, -1), (1, 2)),
    "margin": lambda pixels: np.pad(pixels, ((0, 0), (9, 3), (5, 9))),
    "colour": lambda pixels: np.repeat(pixels, 3, axis=0),
    "smaller and jpeg": lambda pixels: saved_as_jpeg(zoom(pixels, (1, 0.9, 0.9), order=1), 75),
}


def differing_bits(one, other):
    return int(perceptual._set_bits(one.hashes ^ other.hashes).min())


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [48, 96])
def test_a_changed_copy_is_found(size, change):
    for pixels in SLICES[size][::5]:
        one, other = look_of(pixels), look_of(CHANGES[change](pixels))
        assert differing_bits(one, other) <= NEAR_BITS
        assert likenesses([(one, other)])[0] > ALIKE


@pytest.mark.parametrize("size", [48, 96])
def test_the_same_slice_of_other_people_is_no_copy(size):
    looks = [look_of(pixels) for pixels in SLICES[size]]
    pairs = [(i, j) for i in range(len(looks)) for j in range(i) if i // 4 != j // 4]
    assert max(likenesses([(looks[i], looks[j]) for i, j in pairs])) < ALIKE - 0.05


def test_volumes_are_seen_in_three_planes():
    heads = [record.read() for record in Phantom(("T1",), 3, (32, 32, 32), subjects=3).records()]
    looks = [look_of(head) for head in heads]
    assert looks[0].thumbnails.shape == (2, 3, 64, 64) and looks[0].thumbnails.nbytes == 24 * 1024
    copy = look_of(np.roll(heads[0], (1, 1, -1), (1, 2, 3)) * 2 + 5)
    scores = likenesses([(looks[0], copy), (looks[0], looks[1]), (looks[1], looks[2])])
    assert scores[0] > 0.99 and max(scores[1:]) < ALIKE - 0.05
    assert likely_copies(looks, [copy, look_of(SLICES[48][0])])[:, :2].tolist() == [[0, 0]], (
        "a slice is no copy of a volume"
    )


def test_missing_contrasts_are_passed_over():
    pixels = SLICES[96][0]
    lacking = np.concatenate([pixels, np.full_like(pixels, np.nan)])
    assert likenesses([(look_of(pixels), look_of(lacking))])[0] > 0.999
    assert look_of(lacking[1:]) is None


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 64, 64)),
        np.full((1, 64, 64), 7.0) + np.arange(64),
        np.add.outer(np.arange(64.0), 3 * np.arange(64.0))[None],
        SLICES[96][0][:, 40:50, 40:90],
        np.pad(SLICES[96][0][:, 44:50, 44:50], ((0, 0), (30, 30), (30, 30))),
    ],
    ids=["empty", "ramp", "slope", "too few pixels", "too small a thing"],
)
def test_there_is_nothing_to_compare_in(pixels):
    assert look_of(pixels.astype(np.float32)) is None


def test_noise_is_like_no_other_noise():
    looks = [look_of(np.random.default_rng(seed).standard_normal((1, 64, 64)).astype(np.float32)) for seed in range(6)]
    assert not [pair for pair in likely_copies(looks, looks).tolist() if pair[0] != pair[1]]
    assert max(likenesses([(looks[i], looks[j]) for i in range(6) for j in range(i)])) < 0.5


def random_looks(count, seed):
    words = np.random.default_rng(seed).integers(0, 2**64, (count, 2, 4), dtype=np.uint64)
    return [Look(np.zeros((2, 1, 64, 64), np.uint8), hashes) for hashes in words]


def test_thousands_of_hashes_are_compared_in_few_steps(monkeypatch):
    ours, theirs = random_looks(3000, 0), random_looks(2000, 1)
    flipped = ours[1234].hashes.copy()
    flipped[1, 0] ^= np.uint64(2**48 - 1)
    flipped[0] = ~flipped[0]
    theirs[77] = Look(theirs[77].thumbnails, flipped)
    steps, count = [], perceptual._set_bits
    monkeypatch.setattr(perceptual, "_set_bits", lambda words: steps.append(words.nbytes) or count(words))
    assert likely_copies(ours, theirs).tolist() == [[1234, 77, 48]]
    assert len(steps) < 100 and max(steps) <= 2**26


def test_bits_are_counted_the_same_without_numpy_2(monkeypatch):
    words = np.random.default_rng(0).integers(0, 2**64, (3, 5, 4), dtype=np.uint64)
    new = perceptual._set_bits(words)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert np.array_equal(new, perceptual._set_bits(words)) and new.shape == (3, 5) and 100 < new[0, 0] < 156


def test_nothing_is_like_nothing():
    assert likely_copies([], random_looks(2, 0)).shape == (0, 3) and likenesses([]).shape == (0,)


def test_real_slices_of_other_patients_are_no_copies(shared_data):
    from gantk.formats.files import read

    patients = {}
    for path in sorted((shared_data / "ct_mri" / "MRI").iterdir()):
        patients.setdefault(path.stem[:-3], []).append(look_of(read(path).pixels))
    looks = [(name, look) for name, some in patients.items() for look in some[::3]]
    pairs = [(one, other) for name, one in looks for another, other in looks if name < another]
    assert len(patients) == 6 and len(pairs) > 200 and max(likenesses(pairs)) < ALIKE - 0.03
