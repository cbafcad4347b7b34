"""Files for `test_fuzzed_files`: a small one of each kind, its parts, and changes of these parts,
by a seed.
"""

from __future__ import annotations

import gzip
import io
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import dicom_files as made
import nibabel as nib
import numpy as np
import PIL.Image
import SimpleITK as sitk
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate

from gantk.formats import files
from gantk.formats.image import Image

REAL = 150_000  # bytes of a real file beyond which it is left out
NUMBERS = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
)
FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    float("nan"),
    float("inf"),
    -float("inf"),
    1e-40,
    3e38,
    -3e38,
    2.0**31,
    352.0,
    1e9,
)
CHANGES = (
    "number",
    "number",
    "number",
    "word",
    "drop",
    "repeat",
    "swap",
    "resize",
    "cut",
    "flip",
    "flip",
    "splice",
)
WORDS = (
    "0",
    "-1",
    "1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "4294967296",
    "9" * 30,
    "65536",
    "",
    "a",
    "1 1 1 1 1",
    "-0.0",
)


def corpus(folder: Path, real: Path | None) -> dict[str, dict[str, bytes]]:
    """Files by the name of a sample; the first of each is the one that is changed."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 255, (24, 20), np.uint8)
    volume = rng.integers(0, 900, (6, 7, 5), np.int16)
    colour = rng.integers(0, 255, (24, 20, 3), np.uint8)
    _write_pictures(folder, gray, colour)
    _write_volumes(folder, volume)
    _write_dicom(folder, gray)

    later_parts = (".raw", ".zraw", ".gz", "")
    found = {path.name: [path] for path in folder.iterdir() if path.suffix not in later_parts}
    found |= {path.name: [path] for path in folder.glob("*.nii.gz")}
    for name in ("a.nhdr", "a.mhd", "raw.nhdr", "raw.mhd"):
        found[name] += files.files_of(folder / name)[1:]

    found["series"] = sorted((folder / "series").iterdir())
    if real is not None:
        for path in sorted((real / "io").rglob("*.*")):
            if path.is_file() and path.stat().st_size < REAL:
                found[path.name] = [path]

    return {name: {path.name: path.read_bytes() for path in paths} for name, paths in found.items()}


def _write_pictures(folder: Path, gray: np.ndarray, colour: np.ndarray) -> None:
    pictures = {
        "gray.png": (gray, {}),
        "deep.png": (gray.astype(np.uint16) * 200, {}),
        "colour.png": (colour, {}),
        "gray.bmp": (gray, {}),
        "colour.bmp": (colour, {}),
        "gray.jpg": (gray, {}),
        "colour.jpg": (colour, {"progressive": True}),
        "raw.tif": (gray, {"compression": "raw"}),
        "tiff_lzw.tif": (gray, {"compression": "tiff_lzw"}),
        "tiff_adobe_deflate.tif": (gray, {"compression": "tiff_adobe_deflate"}),
        "packbits.tif": (colour, {"compression": "packbits"}),
        "float.tif": (gray.astype(np.float32), {}),
    }
    exif = PIL.Image.Exif()
    exif[274] = 6
    for name, (array, options) in pictures.items():
        if name.endswith("jpg"):
            options["exif"] = exif
        PIL.Image.fromarray(array).save(folder / name, **options)

    PIL.Image.fromarray(gray).convert("P").save(folder / "palette.png", transparency=3)


def _write_volumes(folder: Path, volume: np.ndarray) -> None:
    affine = np.diag([-1.0, -1.5, 2.0, 1.0])
    kinds = {
        "one.nii": nib.Nifti1Image,
        "two.nii.gz": nib.Nifti2Image,
    }
    for name, kind in kinds.items():
        image = kind(volume, affine)
        image.header.extensions.append(nib.nifti1.Nifti1Extension(6, b"remarks"))
        nib.save(image, folder / name)

    nib.save(nib.Nifti1Image(np.stack([volume] * 3, -1), affine), folder / "four.nii.gz")
    pixels = volume.transpose(2, 1, 0)[None].astype(np.float32)
    image = Image(np.ascontiguousarray(pixels), affine, dtype=np.dtype(np.int16))
    for suffix in (".nrrd", ".nhdr", ".mha", ".mhd"):
        files.write(folder / f"a{suffix}", image)
        sitk.WriteImage(
            sitk.GetImageFromArray(volume), folder / f"raw{suffix}", useCompression=False
        )


def _write_dicom(folder: Path, gray: np.ndarray) -> None:
    head = made.head(3)
    made.series(folder / "series", head)
    made.save(made.dataset("CT"), folder / "plain.dcm", head[0])
    made.enhanced(folder / "enhanced.dcm", head, echoes=2)
    syntaxes = {
        "implicit": uid.ImplicitVRLittleEndian,
        "deflated": uid.DeflatedExplicitVRLittleEndian,
        "rle": uid.RLELossless,
    }
    for name, syntax in syntaxes.items():
        dataset = dcmread(folder / "plain.dcm")
        if name == "rle":
            dataset.compress(syntax)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(folder / f"{name}.dcm", implicit_vr=name == "implicit", little_endian=True)

    compressed = {
        "jpeg": (uid.JPEGBaseline8Bit, {"format": "JPEG"}),
        "j2k": (uid.JPEG2000, {"format": "JPEG2000", "no_jp2": True}),
    }
    for name, (syntax, options) in compressed.items():
        buffer = io.BytesIO()
        PIL.Image.fromarray(gray).save(buffer, **options)
        dataset = dcmread(made.save(made.dataset(), folder / f"{name}.dcm", gray, 8))
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([buffer.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(folder / f"{name}.dcm")

    sitk.WriteImage(
        sitk.GetImageFromArray(head[:1]),
        folder / "lossless.dcm",
        useCompression=True,
        compressor="JPEG",
    )


# --- the parts of a file


def parts_of(content: bytes) -> list[tuple[int, int]]:
    """Where the parts of a file begin and end: chunks, segments, entries, fields, elements, lines."""
    if content[:4] == b"\x89PNG":
        return list(_chain(content, 8, lambda at: 12 + int.from_bytes(content[at : at + 4])))
    if content[:2] == b"\xff\xd8":
        return list(_chain(content, 2, lambda at: 2 + int.from_bytes(content[at + 2 : at + 4])))

    if content[:4] == b"II*\0":
        first = int.from_bytes(content[4:8], "little")
        return [
            (4, 8),
            (first, first + 2),
            *((at, at + 12) for at in range(first + 2, min(first + 300, len(content)), 12)),
        ]

    if content[:2] == b"BM":
        return [(at, at + 4) for at in range(2, 54, 4)]

    if content[:4] in (b"\x5c\1\0\0", b"\x1c\2\0\0"):
        kind = (nib.Nifti1Header if content[0] == 0x5C else nib.Nifti2Header).template_dtype
        return [(place, place + field.itemsize) for field, place in kind.fields.values()] + [
            (kind.itemsize, len(content))
        ]

    if content[128:132] == b"DICM":
        return list(_elements(content))

    return [(match.start(), match.end()) for match in re.finditer(rb"[^\n]*\n", content[:2000])]


def _chain(content: bytes, at: int, length: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    while at + 4 < len(content) and len(content) >= at + length(at):
        yield at, at + length(at)
        at += length(at)
    yield at, len(content)


def _elements(content: bytes) -> Iterator[tuple[int, int]]:
    """Elements with explicit VR, sequences and items entered; from the first implicit one on pieces
    of 8 bytes.
    """
    at = 132
    while at + 12 <= len(content):
        tag = content[at : at + 4]
        kind = content[at + 4 : at + 6]
        if tag[:2] == b"\xfe\xff" or kind == b"SQ":
            end = at + (8 if tag[:2] == b"\xfe\xff" else 12)
        elif kind.isupper():
            long = kind in (b"OB", b"OW", b"UN", b"UT", b"OF", b"OD", b"UC", b"UR", b"OL")
            end = at + (
                12 + int.from_bytes(content[at + 8 : at + 12], "little")
                if long
                else 8 + int.from_bytes(content[at + 6 : at + 8], "little")
            )
        else:
            end = at + 8

        yield at, min(end, len(content))
        at = end


# --- changes


def changed(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A file with one to three changes; what is packed as a whole is unpacked before and packed
    again.
    """
    if content[:2] == b"\x1f\x8b" and rng.random() < 0.8:
        return gzip.compress(changed(gzip.decompress(content), others, rng), 1)

    at = content.find(b"1.2.840.10008.1.2.1.99")
    if content[128:132] == b"DICM" and 0 < at < 400 and rng.random() < 0.8:
        begin = 144 + struct.unpack("<I", content[140:144])[0]
        plain = content[:begin].replace(b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0")
        inside = changed(plain + zlib.decompress(content[begin:], -15), others, rng)[begin:]
        packer = zlib.compressobj(wbits=-15)
        return content[:begin] + packer.compress(inside) + packer.flush()

    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = _changed_once(content, others, rng)

    return _with_checksums(content) if content[:4] == b"\x89PNG" and rng.random() < 0.9 else content


def _changed_once(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    content = content or b"\0"
    parts = _parts_within(content)
    start, end = rng.choice(parts)
    part = content[start:end]
    other = rng.choice(parts)
    match rng.choice(CHANGES):
        case "number":
            part = _with_number(part, rng)
        case "word":
            part = _with_word(part, rng)
        case "drop":
            part = b""
        case "repeat":
            part = part * rng.choice((2, 3, 1000 if len(part) < 100 else 2))
        case "swap":
            part = content[slice(*other)]
        case "resize":
            part = _resized(part, rng)
        case "cut":
            return content[: rng.choice((start, end, rng.randrange(len(content))))]
        case "flip":
            return _with_flipped_bits(content, rng)
        case "splice":
            strange = rng.choice(others)
            behind = content[:end] + strange
            instead = content[:start] + strange[start:]
            before = strange[:end] + content[end:]
            return rng.choice((behind, instead, before))

    return content[:start] + part + content[end:]


def _parts_within(content: bytes) -> list[tuple[int, int]]:
    """The parts that are in a file; all of it as one where it has none."""
    parts = []
    for start, end in parts_of(content):
        end = min(end, len(content))
        if start < end:
            parts.append((start, end))
    return parts or [(0, len(content))]


def _with_number(part: bytes, rng: random.Random) -> bytes:
    """A part with another number at its start, its end (where values are) or anywhere."""
    kind = rng.choice("bBhHiIqfd")
    order = rng.choice("<<>")
    if kind in "fd":
        number = struct.pack(order + kind, rng.choice(FLOATS))
    else:
        value = rng.choice(NUMBERS) % 2 ** (8 * struct.calcsize(kind))
        number = struct.pack(order + kind.upper(), value)

    place = rng.choice((0, 4, 6, 8, max(0, len(part) - len(number)), rng.randrange(len(part))))
    return part[:place] + number + part[place + len(number) :]


def _with_word(part: bytes, rng: random.Random) -> bytes:
    words = list(re.finditer(rb"[-+.\w]+", part))[:200]
    if not words:
        return part
    word = rng.choice(words)
    return part[: word.start()] + rng.choice(WORDS).encode() + part[word.end() :]


def _resized(part: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(part))
    size = rng.choice((1, 2, 4, 16, 4000))
    if rng.random() < 0.5:
        return part[:place] + bytes(size) + part[place:]
    return part[:place] + part[place + size :]


def _with_flipped_bits(content: bytes, rng: random.Random) -> bytes:
    """A file with some bits flipped, most of them near its start."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 20))):
        place = int(rng.expovariate(1 / 300))
        found[min(place, len(found) - 1)] ^= 1 << rng.randrange(8)
    return bytes(found)


def _with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they now hold."""
    found = content[:8]
    for start, end in parts_of(content):
        chunk = content[start:end]
        found += (
            chunk[:-4] + struct.pack(">I", zlib.crc32(chunk[4:-4])) if len(chunk) >= 12 else chunk
        )
    return found
