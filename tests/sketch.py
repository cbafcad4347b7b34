"""A small method that does what makes steps hard to record or compile: dropout, batch norm, a schedule, two paces."""

from __future__ import annotations

import torch
from torch import nn

from gantk.method import Batch, Geometry, Method, Phase, Stage
from gantk.training.engine import Engine


class Sketch(Method):
    """A player with dropout and batch norm, a critic on every n-th step; `spoil` is run inside the player's losses."""

    reads = ("image",)

    def __init__(self, spoil=lambda image, progress: image, every: int = 1):
        super().__init__(Geometry(2, (8, 8), {"image": 1}))
        torch.manual_seed(0)
        first = nn.Conv2d(1, 4, 3, padding=1)
        self.player = nn.Sequential(first, nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Conv2d(4, 1, 3))
        self.critic, self.spoil, self.every = nn.Conv2d(1, 1, 3), spoil, every
        self.register_buffer("seen", torch.zeros(()))

    def phases(self):
        judge = Phase("judge", (self.critic,), self.judge, every=self.every)
        return [Phase("play", (self.player,), self.play, ema=True), judge]

    def play(self, batch):
        fake = self.spoil(self.player(batch["image"]), self.progress)
        self.seen += 1
        batch["fake"] = fake.detach()
        return {"adversarial": -self.critic(fake).mean(), "size": fake.square().mean() * (1 + self.progress)}

    def judge(self, batch):
        return {"critic": self.critic(batch["fake"]).square().mean()}


def images(step: int = 0, stage: Stage | None = None, count: int = 2) -> Batch:
    return Batch(image=torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(step)))


def train(engine: Engine, batch_at=images) -> list[dict]:
    return [losses for _, _, losses in engine.fit(batch_at)]


def assert_same(one: Engine, other: Engine) -> None:
    """Weights, buffers and averages are the same to the bit."""
    for found, wanted in ((one.method, other.method), (one.ema, other.ema)):
        expected = wanted.state_dict()
        assert not [name for name, tensor in found.state_dict().items() if not torch.equal(tensor, expected[name])]
