"""The value distributions in metrics.json are those of the images."""

import numpy as np
import pytest
import torch
from tiny import random_images

from gantk.metrics.values import value_distributions


def test_shares_are_those_of_the_pixels():
    images = random_images(4, 1, (16, 16))
    row = value_distributions({"real": images, "generated": images}, -1.0, 2.0)
    counts, _ = np.histogram((images.numpy() + 1) / 2, row.edges)

    assert row.shares["real"] == pytest.approx(counts / counts.sum(), abs=1e-6)
    assert row.distance == {"generated": 0.0}


@pytest.mark.parametrize("shift", [-0.25, 0.125, 0.5])
def test_distance_is_the_shift_of_all_intensities(shift):
    real = torch.full((2, 1, 8, 8), 0.4)
    row = value_distributions({"real": real, "generated": real + shift}, 0.0, 1.0)

    assert row.distance["generated"] == pytest.approx(abs(shift), abs=0.02)
