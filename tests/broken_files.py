"""Two hundred broken image files, made from small whole ones by a seed, and what reading them in a process comes to.

python tests/broken_files.py FOLDER      # reads everything in FOLDER and prints what became of it, as JSON
"""

from __future__ import annotations

import faulthandler
import gzip
import json
import os
import random
import re
import resource
import socket
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import dicom_files
import nibabel as nib
import numpy as np
import PIL.Image
import SimpleITK as sitk
from nibabel.nifti1 import header_dtype as nifti1
from nibabel.nifti2 import header_dtype as nifti2

COUNT = 200
ADDRESS_SPACE = 4 * 2**30  # bytes that the process may ask for
SECONDS = 30  # for one file, after which the process is ended


@dataclass(frozen=True)
class Broken:
    """One broken file, or folder of a series, and whether it must be refused; else it may be read, or be refused."""

    path: Path
    kind: str
    refused: bool = True


class Maker:
    """Makes broken things, one name each, in a folder."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.rng, self.made = folder, random.Random(seed), []
        self.outside = folder.with_name(folder.name + " outside")
        self.whole = _whole(folder.with_name(folder.name + " whole"), np.random.default_rng(seed))

    def place(self, name: str, kind: str, refused: bool = True) -> Path:
        """The path of the next broken thing, with its number before the name."""
        path = self.folder / f"{len(self.made):03d} {name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.made.append(Broken(path, kind, refused))
        return path

    def put(self, name: str, kind: str, content: bytes, refused: bool = True) -> None:
        self.place(name, kind, refused).write_bytes(content)

    def each(self, count: int) -> list[str]:
        """Names of whole files, all in turn, so many."""
        names = sorted(self.whole)
        return [names[k % len(names)] for k in range(count)]


def make(folder: Path, seed: int = 0) -> list[Broken]:
    """Fill `folder` with broken files, and whole ones whose names begin with "good"; links lead to a folder beside."""
    maker = Maker(folder, seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in maker.whole.items():
        (folder / f"good {name}").write_bytes(content)
    with mock.patch.object(dicom_files, "generate_uid", _numbered()):
        dicom_files.series(folder / "good series", dicom_files.head())
        kinds = (odd_names, not_images, links, special_files, values, geometry, sizes, huge, bombs, second_files, dicom)
        for kind in kinds:
            kind(maker)
        left = COUNT - len(maker.made)
        truncated(maker, left // 2)
        flipped(maker, left - left // 2)
    return maker.made


def truncated(maker: Maker, count: int) -> None:
    for name in maker.each(count):
        whole = maker.whole[name]
        maker.put(f"cut.{name}", "truncated", whole[: int(len(whole) * maker.rng.uniform(0.02, 0.9))])


def flipped(maker: Maker, count: int) -> None:
    for name in maker.each(count):
        content = bytearray(maker.whole[name])
        for _ in range(maker.rng.choice((1, 2, 4, 8))):
            content[maker.rng.randrange(min(len(content), 352))] ^= 1 << maker.rng.randrange(8)
        maker.put(f"flipped.{name}", "bit-flipped header", bytes(content), refused=False)


def odd_names(maker: Maker) -> None:
    """Broken files with names that whole ones have too."""
    cut = maker.whole["x.nii.gz"][:60]
    for name in (
        "mit Leerzeichen und Ümlaut.nii.gz",
        "图像.nii.gz",
        "--volume 3.nii.gz",
        "50%s %(x)d {y}.nii.gz",
        "'quoted' \"twice\".nii.gz",
        "a" * 200 + ".nii.gz",
        "e\u0301.NII.GZ",
        "two.dots.v1.nii.gz",
    ):
        maker.put(name, "odd name", cut)
        (maker.folder / f"good {name}").write_bytes(maker.whole["x.nii.gz"])


def not_images(maker: Maker) -> None:
    for suffix in (".nii", ".png", ".mha", ".nrrd", ".dcm"):
        maker.put(f"empty{suffix}", "empty", b"")
    for suffix in (".nii.gz", ".tif", ".mhd", ".jpg", ".dcm"):
        maker.put(f"text{suffix}", "text", b"<html>404 not found</html>\n" * 30)
    for suffix in (".nii", ".bmp", ".nhdr", ".hdr", ".dcm"):
        maker.put(f"noise{suffix}", "noise", maker.rng.randbytes(900))


def special_files(maker: Maker) -> None:
    for suffix in (".nii", ".png", ".mha", ".dcm"):
        maker.place(f"folder{suffix}", "folder named like an image").mkdir()
        os.mkfifo(maker.place(f"pipe{suffix}", "named pipe"))
    with socket.socket(socket.AF_UNIX) as server:  # its file stays; the name of one may only be short
        here = os.open(maker.folder, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/{maker.place('socket.nii', 'socket').name}")
        os.close(here)
    if os.geteuid():  # root may read everything
        for name in ("x.nii", "x.png", "x.mha"):
            maker.put(f"closed.{name}", "unreadable", maker.whole[name])
            maker.made[-1].path.chmod(0)


def links(maker: Maker) -> None:
    maker.outside.mkdir(parents=True, exist_ok=True)
    for name in ("x.nii.gz", "x.png", "x.mha"):
        (maker.outside / name).write_bytes(maker.whole[name])
        maker.place(f"out.{name}", "link out of the folder", refused=False).symlink_to(maker.outside / name)
    maker.place("folder out", "link to a folder").symlink_to(maker.outside)
    maker.place("up", "link to itself").symlink_to(maker.folder)
    loop = maker.place("loop.nii", "link to itself")
    loop.symlink_to(loop)
    maker.place("nowhere.nii", "broken link").symlink_to(maker.folder / "nothing.nii")


def values(maker: Maker) -> None:
    """NaN and infinities among voxels, of every format that can hold them."""
    for bad in (np.nan, np.inf, -np.inf, 1e300):
        voxels = np.random.default_rng(1).normal(size=(9, 8, 7))
        voxels[maker.rng.randrange(9), 2, 3] = bad
        single = voxels if bad == 1e300 else voxels.astype(np.float32)
        nib.save(nib.Nifti1Image(single, np.eye(4)), maker.place("value.nii.gz", "values not finite"))
        sitk.WriteImage(sitk.GetImageFromArray(single), str(maker.place("value.nrrd", "values not finite")))
        sitk.WriteImage(sitk.GetImageFromArray(single), str(maker.place("value.mha", "values not finite")), True)
        if bad != 1e300:
            PIL.Image.fromarray(single[..., 3]).save(maker.place("value.tif", "values not finite"))


def geometry(maker: Maker) -> None:
    """Spacings of zero and NaN, affines and directions that map no volume, single voxels."""
    for bad in (0.0, np.nan, np.inf):
        maker.put("spacing.nii", "spacing", field(maker.whole["x.nii"], nifti1, "pixdim", [1, 1, bad, 1, 1, 1, 1, 1]))
        content = field(maker.whole["two.nii"], nifti2, "pixdim", [1, 1, bad, 1, 1, 1, 1, 1])
        maker.put("spacing.nii", "spacing", content)
        maker.put("spacing.mha", "spacing", line(maker.whole["x.mha"], "ElementSpacing", f"1 {bad} 1"))
        maker.put(
            "spacing.nrrd", "spacing", line(maker.whole["x.nrrd"], "space directions", f"({bad},0,0) (0,1,0) (0,0,1)")
        )
    for name, row in (("srow_y", [0, 0, 0, 0]), ("srow_x", [0, 2, 0, 0]), ("srow_z", [np.nan, 0, 1, 0])):
        maker.put("affine.nii", "affine", field(maker.whole["x.nii"], nifti1, name, row))
    maker.put("affine.mha", "affine", line(maker.whole["x.mha"], "TransformMatrix", "1 0 0 1 0 0 0 0 1"))
    maker.put("affine.nrrd", "affine", line(maker.whole["x.nrrd"], "space directions", "(1,0,0) (1,0,0) (0,0,1)"))
    for shape in ((1, 1, 1), (9, 1, 1), (1, 1, 9)):
        nib.save(nib.Nifti1Image(np.ones(shape, np.int16), np.eye(4)), maker.place("one.nii", "one voxel"))
        sitk.WriteImage(sitk.GetImageFromArray(np.ones(shape, np.int16)), str(maker.place("one.mha", "one voxel")))


def sizes(maker: Maker) -> None:
    """Sides that are not those of the voxels that follow."""
    for sides in ([3, 30, 30, 30], [3, 9, 8, 8], [2, 900, 800], [0] * 4, [9, 9, 8, 7], [3, -9, 8, 7], [3, 0, 8, 7]):
        maker.put("sides.nii", "wrong size", field(maker.whole["x.nii"], nifti1, "dim", (sides + [1] * 8)[:8]))
    for sides in ("30 30 30", "9 8", "9 8 -7", "0 8 7", "9.5 8 7"):
        maker.put("sides.mha", "wrong size", line(maker.whole["x.mha"], "DimSize", sides))
        maker.put("sides.nrrd", "wrong size", line(maker.whole["gz.nrrd"], "sizes", sides))


def huge(maker: Maker) -> None:
    """Sides that would take a machine's memory many times over."""
    most = field(maker.whole["x.nii"], nifti1, "dim", [3, 32767, 32767, 32767, 1, 1, 1, 1])
    maker.put("huge.nii", "huge", most)
    maker.put("huge.nii.gz", "huge", gzip.compress(most, mtime=0))
    maker.put("huge.nii", "huge", field(maker.whole["two.nii"], nifti2, "dim", [3, 2**40, 2**40, 2, 1, 1, 1, 1]))
    maker.put("huge.nii", "huge", field(maker.whole["x.nii"], nifti1, "vox_offset", 2e9))
    for name in ("x.mha", "zlib.mha"):
        maker.put("huge.mha", "huge", line(maker.whole[name], "DimSize", "100000 100000 100000"))
    maker.put("huge.mha", "huge", line(maker.whole["x.mha"], "NDims", "3000"))
    maker.put("huge.mha", "huge", line(maker.whole["zlib.mha"], "CompressedDataSize", str(2**61)), refused=False)
    for name in ("x.nrrd", "gz.nrrd"):
        maker.put("huge.nrrd", "huge", line(maker.whole[name], "sizes", "100000 100000 100000"))
    for sides in ((60000, 60000), (2**31 - 1, 2), (13000, 13000)):
        maker.put("huge.png", "huge", png(*sides, b"\0" * 900))


