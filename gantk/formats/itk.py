"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd), the formats of ITK and 3D Slicer: read upright, written back.

Both are a text header and a block of voxels, and are parsed here: ITK's own readers trust what a broken header says of
sides and files, and read damaged compressed voxels without a word. Two axes are a picture, with three values in each
voxel in colour; a fourth axis, or the values of a voxel, are several volumes of which one has to be chosen.

Writing: same origin, direction, spacing and metadata, compressed where the source was; integers where the source held
integers and the values are such (`gantk.formats.voxels`), else float32.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gantk.errors import UserError
from gantk.formats.files import chosen_volume, expect_room
from gantk.formats.image import UPRIGHT, Format, Image, in_file_order, upright_sides, zeros
from gantk.formats.nifti import expect_grid
from gantk.formats.voxels import Stored, as_integers

HEADER = 2**22  # bytes that a header may have
# By NumPy's name: the names of MetaImage and, as a pattern, of NRRD; the first of its alternatives is written.
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
PACKINGS = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}  # of NRRD
DOMAINS = ("domain", "space", "time", "none", "???")  # kinds of NRRD's axes along which voxels follow
KEPT = ("content", "measurement frame", "sample units")  # fields of NRRD that are handed on beside the user's own
TURNED = {"right-anterior": (-1, -1), "left-anterior": (1, -1)}  # x and y of NRRD's spaces that are not LPS
GRID = ("NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "ElementSpacing", "TransformMatrix", "Offset",
        "Position", "Origin", "Orientation", "Rotation", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB",
        "CompressedData", "CompressedDataSize", "HeaderSize", "ElementDataFile", "ElementSize")  # fmt: skip


@dataclass(frozen=True)
class ItkHeader:
    """The grid and the remarks of an image, axes in the file's order (x, y, z), millimetres LPS as ITK counts them."""

    size: tuple[int, ...]  # of the one volume: two or three axes
    spacing: tuple[float, ...]  # mm
    origin: tuple[float, ...]  # mm
    direction: np.ndarray  # (axes, axes), columns are the directions of x, y, z
    metadata: dict[str, str] = field(default_factory=dict)  # NRRD's own fields with "NRRD_" before their names
    compressed: bool = True

    def get_data_shape(self) -> tuple[int, ...]:
        """The sides of the file's axes, as nibabel's headers have it."""
        return self.size

    @property
    def shape(self) -> tuple[int, int, int]:
        """The same with three axes."""
        return self.size + (1,) * (3 - len(self.size))

    @property
    def affine(self) -> np.ndarray:
        """4x4, voxel indices (i, j, k) to RAS millimetres; what a picture lacks is as in one plane at 0."""
        n, affine = len(self.size), np.eye(4)
        affine[:n, :n] = self.direction * self.spacing
        affine[:n, 3] = self.origin
        return UPRIGHT @ affine


@dataclass(frozen=True)
class Contents:
    """What a header says: the sides of all axes as stored, where the voxels are, and the geometry."""

    path: Path
    opens: int  # byte of that file
    packing: str  # "", "gzip", "zlib" or "bzip2"
    dtype: np.dtype  # with its byte order
    sides: tuple[int, ...]  # the fastest first
    values: int | None  # which of the axes counts the values of one voxel
    vectors: np.ndarray  # (axes without `values`, as many) mm: columns are the steps along the axes, LPS
    origin: np.ndarray
    metadata: dict[str, str]


