"""Files as other programs write them: read with the right values and places, or refused with the
cause and what to do.
"""

import gzip
import re

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
from volumes import itk_affine

from gantk.errors import UserError
from gantk.formats import files
from gantk.formats.image import Image

VOLUME = np.random.default_rng(0).integers(-90, 900, (9, 8, 7), np.int16)
RAW = VOLUME.tobytes()
SLICES = [f"s{k:03d}.raw" for k in range(len(VOLUME))]
PICTURE = np.random.default_rng(0).normal(0, 1000, (16, 12))


@pytest.fixture(scope="module")
def headers(tmp_path_factory) -> dict[str, str]:
    """The headers of VOLUME as ITK writes them, without the end."""
    folder = tmp_path_factory.mktemp("whole")
    image = sitk.GetImageFromArray(VOLUME)
    image.SetSpacing((0.5, 2, 3))
    image.SetOrigin((4, -5, 6))
    image.SetDirection((0, 0, 1, -1, 0, 0, 0, -1, 0))
    for name in ("x.nrrd", "x.mha"):
        sitk.WriteImage(image, str(folder / name), False)

    nrrd = (folder / "x.nrrd").read_bytes()[: -len(RAW)].decode()
    meta = (folder / "x.mha").read_bytes()[: -len(RAW)].decode()
    return {"nrrd": nrrd.rstrip("\n") + "\n", "mha": meta.replace("ElementDataFile = LOCAL\n", "")}


def save_nrrd(folder, headers, lines="", data=RAW, encoding="raw"):
    """VOLUME as a NRRD file with further lines in its header; without data, as two files."""
    header = re.sub("encoding: .*", f"encoding: {encoding}", headers["nrrd"]) + lines
    path = folder / ("x.nrrd" if data else "x.nhdr")
    path.write_bytes(header.encode() + (b"\n" + data if data else b""))
    return path


def save_meta(folder, headers, lines, data=b""):
    """VOLUME as a MetaImage file with further lines at the end of its header."""
    path = folder / ("x.mha" if data else "x.mhd")
    path.write_bytes((headers["mha"] + lines).encode() + data)
    return path


def save_slices(folder):
    for name, plane in zip(SLICES, VOLUME, strict=True):
        (folder / name).write_bytes(plane.tobytes())


# intact files of kinds that are rare
NRRD_KINDS = {
    "text": {"encoding": "ascii", "data": " ".join(map(str, VOLUME.ravel())).encode()},
    "hex": {"encoding": "hex", "data": RAW.hex().encode()},
    "list": {"lines": "data file: LIST 2\n" + "".join(f"{n}\n" for n in SLICES), "data": b""},
    "numbered": {"lines": "data file: s%03d.raw 0 8 1 2\n", "data": b""},
}
META_KINDS = {
    "list": "ElementDataFile = LIST\n" + "\n".join(SLICES),
    "numbered": "ElementDataFile = s%03d.raw 0 8 1\n",
}


def assert_equals_itk(path):
    """Values and places are those that SimpleITK reads."""
    image = files.read(path)
    expected = sitk.ReadImage(str(path))
    voxels = sitk.GetArrayFromImage(expected).T
    nib.save(nib.Nifti1Image(voxels, itk_affine(expected)), path.parent / "expected.nii")
    same = files.read(path.parent / "expected.nii")
    np.testing.assert_array_equal(image.pixels, same.pixels)
    np.testing.assert_allclose(image.affine, same.affine, atol=1e-5)


def assert_conversion_works(path):
    """The error of an intact file names a conversion, after which it is read rightly."""
    with pytest.raises(UserError, match="which gantk does not read. Convert it") as error:
        files.read(path)

    command = re.search(r"with (SimpleITK.*\))", str(error.value))[1]
    converted = path.parent / "converted.nrrd"
    exec(
        command.replace("'converted.nrrd'", "TO"),
        {"SimpleITK": sitk, "FILE": str(path), "TO": str(converted)},
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(converted))), VOLUME)
    assert_equals_itk(converted)


