"""Intensity mappings: what goes in comes out, of any scanner, per set, scan or image, before and
after a checkpoint.
"""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gantk.data import intensity
from gantk.data.intensity import MinMax, Percentile, PerChannel, ZScore, otsu, to_network
from gantk.data.resample import Resize
from gantk.errors import UserError
from gantk.formats.files import read
from gantk_parts.ct.intensity import Window
from gantk_parts.nyul import Nyul, Unit

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
    own = fitted(kind, [HEADS[0] / 5] if kind is Unit else HEADS, range=ends).of(image)
    np.testing.assert_allclose(own.inverse(own.forward(image)), image, atol=2e-3)
    values = np.unique(image.astype(np.float64))
    np.testing.assert_allclose(own.inverse(own.forward(values)), values, atol=1e-6, rtol=1e-9)
    assert (np.diff(own.forward(values)) > 0).all()


@kinds(*KINDS)
@pytest.mark.parametrize("per", ["set", "volume", "image"])
def test_checkpoints_restore_the_same_mapping(kind, per):
    if (kind in (Window, Unit) and per != "set") or (kind is Nyul and per == "set"):
        return
    mapping = fitted(
        kind, [HEADS[0] / 5], range=(0.0, 1.0), **({} if kind in (Window, Unit) else {"per": per})
    )
    state = json.loads(json.dumps(mapping.state()))
    array = HEADS[1]
    for again in (kind.from_state(state), MinMax.from_state(state), mapping.of(array)):
        assert type(again) is kind
        assert again.range == (0.0, 1.0)
        np.testing.assert_array_equal(again.forward(array), mapping.forward(array))
    assert kind.from_state(state).state() == mapping.state()
    for function in (mapping.forward, mapping.inverse):
        tensor = function(torch.from_numpy(array))
        assert function(array).dtype == np.float32
        assert tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor.numpy(), function(array), rtol=1e-6, atol=1e-2)


PER = {"per": "volume", "foreground": "otsu"}
OLD = {
    "percentile": {"low": 0, "high": 99.5} | PER,
    "minmax": PER,
    "zscore": {"spread": 3.0} | PER,
    "window": {"low": 0.0, "high": 200.0},
    "unit": {"bits": 8},
    "nyul": {
        "percentiles": [50.0, 99.0],
        "fitted": {"kept": [0, 1, 2], "scale": [-1, 0, 1], "mean": [0, 100, 200]},
    },
}


@kinds(*KINDS)
def test_checkpoints_of_earlier_versions_load(kind):
    mapping = Percentile.from_state(
        {"name": kind.name, "range": [-1.0, 1.0], "fitted": [0, 200]} | OLD[kind.name]
    )
    assert type(mapping) is kind
    np.testing.assert_allclose(mapping.inverse(np.array([-1.0, 0.0, 1.0])), [0, 100, 200])


@kinds(*LINES, Nyul)
def test_constant_sets_are_refused_and_constant_scans_skipped(kind):
    with pytest.raises(
        UserError, match=r"all 2 training images of a domain have no contrast.*data\.intensity"
    ):
        fitted(kind, [np.full((1, 8, 8), 7, np.float32)] * 2)
    mapping = fitted(kind, HEADS, per="volume")
    air = np.zeros((1, 6, 24, 24), np.float32)
    assert fitted(kind, [HEADS[0], air, *HEADS[1:]], per="volume").fitted == mapping.fitted
    own = mapping.of(np.full((1, 4, 8, 8), 300, np.float32))
    assert own.per == "set", "its slices are not measured again"
    np.testing.assert_array_equal(own.inverse(ENDS), mapping.inverse(ENDS))


def test_each_kind_takes_what_it_says_to_the_ends():
    two = [np.array([[[3.0, 5.0]]], np.float32), np.array([[[9.0, 13.0]]], np.float32)]
    np.testing.assert_allclose(fitted(MinMax, two).forward(np.array([3.0, 8, 13])), [-1, 0, 1])
    values = np.linspace(0, 100, 10_000, dtype=np.float32).reshape(1, 100, 100)
    values[0, 0, 0] = 1e6  # one bright voxel moves no percentile and is not clipped
    mapping = fitted(Percentile, [values])
    assert mapping.forward(np.float32(99.5)) == pytest.approx(1, abs=0.01)
    assert mapping.forward(values).max() > 1000
    mapping = fitted(ZScore, HEADS, spread=2.0)
    values = np.concatenate([image.ravel() for image in HEADS])
    assert mapping.forward(values.mean()) == pytest.approx(0, abs=1e-3)
    assert mapping.forward(values.mean() + 2 * values.std()) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(
        Window(low=-1000, high=1000).forward(np.array([-1000.0, 0, 3000])), [-1, 0, 3]
    )
    np.testing.assert_allclose(Unit(bits=16).forward(np.array([0.0, 65535])), [-1, 1])
    with pytest.raises(UserError, match="bits = 16"):
        fitted(Unit, [np.array([[[0.0, 4000.0]]], np.float32)])


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (Percentile, {"high": 101.0}, "make no range"),
        (Percentile, {"range": (1.0, 1.0)}, "is empty"),
        (Window, {"low": 3.0, "high": 2.0}, "window from 3 to 2 is empty"),
        *(
            (
                Nyul,
                {"percentiles": wrong},
                "no percentiles to match.*rising, from 0 to 100.*intensity.percentiles",
            )
            for wrong in ((), (10, 10, 90), (50, 101))
        ),
    ],
    ids=str,
)
def test_impossible_options_are_the_users_mistake(kind, options, says):
    with pytest.raises(UserError, match=says):
        kind(**options)


