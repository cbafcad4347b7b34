"""Marked identifiers in every kind of file, every command on them, and no mark in any byte that comes out.

Marks stand in names, numbers, addresses, private elements at three depths, overlays, comments, the file meta group, the
texts and extensions of NIfTI, the keys of NRRD and MetaImage, EXIF, text and comments of pictures, and in damaged
copies of all of these. What may carry them is said in ALLOWED: derived DICOM, which is the same patient's.
"""

from __future__ import annotations

import base64
import copy
import gzip
import io
import json
import os
import random
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import dicom_files as made
import nibabel as nib
import numpy as np
import pytest
import tomli_w
from PIL import Image, PngImagePlugin, TiffImagePlugin
from tiny import TINY

pytestmark = pytest.mark.slow
pydicom = pytest.importorskip("pydicom")

MARK = re.compile(rb"(?i)(?:m\0?a\0?r\0?k\0?z\0?q\0?|998\x00?77\x00?)(?:\d\0?){5}")  # in UTF-16 too
# What not even a derived DICOM file has: all else in it says whose it is, and of which study.
NEVER = {"private creator", "private bytes", "overlay", "overlay description", "application", "file meta", "preamble",
         "ImageComments", "series UID", *(f"private element at depth {depth}" for depth in (1, 2, 3))}  # fmt: skip
BROKEN = 24  # damaged copies of each file
NUMBERS, PLACES = count(10000), {}  # of marks, and where each was put
DRIVER = """
import json, os, sys
from gantk.cli import main
for number, args in enumerate(json.loads(sys.argv[1])):
    sys.argv = ["gantk", *args]
    print(f"@@{number} {args[0]}", flush=True)
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    sys.stdout.flush(), sys.stderr.flush()
    print(f"@@{number} ended {code}", flush=True)
os._exit(0)
"""


def mark(place: str, digits: bool = False) -> str:
    """A text that is found again: letters and a number, or a number alone."""
    number = next(NUMBERS)
    PLACES[str(number)] = place
    return f"99877{number}" if digits else f"Markzq{number}"


# ---- files that are marked wherever a format has room


def dicom_tree(root: Path, patients: int = 6) -> Path:
    for number in range(patients):
        name = f"{mark('PatientName')}^{mark('PatientName')}"
        identity = {"PatientName": name, "PatientID": mark("PatientID", digits=number % 2 == 0)}
        study = {"StudyInstanceUID": f"1.2.{mark('study UID', True)}", "StudyID": mark("StudyID"), **identity}
        study |= {"FrameOfReferenceUID": f"1.3.{mark('frame UID', True)}"}
        for place, contrast in enumerate(("T1", "T2")):
            folder = root / f"export{number}" / f"SE{place}"
            words = {key: mark(key) for key in (
                "PatientAddress", "OtherPatientIDs", "PatientTelephoneNumbers", "PatientComments", "AccessionNumber",
                "InstitutionName", "InstitutionAddress", "ReferringPhysicianName", "PerformingPhysicianName",
                "OperatorsName", "StudyDescription", "StationName", "ImageComments", "RequestingPhysician",
                "AdditionalPatientHistory", "DeviceSerialNumber", "PatientBirthName")}  # fmt: skip
            uid = f"1.4.{mark('series UID', True)}"
            text = f"{contrast} tse {name.split('^')[0]} {identity['PatientID']}"
            paths = made.series(folder, made.head(4, 32, 32, seed=10 * number + place), SeriesInstanceUID=uid, **study,
                                **words, SeriesDescription=text, ProtocolName=text, SeriesNumber=place + 1)  # fmt: skip
            for path in paths:
                hide(path)
    return root


def hide(path: Path) -> None:
    """Private elements at three depths, an overlay, and the file meta group."""
    found = pydicom.dcmread(path)
    inner, middle = pydicom.Dataset(), pydicom.Dataset()
    for depth, part in enumerate((inner, middle, found)):
        block = part.private_block(0x0009 + 2 * depth, mark("private creator"), create=True)
        block.add_new(1, "LO", mark(f"private element at depth {3 - depth}"))
        block.add_new(2, "UN", mark("private bytes").encode() + b" ")
    middle.RequestedProcedureDescription = mark("sequence")
    middle.ReferencedPatientSequence, inner.PatientID = [inner], mark("nested PatientID")
    found.RequestAttributesSequence = [middle]
    found.add_new(0x60000010, "US", 32), found.add_new(0x60000011, "US", 32), found.add_new(0x60000100, "US", 1)
    found.add_new(0x60003000, "OW", mark("overlay").encode().ljust(128, b"\0"))
    found.add_new(0x60000022, "LO", mark("overlay description"))
    found.file_meta.SourceApplicationEntityTitle = mark("application")
    found.file_meta.PrivateInformationCreatorUID = "1.2.3"
    found.file_meta.PrivateInformation = mark("file meta").encode() + b" "
    found.preamble = mark("preamble").encode().ljust(128, b"\0")
    found.save_as(path)


