"""Landmark matching: scans of many scanners come onto one scale, each with its own exact way back."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gantk.data.intensity import Mapping, Percentile, PerChannel
from gantk.data.nyul import Nyul, corners
from gantk.errors import UserError
from gantk.formats.files import read
from gantk.plugin.loader import registry


def head(gain=1.0, gamma=1.0, seed=0):
    """A scan (1, 6, 24, 24): air around four tissues, on a scanner's own scale."""
    rng = np.random.default_rng(seed)
    tissue = np.zeros((6, 24, 24))
    tissue[1:5, 4:20, 4:20] = rng.choice([0.2, 0.5, 0.7, 1.0], (4, 16, 16)) + rng.normal(0, 0.03, (4, 16, 16))
    return (gain * 1000 * np.abs(tissue) ** gamma).astype(np.float32)[None]


@pytest.fixture
def fitted():
    mapping = Nyul()
    mapping.fit([head(), head(2.0, 1.3, 1), head(0.3, 0.8, 2)])
    return mapping


def test_the_scale_is_the_mean_of_the_papers_stretched_landmarks():
    mapping = Nyul(percentiles=(0, 50, 100), foreground=False, range=(0.0, 1.0))
    mapping.fit([np.array([[[0.0, 2.0, 10.0]]], np.float32), np.array([[[100.0, 140.0, 200.0]]], np.float32)])
    # air is the darkest value here, and coincides with percentile 0: one landmark less on the scale
    np.testing.assert_allclose(mapping.scale, [0, (0.2 + 0.4) / 2, 1])
    np.testing.assert_allclose(mapping.mean, [50, 71, 105])
    own = mapping.of(np.array([[[0.0, 5.0, 20.0]]], np.float32))
    np.testing.assert_allclose(own.forward(np.array([0.0, 2.5, 5, 12.5, 20])), [0, 0.15, 0.3, 0.65, 1])


def test_scanners_that_differ_by_gain_see_the_same(fitted):
    one, other = head(1.0, seed=7), head(5.0, seed=7)
    np.testing.assert_allclose(fitted.of(one).forward(one), fitted.of(other).forward(other), atol=1e-4)


def test_scanners_that_differ_by_more_than_gain_come_nearer_than_by_a_line(fitted):
    line = Percentile(per="volume", foreground=True)
    line.fit([head()])
    scans = [head(1.0, 1.0, 7), head(3.0, 1.5, 7), head(0.5, 0.7, 7)]
    spread = [np.std([mapping.of(scan).forward(scan) for scan in scans], axis=0).mean() for mapping in (fitted, line)]
    assert spread[0] < spread[1] / 3


def test_air_is_the_start_of_the_range_and_the_last_percentile_its_end(fitted):
    scan = head(1.7, 1.1, 9)
    own = fitted.of(scan)
    top = np.percentile(scan[scan > scan.mean()], 99)
    assert own.forward(np.float32(0)) == pytest.approx(-1) and own.forward(np.float64(top)) == pytest.approx(1)


def test_beyond_its_ends_the_polygon_goes_on_straight(fitted):
    own = fitted.of(head(seed=4))
    (low, after), (before, high) = own._native[:2], own._native[-2:]
    below, above = own.forward(np.array([low - 10.0, low])), own.forward(np.array([high, high + 10.0]))
    first = np.diff(own.forward(np.array([low, after])))[0] / (after - low)
    last = np.diff(own.forward(np.array([before, high])))[0] / (high - before)
    assert np.diff(below)[0] / 10 == pytest.approx(first) and np.diff(above)[0] / 10 == pytest.approx(last)
    assert above[1] > 1 and below[0] < -1, "nothing is clipped"


@given(
    scan=hnp.arrays(np.float32, (1, 3, 5, 5), elements=st.integers(-200, 4095).map(float)),
    values=hnp.arrays(np.float64, 20, elements=st.integers(-1000, 8000).map(float)),
)
@settings(max_examples=60, deadline=None)
def test_every_scan_has_a_rising_map_and_the_exact_inverse(fitted_once, scan, values):
    own = fitted_once.of(scan)
    np.testing.assert_allclose(own.inverse(own.forward(values)), values, atol=1e-6, rtol=1e-9)
    assert (np.diff(own.forward(np.unique(values))) > 0).all()


@pytest.fixture(scope="module")
def fitted_once():
    mapping = Nyul()
    mapping.fit([head(seed=seed) for seed in range(3)])
    return mapping


@given(hnp.arrays(np.float32, 50, elements=st.integers(0, 4095).map(float)))
@settings(max_examples=30, deadline=None)
def test_whole_numbers_come_back_through_the_networks_float32(values):
    rng = np.random.default_rng(0)
    scan = np.sort(rng.integers(0, 4096, 4000)).astype(np.float32).reshape(1, 10, 20, 20)
    mapping = Nyul()
    mapping.fit([scan])
    own = mapping.of(scan)
    seen = own.forward(values)
    assert seen.dtype == np.float32
    assert np.abs(own.inverse(seen) - values).max() < 1e-3


