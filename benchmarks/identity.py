"""Files through an identity network and back: whether what is written is what was read.

    python benchmarks/identity.py                                       # the folders of real images, GANTK_TEST_DATA
    python benchmarks/identity.py FOLDER... --json benchmarks/results/identity.json

Every scan below the folders is read, goes through the pipeline that a trained network stands in, with a network that
returns its input, is written, and read again. Of a file with several volumes, which is refused where none is chosen,
each volume goes through too. A file is

    identical     every value and stored integer, the shape, affine, units, codes and stored type are the same
    within 1e-6   so are shape, affine, units and codes, and no value differs by more than 1e-6 of the range
    refused       it is not read, with one message
    failed        anything else
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
from harness import parser, record, write

from gantk.data.intensity import Window
from gantk.errors import UserError
from gantk.formats.files import Scan, read, scans, suffix_of
from gantk.formats.files import write as write_image
from gantk.formats.image import Image
from gantk.inference.pipeline import Frame, Pipeline
from gantk.machine.runtime import start

FOLDERS = ("io", "templates", "open_ms", "brats", "brainix_dicom")
VERDICTS = ("identical", "within 1e-6", "refused", "failed")


def through_identity(image: Image) -> Image:
    """An image through the pipeline around a network that changes nothing, slice by slice, on the image's own scale."""
    low, high = float(image.pixels.min()), float(image.pixels.max())
    mapping = Window(low=low, high=high if high > low else low + 1.0)
    frame = Frame("as it is", "as it is", 2, image.pixels.shape[-2:], image.channels, mapping.range, fit="crop")
    return Pipeline(frame, mapping, mapping, lambda images: images).images(image)[0]


def round_trip(scan: Scan, volume: int | None = None) -> dict:
    """Read, pass through, write, read again, compare: the scan's row."""
    row = {"name": scan.name if volume is None else f"{scan.name} [{volume}]", "difference": 0.0}
    try:
        image = read(scan, volume)
    except UserError as error:
        return row | {"verdict": "refused", "detail": str(error)}
    row |= {"shape": image.pixels.shape, "dtype": str(image.dtype)}
    try:
        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / (Path(scan.name).name or "series")
            write_image(target, through_identity(image))
            largest, differences = compare(image, read(target))
    except Exception as error:  # one scan must not stop the others
        return row | {"verdict": "failed", "detail": f"{type(error).__name__}: {error}"}
    grave = [each for each in differences if each != "stored values"]
    verdict = "failed" if grave or largest > 1e-6 else "within 1e-6" if largest or differences else "identical"
    return row | {"verdict": verdict, "detail": ", ".join(differences), "difference": largest}


def compare(before: Image, after: Image) -> tuple[float, list[str]]:
    """The largest difference of the values as a part of their range, and what else differs, by name."""
    if before.pixels.shape != after.pixels.shape:
        return float("inf"), ["shape"]
    differences = []
    affines = [image.affine for image in (before, after) if image.affine is not None]
    if len(affines) == 1 or (affines and not np.allclose(*affines, rtol=0, atol=1e-6)):
        differences.append("affine")
    if before.dtype != after.dtype and not (before.dtype == np.float64 and after.dtype == np.float32):
        differences.append(f"type {before.dtype} to {after.dtype}")
    if hasattr(before.header, "get_xyzt_units"):
        differences += _nifti_differences(before, after)
    span = float(np.ptp(before.pixels)) or 1.0
    return float(np.abs(before.pixels - after.pixels).max()) / span, differences


def _nifti_differences(before: Image, after: Image) -> list[str]:
    """What a NIfTI header says of the grid, and the integers as they are stored."""
    old, new = before.header, after.header
    pairs = {"units": (old.get_xyzt_units(), new.get_xyzt_units())}
    pairs |= {name: (int(old[name]), int(new[name])) for name in ("sform_code", "qform_code")}
    pairs["sides"] = (old.get_data_shape(), new.get_data_shape())
    pairs["spacing"] = (old.get_zooms()[:3], new.get_zooms()[:3])
    differences = [name for name, (one, other) in pairs.items() if one != other]
    one, other = (nibabel.load(image.path) for image in (before, after))
    if np.issubdtype(one.get_data_dtype(), np.integer) and one.shape == other.shape:
        stored = (np.asarray(nifti.dataobj.get_unscaled()) for nifti in (one, other))
        differences += [] if np.array_equal(*stored) else ["stored values"]
    return differences


def of_folder(folder: Path) -> list[dict]:
    """A row for each scan below a folder, and for each volume of one that has several."""
    rows = []
    for scan in scans(folder):
        rows.append(round_trip(scan))
        if rows[-1]["verdict"] == "refused" and suffix_of(scan.path) in (".nii", ".nii.gz"):
            try:
                volumes = int(np.prod(nibabel.load(scan.path).shape[3:]))
            except Exception:  # it was refused, and said why
                continue
            rows += [round_trip(scan, volume) for volume in range(volumes)]
    return rows


def main(arguments: list[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    options = options.parse_args(arguments)
    data = Path(os.environ.get("GANTK_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    found, failed = [], 0
    print(f"{'folder':<16}" + "".join(f"{verdict:>13}" for verdict in VERDICTS))
    for folder in options.folders or [data / name for name in FOLDERS]:
        rows = of_folder(folder)
        counts = Counter(row["verdict"] for row in rows)
        print(f"{folder.name:<16}" + "".join(f"{counts[verdict]:>13}" for verdict in VERDICTS))
        for row in rows:
            row["detail"] = row["detail"].replace(str(folder), folder.name)
            if row["detail"]:
                print(f"    {row['verdict']}: {row['name']}: {row['detail']}")
        found.append({"folder": folder.name, "counts": {name: counts[name] for name in VERDICTS}, "scans": rows})
        failed += counts["failed"]
    write(options.json, record(start("cpu"), folders=found))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
