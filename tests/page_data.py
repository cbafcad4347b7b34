"""What a page of the documentation works on: images made from the phantom, small runs, trainings cut to two steps."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import tomli_w
from dicom_files import head, series
from PIL import Image
from tiny import TINY, small_run

import gantk
from gantk import api
from gantk_phantom.phantom import Phantom

SHORT = ["train.steps=2", "train.save_every=1", "train.sample_every=1", 'train.precision="fp32"']
GANTK = f"""#!{sys.executable}
import sys
from gantk.cli import main
if sys.argv[1:2] == ["run"] and "--try" not in sys.argv:
    sys.argv += [word for setting in {SHORT!r} for word in ("--set", setting)] + ["--device", "cpu"]
main()
"""


def slices(folder: Path, domains: tuple[str, str], names: list[str], skull: bool = True) -> None:
    """scans/CT/p37_012.png: 8-bit pictures of patients, the same slices in both domains."""
    for record in Phantom(domains, 2, (64, 64), subjects=len(names), slices=6, skull=skull).records():
        domain, name = domains[record.domain == "b"], names[int(record.subject[-3:])]
        values = record.read()[0]
        shown = (values + 100) / 400 if domain == "CT" else values / 1000
        path = folder / domain / f"{name}_{int(record.key[-3:]):03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * shown.clip(0, 1)).astype(np.uint8)).save(path)


def volumes(folder: Path, patients: list[str], domains: tuple[str, str] = ("T1", "T2")) -> None:
    """patients/p01/T1.nii.gz: volumes of patients whose T1 and T2 lie on one grid."""
    for record in Phantom(domains, 3, (16, 48, 48), subjects=len(patients)).records():
        path = folder / patients[int(record.subject[-3:])] / f"{domains[record.domain == 'b']}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(record.read()[0].T.astype(np.float32), np.diag([-4.0, -4.0, 8.0, 1.0])), path)


def export(folder: Path, patients: int = 3) -> None:
    """A DICOM export: a series of T1 and one of T2 for each patient, in folders that say nothing."""
    for number in range(patients):
        for k, name in enumerate(("T1", "T2")):
            about = {"PatientID": f"P{number}", "StudyInstanceUID": f"1.2.{number}", "SeriesNumber": k + 1}
            about |= {"SeriesInstanceUID": f"1.2.{number}.{k}", "SeriesDescription": f"{name} tse ax"}
            about |= {"FrameOfReferenceUID": f"1.2.{number}.9", "ProtocolName": f"{name} tse ax"}
            series(folder / f"ST{number:04d}" / f"SE{k:04d}", head(8, 48, 44, 10 * number + k), **about)


def prepared(page: Path, folder: Path) -> dict[str, str]:
    """Put there what the page works on; the environment in which `gantk` is the shortened one."""
    text, program = page.read_text("utf-8"), folder / "bin" / "gantk"
    program.parent.mkdir()
    program.write_text(GANTK, "utf-8")
    program.chmod(0o755)
    slices(folder / "scans", ("CT", "MR"), ["p37", "p41"])
    slices(folder / "SCANS", ("T1", "T2"), [f"p{n:02d}" for n in range(6)], skull=False)
    volumes(folder / "patients", ["p01", "p02", "p03"])
    export(folder / "export")
    first = folder / "patients" / "p01"
    for name, source in {
        "scan_t1.nii.gz": first / "T1.nii.gz",
        "dicom_series": folder / "export/ST0000/SE0000",
        "FOLDER": folder / "SCANS/T1",
        "true_t2": folder / "SCANS/T2",
        "t1.png": folder / "SCANS/T1/p00_003.png",
        "other_t2.png": folder / "SCANS/T2/p01_003.png",
    }.items():
        (folder / name).symlink_to(source)
    runs = {"RUN": TINY["method"], "MUNIT_RUN": {"name": "munit"}, "NOISE_RUN": {"name": "dcgan", "width": 8}}
    for name, method in runs.items():
        if f" {name}" in text:
            one = name == "NOISE_RUN"
            data = {"domains": ["T1"]} if one else {}
            small_run(folder / f"{name}.made", method, 1, **data)
            (folder / name).symlink_to(folder / f"{name}.made" / "run")
    return {"PATH": f"{program.parent}:{Path(sys.executable).parent}:/usr/bin:/bin"}


def shorten(monkeypatch) -> None:
    """`gantk.run` in this process takes two small steps, whatever the page asks for."""
    run = api.run

    def short(recipe, **options):
        given = options.pop("set", ())
        given = (
            [f"{k}={tomli_w.dumps({'x': v})[4:].strip()}" for k, v in given.items()]
            if isinstance(given, dict)
            else given
        )
        return run(recipe, set=[*given, *SHORT], **{"device": "cpu"} | options)

    monkeypatch.setattr(api, "run", short)
    monkeypatch.setattr(gantk, "run", short, raising=False)
