"""A published system's training moves its weights as the report's losses and optimizers do."""

from unittest import mock

import pytest
import torch
from systems import build, small_model
from tiny import CPU
from training import DCGAN, Cycle, Pix2Pix, StyleGAN, bce, least_squares, plain_copy, train

from gantk.machine.runtime import Runtime
from gantk.method import Batch
from gantk.training.engine import Engine

STEPS = 3
SHALLOW = ["data.size=[32, 32]", "method.generator.depth=3"]  # the same layers, fewer of them
TABLE = {"generators": 2e-4, "discriminators": 1e-4}  # R4's learning rates
ALIKE = {"generators": 2e-4, "discriminators": 2e-4}
SYSTEMS = {  # recipe -> its training as reported, learning rates, betas, and smaller settings
    "cyclegan_t1t2_unet15": (Cycle(bce, 10, 5), ALIKE, (0.5, 0.999), SHALLOW),
    "dualgan_t1t2_unet15": (Cycle(least_squares, 10, 0), ALIKE, (0.5, 0.999), SHALLOW),
    "cyclegan_t1t2_64": (Cycle(least_squares, 10, 5), ALIKE, (0.5, 0.999), SHALLOW),
    "cyclegan_t1t2_256": (Cycle(least_squares, 10, 5), ALIKE, (0.5, 0.999), SHALLOW),
    "cyclegan_ct_mr": (Cycle(bce, 10, 0), ALIKE, (0.5, 0.999), []),
    "cyclegan_ct_mr_resnet9": (Cycle(bce, 10, 0), ALIKE, (0.5, 0.999), []),
    "dcgan_tumour": (DCGAN(), TABLE, (0.5, 0.999), []),
    "pix2pix_tumour": (Pix2Pix(), TABLE, (0.5, 0.999), []),
    "style_gan_tumour": (
        StyleGAN(),
        ALIKE,
        (0.5, 0.999),
        ['train.schedule="constant"', "train.ema=0.0"],
    ),
}
DECAY = {"cyclegan_t1t2_64": 1e-4}  # R1's regularization, of a kind that is open


def batches_of(method):
    """For every step its images, and labels of both classes."""
    numbers = torch.Generator().manual_seed(3)
    size = (2, 1, *method.geometry.size)
    low, high = method.geometry.range
    return [
        {name: torch.rand(size, generator=numbers) * (high - low) + low for name in method.reads}
        | {"label": torch.tensor([0, 1])}
        for _ in range(STEPS)
    ]


def ours(method, model, batches):
    """Losses of every step of the engine, of generators and of discriminators."""
    engine = Engine(method, model.train, STEPS, CPU)
    found = []
    with mock.patch.object(Runtime, "seed", lambda _, seed, step: torch.manual_seed(step)):
        for _, _, losses in engine.fit(lambda step, stage: Batch(batches[step])):
            of_generators = [x for name, x in losses.items() if name.startswith("generator")]
            others = [x for name, x in losses.items() if name.startswith("discriminator")]
            assert len(of_generators) + len(others) == len(losses)
            found.append([float(sum(of_generators)), float(sum(others))])
    return found


@pytest.mark.fidelity
@pytest.mark.parametrize("name", SYSTEMS)
def test_steps_of_a_training_are_those_of_its_report(name):
    system, rates, betas, settings = SYSTEMS[name]
    model = small_model(name, *settings)
    method = build(model)
    start = {key: weight.detach().clone() for key, weight in method.named_parameters()}
    plain = plain_copy(method)
    batches = batches_of(method)

    found = ours(method, model, [dict(batch) for batch in batches])
    steps = list(enumerate(batches))
    stated = list(train(system, plain, rates, betas, steps, DECAY.get(name, 0.0)))

    torch.testing.assert_close(torch.tensor(found), torch.tensor(stated), rtol=2e-4, atol=1e-5)
    expected = dict(plain.named_parameters())
    for key, weight in method.named_parameters():
        moved = (expected[key] - start[key]).norm()
        assert moved > 0
        assert (weight - expected[key]).norm() < 0.05 * moved, key
