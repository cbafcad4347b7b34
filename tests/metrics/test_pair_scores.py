"""Rows of metrics.json: regions, levels, units and intervals count what they say; verdicts; scores
of uncertainty.
"""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from test_metrics import pair

from gantk.data.intensity import Window
from gantk.errors import UserError
from gantk.metrics.intervals import estimate, left_out_interval
from gantk.metrics.judging import pair_verdict, set_verdict
from gantk.metrics.pair_scores import PairScorer, References, scores_of
from gantk.metrics.pairs import MAE, NRMSE, PSNR, SSIM, PairMetric
from gantk.metrics.references import Units
from gantk.runs.results import Score
from gantk_parts.ct.metric import HounsfieldMAE

SENSES = {"psnr": True, "mae": False}


def scorer_of(*metrics, batch: int = 2) -> PairScorer:
    return PairScorer(
        [metric(2.0, 2) for metric in metrics or (PSNR, MAE, NRMSE)], -1.0, 2.0, 2, batch, "cpu"
    )


def scored(output, truth, scorer=None, patients=None, **about) -> dict:
    scorer = scorer or scorer_of()
    references = References(truth, patients or [f"p{i}" for i in range(len(truth))], **about)
    scores = scores_of(scorer(output, references), scorer.about())
    return {name: score.dump() for name, score in scores.items()}


def test_rows_of_regions_see_their_region_only():
    output, truth = pair((3, 1, 20, 20))
    inside = torch.zeros(3, 1, 20, 20)
    inside[..., 5:15, 5:15] = 1
    lesion = torch.zeros(3, 1, 20, 20)
    lesion[:2, :, 8:10, 8:10] = 1
    regions = {"foreground": inside > 0, "masks": lesion}
    rows = scored(output, truth, **regions)
    spoiled = output.clone()
    spoiled[..., :5, :] = 0.9
    again = scored(spoiled, truth, **regions)
    for name in ("psnr", "mae", "nrmse"):
        assert rows[name]["value"] != again[name]["value"]
        assert rows[f"{name}_foreground"] == again[f"{name}_foreground"]
        assert rows[f"{name}_lesion"] == again[f"{name}_lesion"]

    error = (output - truth)[..., 5:15, 5:15].abs().mean().item()

    assert rows["mae_foreground"]["value"] == pytest.approx(error)
    assert rows["mae_lesion"]["n"] == 2


def test_a_corrected_brightness_leaves_the_air_as_it_is():
    _, truth = pair((3, 1, 32, 32))
    inside = torch.zeros(3, 1, 32, 32, dtype=torch.bool)
    inside[..., 8:24, 8:24] = True
    truth = torch.where(inside, truth, -1.0)
    inverted = torch.where(inside, -truth, -1.0)
    rows = scored(inverted, truth, scorer_of(SSIM), foreground=inside)

    for name in ("ssim", "ssim_foreground"):
        assert rows[name]["value"] < 0.9
        assert rows[name]["corrected"] == pytest.approx(1, abs=1e-3)


def test_errors_in_hounsfield_units_are_of_each_images_mapping():
    output, truth = pair((4, 1, 12, 12), error=0.05)
    windows = [Window(low=0, high=high) for high in (100, 200, 400, 800)]
    units = Units("HU", windows)
    found = scored(output, truth, scorer_of(MAE, HounsfieldMAE), units=units)["mae_hu"]
    widths = torch.tensor([50.0, 100, 200, 400])
    error = (output - truth).flatten(1).abs().mean(1)

    assert found["unit"] == "HU"
    assert found["value"] == pytest.approx((error * widths).mean().item(), rel=1e-4)
    low, high = found["range"]  # four patients have no interval
    assert low < found["value"] < high

    assert "mae_hu" not in scored(output, truth, scorer_of(MAE, HounsfieldMAE))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_nan_outputs_leave_no_plausible_score(wrong):
    output, truth = pair((4, 1, 16, 16))
    good = output.clone()
    output[1, 0, 3, 3] = wrong
    row = scored(output, truth)["psnr"]

    assert row["value"] is None
    assert row["ci95"] is None
    assert row["n"] == 0
    assert row["images"] == 0

    references = References(truth, list("pqrs"))
    model = scorer_of(PSNR, MAE)(good, references)
    baseline = scorer_of(PSNR, MAE)(output, references)

    assert pair_verdict(beside(model, identity=baseline), SENSES) == {}, "no baseline to beat"


# ---- patients and intervals


@pytest.mark.parametrize(
    ("values", "patients", "value", "n"),
    [
        ([1.0, 1.0, 1.0, 4.0, math.nan], ["p", "p", "p", "q", "q"], 2.5, 2),
        ([1.0, 2.0, math.nan, 4.5], ["", "", "", "p"], 3.0, 1),
    ],
    ids=["patients", "unknown ones may be of one head, so n is 1"],
)
def test_patients_count_alike_however_many_images_they_have(values, patients, value, n):
    found = estimate(values, patients)
    assert found.value == value
    assert (found.n, bool(found.patients_unknown)) == (n, "" in patients)


@pytest.mark.parametrize("count", [6, 10, 20])
def test_intervals_cover_the_true_mean_as_stated(count):
    """600 studies of some patients with 3 images each, whose patients differ more than their images
    do.
    """
    rng = np.random.default_rng(0)
    held = 0
    patients = [f"p{i // 3}" for i in range(3 * count)]
    for _ in range(600):
        values = np.repeat(rng.normal(30, 2, count), 3) + rng.normal(0, 0.5, 3 * count)
        low, high = estimate(values, patients).ci95
        held += low < 30 < high

    assert 0.92 < held / 600 < 0.97


