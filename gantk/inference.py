"""A trained model at work: native images are brought to what the networks see, changed or made, and put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gantk import checkpoint
from gantk.data.batches import prepare
from gantk.data.channels import PerChannel
from gantk.data.fit import Fit
from gantk.data.image import Image
from gantk.data.prepared import Data, intensity_from
from gantk.data.stacks import middle
from gantk.errors import UserError
from gantk.method import Method
from gantk.post import Posts, spread_examples
from gantk.runfolder import RunFolder
from gantk.runtime import Runtime, start
from gantk.tables import Model
from gantk.training import build_method, split_weights
from gantk.windows import by_windows


@dataclass(frozen=True)
class Look:
    """Which of a multimodal method's translations is wanted; by default the method's own, deterministic one."""

    variants: int | None = None  # so many different ones, from styles drawn at random ...
    seed: int = 0  # ... with this seed
    example: Image | None = None  # or the one in the style of this image of the target domain


@dataclass
class Translator:
    """A trained method with its intensity mappings, on a device."""

    model: Model
    method: Method
    intensity: dict[str, object]  # by domain, fitted on the training split
    runtime: Runtime

    @classmethod
    def load(cls, path: Path, device: str | None = None) -> Translator:
        """From a run folder (its newest checkpoint) or one checkpoint of it; averaged weights where there are any."""
        path = Path(path)
        inside = (path / "meta.json").is_file()
        folder = RunFolder.open(path.parent.parent if inside else path)
        saved = path if inside else folder.latest()
        model = folder.recipe().check()
        meta, weights = checkpoint.load_meta_of(model.method.name, saved), checkpoint.load_weights(saved)
        runtime = start(device, model.train.precision, model.train.channels_last)
        intensity = intensity_from(model.data, meta["intensity"])
        span = tuple(map(float, next(iter(intensity.values())).range))
        method = build_method(model, meta["channels"], tuple(meta.get("classes", ())), span, runtime)
        live, average = split_weights(weights)
        checkpoint.load_into(method, live | average, str(saved))
        method.eval().requires_grad_(False)
        return cls(model, method, intensity, runtime)

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

    def contrasts(self, letter: str) -> list[str]:
        """The contrasts of a domain, one channel each: `["T1", "FLAIR"]` of "T1+FLAIR"; of other domains its name."""
        return self.model.data.domains[0 if letter in ("a", "image") else 1].split("+")

    def translate(self, pixels: np.ndarray, to: str | None = None, look: Look = Look()) -> np.ndarray:  # noqa: B008
        """Native images in, native images out.

        `pixels` is float (N, C, *spatial) in the source domain's intensities, with as many spatial axes as the networks
        have; the result has the same sizes, in the target domain's intensities. A run that sees neighbouring slices
        takes N as consecutive slices. nan throughout a channel is a contrast that is missing. An image without any
        content (one value throughout) becomes the target's background. With variants the result has an axis more,
        ahead of all others.
        """
        letter = self.domain(to)
        source = self.intensity["a" if letter == "b" else "b"]
        done = self._translate(pixels, letter, source, look)
        return done[0] if look.variants is None else np.stack(done)

    def images(self, image: Image, to: str | None = None, look: Look = Look()) -> list[Image]:  # noqa: B008
        """One file's image, on its grid, once for each variant. Volumes go through 2-D networks by axial slices."""
        letter = self.domain(to)
        dims = self.model.data.dims
        if dims > image.dims:
            raise UserError(f"'{image.path}' is a picture, and this run translates volumes", where="INPUT")
        other = "a" if letter == "b" else "b"
        self._check_channels(image, other, "INPUT")
        if look.example is not None:
            self._check_channels(look.example, letter, "--style")
        source = self._own_scale(image.pixels, other)
        by_slice = dims < image.dims
        stack = np.moveaxis(image.pixels, 1, 0) if by_slice else image.pixels[None]
        done = self._translate(stack, letter, source, look)
        return [replace(image, pixels=np.moveaxis(each, 0, 1) if by_slice else each[0]) for each in done]

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

    def _translate(self, pixels: np.ndarray, letter: str, source, look: Look) -> list[np.ndarray]:
        data, count = self.model.data, look.variants or 1
        fit = Fit(pixels.shape[2:], data.size, data.fit)
        target = self.intensity[letter]
        network = self._network(letter, look)
        done: list[list[np.ndarray]] = [[] for _ in range(count)]
        size = self.model.translate.batch
        for first in range(0, len(pixels), size):
            natives = [self._stack(pixels, i) for i in range(first, min(first + size, len(pixels)))]
            batch = torch.stack([prepare(native, source, data.size, data.fit) for native in natives])
            outputs = self._forward(batch, network)  # (N, variants x C, *size)
            for k, images in enumerate(outputs.chunk(count, dim=1)):
                if self.posts:
                    images = self.posts(images, self._examples(letter))
                shown = middle(images, data.neighbours).cpu().numpy()
                for native, output in zip(natives, shown, strict=True):
                    empty = not np.nanmax(native) > np.nanmin(native)
                    output = np.full_like(output, self.low) if empty else output
                    done[k].append(fit.inverse(np.asarray(target.inverse(output), dtype=np.float32)))
        return [np.stack(images) for images in done]

    def _network(self, letter: str, look: Look) -> Callable[[Tensor], Tensor]:
        """What (N, C, *size) goes through, with variants side by side as channels."""
        method = self.method
        if look.variants is not None:
            return lambda x: method.variants(x, letter, look.variants, look.seed).movedim(0, 1).flatten(1, 2)
        if look.example is None:
            return lambda x: method.translate(x, letter)
        data, pixels = self.model.data, look.example.pixels
        if pixels.ndim - 1 > data.dims:
            pixels = pixels[:, pixels.shape[1] // 2]  # the style of a volume is its middle slice's
        stack = self._stack(pixels[None], 0)
        example = prepare(stack, self._own_scale(look.example.pixels, letter), data.size, data.fit)[None]
        example = self.runtime.place(example, data.dims)
        return lambda x: method.translate_like(x, letter, example.expand(len(x), *example.shape[1:]))

    @torch.no_grad()
    def _forward(self, batch: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        batch, window = self.runtime.place(batch, self.model.data.dims), self.method.geometry.size
        with self.runtime.autocast():
            return by_windows(batch, window, self.model.translate.overlap, network, self.model.translate.batch)

    def _stack(self, pixels: np.ndarray, index: int) -> np.ndarray:
        """The image at `index` with its neighbours as channels, the outermost ones repeated."""
        reach = self.model.data.neighbours
        if not reach:
            return pixels[index]
        places = np.clip(np.arange(index - reach, index + reach + 1), 0, len(pixels) - 1)
        return np.concatenate([pixels[place] for place in places])

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

    def _check_channels(self, image: Image, letter: str, where: str) -> None:
        expected = self.method.geometry.channels[letter] // (2 * self.model.data.neighbours + 1)
        if image.channels != expected:
            what = f"'{image.path}' has {image.channels} channels, and this run was trained on {expected}"
            remedy = "convert it, or train on images like it"
            if expected == len(self.contrasts(letter)) > 1:
                remedy = f"name a folder that holds one file for each of {', '.join(self.contrasts(letter))}"
            raise UserError(what, where=where, remedy=remedy)

    def _own_scale(self, pixels: np.ndarray, letter: str):
        """The mapping for a file: the one fitted in training where the file's values are on that scale, else its own.

        MR has no units: another scanner's T1 may run to 4,000 where the training set's ran to 255. Where the file's
        99.5th percentile, of any channel, is below half or above twice the training set's, the mapping is fitted to
        the file.
        """
        fitted = self.intensity[letter]
        expected = np.asarray(fitted.inverse(flat(len(pixels), self.model.data.dims, fitted.range[1]))).flatten()
        known = ~np.isnan(pixels.reshape(len(pixels), -1)).all(axis=1)
        top = np.array([np.nanpercentile(channel, 99.5) for channel in pixels[known]])
        ratio = top / np.where(expected[known] > 0, expected[known], np.nan)
        if np.all((ratio >= 0.5) & (ratio <= 2.0)):
            return fitted
        own = intensity_from(self.model.data, {letter: fitted.state()})[letter]
        for line, part in zip(own.lines, pixels, strict=True) if isinstance(own, PerChannel) else [(own, pixels)]:
            if not np.isnan(part).any():
                line.fit([part])
        return own


def flat(channels: int, dims: int, value: float) -> np.ndarray:
    """The smallest image of one value throughout, (channels, 1, ...): what a mapping makes of it tells its ends."""
    return np.full((channels, *[1] * dims), value, dtype=np.float32)
