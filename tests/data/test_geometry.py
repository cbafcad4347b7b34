"""Resampling: volumes in any plane and spacing come back exactly, two grids meet by their headers,
any size fits.
"""

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.processing import resample_from_to

from gantk.data.resample import Resize, SamplingGrid, resample_onto, resize
from gantk.errors import UserError
from gantk.formats.image import Image, to_upright

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.4, -0.7, 0.2) @ np.diag([1.3, 0.7, 2.9]), (12.0, -5.0, 3)
)
FLIPPED = np.array([[0, 0, -1.5, 24.9], [-0.8, 0, 0, 19.8], [0, 2.0, 0, 0.4], [0, 0, 0, 1.0]])
GRIDS = {
    "straight": (np.eye(4), (30, 32, 28)),
    "flipped": (FLIPPED, (36, 16, 24)),
    "oblique": (OBLIQUE, (20, 24, 14)),
}
# of stack, rows, columns: index and sign of the mm axis (right, front, top) that grows along it
PLANES = {
    "axial": ((2, 1), (1, -1), (0, -1)),
    "coronal": ((1, -1), (2, -1), (0, -1)),
    "sagittal": ((0, -1), (2, -1), (1, -1)),
}


def image_of(voxels, affine):
    """An image as `io.read` gives it, of voxels in the file's order."""
    return Image(np.ascontiguousarray(to_upright(voxels, affine))[None].astype(np.float32), affine)


def noise(shape):
    return np.random.default_rng(0).random(shape).astype(np.float32)


def millimetres(shape, affine):
    """(3, *shape): where each voxel of a file lies, in mm to the right, front and top."""
    return np.moveaxis(
        nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)), -1, 0
    )


@pytest.mark.parametrize("plane", PLANES)
def test_upright_planes_are_exactly_reversible(plane):
    grid = SamplingGrid(plane)
    for affine, _ in GRIDS.values():
        image = image_of(noise((7, 9, 11)), affine)
        seen = grid.forward(image).pixels
        assert np.shares_memory(seen, image.pixels), "turning costs no memory"
        assert seen.shape[1:] == grid.sides(image.pixels.shape[1:], image.spacing)
        two = np.concatenate([seen, seen + 1])
        np.testing.assert_array_equal(
            grid.inverse(two, image), np.concatenate([image.pixels, image.pixels + 1])
        )
    for affine in (np.eye(4), FLIPPED):
        places = millimetres((8, 9, 10), affine)
        for axis, (world, sign) in enumerate(PLANES[plane], start=1):
            seen = grid.forward(image_of(places[world], affine)).pixels
            assert (np.sign(np.diff(seen, axis=axis)) == sign).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 2.5, 0.7), (2.0, 2.0)], ids=str)
def test_a_spacing_keeps_every_point_where_it_lies(spacing):
    ramps = image_of(millimetres((20, 22, 24), OBLIQUE)[0], OBLIQUE)
    grid = SamplingGrid("axial", spacing)
    seen = grid.forward(ramps).pixels
    asked = np.array(spacing if len(spacing) == 3 else (ramps.spacing[0], *spacing))
    extent = np.array(ramps.pixels.shape[1:]) * ramps.spacing
    counts = np.array(seen.shape[1:])
    assert (counts * asked >= extent - 0.11 * asked).all()
    assert (counts * asked < extent + asked).all()
    steps = asked / ramps.spacing
    slopes = [np.diff(ramps.pixels[0], axis=axis).mean() for axis in range(3)]
    axes = np.ogrid[tuple(map(slice, counts))]  # a ramp about the same middle, in other steps
    away = sum(
        (at - (n - 1) / 2) * step * up
        for at, n, step, up in zip(axes, counts, steps, slopes, strict=True)
    )
    inner = (slice(None), *[slice(4, -4)] * 3)
    np.testing.assert_allclose(seen[inner], (ramps.pixels.mean() + away)[None][inner], atol=0.05)
    np.testing.assert_allclose(grid.inverse(seen, ramps)[inner], ramps.pixels[inner], atol=0.15)


