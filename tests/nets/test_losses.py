"""The losses keep their promises: right values, right signs, finite gradients, the same under any
autocast.
"""

import pytest
import torch
import torch.nn.functional as F

from gantk.errors import UserError
from gantk.losses.adversarial import BCE, LS
from gantk.losses.edges import EdgeDirection
from gantk.losses.margin import WGANGP, Hinge, gradient_penalty
from gantk.losses.ssim import SSIM
from gantk.losses.structure import FlatRegion, LocalNCC, air_left_empty, local_ncc_and_flat_region
from gantk.method import Geometry
from gantk.nets.discriminators import PatchGAN
from gantk.plugin.spec import bind

SHAPES = {2: (2, 1, 24, 20), 3: (2, 1, 12, 10, 11)}


def noise(shape, seed: int = 0) -> torch.Tensor:
    """Independent values in [-1, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---- adversarial


def test_values_are_those_of_the_papers():
    real = torch.tensor([[2.0], [0.0]])
    fake = torch.tensor([[-1.0], [1.0]])
    sigmoid = torch.sigmoid
    bce = -(sigmoid(real).log().mean() + (1 - sigmoid(fake)).log().mean()) / 2
    assert torch.allclose(BCE().discriminator(real, fake), bce)
    assert torch.allclose(BCE(halved=False).discriminator(real, fake), 2 * bce)
    assert torch.allclose(BCE().generator(fake), -sigmoid(fake).log().mean())
    assert LS().discriminator(real, fake).item() == pytest.approx(((1 + 1) / 2 + (1 + 1) / 2) / 2)
    assert LS().generator(fake).item() == pytest.approx((4 + 0) / 2)
    assert Hinge().discriminator(real, fake).item() == pytest.approx((0 + 1) / 2 + (0 + 2) / 2)
    assert WGANGP().discriminator(real, fake + 3).item() == pytest.approx(3 - 1)
    assert (
        Hinge().generator(fake + 3).item()
        == WGANGP().generator(fake + 3).item()
        == pytest.approx(-3)
    )


def test_gradient_penalty_matches_known_slopes():
    real = noise((3, 1, 4, 4))
    fake = noise((3, 1, 4, 4), 1)
    direction = noise((1, 4, 4), 2)
    direction /= direction.norm()
    for slope, expected in ((1.0, 0.0), (2.0, 1.0), (0.0, 1.0), (-1.0, 0.0)):
        penalty = gradient_penalty(
            lambda x, s=slope: s * (x * direction).sum((1, 2, 3)), real, fake
        )
        assert penalty.item() == pytest.approx(expected, abs=1e-5)


def test_only_wgan_gp_has_a_penalty_and_it_refuses_batch_norm():
    network = PatchGAN(1, 2, width=2, layers=3, norm="batch")
    x = noise((2, 1, 16, 16))
    assert all(game().penalty(network, x, x) is None for game in (BCE, LS, Hinge))
    assert WGANGP(penalty=0.0).penalty(network, x, x) is None
    with pytest.raises(UserError, match="instance"):
        WGANGP().penalty(network, x, x)


# ---- structure and flatness


@pytest.mark.parametrize("dims", [2, 3])
def test_structure_is_blind_to_contrast_and_strict_about_edges(dims):
    source = noise(SHAPES[dims])
    assert all(
        LocalNCC()(a * source + b, source).item() < 0.01 for a, b in ((0.4, 0.3), (-1.0, 0.0))
    )
    edge = -torch.ones(1, 1, 32, 32)
    edge[..., 16:] = 0.5
    moved = edge.roll(2, -1)
    blurred = F.avg_pool2d(F.pad(edge, (4, 4, 0, 0), "replicate"), (1, 9), 1)
    scores = [
        LocalNCC()(output, edge).item() for output in (edge, blurred, moved, torch.zeros_like(edge))
    ]
    assert scores == sorted(scores)
    assert scores[0] < 0.01
    assert scores[2] > 0.3
    assert scores[3] == pytest.approx(1)


@pytest.mark.parametrize("dims", [2, 3])
def test_edge_direction_ignores_contrast(dims):
    source = F.interpolate(noise(SHAPES[dims]), scale_factor=2)
    loss = EdgeDirection(weight=1.0)
    apart = []
    assert all(loss(a * source + b, source) < 1e-6 for a, b in ((0.4, 0.3), (-1.0, 0.0)))
    for other in (
        source.roll(1, -1),
        source.transpose(-1, -2).contiguous(),
        torch.zeros_like(source),
    ):
        output = other[..., : source.shape[-2], : source.shape[-1]].detach().requires_grad_()
        apart.append(loss(output, source[..., : output.shape[-2], : output.shape[-1]]))
        apart[-1].backward()
        assert output.grad.isfinite().all()
    assert min(apart) > 0.1
    assert max(apart) < 2
    with pytest.raises(UserError, match="cannot compare"):
        loss(source[..., 1:], source)


def test_flatness_is_the_deviation_in_flat_regions():
    output = noise((2, 1, 20, 20))
    windows = output.unfold(2, 5, 1).unfold(3, 5, 1).flatten(4)
    flat = torch.full_like(output, -1.0)
    expected = windows.std(-1, correction=0).mean().item()
    assert FlatRegion()(output, flat).item() == pytest.approx(expected, abs=0.002)
    assert FlatRegion()(torch.full_like(output, 0.7), flat).item() < 0.001
    # no flat window: whatever remains is small
    assert FlatRegion()(output, noise((2, 1, 20, 20), 1)).item() < 2


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("flat_source", [False, True])
def test_gradients_are_finite_for_constant_images(dims, flat_source):
    source = torch.full(SHAPES[dims], -1.0) if flat_source else noise(SHAPES[dims])
    for value in (-1.0, 0.0, 0.3):
        output = torch.full(SHAPES[dims], value, requires_grad=True)
        structure, flatness = local_ncc_and_flat_region(output, source)
        (structure + flatness).backward()
        assert structure.isfinite()
        assert flatness.isfinite()
        assert output.grad.isfinite().all()


def head(seed: int = 0) -> torch.Tensor:
    """Tissue of many intensities, (2, 1, 40, 40), in a frame of air."""
    image = 0.6 * F.interpolate(noise((2, 1, 10, 10), seed), 40)
    image[:, :, :8] = image[:, :, -8:] = image[..., :8] = image[..., -8:] = -1.0
    return image


def test_known_contrast_tells_a_copy_from_its_opposite():
    source = head()
    inverted = torch.where(source > -1, -source, source)  # air stays dark
    costs = {}
    for kind in ("any", "same", "inverted"):
        costs[kind] = [
            LocalNCC(contrast=kind)(output, source).item() for output in (source, inverted)
        ]
    # blind, but for the rim, where the opposite of a copy is no line of the source
    assert max(costs["any"]) < 0.3
    assert costs["same"][0] < 0.05
    assert costs["same"][1] > 1.8
    assert costs["inverted"][1] < 0.05
    assert costs["inverted"][0] > 1.8


def test_air_is_black_and_almost_black_surroundings():
    source = head()
    assert air_left_empty(source, source).item() == pytest.approx(0.0, abs=1e-6)
    rim = source.clone()
    inside = source.clone()
    rim[:, :, 7, 20] += 0.5  # beside tissue, where the source is black
    inside[:, :, 20, 20] += 0.5
    assert air_left_empty(rim, source).item() > 0
    assert air_left_empty(inside, source).item() == pytest.approx(0.0, abs=1e-6)
    noisy = torch.where(source > -1, source, -1 + 0.04 * torch.rand_like(source))
    assert air_left_empty(noisy + 0.5, noisy).item() == pytest.approx(0.5, abs=0.05)


def test_two_losses_of_one_name_are_refused_before_one_is_lost():
    geometry = Geometry(2, (16, 16), {"a": 1, "b": 1})
    own = {"name": "correlation_ratio", "tissue": [0.0, 1.0]}
    for twice in (
        {"source_losses": [own, own]},
        {"local_ncc": 1.0, "source_losses": ["local_ncc"]},
    ):
        with pytest.raises(
            UserError, match="two losses .* are called '(correlation_ratio|local_ncc)'"
        ):
            bind("method", {"name": "cyclegan"} | twice)(geometry)


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