@kinds(*LINES)
def test_per_volume_scans_have_their_own_mapping(kind):
    mapping = fitted(kind, HEADS, per="volume")
    low = head(0.1, seed=7)
    high = head(10, seed=7)
    np.testing.assert_allclose(
        mapping.inverse(ENDS), np.mean([kind().ends_of([one]) for one in HEADS], axis=0)
    )
    np.testing.assert_allclose(mapping.forward(high), mapping.forward(low), atol=1e-5)
    own = mapping.of(high)
    assert own.of(low) is own, "a scan's mapping is its own for good"
    np.testing.assert_array_equal(
        np.stack([own.forward(high[:, k]) for k in range(6)], 1), own.forward(high)
    )
    assert (again := fitted(kind, HEADS)).of(high) is again, "of a set all have one"


def test_otsu_parts_air_and_stripped_zeros_from_tissue():
    rng = np.random.default_rng(0)
    air = np.abs(rng.normal(0, 10, 7000))
    tissue = rng.uniform(300, 500, 3000)
    for background, inside in ((air, tissue), (np.zeros(9900), tissue[:100]), (air[:1500], tissue)):
        # one vessel does not move it
        threshold = otsu(np.concatenate([background, inside, [50_000.0]]))
        assert background.max() < threshold < inside.min()


@pytest.mark.parametrize("foreground", [False, True, "otsu"])
def test_foreground_excludes_air_for_every_mapping(foreground, monkeypatch):
    tissue = head()[head() > 0]
    for kind, options in ((Percentile, {"high": 100.0}), (MinMax, {})):
        low, high = fitted(kind, HEADS[:1], foreground=foreground, **options).inverse(ENDS)
        assert low == 0 if foreground is False else low > 100
        assert high == pytest.approx(tissue.max())
    mean = fitted(ZScore, HEADS[:1], foreground=foreground).inverse(np.float64(0))
    monkeypatch.setattr(intensity, "SAMPLES", 600)
    drawn = fitted(ZScore, HEADS[:1], foreground=foreground).inverse(np.float64(0))
    assert drawn != mean
    assert drawn == pytest.approx(mean, rel=0.2)


# ---- several contrasts


@kinds(MinMax, Nyul)
def test_each_contrast_has_its_mapping_and_missing_is_black(kind):
    scans = [np.concatenate([head(seed=s), head(4.0, 1.2, s + 10)]) for s in range(3)]
    mapping = fitted(
        lambda: PerChannel([kind(per="volume"), kind(per="volume")], ["T1", "T2"], 2), scans
    )
    low, high = mapping.inverse(np.ones((2, 1, 1))).ravel()
    assert mapping.per == "volume"
    assert high > 2 * low
    slices = np.moveaxis(scans[0], 1, 0)
    own = mapping.of(scans[0])
    np.testing.assert_allclose(own.inverse(own.forward(slices)), slices, atol=1e-2)
    again = PerChannel.from_state(json.loads(json.dumps(mapping.state())), kind.from_state)
    np.testing.assert_array_equal(again.forward(slices), mapping.forward(slices))
    lacking = scans[1].copy()
    lacking[0] = np.nan
    own = mapping.of(lacking)
    assert own.lines[0] is mapping.lines[0]
    assert own.lines[1].per == "set"
    seen = to_network(lacking[:, 2], own, Resize((24, 24), (24, 32)))
    assert (seen[0] == -1).all()
    assert np.isfinite(seen).all()
    assert seen[1].max() > 0.5
    with pytest.raises(UserError, match="none of 1 training images has the contrast 'T1'"):
        mapping.fit([lacking])


# ---- Nyul's landmarks


def test_nyul_scale_is_the_mean_of_stretched_landmarks():
    two = [
        np.array([[[0.0, 2.0, 10.0]]], np.float32),
        np.array([[[100.0, 140.0, 200.0]]], np.float32),
    ]
    mapping = fitted(Nyul, two, percentiles=(0, 50, 100), foreground=False, range=(0.0, 1.0))
    # air is the darkest value here, and coincides with percentile 0: one landmark less on the scale
    np.testing.assert_allclose(mapping.fitted["scale"], [0, (0.2 + 0.4) / 2, 1])
    np.testing.assert_allclose(mapping.fitted["mean"], [50, 71, 105])
    own = mapping.of(np.array([[[0.0, 5.0, 20.0]]], np.float32))
    np.testing.assert_allclose(
        own.forward(np.array([0.0, 2.5, 5, 12.5, 20])), [0, 0.15, 0.3, 0.65, 1]
    )
    beyond = own.forward(np.array([-1.0, 22.0]))
    np.testing.assert_allclose(beyond, [-0.06, 1 + 0.7 * 2 / 15], err_msg="nothing is clipped")


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