class Itk(Format):
    """What NRRD and MetaImage share: a header of text, and voxels after it or in a second file."""

    volumes = several = True

    def parse(self, path: Path, start: bytes) -> Contents:
        """The header at the start of a file; ValueError or UserError where it is broken."""
        raise NotImplementedError

    def files(self, path: Path) -> list[Path]:
        """The file, and the one that holds its voxels."""
        return list(dict.fromkeys((path, self._contents(path).path)))

    def read(self, path: Path, volume: int | None = None) -> Image:
        """float32 (1, D, H, W), (1, H, W), or (3, H, W) of a colour picture; axes of one voxel are dropped."""
        held, header, chosen = self._opened(path, volume)
        expect_room(path, int(np.prod(held.sides if held.values is not None else header.size, dtype=object)))
        every = None
        if held.values is not None:  # (i, j, k, values): values of one voxel may lie anywhere among the axes
            flat = np.empty((*held.sides[:2], int(np.prod(held.sides[2:]))), np.float32, order="F")
            _stored(held, flat.shape).decode(flat)
            every = np.moveaxis(flat.reshape(held.sides, order="F"), held.values, -1)
            every = every.reshape(*header.shape, -1, order="F")
        pixels = np.empty((len(chosen), *upright_sides(header.shape, header.affine)), np.float32)
        for upright, number in zip(pixels, chosen, strict=True):
            view = in_file_order(upright, header.shape, header.affine)
            if every is not None:
                view[:] = every[..., number]
            else:
                _stored(held, header.shape, number).decode(view)
        pixels = pixels.reshape(len(pixels), *(n for n in pixels.shape[1:] if n > 1))
        return Image(pixels, header.affine, path, held.dtype.newbyteorder("="), header)

    def outline(self, path: Path, volume: int | None = None) -> Image:
        """The grid, from the header alone."""
        held, header, chosen = self._opened(path, volume)
        sides = (side for side in upright_sides(header.shape, header.affine) if side > 1)
        return Image(zeros(len(chosen), *sides), header.affine, path, held.dtype.newbyteorder("="), header)

    def write(self, path: Path, image: Image, description: str = "") -> None:
        """Write on the grid that the image came from, or that of its affine; colour is for pictures alone."""
        header = image.header if isinstance(image.header, ItkHeader) else _header_for(image)
        if image.channels != 1 and not (image.channels == 3 and image.dims == 2):
            what = f"an image of {image.channels} channels does not fit into {path.suffix.lower()}"
            raise UserError(what, allowed="one channel, or a colour picture", remedy="write each as a file of its own")
        expect_grid(image, header.shape, header.affine)
        views = [in_file_order(channel, header.shape, header.affine) for channel in image.pixels]
        stored = [as_integers(view, image.dtype) for view in views]
        stored = np.stack(views if any(part is None for part in stored) else stored)
        data = stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
        self.save(path, header, stored.dtype.str[1:], len(stored), data)

    def save(self, path: Path, header: ItkHeader, kind: str, values: int, data: bytes) -> None:
        """Write a header and little-endian voxels of a type of `TYPES`, with `values` in each."""
        raise NotImplementedError

    def _contents(self, path: Path) -> Contents:
        with path.open("rb") as file:
            return self.parse(path, file.read(HEADER))

    def _opened(self, path: Path, volume: int | None) -> tuple[Contents, ItkHeader, tuple[int, ...]]:
        """What the header says, of one volume too, and which volumes are the channels; UserError where it cannot be."""
        held = self._contents(path)
        size = tuple(n for axis, n in enumerate(held.sides) if axis != held.values)
        parts = 1 if held.values is None else held.sides[held.values]
        if not 2 <= len(size) <= 4 or min(held.sides) < 1:
            raise UserError(f"'{path}' has axes of the sides {held.sides}", allowed="2, 3 or 4, of space and then time")
        if sum(n > 1 for n in size[:3]) < 2:
            raise UserError(f"'{path}' is a line of voxels (sides {size})", allowed="2-D and 3-D images")
        _stored(held, (1, 1, 1)).expect_whole()
        n = min(len(size), 3)
        vectors, origin = held.vectors[:n, :n], held.origin[:n]
        spacing = np.linalg.norm(vectors, axis=0)
        if not (np.isfinite(spacing).all() and spacing.all()):
            raise UserError(f"'{path}' has a spacing of {spacing} mm", allowed="above 0", remedy="correct its header")
        direction = vectors / spacing
        if not np.isfinite(origin).all() or abs(np.linalg.det(direction)) < 1e-6:
            raise UserError(f"'{path}' has directions that map no volume", remedy="correct its header")
        spacing, origin = tuple(spacing.tolist()), tuple(origin.tolist())
        header = ItkHeader(size[:n], spacing, origin, direction, held.metadata, bool(held.packing))
        if sum(n > 1 for n in size) == 2 and parts == 3 and volume is None:
            return held, header, (0, 1, 2)
        count = parts * int(np.prod(size[3:]))
        what = f"{count} volumes" if parts == 1 else f"{parts} values in each voxel"
        return held, header, (chosen_volume(path, volume, count, f"{what} (sides {size})"),)


