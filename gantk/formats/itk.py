"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd), the formats of ITK and 3D Slicer: reads images
upright, writes them.

SimpleITK writes them. They are parsed here because ITK's own readers (5.4) end the process at some
damaged headers (`NDims = -1`, a long line of a NRRD), return wrong values for damaged voxels of a
compressed MetaImage, open any file that a header names, and ignore units and intensity scales;
pynrrd unpacks without a limit and drops remarks that are not ASCII. What is rare (lists of files,
voxels as text) is left to ITK: the error names the conversion.
A file of two axes is a picture. A fourth axis, and several values per voxel, are refused. Files are
written on the source's grid, compressed if the source was, as integers if all values are whole
numbers (`gantk.formats.voxels`), and without the source's remarks, which may name a patient.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gantk.errors import UserError, one_line
from gantk.formats.budget import Broken
from gantk.formats.image import (
    UPRIGHT,
    Format,
    Image,
    expect_grid,
    in_file_order,
    label_of,
    three_sides,
)
from gantk.formats.voxels import Stored, as_integers, name_for_itk, simpleitk

# NumPy's type -> MetaImage's name and a pattern of NRRD's names
TYPES = {
    "u1": ("MET_UCHAR", r"uchar|unsigned char|uint8(_t)?"),
    "i1": ("MET_CHAR", r"signed char|int8(_t)?"),
    "u2": ("MET_USHORT", r"ushort|unsigned short( int)?|uint16(_t)?"),
    "i2": ("MET_SHORT", r"short|(signed )?short( int)?|int16(_t)?"),
    "u4": ("MET_UINT", r"uint|unsigned int|uint32(_t)?"),
    "i4": ("MET_INT", r"int|signed int|int32(_t)?"),
    "u8": ("MET_ULONG_LONG", r"ulonglong|unsigned long long( int)?|uint64(_t)?"),
    "i8": ("MET_LONG_LONG", r"longlong|(signed )?long long( int)?|int64(_t)?"),
    "f4": ("MET_FLOAT", "float"),
    "f8": ("MET_DOUBLE", "double"),
}
# NRRD's encoding -> compression
PACKINGS = {"raw": "", "gzip": "gzip", "gz": "gzip"}
MAX_AXES = 16  # the limit of NRRD
# Fields, in lower case and without blanks, that would change what values or positions mean, and the
# values that change nothing.
PLAIN = {
    "distanceunits": r"mm|\?",
    "elementtointensityfunctionslope": r"1(\.0*)?",
    "elementtointensityfunctionoffset": r"-?0(\.0*)?",
    "spaceunits": r'("(mm|millimet(er|re)s?|)"\s*)*',
    "oldmin": "nan",
    "oldmax": "nan",
}
MAX_DESCRIPTION = 200  # characters
SEVERAL_FILES = "stores its voxels in several files"
CONVERSION = (
    "convert it in Python with SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'converted.nrrd')"
)
# NRRD's kinds of axes that run over voxels, not over values
DOMAINS = {"domain", "space", "time", "none", "???"}
# signs of x, y to LPS
SIGNS_TO_LPS = {
    "right-anterior": (-1, -1),
    "ras": (-1, -1),
    "left-anterior": (1, -1),
    "las": (1, -1),
}


@dataclass(frozen=True)
class ItkHeader:
    """The grid of one volume: axes in the file's order, LPS millimetres as in ITK."""

    # voxels along two or three axes; straight from `parse` along all axes that run over voxels
    size: tuple[int, ...]
    # (axes, axes) mm: column k is the step from one voxel to the next along axis k
    vectors: np.ndarray
    origin: np.ndarray  # (axes,) mm
    compressed: bool = True
    states_orientation: bool = True  # whether the axes are said to be those of a patient
    description: str = ""  # what gantk has written that the image shows

    def get_data_shape(self) -> tuple[int, ...]:
        """Voxels along each axis of the file; the name is that of nibabel's headers."""
        return self.size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along three axes: a picture has 1 along the third."""
        return three_sides(self.size)

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel indices (i, j, k) to RAS millimetres; a picture is in the plane at 0."""
        n = len(self.size)
        affine = np.eye(4)
        affine[:n, :n] = self.vectors
        affine[:n, 3] = self.origin
        return UPRIGHT @ affine