@kinds(Percentile, MinMax, ZScore)
@pytest.mark.parametrize("case", CASES)
def test_the_range_starts_at_air_and_foreground_is_tissue(case, kind):
    parts, start, share = CASES[case]
    image = np.concatenate(parts).astype(np.float32)[None, None]
    mapping = fitted(kind, [image])
    again = kind.from_state(json.loads(json.dumps(mapping.state())))
    assert again.tissue == mapping.tissue
    if kind is Percentile or "padding" not in case:
        assert (mapping.forward(image) > mapping.tissue[0]).mean() == pytest.approx(share, abs=0.05)
    if kind is Percentile:
        low, high = mapping.inverse(ENDS)
        assert low == pytest.approx(start, abs=0.03 * (high - low))
        assert mapping.forward(image).min() > -1.3
        np.testing.assert_allclose(mapping.inverse(mapping.forward(image)), image, atol=1)
        earlier = Percentile.from_state(mapping.state() | {"fitted": [7.0, 900.0], "per": "volume"})
        np.testing.assert_allclose(
            earlier.of(image).inverse(ENDS)[0], image.min(), err_msg="as it always was"
        )


@pytest.mark.parametrize(("darkest", "air"), [(0, -1), (-5, -0.99), (-60, -0.951), (-240, -0.951)])
@pytest.mark.parametrize("per", ["set", "volume"])
def test_air_stays_black_and_off_the_end_of_tanh(darkest, air, per):
    image = np.r_[np.zeros(7000), np.linspace(100, 1000, 3000), [darkest] * 5].astype(np.float32)[
        None, None
    ]
    mapping = fitted(Percentile, [image], high=100, per=per)
    assert mapping.forward(image)[0, 0, 0] == pytest.approx(air, abs=1e-3), (
        "at -1 it takes a network hundreds of steps"
    )
    threshold = mapping.inverse(np.array(mapping.tissue))[0]
    lowest = darkest if darkest > -25 else 0
    assert threshold == pytest.approx(lowest + 0.05 * (1000 - lowest)), (
        "whatever lies below air, tissue is 5 % above"
    )


REAL = """open_ms/patient*/T1_* open_ms/patient*/T2_* open_ms/raw/*/*T1W* open_ms/raw/*/*T2W* brats/*/*_t1.nii.gz
brats/*/*_t2.nii.gz brats2d/*Data/*/*_T1_* brats2d/*Data/*/*_T2_* ct_mri/CT/* ct_mri/MRI/* t1t2_course/Tr1/*/*
t1t2_course/Tr2/*/* brainix_dicom/T1/* brainix_dicom/T2/* templates/canonical/*T1* templates/canonical/*T2*"""


@pytest.mark.parametrize("pattern", REAL.split())
def test_foreground_share_of_a_real_head_slice(shared_data, pattern):
    images = []
    for path in sorted(shared_data.glob(pattern))[::9] or pytest.skip(f"no {pattern}"):
        pixels = read(path).pixels
        if pixels.ndim == 4:
            middle = range(pixels.shape[1] // 3, 2 * pixels.shape[1] // 3, 4)
        else:
            middle = [slice(None)]
        images += [pixels[:, place] for place in middle]
    mapping = fitted(Percentile, images, high=99.9)
    seen = [to_network(image, mapping, Resize(image.shape[1:], (96, 96))) for image in images]
    assert all(0.1 < (image > mapping.tissue[0]).mean() < 0.7 for image in seen)


def test_nyul_by_median_keeps_bright_tissue_ratio():
    options = {
        "foreground": "tissue",
        "unit": "median",
        "percentiles": (10, 20, 30, 40, 50, 60, 70),
    }
    brains = [head(gain) for gain in (1.0, 7.0)]
    mapping = fitted(Nyul, brains, **options)
    for gain, fat in ((0.3, 1), (20.0, 1), (2.0, 3)):
        scan = head(gain)
        scan[..., :2, 8:16] = fat * scan.max()  # few enough to leave the percentiles alone
        own = mapping.of(scan)
        tissue = scan[scan > 0.05 * np.percentile(scan[scan > 0], 99)]
        median, high = np.percentile(tissue, (50, 70))
        middle, edge, top = own.forward(np.array([[median, high, scan.max()]]))[0]
        assert middle == pytest.approx(0, abs=0.02), (
            "the median of tissue is the middle of the range"
        )
        assert top - edge == pytest.approx((scan.max() - high) / median, rel=0.02), (
            "fat is not drawn in"
        )
        np.testing.assert_allclose(own.inverse(own.forward(scan)), scan, rtol=1e-4, atol=1e-2)
    with pytest.raises(UserError, match="needs the median"):
        Nyul(percentiles=(10, 90), unit="median")