class Nrrd(Itk):
    """NRRD: one volume or picture, or one chosen of several, with its directions and remarks."""

    name = "NRRD"
    suffixes = (".nrrd", ".nhdr")

    def parse(self, path: Path, start: bytes) -> Contents:
        """Teem's definition of the format, without lists of files and skipped bytes."""
        if not re.match(rb"NRRD000[1-5]\r?\n", start):
            raise ValueError("it has no such header")
        end = re.search(rb"\r?\n\r?\n", start)
        fields, metadata = {}, {}
        for line in _text(start[: end.start() if end else None]).splitlines()[1:]:
            name, separator, value = line.partition(":")
            if line.startswith("#") or not line.strip():
                continue
            if value.startswith("="):  # the user's own
                metadata[name] = value[1:]
                continue
            short, value = re.sub(r"\s", "", name).lower(), value.strip()
            if not separator or short in fields:
                raise ValueError(f"its line '{line[:40]}' is broken")
            fields[short] = value
            if name in KEPT:
                metadata[f"NRRD_{name}"] = value
        sides = _whole(fields.get("sizes", ""))
        if len(sides) != int(fields.get("dimension", -1)):
            raise ValueError(f"its sides are '{fields.get('sizes', '')}'")
        encoding, data = fields.get("encoding", ""), fields.get("datafile")
        if encoding.lower() not in PACKINGS:
            raise UserError(f"'{path}' holds its voxels as '{encoding}'", allowed=PACKINGS, remedy="save it anew")
        if any(fields.get(name, "0") != "0" for name in ("lineskip", "byteskip")):
            raise UserError(f"'{path}' skips a part of its voxels' file", remedy="save it anew, as one .nrrd file")
        if data is None and not end:
            raise ValueError("it ends before its voxels")
        kind = next((kind for kind, (_, names) in TYPES.items() if re.fullmatch(names, fields.get("type", ""))), None)
        if kind is None:
            raise UserError(f"'{path}' holds values of type '{fields.get('type')}'", allowed="integers and floats")
        steps = re.findall(r"\([^)]*\)|none", fields.get("spacedirections", ""))
        kinds = fields.get("kinds", "").lower().split()
        apart = [n for n, kind in enumerate(kinds) if kind not in DOMAINS] or [
            n for n, step in enumerate(steps) if step == "none"
        ]
        values = apart[0] if apart else None
        axes = [axis for axis in range(len(sides)) if axis != values]
        if steps:
            rows = [_vector(steps[axis]) for axis in axes]
            vectors = np.array([(row + [0.0] * len(axes))[: len(axes)] for row in rows]).T
        else:
            spacings = _floats(fields["spacings"]) if "spacings" in fields else [1.0] * len(sides)
            vectors = np.diag([spacings[axis] for axis in axes])
            vectors[np.isnan(vectors)] = 1.0
        origin = np.zeros(len(axes))
        said = _vector(fields.get("spaceorigin", "()"))[: len(axes)]
        origin[: len(said)] = said
        space = {"ras": "right-anterior", "las": "left-anterior"}.get(fields.get("space", "").lower()[:3])
        space = space or fields.get("space", "").lower().partition("-superior")[0]
        for axis, sign in enumerate(TURNED.get(space, ())):
            vectors[axis] *= sign
            origin[axis] *= sign
        dtype = np.dtype(kind).newbyteorder(">" if fields.get("endian") == "big" else "<")
        file, opens = (path, end.end()) if data is None else (_beside(path, data), 0)
        return Contents(file, opens, PACKINGS[encoding.lower()], dtype, sides, values, vectors, origin, metadata)

    def save(self, path: Path, header: ItkHeader, kind: str, values: int, data: bytes) -> None:
        """A .nrrd file, or a .nhdr header and a .raw or .raw.gz file."""
        n, colour, apart = len(header.size), values > 1, path.suffix.lower() == ".nhdr"
        steps = " ".join(f"({_words(step, ',')})" for step in (header.direction * header.spacing).T)
        lines = ["NRRD0004", f"type: {TYPES[kind][1].split('|')[0]}", f"dimension: {n + colour}"]
        lines += ["space: left-posterior-superior" if n == 3 else f"space dimension: {n}"]
        lines += [f"sizes: {f'{values} ' * colour}{_words(header.size)}"]
        lines += [f"space directions: {'none ' * colour}{steps}"]
        lines += [f"kinds: {'vector ' * colour}{'domain ' * n}".strip(), "endian: little"]
        lines += ["encoding: gzip" if header.compressed else "encoding: raw"]
        lines += [f"space origin: ({_words(header.origin, ',')})"]
        other = path.with_suffix(".raw.gz" if header.compressed else ".raw")
        lines += [f"data file: {other.name}"] * apart
        for key, text in header.metadata.items():
            lines += [f"{key[5:]}: {text}" if key.startswith("NRRD_") else f"{key}:={text}"]
        data = gzip.compress(data, 4, mtime=0) if header.compressed else data
        text = "\n".join(lines).encode() + b"\n\n"
        path.write_bytes(text if apart else text + data)
        if apart:
            other.write_bytes(data)


