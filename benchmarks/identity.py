"""Files through an identity network and back: whether what is written is what was read.

    python benchmarks/identity.py                                       # the folders of real images, GANTK_TEST_DATA
    python benchmarks/identity.py FOLDER... --json benchmarks/results/identity.json

Every scan below the folders is read, goes through the pipeline that a trained network stands in, with a network that
gives back its input, is written, and read again. Of a file with several volumes, which is refused where none is chosen,
each volume goes through too. A file is

    identical     every value and stored integer, the shape, affine, units, codes and stored type are the same
    within 1e-6   so are shape, affine, units and codes, and no value differs by more than 1e-6 of the range
    refused       it is not read, with one message
    failed        anything else
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np

from gantk.data.intensity import Window
from gantk.errors import UserError
from gantk.formats.files import Scan, read, scans, suffix_of, write
from gantk.formats.image import Image
from gantk.inference.pipeline import Frame, Pipeline

FOLDERS = ("io", "templates", "open_ms", "brats", "brainix_dicom")
VERDICTS = ("identical", "within 1e-6", "refused", "failed")
TOLERANCE = 1e-6  # of the range of the values


@dataclass(frozen=True)
class Result:
    """What became of one scan."""

    name: str
    verdict: str  # one of VERDICTS
    detail: str = ""  # the message of a refusal, or what differs
    difference: float = 0.0  # the largest, as a part of the range
    shape: tuple[int, ...] = ()
    dtype: str = ""
    seconds: float = 0.0


def through_identity(image: Image) -> Image:
    """An image through the pipeline around a network that changes nothing, slice by slice, on the image's own scale."""
    low, high = float(image.pixels.min()), float(image.pixels.max())
    mapping = Window(low=low, high=high if high > low else low + 1.0)
    sides = image.pixels.shape[-2:]
    frame = Frame("as it is", "as it is", 2, sides, image.channels, mapping.range, fit="crop")
    return Pipeline(frame, mapping, mapping, lambda images: images).images(image)[0]


def round_trip(
    scan: Scan, folder: Path, through: Callable[[Image], Image] = through_identity, volume: int | None = None
) -> Result:
    """Read, pass through, write into the folder, read again, compare."""
    start, name = time.perf_counter(), scan.name if volume is None else f"{scan.name} [{volume}]"
    try:
        image = read(scan, volume)
    except UserError as error:
        return Result(name, "refused", str(error), seconds=round(time.perf_counter() - start, 2))
    try:
        target = folder / (Path(scan.name).name or "series")
        write(target, through(image))
        back = read(target)
        largest, differences = compare(image, back)
    except Exception as error:  # one scan must not stop the others
        return Result(name, "failed", f"{type(error).__name__}: {error}", shape=image.pixels.shape)
    verdict = "identical" if not largest and not differences else "within 1e-6"
    if [each for each in differences if each != "stored values"] or largest > TOLERANCE:
        verdict = "failed"
    seconds = round(time.perf_counter() - start, 2)
    return Result(name, verdict, ", ".join(differences), largest, image.pixels.shape, str(image.dtype), seconds)


def compare(before: Image, after: Image) -> tuple[float, list[str]]:
    """The largest difference of the values as a part of their range, and what else differs, by name."""
    if before.pixels.shape != after.pixels.shape:
        return float("inf"), ["shape"]
    differences = []
    if (before.affine is None) != (after.affine is None) or (
        before.affine is not None and not np.allclose(before.affine, after.affine, rtol=0, atol=1e-6)
    ):
        differences.append("affine")
    if before.dtype != after.dtype and not (before.dtype == np.float64 and after.dtype == np.float32):
        differences.append(f"type {before.dtype} to {after.dtype}")
    if hasattr(before.header, "get_xyzt_units"):
        differences += _nifti_differences(before, after)
    span = float(np.ptp(before.pixels)) or 1.0
    return float(np.abs(before.pixels - after.pixels).max()) / span, differences


def _nifti_differences(before: Image, after: Image) -> list[str]:
    """What a NIfTI header says of the grid, and the integers as they are stored."""
    import nibabel

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


def volumes_of(scan: Scan) -> int:
    """How many volumes a NIfTI file holds; 1 of any other."""
    if suffix_of(scan.path) not in (".nii", ".nii.gz"):
        return 1
    import nibabel

    try:
        return int(np.prod(nibabel.load(scan.path).shape[3:]))
    except Exception:  # it was refused, and said why
        return 1


def of_folder(folder: Path) -> tuple[list[Result], int]:
    """A result for each scan below a folder, and how many other files there are."""
    results, found = [], scans(folder)
    for scan in found:
        with tempfile.TemporaryDirectory() as place:
            results.append(round_trip(scan, Path(place)))
        for volume in range(volumes_of(scan)) if results[-1].verdict == "refused" else ():
            with tempfile.TemporaryDirectory() as place:
                results.append(round_trip(scan, Path(place), volume=volume))
    images = {file for scan in found for file in scan.files}
    others = [path for path in folder.rglob("*") if path.is_file() and path not in images]
    return results, len(others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--data", type=Path, metavar="PATH", help="where the folders of real images lie")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    data = options.data or Path(os.environ.get("GANTK_TEST_DATA", default))
    folders, rows, failed = options.folders or [data / name for name in FOLDERS], [], 0
    print(f"{'folder':<16}" + "".join(f"{verdict:>13}" for verdict in VERDICTS) + f"{'not images':>13}")
    for folder in folders:
        results, others = of_folder(folder)
        counts = Counter(result.verdict for result in results)
        print(f"{folder.name:<16}" + "".join(f"{counts[verdict]:>13}" for verdict in VERDICTS) + f"{others:>13}")
        for result in results:
            if result.detail:
                print(f"    {result.verdict}: {result.name}: {result.detail}")
        kept = [asdict(replace(result, detail=result.detail.replace(str(folder), folder.name))) for result in results]
        tally = {verdict: counts[verdict] for verdict in VERDICTS} | {"not images": others}
        rows.append({"folder": folder.name, "counts": tally, "scans": kept})
        failed += counts["failed"]
    if options.json:
        record = {"date": date.today().isoformat(), "command": " ".join(["python", *sys.argv]), "folders": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
