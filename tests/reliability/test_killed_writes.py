"""Results that are written again, by a process that is killed at every one of its calls of the file
system.

Afterwards a user finds the old result whole or the new one whole; where a result is several files,
at the worst a part that is missing, and never parts of two. The next call makes it the new one, and
nothing is left beside it.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from pathlib import Path

import pytest
from tiny import python

# What is translated again: at which calls it is killed, and what may be missing meanwhile. The JSON
# file beside a result is removed before its image is replaced: none is better than a wrong one.
WAYS = {
    "series": (4, ()),  # a quick look at some of them
    "every series": (1, ()),
    "a disk that swaps no folders": (1, ("out", "notes.txt")),  # until the next call puts it back
    "uncertain series": (2, ("out_uncertainty",)),
    "uncertain .nii": (1, ("scan_uncertainty.nii",)),
    "bids": (1, ()),
    ".nii.gz": (1, ()),
    # headers of packed voxels in a file of their own, which are not those of the header meanwhile
    ".nhdr": (1, ("scan.nhdr",)),
    ".mhd": (1, ("scan.mhd",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_killed_write_leaves_the_old_or_new_result(way, tmp_path):
    pytest.importorskip("pydicom")
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = python(__file__, way, tmp_path, OMP_NUM_THREADS="1", PYTHONPATH=path).ok()
    kinds = done.out.split()
    assert "old" in kinds
    assert kinds[-1] == "new"


# --- the process that starts those which are killed; it knows no torch, so that it may fork


def translate(way: str, source: Path, target: Path, by: float) -> None:
    """By a model that adds a number, or by two that do so on average, with a map of their spread."""

    from one_pipeline import model_of

    from gantk import Model
    from gantk.inference.frame import TranslateOptions
    from gantk.inference.translation import Translation
    from gantk_models.ensemble import Ensemble

    def adds(number: float) -> Model:
        name = f"shifted by {number}"
        return model_of(lambda x: x + number, 2000.0, name, size=(24, 20))

    options = TranslateOptions(uncertainty="uncertain" in way)
    model = adds(by)
    if options.uncertainty:
        model = Ensemble([adds(0.0), adds(2 * by)], ["one", "other"])
    suffix = way.split()[-1] if "." in way else ""
    Translation(model, None, options, None, lambda line: None, suffix=suffix).path(source, target)


def dies(number: int, work, below: str) -> bool:
    """Whether a process was killed by its `number`-th call of the file system below a folder; else
    it is done.
    """
    import signal

    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL), status
        return status != 0

    left = [number]

    def watch(event: str, args: tuple) -> None:
        paths = [os.fsdecode(arg) for arg in args if isinstance(arg, (str, bytes, os.PathLike))]
        below_it = event.startswith(("os.", "open")) and any(
            path.startswith(below) for path in paths
        )
        if below_it or event == "ctypes.dlsym":
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def found(folder: Path) -> dict[str, object]:
    """What a user sees: texts, and what the images hold, by name."""
    from gantk.formats import files

    visible = [
        path for path in sorted(folder.rglob("[!.]*")) if path.is_file() and "/." not in str(path)
    ]
    texts = [
        path
        for path in visible
        if path.suffix in (".txt", ".json") and path.name != "dataset_description.json"
    ]
    texts = {str(path.relative_to(folder)): path.read_text() for path in texts}
    seen = {scan.name: files.read(scan) for scan in files.scans(folder)}
    return texts | {
        name: (*image.pixels.shape, float(image.pixels.mean())) for name, image in seen.items()
    }


def write_input(way: str, folder: Path) -> None:
    """A scan, or for a way that is about series a series."""
    import dicom_files
    import nibabel as nib
    import numpy as np

    numbers = dicom_files.head(3)
    if "." not in way and way != "bids":
        dicom_files.series(folder, numbers)
        return

    scan = folder / ("sub-1/anat/sub-1_T1w.nii" if way == "bids" else "scan.nii")
    scan.parent.mkdir(parents=True)
    affine = np.diag([-1.5, -1.25, 3.0, 1.0])
    nib.save(nib.Nifti1Image(numbers.transpose(2, 1, 0), affine), scan)


def write_state(way: str, folder: Path, name: str, by: float) -> dict[str, object]:
    """Write a whole result with a file of the user's own in it, and return what a user sees."""
    output = folder / name / "out"
    translate(way, folder / "in", output, by)
    (output / "mine").mkdir()
    (output / "mine" / "notes.txt").write_text("mine")
    return found(folder / name)


def main(way: str, folder: Path) -> None:
    """Prints old, new, or what is missing, for each call that was killed."""
    import gantk.files

    step, missing = WAYS[way]
    if way == "a disk that swaps no folders":
        gantk.files.ctypes.CDLL = lambda *_, **__: None

    write_input(way, folder / "in")
    old = write_state(way, folder, "old", 0.25)
    new = write_state(way, folder, "new", 0.5)
    place = folder / "place"
    number = 1
    killed = True
    while killed:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder / "old", place)
        killed = dies(number, lambda: translate(way, folder / "in", place / "out", 0.5), str(place))
        seen = found(place)
        lacking = [name for name in old if name not in seen]
        others = [Path(name).name for name in lacking if not name.endswith(".json")]
        assert set(others) <= set(missing), (number, lacking)
        is_old = seen.items() <= old.items()
        is_new = seen.items() <= new.items()
        assert is_old or is_new, (number, seen, old, new)
        if lacking:
            print("missing")
        else:
            print("old" if is_old else "new")

        translate(way, folder / "in", place / "out", 0.5)
        assert found(place) == new, (number, found(place))
        left = [path for path in place.rglob(".*") if path.name != ".out.translation.json"]
        assert not left, (number, left)
        if killed:
            number += step


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
