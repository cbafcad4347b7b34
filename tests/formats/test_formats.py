"""Files: each kind is read as what it is, written without loss on its own grid, and refused by name
where broken.
"""

import gzip
import os
import random
import re
import struct
from dataclasses import replace

import dicom_files
import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.image import Image

RNG = np.random.default_rng(0)
GRAY8 = RNG.integers(0, 256, (12, 9), dtype=np.uint8)
FLOATS = RNG.normal(0, 1000, (12, 9)).astype(np.float32)
COLOUR = RNG.integers(0, 256, (12, 9, 3), dtype=np.uint8)
NUMBERS = np.arange(210, dtype=np.int16).reshape(5, 6, 7)
ITK = ["x.mha", "x.mhd", "x.nrrd", "x.nhdr"]
UPRIGHT = (1, 0, 0, 0, 1, 0, 0, 0, 1)
OBLIQUE = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)
ROLLED = (0, 0, 1, -1, 0, 0, 0, -1, 0)  # sagittal slices
same = np.testing.assert_array_equal


def save(path, array, **options):
    """A picture."""
    PIL.Image.fromarray(array).save(path, **options)
    return path


def itk(
    path, array, packed=False, vector=False, direction=UPRIGHT, spacing=(1, 2, 3), origin=(4, 5, 6)
):
    """A file by SimpleITK, with a remark where its format has such."""
    image = sitk.GetImageFromArray(array, isVector=vector)
    if image.GetDimension() == 3:
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(direction)

    image.SetMetaData("Remark", "two words")
    sitk.WriteImage(image, str(path), packed)
    return image


PLUGIN = """
import numpy as np
from gantk import hookimpl
from gantk.formats.image import Format, Image

class Npy(Format):
    '''NumPy arrays (.npy), (H, W).'''
    suffixes = (".npy",)

    def read(self, path, volume=None, values=True):
        return Image(np.load(path)[None])

    def write(self, path, image, description=""):
        np.save(path, image.pixels[0])

@hookimpl
def gantk_register(add):
    add.format("npy", "my_plugin:Npy")
"""


def test_plugin_formats_read_and_write(add_plugin, tmp_path):
    add_plugin("my-package", "my_plugin", PLUGIN)
    io.write(tmp_path / "1.npy", Image(GRAY8[None].astype(np.float32)))

    assert [path.name for path in io.list_images(tmp_path)] == ["1.npy"]

    same(io.read(tmp_path / "1.npy").pixels[0], GRAY8)
    with pytest.raises(UserError, match="--volume is 1"):
        io.read(tmp_path / "1.npy", 1)

    (tmp_path / "broken.npy").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="'.*broken.npy' cannot be read as npy"):
        io.read(tmp_path / "broken.npy")


@pytest.mark.parametrize(
    "stored, tag, meant",
    [
        (np.uint8(200), (339, 2, 2), -56),
        (np.int32(-1), (339, 2, 1), 2**32 - 1),
        (np.uint16(5), (262, 1, 0), 65530),
    ],
)
def test_numbers_of_a_tiff_have_its_sign_and_its_white(tmp_path, stored, tag, meant):
    path = save(tmp_path / "x.tif", np.full((3, 4), stored), tiffinfo={339: 1 + (meant == -56)})
    was, now = (struct.pack("<HHIH", tag[0], 3, 1, value) for value in tag[1:])

    assert path.read_bytes().count(was) == 1
    path.write_bytes(path.read_bytes().replace(was, now))
    assert (io.read(path).pixels == np.float32(meant)).all()


def test_two_plugin_formats_of_one_suffix_are_an_error(add_plugin, tmp_path):
    add_plugin("my-package", "my_plugin", PLUGIN)
    other = PLUGIN.replace('"npy", "my_plugin', '"npy2", "other_plugin')
    add_plugin("other-package", "other_plugin", other)
    np.save(tmp_path / "1.npy", GRAY8)
    words = "two formats use the suffix '.npy': 'npy' of my-package and 'npy2' of other"

    with pytest.raises(UserError, match=words):
        io.read(tmp_path / "1.npy")


