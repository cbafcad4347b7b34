"""Style Transfer GAN: transfers the tumour of an example image to another image, and removes
tumours.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gantk.errors import UserError
from gantk.losses.reconstruction import L1
from gantk.method import Batch, Geometry, Losses, Method, Phase
from gantk.plugin.spec import AdversarialLoss, Discriminator, Generator, Weight

COMPARED_SIDE = 8  # side in pixels at which images are compared with the stored examples
Kept = Annotated[int, Field(ge=1, le=1024)]


class StyleTransferGAN(Method):
    """Unpaired transfer from an example: G(x, y) is image x with the tumour of y, and F(y) is y
    without its tumour.

    The method is PairedCycleGAN (Chang et al., CVPR 2018), which the paper uses for make-up. Images
    of `a` are healthy, images of `b` show a tumour. The losses are two adversarial losses, identity
    |F(G(x, y)) - x| and style |G(F(y), G(x, y)) - y|. It is not related to StyleGAN (Karras et al.
    2019).

    `translate` to `b` uses as y the most similar of the stored training images of `b`. These images
    are part of the weights: if you share the weights, you share the images. `translate_like` takes
    any example, and `variants` draws stored ones. A tumour keeps its position in the image, so
    images should be aligned, like slices of heads.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        generator: Generator = "unet",  # networks G and F
        discriminator: Discriminator = "patchgan",  # both discriminators
        adversarial: AdversarialLoss = "bce",  # adversarial loss
        identity: Weight = 10.0,  # weight of the L1 loss between a healthy image x and F(G(x, y))
        style: Weight = 10.0,  # weight of the L1 loss between an example y and G(F(y), G(x, y))
        # weight of the L1 loss between y and G(F(y), y), which teaches G to use y; not in the paper
        example: Weight = 0.0,
        # networks output a change that is added to the image; false: the whole image
        change: bool = True,
        # standard deviation of noise on fakes before they are translated back, against hidden copies
        defense: Weight = 0.05,
        examples: Kept = 16,  # number of training images of `b` to store for translations
    ):
        super().__init__(geometry)
        a = geometry.channels["a"]
        b = geometry.channels["b"]
        dims = geometry.dims
        if change and a != b:
            raise UserError(
                "networks that output a change need domains with equal numbers of channels, but"
                f" these have {a} and {b}",
                where="method.change",
                remedy="set method.change = false",
            )

        self.g_ab = generator(a + b, b, dims)
        self.g_ba = generator(b, a, dims)
        self.d_a = discriminator(a, dims)
        self.d_b = discriminator(b, dims)
        self.adversarial = adversarial()
        self.l1 = L1()
        self.identity = identity
        self.style = style
        self.example = example
        self.change = change
        self.defense = defense
        self.register_buffer("examples", torch.zeros(examples, b, *geometry.size))
        self.register_buffer("kept", torch.zeros((), dtype=torch.long))

    def phases(self) -> list[Phase]:
        """G and F, then the discriminators on the fakes that the first phase left in the batch."""
        return [
            Phase("generators", (self.g_ab, self.g_ba), self.generator_losses, ema=True),
            Phase("discriminators", (self.d_a, self.d_b), self.discriminator_losses),
        ]

    def generator_losses(self, batch: Batch) -> Losses:
        """Adversarial losses of G(x, y) and F(y), identity and style losses (Chang et al. 2018,
        section 3.1).
        """
        plain = batch["a"]
        example = batch["b"]
        self._keep(example)
        fake_b = self._add(plain, example)
        noise_a = self._noise(plain)
        noise_b = self._noise(example)
        fake_a, cycled_a = self.batched_forward(
            self.g_ba, example, fake_b + noise_a, call=self._remove
        )
        batch["fake_a"] = fake_a.detach()
        batch["fake_b"] = fake_b.detach()
        losses = {
            "adversarial_a": self.adversarial.generator(self.d_a(fake_a)),
            "adversarial_b": self.adversarial.generator(self.d_b(fake_b)),
        }
        if self.identity:
            losses["identity"] = self.identity * self.l1(cycled_a, plain + noise_a)

        if self.style:
            restored = self._add(fake_a + noise_b, fake_b)
            losses["style"] = self.style * self.l1(restored, example + noise_b)

        if self.example:
            restored = self._add(fake_a, example)
            losses["example"] = self.example * self.l1(restored, example)

        return losses

    def discriminator_losses(self, batch: Batch) -> Losses:
        """The discriminators' losses, of plain images and of those with a tumour."""
        losses = self.real_fake_losses("a", self.d_a, self.adversarial, batch["a"], batch["fake_a"])
        return losses | self.real_fake_losses(
            "b", self.d_b, self.adversarial, batch["b"], batch["fake_b"]
        )

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Add the tumour of the most similar stored example (to "b"), or remove the image's own
        tumour (to "a").
        """
        made = self._remove(image) if to == "a" else self._add(image, self._most_alike(image))
        return made.clamp(*self.geometry.range)

    def variants(self, image: Tensor, to: str, n: int, seed: int) -> Tensor:
        """`n` translations of each image, (n, N, C, *size), with stored examples drawn by `seed`;
        to `a` a UserError, because a tumour is removed in one way only.
        """
        self._expect_example(to)
        drawn = torch.randint(
            max(1, int(self.kept)), (n,), generator=torch.Generator().manual_seed(seed)
        )
        return torch.stack(
            [self.translate_like(image, to, self.examples[k : k + 1]) for k in drawn.tolist()]
        )

    def translate_like(self, image: Tensor, to: str, example: Tensor) -> Tensor:
        """Add to images (N, C, *size) the tumours of examples, (N, C, *size) or one for all; to `a`
        a UserError.
        """
        self._expect_example(to)
        self.check_example(image, example, to, "does not fit images of")
        example = _resize_like(example, image).expand(len(image), *[-1] * (image.ndim - 1))
        return self._add(image, example).clamp(*self.geometry.range)

    def _add(self, plain: Tensor, example: Tensor) -> Tensor:
        """G(x, y): a plain image with the example's tumour."""
        return self._on(plain, self.g_ab(torch.cat([plain, example], 1)))

    def _remove(self, image: Tensor) -> Tensor:
        """F(y): an image without its tumour."""
        return self._on(image, self.g_ba(image))

    def _on(self, image: Tensor, drawn: Tensor) -> Tensor:
        """Add a network's output, relative to the middle of the range, to the image; without
        `change` return it.

        New networks output nearly no change: the first fakes equal real images, which the
        discriminators can only tell by the tumour. The sum is not clipped to the range: clipped
        values would have no gradient, and air that turned black in training would stay black.
        """
        return image + 2 * drawn - sum(self.geometry.range) if self.change else drawn

    def _noise(self, image: Tensor) -> Tensor:
        """Noise for a fake, against copies of the input hidden in it (Bashkirova et al. 2019,
        section 4.2).

        In the paper the networks must remove it, and remove an image's own noise too. Here the
        target has it as well.
        """
        return self.defense * torch.randn_like(image) if self.defense else torch.zeros_like(image)

    @torch.no_grad()
    def _keep(self, images: Tensor) -> None:
        """Store the first images until all places are taken; tensor operations only, so that a
        graph can capture it.
        """
        place = torch.arange(len(self.examples), device=images.device) - self.kept
        new = ((place >= 0) & (place < len(images))).view(-1, *[1] * (images.ndim - 1))
        brought = images.index_select(0, place.clamp(0, len(images) - 1)).to(self.examples.dtype)
        self.examples.copy_(torch.where(new, brought, self.examples))
        self.kept.add_(len(images)).clamp_(max=len(self.examples))

    def _most_alike(self, image: Tensor) -> Tensor:
        """For each image the stored example with the smallest difference at COMPARED_SIDE pixels;
        (N, C,
        *size).
        """
        examples = _resize_like(self.examples.to(image), image)
        squares = (COMPARED_SIDE,) * self.geometry.dims
        pooled = F.adaptive_avg_pool2d if self.geometry.dims == 2 else F.adaptive_avg_pool3d
        here = pooled(image.mean(1, keepdim=True), squares).flatten(1)
        there = pooled(examples.mean(1, keepdim=True), squares).flatten(1)
        distance = (here[:, None] - there).abs().mean(2)
        empty = torch.arange(len(examples), device=image.device) >= self.kept.clamp(min=1)
        return examples.index_select(0, distance.masked_fill(empty, float("inf")).argmin(1))

    @staticmethod
    def _expect_example(to: str) -> None:
        if to != "b":
            raise UserError(
                "removing a tumour does not use an example and has no variants",
                where="to",
                remedy="leave the example and the variants out",
            )


def _resize_like(example: Tensor, image: Tensor) -> Tensor:
    """Resize the example to the image's size."""
    if example.shape[2:] == image.shape[2:]:
        return example
    return F.interpolate(
        example, image.shape[2:], mode="bilinear" if image.ndim == 4 else "trilinear"
    )
