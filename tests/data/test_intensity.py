"""Intensity mappings: what goes in comes out, of any scanner, per set, scan or image, before and
after a checkpoint.
"""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny import registered

from gantk.data.intensity import MinMax, Percentile, PerChannel, Window, ZScore, mapping_from, otsu
from gantk.errors import UserError
from gantk.prepare.module import image_intensities, size_image

Nyul = registered("intensity", "nyul")
Unit = registered("intensity", "unit")

LINES = [Percentile, MinMax, ZScore]
KINDS = [*LINES, Window, Unit, Nyul]


def kinds(*members):
    return pytest.mark.parametrize("kind", members, ids=lambda kind: kind.name)


def fitted(kind, images, **options):
    mapping = kind(**options)
    mapping.fit(images)
    return mapping


def head(gain=1.0, gamma=1.0, seed=0):
    """A scan (1, 6, 24, 24): air around four tissues, on a scanner's own scale; slices get brighter
    upwards.
    """
    rng = np.random.default_rng(seed)
    tissue = np.zeros((6, 24, 24))
    tissue[1:5, 4:20, 4:20] = rng.choice([0.2, 0.5, 0.7, 1.0], (4, 16, 16)) + rng.normal(
        0, 0.03, (4, 16, 16)
    )
    tissue *= np.linspace(0.9, 1, 6)[:, None, None]
    return (gain * 1000 * np.abs(tissue) ** gamma).astype(np.float32)[None]


HEADS = [head(), head(2.0, 1.3, 1), head(0.3, 0.8, 2)]
ENDS = np.array([-1.0, 1.0])


@kinds(*KINDS)
@given(
    image=hnp.arrays(np.float32, (1, 4, 5), elements=st.integers(-500, 500).map(float)),
    ends=st.sampled_from([(-1.0, 1.0), (0.0, 1.0)]),
)
@settings(max_examples=20, deadline=None)
def test_inverse_undoes_forward_even_beyond_the_range(kind, image, ends):
    own = fitted(kind, HEADS, range=ends).of(image)
    np.testing.assert_allclose(own.inverse(own.forward(image)), image, atol=2e-3)
    values = np.unique(image.astype(np.float64))
    np.testing.assert_allclose(own.inverse(own.forward(values)), values, atol=1e-6, rtol=1e-9)
    assert (np.diff(own.forward(values)) > 0).all()


PER = {"per": "volume", "foreground": False}
OLD = {
    "percentile": {"low": 0, "high": 99.5} | PER,
    "minmax": PER,
    "zscore": {"spread": 3.0} | PER,
    "window": {"low": 0.0, "high": 200.0},
    "unit": {},
    "nyul": {
        "percentiles": [50.0, 99.0],
        "fitted": {"kept": [0, 1, 2], "scale": [-1, 0, 1], "mean": [0, 100, 200]},
    },
}


@kinds(*KINDS)
def test_checkpoints_of_earlier_versions_load(kind):
    mapping = mapping_from(
        {"name": kind.name, "range": [-1.0, 1.0], "fitted": [0, 200]} | OLD[kind.name]
    )
    assert type(mapping) is kind
    np.testing.assert_allclose(mapping.inverse(np.array([-1.0, 0.0, 1.0])), [0, 100, 200])


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("percentile", {"per": "image"}),
        ("percentile", {"foreground": "otsu"}),
        ("nyul", {"foreground": "otsu"}),
        ("nyul", {"foreground": False}),
    ],
    ids=str,
)
def test_checkpoints_whose_scale_is_gone_are_refused(name, option):
    state = {"name": name, "range": [-1.0, 1.0], "fitted": [0, 200]} | OLD[name] | option
    with pytest.raises(UserError, match="any more|no longer"):
        mapping_from(state)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (Percentile, {"high": 101.0}, "high = 101 are not valid"),
        (Percentile, {"range": (1.0, 1.0)}, "is empty"),
        (Window, {"low": 3.0, "high": 2.0}, "window from 3 to 2 is empty"),
        (Nyul, {"percentiles": (10, 10, 90)}, "do not increase.*intensity.percentiles"),
    ],
    ids=str,
)
def test_impossible_options_are_the_users_mistake(kind, options, says):
    with pytest.raises(UserError, match=says):
        kind(**options)


