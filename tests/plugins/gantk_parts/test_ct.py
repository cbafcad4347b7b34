"""CT in Hounsfield units: most of the range is brain's, the way back is exact, errors are told in
HU or refused.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import read_json, registered

import gantk
from gantk.data.intensity import Percentile, mapping_from
from gantk.errors import UserError
from gantk.losses.structure import local_ncc_and_flat_region
from gantk.plugin.spec import bind
from gantk.recipe.load import load_recipe

Windows = registered("intensity", "ct")
CorrelationRatio = registered("loss", "correlation_ratio")
HounsfieldMAE = registered("metric", "mae_hu")

HU = np.linspace(-1024, 3071, 4096, dtype=np.float32).reshape(1, 64, 64)  # all that 12 bits hold


def fitted(pixels, **options):
    mapping = Windows(**options)
    mapping.fit([pixels])
    return mapping


@pytest.mark.parametrize("padding", [-1024, -3024])
def test_hounsfield_units_come_back_to_less_than_a_rounding(padding):
    pixels = HU.copy()
    pixels[0, :9] = padding
    mapping = fitted(pixels)
    same = mapping_from(json.loads(json.dumps(mapping.state())))
    seen = same.forward(pixels)

    assert np.abs(np.rint(same.inverse(seen)) - np.rint(pixels)).max() == 0
    assert np.abs(same.inverse(torch.from_numpy(seen)).numpy() - pixels).max() < 0.01
    assert seen.min() > -1.05
    assert (np.diff(np.unique(seen)) > 0).all()


@pytest.mark.slow
def test_pictures_hold_no_hounsfield_units(tmp_path):
    gray = np.arange(256, dtype=np.float32).reshape(1, 16, 16)
    with pytest.raises(UserError, match="have values from 0 to 255.*no_hu"):
        fitted(gray)

    (line := Percentile()).fit([gray])
    mapping = fitted(gray, no_hu="percentile")

    assert np.array_equal(mapping.forward(gray), line.forward(gray))
    assert mapping.tissue == line.tissue

    for n, kind in enumerate(("CT", "MR") * 5):
        (tmp_path / kind).mkdir(exist_ok=True)
        noise = np.random.default_rng(n).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / kind / f"{n}.png")

    settings = ["evaluate.metrics=['mae_hu']", "data.size=[64,64]", "data.split.by='image'"]

    with pytest.raises(
        UserError, match="'mae_hu' needs CT in Hounsfield units.*pictures have no HU"
    ):
        gantk.run(
            "cyclegan_ct_mr",
            data=tmp_path,
            profile="cpu",
            set=settings,
            out=tmp_path / "run",
            device="cpu",
        )

    settings[0] = "train.steps=1"
    told = []
    run = gantk.run(
        "cyclegan_ct_mr",
        data=tmp_path,
        profile="cpu",
        set=settings,
        out=tmp_path / "it",
        say=told.append,
    )

    assert "note     CT: no Hounsfield units: mapped by minmax instead of windows" in told
    fit = read_json(next(run.path.glob("checkpoints/*/meta.json")))["intensity"]
    assert fit["a"]["fitted"][0] == fit["b"]["fitted"][:2] == [0, 254]  # as `minmax` has it
    # no_hu = "skip" in the recipe
    assert "mae_hu" not in (run.path / "metrics.json").read_text("utf-8")
    with pytest.raises(UserError, match="mae, which is in the unit of the files"):
        gantk.compare(tmp_path / "CT", tmp_path / "CT", metrics=["mae_hu"])


def test_soft_tissue_alone_is_scored_where_it_is_asked_for():
    truth = torch.tensor([-1000.0, 0, 50, 100, 1500, -30]).reshape(1, 1, 1, 6)
    metric = HounsfieldMAE(2.0, 2, within=(-20, 100))

    assert metric.name == "mae_hu_within"
    assert "within--20-to-100" in metric.definition

    off = torch.tensor([500.0, 10, -20, 30, 900, 7]).reshape(truth.shape)
    (error,) = metric.in_regions(truth + off, truth, [None])

    # a region of its own
    assert error.item() == pytest.approx(20)
    assert metric.in_mask is None

    with pytest.raises(UserError, match="the range from 100 to -20 HU is empty"):
        HounsfieldMAE(2.0, 2, within=(100, -20))

    # over 4024 HU, whatever the networks' range
    decibels = bind("metric", "psnr_hu")(2.0, 2)

    assert decibels(truth + 40.24, truth).item() == pytest.approx(40)
    assert "range-4024-HU" in decibels.definition


@pytest.mark.slow
def test_each_ct_domain_has_its_mapping_and_hu_errors(tmp_path):
    settings = [
        'data.intensity={name="domains",a="ct",b="percentile"}',
        'evaluate.metrics=["mae","mae_hu"]',
    ]
    settings += [
        "data.size=[32,32]",
        "data.source.subjects=4",
        "data.source.slices=1",
        "train.steps=1",
    ]
    settings += [
        "method.low_res_warmup=0.0",
        "method.generator.width=4",
        "method.discriminator.width=4",
    ]
    run = gantk.run(
        "cyclegan_ct_mr",
        profile="cpu",
        set=settings,
        out=tmp_path / "run",
        device="cpu",
        say=lambda _: 0,
    )
    mappings = read_json(next(run.path.glob("checkpoints/*/meta.json")))["intensity"]

    assert {letter: one["name"] for letter, one in mappings.items()} == {
        "a": "ct",
        "b": "percentile",
    }
    found = read_json(run.path / "metrics.json")["metrics"]
    assert "mae_hu" not in found["a_to_b"]  # MR has no such units
    row = found["b_to_a"]["mae_hu"]
    assert row["unit"] == "HU"
    assert row["value"] > 20 * found["b_to_a"]["mae"]["value"]

    made = (
        load_recipe("cyclegan_ct_mr")
        .override(["data.intensity.range=[0,1]"])
        .check()
        .data.intensity
    )

    assert made().range == (0, 1)
    assert {part().range for part in made().parts.values()} == {(0, 1)}

    with pytest.raises(UserError, match="ranges .* but networks have one"):
        apart = 'data.intensity={name="domains",b={name="minmax",range=[0,1]}}'
        gantk.run(
            "cyclegan_ct_mr",
            profile="cpu",
            set=[*settings, apart],
            out=tmp_path / "other",
            device="cpu",
        )


def test_correlation_ratio_wants_one_value_per_tissue():
    # fluid, gray and white matter; 3: bone
    tissue = np.random.default_rng(0).choice(3, (64, 64), p=[0.1, 0.5, 0.4])
    shown = np.pad(tissue, ((8, 0), (0, 0)), constant_values=3)[None, None]
    t1, ct = (
        torch.tensor(x)[shown].requires_grad_()
        for x in ([-0.6, 0.0, 0.3, -1.0], [-0.4, 0.1, 0.0, 0.9])
    )

    local_ncc, _ = local_ncc_and_flat_region(ct, t1)
    assert CorrelationRatio(fluid="any", weight=1.0)(ct, t1) < 0.01 < 0.1 < local_ncc
    assert CorrelationRatio()(ct, t1) < 0.2 < 0.3 < CorrelationRatio(fluid="bright")(ct, t1)
    CorrelationRatio()(ct + 0.1 * torch.randn_like(t1), t1).backward()
    assert ct.grad[..., 10:, :].any()
    assert not ct.grad[..., :8, :].any()
