"""What says whether to trust a result: invented detail, copies, wrong contrasts."""

from types import SimpleNamespace

import pytest
import torch
from tiny import registered, small_run
from torch.nn import functional as F

import gantk
from gantk.metrics.samples import SampleBatch, alarms
from gantk.metrics.sets import ImageGroup
from gantk_trust.wrong_contrast import doubt_of_result

SFRC = registered("metric", "sfrc")
Memorisation = registered("metric", "memorisation")


def smooth(count: int, seed: int, side: int = 48) -> torch.Tensor:
    """Images (N, 1, side, side) of broad blobs, from about 0.2 to 1.8, with noise of 0.02."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, 5, 5, generator=draw)
    images = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True) * 1.6 + 0.2
    return images + 0.02 * torch.randn(images.shape, generator=draw)


def with_disc(images: torch.Tensor, row: int, column: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(
        *[torch.arange(side) for side in images.shape[2:]], indexing="ij"
    )
    return images + 0.5 * (((rows - row) ** 2 + (columns - column) ** 2) <= 9)


@pytest.mark.parametrize("dims", [2, 3])
def test_sfrc_counts_the_patches_that_differ_by_more_than_noise(dims):
    slices = smooth(3, 1)
    noise = 0.02 * torch.randn(slices.shape, generator=torch.Generator().manual_seed(2))
    sets = [slices, slices + noise, with_disc(slices + noise, 20, 30)]
    if dims == 3:
        sets = [images.transpose(0, 1)[None] for images in sets]

    truth, noisy, planted = sets
    sfrc = SFRC(2.0, dims)

    assert sfrc(truth, truth).max() == 0
    assert sfrc(noisy, truth).max() == 0
    counted = sfrc(planted, truth)
    assert len(counted) == len(truth)
    assert 0 < counted.min() <= 0.2
    far_from_the_disc = (torch.arange(48) < 12).expand_as(truth).float()
    assert sfrc(planted, truth, far_from_the_disc).max() == 0


def group(images: torch.Tensor, name: str) -> ImageGroup:
    return ImageGroup(images, [f"{name} {number}" for number in range(len(images))])


TRAINED_ON = smooth(40, 4, 32)
NOISE = 0.05 * torch.randn(30, 1, 32, 32, generator=torch.Generator().manual_seed(6))
COPIES = 0.9 * TRAINED_ON[:30].roll(1, 2) + 0.05 + NOISE


@pytest.mark.parametrize(
    ("made", "low", "high", "warns"),
    [
        (COPIES, 0.5, 1.0, True),
        (COPIES.flip(-1), 0.5, 1.0, True),
        (smooth(30, 7, 32), -0.5, 0.5, False),
    ],
    ids=["copies", "mirrored copies", "new images"],
)
def test_copies_of_training_images_are_told_from_new_images(made, low, high, warns):
    train = group(TRAINED_ON, "t")
    held_out = group(smooth(40, 5, 32), "h")
    score = Memorisation(2.0, 2)(train, held_out, group(made, "f"))

    assert low <= score.value <= high
    assert score.ci95[0] <= score.value <= score.ci95[1]
    assert ("warning" in score.details) == warns

    train.patients[:] = [""] * len(train)  # neighbours in the place of patients
    score = Memorisation(2.0, 2)(train, held_out, group(made, "f"))
    assert score.ci95[0] <= score.value <= score.ci95[1]
    assert ("warning" in score.details) == warns


def test_noise_copies_no_training_image():
    signs = torch.randint(0, 2, (30, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    train = group(smooth(40, 5, 32), "t")
    score = Memorisation(2.0, 2)(train, group(TRAINED_ON, "h"), group(1.8 * signs - 0.9, "f"))

    assert score.value > 0.9
    assert "warning" not in score.details


def test_inverted_contrast_raises_an_alarm_in_training():
    truth = smooth(4, 8)
    held = SampleBatch(inputs={"a_to_b": truth.flip(-1)}, truths={"a_to_b": truth})

    assert [name for name, _ in alarms({"a_to_b": 2 - truth}, held)] == ["inverted"]
    assert list(alarms({"a_to_b": truth}, held)) == []


def test_inverted_or_unchanged_translations_are_doubted():
    from gantk.data.look import values_of

    source = smooth(4, 8).numpy()
    target = source**3  # few pixels are bright
    values = {"source": values_of(list(source)), "target": values_of(list(target))}
    frame = SimpleNamespace(values=values, target="T2")
    inverted = values["target"]["high"] + values["target"]["low"] - target

    assert doubt_of_result(source[0], target[0], frame) is None
    assert "swapped" in doubt_of_result(source[0], inverted[0], frame)
    same = SimpleNamespace(values=values | {"target": values["source"]}, target="T2")
    assert "nothing" in doubt_of_result(source[0], source[0] + 0.001, same)


@pytest.mark.slow
def test_a_run_is_compared_with_all_its_training_images(tmp_path):
    discriminator = {"name": "dcgan", "width": 4, "depth": 3}
    run = small_run(
        tmp_path,
        {"name": "dcgan", "width": 4, "discriminator": discriminator},
        domains=["T1"],
        source={"subjects": 12},
        split={"test": 0.4, "validation": 0.0},
    )
    scores = gantk.evaluate(run, metrics=["memorisation"], device="cpu", say=lambda line: None)
    found = scores["metrics"]["image"]["memorisation_random"]

    assert -1 <= found["value"] <= 1
    assert ",train=" in found["definition"]
