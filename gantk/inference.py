"""A trained model at work on files: what was read is brought to what the networks see, translated, and put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gantk import checkpoint
from gantk.data.batches import prepare
from gantk.data.fit import Fit
from gantk.data.image import Image
from gantk.data.io import READABLE, is_image, list_images, read, suffix_of, write
from gantk.data.prepared import intensity_from
from gantk.errors import GantkError, UserError
from gantk.method import Method
from gantk.runfolder import RunFolder
from gantk.runtime import Runtime, start
from gantk.tables import Model
from gantk.training import build_method, split_weights


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
        method = build_method(model, meta["channels"], runtime)
        live, average = split_weights(weights)
        checkpoint.load_into(method, live | average, str(saved))
        method.eval().requires_grad_(False)
        return cls(model, method, intensity_from(model.data, meta["intensity"]), runtime)

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

    def translate(self, pixels: np.ndarray, to: str | None = None) -> np.ndarray:
        """Native images in, native images out.

        `pixels` is float (N, C, *spatial) in the source domain's intensities, with as many spatial axes as the networks
        have; the result has the same sizes, in the target domain's intensities. An image without any content (one
        value throughout) becomes the target's background.
        """
        letter = self.domain(to)
        source = self.intensity["a" if letter == "b" else "b"]
        return self._translate(pixels, letter, source)

    def image(self, image: Image, to: str | None = None) -> Image:
        """One file's image, on the same grid. A volume goes through 2-D networks by axial slices, in batches."""
        letter = self.domain(to)
        dims = self.model.data.dims
        if dims > image.dims:
            raise UserError(f"'{image.path}' is a picture, and this run translates volumes", where="INPUT")
        self._check_channels(image, "a" if letter == "b" else "b")
        source = self._source_intensity(image, "a" if letter == "b" else "b")
        by_slice = dims < image.dims
        stack = np.moveaxis(image.pixels, 1, 0) if by_slice else image.pixels[None]
        done = self._translate(stack, letter, source)
        return replace(image, pixels=np.moveaxis(done, 0, 1) if by_slice else done[0])

    def _translate(self, pixels: np.ndarray, letter: str, source) -> np.ndarray:
        data = self.model.data
        fit = Fit(pixels.shape[2:], data.size, data.fit)
        target = self.intensity[letter]
        size = self.model.translate.batch
        parts = []
        for first in range(0, len(pixels), size):
            natives = pixels[first : first + size]
            batch = torch.stack([prepare(native, source, data.size, data.fit) for native in natives])
            outputs = self._forward(batch, letter)
            for native, output in zip(natives, outputs, strict=True):
                empty = float(native.min()) == float(native.max())
                output = np.full_like(output, self.low) if empty else output
                parts.append(fit.inverse(np.asarray(target.inverse(output), dtype=np.float32)))
        return np.stack(parts)

    @property
    def low(self) -> float:
        """The network intensity of background."""
        return float(next(iter(self.intensity.values())).range[0])

    @torch.no_grad()
    def _forward(self, batch: Tensor, letter: str) -> np.ndarray:
        batch = self.runtime.place(batch, self.model.data.dims)
        with self.runtime.autocast():
            return self.method.translate(batch, letter).float().cpu().numpy()

    def _check_channels(self, image: Image, letter: str) -> None:
        expected = self.method.geometry.channels[letter]
        if image.channels != expected:
            what = f"'{image.path}' has {image.channels} channels, and this run was trained on {expected}"
            raise UserError(what, where="INPUT", remedy="convert it, or train on images like it")

    def _source_intensity(self, image: Image, letter: str):
        """The mapping for a file: the one fitted in training where the file's values are on that scale, else its own.

        MR has no units: another scanner's T1 may run to 4,000 where the training set's ran to 255. Where the file's
        99.5th percentile is below half or above twice the training set's, the mapping is fitted to the file.
        """
        fitted = self.intensity[letter]
        expected = np.asarray(fitted.inverse(np.asarray([fitted.range[1]], dtype=np.float32)))[0]
        top = float(np.percentile(image.pixels, 99.5))
        if expected > 0 and 0.5 <= top / expected <= 2.0:
            return fitted
        own = self.model.data.intensity()
        own.fit([image.pixels])
        return own


def translate_path(
    model: Translator, source: Path, target: Path, to: str | None, say: Callable[[str], None]
) -> list[Path]:
    """A file to a file, or a folder to a folder; one broken file of a folder does not stop the others."""
    model.domain(to)
    if source.is_dir():
        return _translate_folder(model, source, target, to, say)
    if not source.exists():
        raise UserError(f"there is no file or folder '{source}'", where="INPUT", remedy="check the path")
    if not is_image(source):
        raise UserError(f"'{source.name}' is not an image that gantk reads", where="INPUT", allowed=READABLE)
    if target.is_dir() or not target.suffix:
        target = target / source.name
    if target.exists() and target.samefile(source):
        raise UserError("OUTPUT is INPUT itself", where=str(target), remedy="name another file")
    if not is_image(target):
        raise UserError(f"'{target.name}' has no suffix that gantk writes", where="OUTPUT", allowed=suffix_of(source))
    if _is_nifti(source) != _is_nifti(target):
        raise UserError(f"'{source.name}' cannot become '{target.name}'", where="OUTPUT", allowed=suffix_of(source))
    result = model.image(read(source), to)
    target.parent.mkdir(parents=True, exist_ok=True)
    write(target, result)
    say(f"written  {target}")
    return [target]


def _translate_folder(model, source: Path, target: Path, to: str | None, say: Callable[[str], None]) -> list[Path]:
    files = list_images(source, recursive=True)
    if not files:
        raise UserError(f"no images in the folder '{source}'", where="INPUT", allowed=READABLE)
    if target.exists() and not target.is_dir():
        raise UserError(f"'{target}' is a file", where="OUTPUT", remedy="INPUT is a folder, so name a folder")
    if target.resolve() == source.resolve():
        raise UserError("OUTPUT is INPUT itself", where=str(target), remedy="name another folder")
    written, broken = [], []
    for file in files:
        out = target / file.relative_to(source)
        try:
            result = model.image(read(file), to)
            out.parent.mkdir(parents=True, exist_ok=True)
            write(out, result)
            written.append(out)
        except UserError as error:
            broken.append(f"{file}: {error}")
    say(f"written  {len(written)} files to {target}")
    if broken:
        raise GantkError(f"{len(broken)} of {len(files)} files could not be translated:\n  " + "\n  ".join(broken))
    return written


def _is_nifti(path: Path) -> bool:
    return suffix_of(path) in (".nii", ".nii.gz")
