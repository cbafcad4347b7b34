"""A small classifier that is trained to judge images: what a score of usefulness or of likeness is read off."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.metrics.features import PASS, middle_slices

BATCH = 16  # images of a training step
RATE = {"random": 1e-3, "pretrained": 1e-4}  # AdamW, falling to 0 along half a cosine


class SmallConv(nn.Module):
    """Four strided convolutions and a pooling: a few tens of thousands of weights, seconds on one core."""

    num_features = 64

    def __init__(self, channels: int):
        super().__init__()
        widths, layers = (channels, 16, 32, 64, 64), []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x)  # the strongest response counts beside the mean: a lesion is small
        return (x.mean((2, 3)) + x.amax((2, 3))) / 2


class Classifier:
    """A backbone with a linear head, trained on images (N, C, *size) from 0 to `data_range`.

    Args:
        backbone: "small", or a name of timm.
        weights: "random" trains from scratch, "pretrained" starts from timm's weights of photographs.
        steps: of 16 images, every class as often as the others.
        side: pixels that pictures are brought to; a volume is its three middle slices, as channels.

    The same seed on the same machine gives the same classifier; the global random generator is left as it was.
    """

    def __init__(
        self,
        backbone: str,
        weights: Literal["random", "pretrained"],
        steps: int,
        side: int,
        seed: int,
        data_range: float,
    ):
        self.backbone, self.weights, self.steps, self.side, self.seed = backbone, weights, steps, side, seed
        self.data_range = data_range

    @property
    def definition(self) -> str:
        made = "small" if self.backbone == "small" else f"{self.backbone}-{self.weights}"
        return f"{made}/{self.side}px/steps={self.steps}x{BATCH}"

    def fit(self, images: Tensor, labels: Tensor, classes: int) -> Classifier:
        """Train on images (N, C, *size) with labels (N,) from 0 to `classes` - 1."""
        pictures = self._pictures(images)
        labels = labels.to(pictures.device)
        rarity = (1 / torch.bincount(labels, minlength=classes).clamp_min(1).float()).cpu()[labels.cpu()]
        generator = torch.Generator().manual_seed(self.seed)
        plain = torch.autocast(pictures.device.type, enabled=False)
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), plain:
            torch.manual_seed(self.seed)
            self.network = self._network(pictures.shape[1], classes).to(pictures.device).train()
            optimizer = torch.optim.AdamW(self.network.parameters(), RATE[self.weights], weight_decay=0.01)
            falling = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: (1 + math.cos(math.pi * step / self.steps)) / 2
            )
            for _ in range(self.steps):
                chosen = torch.multinomial(rarity, BATCH, replacement=True, generator=generator)
                loss = F.cross_entropy(self.network(varied(pictures[chosen], generator)), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                falling.step()
        self.network.eval()
        return self

    def probabilities(self, images: Tensor) -> Tensor:
        """(N, classes), float64, on the CPU."""
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            parts = [self.network(part).softmax(1) for part in self._pictures(images).split(PASS)]
        return torch.cat(parts).double().cpu()

    def _network(self, channels: int, classes: int) -> nn.Module:
        if self.backbone == "small":
            body: nn.Module = SmallConv(channels)
        else:
            from gantk.nets.pretrained import timm_model

            body = timm_model(self.backbone, self.weights, seed=self.seed, num_classes=0, in_chans=channels)
        width = body(torch.zeros(2, channels, self.side, self.side)).shape[1]
        return nn.Sequential(body, nn.Linear(width, classes)).requires_grad_(True)

    def _pictures(self, images: Tensor) -> Tensor:
        """(N, channels, side, side), about -1 to 1."""
        found = []
        for part in images.split(PASS):
            part = 2 * part.float() / self.data_range - 1
            views = middle_slices(part) if images.ndim == 5 else [part]
            sized = [F.interpolate(view, (self.side, self.side), mode="bilinear", antialias=True) for view in views]
            found.append(torch.cat(sized, 1))
        return torch.cat(found)


def varied(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture mirrored or not, and all moved together by up to an eighth: a few hundred images are soon known."""
    mirrored = torch.rand(len(pictures), generator=generator).to(pictures.device) < 0.5
    pictures = torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)
    reach = max(1, pictures.shape[-1] // 8)
    shift = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    return torch.roll(pictures, shift, (2, 3))