class Itk(Format):
    """Reads and writes a text header with voxels after it or in a second file: what NRRD and
    MetaImage share.

    A subclass has `parse`, which takes the start of a file and returns the header and where the
    voxels are stored, both with all axes, the fastest first.
    """

    volumes = describes = True

    def parse(self, path: Path, start: bytes) -> tuple[ItkHeader, Stored]:
        """Parse the start of a file, see above."""
        raise NotImplementedError

    def files(self, path: Path) -> list[Path]:
        """The header's file and the file that holds the voxels, often the same one."""
        return list(dict.fromkeys((path, self._open(path)[1].path)))

    def read(self, path: Path, volume: int | None = None, values: bool = True) -> Image:
        """Read float32 (1, D, H, W) or (1, H, W); axes of one voxel are dropped."""
        header, stored = self._open(path)
        image = stored.image(path, header.affine, header, values)
        return replace(image, description=header.description)

    def write(self, path: Path, image: Image, description: str = "") -> None:
        """Write on the grid of the source file, or of the image's affine."""
        header = image.header if isinstance(image.header, ItkHeader) else _header_for(image)
        suffix = path.suffix.lower()
        if image.channels != 1:
            raise UserError(
                f"a {suffix} file cannot store an image of {image.channels} channels",
                allowed="one channel",
                remedy="write a PNG file, or each channel to a file of its own",
            )

        expect_grid(image, header.shape, header.affine)
        view = in_file_order(image.pixels[0], header.shape, header.affine)
        voxels = as_integers(view, image.dtype)
        voxels = view if voxels is None else voxels
        spacing = np.linalg.norm(header.vectors, axis=0)
        sitk = simpleitk()
        stored = sitk.GetImageFromArray(voxels.reshape(header.size).T)
        stored.SetSpacing(spacing.tolist())
        stored.SetOrigin(header.origin.tolist())
        stored.SetDirection((header.vectors / spacing).ravel().tolist())
        if description:
            stored.SetMetaData("Description", label_of(description, MAX_DESCRIPTION))
        # the name in the header is that of the second file; another name need not be UTF-8
        plain = path if suffix == self.suffixes[1] else path.with_name(f"image{suffix}")
        try:
            sitk.WriteImage(stored, name_for_itk(plain), header.compressed)
        except RuntimeError as error:  # of the disk; ITK names no errno
            raise OSError(errno.EIO, one_line(str(error).splitlines()[-1])) from error
        plain.rename(path)

    def _open(self, path: Path) -> tuple[ItkHeader, Stored]:
        """The header of the volume, and where its voxels are stored; UserError for several."""
        with path.open("rb") as file:
            start = file.read(2**22)  # far more than a header has

        try:
            header, stored = self.parse(path, start)
        except (Broken, KeyError, UserError):
            raise
        # its message may quote the header, and a damaged line may hold any text
        except Exception as error:
            raise ValueError(f"its header is damaged ({type(error).__name__})") from None

        sides = stored.shape
        if not 2 <= len(sides) <= 4 or min(sides) < 1 or sum(n > 1 for n in sides[:3]) < 2:
            raise ValueError(f"its axes have the sizes {sides}, but it needs 2 or 3 axes of space")
        if max(sides[3:], default=1) > 1:
            raise _several(path, f"{sides[3]} volumes (sides {sides})")

        end = int(np.prod(sides, dtype=object)) * stored.dtype.itemsize
        stored = replace(stored, end=end, shape=three_sides(sides))
        stored.expect_whole()
        return _in_space(header, compressed=bool(stored.packing)), stored


