"""Reconstructions: what a two-way method makes of an image there and back, in samples, log and
report.
"""

import json

import numpy as np
import pytest
from pages import Page
from PIL import Image
from tiny import PATCHGAN, UNET, small_run

NETWORKS = {"generator": UNET, "discriminator": PATCHGAN}
MUNIT = {"width": 4, "blocks": 1, "mlp_dim": 8, "discriminator": PATCHGAN | {"name": "munit"}}
TWO_WAY = [
    {"name": "cyclegan"} | NETWORKS,
    {"name": "dualgan"} | NETWORKS,
    {"name": "back_translation", "generator": UNET},
    {"name": "munit"} | MUNIT,
]


@pytest.mark.quick_cases("back_translation")
@pytest.mark.parametrize("method", TWO_WAY, ids=lambda method: method["name"])
def test_two_way_runs_show_reconstructions(method, tmp_path):
    run = small_run(tmp_path, method, scored=True)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    (logged,) = [line["cycle"] for line in lines if "cycle" in line]
    page = Page(run / "report.html")

    for direction, names in {"a_to_b": ("T1", "T2"), "b_to_a": ("T2", "T1")}.items():
        source, target = names
        back, given = (
            np.asarray(Image.open(run / "samples" / group / f"{direction}-0.png"), float)
            for group in ("step-000000/cycle", "input")
        )
        assert logged[direction] == pytest.approx(np.abs(back - given).mean() / 127.5, abs=0.02)
        assert f"Input: {source} Real {target} Generated {target}" in page.words
