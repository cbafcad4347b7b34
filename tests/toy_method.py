"""A method of two networks of one weight each."""

import torch
from torch import nn

from gantk.method import Geometry, Method, Phase


class Toy(Method):
    """A player and a critic of one weight each; `seen` are the batch's names at each phase."""

    reads = ("image",)

    def __init__(self, *, every: int = 1, ema: bool = False):
        super().__init__(Geometry(2, (4, 4), {"image": 1}))
        self.player = nn.Linear(1, 1, bias=False)
        self.critic = nn.Linear(1, 1, bias=False)
        self.every = every
        self.ema = ema
        self.seen = []
        nn.init.constant_(self.player.weight, 0.5)
        nn.init.constant_(self.critic.weight, 2.0)

    def phases(self):
        play = Phase("play", (self.player,), self.play, every=self.every, ema=self.ema)
        return [play, Phase("judge", (self.critic,), self.judge)]

    def play(self, batch):
        fake = self.player(batch["image"])
        batch["fake"] = fake.detach()
        return {"adversarial": -self.critic(fake).mean(), "size": fake.square().mean()}

    def judge(self, batch):
        self.seen.append(
            (sorted(batch), self.player.weight.requires_grad, self.critic.weight.requires_grad)
        )
        fake = batch.get("fake", torch.zeros_like(batch["image"]))
        return {"critic": self.critic(fake).mean() + 0.1 * self.player(fake).mean()}
