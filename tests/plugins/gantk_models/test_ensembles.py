"""The mean of several models says what each of its members would say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gantk
from gantk.formats.image import Image
from gantk.inference.frame import TranslateOptions
from gantk_models.ensemble import Ensemble

DISTANCE = np.hypot(*np.mgrid[-1:1:32j, -1:1:32j])
HEAD = Image(np.float32(200 * np.clip(1 - DISTANCE, 0, 1))[None], path=Path("t1.png"))


@pytest.mark.parametrize(
    ("high", "told"), [(250.0, False), (25_000.0, True)], ids=["one scale", "two scales"]
)
def test_an_ensemble_fits_as_the_member_that_fits_worst(tiny_run, high, told):
    members = [gantk.load(tiny_run, device="cpu") for _ in range(2)]
    for member, sides, end in zip(
        members, ([[0.9], [1.1]], [[4.0], [5.0]]), (240.0, high), strict=True
    ):
        pipeline = member.pipelines["b"]
        own = pipeline.frame.values
        source = own["source"] | {"traits": {"aspect ratio": sides}, "looks": None}
        values = {"source": source, "target": own["target"] | {"high": end}}
        pipeline.frame = replace(pipeline.frame, values=values)
    (_, first), (_, worst) = (member.check(HEAD, "T2") for member in members)
    ensemble = Ensemble(members, ["one", "other"])
    _, found = ensemble.check(HEAD, "T2")
    _, _, notes = ensemble.results(HEAD, "T2", TranslateOptions())

    assert first.fits == "yes" != worst.fits, first
    assert found.fits == worst.fits
    assert {*worst.notes} <= {*found.notes}
    assert any("on other scales" in line for _, line in notes) == told


def test_an_ensemble_says_that_any_member_saw_the_patient(tiny_run):
    members = [gantk.load(tiny_run, device="cpu") for _ in range(2)]
    members[1].run_trained_on = lambda patient, file: "runs/fold-1"
    _, found = Ensemble(members, ["one", "other"]).check(HEAD, "T2")

    assert found.is_of_training
    assert "runs/fold-1" in found.notes[0][1]
    assert not any("runs/fold-1" in reason for reason in found.reasons)
