"""Derived series hold no error of the standard that their source does not hold, as dciodvfy of
dicom3tools judges.
"""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import dicom_files as made
import numpy as np
import pytest

from gantk.errors import UserError
from gantk.formats import files as io

JUDGE = shutil.which("dciodvfy")
# SyntheticData, which is newer than the tool
NEWER = "not a recognized standard attribute - (0x0008,0x001c)"
UID_OF_SOURCE = "Referenced SOP Instance UID"  # the source's own, whatever it is

pytestmark = pytest.mark.skipif(JUDGE is None, reason="dciodvfy (dicom3tools) is not installed")


def errors(files) -> set[str]:
    """The errors of files, without values."""
    found = set()
    for file in files:
        run = subprocess.run([JUDGE, str(file)], capture_output=True, text=True, check=False)
        lines = (run.stdout + run.stderr).splitlines()
        found |= {re.sub(r"<[^>]*>", "<>", line) for line in lines if line.startswith("Error")}
    return {line for line in found if NEWER not in line and UID_OF_SOURCE not in line}


def expect_no_new_errors(scan, out: Path, half: bool) -> None:
    image = io.read(scan)
    pixels = image.pixels
    if half and image.channels == 1:
        pixels = pixels / 2 + np.float32(0.25)
    io.write(out, replace(image, pixels=pixels), "T2")
    new = errors(file for file in out.rglob("*") if file.is_file()) - errors(scan.files)
    assert new == set()


SOURCES = {
    "axial": lambda folder: made.series(folder, made.head(4)),
    "oblique": lambda folder: made.series(folder, made.head(4), axes=made.OBLIQUE),
    "CT": lambda folder: made.series(folder, made.head(4), modality="CT"),
    "enhanced": lambda folder: made.enhanced(folder / "e.dcm", made.head(4)),
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_derived_series_hold_no_new_errors(tmp_path, name, half):
    (tmp_path / "source").mkdir()
    SOURCES[name](tmp_path / "source")
    (scan,) = io.scans(tmp_path / "source")
    expect_no_new_errors(scan, tmp_path / "out", half)


@pytest.mark.parametrize("half", [False, True])
def test_derived_real_series_hold_no_new_errors(shared_data, tmp_path, half):
    scans = io.scans(shared_data / "brainix_dicom") + io.scans(shared_data / "io")
    series = [scan for scan in scans if not io.is_image(scan.path)]
    dicom = series + [scan for scan in scans if scan.path.suffix == ".dcm"]
    read = 0
    for number, scan in enumerate(dicom):
        try:
            image = io.read(scan)
        except UserError:  # compressed, in colour, or frames without places
            continue
        if image.affine is not None:
            expect_no_new_errors(scan, tmp_path / str(number), half)
            read += 1
    assert read >= 4
