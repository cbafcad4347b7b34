"""Resampling: volumes in any plane and spacing come back exactly, two grids meet by their headers,
any size fits.
"""

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.processing import resample_from_to

from gantk import resample_onto
from gantk.formats.image import Image, to_upright
from gantk.prepare.grid import SamplingGrid
from gantk.prepare.module import size_image

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


def voxels_of(grid, pixels, image):
    """Pixels of a grid on the voxels of an image, in the order of the grid."""
    return grid.to_voxels(lambda *ends: pixels[:, slice(*ends)], image, slice(None))


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", GRIDS)
def test_upright_planes_are_exactly_reversible(plane, name):
    affine, _ = GRIDS[name]
    grid = SamplingGrid(plane)
    image = image_of(noise((7, 9, 11)), affine)
    seen = grid.forward(image).pixels

    assert np.shares_memory(seen, image.pixels), "turning costs no memory"
    assert seen.shape[1:] == grid.sides(image.pixels.shape[1:], image.spacing)

    two_channels = np.concatenate([seen, seen + 1])
    expected = np.concatenate([image.pixels, image.pixels + 1])

    np.testing.assert_array_equal(
        voxels_of(grid, two_channels, image), grid.to_grid_order(expected)
    )


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", ["straight", "flipped"])
def test_the_axes_of_a_plane_run_one_way_whatever_the_file(plane, name):
    affine, shape = GRIDS[name]
    places = [
        SamplingGrid(plane).forward(image_of(mm, affine)).pixels[0]
        for mm in millimetres(shape, affine)
    ]
    for axis, (along, sign) in enumerate(PLANES[plane]):
        steps = [np.diff(place, axis=axis).mean() for place in places]
        assert [np.sign(step) for step in steps] == [sign * (way == along) for way in range(3)]


def centred_ramp(counts, steps):
    """A ramp of (z, y, x) `counts` positions that is 0 in the middle and rises by `steps`."""
    axes = [
        (np.arange(count) - (count - 1) / 2) * step
        for count, step in zip(counts, steps, strict=True)
    ]
    z, y, x = np.ix_(*axes)
    return z + y + x


INNER = (slice(None), slice(4, -4), slice(4, -4), slice(4, -4))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 2.5, 0.7), (2.0, 2.0)], ids=str)
def test_a_spacing_keeps_every_point_where_it_lies(spacing):
    ramps = image_of(millimetres((20, 22, 24), OBLIQUE)[0], OBLIQUE)
    grid = SamplingGrid("axial", spacing)
    seen = grid.forward(ramps).pixels

    wanted = np.array(spacing if len(spacing) == 3 else (ramps.spacing[0], *spacing))
    extent = np.array(ramps.pixels.shape[1:]) * ramps.spacing
    covered = np.array(seen.shape[1:]) * wanted

    assert (covered >= extent - 0.11 * wanted).all()
    assert (covered < extent + wanted).all()

    slopes = np.array([np.diff(ramps.pixels[0], axis=axis).mean() for axis in range(3)])
    ramp = centred_ramp(seen.shape[1:], slopes * wanted / ramps.spacing)
    expected = ramps.pixels.mean() + ramp[None]

    np.testing.assert_allclose(seen[INNER], expected[INNER], atol=0.05)
    back = voxels_of(grid, seen, ramps)
    np.testing.assert_allclose(back[INNER], grid.to_grid_order(ramps.pixels)[INNER], atol=0.15)


@pytest.mark.parametrize("order", [1, 0])
@pytest.mark.parametrize("onto", GRIDS)
@pytest.mark.parametrize("of", GRIDS)
def test_two_grids_meet_as_nibabel_says(of, onto, order):
    affine, shape = GRIDS[of]
    other, other_shape = GRIDS[onto]
    voxels = noise(shape)
    target = image_of(np.zeros(other_shape), other)
    result = resample_onto(image_of(voxels, affine), target, order=order, fill=-5.0)

    assert result.affine is not None

    stored = nib.Nifti1Image(voxels, affine)
    truth = resample_from_to(stored, (other_shape, other), order=order, cval=-5.0)
    expected = to_upright(truth.get_fdata(dtype=np.float32), other)[None]
    inside = expected != -5.0

    assert inside.mean() > 0.05

    if order == 0:  # half way between two voxels either is the nearest
        equal = result.pixels == expected
        assert equal[inside].mean() > 0.999
    else:
        np.testing.assert_allclose(result.pixels[inside], expected[inside], atol=1e-4)

    filled_outside = (result.pixels != -5.0) & ~inside

    assert filled_outside.mean() < 0.2, "the outer half of the outermost voxels at most"

    as_air = resample_onto(image_of(voxels + 3, affine), target, order=order)
    assert (as_air.pixels[result.pixels == -5.0] == voxels.min() + 3).all()


# ---- to the networks' size and back


RESIZED = pytest.mark.parametrize(
    ("side", "to"), [(256, 96), (96, 182), (7, 5), (5, 7), (9, 1), (1, 4)]
)


def resized_by_torch(side, to):
    """Two channels of (side, 3) and what torch makes of them at (to, 3)."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, side, 3, dtype=torch.float64, generator=generator)
    resized = torch.nn.functional.interpolate(image[None], (to, 3), mode="bilinear", antialias=True)
    return image.numpy(), resized[0].numpy()


@RESIZED
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_resizing_is_what_torch_says_along_every_axis(side, to, axis):
    image, expected = resized_by_torch(side, to)
    thick = np.repeat(image[:, :, None], 2, axis=2)
    volume = np.moveaxis(thick, 1, axis)
    size = [2, 3]
    size.insert(axis - 1, to)
    resized = np.moveaxis(size_image(volume, size, "resize"), axis, 1)

    np.testing.assert_allclose(resized[:, :, 1], expected, atol=1e-4)


def two_channels(shape):
    """Noise of two channels that share no value."""
    levels = np.array([1, 3], np.float32).reshape(2, *[1] * len(shape))
    return noise((2, *shape)) + levels
