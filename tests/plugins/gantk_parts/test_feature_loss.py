"""Losses by features of a frozen network and over the body alone; the segmenter whose features they
take.
"""

import json
import shutil
import tomllib

import numpy as np
import pytest
import torch
from tiny import UNET, random_images, small_run

import gantk
from gantk.errors import UserError
from gantk.plugin.spec import bind_or_raise
from gantk_parts.feature_loss.losses import body_of

SEGMENTER = {"name": "segmenter", "width": 4}
LESIONS = {"lesions": 2, "radius": [10.0, 20.0]}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return small_run(
        tmp_path_factory.mktemp("seen"), SEGMENTER, 2, source=LESIONS, domains=["T2"], mask=True
    )


def feature(network, **options):
    return {"name": "feature", "network": str(network)} | options


def test_body_mask_is_the_largest_part_without_holes():
    image = torch.full((2, 1, 16, 16), -1.0)
    image[:, :, 3:12, 3:12] = 0.0
    image[:, :, 6:8, 6:8] = -1.0
    image[1, :, 14, 14] = 1.0
    body = body_of(image, -0.8)

    assert body[0].sum() == 81
    assert body[1].sum() == 81
    assert body[1, 0, 14, 14] == 0

    loss = bind_or_raise("loss", {"name": "body_l1", "background": 0.2})()
    weight_of_body = 81
    weight_of_air = 0.2 * 175
    weight = weight_of_body + weight_of_air
    error_in_body = float(loss(image + body, image))
    error_in_air = float(loss(image + 1 - body, image))

    assert error_in_body == pytest.approx(weight_of_body / weight)
    assert error_in_air == pytest.approx(weight_of_air / weight)


def test_runs_keep_their_feature_weights(segmenter, tmp_path):
    network = shutil.copytree(segmenter, tmp_path / "segmenter")
    dice = json.loads((network / "metrics.json").read_text())["metrics"]["lesions"]["dice"]

    assert dice["n"] >= 1
    assert 0 <= dice["value"] <= 1
    run = small_run(
        tmp_path, {"name": "regression", "generator": UNET, "target_losses": [feature(network)]}, 2
    )
    assert (
        len(
            tomllib.loads((run / "recipe.toml").read_text())["method"]["target_losses"][0]["sha256"]
        )
        == 64
    )

    shutil.rmtree(network)
    other = small_run(tmp_path / "other", SEGMENTER, 3, source=LESIONS, domains=["T2"], mask=True)
    other.rename(network)

    with pytest.raises(
        UserError, match="other weights than at the start of this training.*target_losses.sha256"
    ):
        gantk.resume(run, device="cpu", say=str)

    shutil.rmtree(network)

    assert gantk.load(run, device="cpu").translate(
        np.zeros((32, 32), np.float32), to="T2"
    ).shape == (32, 32)


def test_what_cannot_be_is_one_message(segmenter, tmp_path):
    for words, options, channels in (
        ("no layer 'encoder.9'.*Allowed: output, ", {"layers": ["encoder.9"]}, 1),
        ("1 layer_weights for 0 layers", {"layer_weights": [1.0]}, 1),
        ("takes 2-D images of 1 channels, but these are 2-D images of 3", {}, 3),
        ("there is no folder 'nowhere/run'", {"network": "nowhere/run"}, 1),
    ):
        with pytest.raises(UserError, match=words):
            bind_or_raise("loss", feature(segmenter) | options)()(
                *2 * [random_images(1, channels, (32, 32), 1)]
            )

    regression = {
        "name": "regression",
        "generator": UNET,
        "target_losses": [feature(tmp_path / "run")],
    }
    small_run(tmp_path, regression | {"target_losses": []})
    twice = regression | {"target_losses": ["l1"]}
    for words, method in {
        "two losses are called 'l1'": twice,
        "method 'segmenter'": regression,
        "data.mask is false": SEGMENTER,
    }.items():
        with pytest.raises(UserError, match=words):
            small_run(
                tmp_path / "more", method, domains=["T2"] if method is SEGMENTER else ["T1", "T2"]
            )
