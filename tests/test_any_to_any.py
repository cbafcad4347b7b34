"""One network from any contrasts to any other: what it is shown, what it makes, what is scored, what a user may ask."""

import json

import pytest
import torch
from tiny import PATCHGAN, UNET, small_run
from volumes import load, volume

from gantk.errors import UserError
from gantk.formats.files import read
from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind_or_raise
from gantk_testing.small import random_images

NAMES = ("T1", "T2", "FLAIR", "PD")
METHOD = {"name": "anytoany", "generator": UNET, "discriminator": PATCHGAN}


def built(planes=1):
    torch.manual_seed(0)
    geometry = Geometry(2, (16, 16), dict.fromkeys("ab", 4 * planes), contrasts=dict.fromkeys("ab", NAMES))
    return bind_or_raise("method", METHOD)(geometry)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("any"), METHOD, steps=2, domains=["+".join(NAMES)] * 2, missing="mask")


def test_a_target_is_never_shown_and_every_number_of_others_is():
    method, images = built(), random_images(2000, 4, (4, 4))
    images[:, 3] = -1.0  # nobody has a PD
    target, kept = method.draw(Batch(a=images, b=images))
    assert set(target.tolist()) == {0, 1, 2} and not kept[:, 3].any()
    assert not kept[torch.arange(2000), target].any()
    assert (kept.sum(1).bincount() / 2000).tolist() == pytest.approx([0, 0.5, 0.5], abs=0.05)


@pytest.mark.parametrize("planes", [1, 3])
def test_a_contrast_is_made_from_the_others_alone(planes):
    method, images = built(planes=planes).eval(), random_images(2, 4 * planes, (16, 16))
    other = images.clone()
    other[:, 2::4] = random_images(2, planes, (16, 16), seed=9)  # another FLAIR, neighbouring slices and all
    with torch.no_grad():
        before, after = method.translate(images, "b"), method.translate(other, "b")
        alone = method.translate(torch.where(torch.arange(4 * planes).view(1, -1, 1, 1) % 4 == 1, images, -1.0), "b")
    assert torch.equal(before[:, 2::4], after[:, 2::4])
    assert not any(torch.equal(before[:, n::4], after[:, n::4]) for n in (0, 1, 3))
    assert torch.equal(alone[:, 1::4], images[:, 1::4])  # there is nothing to make the only one from


def test_every_contrast_is_scored_from_each_other_one_and_from_all_others(run):
    found = json.loads((run / "metrics.json").read_text())
    pairs = {f"{source}_to_{target}" for source in (*NAMES, "others") for target in NAMES if source != target}
    assert pairs | {"a_to_b"} == found["metrics"].keys() and len(pairs) == 16
    assert all(
        found["baselines"]["identity"].keys() == found[key].keys() - {"a_to_b"} for key in ("metrics", "verdict")
    )
    assert len({found["metrics"][f"{source}_to_PD"]["psnr"]["value"] for source in ("T1", "T2", "others")}) == 3


def test_one_contrast_of_several_is_made_of_what_a_patient_has(run, tmp_path, gantk):
    for patient, names in {"p1": NAMES, "p2": ("T1", "PD"), "p3": ("FLAIR",)}.items():
        for number, name in enumerate(names):
            volume(tmp_path / "in" / patient / f"{name}.nii.gz", number, (32, 32, 4))
    done = gantk("translate", run, tmp_path / "in", tmp_path / "out", "--to", "flair")
    assert done.code == 1 and "1 of 3 patients" in done.err and "nothing but FLAIR" in done.err
    made = sorted(path.name for path in (tmp_path / "out").rglob("*.nii.gz"))
    assert made == ["p1_FLAIR.nii.gz", "p2_FLAIR.nii.gz"]
    assert read(next((tmp_path / "out").rglob("p2*.nii.gz"))).pixels.shape == (1, 4, 32, 32)
    done = gantk("translate", run, tmp_path / "in", tmp_path / "other", "--to", "CT")
    assert done.code == 2 and all(name in done.err for name in ("'CT'", *NAMES)) and "--to" in done.err
    assert not (tmp_path / "other").exists()


def test_patients_who_lack_contrasts_are_trained_on_and_no_truth_to_test_by(tmp_path):
    lacking = {(1, "T2"), (2, "FLAIR"), (3, "T1")}
    for number in range(6):
        for place, name in enumerate(("T1", "T2", "FLAIR")):
            if (number, name) not in lacking:
                volume(tmp_path / f"patient{number}" / f"{name}.nii.gz", 10 * number + place)
    source, method = {"name": "contrasts", "path": str(tmp_path)}, type(built())
    options = {"domains": ["T1+T2+FLAIR"] * 2, "split": {"test": 0.5, "validation": 0.0}}
    data, incomplete = load(source, method, missing="mask", **options), {f"patient{number}" for number, _ in lacking}
    assert {record.subject for record in data.training} & incomplete
    tested = {record.subject for record in data.splits["test"]}
    assert {pair["b"].subject for pair in data.pairs("test")} == tested - incomplete < tested
    with pytest.raises(UserError, match=r"lack a contrast.*data\.missing"):
        load(source, method, **options)
