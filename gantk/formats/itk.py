"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd), the formats of ITK and 3D Slicer: reads images
upright, writes them.

SimpleITK reads and writes them. Its readers (5.4) end the process at some damaged headers
(`NDims = -1`, a field with a long name), return wrong values for damaged voxels of a compressed
MetaImage and a wrong place for lists that are too short, open any file that a header names, and
ignore units and intensity scales: such headers are refused here first. What is rare (lists of files,
voxels as text) is refused too: the error names the conversion.
A file of two axes is a picture. A fourth axis, and several values per voxel, are refused. Files are
written on the source's grid, compressed if the source was, as integers if all values are whole
numbers (`as_integers`), and without the source's remarks, which may name a patient.
"""

from __future__ import annotations

import errno
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gantk.errors import UserError, one_line
from gantk.files import ANY_SIZE, regular_file
from gantk.formats.budget import Broken, expect_held, reading, spend
from gantk.formats.image import (
    SLACK_BYTES,
    UPRIGHT,
    Format,
    Image,
    Shape,
    as_integers,
    expect_grid,
    in_file_order,
    label_of,
    three_sides,
    to_upright,
    upright_sides,
    zeros,
)

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
# fields of MetaImage with one number, or as many numbers, for each axis
PLACES = "elementspacing elementsize offset position origin transformmatrix orientation rotation"
MAX_DESCRIPTION = 200  # characters
SEVERAL_FILES = "stores its voxels in several files"
CONVERSION = (
    "convert it in Python with SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'converted.nrrd')"
)


@dataclass(frozen=True)
class ItkHeader:
    """The grid of one volume: axes in the file's order, LPS millimetres as in ITK."""

    size: Shape  # voxels along two or three axes
    # (axes, axes) mm: column k is the step from one voxel to the next along axis k
    vectors: np.ndarray
    origin: np.ndarray  # (axes,) mm
    compressed: bool = True
    states_orientation: bool = True  # whether the axes are said to be those of a patient

    def get_data_shape(self) -> Shape:
        """Voxels along each axis of the file; the name is that of nibabel's headers."""
        return self.size

    @property
    def shape(self) -> Shape:
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


@dataclass(frozen=True)
class Voxels:
    """Where a header says that the voxels are: in a file, maybe packed by gzip or zlib."""

    path: Path
    packing: str
    opens: int = 0  # byte of the file at which a stream of zlib begins


Parsed = tuple[dict[str, str], Voxels]  # the fields of a header, and where the voxels are


