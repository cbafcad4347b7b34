"""Marked identifiers in every kind of file, every command on them, and no mark in any byte that
comes out.

Marks stand in names, numbers, addresses, private elements at three depths, overlays, comments, the
file meta group, the texts and extensions of NIfTI, the keys of NRRD and MetaImage, EXIF, text and
comments of pictures, and in damaged copies of all of these. Derived DICOM alone may carry some: it
is the same patient's.
"""

from __future__ import annotations

import base64
import copy
import gzip
import io
import json
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tiny import TINY, write_toml

pytest.importorskip("pydicom")
from marked_files import PLACES, broken, dicom_tree, itk_files, nifti_tree, picture_tree  # noqa: E402

pytestmark = pytest.mark.slow

MARK = re.compile(rb"(?i)(?:m\0?a\0?r\0?k\0?z\0?q\0?|998\x00?77\x00?)(?:\d\0?){5}")  # in UTF-16 too
# What not even a derived DICOM file has: all else in it says whose it is, and of which study.
NEVER = {
    "private creator",
    "private bytes",
    "overlay",
    "overlay description",
    "application",
    "file meta",
    "preamble",
    "ImageComments",
    "series UID",
    *(f"private element at depth {depth}" for depth in (1, 2, 3)),
}
DRIVER = """
import json, os, sys
from gantk.cli import main
for number, args in enumerate(json.loads(sys.argv[1])):
    sys.argv = ["gantk", *(os.fsdecode(bytes.fromhex(word)) for word in args)]
    print(f"@@{number}", flush=True)
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    sys.stdout.flush(), sys.stderr.flush()
    print(f"@@{number} ended {code}", flush=True)
os._exit(0)
"""


# ---- what came out