def test_palettes_and_transparency_are_read_as_seen(tmp_path):
    palette = PIL.Image.fromarray(COLOUR).quantize(16)
    palette.save(tmp_path / "p.png")
    colours = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    same(io.read(tmp_path / "p.png").pixels, colours)

    assert io.outline(tmp_path / "p.png").pixels.shape == colours.shape

    transparent = save(tmp_path / "rgba.png", np.dstack([COLOUR, GRAY8]))
    same(io.read(transparent).pixels, COLOUR.transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_16_bit_colour_is_refused(tmp_path, name):
    deep = RNG.integers(0, 65536, (12, 9, 3), dtype=np.uint16)
    itk(tmp_path / name, deep, vector=True)

    with pytest.raises(UserError, match=f"{name}.*several channels of 16 bits"):
        io.read(tmp_path / name)


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
@pytest.mark.parametrize(
    "values", [[-5.0, 3.0], [0.0, 70000.0], [0.25, 0.5], [np.nan, 0.0]], ids=str
)
def test_values_a_format_cannot_hold_leave_the_old_file(tmp_path, name, values):
    before = save(tmp_path / name, GRAY8).read_bytes()
    with pytest.raises(UserError, match="cannot store values.*.tif.*.nii.gz|NaN or infinite"):
        image = Image(np.array([[values]], np.float32), dtype=np.dtype(np.float32))
        io.write(tmp_path / name, image, overwrite=True)

    assert (tmp_path / name).read_bytes() == before
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("name", "source"), [("y.nii", "x.nii"), ("y.mhd", "x.mhd"), ("y.png", "x.mhd")]
)
def test_pixels_that_do_not_fit_the_grid_are_refused(tmp_path, name, source):
    itk(tmp_path / source, NUMBERS)
    image = io.read(tmp_path / source)
    before = os.listdir(tmp_path)
    for pixels in (image.pixels[:, :3], np.repeat(image.pixels, 3, 0)):
        with pytest.raises(UserError, match="does not fit the voxel grid|cannot store"):
            io.write(tmp_path / name, replace(image, pixels=pixels))

    assert os.listdir(tmp_path) == before


@pytest.mark.parametrize("dtype", ["i1", "u2", "i8", "f4", "f8"])
@pytest.mark.parametrize("name, order", [("x.nii", ">"), ("x.nii.gz", "<")])
def test_nifti_of_every_type_and_byte_order_comes_back(tmp_path, dtype, name, order):
    values = RNG.integers(0, 120, (5, 6, 7)).astype(dtype)
    header = nib.Nifti1Header(endianness=order)
    before = nib.Nifti1Image(values, np.diag([2, 2, 3, 1.0]), header, dtype=values.dtype)
    before.to_filename(tmp_path / name)

    image = io.read(tmp_path / name)

    assert image.dtype == values.dtype
    assert image.dtype.isnative

    out = tmp_path / "out"
    out.mkdir()
    io.write(out / name, image)
    after = nib.load(out / name)
    same(np.asarray(after.dataobj), values)
    written = np.float32 if dtype == "f8" else dtype

    assert after.get_data_dtype().newbyteorder("=") == written
    files = sorted(path.name for path in io.files_of(tmp_path / name))
    assert files == sorted(os.listdir(out))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda header: None, ""),
        (lambda header: header.set_sform(None, 0), ""),
        (lambda header: (header.set_sform(None, 0), header.set_qform(None, 0)), "no orientation"),
        (lambda header: header["pixdim"].__setitem__(1, -2), "negative spacing"),
    ],
)
def test_nifti_that_leaves_its_place_open_says_so(tmp_path, edit, said):
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3), np.diag([2, 2, 2, 1]))
    image.set_qform(image.affine, 1)
    image.to_filename(tmp_path / "x.nii")
    header = nib.load(tmp_path / "x.nii").header
    edit(header)
    content = (tmp_path / "x.nii").read_bytes()
    (tmp_path / "x.nii").write_bytes(header.binaryblock + content[len(header.binaryblock) :])

    image = io.read(tmp_path / "x.nii")
    assert [said in remark for remark in image.remarks] == [True] * bool(said)
    assert image.states_orientation == (said != "no orientation")


