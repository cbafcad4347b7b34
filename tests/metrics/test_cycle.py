"""Reconstructions: what a two-way method makes of an image there and back, in samples, scores and
the report.
"""

import json

import numpy as np
import pytest
from pages import Page
from PIL import Image
from scorers import scorer_of
from tiny import PATCHGAN, UNET, small_run

from gantk.method import Method

NETWORKS = {"generator": UNET, "discriminator": PATCHGAN}
MUNIT = {"width": 4, "blocks": 1, "mlp_dim": 8, "discriminator": PATCHGAN | {"name": "munit"}}
TWO_WAY = [
    {"name": "cyclegan"} | NETWORKS,
    {"name": "dualgan"} | NETWORKS,
    {"name": "back_translation", "generator": UNET},
    {"name": "munit"} | MUNIT,
]


class Darkens(Method):
    """Translates to b by halving the distance from black, and back by adding a tenth."""

    def translate(self, image, to):
        return (image + 1) / 2 - 1 if to == "b" else image + 0.1


def test_cycle_error_is_the_distance_after_the_way_back():
    scorer = scorer_of(Darkens)
    shown = scorer.reals.scored_images([pair["a"] for pair in scorer.data.pairs("test")])
    rows = scorer.test().dump()["cycle"]["a_to_b"]

    expected = ((shown + 1) / 2 - 1 + 0.1 - shown).abs()
    inside = shown > -0.9
    assert rows["mae"]["value"] == pytest.approx(float(expected.mean()), abs=1e-6)
    assert rows["mae_foreground"]["value"] == pytest.approx(
        float(expected[inside].mean()), rel=0.02
    )
    assert rows["mae"]["images"] == len(shown)
    assert rows["mae"]["definition"].startswith("a_to_b_to_a/mae/fixed-range-2/")


@pytest.mark.quick_cases("back_translation")
@pytest.mark.parametrize("method", TWO_WAY, ids=lambda method: method["name"])
def test_two_way_runs_show_reconstructions(method, tmp_path):
    run = small_run(tmp_path, method)
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    (logged,) = [line["cycle"] for line in lines if "cycle" in line]
    page = Page(run / "report.html")

    for direction, names in {"a_to_b": ("T1", "T2"), "b_to_a": ("T2", "T1")}.items():
        source, target = names
        assert metrics["cycle"][direction]["mae"]["value"] > 0
        back, given = (
            np.asarray(Image.open(run / "samples" / group / f"{direction}-0.png"), float)
            for group in ("step-000000/cycle", "input")
        )
        assert logged[direction] == pytest.approx(np.abs(back - given).mean() / 127.5, abs=0.02)
        assert f"Input: {source} Real {target} Generated {target}" in page.words
        assert f"{source} → {target} → {source}: translated there and back" in page.words
