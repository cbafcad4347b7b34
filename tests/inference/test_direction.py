"""Which direction a run of both takes where no option names it."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

import gantk
from gantk.catalog.contrasts import possible_contrasts
from gantk.errors import GantkWarning
from gantk.formats import files

UNSAID = "shows T1 or T2: taken for T1, and T2 is made. If it shows T2: --to T1"


def draw(path: Path, seed: int = 0) -> Path:
    """A picture of a smooth blob."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    blob = 200 * np.exp(-3 * (x**2 + (1 + seed / 5) * y**2))
    Picture.fromarray(blob.astype(np.uint8)).save(path)
    return path


def translate(run: Path, source: Path, target: Path, **options) -> str:
    """What is said while a run translates."""
    said: list[str] = []
    gantk.translate(run, source, target, device="cpu", say=said.append, **options)
    return "\n".join(said)


def test_a_picture_that_says_nothing_warns_of_its_direction(tiny_run, tmp_path):
    path = draw(tmp_path / "new" / "slice.png")

    said = translate(tiny_run, path, tmp_path / "out.png")

    assert f"warning  nothing says whether '{path}' {UNSAID}" in said
    assert "out.png, T2 made of T1, by" in said
    assert "nothing says" not in translate(tiny_run, path, tmp_path / "to.png", to="T1")
    model = gantk.load(tiny_run, device="cpu")
    with pytest.warns(GantkWarning, match=re.escape(f"'{path}' {UNSAID}")):
        made = model.translate(path)
    assert np.array_equal(made.pixels, model.translate(path, to="T2").pixels)


def test_pictures_that_say_nothing_warn_once(tiny_run, tmp_path):
    for number in range(3):
        draw(tmp_path / "in" / f"slice-{number}.png", number)

    said = translate(tiny_run, tmp_path / "in", tmp_path / "out")

    assert said.count(f"nothing says whether '{tmp_path / 'in'}' {UNSAID}") == 1


@pytest.mark.parametrize(
    ("folder", "name"), [("T2", "slice-{}"), ("in", "p{}_T2"), ("in", "T2/p{}"), ("in", "T2/p/{}")]
)
def test_a_folder_of_one_contrast_takes_its_direction(folder, name, tiny_run, tmp_path):
    paths = [draw(tmp_path / folder / f"{name.format(n)}.png", n) for n in range(3)]

    said = translate(tiny_run, tmp_path / folder, tmp_path / "out")

    assert said.count("note     header or name say T2, so the model makes T1") == 1
    assert "warning  the header" not in said
    assert "out, T1 made of T2, by" in said
    model = gantk.load(tiny_run, device="cpu")
    expected = model.translate(paths[0], to="T1").pixels.round().clip(0, 255)
    made = sorted((tmp_path / "out").rglob("*.png"))
    assert len(made) == 3
    assert np.array_equal(files.read(made[0]).pixels, expected)


def test_a_folder_of_both_contrasts_keeps_the_usual_one(tiny_run, tmp_path):
    draw(tmp_path / "in" / "p1_T1.png")
    draw(tmp_path / "in" / "p1_T2.png", 1)

    said = translate(tiny_run, tmp_path / "in", tmp_path / "out")

    assert "1 image not used (shows T2): 'p1_T2.png'" in said
    assert "nothing says" not in said and "T2 made of T1, by" in said


@pytest.mark.parametrize(
    ("facts", "path", "contrasts", "possible"),
    [
        ({}, "new/slice.png", "CT MR", "CT MR"),
        ({}, "patient_33/MR/1.png", "CT MR", "MR"),
        ({"modality": "MR", "contrast": "t2"}, "1.dcm", "CT MR", "MR"),
        ({"modality": "MR"}, "t2/1.dcm", "T1 T2", "T2"),
        ({}, "p1_flair.nii", "T1 T2", ""),
        ({}, "p1_T1_T2.png", "T1 T2", "T1 T2"),
        ({}, "t1ce.nii", "T2 T1", "T1"),
        ({}, "zebra/1.png", "horse zebra", "zebra"),
    ],
)
def test_header_and_names_say_what_an_image_can_show(facts, path, contrasts, possible):
    found = possible_contrasts(facts, Path("/scans", path), contrasts.split())

    assert found == set(possible.split())


def test_a_training_ends_with_a_command_for_one_direction(tmp_path):
    from tiny import TINY

    said: list[str] = []
    gantk.run(TINY, out=tmp_path / "run", device="cpu", say=said.append)

    after = [line for line in said if line.startswith("next")]
    assert after and all(" --to T2" in line for line in after if "translate" in line)
