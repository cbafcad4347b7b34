"""SPADE: images from label maps by spatially-adaptive normalisation (Park et al., CVPR 2019)."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gantk.losses.reconstruction import L1
from gantk.method import Batch, Geometry, Losses, Method, Phase
from gantk.plugin.spec import AdversarialLoss, Depth, Discriminator, Weight, Width
from gantk_translation.pix2pix.model import tile
from gantk_translation.spade.network import Encoder, Generator, Scales


class SPADEGAN(Method):
    """Images `b` from label maps `a` of classes 0 to `classes` - 1, with many possible images for
    one map (Park et al. 2019).

    Every norm of the generator is scaled and shifted at each position by convolutions of the map
    (equation 1), so that instance norms do not remove the map. (The paper has batch norms.)
    Discriminators at several scales take map and image as channels, and their features of real and
    generated images are compared too. In training an encoder finds an image's style z; at inference
    z is drawn from N(0, I). The generator gets z as constant planes next to the map. (The paper
    makes the first feature map from z, which instance norm would remove.) `grain` and `l1` are
    additions; the paper uses VGG features instead of `l1`.
    """

    paired = True

    def __init__(
        self,
        geometry: Geometry,
        *,
        # number of classes of label maps, with the background; the same as in data.intensity.a
        classes: Annotated[int, Field(ge=2, le=256)] = 5,
        width: Width = 64,  # filters at full resolution; they double with every halving, up to 16 x
        ups: Depth = 4,  # number of upsamplings by 2 from the smallest feature map to the image
        hidden: Width = 128,  # filters between the label map and gamma and beta
        style: Width = 16,  # length of z, an image's style
        # weight of the divergence of styles from N(0, I); 0: no encoder, random styles
        divergence: Weight = 0.05,
        # add noise with the strength that real images have in each class; not in the paper
        grain: bool = False,
        # discriminator, one for each scale; spectral = true in the paper
        discriminator: Discriminator = "patchgan",  # discriminator network
        # number of image sizes with a discriminator, each half of the previous one
        scales: Depth = 2,
        adversarial: AdversarialLoss = "hinge",  # adversarial loss
        features: Weight = 10.0,  # weight of the L1 loss between discriminator features (lambda)
        l1: Weight = 0.0,  # weight of the L1 loss between a generated image and its truth
    ):
        super().__init__(geometry)
        maps = classes * geometry.channels["a"]
        images = geometry.channels["b"]
        dims = geometry.dims
        self.classes = classes
        self.style = style
        self.grain = grain
        self.divergence = divergence
        self.features = features
        self.l1 = l1
        self.adversarial = adversarial()
        self.unlike = L1()
        shape = {"width": width, "ups": ups, "hidden": hidden}
        self.g_ab = Generator(dims, maps + style, images, **shape)
        self.e_b = Encoder(dims, images, width, style) if divergence else None
        self.d_b = Scales(discriminator, maps + images, dims, scales)
        noise = torch.randn(
            1, images, *geometry.size, generator=torch.Generator().manual_seed(0), device="cpu"
        )
        self.register_buffer("seen_in_use", noise, persistent=False)
        # the middle slice's planes
        self.own = slice(maps // 2 - classes // 2, maps // 2 - classes // 2 + classes)
        # sum of the noise's deviation in real images
        self.register_buffer("noise", torch.zeros(images, classes))
        # number of pixels in that sum, by class
        self.register_buffer("pixels", torch.full((classes,), 1e-6))

    def directions(self) -> list[str]:
        """Only `b`: images from maps."""
        return ["b"]

    def phases(self) -> list[Phase]:
        """Generator and encoder, then the discriminators on the fakes that the first phase left in
        the batch.
        """
        learned = (self.g_ab,) if self.e_b is None else (self.g_ab, self.e_b)
        judging = Phase("discriminators", (self.d_b,), self.discriminator_losses)
        return [Phase("generators", learned, self.generator_losses, ema=True), judging]

    def generator_losses(self, batch: Batch) -> Losses:
        """Adversarial and feature losses, the mean over the scales; the styles' divergence from
        N(0, I).
        """
        maps = self.planes(batch["a"])
        real = batch["b"]
        z = torch.randn(len(real), self.style, device=real.device)
        losses = {}
        if self.e_b is not None:
            mean, log_variance = self.e_b(real).float().unbind(1)
            z = mean + (log_variance / 2).exp() * z
            apart = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
            losses["divergence_b"] = self.divergence * apart.sum(1).mean()

        self._measure(maps, real)
        plain = self._generate_styled(maps, z)
        fake = self._add_grain(plain, maps, torch.randn_like(real))
        batch["fake_b"] = fake.detach()
        seen = self.d_b(torch.cat([maps, fake], 1))
        judged = sum(self.adversarial.generator(each[-1]) for each in seen)
        losses["adversarial_b"] = judged / len(seen)
        if self.features:
            with torch.no_grad():
                true = self.d_b(torch.cat([maps, real], 1))
            apart = 0
            for made_maps, true_maps in zip(seen, true, strict=True):
                # the last ones are logits
                for pair in zip(made_maps[:-1], true_maps[:-1], strict=True):
                    apart = apart + self.unlike(*pair)
            losses["features_b"] = self.features / len(seen) * apart

        if self.l1:
            losses["l1_b"] = self.l1 * self.unlike(plain, real)

        return losses

    def discriminator_losses(self, batch: Batch) -> Losses:
        """The discriminators' losses of maps with real images and with generated ones, at each
        scale.
        """
        maps = self.planes(batch["a"])
        losses = {}
        real = self.d_b.pyramid(torch.cat([maps, batch["b"]], 1))
        fake = self.d_b.pyramid(torch.cat([maps, batch["fake_b"]], 1))
        scales = zip(self.d_b.judges, real, fake, strict=True)
        for number, (judge, *images) in enumerate(scales, 1):
            losses |= self.real_fake_losses(f"b{number}", judge, self.adversarial, *images)

        return losses

    def planes(self, maps: Tensor) -> Tensor:
        """Label maps in network intensities as one-hot planes, one for each class."""
        low, high = self.geometry.range
        number = ((maps.float() - low) * ((self.classes - 1) / (high - low))).round()
        each = torch.arange(self.classes, device=maps.device).view(-1, *[1] * (maps.ndim - 2))
        return (number[:, :, None] == each).flatten(1, 2).float()

    def translate(self, image: Tensor, to: str) -> Tensor:
        """Generate the images of label maps in the style z = 0, with the grain of seed 0."""
        return self._in_use(self.planes(image), image.new_zeros(1, self.style))

    def variants(self, image: Tensor, to: str, n: int, seed: int) -> Tensor:
        """`n` images of each map, (n, N, C, *size), with styles and grains drawn with `seed`."""
        planes = self.planes(image)
        generator = torch.Generator().manual_seed(seed)
        shapes = (1, self.style), (1, self.geometry.channels["b"], *image.shape[2:])
        drawn = [
            [torch.randn(shape, generator=generator).to(image) for shape in shapes]
            for _ in range(n)
        ]
        return torch.stack([self._in_use(planes, *each) for each in drawn])

    def translate_like(self, image: Tensor, to: str, example: Tensor) -> Tensor:
        """Generate the images of label maps, each in the style of its example (N, C, *size)."""
        if self.e_b is None:
            return super().translate_like(image, to, example)
        return self._in_use(self.planes(image), self.e_b(example)[:, 0])

    def _generate_styled(self, maps: Tensor, z: Tensor) -> Tensor:
        z = z.reshape(len(z), self.style, *[1] * (maps.ndim - 2)).to(maps)
        return self.g_ab(torch.cat([maps, z.expand(len(maps), -1, *maps.shape[2:])], 1))

    def _in_use(self, maps: Tensor, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Generate images with grain; `noise` None is that of seed 0, tiled over larger images than
        in training.
        """
        noise = tile(self.seen_in_use if noise is None else noise, maps)
        return self._add_grain(self._generate_styled(maps, z), maps, noise)

    @torch.no_grad()
    def _measure(self, maps: Tensor, real: Tensor) -> None:
        """Add a batch to each class's noise estimate: the mean difference of neighbours inside the
        class.
        """
        shrink = getattr(F, f"max_pool{maps.ndim - 2}d")
        axes = [0, *range(2, maps.ndim)]
        maps = -shrink(-maps[:, self.own], 3, 1, 1)
        both = maps[..., 1:] * maps[..., :-1]
        steps = 0.8862 * real.float().diff(dim=-1).abs()  # pi**0.5 / 2
        self.noise += torch.stack([(both * step).sum(axes) for step in steps.split(1, 1)])
        self.pixels += both.sum(axes)

    def _add_grain(self, image: Tensor, maps: Tensor, noise: Tensor) -> Tensor:
        """With `grain`, add white noise, in each class as strong as measured."""
        if not self.grain:
            return image
        strength = self.noise / self.pixels
        deviation = torch.tensordot(maps[:, self.own], strength, ([1], [1])).movedim(-1, 1)
        return image + deviation * noise