@pytest.mark.parametrize("codes", [(2, 1), (0, 1)])
def test_nifti_keeps_place_and_units_but_no_texts(tmp_path, codes):
    before = nib.Nifti2Image(NUMBERS, None)
    before.set_sform(np.diag([1, 2, 3, 1.0]), codes[0])
    before.set_qform(np.diag([-1.5, 1.5, 1.5, 1.0]), codes[1])
    before.header.set_xyzt_units("micron", "msec")
    before.header.set_intent("z score", (), name="map")
    before.header["cal_max"] = 90
    before.header["descrip"] = b"who"
    before.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"kept"))
    nib.save(before, tmp_path / "x.nii.gz")
    affine = before.get_sform() if codes[0] else before.get_qform()
    image = io.read(tmp_path / "x.nii.gz")
    np.testing.assert_allclose(image.affine, np.diag([0.001, 0.001, 0.001, 1]) @ affine, atol=1e-6)

    io.write(tmp_path / "y.nii.gz", image)
    after = nib.load(tmp_path / "y.nii.gz")
    header = after.header

    assert type(after) is nib.Nifti2Image
    np.testing.assert_allclose(after.affine, affine, atol=1e-5)
    assert (int(header["sform_code"]), int(header["qform_code"])) == codes
    assert header.get_xyzt_units() == ("micron", "msec")
    assert header["descrip"].item() == b""
    assert len(header.extensions) == 0
    # what described other values is dropped
    assert header.get_intent()[0] == "none"
    assert header["cal_max"] == 0


@given(flips=st.tuples(*[st.sampled_from([-1, 1])] * 3), order=st.permutations(range(3)))
@settings(max_examples=30, deadline=None)
def test_volumes_stand_upright_whatever_the_order_in_the_file(tmp_path_factory, flips, order):
    folder = tmp_path_factory.mktemp("upright")
    world = np.zeros((6, 7, 8), np.float32)  # x to the right, y to anterior, z to superior
    world[4, 1, 5] = 1
    stored = np.transpose(world, order)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, target in enumerate(order):
        affine[target, axis] = flips[target] * (target + 1)
        if flips[target] < 0:
            stored = np.flip(stored, axis)
            affine[target, 3] = (world.shape[target] - 1) * (target + 1)

    nib.save(nib.Nifti1Image(np.ascontiguousarray(stored), affine), folder / "x.nii")
    image = io.read(folder / "x.nii")

    # Planes from inferior up, rows from anterior back, columns from the patient's right.
    assert image.pixels.shape == (1, 8, 7, 6)
    assert np.argwhere(image.pixels[0] == 1).tolist() == [[5, 5, 1]]
    assert image.spacing == (3, 2, 1)
    assert image.file_shape == stored.shape

    for name in ("y.nii", "y.mha", "y.nrrd"):
        io.write(folder / name, image)
        again = io.read(folder / name)
        same(again.pixels, image.pixels)
        assert again.grid.same_as(image.grid)
        assert io.outline(folder / name).grid.same_as(image.grid)


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (1, 9, 7), (9, 1, 7), (9, 7, 1, 1)], ids=str)
def test_2d_nifti_keeps_its_shape(tmp_path, shape):
    values = np.arange(63, dtype=np.float32).reshape(shape)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "x.nii.gz")
    image = io.read(tmp_path / "x.nii.gz")

    assert image.pixels.shape == (1, 7, 9)

    io.write(tmp_path / "y.nii.gz", image)
    same(np.asarray(nib.load(tmp_path / "y.nii.gz").dataobj), values)


