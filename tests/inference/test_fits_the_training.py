"""Before a scan is translated, gantk says whether it fits the model's training data, and why not."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dicom_files import head
from one_pipeline import OnePipeline
from tiny import read_json

import gantk
from gantk import Model
from gantk.data.look import look_of, looks_of, values_of
from gantk.formats.image import Image
from gantk.inference.frame import Frame
from gantk.inference.pipeline import Pipeline

SHAPE = (24, 48, 40)
TRAITS = {
    "spacing": [[3.0, 1.0, 1.0], [4.0, 1.0, 1.0]],
    "plane": ["axial"],
    "field of view": [[70.0, 44.0, 38.0], [100.0, 50.0, 42.0]],
}
PIXELS = {"spacing": TRAITS["spacing"]}
PICTURES = {"aspect ratio": [[0.83], [0.83]]}
AGES = TRAITS | {"age": [[20.0], [60.0]]}
IN_AIR = TRAITS | {"background": ["dark"], "brightest values": ["not clipped"]}
HEADS = TRAITS | {"body part": ["head"], "field strength": [[1.5], [3.0]]}
GAMMAS = {"source": (0.9, 0.95, 1.0, 1.05, 1.1), "target": (2.8, 2.9, 3.0, 3.1, 3.2)}


def in_a_frame(pixels: np.ndarray) -> np.ndarray:
    framed = np.full_like(pixels, pixels.max())
    framed[:, 2:-2, 2:-2] = pixels[:, 2:-2, 2:-2]
    return framed


def scan(
    spacing=(3.0, 1.0, 1.0),
    name="t1.nii.gz",
    gamma=1.0,
    contrast="",
    doubts=(),
    change=lambda pixels: pixels,
    side_by_side=0,
    **said,
) -> Image:
    """A head, upright, with this spacing of slices, rows and columns, and what its header says; or a
    picture of one slice so many times `side_by_side`.
    """
    pixels = head(*SHAPE).astype(np.float32)
    pixels = change(pixels.max() * (pixels / pixels.max()) ** gamma)
    facts = {k: v for k, v in (said | {"contrast": contrast}).items() if v not in ("", None)}
    header = SimpleNamespace(facts=facts, remarks=(), doubts=doubts)
    affine = np.diag([*spacing[::-1], 1.0])
    if side_by_side:
        affine = None
        pixels = np.concatenate([pixels[SHAPE[0] // 2]] * side_by_side, axis=1)
    return Image(pixels[None].astype(np.float32), affine, path=Path(name), header=header)


@cache
def values_of_curves(gammas) -> dict:
    """The values of a domain whose training images have these gray curves."""
    images = [scan(gamma=gamma).pixels for gamma in gammas]
    people = [str(gamma) for gamma in gammas]
    return values_of(images) | looks_of([look_of(each) for each in images], people)


def model(traits=TRAITS, looks=True, **options) -> Model:
    """A model of T1 -> T2 that was trained on such heads; `traits` None, or no `looks`: of an earlier
    version.
    """
    values = {domain: dict(values_of_curves(gammas)) for domain, gammas in GAMMAS.items()}
    if traits is None:
        values = {domain: values_of([scan().pixels]) for domain in values}
    else:
        values["source"]["traits"] = traits
    if not looks:
        del values["source"]["looks"]
    size = (32, 32)
    frame = Frame("T1", "T2", 2, size, 1, (-1.0, 1.0), values=values)
    return OnePipeline(Pipeline(replace(frame, **options), None, None), None)


# scan, options of the model -> whether it fits, and words of the reason
CASES = {
    "like the training": ({}, {}, "yes", ""),
    "a name without a contrast": ({"name": "b.nii.gz"}, {}, "partly", "neither name nor header"),
    "slices farther apart": ({"spacing": (6.5, 1.0, 1.0)}, {}, "partly", "spacing: 6.5 x 1 x 1 mm"),
    "finer pixels": (
        {"spacing": (3.0, 0.8, 0.8)},
        {},
        "partly",
        "this model is for 3 x 1 x 1 mm to",
    ),
    "far coarser pixels": ({"spacing": (3.0, 2.5, 2.5)}, {}, "no", "spacing: 3 x 2.5 x 2.5 mm"),
    "far finer pixels": (
        {"spacing": (3.0, 0.4, 0.4)},
        {"traits": PIXELS},
        "no",
        "spacing: 3 x 0.4",
    ),
    "far finer pixels, which are resampled": (
        {"spacing": (3.0, 0.4, 0.4)},
        {"traits": PIXELS, "spacing": (1.0, 1.0)},
        "partly",
        "spacing: 3 x 0.4 x 0.4 mm",
    ),
    "another plane": ({"spacing": (1.0, 1.0, 3.0)}, {}, "no", "plane: sagittal, this model is for"),
    "twice as coarse": (
        {"spacing": (3.0, 2.0, 2.0)},
        {"traits": PIXELS},
        "partly",
        "spacing: 3 x 2 x 2 mm",
    ),
    "a little unlike": ({"gamma": 1.25}, {}, "partly", "look: 1."),
    "far unlike": ({"gamma": 0.4}, {}, "no", "times as far from the training images"),
    "like the other domain": (
        {"gamma": 3.0, "name": "b.nii.gz"},
        {},
        "no",
        "looks like T2, but it is translated as T1",
    ),
    "the other domain by name and look": ({"gamma": 3.0, "name": "t2.nii"}, {}, "no", "says T2"),
    "like the other domain, by name this one": ({"gamma": 3.0}, {}, "no", "looks like T2, but"),
    "as bright as the other domain, by its agent": (
        {"gamma": 3.0, "agent": True},
        {},
        "no",
        "times as far from the training images",
    ),
    "a child, among people of unknown ages": (
        {"age": 3.0},
        {},
        "partly",
        "age: 3 years, and that of the training is not recorded",
    ),
    "a contrast agent by name": ({"name": "T1_post_Gd.nii.gz"}, {}, "partly", "contrast agent"),
    "a contrast agent by header": ({"agent": True}, {}, "partly", "contrast agent"),
    "T1 by name, with the times of FLAIR": (
        {"contrast": "T1", "echo_time": 100.0, "inversion_time": 2500.0},
        {},
        "no",
        "the header's TE 100, TI 2500 ms are not those of T1",
    ),
    "T1 with an inversion": ({"echo_time": 3.0, "inversion_time": 900.0}, {}, "yes", ""),
    "T2 by name, with the times of FLAIR": (
        {"name": "t2.nii.gz", "echo_time": 100.0, "inversion_time": 2500.0},
        {"source": "T2"},
        "no",
        "are not those of T2",
    ),
    "labels": ({"change": lambda pixels: pixels // 300}, {}, "no", "the input is a label map"),
    "MR by name, for a model of MR": ({"name": "mr.nii.gz"}, {"source": "MR"}, "yes", ""),
    "T2 by name, for a model of CT": ({"name": "t2.nii.gz"}, {"source": "CT"}, "no", "says T2"),
    "a model of no contrast": ({"name": "b.nii.gz"}, {"source": "Horse"}, "yes", ""),
    "an array of several contrasts": ({"gamma": 0.4}, {"source": "T1+FLAIR"}, "yes", ""),
    "as old as they were": ({"age": 63.0}, {"traits": AGES}, "yes", ""),
    "older": (
        {"age": 80.0},
        {"traits": AGES},
        "partly",
        "age: 80 years, this model is for 20 years",
    ),
    "an age of 0, which anonymized headers say": ({"age": 0.0}, {"traits": AGES}, "yes", ""),
    "a child": ({"age": 1.5}, {"traits": AGES}, "no", "age: 1.5 years"),
    "a knee": (
        {"body_part": "knee"},
        {"traits": HEADS},
        "no",
        "body part: knee, this model is for",
    ),
    "a head": ({"body_part": "head", "field_strength": 3.0}, {"traits": HEADS}, "yes", ""),
    "a knee, among images of unknown parts": ({"body_part": "knee"}, {}, "partly", "part: knee"),
    "a head, among images of unknown parts": (
        {"body_part": "head", "field_strength": 1.5},
        {},
        "yes",
        "",
    ),
    "7 T": (
        {"field_strength": 7.0},
        {"traits": HEADS},
        "partly",
        "7 T, this model is for 1.5 T to",
    ),
    "7 T, among unknown ones": ({"field_strength": 7.0}, {}, "partly", "field strength: 7 T"),
    "a portable magnet": ({"field_strength": 0.064}, {"traits": HEADS}, "no", "0.064 T"),
    "a head in air": ({}, {"traits": IN_AIR}, "yes", ""),
    "an inverted head": (
        {"change": lambda pixels: pixels.max() - pixels},
        {"traits": IN_AIR},
        "no",
        "background: bright, this model is for dark",
    ),
    "a head in a frame": ({"change": in_a_frame}, {"traits": IN_AIR}, "no", "background: bright"),
    "a windowed head": (
        {"change": lambda pixels: pixels.clip(0, np.percentile(pixels, 98))},
        {"traits": IN_AIR},
        "partly",
        "brightest values: clipped",
    ),
    "a picture": ({"side_by_side": 1}, {"traits": PICTURES, "source": "T1+FLAIR"}, "yes", ""),
    "two pictures side by side": (
        {"side_by_side": 2},
        {"traits": PICTURES},
        "no",
        "aspect ratio: 1.7 : 1, this model is for 0.83 : 1",
    ),
    "two pictures side by side, for a model of scans": (
        {"side_by_side": 2},
        {"source": "T1+FLAIR"},
        "partly",
        "aspect ratio: 1.7 : 1, and that of the training is not recorded",
    ),
    "a localizer": ({"doubts": [("it is a localizer", True)]}, {}, "no", "a localizer"),
    "a reformatted scan": ({"doubts": [("it is computed", False)]}, {}, "partly", "computed"),
    "another contrast": ({"contrast": "T2"}, {}, "no", "says T2"),
    "a 3-D model": ({"spacing": (6.5, 1.0, 1.0)}, {"dims": 3}, "no", "spacing: 6.5 x 1 x 1 mm"),
    "a model of few people": (
        {},
        {"looks": False},
        "not recorded",
        "trained on fewer than 4 people: too few to tell whether",
    ),
    "a model of few people, a reformatted scan": (
        {"doubts": [("it is computed", False)]},
        {"looks": False},
        "not recorded",
        "computed",
    ),
    "a model of generated images": (
        {},
        {"traits": {}, "looks": False},
        "not recorded",
        "trained on images that are not files",
    ),
    "an earlier model": (
        {"spacing": (9.0, 3.0, 3.0)},
        {"traits": None},
        "not recorded",
        "trained before gantk stored the looks",
    ),
    "an earlier model, another contrast": ({"contrast": "T2"}, {"traits": None}, "no", "says T2"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_scan_is_compared_with_the_training_images(case):
    given, options, fits, words = CASES[case]
    _, checked = model(**options).check(scan(**given))

    assert checked.fits == fits, checked.notes
    assert bool(checked.notes) == (fits != "yes")
    assert any(words in text for _, text in checked.notes) or not words
    assert not (given.get("agent") and any("looks like" in text for _, text in checked.notes))
    kind, text = checked.said[0]
    assert text.startswith(f"fits the training data: {fits} (")
    assert text.endswith("lesions are not checked)")
    assert sum("but it is translated as" in text for _, text in checked.notes) < 2
    assert ("another contrast may go unnoticed" in text) == (fits == "not recorded")
    assert kind == ("warning" if fits == "no" else "note")


# share of the pixels in colour -> whether a picture fits a gray model
COLOURS = {"gray in colour": (0, "yes"), "a mark": (0.03, "partly"), "a photograph": (0.6, "no")}


@pytest.mark.parametrize("case", COLOURS)
def test_colours_that_a_gray_model_does_not_see_are_told(case):
    share, fits = COLOURS[case]
    plane = scan().pixels[0, SHAPE[0] // 2]
    pixels = np.stack([plane, plane, plane])
    rows = round(share * len(plane))
    pixels[0, len(plane) // 2 - rows // 2 :][:rows] = plane.max()
    gray, checked = model().check(replace(scan(), pixels=pixels, affine=None))

    assert (fits == "yes") == (not any("colour:" in text for _, text in checked.notes))
    assert checked.fits == fits
    assert gray.channels == 1
    assert ("note", "the colour image is converted to gray") in checked.notes


def pixels_without_look(kind: str) -> np.ndarray:
    """Pixels (C, *spatial) in which nothing is seen where a look is measured."""
    if kind == "blank":
        return np.zeros((1, 32, 32), np.float32)
    if kind == "white but for a point":
        pixels = np.ones((1, 32, 32), np.float32)
        pixels[0, 3, 3] = 0
        return pixels
    pixels = np.zeros((1, *SHAPE), np.float32)
    pixels[0, [0, -1]] = np.eye(*SHAPE[1:])
    return pixels


@pytest.mark.parametrize("kind", ["blank", "white but for a point", "nothing in the middle"])
def test_an_image_without_a_look_is_not_compared(kind):
    pixels = pixels_without_look(kind)
    looks = [look_of(scan(gamma=gamma).pixels) for gamma in GAMMAS["source"]]
    people = [str(number) for number in range(len(looks) + 1)]

    assert looks_of([*looks, look_of(pixels)], people) == looks_of(looks, people[:-1])
    _, checked = model().check(replace(scan(), pixels=pixels))
    assert not any("look" in text for _, text in checked.notes)


def test_the_brightest_values_of_a_blank_image_are_not_clipped():
    _, checked = model(traits=IN_AIR).check(scan(change=np.zeros_like))
    assert checked.fits == "yes", checked.notes


@pytest.mark.parametrize(
    ("name", "said", "limits"),
    [("t1t2", {"field_strength": 0.2}, "1.5 to 3 T"), ("missing", {}, "adults")],
)
def test_a_shipped_model_knows_the_limits_of_its_card(name, said, limits):
    model = gantk.load(name, device="cpu")
    _, checked = model.check(scan((3.0, 4.0, 4.0), age=4.0, **said), "T2")

    assert limits in model.identity()["limits"]
    assert checked.fits == "no"
    warned = " ".join(text for kind, text in checked.notes if kind == "warning")
    assert "spacing: 3 x 4 x 4 mm, this model is for 1 x" in warned
    assert "age: 4 years, this model is for 18 years to" in warned
    assert ("field strength: 0.2 T, this model is for 1.5 T to 3 T" in warned) == bool(said)


def test_an_image_is_compared_with_its_own_domain(tiny_run):
    model = gantk.load(tiny_run, device="cpu")
    of_training = read_json(model.checkpoint / "meta.json")["values"]

    assert of_training["a"]["high"] != of_training["b"]["high"]
    for to, other in ("ab", "ba"):
        of_frame = {side: known["high"] for side, known in model.frames[to].values.items()}
        assert of_frame == {"source": of_training[other]["high"], "target": of_training[to]["high"]}
