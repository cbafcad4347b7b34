"""Update rules: in storage order they do what torch's do, and their numbers are where the step computes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gantk.training.optim import adam, adamw, move_state, rmsprop, sgd

CPU = torch.device("cpu")


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ConvTranspose2d(6, 4, 4), nn.Flatten(), nn.Linear(4, 3))
    return net, copy.deepcopy(net)


def follow(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in net.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        optimizer.step()


@pytest.mark.parametrize(("rule", "other"), [(adam, torch.optim.Adam), (adamw, torch.optim.AdamW)])
def test_storage_order_changes_nothing_but_the_time(rule, other):
    plain, last = networks()
    last.to(memory_format=torch.channels_last)
    follow(plain, other(plain.parameters(), lr=2e-4, betas=(0.5, 0.999), weight_decay=0.01))
    mine = rule(last.parameters(), weight_decay=0.01)
    move_state(mine, CPU)
    follow(last, mine)
    for one, two in zip(plain.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
        assert mine.state[two]["exp_avg"].stride() == two.stride()


def test_channels_last_weights_are_not_copied():
    _, net = networks()
    net.to(memory_format=torch.channels_last)
    optimizer = adam(net.parameters())
    follow(net, optimizer, 1)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        optimizer.step()
    events = seen.key_averages(group_by_input_shape=True)
    large = [event.key for event in events if any(len(shape) > 1 for shape in event.input_shapes)]
    assert not {"aten::clone", "aten::copy_", "aten::contiguous"} & set(large)


@pytest.mark.parametrize("rule", [adam, adamw, sgd])
@pytest.mark.parametrize("last", [False, True])
def test_gradients_and_moments_in_another_order_than_their_weights_reach_the_right_ones(rule, last):
    one, other = networks()
    for net in (one, other):
        net.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    rules = [rule(net.parameters()) for net in (one, other)]
    move_state(rules[1], CPU)
    wrong = torch.contiguous_format if last else torch.channels_last
    for step in range(3):
        for net in (one, other):
            for k, parameter in enumerate(net.parameters()):
                drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * step + k))
                parameter.grad = torch.empty_like(parameter).copy_(drawn)
                if net is other and parameter.ndim == 4:
                    parameter.grad = parameter.grad.contiguous(memory_format=wrong)
        for each in rules:
            each.step()
        for state in rules[1].state.values():
            moments = {name: value for name, value in state.items() if value is not None and value.ndim == 4}
            state |= {name: value.contiguous(memory_format=wrong) for name, value in moments.items()}
        move_state(rules[1], CPU)  # as after a checkpoint
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_learning_rates_lie_where_the_rule_computes():
    net, _ = networks()
    fused, plain = adam(net.parameters(), lr=0.5), adam(net.parameters(), lr=0.5)
    move_state(fused, CPU)
    move_state(plain, CPU, fused=False)
    assert torch.equal(fused.param_groups[0]["lr"], torch.tensor(0.5))
    assert plain.param_groups[0]["lr"] == 0.5
    assert plain.param_groups[0]["fused"] is False
    for rule in (rmsprop, torch.optim.LBFGS):
        other = rule(net.parameters(), lr=0.5)
        move_state(other, CPU)
        assert other.param_groups[0]["lr"] == 0.5


def test_state_that_was_saved_with_a_number_for_the_rate_is_taken_over():
    net, again = networks()
    earlier = torch.optim.Adam(net.parameters(), lr=0.25, betas=(0.5, 0.999), fused=True)
    follow(net, earlier, 2)
    optimizer = adam(again.parameters())
    move_state(optimizer, CPU)
    optimizer.load_state_dict(copy.deepcopy(earlier.state_dict()))
    move_state(optimizer, CPU)
    assert torch.equal(optimizer.param_groups[0]["lr"], torch.tensor(0.25))
    again.load_state_dict(net.state_dict())
    follow(net, earlier)
    follow(again, optimizer)
    for one, two in zip(net.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, two)