def unpacked(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes, and whatever is packed in them: gzip, zlib, zip, base64, texts of pictures; pages
    within pages.
    """
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
    return {
        place for each in found if (place := PLACES.get(each.replace(b"\0", b"")[-5:].decode()))
    }


def run(commands: list[list], folder: Path, **environment: str) -> tuple[bytes, list[str]]:
    """Everything that one process with these commands printed, and how each ended."""
    said = json.dumps([[os.fsencode(word).hex() for word in command] for command in commands])
    environment = (
        os.environ | {"GANTK_CACHE": str(folder / "cache"), "TMPDIR": str(folder)} | environment
    )
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, said], capture_output=True, cwd=folder, env=environment
    )
    endings = re.findall(rb"@@(\d+) ended (\S+)", done.stdout)
    assert len(endings) == len(commands), done.stdout[-3000:] + done.stderr[-3000:]
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")[-3000:]
    return done.stdout + done.stderr, [code.decode() for _, code in endings]


def every_command(
    data: Path, inputs: list[Path], files: list[Path], folder: Path, split: dict
) -> list[list]:
    tables = copy.deepcopy(TINY)
    tables["data"]["split"] = {"test": 0.34, "validation": 0.0} | split
    write_toml(folder / "tiny.toml", tables)
    cpu = ["--device", "cpu"]
    bad = broken(files, folder / "damaged")
    commands = [
        ["data", "check", data],
        ["data", "check", data, "--json", "check.json"],
        ["data", "check", bad],
        ["run", "tiny.toml", "--data", data, "--try", *cpu],
        ["run", "tiny.toml", "--data", data, "--out", "run", *cpu, "--allow-leakage"],
        ["resume", "run", *cpu],
        ["report", "run"],
        ["eval", "run", *cpu, "--json", "scores.json"],
        ["export", "run", "--out", "model.onnx"],
        ["export", "run", "--format", "monai", "--out", "bundle"],
        ["translate", "run", bad, "of-damaged", *cpu],
        ["run", "tiny.toml", "--data", bad, *cpu, "--allow-leakage"],
        ["show", "recipe", "run/recipe.toml"],
        ["recipes"],
    ]
    for number, path in enumerate(inputs):
        tail = "".join(path.suffixes) if path.is_file() else ""
        commands += [
            ["translate", "run,run", path, f"to-{number}{tail}", *cpu, "--uncertainty"],
            ["translate", "model.onnx", path, f"onnx-{number}{tail}"],
        ]
        kind = "tif" if path.suffix in (".png", ".jpg") else "nii.gz"
        commands.append(["translate", "run", path, f"as-{number}", "--format", kind, *cpu])

    commands += [
        ["translate", "run", data, "all", *cpu],
        ["eval", "--pred", data, "--truth", data, "--metrics", "mae"],
    ]
    return commands


def draw_data(kind: str, tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Data of a kind in `tmp_path / "data"`: files to damage, and what is translated alone."""
    data = tmp_path / "data"
    if kind == "dicom":
        dicom_tree(data)
        files = sorted(data.rglob("*.dcm"))[:4]
        return files, [data / "export0" / "SE0", files[0]]

    if kind == "nifti":
        nifti_tree(data)
        more = itk_files(tmp_path / "itk")
        scans = sorted(data.rglob("*.nii*"))
        return [*scans[:4], *more], [scans[0], *more]

    picture_tree(data)
    pictures = [data / "T1" / name for name in ("p0.png", "p1.jpg", "p2.tif")]
    return pictures, pictures


def leaks_of_new_files(folder: Path, before: set[Path]) -> dict[str, set]:
    """What the contents and names of files below a folder tell, those that were there before left
    out.
    """
    found = {}
    for path in folder.rglob("*"):
        if path in before:
            continue

        found[f"name of {path}"] = leaks(os.fsencode(path.name))
        if path.is_file():
            there = leaks(path.read_bytes())
            if path.suffix == ".dcm":
                # derived DICOM is the same patient's, and of the same study
                there = {each for each in there if each in NEVER}
            found[str(path)] = there

    return found


@pytest.mark.parametrize("kind", ["dicom", "nifti", "pictures"])
def test_no_mark_of_an_identifier_comes_out_of_any_command(tmp_path, kind):
    files, inputs = draw_data(kind, tmp_path)
    split = {"by": "image"} if kind == "pictures" else {}
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    commands = every_command(tmp_path / "data", inputs, files, tmp_path, split)
    before |= set((tmp_path / "damaged").iterdir())

    said, endings = run(commands, tmp_path)
    for command, code in zip(commands, endings, strict=True):
        print(code, *command)

    failed = {commands[number][0] for number, code in enumerate(endings) if code != "0"}

    assert not failed & {"resume", "export", "eval"}, said.decode(errors="replace")[-3000:]
    found = {"what was printed": leaks(said)} | leaks_of_new_files(tmp_path, before)
    assert {where: what for where, what in found.items() if what} == {}


STRICT = {
    "PYTHONIOENCODING": "ascii:strict",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
}


@pytest.mark.parametrize(
    "name", [b"Sch\xc3\xa4del\xe2\x80\xae", b"\xff\xfe\x1b[31m"], ids=["UTF-8", "bytes"]
)
def test_commands_work_with_any_names_on_ascii_terminals(tmp_path, name):
    data = tmp_path / "data"
    called = os.fsdecode(name)
    cpu = ["--device", "cpu"]
    for file in sorted(nifti_tree(tmp_path / "plain").rglob("*.nii*")):
        place = data / f"{called}{file.parent.name}"
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / f"{called}_{file.name}")

    write_toml(tmp_path / "tiny.toml", TINY | {"summary": "Schädel"})
    one = sorted(data.rglob("*.nii"))[0]
    made_of_it = called if name.isascii() or name[0] == 83 else "run"
    commands = [
        ["data", "check", data],
        ["data", "check", data, "--json", "-"],
        ["run", "tiny.toml", "--data", data, "--out", made_of_it, *cpu, "--allow-leakage"],
        ["resume", made_of_it, *cpu],
        ["report", made_of_it],
        ["eval", made_of_it, *cpu, "--json", "-"],
        ["run", "tiny.toml", "--data", data, "--try", *cpu],
        ["show", "recipe", "tiny.toml"],
        ["list"],
        ["doctor"],
        ["export", made_of_it, "--out", f"{made_of_it}.onnx"],
        ["translate", f"{made_of_it}.onnx", one, "x.nii"],
        ["translate", made_of_it, data, f"out{called}", *cpu],
        ["translate", made_of_it, one, f"{called}.nii", *cpu],
        [called],
        ["run", f"{called}.toml"],  # a run folder would be continued
        [f"--{called}"],
        ["run", "tiny.toml", "--data", data / called, *cpu],
    ]
    said, endings = run(commands, tmp_path, **STRICT)

    assert endings == ["1"] * 2 + ["0"] * 12 + ["2"] * 4, said.decode(errors="replace")[-4000:]
    assert b"\x1b" not in said
