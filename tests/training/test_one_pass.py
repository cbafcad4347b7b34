"""What a step costs: one pass where one is enough, no gradients that nobody wants, nothing that a
device waits for.
"""

import kornia.geometry  # noqa: F401  (its first import copies tensors from the host)
import pytest
import torch
from method_options import METHODS, MUNIT
from recorded import host_reads
from tiny import random_images

from gantk.method import Batch, Geometry, Method
from gantk.testing.small import small_part, small_size

CHANGES = ["hflip", "rot90", "affine", "crop", "brightness", "contrast", "noise"]
ALL = {
    "local_ncc": 2.0,
    "flat_region": 4.0,
    "lesion": 3.0,
    "low_res_warmup": 0.5,
    "augment": CHANGES,
    "adapt": 0.6,
}
# Every option that brings a loss or a change of its own, all at once.
EVERYTHING = {
    "cyclegan": ALL
    | {"adversarial": "wgan_gp", "defense": 0.1, "air": 1.0, "contrast": "inverted"},
    "dualgan": ALL | {"adversarial": "hinge", "pool": 3, "contrast": "same"},
    "pix2pix": {
        "both": True,
        "lesion": 2.0,
        "augment": CHANGES,
        "adapt": 0.6,
        "adversarial": "wgan_gp",
    },
    "regression": {"both": True, "lesion": 2.0},
    "dcgan": {
        "conditional": True,
        "augment": CHANGES,
        "adapt": 0.6,
        "adversarial": "wgan_gp",
        "width": 4,
        "discriminator": {"name": "dcgan", "width": 4, "depth": 2, "norm": "instance"},
    },
    "munit": MUNIT
    | {key: value for key, value in ALL.items() if key != "lesion"}
    | {"scales": 2, "adversarial": "wgan_gp"},
    "cut": {
        "local_ncc": 2.0,
        "flat_region": 4.0,
        "low_res_warmup": 0.5,
        "augment": CHANGES,
        "adapt": 0.6,
        "width": 8,
        "patches": 16,
        "adversarial": "wgan_gp",
    },
    "progan": {
        "width": 8,
        "latent": 8,
        "conditional": True,
        "augment": CHANGES,
        "adapt": 0.6,
    },
}
CASES = [(name, number) for name in sorted(METHODS) for number in range(len(METHODS[name]))]
CASES += [(name, "everything") for name in EVERYTHING]


def options_of(name: str, number: int | str) -> dict:
    return EVERYTHING[name] if number == "everything" else METHODS[name][number]


def method_of(name: str, number: int | str, **changes) -> Method:
    """A method at its last stage, fading in where it can."""
    torch.manual_seed(0)
    options = options_of(name, number) | changes
    part = small_part("method", name, options)
    size = small_size(2)
    classes = ("one", "other") if options.get("conditional") else ()
    method = part(Geometry(2, size, dict.fromkeys(part.target.reads, 1), classes)).train()
    stages = [stage for stage in method.stages(100) if stage.size == size]
    method.progress.fill_(0.75)  # in the middle of the last fade-in of progan
    method.begin(stages[0], batch_of(method))
    return method


def batch_of(method: Method) -> Batch:
    size = method.geometry.size
    batch = Batch()
    for place, name in enumerate(method.reads):
        batch[name] = random_images(2, 1, size, seed=place)
        batch[f"mask_{name}"] = (random_images(2, 1, size, seed=10 + place) > 0.5).float()

    if method.geometry.classes:
        batch["label"] = torch.arange(2)
    return batch


def backward(losses: dict) -> None:
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()


# ---- one pass for several inputs
# -------------------------------------------------------------------


@pytest.mark.parametrize(("name", "number"), [case for case in CASES if case[1] != "everything"])
def test_one_pass_for_several_inputs_changes_no_loss(name, number):
    if options_of(name, number).get("augment"):
        pytest.skip("draws its random numbers in another order")

    results = []
    for batched in (True, False):
        method = method_of(name, number)
        losses = {}
        method.batched = batched
        batch = batch_of(method)
        torch.manual_seed(1)
        for phase in method.phases():
            torch.manual_seed(2)
            losses |= {
                f"{phase.name}/{key}": loss.detach() for key, loss in phase.loss(batch).items()
            }

        results.append(losses | {key: tensor.clone() for key, tensor in method.named_buffers()})

    for key, value in results[0].items():
        torch.testing.assert_close(
            value, results[1][key], rtol=1e-3, atol=1e-4, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.quick_cases(*(f"{name}-everything" for name in EVERYTHING))
@pytest.mark.parametrize(("name", "number"), CASES)
def test_no_loss_asks_the_device_for_a_value_or_feeds_it(name, number):
    method = method_of(name, number)
    batch = batch_of(method)
    for phase in method.phases():
        assert host_reads(lambda phase=phase: backward(phase.loss(batch))) == [], phase.name
