"""The losses that a method's phases compute where its networks are fixed functions, compared with
formulas.
"""

import re
from collections.abc import Callable, Mapping, Sequence
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
            role = phase.name.rstrip("s")
            self.losses[role] = phase.loss(batch)
            self.calls[role] = {name: network.calls for name, network in fixed.items()}

        makers = [name for name, network in fixed.items() if network.role == "generator"]
        self.made = [call for name in makers for call in self.calls["generator"][name]]
        # generators, for discriminators
        self.again = any(self.calls["discriminator"][name] for name in makers)

    def shown_to_generators(self) -> list[Tensor]:
        """All that the generators were given."""
        return [tensor for given, _ in self.made for tensor in given]

    def total_loss(self, role: str, prefix: str) -> Tensor:
        """Sum of a role's losses whose names start with a prefix."""
        return sum(loss for name, loss in self.losses[role].items() if name.startswith(prefix))

    def judged(self, name: str) -> tuple[Tensor, Tensor, Tensor] | None:
        """A discriminator's logits: for the generator; of real and fake for itself. None where it
        saw others.
        """
        real = self.batch[name[-1] if name[-1] in self.batch else "image"]
        given, first = self.calls["generator"][name][0]
        own = sorted(self.calls["discriminator"][name], key=lambda call: not sees(call[0], real))
        real_comes_first = sees(own[0][0], real)
        generator_is_judged = any(sees(given, result) for _, result in self.made)
        if not real_comes_first or not generator_is_judged:
            return None
        return first, own[0][1], own[1][1]


def of_losses(method: Method) -> dict[str, dict[str, Any]]:
    """Terms, forms and weights of the losses, and what the networks are given. The method's
    networks are replaced.
    """
    fixed = fix_networks(method)
    if hasattr(method, "change"):  # Style Transfer GAN without what is ours in it
        method.change = False
        method.defense = 0.0
    judges = [name for name, network in fixed.items() if network.role == "discriminator"]
    first = Step(method, fixed, seed=0, images=0)
    other_images = Step(method, fixed, seed=0, images=1)
    other_noise = Step(method, fixed, seed=1, images=0)
    other_labels = Step(method, fixed, seed=0, images=0, label=1)

    terms = {re.sub("(_ab?|_ba?)$", "", name) for name in first.losses["generator"]}
    losses: dict[str, Any] = {"terms": sorted(terms)}
    additions = []
    # ProGAN grows, and has a game of its own
    if not grows(method):
        additions += [name for name in first.losses["discriminator"] if not name.startswith("d_")]
        steps = (first, other_images, other_noise, other_labels)
        if not all(step.judged(name) for step in steps for name in judges):
            return {"losses": losses, "additions": {"changes of what is judged": True}}
        losses |= of_games(judges, (first, other_images))

    if "style" in terms:
        losses |= of_transfer(fixed, (first, other_images))
    elif "g_ba" in fixed:
        for term in sorted(terms & {"cycle", "identity"}):
            kind, weight = of_term(term, fixed, (first, other_images))
            losses[term] = kind
            losses[f"{term}_weight"] = weight
            if kind == "another":
                additions.append(f"{term} of another kind")

    shown = first.shown_to_generators()
    by_noise = other_noise.shown_to_generators()
    generator = {
        "by_class": differ(shown, other_labels.shown_to_generators()),
        "by_noise": differ(shown, by_noise),
    }
    discriminator = {}
    if "style" in terms:
        given = [each for each, _ in first.calls["generator"]["g_ab"]]
        generator["sees_example"] = all(sees(given[0], first.batch[name]) for name in ("a", "b"))
    if method.paired:
        generator["sees_image"] = sees(shown, first.batch["a"])
        discriminator["pairs"] = of_pairs(first, judges[0])
    if method.samples:
        losses["noise"] = distribution([shown[0], by_noise[0]])
        losses["noise_of_samples"] = distribution(noise_of_samples(method, fixed))

    every_step = all(phase.every == 1 for phase in method.phases())
    return {
        "losses": losses,
        "generator": generator,
        "discriminator": discriminator,
        "training": {"one_forward_pass": not first.again and every_step},
        "additions": dict.fromkeys(additions, True),
    }


def grows(method: Method) -> bool:
    """Whether a method trains at more sizes than two, as ProGAN does."""
    sizes = {stage.size for stage in method.stages(STEPS)}
    return len(sizes) > 2


