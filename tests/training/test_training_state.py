"""What remembers during a training: the image pool, adaptive augmentation, the moving average,
optimizers.
"""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import registered, same_weights
from torch import nn

from gantk import DiscriminatorAugment, ImagePool
from gantk.method import Batch, Geometry
from gantk.plugin.spec import bind
from gantk.testing.small import small_part
from gantk.training.ema import EMA
from gantk.training.optim import move_state

adam = registered("optimizer", "adam")
adamw = registered("optimizer", "adamw")
sgd = registered("optimizer", "sgd")

CPU = torch.device("cpu")


def seeded(seed: int, function, *args):
    torch.manual_seed(seed)
    return function(*args)


# ---- the image pool (Shrivastava et al. 2017) ----------------------------------------------------


def numbered(first: int, count: int) -> torch.Tensor:
    """Images (count, 1, 2, 2), each filled with its own number."""
    return (
        torch.arange(first, first + count, dtype=torch.float32)
        .view(-1, 1, 1, 1)
        .expand(-1, 1, 2, 2)
        .clone()
    )


def ids(images: torch.Tensor) -> list[int]:
    assert torch.equal(images, images[:, :, :1, :1].expand_as(images))  # no image is mixed from two
    return images[:, 0, 0, 0].int().tolist()


batches = st.lists(st.integers(1, 5), min_size=1, max_size=8)


@settings(max_examples=20, deadline=None)
@given(capacity=st.integers(1, 6), sizes=batches, seed=st.integers(0, 999))
def test_the_image_pool_loses_nothing_and_resumes(capacity, sizes, seed):
    pool, single, restored = (ImagePool(capacity, 1, (2, 2)) for _ in range(3))
    shown = 0
    returned = []
    for size in sizes:
        restored.load_state_dict(copy.deepcopy(pool.state_dict()))  # as from a checkpoint
        batch = numbered(shown, size)
        out = seeded(seed + shown, pool, batch)
        assert torch.equal(batch, numbered(shown, size))
        assert torch.equal(out, seeded(seed + shown, restored, batch))
        assert torch.equal(
            out,
            seeded(seed + shown, lambda batch: torch.cat([single(i[None]) for i in batch]), batch),
        )
        shown += size
        returned += ids(out)
        stored = ids(pool.images[: int(pool.count)])
        assert len(set(stored)) == len(stored) == min(capacity, shown)
        # an image is either on its way out, or kept for later, or (while the pool fills) both
        assert set(returned) | set(stored) == set(range(shown))

    assert same_weights(pool.state_dict(), single.state_dict())
    assert same_weights(pool.state_dict(), restored.state_dict())


def test_discriminators_see_pooled_images_only():
    """The pool is between the two phases: real images never pass it, nor do the fakes that teach
    the generators.
    """
    method = small_part("method", "dualgan", {})(Geometry(2, (16, 16), {"a": 1, "b": 1}))
    mark = 0.125
    shown = []
    method.pool_b.forward = lambda images: torch.full_like(images, mark)
    method.d_b.register_forward_pre_hook(lambda module, args: shown.extend(args[0].detach()))
    batch = Batch(a=torch.rand(2, 1, 16, 16), b=torch.rand(2, 1, 16, 16))
    generators, discriminators = method.phases()
    generators.loss(batch)

    assert not any(bool((image == mark).all()) for image in shown)

    shown.clear()
    discriminators.loss(batch)

    assert sum(bool((image == mark).all()) for image in shown) == 2
    assert sum(torch.equal(image, real) for image in shown for real in batch["b"]) == 2


# ---- augmentation of what discriminators see (Karras et al. 2020) --------------------------------

BRIGHTER = bind("augment", {"name": "brightness", "p": 1.0, "by": 0.5})


def adaptive(p: float = 0.0, dims: int = 2, **more) -> DiscriminatorAugment:
    augment = DiscriminatorAugment([BRIGHTER], dims, 0.6, **more)
    augment.p.fill_(p)
    return augment


