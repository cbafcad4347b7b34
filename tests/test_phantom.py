"""The phantom keeps what training relies on: determinism, registration, and the physics of its contrasts."""

import numpy as np
import pytest

from gantk.data.phantom import CONTRASTS, RELAXATION, Phantom, contrast_of, signal
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
        phantom(domains=("T1", "CT"))
    assert "'CT'" in str(error.value) and all(contrast in str(error.value) for contrast in CONTRASTS)
    assert contrast_of("flair") == "FLAIR" and contrast_of("t1w") == "T1"


@pytest.mark.parametrize(
    "wrong",
    [{"subjects": 0}, {"slices": 0}, {"noise": -1.0}, {"jitter": 1.0}, {"size": (4, 4)}, {"size": (32, 32, 32)}],
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