@pytest.mark.parametrize("kind", [*NRRD_KINDS, *META_KINDS.values()])
def test_rare_kinds_name_a_conversion_that_works(tmp_path, headers, kind):
    save_slices(tmp_path)
    if kind in NRRD_KINDS:
        assert_conversion_works(save_nrrd(tmp_path, headers, **NRRD_KINDS[kind]))
    else:
        assert_conversion_works(save_meta(tmp_path, headers, kind))


def test_usual_kinds_of_nrrd_and_metaimage_are_read_as_itk_does(tmp_path, headers):
    (tmp_path / "late.raw").write_bytes(b"12345" + RAW)
    late = "HeaderSize = 5\nElementDataFile = late.raw\n"
    for path in (
        save_nrrd(tmp_path, headers, encoding="gzip", data=gzip.compress(RAW)),
        save_nrrd(tmp_path, headers),
        save_nrrd(tmp_path, headers, "byte skip: 5\n", b"12345" + RAW),
        save_nrrd(tmp_path, headers, "byte skip: -1\n", b"12345" + RAW),
        save_nrrd(tmp_path, headers, "line skip: 1\n", b"a line\n" + RAW),
        save_meta(tmp_path, headers, late),
        save_meta(tmp_path, headers, late.replace("5", "-1")),
        save_meta(tmp_path, headers, "ElementDataFile = LOCAL\n", RAW),
    ):
        assert_equals_itk(path)


CHANGED_MEANINGS = {
    "nrrd": ['space units: "um" "um" "um"', "old min: 0\nold max: 1"],
    "mha": ["DistanceUnits = um", "ElementToIntensityFunctionSlope = 2"],
}


@pytest.mark.parametrize(
    "kind, line", [(kind, line) for kind, lines in CHANGED_MEANINGS.items() for line in lines]
)
def test_units_and_scales_that_are_not_applied_are_refused(tmp_path, headers, kind, line):
    if kind == "nrrd":
        path = save_nrrd(tmp_path, headers, line + "\n")
    else:
        path = save_meta(tmp_path, headers, line + "\nElementDataFile = LOCAL\n", RAW)

    with pytest.raises(UserError, match="which gantk does not apply.*and remove the field"):
        files.read(path)


@pytest.mark.parametrize("hostile", ["/etc/hostname", "../x.raw", "%s%n 0 1 1", "a\nLIST"])
def test_a_header_cannot_open_files_elsewhere(tmp_path, headers, hostile):
    (tmp_path / "in").mkdir()
    (tmp_path / "x.raw").write_bytes(RAW)
    for path in (
        save_nrrd(tmp_path / "in", headers, f"data file: {hostile}\n", b""),
        save_meta(tmp_path / "in", headers, f"ElementDataFile = {hostile}\n"),
    ):
        with pytest.raises(UserError, match=path.name):
            files.read(path)


def test_damaged_voxels_of_a_metaimage_are_refused(tmp_path):
    path = tmp_path / "x.mha"
    sitk.WriteImage(sitk.GetImageFromArray(VOLUME), str(path), True)
    content = bytearray(path.read_bytes())
    content[-300] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.mha' cannot be read as MetaImage"):
        files.read(path)


@pytest.mark.parametrize("unit, millimetres", [("meter", 1000), ("mm", 1), ("micron", 0.001)])
def test_the_unit_of_a_nifti_is_used(tmp_path, unit, millimetres):
    affine = np.array([[-2, 0, 0, 9], [0, 0, 3, 8], [0, 1.5, 0, 7], [0, 0, 0, 1.0]])
    stored = affine.copy()
    stored[:3] /= millimetres
    image = nib.Nifti1Image(VOLUME, stored)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "x.nii")

    read = files.read(tmp_path / "x.nii")
    files.write(tmp_path / "y.nii", read)

    np.testing.assert_allclose(read.affine, affine, atol=1e-6)
    itk = sitk.ReadImage(str(tmp_path / "y.nii"))
    np.testing.assert_allclose(itk_affine(itk), affine, atol=1e-4)
    np.testing.assert_allclose(nib.load(tmp_path / "y.nii").affine, stored, rtol=1e-5)


