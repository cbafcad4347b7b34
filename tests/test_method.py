"""What a method may hand to the engine: losses are scalar tensors by name, and whatever else is told by name."""

from __future__ import annotations

import pytest
import torch

from gantk.errors import UserError
from gantk.method import Geometry, Method, Phase, check_losses

WHERE = "the phase 'play' of the method Method"
METHOD = Method(Geometry(2, (8, 8), {"image": 1}))
LOSS = torch.ones((), requires_grad=True) * 2


def check(losses):
    return check_losses(METHOD, Phase("play", (), lambda batch: losses), losses)


def test_scalar_tensors_by_name_pass_as_they_are():
    losses = {"adversarial": LOSS, "constant": torch.zeros(())}
    assert check(losses) is losses


@pytest.mark.parametrize(
    ("losses", "text"),
    [
        (None, "the phase returned nothing (None), and not its losses by name"),
        ({}, "the phase returned an empty dict, and not its losses by name"),
        ([LOSS], "the phase returned a list, and not its losses by name"),
        (LOSS, "the phase returned a tensor of shape (), and not its losses by name"),
    ],
)
def test_anything_but_a_table_is_refused(losses, text):
    with pytest.raises(UserError) as error:
        check(losses)
    assert str(error.value) == f'{text}. Allowed: {{"name": loss, ...}}, each a tensor of shape ().  ({WHERE})'


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (0.5, "the loss 'x' is a float, and not one number as a tensor. Return the tensor itself, without .item(), "
              "float() or .tolist()."),
        ([LOSS], "the loss 'x' is a list, and not one number as a tensor. Return the tensor itself, without .item(), "
                 "float() or .tolist()."),
        (LOSS.expand(2, 1), "the loss 'x' is a tensor of shape (2, 1), and not one number as a tensor. "
                            "Return its .mean() or .sum()."),
        (torch.zeros((), device="meta"), "the loss 'x' lies on meta, and the method on cpu. "
                                         "Keep it where it was computed, without .cpu() or .to(...)."),
        (LOSS.detach(), "no loss (x) leads back to a weight, so that nothing can be learned from it. Compute one from "
                        "what the phase's networks give, without .detach(), .item() or torch.no_grad()."),
    ],
)  # fmt: skip
def test_a_loss_that_cannot_be_minimised_is_named(loss, text):
    with pytest.raises(UserError) as error:
        check({"x": loss})
    assert str(error.value) == f"{text}  ({WHERE})"
