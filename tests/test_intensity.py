"""Intensity mappings and fits: what goes in comes out, on any numbers, before and after a checkpoint."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gantk.data.fit import Fit, resize
from gantk.data.intensity import Linear, MinMax, Percentile, Unit, Window, ZScore, from_state
from gantk.errors import UserError

KINDS = [Percentile, MinMax, ZScore, Window, Unit]


def images(seed=0, count=3, high=200.0):
    rng = np.random.default_rng(seed)
    return [(rng.random((1, 12, 10)) * high).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@given(
    image=hnp.arrays(np.float32, (1, 4, 5), elements=st.floats(-500, 500, width=32)),
    ends=st.sampled_from([(-1.0, 1.0), (0.0, 1.0)]),
)
@settings(max_examples=20, deadline=None)
def test_inverse_undoes_forward_even_beyond_the_range(kind, image, ends):
    mapping = kind(range=ends)
    mapping.fit(images())
    np.testing.assert_allclose(mapping.inverse(mapping.forward(image)), image, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_brings_back_the_same_mapping(kind):
    mapping = kind(range=(0.0, 1.0))
    mapping.fit(images())
    state = json.loads(json.dumps(mapping.state()))
    for again in (kind.from_state(state), from_state(state)):
        assert type(again) is kind and again.range == (0.0, 1.0)
        np.testing.assert_array_equal(again.forward(images()[0]), mapping.forward(images()[0]))
        assert again.state() == mapping.state()


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_and_arrays_map_alike_and_stay_float32(kind):
    mapping = kind()
    mapping.fit(images())
    array, tensor = images()[0], torch.from_numpy(images()[0])
    for function in (mapping.forward, mapping.inverse):
        assert function(array).dtype == np.float32 and function(tensor).dtype == torch.float32
        np.testing.assert_allclose(function(tensor).numpy(), function(array), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", [Percentile, MinMax, ZScore])
def test_a_set_without_contrast_is_refused(kind):
    with pytest.raises(UserError, match="no contrast"):
        kind().fit([np.full((1, 8, 8), 7, np.float32)] * 3)


def test_minmax_takes_the_extremes_to_the_ends():
    mapping = MinMax()
    mapping.fit([np.array([[[3.0, 5.0]]], np.float32), np.array([[[9.0, 13.0]]], np.float32)])
    np.testing.assert_allclose(mapping.forward(np.array([3.0, 8.0, 13.0], np.float32)), [-1, 0, 1], atol=1e-6)


def test_percentile_ignores_a_few_bright_voxels_and_does_not_clip_them():
    values = np.linspace(0, 100, 10_000, dtype=np.float32).reshape(1, 100, 100)
    values[0, 0, 0] = 1e6
    mapping = Percentile()
    mapping.fit([values])
    assert mapping.forward(np.float32(99.5)) == pytest.approx(1, abs=0.01) and mapping.forward(values).max() > 1000


def test_foreground_leaves_air_out():
    image = np.zeros((1, 10, 10), np.float32)
    image[0, :3, :] = np.linspace(100, 200, 30).reshape(3, 10)
    mapping = Percentile(foreground=True)
    mapping.fit([image])
    assert mapping.low == pytest.approx(100)


def test_per_image_gives_each_its_own_line():
    mapping = Percentile(high=100.0, per="image")
    mapping.fit(images())
    for image in images(seed=1, high=5000.0):
        assert mapping.forward(image).min() == pytest.approx(-1) and mapping.forward(image).max() == pytest.approx(1)
    assert np.isfinite(mapping.forward(np.zeros((1, 4, 4), np.float32))).all(), "a constant image takes the set's line"


def test_zscore_puts_the_mean_in_the_middle():
    mapping = ZScore(spread=2.0)
    values = np.concatenate([image.ravel() for image in images()])
    mapping.fit(images())
    assert mapping.forward(values.mean()) == pytest.approx(0, abs=1e-3)
    assert mapping.forward(values.mean() + 2 * values.std()) == pytest.approx(1, abs=1e-3)


def test_window_and_unit_need_no_fitting():
    np.testing.assert_allclose(Window(low=-1000, high=1000).forward(np.array([-1000.0, 0, 3000])), [-1, 0, 3])
    np.testing.assert_allclose(Unit(bits=16).forward(np.array([0.0, 65535])), [-1, 1])


def test_unit_refuses_what_is_no_picture():
    with pytest.raises(UserError, match="bits = 16"):
        Unit().fit([np.array([[[0.0, 4000.0]]], np.float32)])


@pytest.mark.parametrize("wrong", [dict(low=50.0, high=50.0), dict(high=101.0), dict(range=(1.0, 1.0))])
def test_impossible_options_are_the_users_mistake(wrong):
    with pytest.raises(UserError):
        Percentile(**wrong)


def test_every_kind_is_known_by_its_name():
    assert set(Linear.kinds) >= {"percentile", "minmax", "zscore", "window", "unit"}


sides = st.integers(3, 40)


@given(native=st.tuples(sides, sides), size=st.tuples(sides, sides), mode=st.sampled_from(["pad", "stretch"]))
@settings(max_examples=60, deadline=None)
def test_any_size_fits_and_comes_back(native, size, mode):
    fit = Fit(native, size, mode)
    image = np.random.default_rng(0).random((2, *native)).astype(np.float32)
    fitted = fit.forward(image)
    assert fitted.shape == (2, *size) and fit.inverse(fitted).shape == image.shape
    tolerance = 1e-5
    assert fitted.min() >= image.min() - tolerance and fitted.max() <= image.max() + tolerance, "nothing overshoots"


@given(value=st.floats(-100, 100, width=32), native=st.tuples(sides, sides, sides), size=st.tuples(sides, sides, sides))
@settings(max_examples=20, deadline=None)
def test_a_flat_image_stays_flat(value, native, size):
    image = np.full((1, *native), value, np.float32)
    fitted = Fit(native, size).forward(image)
    np.testing.assert_allclose(fitted, value, rtol=1e-5, atol=1e-5)


def test_padding_keeps_the_aspect_and_the_pixels():
    image = np.random.default_rng(0).random((1, 96, 80)).astype(np.float32)
    fit = Fit((96, 80), (96, 96))
    fitted = fit.forward(image, fill=-7.0)
    np.testing.assert_array_equal(fitted[:, :, 8:88], image)
    assert (fitted[:, :, :8] == -7).all() and (fitted[:, :, 88:] == -7).all()
    np.testing.assert_array_equal(fit.inverse(fitted), image)


def test_padding_takes_the_images_own_minimum():
    image = np.random.default_rng(0).random((1, 20, 10)).astype(np.float32) + 3
    assert Fit((20, 10), (20, 20)).forward(image)[0, 0, 0] == image.min()


@pytest.mark.parametrize("to", [(40, 24), (11, 9), (7, 60)])
def test_resizing_agrees_with_the_antialiased_reference(to):
    image = np.random.default_rng(1).random((1, 33, 27)).astype(np.float32)
    tensor = torch.from_numpy(image)[None]
    expected = torch.nn.functional.interpolate(tensor, to, mode="bilinear", antialias=True)[0].numpy()
    np.testing.assert_allclose(resize(image, to), expected, atol=1e-4)


def test_shrinking_does_not_alias():
    stripes = np.tile(np.array([0.0, 1.0], np.float32), 32)[None, None].repeat(16, axis=1)
    assert resize(stripes, (16, 16)).std() < 0.05


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="takes images of"):
        Fit((8, 8), (16, 16)).forward(np.zeros((1, 9, 8), np.float32))