@pytest.mark.parametrize("name", ["x.nii", "x.nrrd", "x.mha"])
def test_integer_files_become_float_where_needed(tmp_path, name):
    itk(tmp_path / name, NUMBERS)
    image = io.read(tmp_path / name)
    for by in np.float32([0.01, 1e6]):  # no whole numbers; beyond int16
        io.write(tmp_path / f"y{name}", replace(image, pixels=image.pixels + by))
        same(io.read(tmp_path / f"y{name}").pixels, image.pixels + by)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_one_of_several_volumes_is_read_and_written_as_a_volume(tmp_path, name):
    series = RNG.normal(size=(3, 5, 6, 7)).astype(np.float32)
    itk(tmp_path / name, series)

    with pytest.raises(
        UserError, match=rf"{name}.*3 volumes.*Choose a volume from 0 to 2 with --volume"
    ):
        io.read(tmp_path / name)

    image = io.read(tmp_path / name, 2)
    same(np.sort(image.pixels.ravel()), np.sort(series[2].ravel()))
    io.write(tmp_path / f"y{name}", image)
    same(io.read(tmp_path / f"y{name}").pixels, image.pixels)


@pytest.mark.parametrize(
    ("shape", "vector", "found"),
    [
        ((3, 5, 6, 7), False, "3 volumes"),
        ((3, 5, 6, 7), True, "several values in each voxel"),
        ((90, 70, 3), True, "several values in each voxel"),
    ],
    ids=["four axes", "vectors", "colour"],
)
@pytest.mark.parametrize("name", ITK)
def test_several_values_of_nrrd_and_metaimage_are_refused(tmp_path, name, shape, vector, found):
    itk(tmp_path / name, RNG.normal(size=shape).astype(np.float32), vector=vector)
    with pytest.raises(UserError, match=f"{name}' holds {found}.*as a file of its own"):
        io.read(tmp_path / name)


IN_SPACE = pytest.mark.parametrize(
    "packed, direction", [(False, OBLIQUE), (True, ROLLED)], ids=["oblique", "rolled-packed"]
)
PLACE = {"spacing": (1 / 3, 0.7, 3), "origin": (5.123456789012, -6, 7)}


@pytest.mark.parametrize("name", ITK)
@IN_SPACE
def test_nrrd_and_metaimage_keep_place_but_no_remarks(tmp_path, name, packed, direction):
    array = RNG.integers(-900, 3000, (6, 7, 8), dtype=np.int16)
    before = itk(tmp_path / name, array, packed, direction=direction, **PLACE)
    content = (tmp_path / name).read_bytes()
    latin_1 = content.replace(b"two words", b"K\xf6ln")  # as older programs write it
    (tmp_path / name).write_bytes(latin_1)
    image = io.read(tmp_path / name)
    out = tmp_path / "out"
    out.mkdir()

    io.write(out / name, image)
    after = sitk.ReadImage(str(out / name))
    same(sitk.GetArrayFromImage(after), array)

    assert after.GetPixelID() == before.GetPixelID()
    assert not after.HasMetaDataKey("Remark")
    exactly = {"rel": 2e-15, "abs": 1e-15}
    assert after.GetSpacing() == pytest.approx(before.GetSpacing(), **exactly)
    assert after.GetOrigin() == pytest.approx(before.GetOrigin(), **exactly)
    assert after.GetDirection() == pytest.approx(before.GetDirection(), **exactly)
    files = 2 if name in ("x.mhd", "x.nhdr") else 1
    assert len(os.listdir(out)) == files
    assert len(io.files_of(tmp_path / name)) == files


@pytest.mark.parametrize("name", ITK)
def test_nrrd_and_metaimage_hold_gray_pictures(tmp_path, name):
    itk(tmp_path / name, FLOATS)
    image = io.read(tmp_path / name)
    same(image.pixels, FLOATS[None])
    io.write(tmp_path / f"y{name}", image)
    same(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"y{name}"))), FLOATS)


