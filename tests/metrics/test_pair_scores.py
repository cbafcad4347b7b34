"""Rows of metrics.json: regions, levels, units and intervals count what they say; verdicts; scores
of uncertainty.
"""

import json
import math

import numpy as np
import pytest
import torch
from test_metrics import pair

from gantk.errors import UserError
from gantk.metrics.intervals import estimate, left_out_interval
from gantk.metrics.pair_scores import PairScorer, References
from gantk.metrics.pairs import MAE, NRMSE, PSNR, SSIM
from gantk.metrics.references import Units
from gantk.metrics.verdict import pair_verdict, set_verdict
from gantk_parts.ct.intensity import Window
from gantk_trust.uncertainty.judging import judge_uncertainty

SENSES = {"psnr": True, "mae": False}


def scorer_of(*metrics, batch: int = 2) -> PairScorer:
    return PairScorer(
        [metric(2.0, 2) for metric in metrics or (PSNR, MAE, NRMSE)], -1.0, 2.0, 2, batch, "cpu"
    )


def scored(output, truth, scorer=None, patients=None, **about) -> dict:
    scorer = scorer or scorer_of()
    return scorer.rows(
        scorer(output, References(truth, patients or [f"p{i}" for i in range(len(truth))], **about))
    )


def test_rows_of_regions_see_their_region_only():
    output, truth = pair((3, 1, 20, 20))
    inside = torch.zeros(3, 1, 20, 20)
    lesion = torch.zeros(3, 1, 20, 20)
    inside[..., 5:15, 5:15] = 1
    lesion[:2, :, 8:10, 8:10] = 1
    rows = scored(output, truth, foreground=inside > 0, masks=lesion)
    spoiled = output.clone()
    spoiled[..., :5, :] = 0.9
    again = scored(spoiled, truth, foreground=inside > 0, masks=lesion)
    for name in ("psnr", "mae", "nrmse"):
        assert rows[name]["value"] != again[name]["value"]
        assert rows[f"{name}_foreground"] == again[f"{name}_foreground"]
        assert rows[f"{name}_lesion"] == again[f"{name}_lesion"]
    assert rows["mae_foreground"]["value"] == pytest.approx(
        (output - truth)[..., 5:15, 5:15].abs().mean().item()
    )
    assert rows["mae_lesion"]["n"] == 2
    linear = torch.where(inside > 0, 0.5 * truth + 0.1, 0.9)
    rows = scored(linear, truth, foreground=inside > 0)
    assert rows["mae_foreground"]["corrected"] < 1e-5 < rows["mae_foreground"]["value"]


def test_errors_have_native_units_by_each_mapping():
    output, truth = pair((4, 1, 12, 12), error=0.05)
    rows = scored(
        output,
        truth,
        units=Units("HU", [Window(low=0, high=high) for high in (100, 200, 400, 800)]),
    )
    widths = torch.tensor([50.0, 100, 200, 400])
    error = (output - truth).flatten(1)
    for name, each in (("mae", error.abs().mean(1)), ("nrmse", error.square().mean(1).sqrt())):
        found = rows[name]["in_units"]
        assert found["value"] == pytest.approx((each * widths).mean().item(), rel=1e-4)
        assert found["unit"] == "HU"
        assert found["ci95"][0] < found["value"] < found["ci95"][1]
    assert "in_units" not in rows["psnr"]


