"""Before a scan is translated, gantk says whether it fits the model's training data, and why not."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dicom_files import head

import gantk
from gantk.data.distribution import values_of
from gantk.formats.image import Image
from gantk.inference.frame import Frame
from gantk.inference.model import TrainedModel

SHAPE = (24, 48, 40)
TRAITS = {
    "spacing": [[3.0, 1.0, 1.0], [4.0, 1.0, 1.0]],
    "plane": ["axial"],
    "field of view": [[70.0, 44.0, 38.0], [100.0, 50.0, 42.0]],
}
PIXELS = {"spacing": TRAITS["spacing"]}


def scan(spacing=(3.0, 1.0, 1.0), name="t1.nii.gz", gamma=1.0, contrast="") -> Image:
    """A head, upright, with this spacing of slices, rows and columns."""
    pixels = head(*SHAPE).astype(np.float32)
    pixels = pixels.max() * (pixels / pixels.max()) ** gamma
    header = SimpleNamespace(facts={"contrast": contrast} if contrast else {}, remarks=())
    affine = np.diag([*spacing[::-1], 1.0])
    return Image(pixels[None].astype(np.float32), affine, path=Path(name), header=header)


def model(traits=TRAITS, **options) -> TrainedModel:
    """A model of T1 -> T2 that was trained on such heads; `traits` None: of an earlier version."""
    values = values_of([scan().pixels, scan(gamma=1.1).pixels])
    if traits is None:
        del values["shape_near"]
    else:
        values["traits"] = traits
    size = (32, 32)
    frame = Frame("T1", "T2", 2, size, 1, (-1.0, 1.0), values={"source": values, "target": values})
    found = TrainedModel()
    found.frames = {"b": replace(frame, **options)}
    return found


# scan, options of the model -> whether it fits, and words of the reason
CASES = {
    "like the training": ({}, {}, "yes", ""),
    "a name without a contrast": ({"name": "b.nii.gz"}, {}, "partly", "neither name nor header"),
    "slices farther apart": ({"spacing": (6.5, 1.0, 1.0)}, {}, "partly", "spacing: 6.5 x 1 x 1 mm"),
    "finer pixels": ({"spacing": (3.0, 0.8, 0.8)}, {}, "partly", "in the training 3 x 1 x 1 mm to"),
    "far coarser pixels": ({"spacing": (3.0, 2.0, 2.0)}, {}, "no", "spacing: 3 x 2 x 2 mm"),
    "far finer pixels": (
        {"spacing": (3.0, 0.5, 0.5)},
        {"traits": PIXELS},
        "no",
        "spacing: 3 x 0.5",
    ),
    "far finer pixels, which are resampled": (
        {"spacing": (3.0, 0.5, 0.5)},
        {"traits": PIXELS, "spacing": (1.0, 1.0)},
        "partly",
        "spacing: 3 x 0.5 x 0.5 mm",
    ),
    "another plane": ({"spacing": (1.0, 1.0, 3.0)}, {}, "no", "plane: sagittal, in the training"),
    "another distribution": ({"gamma": 6.0}, {}, "partly", "intensities: their distribution"),
    "another contrast": ({"contrast": "T2"}, {}, "no", "says T2"),
    "a 3-D model": ({"spacing": (6.5, 1.0, 1.0)}, {"dims": 3}, "no", "spacing: 6.5 x 1 x 1 mm"),
    "an earlier model": ({"spacing": (9.0, 3.0, 3.0)}, {"traits": None}, "not recorded", ""),
    "an earlier model, another contrast": ({"contrast": "T2"}, {"traits": None}, "no", "says T2"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_scan_is_compared_with_the_training_images(case):
    given, options, fits, words = CASES[case]
    checked = model(**options).check(scan(**given))

    assert checked.fits == fits, checked.notes
    assert bool(checked.notes) == (fits in ("partly", "no"))
    assert any(words in text for _, text in checked.notes) or not words
    kind, text = checked.fit_note()
    assert text == f"fits the training data: {fits}"
    assert kind == ("warning" if fits == "no" else "note")


@pytest.mark.parametrize("name", ["t1t2", "missing"])
def test_a_shipped_model_knows_its_training_images(name):
    checked = gantk.load(name, device="cpu").check(scan((3.0, 4.0, 4.0)), "T2")

    assert checked.fits == "no"
    assert any("spacing: 3 x 4 x 4 mm, in the training 1 x" in text for _, text in checked.notes)
