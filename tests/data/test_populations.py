"""Unpaired training takes people whose images are of one kind, and scans of one scale."""

import nibabel as nib
import numpy as np
import pytest
from volumes import UNPAIRED, load, volume

from gantk import check
from gantk.data.check.check import warnings_about
from gantk.data.description import describe


@pytest.fixture
def tree(tmp_path):
    """Volumes of T1 and T2 below a folder, for (person, domain) the thickness of slices in mm."""

    def make(thickness):
        for (person, domain), step in thickness.items():
            voxels = np.random.default_rng(int(person[1:])).random((16, 16, 12)) * 900
            path = tmp_path / person / f"{domain}.nii"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.diag([1, 1, step, 1])), path)
        return tmp_path

    return make


def test_unpaired_training_takes_people_of_the_usual_kind(tree):
    both = [(f"P{n}", domain) for n in range(5) for domain in ("T1", "T2")]
    root = tree({key: 4.0 if key[0] == "P3" else 1.0 for key in both})
    split = {"test": 0.0, "validation": 0.0, "by": "image"}
    data = load({"name": "files", "path": str(root)}, UNPAIRED, split=split)

    assert {record.subject for record in data.training} == {"P0", "P1", "P2", "P4"}
    assert any("1 patient left out" in line and "'P3'" in line for line in describe(data))


@pytest.mark.parametrize(
    ("factor", "lowest", "settings", "told"),
    [
        (3.4, 0, [], True),
        (3.4, 0, ["data.intensity.per=volume"], False),
        (3.4, 0, ['data.intensity={name="window"}'], False),
        (3.4, -1000, [], False),  # Hounsfield units
        (1.5, 0, [], False),
    ],
)
def test_one_range_for_scans_of_two_scales_is_a_warning(factor, lowest, settings, told, tmp_path):
    for n in range(6):
        for domain in ("T1", "T2"):
            scale = factor if (domain, n % 2) == ("T1", 1) else 1.0
            values = np.random.default_rng(n).random((16, 16, 12)) * 900 * scale + lowest
            volume(tmp_path / f"P{n}" / f"{domain}.nii", values=values.astype(np.float32))

    domains = ['data.domains=["T1", "T2"]']
    found = check(tmp_path, set=domains + settings)["problems"]
    said = [each for each in found if "differ by up to" in each["what"]]
    assert [each["remedy"] for each in said] == ['set per = "volume" for data.intensity'] * told
    assert all("T1" in each["what"] and f"{factor} to 1" in each["what"] for each in said)
    if told:
        data = load({"name": "files", "path": str(tmp_path)}, UNPAIRED)
        assert any("differ by up to" in line for line in warnings_about(data))
