"""A file that declares or unpacks to more than it is costs no more than it is: seconds, and memory
by its size.
"""

import gzip
import os
import re
import resource
import struct
import zlib
from pathlib import Path

import dicom_files as made
import nibabel as nib
import numpy as np
import PIL.Image
import pytest
from pydicom import Dataset, dcmread, uid

from gantk.errors import UserError
from gantk.formats import files as io

# of computing, and beyond what the test itself takes
SECONDS = 20
GIB = 2
ZEROS = bytes(2**20)


def read_within_bounds(path: Path) -> str:
    """What reading a file says in a process of its own, which the system ends where it takes too
    long or too much.
    """
    source, sink = os.pipe()
    if not (child := os.fork()):
        said = "!"
        try:
            used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_DATA, (used + GIB * 2**30, used + GIB * 2**30))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            scans = io.scans(path.parent)
            said = (
                "read"
                f" {io.read(next(scan for scan in scans if path in scan.files)).pixels.shape[1:]}"
            )
        except UserError as error:
            said = str(error)
        except BaseException as error:
            said = f"! {type(error).__name__}: {error}"
        finally:
            os.write(sink, said.encode()[:4000])
            os._exit(0)

    os.close(sink)
    with open(source, "rb") as file:
        said = file.read().decode()

    return said if not os.waitpid(child, 0)[1] else f"! killed: {said}"


def deflate(start: bytes, megabytes: int, bits: int) -> bytes:
    """A start and zeros behind it, packed: about a thousandth of what it unpacks to."""
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    first = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    return (
        first
        + (packer.compress(ZEROS) + packer.flush(zlib.Z_FULL_FLUSH)) * megabytes
        + packer.flush()
    )


def nifti(path: Path, megabytes: int = 0, **fields) -> None:
    """A gzipped NIfTI of 16 x 16 x 4 with other fields, and zeros behind it."""
    image = nib.Nifti1Image(np.zeros((16, 16, 4), np.int16), np.eye(4))
    image.header.set_data_offset(352)
    start = bytearray(image.header.binaryblock + bytes(4))
    for name, value in fields.items():
        kind, place = image.header.template_dtype.fields[name]
        start[place : place + kind.itemsize] = np.array(value, kind.base).tobytes()
    path.write_bytes(deflate(bytes(start), megabytes, 31))


def text(path: Path, lines: str, voxels: bytes = bytes(2048)) -> None:
    """NRRD or MetaImage of 16 x 16 x 4 with other lines."""
    if path.suffix in (".nrrd", ".nhdr"):
        given = "".join(
            f"{line}\n"
            for line in (
                "type: short",
                "dimension: 3",
                "sizes: 16 16 4",
                "encoding: raw",
                "endian: little",
            )
            if line.split(":")[0] + ":" not in lines
        )
        path.write_bytes(f"NRRD0004\n{given}{lines}\n\n".encode() + voxels)
    else:
        given = "".join(
            f"{line}\n"
            for line in ("NDims = 3", "DimSize = 16 16 4", "ElementType = MET_SHORT")
            if line.split("=")[0] not in lines
        )
        end = "" if "ElementDataFile" in lines else "\nElementDataFile = LOCAL"
        path.write_bytes(f"{given}{lines}{end}\n".encode() + voxels)


def deflated(path: Path, megabytes: int, meta: int = 0, preamble: bool = True) -> None:
    """A deflated DICOM file whose pixels are zeros. `meta` more bytes come before what says that it
    is deflated.
    """
    whole = made.save(made.dataset(), path, made.head(1)[0])
    dataset = dcmread(whole)
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    content = path.read_bytes()
    begin = 144 + struct.unpack("<I", content[140:144])[0]
    inside = zlib.decompress(content[begin:], -15)
    pixels = inside.index(b"\xe0\x7f\x10\x00")
    start = inside[: pixels + 8] + struct.pack("<I", 2**32 - 2)
    private = b"\x02\x00\x01\x00OB\0\0" + struct.pack("<I", meta) + bytes(meta)
    whole = content[:144] + (private if meta else b"") + content[144:begin]
    whole = whole if preamble else whole[132:]
    path.write_bytes(whole + deflate(start, megabytes, -15))