def bombs(maker: Maker) -> None:
    """Little that unpacks to much: as declared, beyond what is declared, and in places where nothing is expected."""
    pack = gzip.compress(bytes(2**24), mtime=0)  # members of a gzip file may follow each other
    start = field(maker.whole["x.nii"], nifti1, "dim", [3, 9, 8, 7, 1, 1, 1, 1])[:352]
    maker.put("bomb.nii.gz", "bomb", gzip.compress(start, mtime=0) + pack * 16)
    declared = field(start, nifti1, "dim", [3, 32767, 32767, 8, 1, 1, 1, 1])
    maker.put("bomb.nii.gz", "bomb", gzip.compress(declared, mtime=0) + pack * 1024)
    maker.put("bomb.nii.gz", "bomb", gzip.compress(field(start, nifti1, "vox_offset", 2**27), mtime=0) + pack * 16)
    head = line(maker.whole["zlib.mha"], "DimSize", "9 8 7")
    head = re.sub(rb"CompressedDataSize.*\n", b"", head[: head.index(b"LOCAL\n") + 6])
    maker.put("bomb.mha", "bomb", head + zlib.compress(bytes(2**26)))
    maker.put("bomb.png", "bomb", png(9, 8, bytes(72), (b"zTXt", b"note\0\0" + zlib.compress(bytes(2**26)))), False)
    maker.put("bomb.png", "bomb", png(9, 8, bytes(2**26)), False)