@pytest.mark.parametrize("dims", [2, 3])
def test_p_is_the_share_of_images_that_are_changed(dims):
    torch.manual_seed(0)
    images = torch.rand(400, 1, *(6,) * dims)
    # 100 +- 4.6 standard deviations
    for p, low, high in ((0.0, 0, 0), (0.25, 60, 140), (1.0, 400, 400)):
        changed = adaptive(p=p, dims=dims)(images).ne(images).flatten(1).any(1)
        assert low <= int(changed.sum()) <= high

    nothing = DiscriminatorAugment([], dims)

    assert nothing(images) is images
    assert not nothing.state_dict()


# ---- the moving average --------------------------------------------------------------------------


def network() -> nn.Sequential:
    return seeded(
        0, lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 3))
    )


def disturb(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_ema_warms_up_and_copies_buffers(
    decay,
):
    net = network()
    net.register_buffer("scratch", torch.zeros(3), persistent=False)
    ema = EMA(net, [net], decay)
    expected = {name: parameter.detach().double() for name, parameter in net.named_parameters()}
    for step in range(1, 8):
        disturb(net, step)
        net(torch.randn(4, 1, 8, 8))
        ema.prepare()
        ema.average_in()
        ema.updates += 1
        rate = min(decay, (1 + step) / (10 + step))
        for name, parameter in net.named_parameters():
            expected[name] = rate * expected[name] + (1 - rate) * parameter.detach().double()

    for name, average in expected.items():
        torch.testing.assert_close(ema.average[name].double(), average, rtol=1e-5, atol=1e-6)

    assert torch.equal(ema.average["1.running_mean"], net[1].running_mean)
    assert ema.average["1.num_batches_tracked"] == 7
    assert set(ema.average) == set(net.state_dict())


# ---- optimizers ----------------------------------------------------------------------------------


def follow(net: nn.Module, optimizer: torch.optim.Optimizer, order=None) -> None:
    """A step with seeded gradients, the same for all networks; `order`: their order in memory, not
    the weights'.
    """
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
        if order is not None and parameter.ndim == 4:
            parameter.grad = parameter.grad.contiguous(memory_format=order)
    optimizer.step()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("rule", "other", "options"),
    [
        (adam, torch.optim.Adam, {"lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 0.01}),
        (adamw, torch.optim.AdamW, {"lr": 2e-4, "betas": (0.5, 0.999), "weight_decay": 0.01}),
        (sgd, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    ],
)
def test_optimizer_state_in_another_order_is_moved_right(rule, other, options, last):
    order, wrong = (torch.channels_last, torch.contiguous_format)[:: 1 if last else -1]
    torch.manual_seed(0)
    one = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ConvTranspose2d(6, 4, 4), nn.Flatten(), nn.Linear(4, 3)
    )
    one = one.to(memory_format=order)
    two = copy.deepcopy(one)
    plain = other(one.parameters(), **options)
    mixed = rule(two.parameters(), **options)
    move_state(mixed, CPU)
    for _ in range(3):
        follow(one, plain)
        follow(two, mixed, wrong)
        for state in mixed.state.values():
            moments = {
                name: value
                for name, value in state.items()
                if value is not None and value.ndim == 4
            }
            state |= {
                name: value.contiguous(memory_format=wrong) for name, value in moments.items()
            }

        move_state(mixed, CPU)  # as after a checkpoint

    torch.testing.assert_close(list(one.parameters()), list(two.parameters()), rtol=1e-6, atol=1e-7)


def observed(augment: DiscriminatorAugment, logit: float, images: int) -> list[float]:
    """p after every image, while the discriminator says this of each real one."""
    found = []
    for _ in range(images):
        augment.observe(torch.full((1, 1, 10, 10), logit))
        found.append(float(augment.p))
    return found


def test_augmentation_p_follows_the_discriminator():
    rising = observed(adaptive(), 2.0, 1000)
    falling = observed(adaptive(p=0.05), -2.0, 500)

    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == 0.0
    assert rising[-1] == pytest.approx(1000 // 16 * 16 / DiscriminatorAugment.SPEED)

    # mean signs of 0.2 and 0.8, below and above the target 0.6
    assert after_signs(positive=6) < 0.05 < after_signs(positive=9)


def after_signs(positive: int) -> float:
    """p, at first 0.05, after images of ten logits of which so many are positive."""
    augment = adaptive(p=0.05)
    logits = torch.tensor([1.0] * positive + [-1.0] * (10 - positive))
    augment.observe(logits.expand(DiscriminatorAugment.INTERVAL, 10))
    return float(augment.p)
