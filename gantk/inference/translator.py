"""A trained run: translates native images through its networks, samples from noise, applies the
recipe's post-steps.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gantk.data.intensity import mapping_from, to_network
from gantk.data.resample import Resize, SamplingGrid
from gantk.data.sources.rows import csv_text
from gantk.errors import UserError
from gantk.files import sha256_of, write_file
from gantk.formats.files import write
from gantk.formats.image import Image
from gantk.inference.pipeline import OTHER, PLAIN, WHOLE, Frame, Look, Pipeline, TrainedModel
from gantk.inference.tiles import AnySize, whole_images
from gantk.machine.device import keep_memory
from gantk.machine.runtime import Runtime, start
from gantk.method import Method
from gantk.nets.blocks import fold_for_inference
from gantk.plugin.loader import registry
from gantk.recipe.tables import Model
from gantk.runs.checkpoint import load_meta_of
from gantk.runs.folder import Run
from gantk.runs.models import data_of, limits_of
from gantk.runs.schemas import read as read_json
from gantk.runs.trained import Examples, Posts, earlier_weights, load_method


@dataclass(repr=False)
class Translator(TrainedModel):
    """A trained method with its intensity mappings, on a device."""

    model: Model
    method: Method
    intensity: dict[str, object]  # by domain, fitted on the training split
    runtime: Runtime
    checkpoint: Path
    # by domain, of the training images; empty in old runs
    values: dict[str, dict] = field(default_factory=dict)
    packed: dict | None = None  # what `gantk pack` recorded
    _last: tuple[str, Look, Pipeline] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        data = self.model.data
        end = f"on {self.runtime.device}, '{self.checkpoint}'"
        return (
            f"Translator({self.model.method.name}, {' and '.join(data.domains)},"
            f" {tuple(data.size)}, {end})"
        )

    @property
    def run(self) -> Run:
        """The run folder of the checkpoint."""
        return Run(self.checkpoint.parent.parent)

    @classmethod
    def load(cls, path: Path, device: str | None = None) -> Translator:
        """Load a run folder's chosen checkpoint, or one checkpoint's folder; averaged weights if
        there are any.
        """
        path = Path(path)
        inside = (path / "meta.json").is_file()
        folder = Run.open(path.parent.parent if inside else path)
        model = folder.recipe().check()
        runtime = start(device, model.train.precision, model.train.fast.channels_last)
        keep_memory(model.train.fast.keep_memory, runtime.device.type)
        while True:
            saved = path if inside else folder.chosen()
            try:
                meta = load_meta_of(model.method.name, saved)
                intensity = {
                    letter: mapping_from(state) for letter, state in meta["intensity"].items()
                }
                span = tuple(map(float, next(iter(intensity.values())).range))
                method = load_method(model, saved, meta, span, runtime)
                break
            except UserError:
                # else a running training has replaced it: try the newer one
                if inside or saved.is_dir():
                    raise
        return cls(
            model, method, intensity, runtime, saved, meta.get("values", {}), meta.get("packed")
        )

    def domain(self, name: str | None) -> str:
        """The letter of a domain's human name; None: the first that the method can produce."""
        directions = self.method.directions()
        if name is None:
            # raises
            return directions[0] if directions else self.method.translate(torch.empty(0), "b")
        names = dict(zip("ab", self.model.data.domains, strict=False))
        # one of several
        human = {each.lower(): letter for letter in directions for each in self.contrasts(letter)}
        human |= {names[letter].lower(): letter for letter in directions}
        # a name wins over a letter: the first domain may be called B
        chosen = human.get(name.lower(), name.lower())
        if chosen not in directions:
            made = [
                name for letter in directions for name in [*self.contrasts(letter), names[letter]]
            ]
            allowed = list(dict.fromkeys(made))
            raise UserError(f"this run cannot produce '{name}'", where="--to", allowed=allowed)
        return chosen

    def identity(self) -> dict[str, str]:
        """A record that two translations share only if they used the same weights."""
        try:
            digest = sha256_of(self.checkpoint / "weights.safetensors")
        except FileNotFoundError:  # deleted by a running training: no other translation can use it
            digest = secrets.token_hex()
        name = self.model.method.name
        noted = self.packed
        if noted is None:
            return {"name": name, "sha256": digest}
        return {
            "name": f"{noted.get('name')} ({name})",
            "sha256": digest,
            "limits": limits_of(self.run.path),
        }

    def contrasts(self, letter: str) -> list[str]:
        """The contrasts of a domain, one channel each: `["T1", "FLAIR"]` of "T1+FLAIR"; of other
        domains its name.
        """
        return self.model.data.domains[0 if letter in ("a", "image") else 1].split("+")

    def frame(self, letter: str) -> Frame:
        """The frame of the direction that ends in the domain `letter`."""
        data = self.model.data
        table = self.model.translate
        names = data.domains[0], data.domains[-1]
        source, target = names if letter == "b" else names[::-1]
        same = ("dims", "fit", "neighbours", "plane", "spacing", "missing")
        return Frame(
            source=source,
            target=target,
            size=tuple(data.size),
            channels=self.method.geometry.channels[OTHER[letter]] // (2 * data.neighbours + 1),
            range=self.method.geometry.range,
            **{key: getattr(data, key) for key in same},
            **{key: getattr(table, key) for key in ("batch", "detail", "masked")},
            values=self.values
            and {"source": self.values[OTHER[letter]], "target": self.values[letter]},
            pipelined=self.model.train.fast.pipelined,
        )

    def pipeline(self, letter: str, look: Look = PLAIN) -> Pipeline:
        """The pipeline from native images of the other domain to this one; the last one is cached
        for many files.
        """
        if self._last is not None and self._last[0] == letter and self._last[1] is look:
            return self._last[2]  # what a network needs is measured once
        # which loads other weights
        if self.runtime.device.type == "cpu" and look.uncertainty != "checkpoints":
            fold_for_inference(self.method)
        maps = ("image", "spread") if look.uncertainty else ("image",) * (look.variants or 1)
        network = self._network(letter, look)

        def run(batch: np.ndarray) -> np.ndarray:
            seen = torch.from_numpy(batch)
            made = [network(part) for part in seen.split(self.model.translate.batch)]
            made = torch.cat(made) if made[1:] else made[0]  # a volume is not copied
            parts = zip(made.chunk(len(maps), dim=1), maps, strict=True)
            done = [
                self._finished(part, letter, seen).cpu() if kind == "image" else part
                for part, kind in parts
            ]
            return torch.cat(done, dim=1).numpy()

        if self._posts.whole:
            frame = replace(self.frame(letter), batch=WHOLE)
        else:
            frame = self.frame(letter)
        pipeline = Pipeline(
            frame, self.intensity[OTHER[letter]], self.intensity[letter], run, maps, look.tta
        )
        self._last = letter, look, pipeline
        return pipeline

    def _network(self, letter: str, look: Look) -> Callable[[Tensor], Tensor]:
        """A function that runs the network on (N, C, *size) from the CPU; variants or uncertainty
        are channels.
        """
        method = self.method
        if look.uncertainty:
            maker = registry().get("uncertainty", look.uncertainty).load()(seed=look.seed)
            others = earlier_weights(self.checkpoint) if look.uncertainty == "checkpoints" else []
            maker.check(method, 1 + len(others))
            maker.scale = self.spread_scale(letter, look.uncertainty)[0] or 1.0
            whole = AnySize(method, self.model, self.runtime)
            return lambda x: torch.cat(maker.maps(whole, letter, x, others), dim=1)
        if look.variants is not None:

            def network(x):
                return (
                    method.variants(x, letter, look.variants, look.seed).movedim(0, 1).flatten(1, 2)
                )  # noqa: E731
        elif look.example is None:
            network = lambda x: method.translate(x, letter)  # noqa: E731
        else:
            example = self.runtime.place(self._example(look.example, letter), self.model.data.dims)

            def network(x):
                return method.translate_like(x, letter, example.expand(len(x), *example.shape[1:]))  # noqa: E731

        return whole_images(network, method, self.model, self.runtime)

    @cached_property
    def _uncertainty_scores(self) -> dict[str, dict]:
        return read_json(self.run.path / "metrics.json").get("uncertainty") or {}

    def spread_scale(self, letter: str, kind: str) -> tuple[float | None, int]:
        chosen = registry().get("uncertainty", kind).load()().chosen(self.method)
        found = self._uncertainty_scores.get(f"{OTHER[letter]}_to_{letter}") or {}
        scale = (found.get("scale") or {}) if found.get("kind") == chosen else {}
        return scale.get("factor"), scale.get("patients") or 0

    def _example(self, image: Image, letter: str) -> Tensor:
        """A style image as network input, (1, C, *size); of a volume the middle slice."""
        # from the style's domain
        pipeline = Pipeline(self.frame(OTHER[letter]), self.intensity[letter], None, None)
        pipeline.check_channels(image, "--style")
        pixels = image.pixels
        data = self.model.data
        if image.dims > data.dims:
            pixels = SamplingGrid(data.plane, data.spacing).forward(image).pixels
            pixels = pixels[:, pixels.shape[1] // 2]
        stack = np.concatenate([pixels] * (2 * data.neighbours + 1))
        resize = Resize(pixels.shape[1:], data.size, data.fit)
        return torch.from_numpy(to_network(stack, pipeline.own_scale(image.pixels), resize))[None]

    @cached_property
    def _posts(self) -> Posts:
        return Posts(self.model, self.method.geometry.range)

    @cached_property
    def _data(self) -> object:
        data = data_of(self.run, self.model.data, type(self.method))
        data.intensity.update(self.intensity)
        return data

    def _finished(self, images: Tensor, letter: str, made_from: Tensor | list[str]) -> Tensor:
        """Apply the recipe's post-steps to images; the training images that these may need are read
        at first use.
        """
        if not self._posts.steps:
            return images
        examples = Examples(lambda: self._data, letter, self.runtime.device, made_from)
        return self._posts(images.to(self.runtime.device), examples)

    def sample(
        self, n: int, seed: int = 0, label: str | None = None, post: bool = True
    ) -> np.ndarray:
        """Generate `n` native images from noise, (n, C, *size), the same for the same seed;
        `label`: their class.
        """
        classes = self.method.geometry.classes
        if label is not None and label not in classes:
            what = f"this run knows no class '{label}'"
            raise UserError(
                what, where="--label", allowed=classes or "none: it was trained without labels"
            )
        if label is None:
            labels = None
        else:
            labels = torch.full((n,), classes.index(label), device=self.runtime.device)
        with torch.no_grad(), self.runtime.autocast():
            images = self.method.sample(n, seed, labels).float()
        if self.method.conditional and classes:
            made_of = [label or classes[i % len(classes)] for i in range(n)]
        else:
            made_of = []
        images = self._finished(images, "image", made_of) if post else images
        reach = self.model.data.neighbours
        shown = images.chunk(2 * reach + 1, dim=1)[reach].cpu().numpy()
        return np.asarray(self.intensity["image"].inverse(shown), dtype=np.float32)

    def sample_to(self, out: Path, n: int, seed: int, label: str | None, post: bool) -> list[Path]:
        """Write `n` images from noise into the folder `out`; returns the paths written.

        Pictures are PNG of 8 or 16 bits, cut at black, if whole numbers can hold the training
        images' range; else, as volumes, NIfTI with decimals. `labels.csv` lists the class of each
        file, if the method knows classes.
        """
        if n < 1:
            raise UserError(f"n = {n} is no number of images", where="-n", allowed="1 or more")
        if out.exists() and not out.is_dir():
            raise UserError(f"'{out}' is a file", where="--out", remedy="name a folder")
        if out.is_dir() and any(out.glob("sample-*")):
            raise UserError(
                f"'{out}' holds samples already",
                where="--out",
                remedy="name another folder, or empty it",
            )
        images = self.sample(n, seed, label, post)
        mapping = self.intensity["image"]
        flat = np.ones((images.shape[1], *[1] * (images.ndim - 2)), dtype=np.float32)
        low, high = (np.asarray(mapping.inverse(flat * end)) for end in mapping.range)
        bits, largest = (8, 255) if high.max() <= 255 else (16, 65535)
        colours = (1, 3) if bits == 8 else (1,)
        whole = low.min() >= -0.01 * high.max() and 64 <= high.max() <= largest
        png = images.ndim == 4 and images.shape[1] in colours and whole
        out.mkdir(parents=True, exist_ok=True)
        paths = [out / f"sample-{number:04d}{'.png' if png else '.nii.gz'}" for number in range(n)]
        for path, pixels in zip(paths, images, strict=True):
            if png:
                write(
                    path, Image(np.clip(np.rint(pixels), 0, largest), dtype=np.dtype(f"uint{bits}"))
                )
            else:
                write(path, Image(pixels, affine=np.eye(4), dtype=np.dtype(np.float32)))
        classes = self.method.geometry.classes
        if classes and self.method.conditional:
            rows = [(path.name, label or classes[i % len(classes)]) for i, path in enumerate(paths)]
            write_file(out / "labels.csv", csv_text(("file", "label"), rows).encode())
        return paths
