"""Whether the images of two domains, and of the people of one, are of one kind: an unpaired network
learns every difference between them.
"""

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


def test_domains_of_two_kinds_are_a_warning_in_check_and_run(tree):
    people = [(f"P{n}", "T1") for n in range(4)] + [(f"P{n}", "T2") for n in range(4, 8)]
    root = tree({key: 1.0 if key[1] == "T1" else 4.0 for key in people})
    (told,) = [each for each in check(root)["problems"] if each["kind"] == "populations"]
    assert "spacing: 1 x 1 x 1 mm against 4 x 1 x 1 mm" in told["what"]
    assert "changes sharpness, sizes" in told["what"]

    data = load({"name": "files", "path": str(root)}, UNPAIRED)
    assert any("are of different kinds: spacing" in line for line in warnings_about(data))


def test_unpaired_training_takes_people_of_the_usual_kind(tree):
    both = [(f"P{n}", domain) for n in range(5) for domain in ("T1", "T2")]
    root = tree({key: 4.0 if key[0] == "P3" else 1.0 for key in both})
    split = {"test": 0.0, "validation": 0.0, "by": "image"}
    data = load({"name": "files", "path": str(root)}, UNPAIRED, split=split)

    assert {record.subject for record in data.training} == {"P0", "P1", "P2", "P4"}
    assert any("1 patient left out" in line and "'P3'" in line for line in describe(data))
    assert not [line for line in warnings_about(data) if "of different kinds" in line]


@pytest.mark.slow
def test_a_raw_head_against_stripped_brains_is_a_warning(shared_data):
    told = check(shared_data / "open_ms")["problems"]
    (about,) = [each for each in told if each["kind"] == "populations"]
    assert "heads: whole heads against skull-stripped heads" in about["what"]
    assert "changes skulls" in about["what"]


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
    said = [each for each in found if "share no gray scale" in each["what"]]
    assert [each["remedy"] for each in said] == ["use --set data.intensity.per=volume"] * told
    assert all("T1" in each["what"] and f"{factor} to 1" in each["what"] for each in said)
    if told:
        data = load({"name": "files", "path": str(tmp_path)}, UNPAIRED)
        assert any("share no gray scale" in line for line in warnings_about(data))


def head(seed: int, whole: bool) -> np.ndarray:
    """A ball of brain (48, 48, 12) at 4 mm, stripped or in bone and skin."""
    depth = 21 - np.hypot(*np.mgrid[-23.5:24, -23.5:24])[..., None] * np.ones(12)
    noise = np.random.default_rng(seed).uniform(90, 110, depth.shape)
    bone = (depth > 1.5) & (depth < 4) if whole else depth > 99
    return np.where(depth < 0, 0, np.where(bone, noise / 9, noise)).astype(np.float32)


@pytest.mark.parametrize(("t1_of_one", "accused"), [(True, ["P0/T2.nii"]), (False, [])])
def test_a_skull_is_doubted_where_the_partner_has_none(tmp_path, t1_of_one, accused):
    for number in range(6):
        for seed, domain in enumerate(("T1", "T2")):
            whole = number == 0 and (domain == "T2" or t1_of_one)
            pixels = head(10 * seed + number, whole)
            volume(
                tmp_path / f"P{number}" / f"{domain}.nii",
                values=pixels,
                affine=np.diag([4, 4, 4, 1]),
            )

    told = [each for each in check(tmp_path)["problems"] if each["kind"] == "skull"]
    assert [file for each in told for file in each["files"] if "T2" in file] == accused