def test_results_come_out_on_the_scale_of_a_typical_scan(fitted):
    tops = [np.percentile(s[s > s.mean()], 99) for s in (head(), head(2.0, 1.3, 1), head(0.3, 0.8, 2))]
    assert fitted.inverse(np.float64(1)) == pytest.approx(np.mean(tops), rel=1e-6)
    assert fitted.inverse(np.float64(-1)) == pytest.approx(0)


def test_a_scan_without_contrast_takes_the_training_sets_landmarks(fitted):
    own = fitted.of(np.full((1, 4, 8, 8), 300, np.float32))
    np.testing.assert_array_equal(own.forward(head()), own._forward(head()))
    np.testing.assert_array_equal(own._native, fitted._native)
    assert own.per == "set", "its slices are not measured again"


def test_landmarks_that_coincide_are_one():
    native, network = corners(np.array([0.0, 0, 0, 5, 5, 9]), np.array([0.0, 0.1, 0.2, 0.6, 0.8, 1]))
    np.testing.assert_allclose(native, [0, 5, 9])
    np.testing.assert_allclose(network, [0.1, 0.7, 1])


def test_percentiles_that_training_scans_do_not_part_are_left_out_of_the_scale():
    picture = np.repeat(np.array([0.0, 100.0, 200.0], np.float32), 300).reshape(1, 30, 30)
    mapping = Nyul(foreground=False)
    mapping.fit([picture])
    assert len(mapping.scale) == len(mapping.kept) < 12 and (np.diff(mapping.scale) > 1e-3).all()
    values = np.linspace(-50, 250, 301)
    np.testing.assert_allclose(mapping.of(picture).inverse(mapping.of(picture).forward(values)), values, atol=1e-9)


def test_constant_training_scans_are_refused():
    with pytest.raises(UserError, match=r"all 2 training images of a domain have no contrast.*data\.intensity"):
        Nyul().fit([np.full((1, 8, 8), 7, np.float32)] * 2)


def test_constant_scans_among_others_do_not_count(fitted):
    again = Nyul()
    again.fit([head(), np.zeros((1, 6, 24, 24), np.float32), head(2.0, 1.3, 1), head(0.3, 0.8, 2)])
    assert again.state() == fitted.state()


def test_a_checkpoint_brings_back_the_same_mapping(fitted):
    state = json.loads(json.dumps(fitted.state()))
    scan = head(1.5, 1.2, 5)
    for again in (Nyul.from_state(state), Mapping.from_state(state)):
        np.testing.assert_array_equal(again.of(scan).forward(scan), fitted.of(scan).forward(scan))
        np.testing.assert_array_equal(again.inverse(scan), fitted.inverse(scan))
        assert again.state() == fitted.state()


def test_tensors_and_arrays_map_alike_and_stay_float32(fitted):
    array = head(seed=3)
    for function in (fitted.forward, fitted.inverse, fitted.of(array).forward):
        tensor = function(torch.from_numpy(array))
        assert function(array).dtype == np.float32 and tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor.numpy(), function(array), rtol=1e-6, atol=1e-5)


def test_each_contrast_has_its_own_scale():
    scans = [np.concatenate([head(seed=s), head(4.0, 1.2, s + 10)]) for s in range(3)]
    mapping = PerChannel([Nyul(), Nyul()], ["T1", "T2"], 2)
    mapping.fit(scans)
    assert mapping.per == "volume" and mapping.lines[1].mean[-1] > 2 * mapping.lines[0].mean[-1]
    lacking = scans[0].copy()
    lacking[1] = np.nan
    own = mapping.of(lacking)
    assert own.lines[1] is mapping.lines[1] and own.lines[0].per == "set"
    slices = np.moveaxis(scans[0], 1, 0)
    np.testing.assert_allclose(mapping.of(scans[0]).inverse(mapping.of(scans[0]).forward(slices)), slices, atol=1e-2)


@pytest.mark.parametrize("wrong", [(), (50, 10), (10, 10, 90), (-1, 50), (50, 101)])
def test_impossible_percentiles_are_the_users_mistake(wrong):
    with pytest.raises(UserError, match=r"no percentiles to match.*rising, from 0 to 100.*intensity\.percentiles"):
        Nyul(percentiles=wrong)


def test_a_recipe_finds_it_by_name():
    assert registry().get("intensity", "nyul").load() is Nyul


def test_two_patients_of_one_study_come_together(shared_data):
    files = sorted((shared_data / "open_ms").glob("patient*/T1*.nii.gz"))
    scans = [read(file).pixels[:, 60:120:6] for file in files]
    mapping, line = Nyul(), Percentile(per="volume")
    mapping.fit(scans)
    line.fit(scans)

    def medians(one):
        return [np.median(one.of(scan).forward(scan)[scan > scan.mean()]) for scan in scans]

    assert abs(np.diff(medians(mapping))[0]) < 0.02 < abs(np.diff(medians(line))[0])
