"""How every layer of every published network starts."""

import math

import pytest
import torch
from losses import networks
from systems import SMALL, build, small_model
from torch import nn

pytestmark = pytest.mark.fidelity

NAMES = sorted(SMALL.keys() - {"progan_tumour"})  # which has its own, in test_progan


def layers_of(network):
    return [module for module in network.modules() if list(module.parameters(recurse=False))]


def is_normal(weights, mean, deviation):
    """Whether values are a sample of a normal distribution: by their first, second and fourth moment,
    each within 5 standard errors.
    """
    values = (weights.detach().flatten().double() - mean) / deviation
    count = len(values)
    moments = (
        (float(values.mean()), 0.0, 1.0),
        (float(values.square().mean()), 1.0, 2.0),
        (float(values.pow(4).mean()), 3.0, 96.0),
    )
    return all(
        abs(found - wanted) < 5 * math.sqrt(variance / count) for found, wanted, variance in moments
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_starts_at_a_normal_distribution_of_002(name):
    for _, network in networks(build(small_model(name))).values():
        kernels = []
        for layer in layers_of(network):
            if isinstance(layer, nn.BatchNorm2d):
                assert is_normal(layer.weight, 1.0, 0.02)
                assert layer.momentum == 0.1  # of the statistics that a translation uses
            else:
                assert is_normal(layer.weight, 0.0, 0.02)
                kernels.append(layer.weight.flatten())
            assert layer.bias is None or not layer.bias.any()

        assert is_normal(torch.cat(kernels), 0.0, 0.02)  # many: a uniform one has other moments


@pytest.mark.parametrize("name", NAMES)
def test_no_two_networks_start_alike(name):
    method = build(small_model(name))
    starts = [
        float(next(network.parameters()).detach().double().norm())
        for _, network in networks(method).values()
    ]
    one_way = method.samples or method.paired

    assert len(set(starts)) == (2 if one_way else 4)
