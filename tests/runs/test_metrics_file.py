"""Results: metrics.json of any version is read and written as it is, and numbers have one format."""

import math

import pytest

from gantk.runs.results import Score


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (24.306, "dB", "24.31 dB"),
        (-0.004, "dB", "0.00 dB"),
        (120.26, "", "120.3"),
        (12.345, "", "12.35"),
        (0.8534, "", "0.853"),
        (0.03214, "", "0.0321"),
        (0.00001234, "", "1.23e-05"),
        (math.inf, "", "inf"),
        (math.nan, "", "-"),
        (None, "dB", "-"),
    ],
)
def test_a_score_has_one_text(value, unit, text):
    assert Score(value=value, unit=unit).text() == text


def test_interval_and_sample_in_the_digits_of_the_value():
    score = Score(value=24.3, unit="dB", ci95=[23.806, 24.81], n=8, images=64)
    assert score.interval() == "[23.81, 24.81]"
    assert score.sample() == "n = 8 (64 images)"
    assert Score(value=1.0, ci95=[None, 2.0]).interval() == ""
    assert (
        Score(value=1.0, n=1, images=64, patients_unknown=True).sample()
        == "64 images, patients unknown"
    )


def test_details_of_other_packages_are_kept():
    details = {"labels": [1, "two"], "converged": True, "draws": 3, "of_real": {"value": 2.0}}
    score = Score(value=1.0, details=details)
    assert score.dump()["details"] == details
    assert list(score.figures) == ["of_real"]