def nifti_tree(root: Path, patients: int = 6) -> Path:
    for number in range(patients):
        for place, contrast in enumerate(("t1", "t2")):
            kind = (nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Image)[number % 3]
            image = kind(made.head(16, 32, 32, seed=10 * number + place).T, np.diag([1.0, 1, 2, 1]))
            for field in ("descrip", "aux_file", "db_name", "data_type", "intent_name"):
                if field in image.header.template_dtype.names:
                    image.header[field] = mark(field)[: image.header.template_dtype[field].itemsize].encode()
            for code in ("comment", "dicom", "afni"):
                content = (made.dataset(PatientName=mark("dicom extension")) if code == "dicom" else
                           mark(f"{code} extension").encode())  # fmt: skip
                extension = nib.nifti1.Nifti1DicomExtension if code == "dicom" else nib.nifti1.Nifti1Extension
                image.header.extensions.append(extension(2 if code == "dicom" else code, content))
            path = root / f"p{number}" / f"p{number}_{contrast}.nii{'.gz' * (number % 2)}"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(image, path)
    return root


def itk_files(root: Path) -> list[Path]:
    sitk = pytest.importorskip("SimpleITK")
    root.mkdir(parents=True)
    for name in ("a.nrrd", "b.nhdr", "c.mha", "d.mhd"):
        image = sitk.GetImageFromArray(made.head(16, 32, 32))
        for key in ("DICOM_0010_0010", "DICOM_PatientName", "Comment", "Name", "content", "NRRD_content", "Study"):
            image.SetMetaData(key, mark(f"{name}: {key}"))
        sitk.WriteImage(image, str(root / name), name != "b.nhdr")
    return sorted(path for path in root.iterdir() if path.suffix not in (".raw", ".zraw"))


def picture_tree(root: Path, patients: int = 6) -> Path:
    for number, kind in zip(range(patients), ["png", "jpg", "tif"] * 9, strict=False):
        for place, contrast in enumerate(("T1", "T2")):
            (root / contrast).mkdir(parents=True, exist_ok=True)
            path, exif = root / contrast / f"p{number}.{kind}", Image.Exif()
            pixels = made.head(1, 32, 32, seed=10 * number + place)[0]
            picture = Image.fromarray((pixels / 5).astype(np.uint8))
            exif[0x013B], exif[0x010E], exif[0x9C9D] = mark("artist"), mark("EXIF"), mark("author").encode("utf-16-le")
            exif.get_ifd(0x8769)[0x9286] = mark("user comment").encode()
            if kind == "png":
                text = PngImagePlugin.PngInfo()
                text.add_text("Patient", mark("tEXt")), text.add_text("Name", mark("zTXt"), zip=True)
                text.add_itxt("Title", mark("iTXt"))
                picture.save(path, pnginfo=text, exif=exif)
            elif kind == "jpg":
                picture.save(path, exif=exif, comment=mark("JPEG comment"), quality=95)
            else:
                tags = TiffImagePlugin.ImageFileDirectory_v2()
                tags[270], tags[315], tags[65000] = mark("description"), mark("artist"), mark("private tag")
                picture.save(path, tiffinfo=tags, exif=exif)
    return root