class Itk(Format):
    """Reads and writes a text header with voxels after it or in a second file: what NRRD and
    MetaImage share.

    A subclass has `parse`, which takes the start of a file, refuses what ITK would read wrongly, and
    returns the fields of the header and where the voxels are.
    """

    volumes = describes = True
    reader = ""  # ITK's name

    def parse(self, path: Path, start: bytes) -> Parsed:
        """Parse the start of a file, see above."""
        raise NotImplementedError

    def files(self, path: Path) -> list[Path]:
        """The header's file and the file that holds the voxels, often the same one."""
        return list(dict.fromkeys((path, self._parse_file(path)[1].path)))

    def read(self, path: Path, volume: int | None = None, values: bool = True) -> Image:
        """Read float32 (1, D, H, W) or (1, H, W); axes of one voxel are dropped."""
        fields, stored = self._parse_file(path)
        sitk = simpleitk()
        reader = sitk.ImageFileReader()
        reader.SetImageIO(self.reader)
        reader.SetFileName(name_for_itk(path))
        try:
            reader.ReadImageInformation()
            dtype = sitk.GetArrayViewFromImage(sitk.Image([1, 1], reader.GetPixelID())).dtype
        except (RuntimeError, TypeError):  # quotes the header, which may name a patient
            raise ValueError("its header is damaged") from None

        header = _header_of(path, reader, bool(stored.packing), fields)
        shape = header.shape
        count = int(np.prod(shape, dtype=object))
        size = count * dtype.itemsize
        held = regular_file(stored.path, max_bytes=ANY_SIZE).stat().st_size - stored.opens
        expect_held(size, held, stored.packing)
        upright = zeros(*upright_sides(shape, header.affine))
        if values:
            with reading(stored.path):
                spend(values=count)
                if stored.packing == "zlib":  # ITK takes what it can unpack of a damaged stream
                    spend(values=size // 4)
                    with stored.path.open("rb") as file:
                        file.seek(stored.opens)
                        unpacked = zlib.decompressobj().decompress(file.read(), size + SLACK_BYTES)
                    expect_held(size, len(unpacked))
                    del unpacked
                try:
                    image = reader.Execute()
                except RuntimeError:
                    raise ValueError("its voxels are truncated or damaged") from None
            voxels = sitk.GetArrayViewFromImage(image).T.reshape(shape)
            # a copy, as the view is of memory that goes with `image`
            upright = np.array(to_upright(voxels, header.affine), np.float32, order="C")
        pixels = upright.reshape(1, *(n for n in upright.shape if n > 1))
        says = fields.get("description=") or fields.get("description", "")
        return Image(pixels, header.affine, path, dtype, header, description=says)

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

    def _parse_file(self, path: Path) -> Parsed:
        with path.open("rb") as file:
            start = file.read(2**22)  # far more than a header has

        try:
            return self.parse(path, start)
        except (Broken, UserError):
            raise
        # its message may quote the header, and a damaged line may hold any text
        except Exception as error:
            raise ValueError(f"its header is damaged ({type(error).__name__})") from None


class Nrrd(Itk):
    """NRRD: a volume or a picture, with directions and metadata."""

    name = "NRRD"
    suffixes = (".nrrd", ".nhdr")
    reader = "NrrdImageIO"

    def parse(self, path: Path, start: bytes) -> Parsed:
        """Parse a header by Teem's definition of the format; lists of files are not supported."""
        if not re.match(rb"NRRD000[1-5]\r?\n", start):
            raise Broken("it has no NRRD header")

        end = re.search(rb"\r?\n\r?\n", start)
        header = start[start.index(b"\n") : end and end.start()]
        if re.search(rb"(?im)^data ?file: *LIST", header):
            raise _unread(path, SEVERAL_FILES)
        fields = _fields(path, re.sub(rb"(?m)^#.*$", b"", header))
        if not 2 <= len([int(side) for side in fields["sizes"].split()]) <= 4:  # cuts decimals off
            raise Broken("its number of axes is not supported")
        encoding = fields["encoding"].lower()
        if encoding not in ("raw", "gzip", "gz"):
            raise _unread(path, "stores its voxels as text or packed by bzip2")
        file = _voxel_file(path, fields["datafile"]) if "datafile" in fields else path
        return fields, Voxels(file, "" if encoding == "raw" else "gzip")


class MetaImage(Itk):
    """MetaImage: a volume or a picture, with directions and metadata."""

    name = "MetaImage"
    suffixes = (".mha", ".mhd")
    reader = "MetaImageIO"

    def parse(self, path: Path, start: bytes) -> Parsed:
        """Parse a header by ITK's definition of the format: binary voxels in one file."""
        found = re.search(rb"^ElementDataFile[ \t]*[=:][^\n]*(\n|\Z)", start, re.MULTILINE)
        if not found:
            raise Broken("its header has no line 'ElementDataFile'")

        fields = _fields(path, start[: found.end()])
        n = len([int(side) for side in fields["dimsize"].split()])  # ITK cuts decimals off
        if not 2 <= n == int(fields["ndims"]) <= 4:
            raise Broken(f"its number of axes ({n}) is not supported")
        for name in {*PLACES.split()} & {*fields}:
            if len([float(word) for word in fields[name].split()]) not in (n, n * n):
                raise Broken(f"its field '{name}' does not have a number for each axis")
        if fields.get("binarydata", "true")[:1].lower() not in ("t", "1"):
            raise _unread(path, "stores its voxels as text")

        data = fields["elementdatafile"]
        packing = "zlib" if fields.get("compresseddata", "")[:1].lower() in ("t", "1") else ""
        if data.lower() == "local":
            return fields, Voxels(path, packing, found.end())
        opens = max(0, int(fields.get("headersize", 0)))
        return fields, Voxels(_voxel_file(path, data), packing, opens)


def _header_of(path: Path, reader: Any, compressed: bool, fields: dict[str, str]) -> ItkHeader:
    """The header of the volume, with only the axes of space; an error for several values and volumes,
    and where the axes map no volume.
    """
    sides = reader.GetSize()
    if not 2 <= len(sides) <= 4 or min(sides) < 1 or sum(n > 1 for n in sides[:3]) < 2:
        raise ValueError(f"its axes have the sizes {sides}, but it needs 2 or 3 axes of space")
    several = "several values in each voxel" if reader.GetNumberOfComponents() > 1 else ""
    if max(sides[3:], default=1) > 1:
        several = f"{sides[3]} volumes (sides {sides})"
    if several:
        raise UserError(
            f"'{path}' holds {several}",
            allowed="one 2-D or 3-D image, with one value in each voxel",
            remedy="save each volume, or each of the values, as a file of its own",
        )

    n = min(len(sides), 3)
    spacing = np.array(reader.GetSpacing())[:n]
    origin = np.array(reader.GetOrigin())[:n]
    directions = np.array(reader.GetDirection()).reshape(len(sides), -1)[:n, :n]
    if not (np.isfinite(spacing).all() and spacing.all()):
        raise ValueError(f"its spacing of {spacing} mm is not valid")
    if not np.isfinite(origin).all() or not abs(np.linalg.det(directions)) >= 1e-6:
        raise ValueError("its axis directions do not span a volume")
    oriented = "space" in fields or "ndims" in fields
    return ItkHeader(sides[:n], directions * spacing, origin, compressed, oriented)


def _fields(path: Path, header: bytes) -> dict[str, str]:
    """The fields of a header by their names, in lower case and without blanks; an error where one is
    stated twice, of which ITK takes either, or changes the meaning of values or positions.
    """
    try:
        text = header.decode()
    except UnicodeDecodeError:  # of older programs
        text = header.decode("latin-1")

    fields = {}
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    for number, line in enumerate(lines, 1):
        # runs in linear time; ITK ends the process at longer names and lists
        found = re.fullmatch(r"([\t -9;<>-~]{1,200})(:=[^\0]*|[:=][^\0]{0,1000})", line)
        if found is None:
            raise Broken(
                f"line {number} of its header is damaged (comments and empty lines are not counted)"
            )
        name, value = found.groups()
        is_key = value.startswith(":=")  # of NRRD
        field = name.replace(" ", "").lower() + "=" * is_key
        if field in fields:
            raise Broken(f"line {number} of its header states a field for the second time")
        fields[field] = value[1 + is_key :].strip()
    for name, plain in PLAIN.items():
        if name in fields and not re.fullmatch(plain, fields[name]):
            raise UserError(
                f"the header of '{path}' has a unit or a scale in the field '{name}', which gantk"
                " does not apply",
                allowed="lengths in mm, and values as they are stored",
                remedy="apply it to the values or to the spacing, and remove the field",
            )
    return fields


def _unread(path: Path, what: str) -> UserError:
    """The error for an intact file of a rare kind."""
    return UserError(f"'{path}' {what}, which gantk does not read", remedy=CONVERSION)


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


def simpleitk() -> ModuleType:
    """SimpleITK, which prints no warnings; imported late because it takes a third of a second."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def name_for_itk(path: Path) -> str:
    """A path for SimpleITK, which ends the process where a name is not UTF-8: UnicodeEncodeError."""
    str(path).encode()
    return str(path)
