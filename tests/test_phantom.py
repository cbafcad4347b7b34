"""The phantom keeps what training relies on: determinism, registration, labels, and the physics of its contrasts."""

import numpy as np
import pytest
import torch

from gantk.errors import UserError
from gantk_phantom.phantom import CONTRASTS, RELAXATION, SHOWN, Phantom, contrast_of, signal


def phantom(domains=("T1", "T2"), dims=2, size=(48, 48), **options):
    return Phantom(domains, dims, size, **{"subjects": 3, "slices": 3, **options})


def by_key(source):
    return {(record.domain, record.key): record.read() for record in source.records()}


def test_a_subject_is_the_same_however_many_there_are_and_in_whatever_order_they_are_read():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    few, many = by_key(phantom(subjects=2)), phantom(subjects=4).records()
    assert torch.equal(torch.rand(1), expected), "global random numbers are left alone"
    again = {(record.domain, record.key): record.read() for record in reversed(many)}
    assert all(np.array_equal(image, again[key]) for key, image in few.items())
    other = by_key(phantom(seed=1))
    middle = "a", "subject-000/slice-001"
    assert not np.array_equal(few[middle], other[middle])
    assert not np.array_equal(few[middle], few["a", "subject-001/slice-001"])


@pytest.mark.parametrize(
    "domains, size, options, first, last, lesions",
    [
        (("T1", "T2"), (64, 64), {"lesions": 2, "subjects": 2}, (44.9819, 114.2936), (50.6218, 138.578), 5),
        (("CT", "T1CE+FLAIR"), (48, 64), {"skull": True, "slices": 1, "subjects": 1}, (-218.8385, 556.9984),
         (53.6746, 117.5758), 0),
        (("PD",), (16, 20, 24), {"subjects": 1, "lesions": 1, "seed": 3}, (64.0738, 231.7998), (64.0738, 231.7998), 2),
    ],
    ids=["lesions", "skull", "volume"],
)  # fmt: skip
def test_pixels_are_those_of_earlier_versions(domains, size, options, first, last, lesions):
    """Published scores rest on them. Weighted by place, so that nothing is turned over either."""
    records = phantom(domains, len(size), size, **options).records()
    for record, (mean, deviation) in ((records[0], first), (records[-1], last)):
        image = record.read().astype(np.float64)
        ramp = np.arange(image.size).reshape(image.shape) / image.size
        assert ((image * ramp).mean(), image.std()) == pytest.approx((mean, deviation), rel=1e-5)
    assert lesions == (records[-1].mask().sum() if "lesions" in options else 0)


def test_a_skull_is_bright_in_ct_and_dark_in_mr_and_leaves_the_brain_as_it_was():
    options = dict(domains=("CT", "T1"), size=(128, 128), slices=1, subjects=1, noise=0.0, bias=0.0)
    key = "subject-000/slice-000"
    bare, skull = by_key(phantom(**options)), by_key(phantom(skull=True, **options))
    ct, t1, brain = skull["a", key][0], skull["b", key][0], bare["b", key][0] > 150
    assert 400 < (ct > 700).sum() < 3000 and not ((ct > 700) & brain).any() and t1[ct > 700].mean() < 100
    assert np.allclose(t1[brain], bare["b", key][0][brain], atol=60) and ct[64, 0] < -950


def test_lesions_are_masked_bright_in_t2_enhanced_by_contrast_agent_and_change_nothing_else():
    options = dict(domains=("T2", "T1+T1CE"), size=(96, 96), noise=0.0)
    records, plain = phantom(lesions=6, **options).records(), by_key(phantom(**options))
    assert all(record.mask is None and record.label is None for record in phantom().records())
    shown = np.stack([record.mask() for record in records if record.domain == "a"])
    t2 = np.stack([record.read() for record in records if record.domain == "a"])
    before = np.stack([plain["a", record.key] for record in records if record.domain == "a"])
    t1, enhanced = np.stack([record.read() for record in records if record.domain == "b"], axis=1)
    assert set(np.unique(shown)) == {0.0, 1.0} and shown.shape == t2.shape
    assert t2[shown > 0].mean() > 1.2 * 1000 * signal("T2", *RELAXATION["white"])
    assert enhanced[shown[:, 0] > 0].mean() > 1.3 * t1[shown[:, 0] > 0].mean()
    assert np.median(np.abs(enhanced - t1)[shown[:, 0] == 0]) < 1e-3
    assert np.mean(np.isclose(before, t2, atol=1e-3)) > 0.9


