"""Augmentation of what discriminators see: always, or as far as they overfit (Karras et al. 2020)."""

from __future__ import annotations

import pytest
import torch

from gantk.errors import UserError
from gantk.losses.adversarial import BCE, LS, WGANGP, Hinge
from gantk.plugin.spec import bind
from gantk.testing.recorded import Recording, host_reads
from gantk.training.adaptive import DiscriminatorAugment, undecided

BRIGHTER = bind("augment", {"name": "brightness", "p": 1.0, "by": 0.5})
SIZES = {2: (8, 8), 3: (6, 6, 6)}


def adaptive(target: float = 0.6, p: float | None = None, dims: int = 2, **more) -> DiscriminatorAugment:
    augment = DiscriminatorAugment([BRIGHTER], dims, target, **more)
    if p is not None:
        augment.p.fill_(p)
    return augment


def observed(augment: DiscriminatorAugment, share_right: float, images: int) -> list[float]:
    """p after every image, while the discriminator is right about that share of the patches of each."""
    logits = torch.full((1, 1, 10, 10), -2.0)
    logits.view(-1)[: round(100 * share_right)] = 2.0
    found = []
    for _ in range(images):
        augment.observe(logits)
        found.append(float(augment.p))
    return found


def test_it_rises_while_the_discriminator_is_always_right():
    course = observed(adaptive(), 1.0, 1000)
    assert course == sorted(course)
    assert course[-1] == pytest.approx(1000 // 16 * 16 / DiscriminatorAugment.SPEED)


def test_it_falls_to_zero_and_stays_there_while_the_discriminator_is_wrong():
    course = observed(adaptive(p=0.05), 0.0, 500)
    assert course == sorted(course, reverse=True) and course[-1] == 0.0


def test_it_changes_at_intervals_whatever_the_batch():
    single, batches = adaptive(), adaptive()
    for _ in range(48):
        single.observe(torch.ones(1, 1, 2, 2))
    for _ in range(3):
        batches.observe(torch.ones(16, 1, 2, 2))
    assert torch.equal(single.p, batches.p) and float(single.p) > 0
    single.observe(torch.ones(15, 1, 2, 2))
    assert torch.equal(single.p, batches.p)


def test_the_border_between_real_and_fake_is_the_games():
    assert undecided(LS()) == 0.5
    assert undecided(BCE()) == undecided(Hinge()) == undecided(WGANGP()) == 0.0
    least_squares, none = adaptive(p=0.5, game=LS()), adaptive(p=0.5)
    for augment in (least_squares, none):
        augment.observe(torch.full((16, 1, 4, 4), 0.4))  # nearer to fake than to real
    assert float(least_squares.p) < 0.5 < float(none.p)


@pytest.mark.parametrize("dims", [2, 3])
def test_without_changes_images_pass_as_they_are(dims):
    images = torch.rand(2, 1, *SIZES[dims])
    state = torch.get_rng_state()
    augment = DiscriminatorAugment([], dims)
    assert augment(images) is images
    assert torch.equal(torch.get_rng_state(), state)
    assert not augment.state_dict()


@pytest.mark.parametrize("dims", [2, 3])
def test_p_is_the_share_of_images_that_are_changed(dims):
    torch.manual_seed(0)
    images = torch.rand(400, 1, *SIZES[dims])
    for p, low, high in ((0.0, 0, 0), (0.25, 60, 140), (1.0, 400, 400)):  # 100 +- 4.6 standard deviations
        changed = adaptive(p=p, dims=dims)(images).ne(images).flatten(1).any(1)
        assert low <= int(changed.sum()) <= high


def test_gradients_reach_changed_and_unchanged_images():
    torch.manual_seed(0)
    images = torch.zeros(20, 1, 4, 4, requires_grad=True)
    scaled = DiscriminatorAugment([bind("augment", {"name": "contrast", "p": 1.0}), BRIGHTER], 2, 0.6)
    scaled.p.fill_(0.5)
    scaled(images).sum().backward()
    torch.testing.assert_close(images.grad, torch.ones_like(images))


def test_a_restored_one_goes_on_alike():
    one = adaptive()
    observed(one, 1.0, 1003)
    other = adaptive()
    other.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    assert observed(other, 0.9, 100) == observed(one, 0.9, 100)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    images = torch.rand(50, 1, 4, 4)
    torch.manual_seed(1)
    expected = one(images)
    torch.manual_seed(1)
    assert torch.equal(other(images), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_graph_can_hold_it(dims):
    parts = [bind("augment", name) for name in ("hflip", "affine", "noise")]
    graph, eager = (DiscriminatorAugment(parts, dims, 0.6) for _ in range(2))
    graph.SPEED = eager.SPEED = 100  # p is above 0 soon
    images, logits = torch.zeros(9, 1, *SIZES[dims]), torch.zeros(9, 1, 2)

    def step(augment):
        out = augment(images)
        augment.observe(logits)
        return out

    torch.manual_seed(0)
    assert host_reads(lambda: step(eager)) == []
    recording = Recording()
    torch.manual_seed(0)
    out = recording.record(lambda: step(graph))
    for seed in range(1, 40):
        images.copy_(torch.rand(images.shape))
        logits.copy_(torch.rand(logits.shape) * 10 - 0.1)
        torch.manual_seed(seed)
        expected = step(eager)
        torch.manual_seed(seed)
        recording.replay()
        assert torch.equal(out, expected)
        assert all(torch.equal(tensor, eager.state_dict()[name]) for name, tensor in graph.state_dict().items())
    assert float(graph.p) > 0


def test_a_target_without_changes_is_refused():
    with pytest.raises(UserError, match=r"augment names none.*hflip"):
        DiscriminatorAugment([], 2, 0.6)
