"""Gradients become their mean over the ranks: whatever took part, in whatever order, in the weights' own layout.

The other rank is played: `Other.all_reduce` adds what it would have sent, bucket by bucket.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gantk.errors import GantkError
from gantk.machine import reduction
from gantk.machine.reduction import Reduction
from gantk.training.optim import AnyLayoutLBFGS


class Done:
    def wait(self) -> None:
        """A message that has gone round already."""


class Other:
    """The second rank: it holds `share` times this rank's gradients, and takes part where `there` says so."""

    def __init__(self, share: float = 3.0, there: bool = True):
        self.share, self.there = share, there
        self.sent: list[int] = []  # numbers in each message
        self.flags: list[int] = []  # how many of them say that a gradient exists

    def all_reduce(self, flat: torch.Tensor, group=None, async_op=False) -> Done:
        self.sent.append(len(flat))
        flat += self.share * flat if self.there else 0.0
        return Done()


@pytest.fixture
def other(monkeypatch) -> Other:
    found = Other()
    monkeypatch.setattr(reduction.dist, "all_reduce", found.all_reduce)
    monkeypatch.setattr(reduction, "SMALLEST", 512)
    return found


def network(layout=torch.channels_last) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)]
    return nn.Sequential(*layers).to(memory_format=layout)


def image(seed: int = 0, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 4, 12, 12, generator=torch.Generator().manual_seed(seed))


def gradients(net: nn.Module) -> list[torch.Tensor | None]:
    return [p.grad for p in net.parameters()]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_the_mean_in_the_layout_of_their_weights(other, layout, overlap):
    net, alone = network(layout), network(layout)
    reducing = Reduction(net.parameters(), 2, overlap=overlap)
    for step in range(3):
        for each in (net, alone):
            each.zero_grad()
        with reducing.during():
            net(image(step)).square().mean().backward()
        alone(image(step)).square().mean().backward()
        for mine, own in zip(net.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, 2 * own.grad)  # (1 + 3) / 2
            assert mine.grad.stride() == mine.stride()
    assert len(other.sent) == 3 * len(reducing._buckets)
    assert (len(reducing._buckets) > 2) == overlap


def test_messages_leave_while_the_backward_pass_goes_on(other):
    net, order = network(), []
    reducing = Reduction(net.parameters(), 2)
    send = other.all_reduce
    reduction.dist.all_reduce = lambda *a, **k: (order.append("sent"), send(*a, **k))[1]
    next(iter(net.parameters())).register_hook(lambda grad: order.append("first layer"))
    with reducing.during():
        net(image()).square().mean().backward()
    assert "sent" in order[: order.index("first layer")]


def test_a_network_that_runs_several_times_is_reduced_once(other):
    net, alone = network(), network()
    reducing = Reduction(net.parameters(), 2)

    def loss(each: nn.Module) -> torch.Tensor:
        outputs = [each(image(seed)) for seed in range(3)]
        inner = image(9).requires_grad_(True)
        (slope,) = torch.autograd.grad(each(inner).sum(), inner, create_graph=True)  # a penalty: double backward
        return torch.stack([o.square().mean() for o in outputs]).sum() + slope.square().mean()

    with reducing.during():
        loss(net).backward()
    loss(alone).backward()
    for mine, own in zip(gradients(net), gradients(alone), strict=True):
        torch.testing.assert_close(mine, 2 * own)
    assert len(other.sent) == len(reducing._buckets)


def test_only_the_last_microbatch_is_reduced(other):
    net, alone = network(), network()
    reducing = Reduction(net.parameters(), 2)
    for number in range(3):
        with reducing.during(last=number == 2):
            net(image(number)).square().mean().backward()
        assert bool(other.sent) == (number == 2)
        alone(image(number)).square().mean().backward()
    for mine, own in zip(gradients(net), gradients(alone), strict=True):
        torch.testing.assert_close(mine, 2 * own)


def test_what_took_part_nowhere_keeps_no_gradient_and_what_took_part_elsewhere_gets_one(other):
    net, idle, lent = network(), nn.Linear(3, 3), nn.Linear(2, 2)
    reducing = Reduction([*net.parameters(), *idle.parameters(), *lent.parameters()], 2)
    plain = other.all_reduce

    def lending(flat, group=None, async_op=False):
        for bucket in reducing._buckets:
            if bucket.flat is flat:
                plain(flat)
                for number, parameter in enumerate(bucket.parameters):
                    if any(parameter is p for p in lent.parameters()):
                        bucket.present[number] = 1.0
                        bucket.gradients[number].fill_(5.0)
        return Done()

    reduction.dist.all_reduce = lending
    with reducing.during():
        net(image()).square().mean().backward()
    assert all(grad is None for grad in gradients(idle))
    assert all(torch.equal(grad, torch.full_like(grad, 2.5)) for grad in gradients(lent))
    assert all(grad is not None for grad in gradients(net))


def test_every_evaluation_of_a_closure_is_reduced(other):
    other.share = 1.0  # the same gradient on both ranks: the mean is this rank's own
    net, alone = network(), network()
    reducing, found = Reduction(net.parameters(), 2), []

    for each, during in ((net, reducing.during), (alone, None)):
        rule = AnyLayoutLBFGS(each.parameters(), lr=0.1, max_iter=3)

        def closure(each=each, during=during, rule=rule):
            rule.zero_grad()
            loss = each(image()).square().mean()
            if during is None:
                loss.backward()
            else:
                with during():
                    loss.backward()
            return loss

        rule.step(closure)
        found.append([p.detach().clone() for p in each.parameters()])
    assert len(other.sent) > len(reducing._buckets)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_gradient_that_comes_after_its_message_is_an_error_with_a_remedy(other):
    net = network()
    reducing = Reduction(net.parameters(), 2)
    with pytest.raises(GantkError, match=r"Set train\.overlap = false"), reducing.during():
        for _ in range(2):
            net(image()).square().mean().backward()
    flat = Reduction(copy.deepcopy(net).parameters(), 2, overlap=False)
    with flat.during():
        pass


def test_hooks_of_one_phase_leave_another_alone(other):
    net = network()
    first, second = Reduction(net.parameters(), 2), Reduction(net.parameters(), 2)
    with first.during():
        net(image()).square().mean().backward()
    assert len(other.sent) == len(first._buckets)
    assert not second._buckets


def test_one_process_sends_nothing(other):
    net = network()
    with Reduction(net.parameters(), 1).during():
        net(image()).square().mean().backward()
    assert not other.sent
    assert all(grad is not None for grad in gradients(net))


def test_weights_of_several_types_go_in_messages_of_their_own(other):
    single, double = nn.Linear(4, 4), nn.Linear(4, 4).double()
    reducing = Reduction([*single.parameters(), *double.parameters()], 2, overlap=False)
    with reducing.during():
        (single(torch.ones(1, 4)).sum() + double(torch.ones(1, 4).double()).sum()).backward()
    assert len(other.sent) == 2
    assert double.weight.grad.dtype == torch.float64


def test_every_gradient_begins_where_kernels_read_four_numbers_at_once(other):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 5))
    reducing = Reduction(net.parameters(), 2)
    with reducing.during():
        net(torch.ones(1, 3)).sum().backward()
    assert all(grad.data_ptr() % reduction.ALIGNED == 0 for grad in gradients(net))