def fix_networks(method: Method) -> dict[str, Fixed]:
    """Replace a method's networks by fixed functions; they are returned by name."""
    fixed: dict[str, Fixed] = {}
    geometry = method.geometry
    for number, (name, (role, network)) in enumerate(networks(method).items()):
        domain = name[-1] if name[-1] in method.reads else method.reads[-1]
        has_classes = getattr(network, "classes", 1) > 0
        fixed[name] = Fixed(role, geometry.channels[domain], geometry.size, number, has_classes)
        setattr(method, name, fixed[name])

    return fixed


def of_games(judges: list[str], steps: Sequence[Step]) -> dict[str, Any]:
    """Which game generator and discriminator play, and how often each loss counts."""
    generator_rows = []
    discriminator_rows = []
    for step in steps:
        judged = [step.judged(name) for name in judges]
        total = step.total_loss("generator", "adversarial")
        own_total = step.total_loss("discriminator", "d_")
        generator_row = []
        discriminator_row = []
        for of_generator, of_discriminator in GAMES.values():
            formula = sum(of_generator(fooled) for fooled, _, _ in judged)
            own_formula = sum(of_discriminator(real, fake) for _, real, fake in judged)
            generator_row.append(total / formula)
            discriminator_row.append(own_total / own_formula)

        generator_rows.append(generator_row)
        discriminator_rows.append(discriminator_row)

    found: dict[str, Any] = {}
    found["generator_game"], found["generator_sum"] = form(GAMES, generator_rows)
    found["discriminator_game"], found["discriminator_sum"] = form(GAMES, discriminator_rows)
    return found


def of_term(term: str, fixed: Mapping[str, Fixed], steps: Sequence[Step]) -> tuple[str, float]:
    """Norm and weight of the term "cycle" or "identity"."""
    rows = []
    for domain, way, back in (("a", "g_ab", "g_ba"), ("b", "g_ba", "g_ab")):
        for step in steps:
            image = step.batch[domain]
            loss = step.losses["generator"][f"{term}_{domain}"]
            given = fixed[way].of(image) if term == "cycle" else image
            result = fixed[back].of(given)
            rows.append([loss / norm(result, image) for norm in NORMS.values()])

    return form(NORMS, rows)


def of_transfer(fixed: Mapping[str, Fixed], steps: Sequence[Step]) -> dict[str, str]:
    """What the identity and the style loss of Style Transfer GAN compare: G adds the tumour of an
    example to an image, F removes it (Chang et al. 2018).
    """

    def add(image: Tensor, example: Tensor) -> Tensor:
        return fixed["g_ab"].of(torch.cat([image, example], 1))

    remove = fixed["g_ba"].of
    identity: dict[str, Callable] = {
        "l1 of F(G(x, y)) and x": lambda x, y: NORMS["l1"](remove(add(x, y)), x)
    }
    style: dict[str, Callable] = {
        "l1 of G(F(y), G(x, y)) and y": lambda x, y: NORMS["l1"](add(remove(y), add(x, y)), y)
    }
    found = {}
    for term, formulas in (("identity", identity), ("style", style)):
        rows = []
        for step in steps:
            images = step.batch["a"], step.batch["b"]
            loss = step.losses["generator"][term]
            rows.append([loss / formula(*images) for formula in formulas.values()])
        found[term], _ = form(formulas, rows)
    return found


def of_pairs(step: Step, judge: str) -> list[str]:
    """What a discriminator of pairs is given in each of its calls, by name."""
    images = {
        "input": step.batch["a"],
        "target": step.batch["b"],
        "generated": step.made[0][1],
    }
    found = []
    for given, _ in step.calls["discriminator"][judge]:
        found.append(", ".join(name for name, image in images.items() if sees(given, image)))

    return found


def noise_of_samples(method: Method, fixed: Mapping[str, Fixed]) -> list[Tensor]:
    """What the networks are given first where a method draws samples."""
    for network in fixed.values():
        network.calls = []
    method.sample(16, 0)
    return [given[0] for network in fixed.values() for given, _ in network.calls]


def differ(shown: list[Tensor], other: list[Tensor]) -> bool:
    """Whether any of the tensors that generators were given is another."""
    return not all(map(torch.equal, shown, other))


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
