"""The phantom keeps what training relies on: determinism, registration, and the physics of its contrasts."""

import numpy as np
import pytest

from gantk.data.phantom.contrast import CONTRASTS, RELAXATION, contrast_of, signal
from gantk.data.phantom.source import SHOWN, Phantom
from gantk.errors import UserError


def phantom(domains=("T1", "T2"), dims=2, size=(48, 48), **options):
    return Phantom(domains, dims, size, **{"subjects": 3, "slices": 3, **options})


def by_key(source):
    return {(record.domain, record.key): record.read() for record in source.records()}


def test_a_subject_is_the_same_however_many_there_are():
    few, many = by_key(phantom(subjects=2)), by_key(phantom(subjects=4))
    assert all(np.array_equal(image, many[key]) for key, image in few.items())


def test_reading_again_or_in_another_order_gives_the_same_pixels():
    records = phantom().records()
    forwards = [record.read() for record in records]
    backwards = [record.read() for record in reversed(phantom().records())][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_seeds_and_subjects_are_different_heads():
    one, other = by_key(phantom(noise=0.0)), by_key(phantom(noise=0.0, seed=1))
    assert not np.array_equal(one["a", "subject-000/slice-001"], other["a", "subject-000/slice-001"])
    assert not np.array_equal(one["a", "subject-000/slice-001"], one["a", "subject-001/slice-001"])


def test_lesions_leave_the_rest_of_the_head_as_it_was():
    plain = by_key(phantom(noise=0.0))["a", "subject-000/slice-001"]
    records = [r for r in phantom(noise=0.0, lesions=4).records() if r.key == "subject-000/slice-001"]
    hurt = records[0].read()
    assert np.mean(np.isclose(plain, hurt, atol=1e-3)) > 0.9


def test_lesions_come_with_their_masks_and_are_bright_in_t2():
    records = phantom(domains=("T1", "T2"), size=(96, 96), lesions=6, noise=0.0).records()
    masks = np.stack([record.mask() for record in records if record.domain == "b"])
    images = np.stack([record.read() for record in records if record.domain == "b"])
    assert set(np.unique(masks)) == {0.0, 1.0} and masks.shape == images.shape
    white = 1000 * signal("T2", *RELAXATION["white"])
    assert images[masks > 0].mean() > 1.2 * white


def test_without_lesions_there_is_no_mask():
    assert all(record.mask is None for record in phantom().records())


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


def test_flair_nulls_csf():
    assert signal("FLAIR", *RELAXATION["csf"]) < 0.001


def test_noise_is_three_percent_of_white_matter_and_differs_between_contrasts():
    images = by_key(phantom(size=(96, 96)))
    air = [images[domain, "subject-000/slice-001"][0, :8].ravel() for domain in "ab"]
    sigma = 0.03 * 1000 * signal("T1", *RELAXATION["white"])
    for values in air:  # a magnitude image's air is Rayleigh: mean square 2 sigma^2
        assert np.sqrt(np.mean(values**2) / 2) == pytest.approx(sigma, rel=0.1)
        assert values.min() >= 0
    assert abs(np.corrcoef(air)[0, 1]) < 0.15


def test_slices_stand_upright():
    for record in phantom(domains=("T1",), size=(96, 96), noise=0.0, subjects=6, slices=1).records():
        head = record.read()[0] > 100
        rows, columns = np.nonzero(head.any(axis=1))[0], np.nonzero(head.any(axis=0))[0]
        assert min(rows[0], 95 - rows[-1], columns[0], 95 - columns[-1]) > 4, "air all around"
        assert len(rows) > 1.1 * len(columns), "longer than wide"
        widest = np.mean(np.argsort(head.sum(axis=1))[-15:])
        assert widest > rows.mean(), "a head is widest behind its middle, so its front is up"


def test_a_volume_runs_from_inferior_to_superior():
    record = phantom(domains=("T1",), dims=3, size=(32, 32, 32), subjects=1).records()[0]
    volume = record.read()
    assert volume.shape == (1, 32, 32, 32) and record.domain == "image" and record.position is None
    filled = (volume[0] > 100).mean(axis=(1, 2))
    assert filled[16] > filled[8] and filled[31] < 0.01, "the cerebrum is above the brain stem, air above it"


def test_every_place_has_every_domain_and_its_pair():
    records = phantom().records()
    assert len(records) == 3 * 3 * 2 and len({(record.domain, record.key) for record in records}) == len(records)
    assert all({r.domain for r in records if r.pair == record.pair} == {"a", "b"} for record in records)
    stacks = [r.position for r in records if r.domain == "a" and r.subject == "subject-000"]
    assert stacks == sorted(stacks)


def test_an_unknown_contrast_lists_the_known_ones():
    with pytest.raises(UserError) as error:
        phantom(domains=("T1", "PET"))
    assert "'PET'" in str(error.value) and all(contrast in str(error.value) for contrast in CONTRASTS)
    assert contrast_of("flair") == "FLAIR" and contrast_of("t1w") == "T1" and contrast_of("MR") == "T1"


@pytest.mark.parametrize(
    "wrong",
    [
        {"subjects": 0},
        {"slices": 0},
        {"noise": -1.0},
        {"jitter": 1.0},
        {"size": (4, 4)},
        {"size": (32, 32, 32)},
        {"healthy": 1.5},
        {"radius": (12.0, 4.0)},
        {"only": "tumour"},
    ],
)
def test_impossible_options_are_the_users_mistake(wrong):
    with pytest.raises(UserError):
        phantom(**wrong)


def test_global_random_numbers_are_left_alone():
    import torch

    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    phantom(subjects=1, slices=1, lesions=1).records()[0].read()
    assert torch.equal(torch.rand(1), expected)


def test_figures_of_earlier_versions_still_hold():
    """Means of images as they were before contrasts, labels and skulls came: published scores rest on them."""
    records = {(r.domain, r.key): r for r in phantom(lesions=2, size=(64, 64)).records()}
    image = records["a", "subject-001/slice-001"].read()
    assert image.mean() == pytest.approx(131.76401, rel=1e-5)
    assert records["b", "subject-002/slice-002"].read().std() == pytest.approx(124.16615, rel=1e-5)
    assert records["a", "subject-001/slice-001"].mask().sum() == 13


def test_several_contrasts_of_a_domain_are_channels():
    source = phantom(domains=("T1+PD+FLAIR", "T2"))
    assert source.channels() == {"a": 3, "b": 1}
    images = by_key(source)
    several = images["a", "subject-001/slice-001"]
    assert several.shape == (3, 48, 48)
    for channel, contrast in zip(several, ("T1", "PD", "FLAIR"), strict=True):
        alone = by_key(phantom(domains=(contrast,)))["image", "subject-001/slice-001"]
        assert np.array_equal(channel, alone[0]), "a contrast is the same alone and beside others"


def test_ct_is_in_hounsfield_units_and_signed():
    images = by_key(phantom(domains=("CT", "MR"), size=(96, 96), slices=1))
    ct, mr = images["a", "subject-000/slice-000"][0], images["b", "subject-000/slice-000"][0]
    air = ct[:8]
    assert air.mean() == pytest.approx(-1000, abs=1) and 3 < air.std() < 6 and air.min() < -1005
    inside = np.zeros_like(mr, dtype=bool)
    inside[40:56, 30:66] = True
    brain = ct[inside & (mr > 200)]
    assert 20 < brain.mean() < 45
    plain = by_key(phantom(domains=("CT",), size=(96, 96), slices=1, bias=0.0))["image", "subject-000/slice-000"][0]
    assert np.array_equal(plain, ct), "no coil, no bias field"


def test_mr_is_t1():
    mr, t1 = (by_key(phantom(domains=(name,), slices=1)) for name in ("MR", "T1"))
    assert all(np.array_equal(image, t1[key]) for key, image in mr.items())


def test_contrast_agent_brightens_lesions_only():
    options = dict(lesions=4, noise=0.0, size=(96, 96), subjects=1)
    records = phantom(domains=("T1", "T1CE"), **options).records()
    mask = np.stack([record.mask() for record in records[::2]]) > 0
    plain, enhanced = (np.stack([record.read() for record in records[k::2]]) for k in (0, 1))
    assert mask.any() and enhanced[mask].mean() > 1.3 * plain[mask].mean()
    assert np.median(np.abs(enhanced - plain)[~mask]) < 1e-3


def test_a_skull_is_bright_in_ct_dark_in_mr_and_outside_the_brain():
    options = dict(size=(128, 128), slices=1, subjects=2, noise=0.0, bias=0.0)
    with_skull = by_key(phantom(domains=("CT", "T1"), skull=True, **options))
    bare = by_key(phantom(domains=("CT", "T1"), **options))
    for key in ("subject-000/slice-000", "subject-001/slice-000"):
        ct, t1 = with_skull["a", key][0], with_skull["b", key][0]
        bone, brain = ct > 700, bare["b", key][0] > 150
        assert 400 < bone.sum() < 3000 and not (bone & brain).any()
        assert t1[bone].mean() < 100, "bone gives no signal"
        assert np.allclose(t1[brain], bare["b", key][0][brain], atol=60), "the brain is as it was"
        middle = ct[64]
        first, last = np.nonzero(middle > 700)[0][[0, -1]]
        scalp = t1[64, : first - 1].max(), t1[64, last + 2 :].max()
        assert min(scalp) > 200, "fat outside the bone is bright in T1"
        assert middle[0] < -950 and middle[-1] < -950, "air around the head"


def test_a_label_says_whether_the_slice_shows_a_lesion():
    records = phantom(domains=("FLAIR",), lesions=2, subjects=6, slices=5, size=(64, 64)).records()
    shown = ["tumour" if record.mask().sum() >= SHOWN else "healthy" for record in records]
    assert [record.label for record in records] == shown
    assert set(shown) == {"tumour", "healthy"}


def test_labels_image_no_head():
    source = phantom(domains=("FLAIR",), lesions=2, subjects=4)
    source.records()
    assert not source._tissue, "labels come from the lesions, heads are imaged when they are read"


def test_a_share_of_the_subjects_is_healthy_whatever_their_number():
    labels = {n: {r.subject: r.label for r in volume_records(n)} for n in (10, 40)}
    assert all(labels[40][subject] == label for subject, label in labels[10].items())
    assert sum(label == "healthy" for label in labels[40].values()) == pytest.approx(16, abs=1)


def volume_records(subjects):
    return phantom(("T1",), 3, (16, 16, 16), subjects=subjects, lesions=1, healthy=0.4).records()


def test_only_one_class_is_kept_where_asked():
    options = dict(domains=("T1",), lesions=1, subjects=8, slices=4)
    every = phantom(**options).records()
    for wanted in ("tumour", "healthy"):
        kept = phantom(only=wanted, **options).records()
        assert [r.key for r in kept] == [r.key for r in every if r.label == wanted] and kept
    with pytest.raises(UserError, match="healthy"):
        phantom(only="tumour", healthy=1.0, **options).records()


def test_without_lesions_there_is_no_label():
    assert all(record.label is None for record in phantom().records())


def test_lesions_are_as_large_as_asked():
    def most(radius):
        records = phantom(("T1",), 3, (64, 64, 64), subjects=4, lesions=1, radius=radius).records()
        return np.mean([record.mask().sum() for record in records])

    assert most((10.0, 20.0)) > 2.5 * most((4.0, 12.0))
