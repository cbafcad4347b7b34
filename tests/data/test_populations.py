"""Unpaired training takes people whose images are of one kind, and scans of one scale."""

from itertools import product

import numpy as np
import pytest
from volumes import UNPAIRED, load, volume

from gantk import check
from gantk.data.check.check import warnings_about
from gantk.data.description import describe


def test_unpaired_training_takes_people_of_the_usual_kind(tmp_path):
    for n, domain in product(range(5), ("T1", "T2")):
        thickness = np.diag([1.0, 1.0, 4.0 if n == 3 else 1.0, 1.0])
        volume(tmp_path / f"P{n}" / f"{domain}.nii", n, (16, 16, 12), thickness)
    split = {"test": 0.0, "validation": 0.0, "by": "image"}
    data = load({"name": "files", "path": str(tmp_path)}, UNPAIRED, split=split)

    assert {record.subject for record in data.training} == {"P0", "P1", "P2", "P4"}
    said = describe(data)
    assert any("1 patient left out" in line and "'P3'" in line for line in said)
    assert any("fewer than 4 patients are trained on" in line for line in said)


@pytest.mark.parametrize(
    ("factor", "lowest", "settings", "told"),
    [
        (3.4, 0, [], "note"),
        (3.4, 0, ["data.intensity=percentile"], "warning"),
        (3.4, 0, ["data.intensity.per=volume"], ""),
        (3.4, 0, ['data.intensity={name="window"}'], ""),
        (3.4, -1000, [], ""),  # Hounsfield units
        (1.5, 0, [], ""),
    ],
)
def test_one_range_for_scans_of_two_scales_is_reported(factor, lowest, settings, told, tmp_path):
    for n in range(6):
        for domain in ("T1", "T2"):
            scale = factor if (domain, n % 2) == ("T1", 1) else 1.0
            values = np.random.default_rng(n).random((16, 16, 12)) * 900 * scale + lowest
            volume(tmp_path / f"P{n}" / f"{domain}.nii", values=values.astype(np.float32))

    domains = ['data.domains=["T1", "T2"]']
    found = check(tmp_path, set=domains + settings)["problems"]
    said = [each for each in found if "differ in intensity range" in each["what"]]
    assert [each["severity"] for each in said] == ([told] if told else [])
    assert all("gantk plan" in each["remedy"] for each in said)
    assert all(f"T1 {factor}" in each["what"] for each in said)
    if told:
        data = load({"name": "files", "path": str(tmp_path)}, UNPAIRED)
        assert any("differ in intensity range" in line for line in warnings_about(data))
