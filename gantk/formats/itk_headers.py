"""The text headers of NRRD and MetaImage files, checked before SimpleITK sees them.

The readers of these formats trust what a header says: of its sides, of the file that holds its voxels, of their bytes.
Here each is compared with the files that are there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gantk.errors import UserError

HEADER = 2**22  # bytes that a header may have
LINE = 4000  # characters that a line of a MetaImage may have; its reader has room for little more
AXES = (2, 3, 4)
# Fields of a MetaImage with one number for each axis,
COUNTED = ("DimSize", "ElementSpacing", "ElementSize", "CenterOfRotation", "Offset", "Position", "Origin")
SQUARE = ("TransformMatrix", "Orientation", "Rotation")  # with one for each pair of axes,
WHOLE = ("NDims", "DimSize", "HeaderSize", "CompressedDataSize", "ElementNumberOfChannels")  # of integers
BOOLEAN = ("BinaryData", "CompressedData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
TRUE, FALSE = ("True", "true", "T", "1"), ("False", "false", "F", "0")
ELEMENTS = r"MET_(?:U?CHAR|U?SHORT|U?INT|U?LONG|U?LONG_LONG|FLOAT|DOUBLE)(?:_ARRAY)?"
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?"
VECTOR = rf"\( *{NUMBER}(?: *, *{NUMBER}){{0,3}} *\)"
NRRD_FIELDS = {  # what each may be: teem's own complaint about anything longer overruns its buffer
    "type": r"[a-z0-9_ ]{3,24}",
    "dimension": r"[1-5]",
    "spacedimension": r"[1-4]",
    "sizes": r"\d{1,12}(?: +\d{1,12}){0,4}",
    "space": r"[-A-Za-z]{3,40}",
    "spacedirections": rf"(?:{VECTOR}|none)(?: +(?:{VECTOR}|none)){{0,4}}",
    "spaceorigin": VECTOR,
    "measurementframe": rf"(?:{VECTOR}|none)(?: +(?:{VECTOR}|none)){{0,3}}",
    "kinds": r"[-\w?]{1,24}(?: +[-\w?]{1,24}){0,4}",
    "endian": "little|big",
    "encoding": r"\w{1,16}",
    "datafile": r"[^\0]{1,1000}",
    "lineskip": r"\d{1,9}",
    "byteskip": r"-?\d{1,18}",
    "number": r"\d{1,18}",
    "blocksize": r"\d{1,9}",
} | dict.fromkeys(("centers", "centerings"), r"(?:cell|node|\?\?\?|none)(?: +(?:cell|node|\?\?\?|none)){0,4}")
NRRD_FIELDS |= dict.fromkeys(
    ("spacings", "thicknesses", "axismins", "axismaxs"), rf"(?:{NUMBER}|nan)(?: +(?:{NUMBER}|nan)){{0,4}}"
)
NRRD_FIELDS |= dict.fromkeys(("min", "max", "oldmin", "oldmax"), rf"{NUMBER}|nan")
NRRD_FIELDS |= dict.fromkeys(("content", "sampleunits", "labels", "units", "spaceunits"), r"[^\0]{0,200}")
DOMAINS = ("domain", "space", "time")  # kinds of axes of NRRD along which voxels follow
NRRD_PACKINGS = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}


@dataclass(frozen=True)
class Voxels:
    """Where a header says that its voxels are."""

    path: Path
    opens: int  # byte of that file
    packing: str  # "", "gzip", "zlib" or "bzip2"
    big_endian: bool
    sides: tuple[int, ...]  # of all axes as they are stored, the fastest first
    values: int | None = None  # which of them counts the values of one voxel


def voxels_of(path: Path) -> Voxels:
    """What the header of a .nrrd, .nhdr, .mha or .mhd file says; UserError where it is broken or not to be trusted."""
    with path.open("rb") as file:
        start = file.read(HEADER)
    return _nrrd(path, start) if path.suffix.lower() in (".nrrd", ".nhdr") else _meta(path, start)


def _meta(path: Path, start: bytes) -> Voxels:
    found = re.search(rb"^ElementDataFile[ \t]*[=:][^\n]*(\n|\Z)", start, re.MULTILINE)
    if not found:
        raise _broken(path, "a MetaImage", "it has no line 'ElementDataFile'")
    fields = _meta_fields(path, start[: found.end()].decode("utf-8", "surrogateescape"))
    sides = tuple(int(n) for n in fields["DimSize"].split())
    if fields.get("BinaryData", "True") not in TRUE:
        raise UserError(f"'{path}' holds its voxels as text", remedy="save it with binary voxels")
    data, skipped = fields["ElementDataFile"], int(fields.get("HeaderSize", 0))
    held = path if data.lower() == "local" else _beside(path, data)
    if skipped < 0 or (skipped and held == path):
        raise UserError(f"'{path}' has a HeaderSize of {skipped}", remedy="save it without one")
    order = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    packing = "zlib" if fields.get("CompressedData", "False") in TRUE else ""
    parts = int(fields.get("ElementNumberOfChannels", 1))
    opens, sides = found.end() if held == path else skipped, sides if parts == 1 else (parts, *sides)
    return Voxels(held, opens, packing, order in TRUE, sides, None if parts == 1 else 0)


def _meta_fields(path: Path, text: str) -> dict[str, str]:
    """The lines of a MetaImage, each of which its reader understands, in an order that it takes."""
    fields: dict[str, str] = {}
    for line in filter(str.strip, text.split("\n")):
        name, separator, value = (part.strip() for part in re.match(r"([^=:]*)([=:]?)(.*)", line, re.DOTALL).groups())
        plain = separator and name.isascii() and name.isprintable() and not re.search(r"[\0-\x08\x0b-\x1f]", value)
        if not plain or len(line) > LINE or len(name) > 200 or name in fields:
            raise _broken(path, "a MetaImage", f"its line '{line.strip()[:40]}' is broken")
        fields[name] = value
        axes = int(_numbers(path, fields, "NDims", 1)[0]) if name in {"NDims", *COUNTED, *SQUARE} else 0
        if name == "NDims" and axes not in AXES:
            raise UserError(f"'{path}' has {axes} axes", allowed="2, 3 or 4")
        if name in {*COUNTED, *SQUARE, *WHOLE}:
            _numbers(path, fields, name, axes**2 if name in SQUARE else axes if name in COUNTED else 1)
        if name in BOOLEAN and value not in TRUE + FALSE:
            raise _broken(path, "a MetaImage", f"its {name} is '{value[:40]}'")
    if "DimSize" not in fields or not re.fullmatch(ELEMENTS, fields.get("ElementType", "")):
        raise _broken(path, "a MetaImage", f"its ElementType is '{fields.get('ElementType', '')[:40]}'")
    return fields


def _nrrd(path: Path, start: bytes) -> Voxels:
    if not re.match(rb"NRRD000[1-5]\r?\n", start):
        raise _broken(path, "NRRD", "it has no such header")
    end = re.search(rb"\r?\n\r?\n", start)
    fields = {}
    for line in start[: end.start() if end else None].decode("utf-8", "surrogateescape").split("\n")[1:]:
        name, separator, value = line.partition(":")
        if (
            line.startswith("#")
            or not line.strip()
            or (value.startswith("=") and name.isascii() and name.isprintable())
        ):
            continue  # a remark, or `key:=value`, which is the user's own
        name, value = re.sub(r"\s", "", name).lower(), value.strip()
        if not separator or name in fields or not re.fullmatch(NRRD_FIELDS.get(name, r"(?!)"), value, re.ASCII):
            raise _broken(path, "NRRD", f"its line '{line[:40]}' is broken")
        fields[name] = value
    sides = tuple(int(side) for side in fields.get("sizes", "0").split())
    if min(sides) < 1 or fields.get("dimension") != str(len(sides)):
        raise _broken(path, "NRRD", f"its sides are '{fields.get('sizes', '')}'")
    packing = NRRD_PACKINGS.get(fields.get("encoding", "").lower())
    if packing is None:
        encoding = fields.get("encoding", "")
        raise UserError(f"'{path}' holds its voxels as '{encoding}'", allowed="raw, gzip, bzip2", remedy="save it anew")
    if any(fields.get(name, "0") != "0" for name in ("lineskip", "byteskip")):
        raise UserError(f"'{path}' skips a part of its voxels' file", remedy="save it anew, as one .nrrd file")
    data = fields.get("datafile")
    if data is None and not end:
        raise _broken(path, "NRRD", "it ends before its voxels")
    held = path if data is None else _beside(path, data)
    opens, big_endian = end.end() if data is None else 0, fields.get("endian") == "big"
    return Voxels(held, opens, packing, big_endian, sides, _axis_of_values(fields))


def _axis_of_values(fields: dict[str, str]) -> int | None:
    """Which axis of a NRRD is none of space or time, by its kind, or, where no kinds are told, by its direction."""
    directions = re.findall(rf"{VECTOR}|none", fields.get("spacedirections", ""))
    kinds = [kind.lower() for kind in fields.get("kinds", "").split()]
    apart = [n for n, kind in enumerate(kinds) if kind not in (*DOMAINS, "none", "???")]
    return next(iter(apart or [n for n, direction in enumerate(directions) if direction == "none"]), None)


def _numbers(path: Path, fields: dict[str, str], name: str, count: int) -> list[float]:
    """The numbers of a field; UserError where these are too few, too many, not finite, or no numbers."""
    try:
        numbers = [(int if name in WHOLE else float)(word) for word in fields[name].split()]
    except (KeyError, ValueError, OverflowError):
        numbers = []
    wrong = len(numbers) != count or any(not abs(number) < 2**62 for number in numbers)
    if wrong or name in ("NDims", "DimSize", "ElementNumberOfChannels") and min(numbers) < 1:
        value = f"'{fields[name][:40]}'" if name in fields else "missing"
        raise _broken(path, "a MetaImage", f"its {name} is {value}")
    return numbers


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


def _broken(path: Path, kind: str, why: str) -> UserError:
    return UserError(f"'{path}' cannot be read as {kind}: {why}", remedy="copy it again, or leave it out")
