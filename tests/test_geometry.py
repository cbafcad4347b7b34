"""Volumes are seen in any plane and spacing and come back exactly; two grids meet by their headers."""

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to

from gantk.data import resample as geometry
from gantk.data.resample import SamplingGrid, resample_onto, same_grid, upright_affine
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.files import outline
from gantk.formats.image import Image, in_file_order, to_upright

# Straight, flipped and permuted, anisotropic, oblique, and sheared by 3 % as rounded headers are.
STRAIGHT = np.diag([1.0, 1.0, 1.0, 1.0])
FLIPPED = np.array([[0, 0, -1.5, 40], [-0.8, 0, 0, 30], [0, 2.0, 0, -12], [0, 0, 0, 1.0]])


def turned(degrees, steps, origin=(0.0, 0.0, 0.0)):
    """An affine turned about two axes, with voxels of `steps` mm."""
    a, b = np.deg2rad(degrees)
    one = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    other = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = one @ other @ np.diag(steps), origin
    return affine


def image_of(voxels, affine):
    """An image as `io.read` gives it, of voxels in the file's order."""
    return Image(np.ascontiguousarray(to_upright(voxels, affine))[None].astype(np.float32), affine)


def millimetres(shape, affine):
    """(3, *shape): where each voxel of a file lies, in mm to the right, front and top."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
    return (affine[:3, :3] @ voxels + affine[:3, 3:]).reshape(3, *shape)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("affine", [STRAIGHT, FLIPPED, turned((20, -30), (1, 2, 3))], ids=["ras", "flipped", "oblique"])
def test_a_plane_and_back_is_exact_to_the_bit(plane, affine):
    image = image_of(np.random.default_rng(0).random((7, 9, 11)), affine)
    view = SamplingGrid(plane)
    seen = view.forward(image)
    assert np.shares_memory(seen.pixels, image.pixels), "turning costs no memory"
    assert seen.pixels.shape[1:] == view.sides(image.pixels.shape[1:], image.spacing)
    back = view.inverse(seen.pixels, image)
    np.testing.assert_array_equal(back, image.pixels)
    two = np.concatenate([seen.pixels, seen.pixels + 1])
    np.testing.assert_array_equal(view.inverse(two, image)[1], image.pixels[0] + 1)


@pytest.mark.parametrize(
    "plane, stack, row, column",  # index and sign of the mm axis (right, front, top) that grows along each
    [
        ("axial", (2, 1), (1, -1), (0, -1)),
        ("coronal", (1, -1), (2, -1), (0, -1)),
        ("sagittal", (0, -1), (2, -1), (1, -1)),
    ],
)
@pytest.mark.parametrize("affine", [STRAIGHT, FLIPPED], ids=["ras", "flipped"])
def test_heads_stand_upright_in_every_plane(plane, stack, row, column, affine):
    places = millimetres((8, 9, 10), affine)
    for axis, (world, sign) in enumerate((stack, row, column), start=1):
        seen = SamplingGrid(plane).forward(image_of(places[world], affine)).pixels
        assert (np.sign(np.diff(seen, axis=axis)) == sign).all()


def test_a_plain_view_changes_nothing():
    image = image_of(np.zeros((4, 5, 6)), STRAIGHT)
    plain, spaced = SamplingGrid(), SamplingGrid("axial", (1, 1, 1))
    assert plain.is_plain and plain.forward(image) is image and spaced.forward(image) is image
    assert not SamplingGrid("coronal").is_plain and not spaced.is_plain


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 2.5, 0.7), (2.0, 2.0)])
@pytest.mark.parametrize("affine", [np.diag([-1.5, -0.8, 2, 1.0]), turned((10, 15), (2, 1.1, 1.7))])
def test_a_spacing_keeps_every_point_where_it_lies(spacing, affine):
    places = millimetres((20, 22, 24), affine)
    image = image_of(places[0], affine)
    seen = SamplingGrid("axial", spacing).forward(image)
    asked = spacing if len(spacing) == 3 else (image.spacing[0], *spacing)
    np.testing.assert_allclose(seen.spacing, asked, rtol=1e-6)
    native, counts = np.array(image.pixels.shape[1:]), np.array(seen.pixels.shape[1:])
    extent = native * image.spacing
    assert (counts * asked >= extent - 0.11 * np.array(asked)).all() and (counts * asked < extent + asked).all()
    inner = (slice(None), *[slice(4, -4)] * 3)
    at = millimetres(counts[::-1], upright_affine(seen))[0].transpose(2, 1, 0)
    np.testing.assert_allclose(seen.pixels[inner], at[None][inner], atol=0.03)
    np.testing.assert_allclose(
        SamplingGrid("axial", spacing).inverse(seen.pixels, image)[inner], image.pixels[inner], atol=0.03
    )


def test_spacing_follows_the_plane():
    image = image_of(np.zeros((10, 20, 40)), np.diag([-4.0, -2.0, 1.0, 1.0]))  # 40 mm in each direction
    for plane in geometry.PLANES:
        seen = SamplingGrid(plane, (1.0, 2.0, 4.0)).forward(image)
        assert seen.pixels.shape == (1, 40, 20, 10)
        assert SamplingGrid(plane, (1.0, 2.0, 4.0)).inverse(seen.pixels, image).shape == image.pixels.shape


def test_shrinking_averages_and_constants_stay():
    stripes = np.zeros((16, 16, 16), np.float32)
    stripes[::2] = 1.0
    image = Image(stripes[None])
    seen = SamplingGrid("axial", (4.0, 1.0, 1.0)).forward(image).pixels
    np.testing.assert_allclose(seen, 0.5, atol=0.08)
    flat = Image(np.full((1, 9, 10, 11), 7.0, np.float32))
    for spacing in ((2.3, 1.7, 0.6), (0.5, 3, 1)):
        np.testing.assert_allclose(SamplingGrid("sagittal", spacing).forward(flat).pixels, 7.0, rtol=1e-6)


def test_pictures_have_no_plane_and_take_the_last_two_spacings():
    picture = Image(np.random.default_rng(0).random((3, 12, 8), dtype=np.float32))
    assert SamplingGrid("coronal").forward(picture) is picture
    grid = SamplingGrid("sagittal", (9.0, 2.0, 4.0))
    seen = grid.forward(picture).pixels
    assert seen.shape == (3, 6, 2) and grid.inverse(seen, picture).shape == (3, 12, 8)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("transverse",), "no plane 'transverse'.*axial, coronal, sagittal.*data.plane"),
        (("axial", (1.0, 0.0, 1.0)), "is no spacing.*mm above 0"),
        (("axial", (1.0,)), "is no spacing"),
        (("axial", (1.0, float("nan"), 1.0)), "is no spacing"),
    ],
)
def test_a_view_that_cannot_be_is_explained(arguments, says):
    with pytest.raises(UserError, match=says):
        SamplingGrid(*arguments)


def test_a_spacing_that_would_fill_the_memory_is_refused():
    image = Image(np.broadcast_to(np.float32(0), (1, 100, 100, 100)))
    with pytest.raises(UserError, match="100 x 100 x 100 voxels becomes one of 10000 x 10000 x 10000.*data.spacing"):
        SamplingGrid("axial", (0.01, 0.01, 0.01)).forward(image)


GRIDS = {
    "straight": (STRAIGHT, (30, 32, 28)),
    "flipped": (
        FLIPPED + np.array([[0, 0, 0, -15.13], [0, 0, 0, -10.21], [0, 0, 0, 12.37], [0, 0, 0, 0]]),
        (36, 16, 24),
    ),
    "oblique": (turned((25, -40), (1.3, 0.7, 2.9), (12.0, -5.0, 3.0)), (20, 24, 14)),
}


@pytest.mark.parametrize("order", [1, 0])
@pytest.mark.parametrize("onto", GRIDS)
@pytest.mark.parametrize("of", GRIDS)
def test_two_grids_meet_as_nibabel_says(of, onto, order):
    (affine, shape), (other, other_shape) = GRIDS[of], GRIDS[onto]
    voxels = np.random.default_rng(0).random(shape).astype(np.float32)
    result = resample_onto(image_of(voxels, affine), image_of(np.zeros(other_shape), other), order=order, fill=-5.0)
    truth = resample_from_to(nib.Nifti1Image(voxels, affine), (other_shape, other), order=order, cval=-5.0)
    expected = to_upright(truth.get_fdata(dtype=np.float32), other)[None]
    inside = expected != -5.0
    assert inside.mean() > 0.05 and result.affine is not None and result.pixels.dtype == np.float32
    if order == 0:  # half way between two voxels either is the nearest
        assert (result.pixels == expected)[inside].mean() > 0.999
    else:
        np.testing.assert_allclose(result.pixels[inside], expected[inside], atol=1e-4)
    beyond = (result.pixels != -5.0) & ~inside
    assert beyond.mean() < 0.2, "only the outer half of the outermost voxels is more than nibabel fills"


def test_simpleitk_agrees_on_an_oblique_grid(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    (affine, shape), (other, other_shape) = GRIDS["oblique"], GRIDS["flipped"]
    for name, sides, matrix in (("image", shape, affine), ("reference", other_shape, other)):
        values = np.random.default_rng(len(name)).random(sides).astype(np.float32)
        nib.save(nib.Nifti1Image(values, matrix), tmp_path / f"{name}.nii")
    image, reference = io.read(tmp_path / "image.nii"), io.read(tmp_path / "reference.nii")
    moved = sitk.Resample(sitk.ReadImage(str(tmp_path / "image.nii")), sitk.ReadImage(str(tmp_path / "reference.nii")),
                          sitk.Transform(), sitk.sitkLinear, -5.0)  # fmt: skip
    expected = to_upright(sitk.GetArrayFromImage(moved).transpose(2, 1, 0), other)[None]
    result = resample_onto(image, reference, fill=-5.0).pixels
    both = (expected != -5.0) & (result != -5.0)
    assert both.mean() > 0.1 and ((expected == -5.0) == (result == -5.0)).mean() > 0.99
    np.testing.assert_allclose(result[both], expected[both], atol=1e-3)


def test_equal_grids_give_the_pixels_unchanged_whatever_the_files_order():
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    image = image_of(np.random.default_rng(0).random((6, 7, 8)), affine)
    assert resample_onto(image, replace_affine(image, affine + 1e-4)).pixels is image.pixels
    other = np.diag([1.0, 1.0, 2.0, 1.0])  # the same voxels, counted from the other side
    other[:2, 3] = -5.0, -6.0
    assert same_grid(image, replace_affine(image, other))
    assert resample_onto(image, replace_affine(image, other)).pixels is image.pixels
    other[0, 3] = -4.0
    assert not same_grid(image, replace_affine(image, other))


def replace_affine(image, affine):
    return Image(np.zeros_like(image.pixels), affine)


def test_what_an_image_does_not_cover_is_air_or_what_was_asked():
    image = image_of(np.random.default_rng(0).random((6, 6, 6)) + 3.0, STRAIGHT)
    beside = STRAIGHT.copy()
    beside[0, 3] = 4.0
    reference = image_of(np.zeros((6, 6, 6)), beside)
    moved = resample_onto(image, reference).pixels
    np.testing.assert_allclose(moved[..., 4:], image.pixels[..., :2])  # columns run from right to left
    assert (moved[..., :4] == image.pixels.min()).all()
    assert (resample_onto(image, reference, fill=-1.0).pixels[..., :4] == -1.0).all()


def test_slabs_give_what_one_piece_gives(monkeypatch):
    (affine, shape), (other, other_shape) = GRIDS["straight"], GRIDS["oblique"]
    image, reference = image_of(np.random.default_rng(0).random(shape), affine), image_of(np.zeros(other_shape), other)
    whole = resample_onto(image, reference).pixels
    monkeypatch.setattr(geometry, "SLAB", 1)
    np.testing.assert_allclose(resample_onto(image, reference).pixels, whole, atol=1e-6)


def test_pictures_cannot_be_placed_in_a_patient():
    picture, volume = Image(np.zeros((1, 9, 9), np.float32)), image_of(np.zeros((9, 9, 9)), STRAIGHT)
    with pytest.raises(UserError, match="a single slice or picture"):
        resample_onto(picture, volume)
    with pytest.raises(UserError, match="without an affine"):
        resample_onto(Image(np.zeros((1, 9, 9, 8), np.float32)), volume)


def mutual_information(one, other):
    thinned = (slice(None), slice(None, None, 3), slice(None, None, 3), slice(None, None, 3))
    counts = np.histogram2d(one[thinned].ravel(), other[thinned].ravel(), 64)[0]
    joint = counts / counts.sum()
    alone = joint.sum(0, keepdims=True) * joint.sum(1, keepdims=True)
    return float((joint[joint > 0] * np.log(joint[joint > 0] / alone[joint > 0])).sum())


def test_a_patients_raw_scans_overlap_after_resampling(shared_data):
    from gantk.data.resample import resize

    folder = shared_data / "open_ms" / "raw" / "patient01"
    t1, t2 = io.read(folder / "study1_T1W.nii.gz"), io.read(folder / "study1_T2W.nii.gz")
    assert not same_grid(t1, t2)
    moved = resample_onto(t1, t2)
    assert moved.pixels.shape == t2.pixels.shape and same_grid(moved, t2)
    before = mutual_information(resize(t1.pixels, t2.pixels.shape[1:]), t2.pixels)
    assert mutual_information(moved.pixels, t2.pixels) > 1.3 * before
    stored = nib.load(folder / "study1_T2W.nii.gz")
    truth = resample_from_to(nib.load(folder / "study1_T1W.nii.gz"), stored.slicer[:, :, 17:19], order=1)
    voxels = in_file_order(moved.pixels[0], stored.shape, t2.affine)[:, :, 17:19]
    assert np.mean(np.abs(voxels - truth.get_fdata(dtype=np.float32)) < 1.0) > 0.98


def test_headers_tell_the_grid_that_reading_gives(shared_data):
    seen = 0
    for scan in [*io.scans(shared_data / "io"), *io.scans(shared_data / "templates")]:
        try:
            image = io.read(scan)
        except UserError:
            continue
        told = outline(scan)
        assert told.pixels.shape[1:] == image.pixels.shape[1:] and told.spacing == image.spacing, scan.name
        assert (told.affine is None) == (image.affine is None) and same_grid(told, image), scan.name
        seen += 1
    assert seen > 5


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_header_of_any_format_tells_an_oblique_grid(tmp_path, suffix):
    affine = turned((25, -40), (1.3, 0.7, 2.9), (12.0, -5.0, 3.0))
    if suffix != ".nii.gz":
        pytest.importorskip("SimpleITK")
    path = tmp_path / f"scan{suffix}"
    io.write(path, image_of(np.random.default_rng(0).random((9, 10, 11)), affine))
    image, told = io.read(path), outline(path)
    np.testing.assert_array_equal(told.affine, image.affine)
    assert told.pixels.shape == image.pixels.shape


@pytest.mark.parametrize(("side", "to"), [(256, 96), (96, 182), (7, 5), (5, 7), (9, 1), (1, 4), (512, 64)])
def test_resizing_is_the_product_with_a_matrix_of_triangles(side, to):
    from gantk.data.resample import resize

    step = side / to
    centres = (np.arange(to) + 0.5) * step - 0.5
    weights = np.clip(1 - np.abs(np.arange(side) - centres[:, None]) / max(step, 1.0), 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    image = np.random.default_rng(0).random((2, side, 3))
    np.testing.assert_allclose(resize(image, (to, 3)), np.einsum("ts,csw->ctw", weights, image), rtol=1e-6)
    turned = np.swapaxes(image, 1, 2)
    np.testing.assert_allclose(resize(turned, (3, to)), np.einsum("ts,cws->cwt", weights, turned), rtol=1e-6)
