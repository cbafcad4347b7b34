"""What a page of the documentation works on: images made from the phantom, small runs, trainings
cut to two steps.
"""

import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from dicom_files import series
from PIL import Image
from tiny import TINY, phantom, small_run

import gantk
from gantk import api

MUNIT = {"name": "munit", "width": 4, "blocks": 1, "mlp_dim": 8, "scales": 1}
SHORT = {
    "train.steps": 2,
    "train.save_every": 1,
    "train.sample_every": 1,
    "train.precision": "fp32",
}
SMALL = {"data.size": [48, 48], "train.batch": 2, "evaluate.metrics": ["psnr", "ssim"]}
# Recipes whose bundled images, or steps for each image, would take most of a page's time.
FEWER = {
    "dcgan_tumour": {"data.source.subjects": 24, "data.source.counts": [60, 20]},
    "style_gan_tumour": {"data.source.subjects": 40},
    "style_t1t2": {"method.translate_steps": 2},
}
GANTK = f"""#!{sys.executable}
import json, sys
from gantk.cli import main
if sys.argv[1:2] == ["run"]:
    settings = {SMALL!r} if "--try" in sys.argv else {(SHORT | SMALL)!r}
    settings |= {FEWER!r}.get(sys.argv[2], {{}}) if "--data" not in sys.argv else {{}}
    if sys.argv[2] in ("r3gan_tumour", "dcgan_tumour"):  # which have no truth to be compared with
        settings |= {{"evaluate.metrics": ["kid"], "data.size": [64, 64]}}
    settings["data.size"] *= 1 + ("3d" in sys.argv[2])
    for key, value in settings.items():
        sys.argv += ["--set", key + "=" + json.dumps(value[:3] if key == "data.size" else value)]
    sys.argv += ["--device", "cpu"]
main()
"""


def volumes(domains: tuple[str, str], names: list[str], skull: bool = False):
    """(domain, patient, volume (16, 48, 48)) of heads whose domains lie on one grid; MR from 0 to
    about 1000.
    """
    for record in phantom(domains, 3, (16, 48, 48), subjects=len(names), skull=skull).records():
        yield domains[record.domain == "b"], names[int(record.subject[-3:])], record.read()[0]


def save_all(folder: Path) -> None:
    """scans/CT/p20_004.png, SCANS/T1/p00_004.png, patients/p01/T1.nii.gz,
    export/ST0000/SE0000/*.dcm, bids/sub-p01/anat/sub-p01_T1w.nii.gz.
    """
    pictures = {
        "scans": (("CT", "MR"), ["p20", "p34"]),
        "SCANS": (("T1", "T2"), [f"p{n:02d}" for n in range(5)]),
    }
    for root, (domains, names) in pictures.items():
        for domain, name, volume in volumes(domains, names, skull=root == "scans"):
            (folder / root / domain).mkdir(parents=True, exist_ok=True)
            shown = (volume + 100) / 400 if domain == "CT" else volume / 1000
            for k, plane in enumerate((255 * shown.clip(0, 1)).astype(np.uint8)[3:13]):
                Image.fromarray(plane).save(folder / root / domain / f"{name}_{k:03d}.png")

    for number, (domain, name, volume) in enumerate(volumes(("T1", "T2"), ["p01", "p02", "p03"])):
        path = folder / "patients" / name / f"{domain}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(volume.T, np.diag([-4.0, -4.0, 8.0, 1.0])), path)
        bids = folder / "bids" / f"sub-{name}" / "anat" / f"sub-{name}_{domain}w.nii.gz"
        bids.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, bids)
        study = f"1.2.{number // 2}"
        about = {"SeriesDescription": f"{domain} tse ax", "ProtocolName": domain}
        about |= {
            "PatientID": name,
            "StudyInstanceUID": study,
            "SeriesInstanceUID": f"{study}.{number}",
        }
        place = folder / "export" / f"ST{number // 2:04d}" / f"SE{number % 2:04d}"
        series(place, volume.clip(0).astype(np.int16), **about, FrameOfReferenceUID=f"{study}.9")

    text = '{"Name": "T1 and T2", "BIDSVersion": "1.9.0"}'
    (folder / "bids" / "dataset_description.json").write_text(text, "utf-8")


def prepared(page: Path, folder: Path) -> dict[str, str]:
    """Put there what the page works on; the environment in which `gantk` is the shortened one."""
    text = page.read_text("utf-8")
    program = folder / "bin" / "gantk"
    program.parent.mkdir()
    program.write_text(GANTK, "utf-8")
    program.chmod(0o755)
    save_all(folder)
    shutil.copytree(folder / "SCANS" / "T1", folder / "FOLDER")  # whose name is no contrast
    names = {
        "scan_t1.nii.gz": "patients/p01/T1.nii.gz",
        "dicom_series": "export/ST0000/SE0000",
        "folder_of_anything": "SCANS/T1",
        "true_t2": "SCANS/T2",
        "t1.png": "SCANS/T1/p00_003.png",
        "other_t2.png": "SCANS/T2/p01_003.png",
        "content.png": "SCANS/T1/p00_003.png",
        "style.png": "SCANS/T2/p01_003.png",
    }
    if "translate RUN scans.csv" in text:
        table = ["path,domain,patient", *(f"patients/{p}/T1.nii.gz,T1,{p}" for p in ("p01", "p02"))]
        (folder / "scans.csv").write_text("\n".join(table), "utf-8")
    if "--pred translated" in text:
        names["translated"] = "SCANS/T2"
    for name, source in names.items():
        (folder / name).symlink_to(folder / source)

    for name, method in {
        "RUN": TINY["method"],
        "OTHER_RUN": TINY["method"],
        "MUNIT_RUN": MUNIT,
        "NOISE_RUN": {"name": "dcgan", "width": 8},
        "ANY_RUN": {"name": "anytoany"},
    }.items():
        if any(f"{mark}{name}" in text for mark in " ,"):
            data = {"domains": ["T1"], "size": [64, 64]} if name == "NOISE_RUN" else {}
            if name == "ANY_RUN":
                data = {"domains": ["T1+T2+FLAIR"] * 2, "missing": "mask"}
            run = small_run(folder / f"{name}.made", method, 1, scored=True, **data)
            (folder / name).symlink_to(run)

    return {"PATH": f"{program.parent}:{Path(sys.executable).parent}:/usr/bin:/bin"}


def shorten(monkeypatch) -> None:
    """`gantk.run` in this process takes two small steps, whatever the page asks for."""
    run = api.run

    def short(recipe, set=(), **options):
        return run(recipe, set={**dict(set), **SHORT, **SMALL}, **{"device": "cpu"} | options)

    monkeypatch.setattr(api, "run", short)
    monkeypatch.setattr(gantk, "run", short, raising=False)
