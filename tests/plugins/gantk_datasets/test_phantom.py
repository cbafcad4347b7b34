"""The phantom keeps what training relies on: determinism, registration, labels, and the physics of
its contrasts.
"""

import numpy as np
import pytest
import tiny
import torch

from gantk.errors import UserError
from gantk_datasets.phantom.phantom import MIN_LESION_PIXELS
from gantk_datasets.phantom.tissues import RELAXATION, signal

MIDDLE = "subject-001/slice-001"


def phantom(domains=("T1", "T2"), dims=2, size=(48, 48), **options):
    return tiny.phantom(domains, dims, size, **{"subjects": 3, "slices": 3, **options})


def by_key(source):
    return {(record.domain, record.key): record.read() for record in source.records()}


def test_a_subject_does_not_depend_on_count_or_order():
    state = torch.get_rng_state()
    few = by_key(phantom(subjects=2))
    many = phantom(subjects=4).records()

    assert torch.equal(torch.get_rng_state(), state), "global random numbers are left alone"
    again = {(record.domain, record.key): record.read() for record in reversed(many)}
    assert all(np.array_equal(image, again[key]) for key, image in few.items())
    assert not np.array_equal(few["a", MIDDLE], by_key(phantom(seed=1))["a", MIDDLE])
    assert not np.array_equal(few["a", MIDDLE], few["a", "subject-000/slice-001"])


@pytest.mark.parametrize(
    "domains, size, options, first, last, lesions",
    [
        (
            ("T1", "T2"),
            (64, 64),
            {"lesions": 2, "subjects": 2},
            (44.9819, 114.2936),
            (50.6218, 138.578),
            5,
        ),
        (
            ("CT", "T1CE+FLAIR"),
            (48, 64),
            {"skull": True, "slices": 1, "subjects": 1},
            (-218.8385, 556.9984),
            (53.6746, 117.5758),
            0,
        ),
        (
            ("PD",),
            (16, 20, 24),
            {"subjects": 1, "lesions": 1, "seed": 3},
            (64.0738, 231.7998),
            (64.0738, 231.7998),
            2,
        ),
    ],
    ids=["lesions", "skull", "volume"],
)
def test_pixels_are_those_of_earlier_versions(domains, size, options, first, last, lesions):
    """Published scores rest on them. Weighted by place, so that nothing is turned over either."""
    records = phantom(domains, len(size), size, **options).records()
    for record, (mean, deviation) in ((records[0], first), (records[-1], last)):
        image = record.read().astype(np.float64)
        ramp = np.arange(image.size).reshape(image.shape) / image.size
        assert ((image * ramp).mean(), image.std()) == pytest.approx((mean, deviation), rel=1e-5)

    assert lesions == (records[-1].mask().sum() if "lesions" in options else 0)


def test_lesions_are_masked_and_bright_in_t2():
    options = dict(domains=("T2", "T1+T1CE"), size=(96, 96), noise=0.0)
    records = phantom(lesions=6, **options).records()
    plain = by_key(phantom(**options))

    of_a = [record for record in records if record.domain == "a"]
    of_b = [record for record in records if record.domain == "b"]
    shown = np.stack([record.mask() for record in of_a])
    t2 = np.stack([record.read() for record in of_a])
    before = np.stack([plain["a", record.key] for record in of_a])
    t1, enhanced = np.stack([record.read() for record in of_b], axis=1)
    lesion = shown[:, 0] > 0
    white = 1000 * signal("T2", *RELAXATION["white"])

    assert set(np.unique(shown)) == {0.0, 1.0}
    assert shown.shape == t2.shape
    assert t2[shown > 0].mean() > 1.2 * white
    assert enhanced[lesion].mean() > 1.3 * t1[lesion].mean()
    assert np.median(np.abs(enhanced - t1)[~lesion]) < 1e-3
    assert np.mean(np.isclose(before, t2, atol=1e-3)) > 0.9


def test_random_sequences_keep_the_order_of_tissues():
    heads = tiny.phantom(
        ("T1", "T2"),
        2,
        (64, 64),
        subjects=8,
        slices=3,
        noise=0,
        bias=0,
        jitter=0,
        sequences="random",
    )
    ratios = []
    for number in range(8):
        tissue = heads._tissue_of(number).numpy()[:3]
        image = np.stack([heads._read(number, level, ("T1",))[0] for level in range(3)])
        gray, white = (image[share > 0.95] for share in tissue[1:])
        ratios.append(gray.mean() / white.mean())
        assert gray.std() < 0.02 * gray.mean(), "one sequence for all slices"
        assert white.std() < 0.02 * white.mean(), "one sequence for all slices"
        assert image[tissue[0] > 0.8].mean() < gray.mean() < white.mean()

    assert np.ptp(ratios) > 0.1


def test_a_label_says_whether_the_slice_shows_a_lesion():
    options = dict(domains=("FLAIR",), lesions=2, subjects=6, slices=5, size=(64, 64))
    records = phantom(**options).records()

    assert all((r.label == "tumour") == (r.mask().sum() >= MIN_LESION_PIXELS) for r in records)

    for wanted in ("tumour", "healthy"):
        kept = [r.key for r in phantom(**options, only=wanted).records()]
        assert kept == [r.key for r in records if r.label == wanted]
        assert kept

    with pytest.raises(UserError, match="healthy"):
        phantom(lesions=1, only="tumour", healthy=1.0).records()


def test_counts_sets_the_images_of_each_class():
    options = dict(subjects=8, slices=4, lesions=1, radius=(10.0, 20.0), size=(32, 32))
    records = phantom(**options, counts=(6, 9)).records()

    assert sorted(r.label for r in records) == ["healthy"] * 18 + ["tumour"] * 12, "of both domains"
    assert len({record.subject for record in records if record.label == "tumour"}) > 3, (
        "of all heads"
    )
    with pytest.raises(UserError, match="counts requests 90"):
        phantom(**options, counts=(90, 1)).records()


@pytest.mark.parametrize(
    "name, value",
    [
        ("slices", 9000),
        ("size", (4, 4)),
        ("size", (32, 32, 32)),
        ("radius", (12.0, 4.0)),
        ("counts", (1, 1)),
    ],
)
def test_impossible_options_are_the_users_mistake(name, value):
    with pytest.raises(UserError):
        phantom(**{name: value})
