"""The L1 loss with a lower weight outside the body."""

import pytest
import torch

from gantk.plugin.spec import bind

PIXELS_OF_BODY = 81
PIXELS_OF_AIR = 175


def test_body_is_the_largest_part_without_holes():
    image = torch.full((2, 1, 16, 16), -1.0)
    image[:, :, 3:12, 3:12] = 0.0
    body = (image > -0.8).float()
    image[:, :, 6:8, 6:8] = -1.0
    image[1, :, 14, 14] = 1.0
    loss = bind("loss", {"name": "body_l1", "background": 0.2})()
    weight = PIXELS_OF_BODY + 0.2 * PIXELS_OF_AIR

    assert float(loss(image + body, image)) == pytest.approx(PIXELS_OF_BODY / weight)
    assert float(loss(image + 1 - body, image)) == pytest.approx(0.2 * PIXELS_OF_AIR / weight)
