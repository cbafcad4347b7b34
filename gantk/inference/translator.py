"""A trained model at work: native images are brought to what the networks see, changed or made, and put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gantk.data.dataset import Data, intensity_from
from gantk.data.intensity import to_network
from gantk.data.preparation import middle
from gantk.data.resample import Resize, SamplingGrid
from gantk.errors import UserError
from gantk.formats.image import Image
from gantk.inference.ledger import sha256_of
from gantk.inference.pipeline import PLAIN, Frame, Look, Pipeline, Progress
from gantk.inference.post import Posts, spread_examples
from gantk.inference.tiles import whole_images
from gantk.inference.uncertainty import Uncertain, uncertain
from gantk.machine.allocator import use_allocator
from gantk.machine.runtime import Runtime, start
from gantk.method import Method
from gantk.nets.blocks import fold_for_inference
from gantk.recipe.tables import Model
from gantk.runs.checkpoint import load_meta_of
from gantk.runs.folder import RunFolder
from gantk.runs.trained import earlier_weights, load_method

OTHER = {"a": "b", "b": "a"}


@dataclass
class Translator:
    """A trained method with its intensity mappings, on a device."""

    model: Model
    method: Method
    intensity: dict[str, object]  # by domain, fitted on the training split
    runtime: Runtime
    checkpoint: Path
    _last: tuple[str, Look, Pipeline] | None = field(default=None, repr=False)

    @classmethod
    def load(cls, path: Path, device: str | None = None) -> Translator:
        """From a run folder, by the checkpoint that it is used by, or from one checkpoint; averaged weights if any."""
        path = Path(path)
        inside = (path / "meta.json").is_file()
        folder = RunFolder.open(path.parent.parent if inside else path)
        saved = path if inside else folder.chosen()
        model = folder.recipe().check()
        meta = load_meta_of(model.method.name, saved)
        runtime = start(device, model.train.precision, model.train.fast.channels_last)
        use_allocator(model.train.fast.keep_memory, runtime.device.type)
        intensity = intensity_from(model.data, meta["intensity"])
        span = tuple(map(float, next(iter(intensity.values())).range))
        method = load_method(model, saved, meta, span, runtime)
        return cls(model, method, intensity, runtime, saved)

    def domain(self, name: str | None) -> str:
        """The letter of a domain's human name; None: the first that the method can produce."""
        directions = self.method.directions()
        if name is None:
            return directions[0] if directions else self.method.translate(torch.empty(0), "b")  # which raises
        names = dict(zip("ab", self.model.data.domains, strict=False))
        human = {names[letter].lower(): letter for letter in directions}
        chosen = human.get(name.lower(), name.lower())  # a name wins over a letter: the first domain may be called B
        if chosen in directions:
            return chosen
        allowed = [names[letter] for letter in directions]
        raise UserError(f"this run cannot produce '{name}'", where="--to", allowed=allowed)

    def identity(self) -> dict[str, str]:
        """What says whether two translations are by the same weights."""
        return {"name": self.model.method.name, "sha256": sha256_of(self.checkpoint / "weights.safetensors")}

    def contrasts(self, letter: str) -> list[str]:
        """The contrasts of a domain, one channel each: `["T1", "FLAIR"]` of "T1+FLAIR"; of other domains its name."""
        return self.model.data.domains[0 if letter in ("a", "image") else 1].split("+")

    def translate(
        self,
        pixels: np.ndarray,
        to: str | None = None,
        look: Look = PLAIN,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Native images in, native images out.

        `pixels` is float (N, C, *spatial) in the source domain's intensities, with as many spatial axes as the networks
        have; the result has the same sizes, in the target domain's intensities. A run that sees neighbouring slices
        takes N as consecutive slices. nan throughout a channel is a contrast that is missing. An image without any
        content (one value throughout) becomes the target's background. With variants, or an uncertainty, the result has
        an axis more, ahead of all others.
        """
        pipeline = self.pipeline(self.domain(to), look)
        done = pipeline.stack(pixels, pipeline.source, progress)
        return done[0] if len(done) == 1 and look.variants is None else np.stack(done)

    def images(
        self,
        image: Image,
        to: str | None = None,
        look: Look = PLAIN,
        progress: Progress | None = None,
    ) -> list[Image]:
        """One file's image, on its grid: once, or once for each variant, or with its uncertainty behind it."""
        letter = self.domain(to)
        pipeline = self.pipeline(letter, look)
        pipeline.check_channels(image)
        return pipeline.images(image, look.planes, progress)

    def image(self, image: Image, to: str | None = None) -> Image:
        """One file's image translated, on the same grid."""
        return self.images(image, to)[0]

    def sample(self, n: int, seed: int = 0, label: str | None = None, post: bool = True) -> np.ndarray:
        """`n` native images from noise, (n, C, *size): the same for the same seed; `label` names the class to make."""
        classes = self.method.geometry.classes
        if label is not None and label not in classes:
            what = f"this run knows no class '{label}'"
            raise UserError(what, where="--label", allowed=classes or "none: it was trained without labels")
        labels = None if label is None else torch.full((n,), classes.index(label), device=self.runtime.device)
        with torch.no_grad(), self.runtime.autocast():
            images = self.method.sample(n, seed, labels).float()
        images = self.posts(images, self._examples("image")) if post and self.posts else images
        shown = middle(images, self.model.data.neighbours).cpu().numpy()
        return np.asarray(self.intensity["image"].inverse(shown), dtype=np.float32)

    @cached_property
    def posts(self) -> Posts:
        """What the recipe does to every finished image."""
        return Posts(self.model, self.method.geometry.range)

    @property
    def low(self) -> float:
        """The network intensity of background."""
        return self.method.geometry.range[0]

    def frame(self, letter: str) -> Frame:
        """What the networks see on the way to a domain, in plain values."""
        data, table = self.model.data, self.model.translate
        names = [data.domains[0], data.domains[-1]]
        source, target = names if letter == "b" else names[::-1]
        other = OTHER[letter]
        return Frame(
            source=source,
            target=target,
            dims=data.dims,
            size=tuple(data.size),
            channels=self.method.geometry.channels[other] // (2 * data.neighbours + 1),
            range=self.method.geometry.range,
            fit=data.fit,
            neighbours=data.neighbours,
            plane=data.plane,
            spacing=data.spacing,
            missing=data.missing,
            batch=table.batch,
            detail=table.detail,
            masked=table.masked,
            pipelined=self.model.train.fast.pipelined,
        )

    def pipeline(self, letter: str, look: Look = PLAIN) -> Pipeline:
        """The whole way from a native image of the other domain to one of this domain; the same for all files."""
        known = self._last is not None and self._last[0] == letter and self._last[1] is look
        if not known:  # what a network takes and needs is measured once a pipeline
            self._last = letter, look, self._pipeline(letter, look)
        return self._last[2]

    def _pipeline(self, letter: str, look: Look) -> Pipeline:
        if self.runtime.device.type == "cpu" and look.uncertainty != "checkpoints":  # which loads other weights
            fold_for_inference(self.method)
        if look.uncertainty:
            network, maps = self._uncertain(letter, look), ("image", "spread")
        else:
            network, maps = self._network(letter, look), ("image",) * (look.variants or 1)

        through = whole_images(network, self.method, self.model, self.runtime)

        def run(batch: np.ndarray) -> np.ndarray:
            outputs = through(torch.from_numpy(batch))
            if self.posts:
                parts = list(outputs.chunk(len(maps), dim=1))
                for k, kind in enumerate(maps):
                    if kind == "image":
                        parts[k] = self.posts(parts[k].to(self.runtime.device), self._examples(letter)).cpu()
                outputs = torch.cat(parts, dim=1)
            return outputs.numpy()

        return Pipeline(self.frame(letter), self.intensity[OTHER[letter]], self.intensity[letter], run, maps)

    def _network(self, letter: str, look: Look) -> Callable[[Tensor], Tensor]:
        """What (N, C, *size) goes through, with variants side by side as channels."""
        method = self.method
        if look.variants is not None:
            return lambda x: method.variants(x, letter, look.variants, look.seed).movedim(0, 1).flatten(1, 2)
        if look.example is None:
            return lambda x: method.translate(x, letter)
        example = self.runtime.place(self._example(look.example, letter), self.model.data.dims)
        return lambda x: method.translate_like(x, letter, example.expand(len(x), *example.shape[1:]))

    def _uncertain(self, letter: str, look: Look) -> Callable[[Tensor], Tensor]:
        """The translation and, behind it as so many channels more, its uncertainty."""
        maker = Uncertain(look.uncertainty, seed=look.seed)
        others = self._earlier if maker.wants_others else []
        maker.check(self.method, 1 + len(others))
        return uncertain(self.method, letter, maker, others)

    @cached_property
    def _earlier(self) -> list[dict[str, Tensor]]:
        return earlier_weights(self.checkpoint)

    def _example(self, image: Image, letter: str) -> Tensor:
        """A style image as the networks see it, (1, C, *size): of a volume its middle slice."""
        there = Pipeline(self.frame(OTHER[letter]), self.intensity[letter], None, None)
        there.check_channels(image, "--style")
        pixels, data = image.pixels, self.model.data
        if image.dims > data.dims:
            pixels = SamplingGrid(data.plane, data.spacing).forward(image).pixels
            pixels = pixels[:, pixels.shape[1] // 2]
        stack = np.concatenate([pixels] * (2 * data.neighbours + 1))
        fit = Resize(pixels.shape[1:], data.size, data.fit)
        return torch.from_numpy(to_network(stack, there.own_scale(image.pixels), fit))[None]

    def _examples(self, letter: str) -> Callable[[int], Tensor]:
        """Training images of a domain for the post-steps, read from the recipe's source when first asked for."""

        def examples(n: int) -> Tensor:
            if letter not in self._training:
                data = Data.load(self.model.data, type(self.method))
                data.intensity.update(self.intensity)
                self._training.update(data.training_sets())
            return spread_examples(self._training[letter])(n).to(self.runtime.device)

        return examples

    @cached_property
    def _training(self) -> dict[str, object]:
        return {}


def flat(channels: int, dims: int, value: float) -> np.ndarray:
    """The smallest image of one value throughout, (channels, 1, ...): what a mapping makes of it tells its ends."""
    return np.full((channels, *[1] * dims), value, dtype=np.float32)