@pytest.mark.parametrize(
    "mm, says", [(0.0, "is no spacing.*mm above 0"), (0.01, "10000 x 10000 x 10000.*data.spacing")]
)
def test_a_spacing_that_cannot_be_is_explained(mm, says):
    with pytest.raises(UserError, match=says):
        SamplingGrid("axial", (mm, mm, mm)).forward(
            Image(np.broadcast_to(np.float32(0), (1, 100, 100, 100)))
        )


@pytest.mark.parametrize("order", [1, 0])
@pytest.mark.parametrize("onto", GRIDS)
@pytest.mark.parametrize("of", GRIDS)
def test_two_grids_meet_as_nibabel_says(of, onto, order):
    (affine, shape), (other, other_shape) = GRIDS[of], GRIDS[onto]
    voxels = noise(shape)
    result = resample_onto(
        image_of(voxels, affine), image_of(np.zeros(other_shape), other), order=order, fill=-5.0
    )
    truth = resample_from_to(
        nib.Nifti1Image(voxels, affine), (other_shape, other), order=order, cval=-5.0
    )
    expected = to_upright(truth.get_fdata(dtype=np.float32), other)[None]
    inside = expected != -5.0
    assert inside.mean() > 0.05
    assert result.affine is not None
    if order == 0:  # half way between two voxels either is the nearest
        assert (result.pixels == expected)[inside].mean() > 0.999
    else:
        np.testing.assert_allclose(result.pixels[inside], expected[inside], atol=1e-4)
    assert ((result.pixels != -5.0) & ~inside).mean() < 0.2, (
        "the outer half of the outermost voxels at most"
    )


# ---- to the networks' size and back

sides = st.integers(3, 40)
shapes = st.tuples(sides, sides) | st.tuples(sides, sides, sides)


@pytest.mark.parametrize(("side", "to"), [(256, 96), (96, 182), (7, 5), (5, 7), (9, 1), (1, 4)])
def test_resizing_is_what_torch_says_along_every_axis(side, to):
    image = torch.rand(2, side, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    way = {"mode": "bilinear", "antialias": True}
    expected = torch.nn.functional.interpolate(image[None], (to, 3), **way)[0].numpy()
    image = image.numpy()
    np.testing.assert_allclose(resize(image, (to, 3)), expected, atol=1e-4)
    for axis in (1, 2, 3):
        volume = np.moveaxis(np.repeat(image[:, :, None], 2, axis=2), 1, axis)
        size = np.moveaxis(np.empty((to, 2, 3)), 0, axis - 1).shape
        np.testing.assert_allclose(
            np.moveaxis(resize(volume, size), axis, 1)[:, :, 1], expected, atol=1e-4
        )


@given(st.data(), shapes, st.sampled_from(["pad", "stretch", "crop"]), st.sampled_from([None, 0.0]))
@settings(max_examples=80, deadline=None)
def test_any_size_fits_and_comes_back(data, native, mode, fill):
    size = data.draw(st.tuples(*[sides] * len(native)))
    image = noise((2, *native)) + np.array([1, 3], np.float32).reshape(2, *[1] * len(native))
    there = Resize(native, size, mode)
    fitted = there.forward(image, fill)
    back = there.inverse(fitted)
    assert fitted.shape == (2, *size)
    assert back.shape == image.shape
    outside = np.ones(size, bool)
    outside[there.window] = False
    for channel, whole in zip(fitted, image, strict=True):
        assert (channel[outside] == (whole.min() if fill is None else fill)).all(), (
            "each channel's own air"
        )
        inside = channel[there.window]
        assert inside.min() >= whole.min() - 1e-5 and inside.max() <= whole.max() + 1e-5, (
            "nothing overshoots"
        )
    if mode == "crop":
        shown = (slice(None), *there.shown)
        np.testing.assert_array_equal(fitted[(slice(None), *there.window)], image[shown])
        np.testing.assert_array_equal(back[shown], image[shown])
        centred = zip(there.shown, native, size, strict=True)
        assert all(
            p.stop - p.start == min(s, to) and abs(p.start - (s - p.stop)) <= 1
            for p, s, to in centred
        )
    if there.content == native:
        np.testing.assert_array_equal(back, image)
    np.testing.assert_allclose(there.forward(np.full_like(image, 7.5)), 7.5, rtol=1e-5)