def second_files(maker: Maker) -> None:
    """Headers that name the file of their voxels: elsewhere, missing, several, a pipe."""
    header = maker.whole["x.mha"]
    header = header[: header.index(b"ElementDataFile")]
    os.mkfifo(maker.folder / "pipe.raw")
    for name in ("/etc/passwd", "../x.raw", "missing.raw", "LIST", "x%03d.raw 1 10 1", "pipe.raw"):
        maker.put("second.mhd", "second file", header + f"ElementDataFile = {name}\n".encode())
    header = re.sub(rb"\n\n.*", b"\n", maker.whole["x.nrrd"], flags=re.DOTALL)
    for name in ("/etc/passwd", "../x.raw", "LIST", "pipe.raw"):
        maker.put("second.nhdr", "second file", header + f"data file: {name}\n".encode())
    maker.put("second.hdr", "second file", maker.whole["x.nii"][:348].replace(b"n+1", b"ni1"))


def dicom(maker: Maker) -> None:
    """Series with gaps, mixtures and contradictions, and files that are cut, flipped, huge, or lack what they need."""
    numbers = dicom_files.head()
    place = maker.place
    dicom_files.series(place("gap", "missing slices"), numbers, skip=(2,))
    folder = place("mixed", "mixed series")
    for k in range(2):
        dicom_files.series(folder, numbers + k, prefix=f"S{k}", SeriesInstanceUID=f"1.2.{k}", SeriesNumber=k)
    folder = place("twice", "two slices at one place")
    dicom_files.series(folder, numbers)
    dicom_files.series(folder, numbers + 1, prefix="XX")
    for name, elements in {
        "spacing": {"PixelSpacing": [0.0, 1.0]},
        "orientation": {"ImageOrientationPatient": [0.0] * 6},
        "rows": {"Rows": 40},
        "huge": {"Rows": 65535, "Columns": 65535},
        "frames": {"NumberOfFrames": 2**31 - 1},
        "pixels": {"PixelData": None},
        "bits": {"BitsAllocated": 13},
    }.items():
        dicom_files.series(place(name, f"DICOM, {name}"), numbers[:3], **elements)
    folder = place("sizes", "DICOM, slices of two sizes")
    dicom_files.series(folder, numbers[:3], shuffle=False)
    dicom_files.save(dicom_files.dataset(InstanceNumber=9, PixelSpacing=[1.5, 1.25],
                                         ImagePositionPatient=[-30.0, -40.0, 19.0],
                                         ImageOrientationPatient=[1.0, 0, 0, 0, 1, 0]),
                     folder / "larger.dcm", np.ones((50, 50), np.int16))  # fmt: skip
    whole = (maker.folder / "good series").iterdir().__next__().read_bytes()
    for part in (0.05, 0.3, 0.6, 0.95):
        maker.put("cut.dcm", "truncated", whole[: int(len(whole) * part)])
    for k in range(10):
        content = bytearray(whole)
        for _ in range(1 + k):
            content[maker.rng.randrange(132, 1200)] ^= 1 << maker.rng.randrange(8)
        maker.put("flipped.dcm", "bit-flipped header", bytes(content), refused=False)