@pytest.mark.parametrize(
    ("patients", "shown"),
    [
        (["", ""], ""),
        (["p", "p"], ""),
        (["p", "p", "q"], "(0.500 to 2.000)"),
        ([*"ppqrst"], "(0.500 to 5.000)"),
        ([*"pqrstu"], "[0.667, 4.167]"),
        ([*"pqrstu", ""], ""),
    ],
    ids=["unknown", "one", "two", "five", "six", "six and an unknown one"],
)
def test_fewer_than_six_patients_show_a_range_and_no_interval(patients, shown):
    assert estimate(range(len(patients)), patients).interval(3) == shown


def difference_of_means(x, y):
    """A statistic of chosen members of two samples."""
    return lambda a, b: x[a].mean() - y[b].mean()


def test_leaving_out_patients_is_the_two_sample_jackknife():
    rng = np.random.default_rng(0)
    x = rng.normal(size=6)
    y = rng.normal(size=8)
    value, interval = left_out_interval(difference_of_means(x, y), list("pqrstu"), list("abcdefgh"))
    low, high = interval
    error = math.sqrt(x.var(ddof=1) / 6 + y.var(ddof=1) / 8)  # what the jackknife of a mean is

    assert value == x.mean() - y.mean()
    assert high - value == pytest.approx(value - low)
    assert high - value == pytest.approx(2.5705818 * error)  # Student's for 5 degrees of freedom


# ---- verdicts


def beside(model: pd.DataFrame, **baselines: pd.DataFrame) -> pd.DataFrame:
    """The lines of a model and of baselines."""
    return pd.concat([model, *(own.assign(system=name) for name, own in baselines.items())])


def test_pair_verdict_is_against_the_best_baseline():
    def scores(*errors: float):
        truth = torch.zeros(6, 1, 4, 4)
        return scorer_of(PSNR, MAE)(
            torch.tensor(errors)[:, None, None, None] + truth, References(truth, list("pqrstu"))
        )

    model = scores(0.12, 0.11, 0.10, 0.09, 0.11, 0.10)
    baselines = {
        "identity": scores(0.25, 0.25, 0.25, 0.25, 0.25, 0.25),
        "histogram": scores(0.2, 0.18, 0.2, 0.18, 0.2, 0.18),
        "intensity_map": scores(0.14, 0.10, 0.11, 0.11, 0.12, 0.10),
        "regression": scores(0.08, 0.08, 0.08, 0.1, 0.08, 0.08),
        "real_split": scores(0.01, 0.01, 0.01, 0.01, 0.01, 0.01),
    }
    for row in pair_verdict(beside(model, **baselines), SENSES).values():
        assert row.better is False
        assert row.best_baseline == "regression"
        assert row.probability < 0.1
        fair = row.without_pairs
        assert (fair.better, fair.best_baseline, fair.probability) == (True, "histogram", 1.0)
        assert fair.test.gain > 0 > row.test.gain
        assert row.test.n == 6

    del baselines["regression"]
    row = pair_verdict(beside(model, **baselines), SENSES)["psnr"]

    assert row.best_baseline == "intensity_map"
    assert 0.5 < row.probability < 1
    assert pair_verdict(beside(model, **baselines), {"psnr": None, "mae": None}) == {}
    tie = pair_verdict(beside(model, identity=model), SENSES)["psnr"]
    assert tie.better is False
    assert tie.probability == 0.5
    broken = scores(0.01, 0.01, 0.01, 0.01, 0.01, float("nan"))
    assert pair_verdict(beside(broken, identity=model), SENSES)["psnr"].better is False


def test_the_verdict_of_sets_is_as_sure_as_both_intervals_are():
    def row(value, half, higher):
        return Score(value=value, ci95=[value - half, value + half], higher_is_better=higher)

    model = {
        "kid": row(0.2, 0.05, False),
        "precision": row(0.8, 0.1, True),
        "diversity": row(1.0, 0.1, None),
    }
    baselines = {"identity": {"kid": row(0.1, 0.05, False), "precision": row(0.7, 0.1, True)}}
    verdict = set_verdict(model, baselines, 8)

    assert set(verdict) == {"kid", "precision"}
    assert verdict["kid"].better is False
    assert verdict["kid"].probability < 0.05
    gain = 0.1 / math.hypot(0.1 / 1.96, 0.1 / 1.96)
    assert verdict["precision"].better is True
    assert verdict["precision"].probability == pytest.approx(
        0.5 * (1 + math.erf(gain / math.sqrt(2))), abs=1e-6
    )


@pytest.mark.parametrize(("kept", "returned"), [(torch.mean, r"\(\)"), (list, "list")])
def test_a_metric_of_no_number_per_image_is_refused(kept, returned):
    class Mean(PairMetric):
        name = "mean"
        unit = ""
        higher_is_better = False

        def _score(self, output, reference, mask):
            return kept(output)

    with pytest.raises(UserError, match=rf"the metric 'mean' returns {returned} for 2 images"):
        scored(*pair((2, 1, 20, 20)), scorer_of(Mean))


def test_pair_scores_do_not_depend_on_the_batch():
    output, truth = pair((5, 1, 24, 24))
    found = [
        scored(output, truth, scorer_of(PSNR, SSIM, batch=n), foreground=truth > -0.5)
        for n in (1, 2, 5)
    ]

    assert found[0] == found[1] == found[2]
    assert found[0]["ssim"]["value"] == pytest.approx(
        SSIM(2.0, 2)(output + 1, truth + 1).mean().item(), abs=1e-6
    )
