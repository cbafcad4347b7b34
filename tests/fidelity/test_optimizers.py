"""Optimizers against the algorithms of their papers, over steps whose gradients grow and shrink."""

import pytest
import torch
from tiny import registered

pytestmark = pytest.mark.fidelity
GRADIENTS = [0.5, -3.0, 40.0, 0.2, -0.1, 0.05, 0.3, -0.02]
START = 1.0


def weights_after_each_step(rule: str, **options) -> list[float]:
    """The weight after each step with the next of the gradients."""
    weight = torch.nn.Parameter(torch.full((3,), START))
    optimizer = registered("optimizer", rule)([weight], **options)
    values = []
    for gradient in GRADIENTS:
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
        values.append(float(weight[0].detach()))

    return values


def adam_of_the_paper(lr, betas, penalty, shrink) -> list[float]:
    """Kingma and Ba 2015, algorithm 1. `penalty`: L2, added to the gradient. `shrink`: decoupled
    weight decay (Loshchilov and Hutter 2019, algorithm 2).
    """
    weight, mean, square = START, 0.0, 0.0
    values = []
    for step, gradient in enumerate(GRADIENTS, 1):
        gradient += penalty * weight
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient**2
        unbiased_mean = mean / (1 - betas[0] ** step)
        unbiased_square = square / (1 - betas[1] ** step)
        weight -= lr * shrink * weight
        weight -= lr * unbiased_mean / (unbiased_square**0.5 + 1e-8)
        values.append(weight)

    return values


@pytest.mark.parametrize("betas", [(0.5, 0.999), (0.9, 0.9)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("rule", ["adam", "adamw"])
def test_adam_and_adamw_are_the_algorithms_of_their_papers(rule, betas, decay):
    found = weights_after_each_step(rule, lr=0.01, betas=betas, weight_decay=decay)
    penalty, shrink = (decay, 0.0) if rule == "adam" else (0.0, decay)
    expected = adam_of_the_paper(0.01, betas, penalty, shrink)
    assert found == pytest.approx(expected, rel=1e-5)


def test_rmsprop_divides_by_the_root_of_the_mean_square():
    weight, square = START, 0.0
    expected = []
    for gradient in GRADIENTS:
        square = 0.9 * square + 0.1 * gradient**2
        weight -= 0.01 * gradient / (square**0.5 + 1e-8)
        expected.append(weight)

    assert weights_after_each_step("rmsprop", lr=0.01, decay=0.9) == pytest.approx(
        expected, rel=1e-5
    )
