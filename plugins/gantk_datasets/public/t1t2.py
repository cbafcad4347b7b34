"""Prepares the training pairs of the shipped model `t1t2` from public repositories: aligned headers
and tables.

No voxel is changed, resampled or removed: where T2 is not aligned with its T1, only its header is
corrected. The 3 T slices are published as arrays without a header; their orientation, pixel size
and distance are nominal.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from gantk.catalog.tables import csv_text
from gantk.files import write_file

# Folders of the downloads, and their names here.
LESJAK = "muschellij2/open_ms_data/65704901f60650824565aa5a4818611aa89716f4"
HKU = "bispmri/Ultra-low-field-MRI-Scanner/01f2bfc9bde2233b74790fec0babf940e8df52ed"
STROKE = "neurolabusc/VolumeRenderingData/d15be4d1863d1372270e38d8fe95bffaf80cce3a"
GLIOMAS = (  # people of BraTS 2021
    "patliao/SYSC4907-Glioma-Growth-Visualization/9e8b5d8fe8f873bcd71c31ef65b9d1adffe10f69",
    "1brahimmohamed/Brain-Tumor-Segmentation-GP/e96dd3bec302e1088033d56c072aa927f3f3aa4a",
    "leonardoAndresCrespoSarango/Flask-Server-to-Brain-Tumor-Segmentation/294355066b572bd0babfcc2ec5c7c8d4e3abc247",
    "leonardoAndresCrespoSarango/Flask-Server-to-Brain-Tumor-Segmentation/e99446f5809893dfa1b700a4cc9b6a0f324d4ad0",
)
NAMES = {LESJAK: "open_ms_data", HKU: "ulf", STROKE: "rendering"}
NAMES |= {path: f"brats{n}" for n, path in enumerate(GLIOMAS)}

STRIPPED = "open_ms_data/cross_sectional/MNI/patient{}/T1_N4_noneck_reduced_winsor_regtoFLAIR_brain_N4_regtoMNI.nii.gz"
# Lesjak's patients, whole heads
STUDIES = [("01", 1), ("01", 2), ("03", 2), ("04", 1), ("12", 1), ("12", 2)]
# Figure that shows a patient at 3 T -> shift of T2 in mm to the right and to the front, then its
# rotation in degrees, clockwise seen from above. They maximise the normalised mutual information of
# T1 and T2 over four slices.
FIGURES = {
    "6A": (-1.3619006, 0.8398098, 2.6454813),
    "6B": (0.8201201, 8.3610770, 0.0486001),
    "7A": (2.7115532, 6.2058923, -0.1194461),
    "7B": (0.4261358, 0.4333945, 0.0505304),
    "S6A": (0.2380941, 0.6013856, -0.0520647),
    "S6B": (-1.5265234, 0.3280134, -0.1129118),
}
# Test patients, never trained on.
HELD_OUT = {"lesjak-lo12", "lesjak-cs26", "hku-7A", "hku-S6B", "BraTS-GLI-00028", "BraTS2021_01484"}
# a 3 T slice: field of view in mm, number of rows, mm between slices
FIELD = 230.0
ROWS = 490
THICK = 10.0


def prepare(folder: Path) -> None:
    """Prepare pairs and tables in the folder of the downloads: one row per pair, paths relative to
    the folder.

    whole.csv: whole heads. whole_train.csv, hku.csv: its training pairs, of both sources and of
    one, so that a mixed source can draw the latter more often. stripped.csv: heads without skull.
    tumour.csv: gliomas, without skull too.
    """
    for path, name in NAMES.items():
        (folder / path).rename(folder / name)
        for parent in (folder / path).parents[:2]:
            if not any(parent.iterdir()):
                parent.rmdir()

    lesjak = []
    for patient, number in STUDIES:
        lesjak.append(("lesjak-lo" + patient, *study(folder, patient, number)))

    hku = [("hku-" + figure, *slices(folder, figure)) for figure in FIGURES]
    whole = lesjak + hku

    stripped = []
    for patient in ("07", "19", "26"):
        files = t1_and_t2(folder / STRIPPED.format(patient))
        stripped.append(("lesjak-cs" + patient, *files))

    stripped.append(("cstar-stroke", *t1_and_t2(folder / "rendering/stroke/T1.nii.gz")))

    tumour = []
    found = folder.glob("brats?/**/*[-_]t1*.nii.gz")
    for t1 in sorted(found, key=lambda path: path.name):
        patient = t1.name[:15]
        (t2,) = t1.parent.glob(f"{patient}*[-_]t2*")
        tumour.append((patient, t1, t2))

    for name, pairs in (("whole", whole), ("stripped", stripped), ("tumour", tumour)):
        write_table(folder, name, sorted(pairs, key=lambda pair: pair[0] in HELD_OUT))

    for name, pairs in (("whole_train", whole), ("hku", hku)):
        write_table(folder, name, [pair for pair in pairs if pair[0] not in HELD_OUT])


def t1_and_t2(t1: Path) -> tuple[Path, Path]:
    """The paths of T1 and of the T2 in its folder, published on the same grid."""
    return t1, t1.with_name(t1.name.replace("T1", "T2"))


def write_table(folder: Path, name: str, pairs: list[tuple[str, Path, Path]]) -> None:
    """Write a CSV with the columns T1, T2, patient and split."""
    rows = []
    for patient, *files in pairs:
        paths = (path.relative_to(folder).as_posix() for path in files)
        rows.append((*paths, patient, "test" if patient in HELD_OUT else "train"))
    write_file(folder / f"{name}.csv", csv_text(("T1", "T2", "patient", "split"), rows).encode())


def study(folder: Path, patient: str, number: int) -> tuple[Path, Path]:
    """Align T2 to T1 of a study by Lesjak et al. by the authors' transforms of both to FLAIR;
    returns both paths.
    """
    start = f"open_ms_data/longitudinal/raw/patient{patient}/study{number}_"
    to_flair = [transform(folder / f"{start}{c}_intrastudy_to_FLAIR.txt") for c in ("T1W", "T2W")]
    published = nib.load(folder / f"{start}T2W.nii.gz")
    fitted = folder / f"{start}T2W_fitted.nii.gz"
    affine = to_flair[0] @ np.linalg.inv(to_flair[1]) @ published.affine
    save(fitted, np.asanyarray(published.dataobj), affine)
    return folder / f"{start}T1W.nii.gz", fitted


def transform(path: Path) -> np.ndarray:
    """Read an affine transform from an ITK text file; returns the 4 x 4 matrix between points in mm
    (RAS).
    """
    lines = path.read_text("utf-8").splitlines()
    values = dict(line.split(": ", 1) for line in lines if ": " in line)
    numbers = np.array(values["Parameters"].split(), float)
    centre = np.array(values["FixedParameters"].split(), float)
    # ITK's axes point to the left and the back
    matrix = np.eye(4)
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix[:3, :3] = numbers[:9].reshape(3, 3)
    matrix[:3, 3] = numbers[9:] + centre - matrix[:3, :3] @ centre
    return flip @ matrix @ flip


def slices(folder: Path, figure: str) -> tuple[Path, Path]:
    """Write T1 and T2 of a 3 T patient as NIfTI, axes to the patient's left, back and feet; returns
    both paths.
    """
    import scipy.io

    source = "Supplementary Figure " + figure[1:] if figure[0] == "S" else "Figure " + figure
    source = folder / "ulf/Data for Figures in the Manuscript" / source / "3T"
    x, y, degrees = FIGURES[figure]
    cos = np.cos(np.deg2rad(degrees))
    sin = np.sin(np.deg2rad(degrees))
    move = np.eye(4)
    move[:2, :2] = [[cos, sin], [-sin, cos]]
    move[:2, 3] = move[:2, :2] @ (x, y)
    paths = folder / f"ulf/{figure}_T1.nii.gz", folder / f"ulf/{figure}_T2_fitted.nii.gz"
    for path, contrast, matrix in zip(paths, ("T1w", "T2w"), (np.eye(4), move), strict=True):
        # rows, columns, slices
        values = np.abs(scipy.io.loadmat(source / f"3T_{contrast}.mat")["image"])
        # 6B's T1 has a larger field of view at the pixel size of its T2; the others differ only in
        # pixel size.
        pixel = FIELD / (ROWS if figure == "6B" else values.shape[0])
        scaled = np.round(values * 1000 / np.percentile(values, 99.9))
        voxels = np.clip(scaled, 0, 32767).astype(np.int16).transpose(1, 0, 2)
        spacing = np.array([pixel, pixel, THICK])
        affine = np.diag([*-spacing, 1.0])
        affine[:3, 3] = spacing * (np.array(voxels.shape) - 1) / 2  # origin in the centre
        save(path, voxels, matrix @ affine.astype(np.float32))

    return paths


def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI file with mm as its unit."""
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
