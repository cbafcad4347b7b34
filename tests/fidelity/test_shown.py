"""What the networks of a published system are shown of a folder of pictures: from colour files that
are no squares to the batches of a training.
"""

import functools

import numpy as np
import PIL.Image
import pytest
import torch
from systems import small_model
from tiny import CPU

from gantk.data.description import describe
from gantk.training.assemble import assemble

pytestmark = pytest.mark.fidelity

NATIVE = (27, 22)  # rows, columns: the shape of a slice of 217 x 181 pixels
COUNTS = {"R1": (43, 46), "R0": (20, 20), "R3": (12, 10)}


@functools.cache
def training_on_pictures(recipe, domains, counts, folder):
    """A training of a system on pictures without black, each of its own colour and noise."""
    for domain, count in zip(domains, counts, strict=True):
        (folder / domain).mkdir()
        for number in range(count):
            rng = np.random.default_rng([number, len(domain), ord(domain[-1])])
            pixels = rng.integers(60, 256, (*NATIVE, 3), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(folder / domain / f"{number:02d}.png")

    settings = (
        f'data.source={{name="folders", path="{folder}"}}',
        "data.cache=false",
        "data.workers=0",
        "train.precision=fp32",
    )
    parts = assemble(small_model(recipe, *settings), CPU)
    return parts


def batches_of(training, count):
    (*_, stage) = training.method.stages(training.engine.steps)
    return [training.batch_at(step, stage) for step in range(count)]


def prepared(training, letter):
    """The training images of a domain as they are before augmentation."""
    records = [record for record in training.data.training if record.domain == letter]
    return torch.stack([training.data.image(record) for record in records])


def is_among(image, images):
    return bool(((images - image).abs().flatten(1).amax(1) < 1e-5).any())


@pytest.fixture(scope="module")
def r1(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r1")
    return training_on_pictures("cyclegan_t1t2_64", ("T1", "T2"), COUNTS["R1"], folder)


def test_r1_trains_on_all_slices_for_1500_steps(r1):
    data = r1.data
    sizes = {letter: len(images) for letter, images in data.training_sets().items()}

    assert sizes == {"a": 43, "b": 46}
    assert (len(data.splits["validation"]), len(data.splits["test"])) == (0, 0)
    assert r1.engine.steps == 1500
    assert any("nothing is held out" in line for line in describe(data))


def test_r1_is_shown_gray_squares_and_their_mirror_images(r1):
    for letter in "ab":
        plain = prepared(r1, letter)
        mirrored = plain.flip(-1)
        kinds = []
        for batch in batches_of(r1, 4):
            assert batch[letter].shape == (8, 1, 64, 64)
            assert 0 <= batch[letter].min() < 0.2
            assert 0.8 < batch[letter].max() <= 1
            # padding would be black
            assert (batch[letter] == 0).float().mean() < 0.01
            kinds += [(is_among(x, plain), is_among(x, mirrored)) for x in batch[letter]]

        assert set(kinds) == {(True, False), (False, True)}


def test_r0_is_shown_gray_squares_and_each_in_another_way(tmp_path):
    training = training_on_pictures("dualgan_t1t2_unet15", ("T1", "T2"), COUNTS["R0"], tmp_path)
    plain = prepared(training, "a")
    shown = torch.cat([batch["a"] for batch in batches_of(training, 8)])

    assert plain.shape[1:] == (1, 256, 256)
    assert -1 <= plain.min() < -0.8
    assert 0.8 < plain.max() <= 1
    assert (plain == -1).float().mean() < 0.01
    assert all(training.data.splits[name] for name in ("train", "validation", "test"))
    assert shown.shape == (8, 1, 256, 256)
    assert not any(is_among(image, plain) for image in shown)  # all are cropped, at least


def test_r3_is_shown_squares_as_they_are(tmp_path):
    training = training_on_pictures("cyclegan_ct_mr", ("CT", "MR"), COUNTS["R3"], tmp_path)
    for letter in "ab":
        plain = prepared(training, letter)
        shown = torch.cat([batch[letter] for batch in batches_of(training, 4)])

        assert -1 <= plain.min() < -0.8
        assert (plain == -1).float().mean() < 0.01
        assert all(is_among(image, plain) for image in shown)