def frames(path: Path, count: int) -> None:
    """A DICOM file of so many frames of six pixels."""
    dataset = dcmread(made.save(made.dataset(), path, np.zeros((2, 2), np.uint8)))
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 2, 3, count
    dataset.PerFrameFunctionalGroupsSequence = [Dataset()] * count
    dataset.PixelData = bytes(6 * count)
    dataset.save_as(path)


def elements(path: Path, content: bytes) -> None:
    """A DICOM file whose header goes on with such bytes."""
    whole = made.save(made.dataset(), path, made.head(1)[0]).read_bytes()
    path.write_bytes(whole[: whole.index(b"\x08\x00\x50\x00SH")] + content)


def pages(path: Path, count: int) -> None:
    """A TIFF of so many pages of 16 x 16."""
    tags = [
        (256, 16),
        (257, 16),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 16),
        (279, 256),
    ]
    page = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags
    )
    places = [264 + k * (len(page) + 4) for k in range(1, count)] + [0]
    body = b"".join(page + struct.pack("<I", place) for place in places)
    path.write_bytes(b"II*\0" + struct.pack("<I", 264) + bytes(256) + body)


def png(path: Path, side: int) -> None:
    """A PNG that declares so many rows and columns."""
    PIL.Image.new("L", (4, 4)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


def jpeg(path: Path, side: int) -> None:
    """A JPEG that declares so many rows and columns."""
    PIL.Image.new("L", (8, 8)).save(path)
    content = path.read_bytes()
    at = content.index(b"\xff\xc0") + 5
    path.write_bytes(content[:at] + struct.pack(">HH", side, side) + content[at + 4 :])


def scans(path: Path) -> None:
    """A JPEG that is drawn ten thousand times over."""
    PIL.Image.new("L", (4000, 4000)).save(path, "JPEG", progressive=True)
    content = path.read_bytes()
    last = content[content.rindex(b"\xff\xda") : -2]
    path.write_bytes(content[:-2] + last * 10_000 + content[-2:])


HEADER_ENDLESS = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"
TIME = r"takes more than \d+ s to read"
DEFLATED = "its transfer syntax is Deflated"
HOSTILE = {
    "offset.nii.gz": (lambda p: nifti(p, 300, vox_offset=2.0**40), "unpacks to more"),
    "extension.nii.gz": (lambda p: nifti(p, 64, vox_offset=2.0**31), "unpacks to more"),
    "sides.nii.gz": (lambda p: nifti(p, 1, dim=[3, 32767, 32767, 4, 1, 1, 1, 1]), "truncated"),
    "behind.nii.gz": (lambda p: nifti(p, 300), r"read \(4, 16, 16\)"),
    "spaces.nrrd": (lambda p: text(p, "a" + " " * 400_000 + "b"), "is damaged"),
    "end.nrrd": (lambda p: text(p, "a:" + " " * 400_000 + "\0b"), "is damaged"),
    "brackets.nrrd": (
        lambda p: text(p, "space directions: " + "(a" * 400_000),
        r"read|cannot be read",
    ),
    "axes.nrrd": (lambda p: text(p, f"sizes:{' 1' * 20_000}\ndimension: 20000"), "cannot be read"),
    "axes.mha": (lambda p: text(p, f"DimSize = {'1 ' * 20_000}\nNDims = 20000"), "cannot be read"),
    "sides.nrrd": (
        lambda p: text(p, "sizes: 32767 32767 3\nencoding: gzip", gzip.compress(ZEROS)),
        "truncated",
    ),
    "sides.mha": (
        lambda p: text(p, "DimSize = 32767 32767 3\nCompressedData = True", zlib.compress(ZEROS)),
        "truncated",
    ),
    "deflated.dcm": (lambda p: deflated(p, 3000), DEFLATED),
    "elements.dcm": (lambda p: elements(p, b"\x09\x00\x10\x00LO\0\0" * 50_000), "truncated"),
    "items.dcm": (
        lambda p: elements(p, HEADER_ENDLESS + b"\xfe\xff\x00\xe0\0\0\0\0" * 10_000),
        f"{TIME}|damaged",
    ),
    "depth.dcm": (
        lambda p: elements(p, (HEADER_ENDLESS + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 9999),
        "damaged",
    ),
    "group 2.dcm": (lambda p: deflated(p, 80, meta=70_000), DEFLATED),
    "no preamble.dcm": (lambda p: deflated(p, 80, preamble=False), DEFLATED),
    "length.dcm": (lambda p: elements(p, b"\x09\x00\x01\x10OB\0\0\xfe\xff\xff\xff"), "truncated"),
    "60000 frames.dcm": (lambda p: frames(p, 60_000), rf"{TIME}|are not one volume"),
    "60000.png": (lambda p: png(p, 60_000), "declares more than"),
    "60000.jpg": (lambda p: jpeg(p, 60_000), "declares more than"),
    "scans.jpg": (scans, TIME),
    "pages.tif": (lambda p: pages(p, 60_000), "pages"),
}


LONG = ("60000 frames.dcm", "elements.dcm", "items.dcm")


@pytest.mark.quick_cases(*(name for name in HOSTILE if name not in LONG))
@pytest.mark.parametrize("name", HOSTILE)
def test_small_files_are_bounded_in_time_and_memory(tmp_path, monkeypatch, name):
    monkeypatch.setattr("gantk.formats.budget.FREE_SECONDS", 0.5)
    make, words = HOSTILE[name]
    make(tmp_path / name)

    assert re.search(words, said := read_within_bounds(tmp_path / name)) and said[0] != "!", said


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.raw", "sub/../../secret.raw"])
@pytest.mark.parametrize("header", ["x.nhdr", "x.nrrd", "x.mhd", "x.mha"])
def test_a_header_names_no_file_outside_of_its_folder(tmp_path, header, name):
    (tmp_path / "secret.raw").write_bytes(bytes(range(256)) * 8)
    path = tmp_path / "scans" / "sub" / header
    path.parent.mkdir(parents=True)
    line = "data file: {}" if header.startswith("x.n") else "ElementDataFile = {}"
    text(path, line.format(name), b"")

    with pytest.raises(UserError, match="is outside the folder of the header"):
        io.read(path)

    assert io.files_of(path) == [path]

    (path.parent / "voxels").mkdir()
    (path.parent / "voxels" / "x.raw").write_bytes(bytes(2048))
    text(path, line.format("voxels/x.raw"), b"")

    assert io.read(path).pixels.shape == (1, 4, 16, 16)


@pytest.mark.slow
def test_pipes_devices_and_circular_links_end(tmp_path, pictures):
    pictures(tmp_path / "set" / "good", 2)
    os.mkfifo(tmp_path / "set" / "pipe.png")
    os.mkfifo(tmp_path / "set" / "pipe")
    (tmp_path / "set" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "set" / "messages").symlink_to("/proc/kmsg")
    (tmp_path / "set" / "good" / "again").symlink_to("..")

    assert len(io.scans(tmp_path / "set")) == 2

    with pytest.raises(UserError, match="is a pipe or a device"):
        io.read(tmp_path / "set" / "pipe.png")

    for n in range(40):  # of which each leads twice to the next: 2 to the power of 40 ways
        for name in "ab":
            (tmp_path / "bomb" / str(n)).mkdir(parents=True, exist_ok=True)
            (tmp_path / "bomb" / str(n) / name).symlink_to(tmp_path / "bomb" / str(n + 1))

    (tmp_path / "bomb" / "40").mkdir()
    deep = tmp_path / "deep" / "/".join("d" * 200)
    os.makedirs(deep)
    for folder in ("bomb", "deep"):
        with pytest.raises(UserError, match="deep, or more than 64 links lead to one"):
            io.scans(tmp_path / folder)
