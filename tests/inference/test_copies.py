"""A model that is copied or pickled, as processes of a loader do it, gives the same pixels."""

import copy
import pickle

import numpy as np
import pytest

import gantk

WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.fixture
def image() -> np.ndarray:
    return (900 * np.random.default_rng(0).random((24, 20))).astype(np.float32)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_gives_the_same_pixels(way, used, image):
    model = gantk.load("t1t2", device="cpu")
    if used:
        model.translate(image, "T2")
    copied = WAYS[way](model)

    assert np.array_equal(copied.translate(image, "T2"), model.translate(image, "T2"))