class Nrrd(Itk):
    """NRRD: a volume or a picture, with directions and metadata."""

    name = "NRRD"
    suffixes = (".nrrd", ".nhdr")

    def parse(self, path: Path, start: bytes) -> tuple[ItkHeader, Stored]:
        """Parse a header by Teem's definition of the format; lists of files and skipped bytes are
        not supported.
        """
        if not re.match(rb"NRRD000[1-5]\r?\n", start):
            raise Broken("it has no NRRD header")

        end = re.search(rb"\r?\n\r?\n", start)
        if re.search(rb"(?im)^data ?file: *LIST", start[: end and end.start()]):
            raise _unread(path, SEVERAL_FILES)
        lines = _lines(start[start.index(b"\n") : end and end.start()])
        # `key:=value` as `key=`
        fields = {
            f"{name.replace(' ', '').lower()}{sign[1:]}": value for name, sign, value in lines
        }
        _expect_plain(path, fields)
        sides = tuple(map(int, fields["sizes"].split()))
        encoding = fields["encoding"].lower()
        dtype = _voxel_type(fields["type"], 1, fields.get("endian") == "big")
        axes_known = len(sides) == int(fields["dimension"]) <= MAX_AXES
        if dtype is None or not axes_known:
            raise Broken(
                f"its type of values or its number of axes ({len(sides)}) is not supported"
            )

        if encoding not in PACKINGS:
            raise _unread(path, "stores its voxels as text or packed by bzip2")
        if fields.get("lineskip", "0") != "0" or fields.get("byteskip", "0") != "0":
            raise _unread(path, "skips lines or bytes before its voxels")

        kinds = fields.get("kinds", "").lower().split()
        if {*kinds} - DOMAINS or "none" in _directions(fields):
            raise _several(path, "several values in each voxel")

        vectors, origin = _space_of_nrrd(fields, len(sides))
        if "datafile" in fields:
            file = _voxel_file(path, fields["datafile"])
            opens = 0
        else:
            file = path
            opens = end.end() if end else len(start)

        stored = Stored(file, sides, dtype, packing=PACKINGS[encoding], opens=opens)
        says = fields.get("description=", "")
        header = ItkHeader(sides, vectors, origin, True, "space" in fields, says)
        return header, stored


class MetaImage(Itk):
    """MetaImage: a volume or a picture, with directions and metadata."""

    name = "MetaImage"
    suffixes = (".mha", ".mhd")

    def parse(self, path: Path, start: bytes) -> tuple[ItkHeader, Stored]:
        """Parse a header by ITK's definition of the format: binary voxels in one file."""
        found = re.search(rb"^ElementDataFile[ \t]*[=:][^\n]*(\n|\Z)", start, re.MULTILINE)
        if not found:
            raise Broken("its header has no line 'ElementDataFile'")

        fields = {name: value for name, _, value in _lines(start[: found.end()])}
        _expect_plain(path, {name.lower(): value for name, value in fields.items()})

        def first(names: str, default: str) -> str:  # ITK has renamed some fields over time
            return next((fields[name] for name in names.split() if name in fields), default)

        def true(names: str, default: str = "false") -> bool:
            return first(names, default)[:1].lower() in ("t", "1")

        sides = tuple(map(int, fields["DimSize"].split()))
        data = fields["ElementDataFile"]
        n = len(sides)
        if int(fields.get("ElementNumberOfChannels", 1)) != 1:
            raise _several(path, "several values in each voxel")
        big_endian = true("BinaryDataByteOrderMSB ElementByteOrderMSB")
        dtype = _voxel_type(fields["ElementType"].removesuffix("_ARRAY"), 0, big_endian)
        if dtype is None or not n == int(fields["NDims"]) <= MAX_AXES:
            raise Broken(f"its type of values or its number of axes ({n}) is not supported")

        if not true("BinaryData", "true"):
            raise _unread(path, "stores its voxels as text")

        spacing = np.array(_floats(first("ElementSpacing ElementSize", "1 " * n)))
        directions = first("TransformMatrix Orientation Rotation", "")
        turned = np.array(_floats(directions)) if directions else np.eye(n)
        vectors = turned.reshape(n, n).T * spacing
        origin = np.array(_floats(first("Offset Position Origin", "0 " * n))).reshape(n)
        if data.lower() == "local":
            file = path
            opens = found.end()
        else:
            file = _voxel_file(path, data)
            opens = int(fields.get("HeaderSize", 0))
            if opens < 0:
                raise _unread(path, "counts the bytes of its voxels from the end of their file")

        packing = "zlib" if true("CompressedData") else ""
        stored = Stored(file, sides, dtype, packing=packing, opens=opens)
        says = fields.get("Description", "")
        return ItkHeader(sides, vectors, origin, description=says), stored


def _expect_plain(path: Path, fields: dict[str, str]) -> None:
    """UserError where a field changes the meaning of values or positions."""
    for name, plain in PLAIN.items():
        if name in fields and not re.fullmatch(plain, fields[name]):
            raise UserError(
                f"the header of '{path}' has a unit or a scale in the field '{name}', which gantk"
                " does not apply",
                allowed="lengths in mm, and values as they are stored",
                remedy="apply it to the values or to the spacing, and remove the field",
            )