def test_volume_psnr_pools_squared_errors_of_slices():
    output, truth = pair((6, 1, 12, 12))
    output[:3] = truth[:3] + torch.tensor([0.01, 0.1, 0.4])[:, None, None, None]
    rows = scored(
        output, truth, scorer_of(PSNR, MAE, batch=4), list("pppqqq"), volumes=list("vvvwww")
    )
    volumes = [
        x.transpose(0, 1)[None]
        for part in (slice(3), slice(3, 6))
        for x in (output[part], truth[part])
    ]
    expected = [PSNR(2.0, 3)(*volumes[:2]).item(), PSNR(2.0, 3)(*volumes[2:]).item()]
    found = rows["psnr"]["per"]
    assert found["volume"]["value"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert found["volume"]["n"] == 2
    assert found["slice"]["value"] == pytest.approx(
        PSNR(2.0, 2)(output, truth).mean().item(), abs=1e-4
    )
    assert rows["mae"]["per"]["volume"]["value"] == pytest.approx(
        (output - truth).abs().mean().item(), abs=1e-5
    )


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


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_nan_outputs_leave_no_plausible_score(wrong):
    output, truth = pair((4, 1, 16, 16))
    good = output.clone()
    references = References(truth, list("pqrs"))
    output[1, 0, 3, 3] = wrong
    row = scored(output, truth)["psnr"]
    assert (row["value"], row["ci95"], row["n"], row["images"]) == (None, None, 0, 0)
    model, spoiled = (scorer_of(PSNR, MAE)(images, references) for images in (good, output))
    assert pair_verdict(model, {"identity": spoiled}, SENSES) == {}  # no baseline to beat
    output[1] = 1e30
    row = scored(output, truth, scorer_of(NRMSE))["nrmse"]
    assert row["value"] is None
    assert "1 of 4 images score infinitely" in row["definition"]


# ---- patients and intervals


def test_patients_count_alike_however_many_images_they_have():
    found = estimate([1.0, 1.0, 1.0, 4.0, math.nan], ["p", "p", "p", "q", "q"])
    assert (found.value, found.n) == (2.5, 2)
    every = estimate([1.0, 1.0, 1.0, 4.0], list("pppq"), alike=True)
    assert (every.value, every.n) == (1.75, 4)
    # who is not known may be of one head
    unknown = estimate([1.0, 2.0, math.nan, 4.5], ["", "", "", "p"])
    assert (unknown.value, unknown.n) == (3.0, 2)
    assert estimate([1.0, 2.0], ["", ""]).ci95 is None
    for alike in (False, True):
        assert estimate([1.0, 3.0], ["p", "p"], alike=alike).ci95 is None
        empty = estimate([math.nan], ["p"], alike=alike)
        assert (empty.value, empty.ci95, empty.n) == (None, None, 0)


@pytest.mark.parametrize("alike", [False, True])
def test_intervals_cover_the_true_mean_as_stated(alike):
    """400 studies of 20 patients with 3 images each, whose patients differ more than their images
    do.
    """
    rng = np.random.default_rng(0)
    held = 0
    patients = [f"p{i // 3}" for i in range(60)]
    for _ in range(400):
        values = np.repeat(rng.normal(30, 2, 20), 3) + rng.normal(0, 0.5, 60)
        low, high = estimate(values, patients, alike=alike, draws=400).ci95
        held += low < 30 < high
    assert 0.88 < held / 400 < 0.97  # the percentile bootstrap of 20 is a little narrow


def test_leaving_out_patients_is_the_two_sample_jackknife():
    rng = np.random.default_rng(0)
    x = rng.normal(size=6)
    y = rng.normal(size=8)
    difference = lambda a, b: x[a].mean() - y[b].mean()  # noqa: E731
    value, (low, high) = left_out_interval(difference, [*"pqrstu"], [*"abcdefgh"])
    error = math.sqrt(x.var(ddof=1) / 6 + y.var(ddof=1) / 8)  # what the jackknife of a mean is
    assert value == x.mean() - y.mean()
    assert high - value == pytest.approx(value - low)
    assert high - value == pytest.approx(2.5705818 * error)  # Student's for 5 degrees of freedom
    # one patient's; of nobody known; one image would be left
    for real in (["p"] * 6, [""] * 6, ["p"] * 5 + ["q"]):
        assert left_out_interval(difference, real, [*"abcdefgh"])[1] is None


# ---- verdicts


def test_pair_verdict_is_against_the_best_baseline():
    def scores(*errors: float):
        truth = torch.zeros(4, 1, 4, 4)
        return scorer_of(PSNR, MAE)(
            torch.tensor(errors)[:, None, None, None] + truth, References(truth, list("pqrs"))
        )

    model = scores(0.12, 0.11, 0.10, 0.09)
    baselines = {
        "identity": scores(0.25, 0.25, 0.25, 0.25),
        "histogram": scores(0.2, 0.18, 0.2, 0.18),
        "intensity_map": scores(0.14, 0.10, 0.11, 0.11),
        "regression": scores(0.08, 0.08, 0.08, 0.1),
        "real_split": scores(0.01, 0.01, 0.01, 0.01),
    }
    for row in pair_verdict(model, baselines, SENSES).values():
        assert row["better"] is False
        assert row["best_baseline"] == "regression"
        assert row["probability"] < 0.1
        fair = row["without_pairs"]
        assert (fair["better"], fair["best_baseline"], fair["probability"]) == (
            True,
            "histogram",
            1.0,
        )
        assert min(fair["gains"]) > 0 > max(row["gains"][:3])
        assert len(row["gains"]) == 4
    del baselines["regression"]
    row = pair_verdict(model, baselines, SENSES)["psnr"]
    assert row["best_baseline"] == "intensity_map"
    assert 0.5 < row["probability"] < 1
    assert pair_verdict(model, baselines, {"psnr": None, "mae": None}) == {}
    tie = pair_verdict(model, {"identity": model}, SENSES)["psnr"]
    assert tie["better"] is False
    assert tie["probability"] == 0.5


def test_the_verdict_of_sets_is_as_sure_as_both_intervals_are():
    def row(value, half, higher):
        return {"value": value, "ci95": [value - half, value + half], "higher_is_better": higher}

    model = {
        "kid": row(0.2, 0.05, False),
        "precision": row(0.8, 0.1, True),
        "diversity": row(1.0, 0.1, None),
    }
    verdict = set_verdict(
        model, {"identity": {"kid": row(0.1, 0.05, False), "precision": row(0.7, 0.1, True)}}
    )
    assert set(verdict) == {"kid", "precision"}
    assert verdict["kid"]["better"] is False
    assert verdict["kid"]["probability"] < 0.05
    gain = 0.1 / math.hypot(0.1 / 1.96, 0.1 / 1.96)
    assert verdict["precision"]["better"] is True
    assert verdict["precision"]["probability"] == pytest.approx(
        0.5 * (1 + math.erf(gain / math.sqrt(2))), abs=1e-6
    )


# ---- how well an uncertainty predicts the error


def judged(errors, uncertainties, inside=None, patients=None) -> dict:
    inside = np.ones_like(errors[:, :1]) if inside is None else inside
    return judge_uncertainty(errors, uncertainties, inside, patients or [""] * len(errors))


def test_uncertainty_scores_rank_perfect_above_inverted():
    errors = np.stack(
        [
            np.random.default_rng(k).permutation(np.arange(1.0, 101)).reshape(1, 10, 10)
            for k in range(2)
        ]
    )
    found = judged(errors, 3 * errors + 7)
    curve = found["rejection"]
    assert found["auroc"]["value"] == 1
    assert found["ause"]["value"] == 0
    assert curve["error"] == curve["oracle"]
    assert found["spearman"]["value"] == pytest.approx(1)
    assert (curve["kept"][10], curve["error"][0], curve["error"][10], curve["error"][-1]) == (
        0.5,
        50.5,
        25.5,
        3.0,
    )
    found = judged(errors, -errors)
    assert found["auroc"]["value"] == 0
    assert found["spearman"]["value"] == pytest.approx(-1)
    # of errors 1 to 100 both curves are straight lines, 100 x rejected apart and mirrored at the
    # flat one of 50.5
    assert found["ause"]["value"] == pytest.approx(100 * 0.475 / 50.5)
    assert found["ause"]["random"] == pytest.approx(found["ause"]["value"] / 2)
    found = judged(errors, np.ones_like(errors))
    assert found["auroc"]["value"] == 0.5
    assert found["spearman"]["value"] is None
    assert found["rejection"]["error"] == pytest.approx(found["rejection"]["random"]) == [50.5] * 20


def test_uncertainty_counts_known_foreground_by_patient():
    errors = (
        np.random.default_rng(0)
        .permuted(np.tile(np.arange(1.0, 101), (3, 1)), axis=1)
        .reshape(3, 1, 10, 10)
    )
    uncertainties = np.concatenate([errors[:2], -errors[2:]])
    inside = np.ones_like(errors)
    found = judged(errors, uncertainties, patients=["p", "p", "q"])["auroc"]
    assert (found["value"], found["n"], found["ci95"]) == (0.5, 2, [0.0, 1.0])
    uncertainties[2, :, :5] = errors[2, :, :5]
    inside[2, :, :5] = 0
    errors[0, 0, 9, 9] = np.nan
    assert judged(errors, uncertainties, inside)["auroc"]["value"] == pytest.approx(2 / 3)
    for nothing in (judged(errors, errors, 0 * inside), judged(0 * errors[1:], errors[1:])):
        assert nothing["auroc"]["value"] is None
        assert json.dumps(nothing, allow_nan=False)


def test_a_metric_of_one_number_per_batch_is_refused():
    mean = type(
        "Mean",
        (MAE,),
        {"name": "mean", "of_mean": None, "_score": lambda self, *images: images[0].mean()},
    )
    with pytest.raises(UserError, match=r"the metric 'mean' returns \(\) for 2 images"):
        scored(*pair((2, 1, 20, 20)), scorer_of(mean))
