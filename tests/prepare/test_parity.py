"""Every path from native images to native images gives what it gave when `recorded.npz` was made."""

import os
from pathlib import Path

import numpy as np
import pytest
from prepared_outputs import (
    REGRESSION,
    RUNS,
    outputs_of_exports,
    outputs_of_run,
    outputs_of_shipped,
    thinned,
)
from tiny import PATCHGAN, UNET, small_run

RECORDED = Path(__file__).with_name("recorded.npz")
TOLERANCE = 1e-5  # of the range
# The recorded version translated a constant bright slice to its own brightness where gradients were
# asked for, and to black elsewhere, as all paths do now. Flat slices are constants of the graph.
MENDED = {"tensor": [3], "gradient": [1, 3]}  # the slices that are left out
# It wrote negative values into scans of magnitudes. Where each scan has its own mapping, it measured
# the images of a batch after they were resized: there the recording holds its result for each image
# alone. It brought results to another spacing's voxels in two steps, the second in native units:
# "scan, resampled" was recorded again when this became one.
SCANS = ("scan", "scan, resampled")


def expect_recorded(results: dict[str, np.ndarray], recording: Path, prefix: str = "") -> None:
    with np.load(recording) as recorded:
        for path, values in results.items():
            found = thinned(values)
            expected = recorded[prefix + path]
            allowed = TOLERANCE * np.ptp(expected)
            if path in MENDED and len(expected) > 1:
                left_out = MENDED[path]
                found, expected = (np.delete(each, left_out, 0) for each in (found, expected))
            if path in SCANS:
                expected = np.maximum(expected, 0)
            np.testing.assert_allclose(found, expected, rtol=0, atol=allowed, err_msg=prefix + path)


@pytest.mark.quick_cases("pad", "contrasts", "volume")
@pytest.mark.parametrize("name", RUNS)
def test_arrays_gradients_and_scans_are_as_recorded(name, tmp_path):
    run = small_run(tmp_path, REGRESSION, **RUNS[name])

    results = outputs_of_run(run)

    expect_recorded(results, RECORDED, f"{name}: ")
    if "tensor" in results:
        allowed = TOLERANCE * np.ptp(results["array"])
        np.testing.assert_allclose(results["tensor"], results["array"], rtol=0, atol=allowed)


@pytest.mark.slow
def test_exports_and_ensembles_are_as_recorded(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    first = small_run(folders[0], REGRESSION)
    method = {"name": "pix2pix", "generator": UNET, "discriminator": PATCHGAN}
    second = small_run(folders[1], method)

    expect_recorded(outputs_of_exports([first, second], tmp_path), RECORDED)


@pytest.mark.slow
def test_shipped_models_are_as_recorded(shared_data):
    recording = os.environ.get("GANTK_RECORDING", "")
    if not recording:
        pytest.skip(
            "no recording: python tests/prepared_outputs.py FILE SHARED_DATA, by an earlier version; then GANTK_RECORDING=FILE"
        )

    expect_recorded(outputs_of_shipped(shared_data), Path(recording))
