"""Results: metrics.json of any version is read and written as it is, and numbers have one format."""

import json
import math

import pytest

from gantk.runs.results import Score
from gantk.runs.schemas import read_results

OLD = {
    "metrics": {"a_to_b": {"psnr": {"value": 24.3, "ci95": [23.8, 24.8], "n": 10, "unit": "dB"}}},
    "baselines": {"identity": {"a_to_b": {"psnr": {"value": None, "ci95": None, "n": 0}}}},
    "verdict": {"a_to_b": {"psnr": {"better": True, "best_baseline": "identity"}, "ssim": None}},
    "speed": {"images_per_s": 31.5, "peak_memory_gib": None},
    "of_a_plugin": {"any": [1, "thing"]},
}


def test_a_metrics_json_is_written_as_it_was_read(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps(OLD))
    assert read_results(tmp_path).dump() == OLD


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