def test_pairs_are_registered_and_contrast_differs():
    images = by_key(phantom(size=(96, 96), noise=0.0, bias=0.0))
    a, b = images["a", "subject-001/slice-001"][0], images["b", "subject-001/slice-001"][0]
    assert np.mean((a > 50) == (b > 50)) > 0.98, "one head, two contrasts"
    brain = a > 50
    assert np.corrcoef(a[brain], b[brain])[0, 1] < -0.5, "CSF is dark in T1 and bright in T2"


@pytest.mark.parametrize(
    "contrast, order",
    [("T1", ["white", "gray", "csf"]), ("T2", ["csf", "gray", "white"]), ("FLAIR", ["lesion", "gray", "white", "csf"])],
)
def test_tissues_rank_as_in_the_clinic(contrast, order):
    values = [signal(contrast, *RELAXATION[tissue]) for tissue in order]
    assert values == sorted(values, reverse=True)
    assert signal("FLAIR", *RELAXATION["csf"]) < 0.001


def test_contrasts_of_a_domain_are_channels_the_same_alone_and_beside_others():
    source = phantom(domains=("T1+PD+FLAIR", "T2"))
    assert source.channels() == {"a": 3, "b": 1}
    several = by_key(source)["a", "subject-001/slice-001"]
    for channel, contrast in zip(several, ("MR", "PD", "flair"), strict=True):
        alone = by_key(phantom(domains=(contrast,)))["image", "subject-001/slice-001"]
        assert np.array_equal(channel, alone[0])
    assert contrast_of("t1w") == "T1"


def test_a_label_says_whether_the_slice_shows_a_lesion():
    source = phantom(domains=("FLAIR",), lesions=2, subjects=6, slices=5, size=(64, 64))
    records = source.records()
    assert {r.label for r in records} == {"tumour", "healthy"}
    assert all((r.label == "tumour") == (r.mask().sum() >= SHOWN) for r in records)
    for wanted in ("tumour", "healthy"):
        kept = phantom(domains=("FLAIR",), lesions=2, subjects=6, slices=5, size=(64, 64), only=wanted).records()
        assert [r.key for r in kept] == [r.key for r in records if r.label == wanted] and kept
    with pytest.raises(UserError, match="healthy"):
        phantom(lesions=1, only="tumour", healthy=1.0).records()


def test_a_share_of_the_subjects_is_healthy_whatever_their_number():
    def labels(count):
        records = phantom(("T1",), 3, (16, 16, 16), subjects=count, lesions=1, healthy=0.4).records()
        return {record.subject: record.label for record in records}

    few, many = labels(10), labels(40)
    assert all(many[subject] == label for subject, label in few.items())
    assert sum(label == "healthy" for label in many.values()) == pytest.approx(16, abs=1)


@pytest.mark.parametrize(
    "name, value",
    [("subjects", 0), ("slices", 0), ("noise", -1.0), ("jitter", 1.0), ("size", (4, 4)), ("size", (32, 32, 32)),
     ("healthy", 1.5), ("radius", (12.0, 4.0)), ("only", "tumour"), ("domains", ("T1", "PET"))],
)  # fmt: skip
def test_impossible_options_are_the_users_mistake(name, value):
    with pytest.raises(UserError) as error:
        phantom(**{name: value})
    if name == "domains":
        assert "'PET'" in str(error.value) and all(contrast in str(error.value) for contrast in CONTRASTS)