def _several(path: Path, what: str) -> UserError:
    return UserError(
        f"'{path}' holds {what}",
        allowed="one 2-D or 3-D image, with one value in each voxel",
        remedy="save each volume, or each of the values, as a file of its own",
    )


def _unread(path: Path, what: str) -> UserError:
    """The error for an intact file of a rare kind."""
    return UserError(f"'{path}' {what}, which gantk does not read", remedy=CONVERSION)


def _voxel_type(name: str, column: int, big_endian: bool) -> np.dtype | None:
    """NumPy's type for a name in a header, from a column of TYPES; None for types not read."""
    for kind, patterns in TYPES.items():
        if re.fullmatch(patterns[column], name):
            return np.dtype(kind).newbyteorder(">" if big_endian else "<")
    return None


def _header_for(image: Image) -> ItkHeader:
    """A header with the grid of an image that was read from another format."""
    n = 2 if image.affine is None and image.dims == 2 else 3
    affine = UPRIGHT @ (UPRIGHT if image.affine is None else image.affine)
    return ItkHeader(image.file_shape[:n], affine[:n, :n], affine[:n, 3])


def _voxel_file(path: Path, name: str) -> Path:
    """The path of the voxels' file that a header names, which must be in the header's folder or
    below.
    """
    if name.startswith("LIST") or "%" in name:
        raise _unread(path, SEVERAL_FILES)

    voxels = path.parent / name
    # a longer one may quote remarks
    shown = f" '{name}'" if re.fullmatch("[^:=]{1,80}", name) else ""
    # a hostile header could name any file of this machine
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise Broken(f"its second file{shown} is outside the folder of the header")
    if not voxels.is_file():
        raise Broken(f"its second file{shown} does not exist")
    return voxels


def _in_space(header: ItkHeader, compressed: bool) -> ItkHeader:
    """A header with only the axes of space; ValueError where these map no volume."""
    n = min(len(header.size), 3)
    vectors = header.vectors[:n, :n]
    origin = header.origin[:n]
    spacing = np.linalg.norm(vectors, axis=0)
    if not (np.isfinite(spacing).all() and spacing.all()):
        raise ValueError(f"its spacing of {spacing} mm is not valid")
    if not np.isfinite(origin).all() or abs(np.linalg.det(vectors / spacing)) < 1e-6:
        raise ValueError("its axis directions do not span a volume")
    return replace(
        header, size=header.size[:n], vectors=vectors, origin=origin, compressed=compressed
    )


def _directions(fields: dict[str, str]) -> list[str]:
    """`(1,0,0)` or `none` for each axis of an NRRD; [] where it states only spacings."""
    return re.findall(r"\([^()]*\)|none", fields.get("spacedirections", ""))


def _space_of_nrrd(fields: dict[str, str], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The vectors (columns) of the `count` axes, and the origin, in LPS."""
    nothing = [0.0] * count
    directions = _directions(fields)
    if directions:
        vectors = np.array([(_floats(each) + nothing)[:count] for each in directions]).T
    else:
        vectors = np.diag(np.nan_to_num(_floats(fields.get("spacings", "1 " * count)), nan=1.0))

    origin = np.array((_floats(fields.get("spaceorigin", "")) + nothing)[:count])
    space = re.sub("-superior.*", "", fields.get("space", "").lower())
    for axis, sign in enumerate(SIGNS_TO_LPS.get(space, ())):
        vectors[axis] *= sign
        origin[axis] *= sign

    return vectors, origin


def _lines(header: bytes) -> list[tuple[str, str, str]]:
    """(name, separator, value) of each line of a header in UTF-8, or in Latin-1 as older programs
    write.
    """
    try:
        text = header.decode()
    except UnicodeDecodeError:
        text = header.decode("latin-1")

    lines = [line.strip() for line in text.split("\n") if line.strip() and not line.startswith("#")]
    # runs in linear time
    parts = []
    for number, line in enumerate(lines, 1):
        found = re.fullmatch(r"([\t -9;<>-~]+)(:=|:|=)([^\0]*)", line)
        if found is None:
            raise Broken(
                f"line {number} of its header is damaged (comments and empty lines are not counted)"
            )
        name, separator, value = found.groups()
        parts.append((name.strip(), separator, value.strip()))

    return parts


def _floats(text: str) -> list[float]:
    return [float(word) for word in text.strip("()").replace(",", " ").split()]
