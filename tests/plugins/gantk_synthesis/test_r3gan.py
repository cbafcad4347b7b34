"""R3GAN (Huang et al. 2024): its game and penalties by hand, how its networks begin, what is an
error.
"""

import pytest
import torch
import torch.nn.functional as F
from tiny import method_of, random_images

from gantk.errors import UserError
from gantk.method import Batch
from gantk_synthesis.r3gan.networks import Residual

SMALL = {"name": "r3gan", "width": 4, "latent": 8}


def build(
    side: int = 16, dims: int = 2, classes: tuple[str, ...] = (), ends=(-1.0, 1.0), **options
):
    size = (side,) * dims
    return method_of(SMALL | options, size, {"image": 1}, classes=classes, range=ends)


def losses_of(method, batch: Batch) -> dict[str, float]:
    found = {f"g_{name}": loss for name, loss in method.generator_losses(batch).items()}
    return {
        name: float(loss.detach())
        for name, loss in (found | method.discriminator_losses(batch)).items()
    }


@pytest.mark.parametrize("options", [{}, {"plain": True}, {"dims": 3, "blocks": 1}], ids=str)
def test_losses_match_the_paper_and_blocks_start_as_identity(options):
    method = build(gamma=3.0, gamma_end=1.0, **options)
    x = torch.randn(2, 4, *[8] * method.geometry.dims)
    blocks = [layer for layer in method.modules() if isinstance(layer, Residual)]

    assert all(torch.equal(block(x), x) for block in blocks if block.widen.in_channels == 4)

    # beyond black and white: is cut off
    batch = Batch(image=2 * random_images(2, 1, method.geometry.size))
    found = losses_of(method, batch)
    real = batch["image"].clamp(-1, 1).requires_grad_()
    fake = batch["fake"].requires_grad_()
    gap = method.d(fake) - method.d(real)
    for name, apart in (("adversarial", gap), ("g_adversarial", -gap)):
        expected = F.softplus(apart.detach()).mean()
        assert found[name] == pytest.approx(float(expected), rel=1e-4)

    # a linear network still: gradients of a sum are those of each
    for name, image in (("r1", real), ("r2", fake)):
        (gradient,) = torch.autograd.grad(gap.sum(), image, retain_graph=True)
        norms = gradient.square().flatten(1).sum(1)
        assert found[name] == pytest.approx(3 / 2 * float(norms.mean()), rel=1e-4)

    method.progress.fill_(1.0)

    assert losses_of(method, batch)["r1"] == pytest.approx(found["r1"] / 3, rel=1e-4)
    assert set(losses_of(build(gamma=0.0, **options), batch)) == {"g_adversarial", "adversarial"}


def test_what_cannot_be_is_one_message():
    with pytest.raises(UserError, match="R3GAN cannot process images of 20 x 33.*Set data.size"):
        method_of(SMALL, (20, 33), {"image": 1})
    with pytest.raises(UserError, match="the data have tumour.*method.conditional = false"):
        build(classes=("tumour",), conditional=True)
    with pytest.raises(UserError, match="adapt needs changes"):
        build(adapt=0.6)