def broken(files: list[Path], root: Path) -> Path:
    """Copies of files, each with one byte changed or an end cut off, most of them in the header."""
    rng = random.Random(0)
    root.mkdir(parents=True)
    for number, file in enumerate(files):
        for which in range(BROKEN):
            content = bytearray(file.read_bytes())
            for _ in range(1 if which % 4 else 3):
                content[rng.randrange(min(len(content), 3000) if which % 5 else len(content))] = rng.randrange(256)
            name = f"{number:02d}-{which:02d}{''.join(file.suffixes[-2:])}"
            (root / name).write_bytes(content[: len(content) // (1 + (which == 3))])
    return root


# ---- what came out


def unpacked(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes, and whatever is packed in them: gzip, zlib, zip, base64, texts of pictures; pages within pages."""
    yield content
    if depth > 2:
        return
    inner: list[bytes] = []
    if content[:2] == b"\x1f\x8b":
        inner.append(gzip.decompress(content))
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            inner += [archive.read(name) for name in archive.namelist()]
    if content[:4] in (b"\x89PNG", b"II*\0", b"MM\0*") or content[:2] == b"\xff\xd8":
        inner.append(repr(Image.open(io.BytesIO(content)).info).encode())
    for found in re.finditer(rb"[A-Za-z0-9+/]{64,}={0,2}", content):
        text = found[0][: len(found[0]) // 4 * 4]
        inner.append(base64.b64decode(text))
    for start in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", content[:5000]):
        try:
            inner.append(zlib.decompressobj().decompress(content[start.start() :]))
        except zlib.error:
            continue
    for each in inner:
        yield from unpacked(each, depth + 1)


def leaks(content: bytes) -> set[str]:
    found = {each for part in unpacked(content) for each in MARK.findall(part)}
    return {place for each in found if (place := PLACES.get(each.replace(b"\0", b"")[-5:].decode()))}


def run(commands: list[list], folder: Path) -> tuple[bytes, list[str]]:
    """Everything that one process with these commands printed, and how each ended."""
    said = json.dumps([[str(word) for word in command] for command in commands])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GANTK_CACHE": str(folder / "cache"), "TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", DRIVER, said], capture_output=True, cwd=folder, env=environment)
    endings = re.findall(rb"@@(\d+) ended (\S+)", done.stdout)
    assert len(endings) == len(commands), done.stdout[-3000:] + done.stderr[-3000:]
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")[-3000:]
    return done.stdout + done.stderr, [code.decode() for _, code in endings]


def every_command(data: Path, inputs: list[Path], files: list[Path], folder: Path, split: dict) -> list[list]:
    tables = copy.deepcopy(TINY)
    tables["data"]["split"] = {"test": 0.34, "validation": 0.0} | split
    (folder / "tiny.toml").write_text(tomli_w.dumps(tables))
    cpu, bad = ["--device", "cpu"], broken(files, folder / "damaged")
    commands = [
        ["data", "check", data], ["data", "check", data, "--json", "check.json"], ["data", "check", bad],
        ["run", "tiny.toml", "--data", data, "--try", *cpu],
        ["doctor", "--recipe", "tiny.toml"],
        ["run", "tiny.toml", "--data", data, "--out", "run", *cpu, "--allow-leakage"],
        ["resume", "run", *cpu], ["report", "run"], ["eval", "run", *cpu, "--json", "scores.json"],
        ["eval", "run", *cpu, "--uncertainty", "flips"],
        ["export", "run", "--out", "model.onnx"], ["export", "run", "--format", "monai", "--out", "bundle"],
        ["translate", "run", bad, "of-damaged", *cpu], ["run", "tiny.toml", "--data", bad, *cpu, "--allow-leakage"],
        ["show", "recipe", "run/recipe.toml"], ["recipes"],
    ]  # fmt: skip
    for number, path in enumerate(inputs):
        tail = "".join(path.suffixes) if path.is_file() else ""
        commands += [["translate", "run", path, f"to-{number}{tail}", *cpu, "--uncertainty", "flips"],
                     ["translate", "model.onnx", path, f"onnx-{number}{tail}"]]  # fmt: skip
        kind = "tif" if path.suffix in (".png", ".jpg") else "nii.gz"
        commands.append(["translate", "run", path, f"as-{number}", "--format", kind, *cpu])
    commands += [["translate", "run", data, "all", *cpu],
                 ["eval", "--pred", "all", "--truth", data, "--metrics", "mae"]]  # fmt: skip
    return commands


@pytest.mark.parametrize("kind", ["dicom", "nifti", "pictures"])
def test_no_mark_of_an_identifier_comes_out_of_any_command(tmp_path, kind):
    data, split = tmp_path / "data", {}
    if kind == "dicom":
        dicom_tree(data)
        files, inputs = sorted(data.rglob("*.dcm"))[:4], [data / "export0" / "SE0"]
        inputs.append(sorted(data.rglob("*.dcm"))[0])
    elif kind == "nifti":
        nifti_tree(data)
        more = itk_files(tmp_path / "itk")
        files, inputs = [*sorted(data.rglob("*.nii*"))[:4], *more], [sorted(data.rglob("*.nii*"))[0], *more]
    else:
        picture_tree(data)
        split = {"by": "image"}
        files = inputs = [data / "T1" / f"p{number}.{end}" for number, end in enumerate(("png", "jpg", "tif"))]
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    commands = every_command(data, inputs, files, tmp_path, split)
    before |= set((tmp_path / "damaged").iterdir())
    said, endings = run(commands, tmp_path)
    print(*(f"{code} {' '.join(map(str, command))}" for command, code in zip(commands, endings, strict=True)), sep="\n")
    failed = {commands[number][0] for number, code in enumerate(endings) if code != "0"}
    assert "resume" not in failed and "export" not in failed and "eval" not in failed
    found = {"what was printed": leaks(said)}
    for path in tmp_path.rglob("*"):
        if path.is_file() and path not in before:
            there = leaks(path.read_bytes())  # derived DICOM is the same patient's, and of the same study
            found[str(path)] = {each for each in there if each in NEVER} if path.suffix == ".dcm" else there
        found[f"name of {path}"] = leaks(os.fsencode(path.name)) if path not in before else set()
    assert {where: what for where, what in found.items() if what} == {}
