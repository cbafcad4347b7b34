"""A registered thing is a tested thing: the contracts of gantk.testing, over everything that the
registry holds.
"""

import numpy as np
import pytest
from method_options import JUDGE, METHODS, UNET
from recorded import RecordedMethodContract

from gantk import registry
from gantk.errors import UserError
from gantk.testing import (
    DiscriminatorContract,
    GeneratorContract,
    LossContract,
    MetricContract,
    SourceContract,
)

GENERATORS: dict[str, list[dict | None]] = {
    "unet": [
        None,
        UNET | {"stem": 1, "head": 1, "norm": "batch", "up": "transpose"},
        UNET | {"attention": [1, 2]},
    ],
    "resnet": [
        None,
        {"width": 4, "blocks": 1, "downs": 1, "norm": "group", "dropout": 0.5},
        {"width": 4, "blocks": 2, "bias": True},
    ],
    "attention_unet": [
        None,
        UNET | {"norm": "group", "up": "transpose"},
    ],
}
DISCRIMINATORS: dict[str, list[dict | None]] = {
    "dcgan": [None, UNET | {"norm": "none", "spectral": True}, UNET | {"first_stride": 1}],
    "munit": [JUDGE, {"width": 4, "layers": 3}],
    "patchgan": [
        None,
        {"width": 4, "layers": 3, "norm": "none", "spectral": True, "coordinates": True},
    ],
}


def contracts(kind: str, base: type, variants: dict[str, list]) -> list[type]:
    """One subclass of the contract for each registered name and each set of options."""
    found = []
    for name in registry()[kind]:
        for number, options in enumerate(variants.get(name, [base.options])):
            body = {
                kind: name,
                "options": options,
                "id": name if not number else f"{name}-{number + 1}",
            }
            body |= {"classes": ("healthy", "tumour")} if (options or {}).get("conditional") else {}
            body |= {"dims": (2,)} if number else {}  # what is 3-D, the first of each shows
            if kind == "method" and number:
                body |= {"captures": False}  # test_every_variant_can_be_recorded
                body |= {"test_builds_from_its_defaults": None}  # as the first of each does
            found.append(type(f"Test_{kind}_{name}_{number}", (base,), body))

    return found


LOSSES = {
    "correlation_ratio": type(
        "All", (LossContract,), {"options": {"data_range": 3.0, "black": -1.4}}
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name in METHODS for n in range(1, len(METHODS[name]))]
)
def test_every_variant_can_be_recorded(name, number, monkeypatch):
    options = METHODS[name][number]
    classes = ("healthy", "tumour") if options.get("conditional") else ()
    body = {"method": name, "options": options, "classes": classes, "dims": (2,)}
    type("Variant", (RecordedMethodContract,), body)().test_a_recorded_step_is_the_step(monkeypatch)


BROKEN = """
import torch
from torch import nn
from gantk import hookimpl
from gantk.nets.blocks import Network

@hookimpl
def gantk_register(add):
    for name in ("Unsaid", "Mixing", "Halving", "Hidden"):
        add.generator(name.lower(), f"gantk_wrong:{name}")
    add.discriminator("squashed", "gantk_wrong:Squashed")
    add.loss("halved", "gantk_wrong:Halved")
    add.metric("whole", "gantk_wrong:Whole")
    add.source("last", "gantk_wrong:Last")

class Unsaid(nn.Module):
    def __init__(self, inputs, outputs, dims):
        super().__init__()
        self.layer = {2: nn.Conv2d, 3: nn.Conv3d}[dims](inputs, outputs, 3, padding=1)
    def forward(self, x):
        return self.layer(x)

class Mixing(Unsaid):
    batch_independent = True
    def forward(self, x):
        return self.layer(x) - x.mean()

class Halving(Mixing):
    def forward(self, x):
        small = self.layer(x[..., ::2]).repeat_interleave(2, -1)
        return small + x.mean(1, keepdim=True)

class Hidden(Mixing):
    def __init__(self, *given):
        super().__init__(*given)
        self.offset = torch.rand(())
    def forward(self, x):
        return self.layer(x) + self.offset

class Squashed(Unsaid):
    def __init__(self, inputs, dims):
        super().__init__(inputs, 1, dims)
    def forward(self, x):
        return self.layer(x).sigmoid()

class Halved:
    def __call__(self, output, target):
        return (output - target.to(output.dtype)).abs().mean()

from gantk.metrics.pairs import PairMetric
class Whole(PairMetric):
    name, unit, higher_is_better = "whole", "", False
    def _score(self, output, reference, mask):
        return (output - reference).abs().mean()

import functools, numpy, gantk, pathlib
class Last(gantk.ImageSource):
    def __init__(self, domains, dims, size, *, path: str = ""):
        self.images = numpy.load(path)
    def records(self):
        return [gantk.Record(domain=x, subject=str(n), key=str(n), read=functools.partial(self.read, n))
                for x in "ab" for n in range(len(self.images))]
    def read(self, number):
        return self.images[number]
"""


@pytest.mark.parametrize(
    ("kind", "name", "promise", "words"),
    [
        (
            "generator",
            "unsaid",
            "an_image_influences_another",
            "Unsaid does not declare.*    batch_independent = True",
        ),
        (
            "generator",
            "mixing",
            "an_image_influences_another",
            "An image changes the output of Mixing.*norm..instance",
        ),
        (
            "generator",
            "halving",
            "sizes_that_are_let_pass",
            "Halving fails on images of 7.*def check_size.*size",
        ),
        ("generator", "hidden", "its_state_dict", "register_buffer"),
        ("discriminator", "squashed", "logits_are_not", "remove the sigmoid"),
        ("metric", "whole", "it_is_one_number", r"'whole' returns \(\) for 3 images"),
        ("source", "last", "records_are", r"shape \(32, 32, 1\)\. Allowed: \(C, H, W\)"),
        ("loss", "halved", "value_is_one_finite", r"loss is torch.bfloat16.*output\.float\(\)"),
    ],
)
def test_a_contract_says_what_is_missing_and_the_lines_to_add(
    kind, name, promise, words, add_plugin, tmp_path
):
    add_plugin("gantk-wrong", "gantk_wrong", BROKEN)
    base = {
        "generator": GeneratorContract,
        "discriminator": DiscriminatorContract,
        "loss": LossContract,
        "metric": MetricContract,
        "source": SourceContract,
    }[kind]
    contract = type("Broken", (base,), {kind: name, "write": write_last})()
    (check,) = [getattr(contract, each) for each in dir(base) if each.startswith(f"test_{promise}")]

    places = [tmp_path] if kind == "source" else []
    with pytest.raises((AssertionError, UserError, pytest.fail.Exception), match=f"(?is){words}"):
        check(2, *places)


def write_last(self, folder):
    """One file of images whose channels come last."""
    path = folder / "images.npy"
    np.save(path, np.ones((4, 32, 32, 1), np.float32))
    return path


for contract in [
    *contracts("method", RecordedMethodContract, METHODS),
    *contracts("generator", GeneratorContract, GENERATORS),
    *contracts("discriminator", DiscriminatorContract, DISCRIMINATORS),
]:
    globals()[contract.__name__] = contract
for name in registry()["loss"]:
    globals()[f"Test_loss_{name}"] = type(
        f"Test_loss_{name}", (LOSSES.get(name, LossContract),), {"loss": name}
    )
