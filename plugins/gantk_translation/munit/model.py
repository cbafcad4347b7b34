"""Multimodal unsupervised image-to-image translation (Huang et al., ECCV 2018): many outputs for
one input.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from gantk import DiscriminatorAugment
from gantk.losses.reconstruction import L1
from gantk.method import Batch, Geometry, Losses, Method, Phase, Stage, compose
from gantk.nets.blocks import OutputKind
from gantk.plugin.spec import AdversarialLoss, Depth, Discriminator, Halvings, Weight, Width
from gantk_translation.additions import PUBLISHED, Additions, low_res_stages
from gantk_translation.munit.discriminator import MultiScale
from gantk_translation.munit.network import Autoencoder

STYLE_MEMORY_IMAGES = 100  # about how many of the last real images the mean style averages


class MUNIT(Method):
    """Unpaired translation with many possible outputs: the content of one image with a random style,
    or with the style of another image (Huang et al. 2018).

    The content code of an image is its structure, which both domains share. The style code is its
    appearance in its domain. A translation decodes the content with a style of the target domain:
    in training a style drawn from N(0, I). `translate` uses the mean style of the target's real
    images, recorded in training. `variants` draws styles, and `translate_like` takes the style of
    an example. Structure losses are additions; 0 = the paper.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        width: Width = 64,  # filters at full resolution
        downs: Halvings = 2,  # number of halvings between image and content code
        # residual blocks of the content encoder, and as many of the decoder
        blocks: Annotated[int, Field(ge=1, le=128)] = 4,
        style_dim: Width = 8,  # length of a style code
        # filters of the MLP that turns a style into the decoder's AdaIN scales and offsets
        mlp_dim: Width = 256,
        activation_out: OutputKind = "tanh",  # output activation: tanh for [-1, 1], sigmoid for [0, 1]
        discriminator: Discriminator = "munit",  # discriminator, one for each scale
        # number of image sizes with a discriminator, each half of the previous one
        scales: Depth = 3,
        adversarial: AdversarialLoss = "ls",  # adversarial loss
        # weight of the L1 loss between an image and its reconstruction from its codes (lambda_x)
        image: Weight = 10.0,
        # weight of the L1 loss between the content codes of translation and source (lambda_c)
        content: Weight = 1.0,
        # weight of the L1 loss between the style code of a translation and its drawn style (lambda_s)
        style: Weight = 1.0,
        further: Additions = PUBLISHED,
    ):
        super().__init__(geometry)
        shape = width, downs, blocks, style_dim, mlp_dim, activation_out
        a = geometry.channels["a"]
        b = geometry.channels["b"]
        dims = geometry.dims
        self.auto_a, self.auto_b = (Autoencoder(channels, dims, *shape) for channels in (a, b))
        self.d_a, self.d_b = (
            MultiScale(discriminator, channels, dims, scales) for channels in (a, b)
        )
        self.adversarial = adversarial()
        self.l1 = L1()
        self.further = further
        self.image = image
        self.content = content
        self.style = style
        self.augment_a, self.augment_b = (
            further.discriminator_augment(dims, self.adversarial) for _ in range(2)
        )
        for name in "ab":
            # before any image: the mean of N(0, I)
            self.register_buffer(f"style_{name}", torch.zeros(style_dim))
            self.register_buffer(f"styles_seen_{name}", torch.zeros(()))

    def phases(self) -> list[Phase]:
        """The autoencoders, then the discriminators on the fakes that the first phase left in the
        batch.
        """
        return [
            Phase("generators", (self.auto_a, self.auto_b), self.generator_losses, ema=True),
            Phase("discriminators", (self.d_a, self.d_b), self.discriminator_losses),
        ]

    def stages(self, steps: int) -> list[Stage]:
        """One stage at the recipe's size, after one at half of it if `low_res_warmup` is set."""
        return low_res_stages(self.geometry.size, steps, self.further.low_res_warmup)

    def generator_losses(self, batch: Batch) -> Losses:
        """Image, content and style reconstruction, adversarial and further losses, by name and
        domain (section 3.2, equations 1 to 4).
        """
        content = {name: self._auto(name).content(batch[name]) for name in "ab"}
        style = {name: self._auto(name).style(batch[name]) for name in "ab"}
        drawn = {name: torch.randn_like(style[name]) for name in "ab"}  # of that domain's fakes
        losses = {}
        for name, other in ("ba", "ab"):
            self._remember(name, style[name])
            auto = self._auto(name)
            network, augment = self._judge_of(name)
            own = (content[name], style[name])
            same, fake = self.batched_forward(
                auto, own, (content[other], drawn[name]), call=auto.decode
            )
            batch[f"fake_{name}"] = fake.detach()
            if self.image:
                losses[f"image_{name}"] = self.image * self.l1(same, batch[name])

            judged = map(self.adversarial.generator, network(augment(fake)))
            losses[f"adversarial_{name}"] = sum(judged)  # over the scales
            if self.style:
                unlike = self.l1(auto.style(fake), drawn[name])
                losses[f"style_{name}"] = self.style * unlike
            if self.content:
                unlike = self.l1(auto.content(fake), content[other])
                losses[f"content_{other}"] = self.content * unlike

            losses |= self.further.losses(fake, batch[other], self.geometry.range, f"_{name}")

        return losses

    def discriminator_losses(self, batch: Batch) -> Losses:
        """The discriminators' losses and penalties for both domains, summed over the scales."""
        losses = {}
        for name in "ab":
            network, augment = self._judge_of(name)
            call = compose(augment, network.pyramid)
            pyramids = self.batched_forward(network, batch[name], batch[f"fake_{name}"], call=call)
            scales = list(zip(network.judges, *pyramids, strict=True))
            logits = [self.batched_forward(*scale) for scale in scales]
            augment.observe(torch.cat([real.flatten(1) for real, _ in logits], 1))
            losses[f"d_{name}"] = sum(self.adversarial.discriminator(*pair) for pair in logits)
            penalties = [self.adversarial.penalty(*scale) for scale in scales]
            if penalties[0] is not None:
                losses[f"penalty_{name}"] = sum(penalties)

        return losses

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Translate images to domain `to`, in the mean style of the last real images of `to` in
        training.
        """
        # `shape[0]` stays free in an export, `len` does not
        style = getattr(self, f"style_{to}").expand(image.shape[0], -1)
        return self._auto(to).decode(self._content(image, to), style)

    def variants(self, image: Tensor, to: str, n: int, seed: int) -> Tensor:
        """`n` translations of each image, (n, N, C, *size), in styles drawn from N(0, I) with
        `seed`.

        Translation k of every image has the same style, independent of the rest of the batch.
        """
        generator = torch.Generator().manual_seed(seed)
        styles = torch.randn(n, len(self.style_a), generator=generator).to(image.device)
        content = self._content(image, to)
        decode = self._auto(to).decode
        translations = [decode(content, style.expand(image.shape[0], -1)) for style in styles]
        return torch.stack(translations)

    def translate_like(self, image: Tensor, to: str, example: Tensor) -> Tensor:
        """Translate images to domain `to`, each in the style of its example (N, C, *size), or all
        in that of one.

        UserError where the counts differ, or the example does not have the channels of its domain.
        """
        self.check_example(image, example, to, "gives no style to images of")
        auto = self._auto(to)
        auto.check_size(tuple(example.shape[2:]))
        style = auto.style(example)
        return auto.decode(self._content(image, to), style.expand(image.shape[0], -1))

    def _judge_of(self, name: str) -> tuple[MultiScale, DiscriminatorAugment]:
        """The discriminators of a domain, and the augmentation of their input."""
        return (self.d_a, self.augment_a) if name == "a" else (self.d_b, self.augment_b)

    def _auto(self, name: str) -> Autoencoder:
        return self.auto_a if name == "a" else self.auto_b

    def _content(self, image: Tensor, to: str) -> Tensor:
        """The content code of images that are translated to `to`, hence of the other domain."""
        return self._auto("a" if to == "b" else "b").content(image)

    @torch.no_grad()
    def _remember(self, name: str, codes: Tensor) -> None:
        """Add style codes to a domain's mean style, image by image, so that microbatches give the
        same mean as a whole batch: a plain mean of the first STYLE_MEMORY_IMAGES codes, then a
        moving average.
        """
        mean = getattr(self, f"style_{name}")
        seen = getattr(self, f"styles_seen_{name}")
        for code in codes:
            seen += 1
            mean.lerp_(code, seen.clamp_max(STYLE_MEMORY_IMAGES).reciprocal())
