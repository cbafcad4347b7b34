"""The losses that a method's phases compute where its networks are fixed functions, compared with
formulas.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gantk.method import Batch, Method

STEPS = 1000  # of a training that is looked at
# What generator and discriminator minimise, of logits: Goodfellow et al. 2014, Mao et al. 2017.
GAMES: dict[str, tuple[Callable, Callable]] = {
    "bce": (
        lambda f: -f.sigmoid().log().mean(),
        lambda r, f: -r.sigmoid().log().mean() - (-f).sigmoid().log().mean(),
    ),
    "ls": (lambda f: ((f - 1) ** 2).mean(), lambda r, f: ((r - 1) ** 2).mean() + (f**2).mean()),
}
NORMS: dict[str, Callable] = {
    "l1": lambda x, y: (x - y).abs().mean(),
    "l2": lambda x, y: ((x - y) ** 2).mean(),
}


def networks(method: Method) -> dict[str, tuple[str, nn.Module]]:
    """By name the networks that phases update, each with its role: "generator" or "discriminator"."""
    roles = {
        module: phase.name.rstrip("s") for phase in method.phases() for module in phase.updates
    }
    return {
        name: (roles[child], child) for name, child in method.named_children() if child in roles
    }


def batch_of(method: Method, seed: int, device: str = "cpu", label: int = 0) -> Batch:
    """Two images of each domain, the same for the same seed and darker for a higher one, and their
    labels.
    """
    numbers = torch.Generator().manual_seed(seed)
    sizes = {x: (2, method.geometry.channels[x], *method.geometry.size) for x in method.reads}
    batch = {x: torch.rand(size, generator=numbers) ** (1 + seed) for x, size in sizes.items()}
    return Batch(
        {x: y.to(device) for x, y in (batch | {"label": torch.tensor([label, 1 - label])}).items()}
    )


class Fixed(nn.Module):
    """A network that computes a fixed function of what it is given, and keeps both."""

    def __init__(self, role: str, channels: int, size: tuple[int, ...], number: int, labels: bool):
        super().__init__()
        self.role = role
        self.channels = channels
        self.number = number
        self.labels = labels
        self.calls = []
        self.where = nn.Parameter(torch.zeros(()))  # by which methods tell a network's device
        self.places = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(number))

    def forward(self, *given: Any, **more: Any) -> Tensor:
        result = self.of(given[0])
        # a network without classes leaves labels alone
        seen = (*given, *more.values()) if self.labels else given[:1]
        self.calls.append(([each for each in seen if isinstance(each, Tensor)], result))
        return result

    def of(self, x: Tensor) -> Tensor:
        shares = torch.arange(1, x.shape[1] + 1) / x.shape[1]
        seen = (
            (x * shares.view(1, -1, *[1] * (x.ndim - 2)))
            .mean(1)
            .view(len(x), 1, *x.shape[2:] or (1, 1))
        )
        if self.role == "generator":
            return (
                (0.4 * (1 + self.number) * seen + self.places - 0.5)
                .tanh()
                .expand(-1, self.channels, -1, -1)
            )

        return F.avg_pool2d(3 * seen * self.places, 8) - 0.4


class Step:
    """One training step's phases on the images of a seed, all else drawn from another: losses and
    calls by role.
    """

    def __init__(
        self, method: Method, fixed: Mapping[str, Fixed], seed: int, images: int, label: int = 0
    ):
        batch = batch_of(method, images, label=label)
        self.batch = dict(batch)
        self.losses = {}
        self.calls = {}
        torch.manual_seed(seed)
        method.begin(method.stages(STEPS)[-1], batch)
        for phase in method.phases():
            for network in fixed.values():
                network.calls = []
            self.losses[role := phase.name.rstrip("s")] = phase.loss(batch)
            self.calls[role] = {name: network.calls for name, network in fixed.items()}

        makers = [name for name, network in fixed.items() if network.role == "generator"]
        self.made = [call for name in makers for call in self.calls["generator"][name]]
        # generators, for discriminators
        self.again = any(self.calls["discriminator"][name] for name in makers)

    def judged(self, name: str) -> tuple[Tensor, Tensor, Tensor] | None:
        """A discriminator's logits: for the generator; of real and fake for itself. None where it
        saw others.
        """
        real = self.batch[name[-1] if name[-1] in self.batch else "image"]
        (given, first), own = self.calls["generator"][name][0], self.calls["discriminator"][name]
        own = sorted(own, key=lambda call: not sees(call[0], real))
        if not sees(own[0][0], real) or not any(sees(given, result) for _, result in self.made):
            return None
        return first, own[0][1], own[1][1]


def of_losses(method: Method) -> dict[str, dict[str, Any]]:
    """Terms, forms and weights of the losses, and what the networks are given. The method's
    networks are replaced.
    """
    fixed: dict[str, Fixed] = {}
    for number, (name, (role, network)) in enumerate(networks(method).items()):
        channels = method.geometry.channels[
            name[-1] if name[-1] in method.reads else method.reads[-1]
        ]
        fixed[name] = Fixed(
            role, channels, method.geometry.size, number, getattr(network, "classes", 1) > 0
        )
        setattr(method, name, fixed[name])

    judges = [name for name, network in fixed.items() if network.role == "discriminator"]
    steps = first, _, later, swapped = [
        Step(method, fixed, *each) for each in ((0, 0), (0, 1), (1, 0), (0, 0, 1))
    ]

    losses = {
        "terms": sorted({re.sub("(_ab?|_ba?)$", "", name) for name in first.losses["generator"]})
    }
    additions = []
    # ProGAN grows, and has a game of its own
    if len({stage.size for stage in method.stages(STEPS)}) < 3:
        additions += [name for name in first.losses["discriminator"] if not name.startswith("d_")]
        if not all(at.judged(name) for at in steps for name in judges):
            return {"losses": losses, "additions": {"changes of what is judged": True}}
        for k, (role, start) in enumerate((("generator", "adversarial"), ("discriminator", "d_"))):
            rows = []
            for at in steps[:2]:
                logits = [at.judged(name)[1:] if k else at.judged(name)[:1] for name in judges]
                total = sum(
                    loss for name, loss in at.losses[role].items() if name.startswith(start)
                )
                rows.append(
                    [total / sum(game[k](*each) for each in logits) for game in GAMES.values()]
                )
            losses[f"{role}_game"], losses[f"{role}_sum"] = form(GAMES, rows)

    for term in (
        sorted({"cycle", "identity"}.intersection(losses["terms"])) if "g_ba" in fixed else ()
    ):
        rows = []
        for x, back, way in (
            ("a", fixed["g_ba"].of, fixed["g_ab"].of),
            ("b", fixed["g_ab"].of, fixed["g_ba"].of),
        ):
            for image, loss in (
                (at.batch[x], at.losses["generator"][f"{term}_{x}"]) for at in steps[:2]
            ):
                result = back(way(image) if term == "cycle" else image)
                rows.append([loss / norm(result, image) for norm in NORMS.values()])
        losses[term], losses[f"{term}_weight"] = form(NORMS, rows)
        additions += [f"{term} of another kind"] if losses[term] == "another" else []

    shown, otherwise, anew = (
        [x for given, _ in at.made for x in given] for at in (first, swapped, later)
    )
    once = {
        "one_forward_pass": not first.again and all(phase.every == 1 for phase in method.phases())
    }
    found = {
        "losses": losses,
        "discriminator": {},
        "training": once,
        "additions": dict.fromkeys(additions, True),
    }
    # whether what generators are given changes with it
    by = {"by_class": otherwise, "by_noise": anew}
    found["generator"] = {
        name: not all(map(torch.equal, shown, other)) for name, other in by.items()
    }
    if method.paired:
        images = {
            "input": first.batch["a"],
            "target": first.batch["b"],
            "generated": first.made[0][1],
        }
        found["generator"]["sees_image"] = sees(shown, images["input"])
        given = [call[0] for call in first.calls["discriminator"][judges[0]]]
        found["discriminator"]["pairs"] = [
            ", ".join(n for n, x in images.items() if sees(pair, x)) for pair in given
        ]

    if method.samples:
        for network in fixed.values():
            network.calls = []
        method.sample(16, 0)
        losses["noise"] = distribution([shown[0], anew[0]])
        losses["noise_of_samples"] = distribution(
            [call[0][0] for network in fixed.values() for call in network.calls]
        )

    return found


def form(forms: Mapping, rows: list[list[Tensor]]) -> tuple[str, float]:
    """Which form a loss has, and its weight: how many times the formula it is must be the same for
    all images.
    """
    for name, column in zip(forms, zip(*rows, strict=True), strict=True):
        weights = [float(weight) for weight in column]
        if min(weights) > 0 and max(weights) - min(weights) < 1e-4 * max(weights):
            return name, round(weights[0], 3)
    return "another", 0.0


def sees(given: list[Tensor], image: Tensor) -> bool:
    """Whether the first channel of an image is among those that a network was given."""
    maps = [each for each in given if each.ndim == image.ndim and each.shape[2:] == image.shape[2:]]
    return any(torch.equal(x, image[:, 0]) for each in maps for x in each.unbind(1))


def distribution(noise: list[Tensor]) -> str:
    """ "uniform" or "normal", by the fourth moment: 1.8 and 3 times the square of the second;
    classes come behind.
    """
    values = torch.cat(noise)[:, :64].flatten().double()
    moment = float((values - values.mean()).pow(4).mean() / values.var() ** 2)
    if 1.6 < moment < 2.1:
        return "uniform"
    if 2.4 < moment < 3.6:
        return "normal"
    return "another"
