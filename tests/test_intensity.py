"""Intensity mappings and fits: what goes in comes out, on any numbers, before and after a checkpoint."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gantk.data.intensity import (
    Mapping,
    MinMax,
    Percentile,
    PerChannel,
    Unit,
    Window,
    ZScore,
    otsu,
    split_values,
    to_network,
)
from gantk.data.resample import Resize, resize
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
    for again in (kind.from_state(state), Mapping.from_state(state)):
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


def scan(level, seed=0):
    """A volume (1, 5, 12, 10) whose air is 0 and whose slices get brighter from the bottom up."""
    rng = np.random.default_rng(seed)
    volume = np.zeros((1, 5, 12, 10), np.float32)
    volume[:, :, 3:9, 2:8] = level * (0.5 + 0.5 * rng.random((1, 5, 6, 6))) * np.linspace(0.6, 1, 5).reshape(1, 5, 1, 1)
    return volume


@pytest.mark.parametrize("kind", [Percentile, MinMax, ZScore])
def test_per_volume_gives_each_scan_one_line_and_its_exact_inverse(kind):
    mapping = kind(per="volume")
    mapping.fit([scan(100), scan(300, 1)])
    volume = scan(7000, 2)
    own = mapping.of(volume)
    assert own is not mapping and own.of(scan(5)) is own, "a scan's mapping is its own for good"
    slices = [own.forward(volume[:, k]) for k in range(5)]
    np.testing.assert_array_equal(np.stack(slices, 1), own.forward(volume))
    np.testing.assert_allclose(own.inverse(own.forward(volume)), volume, atol=1e-3)
    again = Mapping.from_state(json.loads(json.dumps(own.state())))
    np.testing.assert_array_equal(again.forward(volume), own.forward(volume))
    assert slices[0].max() < slices[4].max(), "slices keep their brightness among each other"


@pytest.mark.parametrize("kind", [Percentile, MinMax, ZScore])
@pytest.mark.parametrize("per", ["volume", "image"])
def test_what_comes_out_is_on_the_scale_of_a_typical_scan(kind, per):
    scans = [scan(100), scan(300, 1), np.zeros((1, 5, 12, 10), np.float32)]
    mapping = kind(per=per)
    mapping.fit(scans)
    ends = np.array([kind().ends_of([one]) for one in scans[:2]])
    np.testing.assert_allclose((mapping.low, mapping.high), ends.mean(axis=0)), "constant scans do not count"
    np.testing.assert_allclose(mapping.inverse(np.array([-1.0, 1.0])), ends.mean(axis=0))


def test_a_scan_without_contrast_takes_the_training_sets_line():
    mapping = Percentile(per="volume")
    mapping.fit([scan(100), scan(300)])
    own = mapping.of(np.full((1, 4, 4, 4), 9, np.float32))
    assert (own.low, own.high) == (mapping.low, mapping.high)


def test_per_set_and_windows_have_one_mapping_for_all_scans():
    fitted = Percentile()
    fitted.fit([scan(100)])
    for mapping in (fitted, Window(), Unit()):
        assert mapping.of(scan(5000)) is mapping


@given(
    values=hnp.arrays(np.float32, 64, elements=st.integers(0, 65535).map(float)),
    kind=st.sampled_from([Unit(bits=16), Window(low=0, high=65535), MinMax(), Percentile(high=100.0)]),
)
@settings(max_examples=60, deadline=None)
def test_whole_numbers_of_16_bits_come_back_through_the_networks_float32(values, kind):
    kind.fit([np.array([[[0.0, 65535.0]]], np.float32)])
    for image in (values, values.astype(np.uint16)):
        seen = kind.forward(image)
        assert seen.dtype == np.float32, "networks see single precision"
        assert np.abs(kind.inverse(seen).astype(np.float64) - values).max() < 1e-3


def test_otsu_parts_air_and_stripped_zeros_from_tissue():
    rng = np.random.default_rng(0)
    air, tissue = np.abs(rng.normal(0, 10, 7000)), rng.uniform(300, 500, 3000)
    for background, inside in ((air, tissue), (np.zeros(9900), tissue[:100]), (air[:1500], tissue)):
        values = np.concatenate([background, inside, [50_000.0]])  # one vessel does not move it
        threshold = otsu(values)
        assert background.max() < threshold < inside.min()
    assert 0.4 < otsu(np.array([0.0] * 6 + [1.0] * 4)) < 0.6, "the middle of the gap"


@pytest.mark.parametrize("foreground, lowest", [(False, 0.0), (True, 40.0), ("otsu", 40.0)])
def test_foregrounds_leave_air_out_of_every_kind(foreground, lowest):
    volume = scan(100)
    for kind in (Percentile, MinMax):
        mapping = kind(per="volume", foreground=foreground, **({"high": 100.0} if kind is Percentile else {}))
        mapping.fit([volume])
        assert mapping.low >= lowest * 0.7 and (mapping.low == 0) == (foreground is False)
        assert mapping.high == pytest.approx(volume.max())
    inside = ZScore(foreground=foreground)
    inside.fit([volume])
    values = split_values(volume, foreground)[0]
    assert inside.inverse(np.float64(0)) == pytest.approx(values.mean(), rel=1e-5)


def test_a_whole_head_is_foreground_and_the_air_around_it_is_not(shared_data):
    from gantk.formats.files import read

    for name in ("patient07/T1*.nii.gz", "raw/patient01/study1_T1W.nii.gz"):
        pixels = read(next((shared_data / "open_ms").glob(name))).pixels
        inside, outside = split_values(pixels, "otsu")
        assert 0.1 < inside.size / pixels.size < 0.35 and np.median(outside) < 0.1 * np.median(inside)


def test_every_contrast_of_a_scan_has_its_own_line():
    mapping = PerChannel([MinMax(per="volume"), MinMax(per="volume")], ["T1", "T2"], 2)
    volumes = [np.concatenate([scan(100), scan(1000, 1)]), np.concatenate([scan(200), scan(3000, 1)])]
    mapping.fit(volumes)
    own = mapping.of(volumes[1])
    assert mapping.per == "volume" and [line.high for line in own.lines] == pytest.approx(
        volumes[1].max(axis=(1, 2, 3)).tolist()
    )
    lacking = volumes[1].copy()
    lacking[0] = np.nan
    assert mapping.of(lacking).lines[0] is mapping.lines[0]
    seen = to_network(lacking[:, 2], mapping.of(lacking), Resize((12, 10), (12, 12)))
    assert (seen[0] == -1).all() and np.isfinite(seen).all() and seen[1].max() > 0.5


def test_an_unknown_unit_of_learning_is_the_users_mistake():
    with pytest.raises(UserError, match=r"per 'head'.*Allowed: set, volume, image.*intensity\.per"):
        Percentile(per="head")


def test_a_kind_that_no_one_offers_is_named():
    with pytest.raises(UserError, match="no intensity 'histogram'.*Allowed: minmax"):
        Mapping.from_state({"name": "histogram", "fitted": None})


def test_networks_that_are_exported_need_no_torch_for_their_intensities():
    look = "import sys, gantk.data.nyul, gantk.data.intensity, gantk.data.resample; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout.strip() == "False"


sides = st.integers(3, 40)


@given(native=st.tuples(sides, sides), size=st.tuples(sides, sides), mode=st.sampled_from(["pad", "stretch"]))
@settings(max_examples=60, deadline=None)
def test_any_size_fits_and_comes_back(native, size, mode):
    fit = Resize(native, size, mode)
    image = np.random.default_rng(0).random((2, *native)).astype(np.float32)
    fitted = fit.forward(image)
    assert fitted.shape == (2, *size) and fit.inverse(fitted).shape == image.shape
    tolerance = 1e-5
    assert fitted.min() >= image.min() - tolerance and fitted.max() <= image.max() + tolerance, "nothing overshoots"


@given(value=st.floats(-100, 100, width=32), native=st.tuples(sides, sides, sides), size=st.tuples(sides, sides, sides))
@settings(max_examples=20, deadline=None)
def test_a_flat_image_stays_flat(value, native, size):
    image = np.full((1, *native), value, np.float32)
    fitted = Resize(native, size).forward(image)
    np.testing.assert_allclose(fitted, value, rtol=1e-5, atol=1e-5)


def test_padding_keeps_the_aspect_and_the_pixels():
    image = np.random.default_rng(0).random((1, 96, 80)).astype(np.float32)
    fit = Resize((96, 80), (96, 96))
    fitted = fit.forward(image, fill=-7.0)
    np.testing.assert_array_equal(fitted[:, :, 8:88], image)
    assert (fitted[:, :, :8] == -7).all() and (fitted[:, :, 88:] == -7).all()
    np.testing.assert_array_equal(fit.inverse(fitted), image)


def test_padding_takes_the_images_own_minimum():
    image = np.random.default_rng(0).random((1, 20, 10)).astype(np.float32) + 3
    assert Resize((20, 10), (20, 20)).forward(image)[0, 0, 0] == image.min()


@given(
    native=st.tuples(sides, sides, sides),
    size=st.tuples(sides, sides, sides),
    fill=st.sampled_from([None, 0.0]),
)
@settings(max_examples=40, deadline=None)
def test_crop_keeps_the_resolution_and_cuts_about_the_centre(native, size, fill):
    image = np.random.default_rng(0).random((2, *native)).astype(np.float32) + 1
    fit = Resize(native, size, "crop")
    fitted = fit.forward(image, fill)
    assert fitted.shape == (2, *size)
    shown = image[(slice(None), *fit.shown)]
    np.testing.assert_array_equal(fitted[(slice(None), *fit.window)], shown)
    for part, side, to in zip(fit.shown, native, size, strict=True):
        assert part.stop - part.start == min(side, to) and abs(part.start - (side - part.stop)) <= 1
    back = fit.inverse(fitted)
    assert back.shape == image.shape
    np.testing.assert_array_equal(back[(slice(None), *fit.shown)], shown)
    if fit.content == size and all(side <= to for side, to in zip(native, size, strict=True)):
        np.testing.assert_array_equal(back, image)
    outside = np.ones(size, bool)
    outside[fit.window] = False
    for channel, whole in zip(fitted, image, strict=True):
        assert (channel[outside] == (whole.min() if fill is None else fill)).all()


def test_each_channel_is_padded_with_its_own_air():
    image = np.stack([np.full((4, 8), 5.0), np.full((4, 8), -3.0)]).astype(np.float32)
    for mode in ("pad", "crop"):
        fitted = Resize((4, 8), (8, 8), mode).forward(image)
        assert (fitted[0] == 5).all() and (fitted[1] == -3).all()


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
        Resize((8, 8), (16, 16)).forward(np.zeros((1, 9, 8), np.float32))