SCALES = {(1, 0): (1, 0), (0.5, -100): (0.5, -100), (-1, 0): (-1, 0)}
# a slope of 0 or NaN means that the values are as stored
SCALES |= {(0, 0): (1, 0), (0, 50): (1, 0), (np.nan, np.nan): (1, 0)}


@pytest.mark.parametrize("scale", SCALES, ids=str)
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_the_scale_of_a_nifti_is_used(tmp_path, name, scale):
    image = nib.Nifti1Image(VOLUME, np.diag([-1, -1, 1, 1]))
    nib.save(image, tmp_path / "x.nii")
    content = bytearray((tmp_path / "x.nii").read_bytes())
    content[112:120] = np.array(scale, "<f4").tobytes()  # scl_slope, scl_inter
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "x.nii.gz" else content)

    slope, intercept = SCALES[scale]
    expected = VOLUME.T.astype(np.float32) * slope + intercept
    np.testing.assert_array_equal(files.read(tmp_path / name).pixels[0], expected)
    if scale != (0, 50):  # NIfTI-1 ignores an intercept without a slope; ITK adds it
        itk = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name)))
        np.testing.assert_array_equal(itk.astype(np.float32), expected)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii"])
def test_nifti_is_read_whatever_its_suffix_says(tmp_path, name):
    image = nib.Nifti1Image(VOLUME, np.eye(4))
    nib.save(image, tmp_path / "plain.nii")
    content = (tmp_path / "plain.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "x.nii" else content)
    expected = files.read(tmp_path / "plain.nii").pixels
    np.testing.assert_array_equal(files.read(tmp_path / name).pixels, expected)


@pytest.mark.parametrize("axes", [0, 8, -3])
def test_a_nifti_with_wrong_number_of_axes_is_refused(tmp_path, axes):
    nib.save(nib.Nifti1Image(VOLUME, np.eye(4)), tmp_path / "x.nii")
    content = bytearray((tmp_path / "x.nii").read_bytes())
    content[40:42] = axes.to_bytes(2, "little", signed=True)
    (tmp_path / "x.nii").write_bytes(content)
    with pytest.raises(UserError, match=r"dim\[0\], is not 1 to 7"):
        files.read(tmp_path / "x.nii")


# EXIF 2.3, table 6: orientation -> the picture as a viewer shows it
SHOWN = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", SHOWN)
@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_pictures_are_read_as_viewers_show_them(tmp_path, name, orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = (PICTURE[:, :9] % 256).astype(np.uint8)
    PIL.Image.fromarray(stored).save(tmp_path / name, exif=exif)
    image = files.read(tmp_path / name)
    np.testing.assert_array_equal(image.pixels[0], SHOWN[orientation](stored))
    assert files.outline(tmp_path / name).pixels.shape == image.pixels.shape


@pytest.mark.parametrize("kind", ["f4", "i2"])
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_adobe_deflate"}], ids=str)
def test_tiff_of_floats_and_signed_numbers_is_read(tmp_path, kind, options):
    values = np.abs(PICTURE).astype(kind)
    PIL.Image.fromarray(values).save(tmp_path / "x.tif", **options)
    image = files.read(tmp_path / "x.tif")
    np.testing.assert_array_equal(image.pixels[0], values.astype(np.float32))
    files.write(tmp_path / "y.tif", image)
    np.testing.assert_array_equal(files.read(tmp_path / "y.tif").pixels, image.pixels)


def test_signed_16_bits_of_imagej_are_used(tmp_path):
    stored = np.array([[31744, 32768, 33768]] * 3, np.uint16)
    description = "ImageJ=1.53t\nunit=mm\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n"
    PIL.Image.fromarray(stored).save(tmp_path / "x.tif", tiffinfo={270: description})
    assert files.read(tmp_path / "x.tif").pixels[0, 0].tolist() == [-1024, 0, 1000]


UNREAD = {
    "x.gif": ("GIF", "PNG"),
    "x.webp": ("WEBP", "PNG"),
    "x.mgz": ("FreeSurfer MGZ", "mri_convert"),
    "x.npy": ("NumPy array", "NIfTI"),
    "X.PAR": ("Philips PAR/REC", "dcm2niix"),
    "x.img": ("Analyze or NIfTI pair", "nibabel"),
    "x.hdr": ("Analyze or NIfTI pair", "nibabel"),
    "x.zip": (".zip archive", "[Uu]npack it"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_kinds_that_are_not_read_are_named_with_a_remedy(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    kind, remedy = UNREAD[name]
    with pytest.raises(UserError, match=rf"cannot read .*\({kind}.*{remedy}"):
        files.read(tmp_path / name)


IMAGES = "x.png X.JPEG x.nii.gz x.mhd x.nrrd"
OTHERS = "x.txt x.csv x.json Thumbs.db ._x.png .x.gif x"


@pytest.mark.parametrize("name", [*IMAGES.split(), *OTHERS.split()])
def test_images_are_told_by_name(name):
    assert files.is_image(name) == (name in IMAGES.split())


def test_a_volume_of_another_kind_is_written_where_itk_finds_it(tmp_path):
    affine = np.array([[-2, 0, 0, 9], [0, 0, 3, 8], [0, 1.5, 0, 7], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(VOLUME, affine), tmp_path / "x.nii")
    image = files.read(tmp_path / "x.nii")
    for name in ("y.nrrd", "y.mha", "y.nhdr", "y.mhd"):
        files.write(tmp_path / name, image)
        itk = sitk.ReadImage(str(tmp_path / name))
        voxels, found = sitk.GetArrayFromImage(itk).T, itk_affine(itk)
        np.testing.assert_array_equal(voxels, VOLUME)
        np.testing.assert_allclose(found, affine, atol=1e-9)


def test_a_picture_without_a_grid_is_written_as_nrrd(tmp_path):
    image = Image(np.abs(PICTURE)[None].astype(np.float32))
    files.write(tmp_path / "x.nrrd", image)
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "x.nrrd")))
    np.testing.assert_array_equal(found.squeeze(), image.pixels[0])


@pytest.mark.parametrize("flat", range(3))
def test_the_grid_of_a_slice_is_that_of_its_rows_and_columns(tmp_path, flat):
    affine = np.diag([-1.5, 2.5, 3.5, 1])
    shape = [5, 6, 7]
    shape[flat] = 1
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), affine), tmp_path / "x.nii")
    grid = files.read(tmp_path / "x.nii").grid

    in_file = {axis: 1.5 + axis for axis in range(3) if axis != flat}
    sides = {axis: shape[axis] for axis in in_file}
    # columns run along the first of the file's axes here, rows along the last
    assert grid.shape == tuple(reversed(sides.values()))
    assert grid.spacing == tuple(reversed(in_file.values()))


def test_grids_that_differ_by_half_a_voxel_are_not_the_same(tmp_path):
    grids = []
    for shift in (0, 0.05, 0.5):
        affine = np.diag([2.0, 2, 2, 1])
        affine[0, 3] = 2 * shift
        nib.save(nib.Nifti1Image(VOLUME, affine), tmp_path / "x.nii")
        grids.append(files.outline(tmp_path / "x.nii").grid)

    assert grids[0].same_as(grids[1])
    assert not grids[0].same_as(grids[2])