def field(content: bytes, kind: np.dtype, name: str, value: object) -> bytes:
    """A NIfTI file with one field of its header changed."""
    changed = bytearray(content)
    np.frombuffer(changed, kind, count=1)[name] = value
    return bytes(changed)


def line(content: bytes, name: str, value: str) -> bytes:
    """A NRRD or MetaImage file with one line of its header changed."""
    return re.sub(rf"^({name} ?[=:] ?).*$".encode(), rb"\g<1>" + value.encode(), content, count=1, flags=re.MULTILINE)


def png(width: int, height: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """An 8-bit gray PNG that may declare other sides than its rows have."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _whole(folder: Path, rng: np.random.Generator) -> dict[str, bytes]:
    """One small whole file of each kind, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    volume = rng.integers(0, 900, (9, 8, 7), dtype=np.int16)
    affine = np.diag([-1.5, 1.0, 2.0, 1.0])
    for name in ("x.nii", "x.nii.gz"):
        nib.save(nib.Nifti1Image(volume, affine), folder / name)
    for name in ("two.nii", "two.nii.gz"):
        nib.save(nib.Nifti2Image(volume.astype(np.float32), affine), folder / name)
    for name in ("x.nrrd", "gz.nrrd", "x.mha", "zlib.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(volume), str(folder / name), name[0] != "x")
    picture = rng.integers(0, 256, (40, 30), dtype=np.uint8)
    for name in ("x.png", "x.jpg", "x.bmp", "x.tif"):
        PIL.Image.fromarray(picture).save(folder / name)
    PIL.Image.fromarray(picture).save(folder / "lzw.tif", compression="tiff_lzw")
    PIL.Image.fromarray(picture.astype(np.uint16) * 200).save(folder / "deep.png")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _numbered() -> Callable[[], str]:
    """UIDs that are the same each time."""
    count = iter(range(10**6))
    return lambda *_: f"1.2.826.0.1.3680043.8.498.{10**6 + next(count)}"


def read_all(folder: Path) -> dict:
    """What became of each thing in a folder, of each scan that is listed in it, and how much memory that took."""
    from gantk.errors import UserError
    from gantk.formats.files import list_images, read, scans

    def outcome(source) -> dict:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            image = read(source)
            return {"read": bool(np.isfinite(image.pixels).all()), "shape": image.pixels.shape}
        except UserError as error:
            return {"message": str(error)}
        except BaseException as error:
            return {"crash": f"{type(error).__name__}: {error}"}
        finally:
            faulthandler.cancel_dump_traceback_later()

    read(folder / "good x.png"), read(folder / "good x.nii.gz"), read(folder / "good series")
    before = _peak()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    each = {path.name: outcome(path) for path in sorted(folder.iterdir())}
    listed = [str(path.relative_to(folder)) for path in list_images(folder, recursive=True)]
    found = {scan.name: outcome(scan) for scan in scans(folder)}
    return {"each": each, "listed": listed, "scans": found, "grown": _peak() - before}


def _peak() -> int:
    """The most memory that this process has had at a time, in bytes; `resource` would count its parent's too."""
    return 1024 * int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])


if __name__ == "__main__":
    print(json.dumps(read_all(Path(sys.argv[1]))))
