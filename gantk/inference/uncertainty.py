"""How sure a translation is, pixel by pixel: how far its answers spread when what should not matter is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations

import torch
from torch import Tensor, nn

from gantk.errors import UserError, did_you_mean
from gantk.method import Method

KINDS = ("auto", "flips", "dropout", "checkpoints", "cycle")
AXES = {"columns": -1, "rows": -2, "planes": -3}  # of upright images: columns run left to right
LACKING = {  # what a run lacks for a kind, and what would help
    "dropout": ("the networks of this run have no dropout",
                "choose flips, checkpoints or cycle, or train with method.generator.dropout above 0"),
    "cycle": ("this run has no way back from the target domain",
              "choose flips or checkpoints, or use a run of a two-way method, such as cyclegan or dualgan"),
    "checkpoints": ("this run keeps a single checkpoint",
                    "choose flips or cycle, or train with train.keep of 2 or more and a smaller train.save_every"),
}  # fmt: skip
Translate = Callable[[Tensor], Tensor]  # (N, C, *size) -> (N, D, *size), network intensities


class Uncertain:
    """Uncertainty maps of a method's translations, in network intensities.

    - "flips": standard deviation over the image and its mirror images, each translated and mirrored back
      (test-time augmentation, Wang et al. 2019).
    - "dropout": standard deviation over `passes` networks, each with other units dropped (Gal and Ghahramani 2016,
      eq. 7-8); for networks that were trained with dropout.
    - "checkpoints": standard deviation over the run's kept checkpoints, an ensemble along the training
      (Huang et al. 2017).
    - "cycle": how far an image is from its translation brought back, for two-way methods.
    - "auto": flips, and for two-way methods cycle added to it: what found the errors best on phantoms.

    The same seed gives the same maps, whatever the batch; the global random generators are left as they were.
    """

    def __init__(
        self,
        kind: str = "auto",
        *,
        passes: int = 8,  # "dropout": networks drawn; more is smoother and slower
        seed: int = 0,  # "dropout": of the draws
        flips: Sequence[str] = ("columns", "rows"),  # "flips": axes that are mirrored, alone and together
    ):
        if kind not in KINDS:
            hint = did_you_mean(kind, KINDS)
            raise UserError(f"there is no uncertainty of the kind '{kind}'", allowed=KINDS, remedy=hint)
        if passes < 2:
            raise UserError(f"{passes} passes have no spread", where="passes", allowed="2 or more")
        if not flips or set(flips) - AXES.keys():
            raise UserError(f"flips = {list(flips)} is nothing to mirror", where="flips", allowed=AXES)
        self.kind, self.passes, self.seed, self.flips = kind, passes, seed, tuple(dict.fromkeys(flips))

    def chosen(self, *, back: bool) -> str:
        """The kind that is made: "auto" is "flips+cycle" where there is a way back, else "flips"."""
        if self.kind != "auto":
            return self.kind
        return "flips+cycle" if back else "flips"

    def check(self, method: Method, checkpoints: int = 2) -> None:
        """UserError where a method, of which so many checkpoints will be kept, cannot have this kind."""
        self._need("dropout", bool(_dropout_layers(method)))
        self._need("cycle", len(method.directions()) == 2)
        self._need("checkpoints", checkpoints > 1)

    @torch.no_grad()
    def maps(
        self,
        translate: Translate,
        image: Tensor,
        *,
        module: nn.Module,
        back: Translate | None = None,
        others: Sequence[Mapping[str, Tensor]] = (),
    ) -> tuple[Tensor, Tensor]:
        """The plain translation of images (N, C, *size) and its uncertainty, 0 or more: (N, D or 1, *size), float32.

        `translate` runs networks of `module`, in eval mode; `back` is the way from the target domain; `others` are
        other checkpoints' weights by `module`'s names. UserError where the kind cannot be had. The translation is the
        one that is made without an uncertainty, to the bit.
        """
        self._need("cycle", back is not None)
        self._need("checkpoints", bool(others))
        plain = translate(image).float()
        kind = self.chosen(back=back is not None)
        spread = torch.zeros(())
        if kind == "dropout":
            spread = _deviation(self._dropped(translate, image, module))
        elif kind == "checkpoints":
            spread = _deviation(_along_training(translate, image, plain, module, others))
        elif kind != "cycle":
            spread = _deviation(self._mirrored(translate, image, plain))
        if kind.endswith("cycle"):  # network intensities are the same in both domains: no factor is needed
            error = (back(plain.to(image.dtype)).float() - image).abs()
            spread = spread.to(error.device) + (error if error.shape == plain.shape else error.mean(1, keepdim=True))
        return plain, spread

    def _need(self, kind: str, there: bool) -> None:
        if self.kind == kind and not there:
            what, remedy = LACKING[kind]
            raise UserError(what, where=f"uncertainty = {kind}", remedy=remedy)

    def _mirrored(self, translate: Translate, image: Tensor, plain: Tensor) -> Iterator[Tensor]:
        yield plain
        axes = [AXES[name] for name in self.flips if -AXES[name] <= image.ndim - 2]
        if not axes:
            raise UserError("pictures have no planes to mirror", where="flips", allowed="columns, rows")
        for count in range(1, len(axes) + 1):
            for some in combinations(axes, count):
                yield translate(image.flip(some)).flip(some).float()

    def _dropped(self, translate: Translate, image: Tensor, module: nn.Module) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.passes):
            with dropping(module, generator):
                output = translate(image).float()
            yield output


@contextmanager
def dropping(module: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Inside, the dropout layers of a module in eval mode drop units: the same ones for every image and every batch.

    One network is drawn, not one an image: neighbouring slices see the same one, and a result does not depend on what
    it shared a batch with. `generator` is a CPU generator, so that devices agree. UserError where nothing is dropped.
    """
    masks: dict[tuple, Tensor] = {}

    def drop(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        shape = (1, *x.shape[1:]) if isinstance(layer, nn.Dropout) else (1, x.shape[1], *[1] * (x.ndim - 2))
        if (layer, shape) not in masks:
            kept = torch.rand(shape, generator=generator) >= layer.p
            masks[layer, shape] = kept.to(x.device, x.dtype) / max(1 - layer.p, torch.finfo(x.dtype).eps)
        return x * masks[layer, shape]

    hooks = [layer.register_forward_hook(drop) for layer in _dropout_layers(module)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if not masks:
        Uncertain("dropout")._need("dropout", False)


def _dropout_layers(module: nn.Module) -> list[nn.Module]:
    kinds = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    return [layer for layer in module.modules() if isinstance(layer, kinds) and layer.p > 0]


def uncertain(method: Method, to: str, maker: Uncertain, others: Sequence[Mapping[str, Tensor]] = ()) -> Translate:
    """What gives a method's translations to a domain and, behind them as so many channels more, their uncertainty."""
    way_back = {"a": "b", "b": "a"}[to]
    back = (lambda made: method.translate(made, way_back)) if len(method.directions()) == 2 else None

    def network(image: Tensor) -> Tensor:
        plain, spread = maker.maps(lambda x: method.translate(x, to), image, module=method, back=back, others=others)
        return torch.cat([plain, spread.expand_as(plain)], dim=1)

    return network


def _deviation(members: Iterator[Tensor]) -> Tensor:
    """Standard deviation over the members (n - 1 in the denominator), two in memory at a time (Welford 1962)."""
    mean, squares, count = 0.0, 0.0, 0
    for count, member in enumerate(members, 1):
        step = member - mean
        mean = mean + step / count
        squares = squares + step * (member - mean)
    return (squares / (count - 1)).sqrt()


def _along_training(
    translate: Translate, image: Tensor, plain: Tensor, module: nn.Module, others: Sequence[Mapping[str, Tensor]]
) -> Iterator[Tensor]:
    """The plain translation and other checkpoints'; the module's own weights come back."""
    yield plain
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for weights in others:
        module.load_state_dict(weights)
        try:
            output = translate(image).float()
        finally:
            module.load_state_dict(own)
        yield output
