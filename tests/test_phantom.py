"""The phantom keeps what training relies on: determinism, registration, labels, and the physics of its contrasts."""

import numpy as np
import pytest
import torch

from gantk.errors import UserError
from gantk_phantom.anatomy import template
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


def test_figures_of_earlier_versions_still_hold():
    """Published scores rest on them."""
    records = {(r.domain, r.key): r for r in phantom(lesions=2, size=(64, 64)).records()}
    assert records["a", "subject-001/slice-001"].read().mean() == pytest.approx(131.76401, rel=1e-5)
    assert records["b", "subject-002/slice-002"].read().std() == pytest.approx(124.16615, rel=1e-5)
    assert records["a", "subject-001/slice-001"].mask().sum() == 13
    shares = template()
    assert shares.shape == (3, 155, 181, 145)
    assert shares.double().sum(dim=(1, 2, 3)).tolist() == pytest.approx([216432.1343, 996421.7936, 670141.0761])


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


def test_noise_is_three_percent_of_white_matter_and_differs_between_contrasts():
    images = by_key(phantom(size=(96, 96)))
    air = [images[domain, "subject-000/slice-001"][0, :8].ravel() for domain in "ab"]
    sigma = 0.03 * 1000 * signal("T1", *RELAXATION["white"])
    for values in air:  # a magnitude image's air is Rayleigh: mean square 2 sigma^2
        assert np.sqrt(np.mean(values**2) / 2) == pytest.approx(sigma, rel=0.1) and values.min() >= 0
    assert abs(np.corrcoef(air)[0, 1]) < 0.15


def test_slices_stand_upright_and_volumes_run_from_inferior_to_superior():
    for record in phantom(domains=("T1",), size=(96, 96), noise=0.0, subjects=6, slices=1).records():
        head = record.read()[0] > 100
        rows, columns = np.nonzero(head.any(axis=1))[0], np.nonzero(head.any(axis=0))[0]
        assert min(rows[0], 95 - rows[-1], columns[0], 95 - columns[-1]) > 4, "air all around"
        assert len(rows) > 1.1 * len(columns), "longer than wide"
        assert np.mean(np.argsort(head.sum(axis=1))[-15:]) > rows.mean(), "widest behind its middle, so its front is up"
    record = phantom(domains=("T1",), dims=3, size=(32, 32, 32), subjects=1).records()[0]
    filled = (record.read()[0] > 100).mean(axis=(1, 2))
    assert record.read().shape == (1, 32, 32, 32) and record.domain == "image" and record.position is None
    assert filled[16] > filled[8] and filled[31] < 0.01, "the cerebrum is above the brain stem, air above it"


def test_contrasts_of_a_domain_are_channels_the_same_alone_and_beside_others():
    source = phantom(domains=("T1+PD+FLAIR", "T2"))
    assert source.channels() == {"a": 3, "b": 1}
    several = by_key(source)["a", "subject-001/slice-001"]
    for channel, contrast in zip(several, ("MR", "PD", "flair"), strict=True):
        alone = by_key(phantom(domains=(contrast,)))["image", "subject-001/slice-001"]
        assert np.array_equal(channel, alone[0])
    assert contrast_of("t1w") == "T1"


def test_ct_is_in_hounsfield_units_and_a_skull_is_bright_in_it_and_dark_in_mr():
    options = dict(domains=("CT", "T1"), size=(128, 128), slices=1, subjects=2)
    noisy = by_key(phantom(**options))["a", "subject-000/slice-000"][0]
    assert noisy[:8].mean() == pytest.approx(-1000, abs=1) and 3 < noisy[:8].std() < 6 and noisy[:8].min() < -1005
    bare, skulls = (by_key(phantom(skull=skull, noise=0.0, bias=0.0, **options)) for skull in (False, True))
    for key in ("subject-000/slice-000", "subject-001/slice-000"):
        ct, t1 = skulls["a", key][0], skulls["b", key][0]
        bone, brain = ct > 700, bare["b", key][0] > 150
        assert 20 < bare["a", key][0][brain].mean() < 45
        assert 400 < bone.sum() < 3000 and not (bone & brain).any() and t1[bone].mean() < 100
        assert np.allclose(t1[brain], bare["b", key][0][brain], atol=60), "the brain is as it was"
        first, last = np.nonzero(ct[64] > 700)[0][[0, -1]]
        assert min(t1[64, : first - 1].max(), t1[64, last + 2 :].max()) > 200, "fat outside the bone is bright in T1"
        assert ct[64, 0] < -950 and ct[64, -1] < -950, "air around the head"


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