class MetaImage(Itk):
    """MetaImage: one volume or picture, or one chosen of several, with its directions and remarks."""

    name = "MetaImage"
    suffixes = (".mha", ".mhd")

    def parse(self, path: Path, start: bytes) -> Contents:
        """ITK's definition of the format, of images with binary voxels in one file."""
        found = re.search(rb"^ElementDataFile[ \t]*[=:][^\n]*(\n|\Z)", start, re.MULTILINE)
        if not found:
            raise ValueError("it has no line 'ElementDataFile'")
        fields: dict[str, str] = {}
        for line in filter(str.strip, _text(start[: found.end()]).split("\n")):
            match = re.fullmatch(r"\s*([ -<>-~]+?)\s*[=:]\s*([^\0]*?)\s*", line)
            if not match or match[1] in fields:
                raise ValueError(f"its line '{line.strip()[:40]}' is broken")
            fields[match[1]] = match[2]

        def true(*names: str) -> bool:
            return next((fields[name] for name in names if name in fields), "")[:1].lower() in ("t", "1")

        def numbers(names: str, count: int, default: np.ndarray) -> np.ndarray:
            text = next((fields[name] for name in names.split() if name in fields), None)
            made = default if text is None else np.array(_floats(text))
            if made.size != count:
                raise ValueError(f"it has {made.size} numbers as {names.split()[0]}, not {count}")
            return made

        sides, parts = _whole(fields.get("DimSize", "")), int(fields.get("ElementNumberOfChannels", 1))
        n, skipped = int(fields.get("NDims", -1)), int(fields.get("HeaderSize", 0))
        if len(sides) != n:
            raise ValueError(f"its DimSize is '{fields.get('DimSize', '')[:40]}'")
        if "BinaryData" in fields and not true("BinaryData"):
            raise UserError(f"'{path}' holds its voxels as text", remedy="save it with binary voxels")
        kind = fields.get("ElementType", "").removesuffix("_ARRAY").replace("G_LONG", "G_LONG")
        kind = next((key for key, (name, _) in TYPES.items() if name == kind), None)
        if kind is None:
            raise UserError(f"'{path}' holds values of type '{fields.get('ElementType')}'", allowed="integers, floats")
        data = fields["ElementDataFile"]
        file = path if data.lower() == "local" else _beside(path, data)
        if skipped < 0 or (skipped and file == path):
            raise UserError(f"'{path}' has a HeaderSize of {skipped}", remedy="save it without one")
        spacing = numbers("ElementSpacing ElementSize", n, np.ones(n))
        if (spacing <= 0).any():
            raise UserError(f"'{path}' has a spacing of {spacing} mm", allowed="above 0", remedy="correct its header")
        direction = numbers("TransformMatrix Orientation Rotation", n * n, np.eye(n)).reshape(n, n).T
        origin = numbers("Offset Position Origin", n, np.zeros(n))
        dtype = np.dtype(kind).newbyteorder(">" if true("BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<")
        opens, packing = found.end() if file == path else skipped, "zlib" if true("CompressedData") else ""
        sides, values = (sides, None) if parts == 1 else ((parts, *sides), 0)
        metadata = {name: text for name, text in fields.items() if name not in GRID}
        return Contents(file, opens, packing, dtype, sides, values, direction * spacing, origin, metadata)

    def save(self, path: Path, header: ItkHeader, kind: str, values: int, data: bytes) -> None:
        """A .mha file, or a .mhd header and a .raw or .zraw file."""
        data = zlib.compress(data, 4) if header.compressed else data
        other = path.with_suffix(".zraw" if header.compressed else ".raw")
        apart = path.suffix.lower() == ".mhd"
        fields = {"ObjectType": "Image", "NDims": len(header.size), "BinaryData": True}
        fields |= {"BinaryDataByteOrderMSB": False, "CompressedData": header.compressed}
        fields |= {"CompressedDataSize": len(data)} if header.compressed else {}
        fields |= {key: text for key, text in header.metadata.items() if not key.startswith("NRRD_")}
        fields |= {"TransformMatrix": _words(header.direction.T.ravel()), "Offset": _words(header.origin)}
        fields |= {"ElementSpacing": _words(header.spacing), "DimSize": _words(header.size)}
        fields |= {"ElementNumberOfChannels": values} if values > 1 else {}
        fields |= {"ElementType": TYPES[kind][0], "ElementDataFile": other.name if apart else "LOCAL"}
        text = "".join(f"{name} = {value}\n" for name, value in fields.items()).encode()
        path.write_bytes(text if apart else text + data)
        if apart:
            other.write_bytes(data)


def _header_for(image: Image) -> ItkHeader:
    """The grid of an image from another format."""
    n = 2 if image.affine is None and image.dims == 2 else 3
    affine = UPRIGHT @ (UPRIGHT if image.affine is None else image.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = (affine[:3, :3] / spacing)[:n, :n]
    return ItkHeader(image.file_shape[:n], tuple(spacing[:n].tolist()), tuple(affine[:n, 3].tolist()), direction)


def _stored(held: Contents, shape: tuple[int, ...], number: int = 0) -> Stored:
    """One of the parts of this shape that lie one after the other in the file."""
    start, end = number * int(np.prod(shape, dtype=object)), int(np.prod(held.sides, dtype=object))
    size = held.dtype.itemsize
    return Stored(held.path, shape, held.dtype, start * size, end * size, held.packing, held.opens)


def _beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names: a regular one, in the header's folder or below it."""
    voxels = path.parent / name
    if name.split()[:1] == ["LIST"] or "%" in name:
        raise UserError(f"'{path}' is in several files ('{name[:40]}')", remedy="save it as one file")
    if Path(name).is_absolute() or not Path(os.path.realpath(voxels)).is_relative_to(os.path.realpath(path.parent)):
        raise UserError(f"'{path}' names voxels outside its folder: '{name[:80]}'", remedy="put both into one folder")
    if not os.path.isfile(voxels):  # which takes any name
        raise UserError(f"'{path}' lacks its second file '{name[:80]}'", remedy="keep both in one folder")
    return voxels


def _text(content: bytes) -> str:
    """A header in UTF-8, or in Latin-1, as older programs write it."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _whole(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())


def _floats(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def _vector(text: str) -> list[float]:
    return _floats(text.strip("()").replace(",", " "))


def _words(numbers, separator: str = " ") -> str:
    """Numbers as text, floats with all their digits."""
    return separator.join(repr(number) for number in np.asarray(numbers).tolist())