def test_the_space_of_nrrd_is_honoured(tmp_path):
    path = tmp_path / "x.nrrd"
    itk(path, NUMBERS)
    left = io.read(path)
    path.write_bytes(path.read_bytes().replace(b"left-posterior", b"right-anterior"))
    right = io.read(path)

    np.testing.assert_allclose(right.affine, np.diag([-1, -1, 1, 1]) @ left.affine)
    same(right.pixels, left.pixels[:, :, ::-1, ::-1])


# --- broken files


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """One small whole file of each kind, by name."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("whole")
    volume = rng.integers(0, 900, (9, 8, 7), np.int16)
    for name in ("x.nii", "x.nii.gz"):
        nib.save(nib.Nifti1Image(volume, np.diag([-1.5, 1.0, 2.0, 1.0])), folder / name)

    nib.save(nib.Nifti2Image(volume.astype(np.float32), np.eye(4)), folder / "two.nii")
    for name in ("x.nrrd", "gz.nrrd", "x.mha", "zlib.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(folder / name), name[0] != "x")

    for name in ("x.png", "x.jpg", "x.bmp", "x.tif"):
        save(folder / name, rng.integers(0, 256, (40, 30), np.uint8))

    dicom_files.series(folder, dicom_files.head(1), prefix="slice")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def line(content: bytes, name: str, value: str) -> bytes:
    """A NRRD or MetaImage file with one line of its header changed."""
    return re.sub(
        rf"^({name} ?[=:] ?).*$".encode(),
        rb"\g<1>" + value.encode(),
        content,
        count=1,
        flags=re.MULTILINE,
    )


def broken_files(whole: dict[str, bytes]) -> list[tuple[str, bytes]]:
    """Files that have to be refused; tests/reliability/test_fuzzed_files.py flips bits."""
    rng = random.Random(0)
    one = whole["x.nii"]
    mha = whole["x.mha"]
    nrrd = whole["x.nrrd"]
    made: list[tuple[str, bytes]] = []
    for name, content in whole.items():
        made += [(f"cut.{name}", content[: int(len(content) * part)]) for part in (0, 0.3, 0.9)]
        made.append((f"noise.{name}", rng.randbytes(900)))

    for name in ("gz.nrrd", "zlib.mha", "x.nii.gz"):
        half = len(whole[name]) // 2
        made.append((f"damaged.{name}", whole[name][:half] + b"damaged" + whole[name][half + 7 :]))

    fields = [("pixdim", [1, 1, bad, 1, 1, 1, 1, 1]) for bad in (0.0, np.nan, np.inf)]
    fields += [(f"srow_{axis}", [0, 0, 0, 0]) for axis in "xyz"]
    sides = ([3, 30, 30, 30], [0], [9, 9, 8, 7], [3, -9, 8, 7], [3, 32767, 32767, 32767])
    for name, value in [*fields, *(("dim", (each + [1] * 8)[:8]) for each in sides)]:
        changed = bytearray(one)
        np.frombuffer(changed, nib.nifti1.header_dtype, count=1)[name] = value
        made += [
            (f"{name}.nii", bytes(changed)),
            (f"{name}.nii.gz", gzip.compress(changed, mtime=0)),
        ]

    fine = bytearray(nib.Nifti2Image(np.ones((9, 8, 7), np.float32), np.eye(4)).to_bytes())
    for axis, row in zip("xyz", 1e-310 * np.eye(4)[:3], strict=True):  # squares vanish
        np.frombuffer(fine, nib.nifti2.header_dtype, count=1)[f"srow_{axis}"] = row
    made.append(("fine.nii", bytes(fine)))

    made += [
        ("spacing.mha", line(mha, "ElementSpacing", f"1 {bad} 1")) for bad in ("0.0", "nan", "inf")
    ]
    made.append(("affine.mha", line(mha, "TransformMatrix", "1 0 0 1 0 0 0 0 1")))
    for sides in ("30 30 30", "9 8", "9 8 -7", "0 8 7", "9.5 8 7", "100000 100000 100000"):
        made += [
            ("sides.mha", line(mha, "DimSize", sides)),
            ("sides.nrrd", line(whole["gz.nrrd"], "sizes", sides)),
        ]

    header = mha[: mha.index(b"ElementDataFile")]
    for name in ("../x.raw", "missing.raw", "LIST", "x%03d.raw 1 10 1", "pipe.raw"):
        made.append(("second.mhd", header + f"ElementDataFile = {name}\n".encode()))
        made.append(
            ("second.nhdr", re.sub(rb"\n\n.*", f"\ndata file: {name}\n".encode(), nrrd, flags=re.S))
        )

    odd = ("mit Ümlaut.nii.gz", "50%s %(x)d {y}.nii.gz", "'quoted' \"2\".nii.gz")
    return made + [(name, whole["x.nii.gz"][:60]) for name in odd]


def test_each_broken_file_gets_one_message_that_names_it(whole, tmp_path):
    os.mkfifo(tmp_path / "pipe.raw")
    for k, (kind, content) in enumerate(broken_files(whole)):
        path = tmp_path / f"{k:03d} {kind}"
        path.write_bytes(content)
        with pytest.raises(UserError) as refused:
            io.read(path)

        said = str(refused.value)
        assert path.name in said
        assert "\n" not in said
        assert len(said) < 1200


def test_folders_are_listed_in_natural_order(whole, tmp_path):
    for name in ("zz10.png", "zz9.png", "cut.png", "._zz8.png"):
        (tmp_path / name).write_bytes(whole["x.png"])
    dicom_files.series(tmp_path / "gap", dicom_files.head(), skip=(2,))
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "folder.png").mkdir()
    for name, to in (("up", "."), ("link.png", "cut.png"), ("loop.nii", "loop.nii")):
        (tmp_path / name).symlink_to(tmp_path / to)

    # a link that leads nowhere is reported when it is read
    pictures = ["cut.png", "link.png", "loop.nii", "zz9.png", "zz10.png"]

    assert [scan.name for scan in io.scans(tmp_path)] == ["cut.png", "gap", *pictures[1:]]
    assert [path.name for path in io.list_images(tmp_path)] == pictures


ANNEX = "/annex/objects/MD5E-s99--00.nii.gz\n"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "link to a missing file, '.git/annex/x'.*git annex get"),
        (ANNEX, "pointer of git-annex or git LFS.*git annex get"),
        (LFS, "pointer of git-annex or git LFS.*git lfs pull"),
    ],
)
def test_a_file_that_was_not_fetched_is_listed_and_named(tmp_path, content, says):
    path = tmp_path / "p1_T1.nii.gz"
    path.symlink_to(".git/annex/x") if content is None else path.write_text(content)
    assert [scan.path for scan in io.scans(tmp_path)] == [path]
    with pytest.raises(UserError, match=f"p1_T1.nii.gz.*{says}"):
        io.read(path)


@pytest.mark.parametrize("bin", ["#recycle", "@Recycle", "$RECYCLE.BIN/S-1-5-21", "__MACOSX"])
def test_what_was_deleted_is_not_listed(whole, tmp_path, bin):
    for folder in (tmp_path, tmp_path / bin):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "x.png").write_bytes(whole["x.png"])
    assert io.list_images(tmp_path, recursive=True) == [tmp_path / "x.png"]


def test_a_folder_that_cannot_be_listed_is_told(whole, tmp_path, monkeypatch, capsys):
    (tmp_path / "x.png").write_bytes(whole["x.png"])
    closed = tmp_path / "lost+found"
    closed.mkdir()
    scandir = os.scandir

    def of_a_user(path):
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", of_a_user)
    with io.listed_once():
        for _ in range(2):
            with io.listed_once():
                assert io.list_images(tmp_path, recursive=True) == [tmp_path / "x.png"]
    told = f"the folder '{closed}' cannot be listed: Permission denied. Nothing in it is used"
    assert " ".join(capsys.readouterr().err.split()).count(told) == 1


def test_links_to_folders_are_followed_and_never_in_a_circle(whole, tmp_path):
    data = tmp_path / "data"
    there = tmp_path / "there"
    for folder in (data, there / "p2", there / "p1"):
        folder.mkdir(parents=True)

    for place, to in (
        (data / "p1", there / "p1"),
        (data / "p2", there / "p2"),
        (data / "gone", "nowhere"),
    ):
        place.symlink_to(to)

    for place, to in (
        (there / "p1/other", "../p2"),
        (there / "p2/other", "../p1"),
        (there / "p1/up", data),
    ):
        place.symlink_to(to)

    (there / "p1/x.png").write_bytes(whole["x.png"])
    found = ["p1/x.png", "p2/other/x.png"]

    assert [
        path.relative_to(data).as_posix() for path in io.list_images(data, recursive=True)
    ] == found
    assert [scan.name for scan in io.scans(data)] == found


def test_a_folder_of_several_series_or_of_none_is_no_image(tmp_path):
    for k in range(2):
        dicom_files.series(
            tmp_path / "deep/two", dicom_files.head(), prefix=f"S{k}-", SeriesInstanceUID=f"1.{k}"
        )

    for name, words in {
        "deep/two": "two.*2 DICOM series",
        "deep": "deep",
        "nowhere.png": "does not exist",
    }.items():
        with pytest.raises(UserError, match=words):
            io.read(tmp_path / name)


def test_the_limit_of_memory_is_the_users(tmp_path, monkeypatch):
    nib.save(nib.Nifti1Image(np.zeros((64, 64, 64), np.uint8), np.eye(4)), tmp_path / "x.nii")
    dicom_files.series(tmp_path / "series", np.zeros((64, 64, 64), np.uint8))
    for limit, message in {
        "0.0005": "(262144|135168) values or more.*GANTK_MAX_GIB",
        "much": "GANTK_MAX_GIB is set to 'much'",
    }.items():
        monkeypatch.setenv("GANTK_MAX_GIB", limit)
        for name in ("x.nii", "series"):
            with pytest.raises(UserError, match=message):
                io.read(tmp_path / name)

    monkeypatch.setenv("GANTK_MAX_GIB", "0.001")

    assert io.read(tmp_path / "x.nii").pixels.shape == (1, 64, 64, 64)


@pytest.mark.parametrize("fill", [3.4e38, -3.4e38, 2e38, 1e20])
@pytest.mark.parametrize("name", ["x.tif", "x.nii", "x.nii.gz", "x.nrrd", "x.mha", "x.mhd"])
def test_fill_values_that_nothing_can_compute_with_are_named(tmp_path, name, fill):
    values = np.full((1, 6, 9), 7.5, np.float32)
    values[0, :2] = fill
    if name == "x.tif":
        save(tmp_path / name, values[0])
    elif ".nii" in name:
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / name)
    else:
        itk(tmp_path / name, values)

    with pytest.raises(UserError, match=r"18 values that are .* too large \(above 1e15\)"):
        io.read(tmp_path / name)


def test_arrays_of_such_values_are_refused_too(tiny_run):
    import gantk

    image = np.ones((32, 32), np.float32)
    image[0] = -3.4e38
    with pytest.raises(UserError, match="32 values .* too large"):
        gantk.load(tiny_run).translate(image, to="T2")
    with pytest.raises(UserError, match="32 values that are .* too large"):
        gantk.run("dualgan_t1t2", data={"T1": image[None, None], "T2": image[None, None]})


def test_the_byte_order_of_metaimage_is_honoured(tmp_path):
    path = tmp_path / "x.mha"
    itk(path, NUMBERS)
    content = path.read_bytes().replace(b"MSB = False", b"MSB = True")
    header = content[: -NUMBERS.nbytes]
    path.write_bytes(header + NUMBERS.astype(">i2").tobytes())
    same(io.read(path).pixels[0], NUMBERS)