@pytest.mark.parametrize("step", [1e-45, 1e-40, 1e-30, 1e-19])
def test_spans_too_small_to_compute_with_are_no_contrast(step):
    tiny = (np.arange(4 * 8 * 8).reshape(1, 4, 8, 8) // 40 * np.float64(step)).astype(np.float32)
    assert np.unique(tiny).size > 3
    scan = np.random.default_rng(0).normal(300, 50, (1, 4, 8, 8)).astype(np.float32)
    for kind in (Percentile, MinMax, ZScore):
        mapping = kind(per="volume")
        mapping.fit([scan])
        own = mapping.of(tiny)
        assert own.fitted == mapping.fitted
        assert np.isfinite(own.forward(tiny)).all()
        with pytest.raises(UserError, match="have no contrast"):
            kind().fit([tiny])

    assert otsu(tiny) == 0


def test_windows_are_taken_to_the_ends():
    window = Window(low=-1000, high=1000)
    np.testing.assert_allclose(window.forward(np.array([-1000.0, 0, 3000])), [-1, 0, 3])


def test_pictures_keep_their_scale_beside_scans_of_any_units():
    mapping = Unit()
    mapping.fit([np.array([[[0.0, 9.0], [3.0, 40.0]]], np.float32)])
    dark = np.array([[[0.0, 51.0]]], np.float32)
    np.testing.assert_allclose(mapping.of(dark).forward(dark), [[[-1.0, -0.6]]], atol=1e-6)
    np.testing.assert_allclose(mapping.inverse(ENDS), [0, 255])

    for units in (0.01, 1.5, 100.0):
        scan = HEADS[0] * np.float32(units)
        expected = fitted(Percentile, [scan]).forward(scan)
        np.testing.assert_allclose(mapping.of(scan).forward(scan), expected, atol=1e-5)


# ---- several contrasts


def scans_of_two_contrasts():
    return [np.concatenate([head(seed=s), head(4.0, 1.2, s + 10)]) for s in range(3)]


def mapping_of_two_contrasts(kind):
    mapping = PerChannel([kind(per="volume"), kind(per="volume")], ["T1", "T2"], 2)
    mapping.fit(scans_of_two_contrasts())
    return mapping


@kinds(MinMax, Nyul)
def test_a_missing_contrast_is_black_and_not_measured(kind):
    mapping = mapping_of_two_contrasts(kind)
    lacking = scans_of_two_contrasts()[1]
    lacking[0] = np.nan
    own = mapping.of(lacking)

    assert own.lines[0].fitted == mapping.lines[0].fitted
    assert own.per == own.lines[1].per == "set"
    plane = np.nan_to_num(lacking[:, 2])
    assert own.forward(plane / 2)[1].max() < own.forward(plane)[1].max() - 0.5
    seen = image_intensities(size_image(lacking[:, 2], (24, 32)), own)
    assert (seen[0] == -1).all()
    assert np.isfinite(seen).all()
    assert seen[1].max() > 0.5
    with pytest.raises(UserError, match="none of the 1 training images has the contrast 'T1'"):
        mapping.fit([lacking])


# ---- Nyul's landmarks


def test_nyul_scale_is_the_mean_of_stretched_landmarks():
    # half of the pixels are air, below the mean
    dark = np.array([[[0.0] * 4, [5.0, 6.0, 8.0, 10.0]]], np.float32)
    bright = np.array([[[100.0] * 4, [150.0, 170.0, 190.0, 200.0]]], np.float32)
    options = {"percentiles": (0, 50, 50.1, 100), "range": (0.0, 1.0)}
    mapping = fitted(Nyul, [dark, bright], **options)

    # percentile 50.1 nearly coincides with 50: one landmark less on the scale
    np.testing.assert_allclose(mapping.fitted["scale"], [0, 0.5, (0.7 + 0.8) / 2, 1])
    np.testing.assert_allclose(mapping.fitted["mean"], [50, 77.5, 93.5, 105])

    own = mapping.of(np.array([[[0.0] * 4, [10.0, 14.0, 18.0, 20.0]]], np.float32))
    mapped = own.forward(np.array([0.0, 5, 10, 13, 16, 18, 20]))

    np.testing.assert_allclose(mapped, [0, 0.25, 0.5, 0.625, 0.75, 0.875, 1])
    beyond = own.forward(np.array([-1.0, 22.0]))
    np.testing.assert_allclose(beyond, [-0.05, 1 + 0.25 * 2 / 4], err_msg="nothing is clipped")


RNG = np.random.default_rng(0)
TISSUE = RNG.choice([200, 400, 550, 900], 3000) + RNG.normal(0, 30, 3000)
CT = np.concatenate(
    [RNG.normal(-1000, 20, 5000), RNG.choice([-80, 30, 40, 900], 4000) + RNG.normal(0, 15, 4000)]
)
CASES = {  # intensities, where the range starts, how much is tissue
    "stripped": ([np.zeros(7000), TISSUE], 0, 0.3),
    "undershoot of interpolation": ([np.zeros(7000), TISSUE, RNG.uniform(-120, -1, 10)], 0, 0.3),
    "one voxel": ([np.zeros(7000), TISSUE, [-5000.0]], 0, 0.3),
    "noise of a scanner": ([np.hypot(*RNG.normal(0, 60, (2, 7000))), TISSUE], 0, 0.3),
    "hounsfield": ([CT], -1064, 0.44),
    "padding": ([np.full(2500, -2000), CT], -1064, 0.35),
    "far padding, blurred": (
        [np.full(2500, -3024), RNG.uniform(-3024, -1000, 200), CT],
        -1064,
        0.34,
    ),
    "no air": ([TISSUE], TISSUE.min(), 1),
}


def image_of_case(case):
    parts, _, _ = CASES[case]
    return np.concatenate(parts).astype(np.float32)[None, None]


@kinds(Percentile, MinMax, ZScore)
@pytest.mark.parametrize("case", CASES)
def test_foreground_is_tissue(case, kind):
    image = image_of_case(case)
    mapping = fitted(kind, [image])
    again = kind.from_state(json.loads(json.dumps(mapping.state())))

    assert again.tissue == mapping.tissue

    if kind is Percentile or "padding" not in case:
        share = CASES[case][2]
        foreground = mapping.forward(image) > mapping.tissue[0]
        assert foreground.mean() == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("case", CASES)
def test_the_range_starts_at_air(case):
    image = image_of_case(case)
    start = CASES[case][1]
    mapping = fitted(Percentile, [image])
    low, high = mapping.inverse(ENDS)

    assert low == pytest.approx(start, abs=0.03 * (high - low))
    mapped = mapping.forward(image)
    assert mapped.min() > -1.3
    np.testing.assert_allclose(mapping.inverse(mapped), image, atol=1)


@pytest.mark.parametrize(("darkest", "air"), [(0, -1), (-5, -0.99), (-60, -0.951), (-240, -0.951)])
@pytest.mark.parametrize("per", ["set", "volume"])
def test_air_stays_black_and_off_the_end_of_tanh(darkest, air, per):
    values = np.concatenate([np.zeros(7000), np.linspace(100, 1000, 3000), [darkest] * 5])
    image = values.astype(np.float32)[None, None]
    mapping = fitted(Percentile, [image], high=100, per=per)
    mapped_air = mapping.forward(image)[0, 0, 0]

    # at -1 it would take a network hundreds of steps to reach it
    assert mapped_air == pytest.approx(air, abs=1e-3)

    threshold = mapping.inverse(np.array(mapping.tissue))[0]
    lowest = darkest if darkest > -25 else 0

    # whatever lies below air, tissue is 5 % above
    assert threshold == pytest.approx(lowest + 0.05 * (1000 - lowest))


MEASURED_PER = [
    *((kind, per) for kind in LINES for per in ("set", "volume")),
    (Window, "set"),
    *((kind, "volume") for kind in (Unit, Nyul)),
]


def mapping_per(kind, per):
    """A mapping to 0 and 1, fitted to a dark scan; what is not measured takes no `per`."""
    options = {} if kind in (Window, Unit) else {"per": per}
    return fitted(kind, [HEADS[0] / 5], range=(0.0, 1.0), **options)


@pytest.mark.parametrize(("kind", "per"), MEASURED_PER)
def test_checkpoints_restore_the_same_mapping(kind, per):
    mapping = mapping_per(kind, per)
    state = json.loads(json.dumps(mapping.state()))

    assert kind.from_state(state).state() == mapping.state()

    array = HEADS[1]
    for again in (kind.from_state(state), mapping_from(state)):
        assert type(again) is kind
        assert again.range == (0.0, 1.0)
        np.testing.assert_array_equal(again.forward(array), mapping.forward(array))
        own = again.of(array).forward(array)
        np.testing.assert_array_equal(own, mapping.of(array).forward(array))
