"""The moving average: what it averages, what it copies, and that the live weights come back untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gantk.training.ema import EMA


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 3))


def disturb(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)


def copy_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_is_the_recurrence_with_its_warm_up(decay):
    net = network()
    ema = EMA(net, [net], decay)
    expected = {name: tensor.double() for name, tensor in copy_of(net).items()}
    for step in range(1, 8):
        disturb(net, step)
        ema.update()
        rate = min(decay, (1 + step) / (10 + step))
        for name, parameter in net.named_parameters():
            expected[name] = rate * expected[name] + (1 - rate) * parameter.detach().double()
    for name, _ in net.named_parameters():
        torch.testing.assert_close(ema.average[name].double(), expected[name], rtol=1e-5, atol=1e-6)
    assert ema.updates == 7


def test_buffers_are_copied_and_not_averaged():
    net = network()
    ema = EMA(net, [net], 0.9)
    net(torch.randn(4, 1, 8, 8))
    ema.update()
    assert torch.equal(ema.average["1.running_mean"], net[1].running_mean)
    assert ema.average["1.num_batches_tracked"] == 1


def test_what_is_no_part_of_a_checkpoint_is_no_part_of_the_average():
    net = network()
    net.register_buffer("scratch", torch.zeros(3), persistent=False)
    assert set(EMA(net, [net], 0.9).average) == set(net.state_dict())


def test_inside_applied_the_method_is_the_average_and_afterwards_what_it_was():
    net = network()
    ema = EMA(net, [net], 0.9)
    average = copy_of(net)
    disturb(net, 3)
    live = copy_of(net)
    addresses = [parameter.data_ptr() for parameter in net.parameters()]
    with ema.applied():
        assert all(torch.equal(average[name], tensor) for name, tensor in net.state_dict().items())
    assert all(torch.equal(live[name], tensor) for name, tensor in net.state_dict().items())
    assert addresses == [parameter.data_ptr() for parameter in net.parameters()]  # optimizers still hold them


def test_state_comes_back_to_the_bit_and_goes_on_alike():
    net = network()
    ema = EMA(net, [net], 0.99)
    for step in range(3):
        disturb(net, step)
        ema.update()
    other = network()
    other.load_state_dict(net.state_dict())
    restored = EMA(other, [other], 0.99)
    restored.load_state_dict({name: tensor.clone() for name, tensor in ema.state_dict().items()}, ema.updates)
    for both in (3, 4):
        disturb(net, both)
        disturb(other, both)
        ema.update()
        restored.update()
    assert restored.updates == ema.updates
    assert all(torch.equal(ema.average[name], restored.average[name]) for name in ema.average)
