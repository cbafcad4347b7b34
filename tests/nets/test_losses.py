"""The losses keep their promises: right values, right signs, finite gradients, the same under any
autocast.
"""

import pytest
import torch
import torch.nn.functional as F
from tiny import method_of, registered

from gantk.errors import UserError
from gantk.losses.adversarial import gradient_penalty
from gantk.losses.structure import (
    EdgeDirection,
    StructureTerms,
    air_left_empty,
    local_ncc_and_flat_region,
)

BCE = registered("loss", "bce")
LS = registered("loss", "ls")
WGANGP = registered("loss", "wgan_gp")
Hinge = registered("loss", "hinge")
SSIM = registered("loss", "ssim")
PatchGAN = registered("discriminator", "patchgan")


def local_ncc(output, source):
    return local_ncc_and_flat_region(output, source)[0]


def flat_region(output, source):
    return local_ncc_and_flat_region(output, source)[1]


SHAPES = {2: (2, 1, 24, 20), 3: (2, 1, 12, 10, 11)}


def noise(shape, seed: int = 0) -> torch.Tensor:
    """Independent values in [-1, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---- adversarial


REAL = torch.tensor([2.0, 0.0])
FAKE = torch.tensor([-1.0, 1.0])
CROSS_ENTROPY = -(REAL.sigmoid().log().mean() + (1 - FAKE.sigmoid()).log().mean()).item()
# loss, what the discriminator says of made images -> its loss, and the generator's
PAPERS = [
    (BCE(), FAKE, CROSS_ENTROPY / 2, -FAKE.sigmoid().log().mean().item()),
    (BCE(halved=False), FAKE, CROSS_ENTROPY, -FAKE.sigmoid().log().mean().item()),
    (LS(), FAKE, ((1 + 1) / 2 + (1 + 1) / 2) / 2, (4 + 0) / 2),
    # labels are smoothed for the discriminator's real images alone
    (LS(smooth=0.25), FAKE, ((1.25**2 + 0.75**2) / 2 + (1 + 1) / 2) / 2, (4 + 0) / 2),
    (Hinge(), torch.tensor([-3.0, 1.0]), (0 + 1) / 2 + (0 + 2) / 2, 1),
    (WGANGP(), FAKE + 3, 3 - 1, -3),
]


@pytest.mark.parametrize(("loss", "fake", "judging", "making"), PAPERS)
def test_adversarial_losses_are_those_of_their_papers(loss, fake, judging, making):
    assert loss.discriminator(REAL, fake).item() == pytest.approx(judging)
    assert loss.generator(fake).item() == pytest.approx(making)


@pytest.mark.parametrize(("slope", "expected"), [(1.0, 0.0), (2.0, 1.0), (0.0, 1.0), (-1.0, 0.0)])
def test_gradient_penalty_matches_known_slopes(slope, expected):
    direction = noise((1, 4, 4), 2)
    direction /= direction.norm()

    def critic(x):
        return slope * (x * direction).sum((1, 2, 3))

    penalty = gradient_penalty(critic, noise((3, 1, 4, 4)), noise((3, 1, 4, 4), 1))

    assert penalty.item() == pytest.approx(expected, abs=1e-5)


def test_the_penalty_is_taken_between_real_and_fake_images():
    direction = torch.full((1000, 1, 2, 2), 0.5)  # of length 1, as the gradients at both ends are
    torch.manual_seed(0)
    penalty = gradient_penalty(lambda x: x.square().sum((1, 2, 3)) / 2, direction, -direction)

    assert penalty.item() == pytest.approx(1 / 3, abs=0.05)  # the mean of (|1 - 2 u| - 1)^2


def test_only_wgan_gp_has_a_penalty_and_it_refuses_batch_norm():
    network = PatchGAN(1, 2, width=2, layers=3, norm="batch")
    x = noise((2, 1, 16, 16))

    assert all(game().penalty(network, x, x) is None for game in (BCE, LS, Hinge))
    assert WGANGP(penalty=0.0).penalty(network, x, x) is None
    with pytest.raises(UserError, match="instance"):
        WGANGP().penalty(network, x, x)


# ---- structure and flatness


other_contrasts = pytest.mark.parametrize(
    ("gain", "offset"), [(0.4, 0.3), (-1.0, 0.0)], ids=["flatter", "inverted"]
)


@pytest.mark.parametrize("dims", [2, 3])
@other_contrasts
def test_structure_is_blind_to_contrast(dims, gain, offset):
    source = noise(SHAPES[dims])
    assert local_ncc(gain * source + offset, source).item() < 0.01


@pytest.mark.parametrize("black", [-1.0, 0.0])
@pytest.mark.parametrize(
    ("contrast", "gain", "cost"),
    [("inverted", -1, 0), ("inverted", 1, 2), ("same", 1, 0), ("same", -1, 2)],
)
def test_a_contrast_that_is_known_costs_where_it_is_not_kept(contrast, gain, cost, black):
    middle = (black + 1) / 2
    tissue = 0.4 * (1 - black) * noise(SHAPES[2])
    source = middle + tissue
    output = middle + gain * tissue
    source[..., :8] = output[..., :8] = black  # air, which is darker than tissue in both
    losses = StructureTerms(local_ncc=1.0, contrast=contrast).losses(output, source, (black, 1.0))

    assert losses["local_ncc"].item() == pytest.approx(cost, abs=0.02)


def test_structure_is_strict_about_edges():
    edge = -torch.ones(1, 1, 32, 32)
    edge[..., 16:] = 0.5
    blurred = F.avg_pool2d(F.pad(edge, (4, 4, 0, 0), "replicate"), (1, 9), 1)
    moved = edge.roll(2, -1)
    outputs = (edge, blurred, moved, torch.zeros_like(edge))
    of_itself, of_blurred, of_moved, of_nothing = (
        local_ncc(output, edge).item() for output in outputs
    )

    assert of_itself < 0.01
    assert of_itself <= of_blurred <= of_moved <= of_nothing
    assert of_moved > 0.3
    assert of_nothing == pytest.approx(1)


MOVED = {
    "shifted": lambda source: source.roll(1, -1),
    "turned": lambda source: source.transpose(-1, -2).contiguous(),
    "gone": torch.zeros_like,
}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("move", MOVED.values(), ids=MOVED)
def test_edge_direction_tells_where_and_how_edges_run(dims, move):
    source = F.interpolate(noise(SHAPES[dims]), scale_factor=2)
    output = move(source)[..., : source.shape[-2], : source.shape[-1]].detach().requires_grad_()
    loss = EdgeDirection(weight=1.0)
    value = loss(output, source[..., : output.shape[-2], : output.shape[-1]])
    value.backward()

    assert output.grad.isfinite().all()
    assert 0.1 < value < 2
    with pytest.raises(UserError, match="cannot compare"):
        loss(source[..., 1:], source)


@pytest.mark.parametrize("loss", [EdgeDirection(), local_ncc, flat_region])
def test_the_loss_of_a_batch_is_the_mean_of_its_images_losses(loss):
    output = noise((2, 1, 24, 20))
    source = noise((2, 1, 24, 20), 1) * torch.tensor([1.0, 0.02]).view(2, 1, 1, 1)
    alone = [loss(*pair).item() for pair in zip(output.split(1), source.split(1), strict=True)]

    assert loss(output, source).item() == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_flatness_is_the_deviation_in_flat_regions():
    output = noise((2, 1, 20, 20))
    flat = torch.full_like(output, -1.0)
    windows = output.unfold(2, 5, 1).unfold(3, 5, 1).flatten(4)
    expected = windows.std(-1, correction=0).mean().item()

    assert flat_region(output, flat).item() == pytest.approx(expected, abs=0.002)
    constant = torch.full_like(output, 0.7)
    assert flat_region(constant, flat).item() < 0.001
    without_flat_windows = noise((2, 1, 20, 20), 1)
    assert flat_region(output, without_flat_windows).item() < 2, "what remains is small"


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("flat_source", [False, True])
@pytest.mark.parametrize("value", [-1.0, 0.0, 0.3])
def test_gradients_are_finite_for_constant_images(dims, flat_source, value):
    shape = SHAPES[dims]
    source = torch.full(shape, -1.0) if flat_source else noise(shape)
    output = torch.full(shape, value, requires_grad=True)
    structure, flatness = local_ncc_and_flat_region(output, source)
    (structure + flatness).backward()

    assert structure.isfinite()
    assert flatness.isfinite()
    assert output.grad.isfinite().all()


def head() -> torch.Tensor:
    """Tissue of many intensities, (2, 1, 40, 40), in a frame of air."""
    image = 0.6 * F.interpolate(noise((2, 1, 10, 10)), 40)
    image[:, :, :8] = image[:, :, -8:] = image[..., :8] = image[..., -8:] = -1.0
    return image


def test_air_is_black_and_almost_black_surroundings():
    source = head()
    assert air_left_empty(source, source).item() == pytest.approx(0.0, abs=1e-6)

    beside_tissue = source.clone()
    beside_tissue[:, :, 7, 20] += 0.5  # where the source is black

    assert air_left_empty(beside_tissue, source).item() > 0

    inside = source.clone()
    inside[:, :, 20, 20] += 0.5

    assert air_left_empty(inside, source).item() == pytest.approx(0.0, abs=1e-6)


def test_two_losses_of_one_name_are_refused_before_one_is_lost():
    own = {"name": "correlation_ratio", "data_range": 3.0, "black": -1.4}
    with pytest.raises(UserError, match="two losses are called 'correlation_ratio'"):
        method_of({"name": "cyclegan", "source_losses": [own, own]})


# ---- structural similarity of a pair


@pytest.mark.parametrize("dims", [2, 3])
def test_ssim_loss_matches_the_metric_and_blends_into_l1(dims):
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    shape = {2: (2, 1, 40, 36), 3: (2, 1, 24, 22, 23)}[dims]
    image = noise(shape)
    other = noise(shape, 1)

    assert SSIM()(image, image).item() == pytest.approx(0, abs=1e-5)
    assert SSIM(share=0.0)(image, other).item() == pytest.approx(
        (image - other).abs().mean().item()
    )

    inside = (..., *[slice(12, -12)] * dims) if dims == 2 else ...
    if dims == 2:  # the borders differ by how each pads
        near = image + 0.1 * other
        own = ssim(
            near,
            image,
            gaussian_kernel=True,
            sigma=1.5,
            kernel_size=11,
            data_range=2.0,
            return_full_image=True,
        )
        whole = SSIM(share=1.0)(near[inside], image[inside])
        assert whole.item() == pytest.approx(1 - own[1][inside].mean().item(), abs=0.01)

    pixel = other.clone().requires_grad_()
    SSIM()(pixel, image).backward()

    assert torch.isfinite(pixel.grad).all()
    assert pixel.grad.abs().sum() > 0
