"""A trained run: translates images in the units of the files, samples from noise, and applies the
recipe's post-steps.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.catalog.contrasts import contrast_names
from gantk.catalog.tables import csv_text
from gantk.data.intensity import IntensityMapping, mapping_from, network_range
from gantk.errors import UserError
from gantk.files import expect_replaceable, make_folder, sha256_of, write_output
from gantk.formats.files import write
from gantk.formats.image import Image
from gantk.guest import as_guest
from gantk.inference.frame import Frame, TranslateOptions
from gantk.inference.model import TrainedModel, load_same
from gantk.inference.network import Network
from gantk.inference.pipeline import Pipeline
from gantk.inference.scales import value_range
from gantk.inference.windows import AnySize, network_of_method
from gantk.machine.device import keep_memory
from gantk.machine.runtime import Runtime, start
from gantk.method import OTHER, Method
from gantk.nets.blocks import fold_for_inference
from gantk.prepare.module import Prepare, centre, middle_slice
from gantk.recipe.tables import CheckedRecipe
from gantk.runs.checkpoint import load_meta_of, weights_hash
from gantk.runs.folder import RunFolder
from gantk.runs.models import data_of, limits_of, trained_on
from gantk.runs.results import PostLosses
from gantk.runs.schemas import Packing
from gantk.runs.trained import Examples, Posts, load_method

SAMPLE_KINDS = ("png", "tif", "nii.gz")  # files of samples
MAX_OF_BYTE = 255
MIN_BYTE_WHITE = 64  # the least highest value of training images of 8 bits: others are few levels
TRIES = 5  # to read the newest checkpoint, which a running training may replace meanwhile


@dataclass(repr=False, eq=False)
class Translator(TrainedModel):
    """A trained method with its intensity mappings, on a device."""

    recipe: CheckedRecipe
    method: Method
    intensity: dict[str, IntensityMapping]  # by domain, fitted on the training split
    runtime: Runtime
    checkpoint: Path
    # by domain, of the training images; empty in old runs
    values: dict[str, dict] = field(default_factory=dict)
    packed: Packing | None = None  # what `gantk pack` recorded
    # the run's Data, for post-steps; None: read at first use
    data: Any = field(default=None, repr=False)
    # by target domain the first network: what it accepts and needs is measured once for many files
    _measured: dict[str, AnySize] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        data = self.recipe.data
        end = f"on {self.runtime.device}, '{self.checkpoint}'"
        return (
            f"Translator({self.recipe.method.name}, {' and '.join(data.domains)},"
            f" {tuple(data.size)}, {end})"
        )

    def __reduce__(self):
        device = str(self.runtime.device)
        return load_same, (Translator.load, self.identity()["sha256"], self.checkpoint, device)

    @property
    def run(self) -> RunFolder:
        """The run folder of the checkpoint."""
        return RunFolder(self.checkpoint.parent.parent)

    @classmethod
    def load(cls, path: Path, device: str | None = None) -> Translator:
        """Load a run folder's chosen checkpoint, or one checkpoint's folder; averaged weights if
        there are any.
        """
        path = Path(path)
        inside = (path / "meta.json").is_file()
        folder = RunFolder.open(path.parent.parent if inside else path)
        model = folder.recipe().check()
        precision = model.train.precision
        runtime = start(device, precision, model.train.fast.channels_last)
        if precision == "auto" and runtime.device.type == "cpu":
            # results must not depend on the processor: bf16 differs by up to 3 % of the range
            runtime = replace(runtime, precision="fp32")

        keep_memory(model.train.fast.keep_memory, runtime.device.type)
        for left in reversed(range(TRIES)):
            saved = path if inside else folder.inference_checkpoint()
            try:
                meta = load_meta_of(model.method.name, saved)
                intensity = {
                    letter: mapping_from(state.dump()) for letter, state in meta.intensity.items()
                }
                black_and_white = network_range(intensity.values())
                method = load_method(model, saved, black_and_white, runtime)
                break
            except UserError:
                # else a running training has replaced it: try the newer one
                if inside or saved.is_dir() or not left:
                    raise

        values = {letter: each.dump() for letter, each in meta.values.items()}
        return cls(model, method, intensity, runtime, saved, values, meta.packed)

    def run_trained_on(self, image: Image) -> str:
        known = self._training_ids
        path = image.path
        is_known = image.facts.get("patient", "") in known
        if known and not is_known and path is not None and path.is_file():
            is_known = sha256_of(path) in known
        return self.run.path.resolve().name if is_known else ""

    @cached_property
    def _training_ids(self) -> set[str]:
        """The patients of the run's training images, and the SHA-256 of their files; of a packed model
        the latter only.
        """
        with suppress(UserError):  # split.json is damaged, and no translation needs it
            return trained_on(self.run.path, self.packed)
        return set()

    def identity(self) -> dict[str, str]:
        """A record that two translations share only if they used the same weights."""
        try:
            digest = weights_hash(self.checkpoint)
        except FileNotFoundError:  # deleted by a running training: no other translation can use it
            digest = secrets.token_hex()

        name = self.recipe.method.name
        if self.packed is None:
            return {"name": name, "sha256": digest}

        return {
            "name": f"{self.packed.name} ({name})",
            "sha256": digest,
            "limits": limits_of(self.run.path),
        }

    def classes(self) -> tuple[str, ...]:
        """The classes of a conditional method; () for other methods."""
        return self.method.geometry.classes if self.method.conditional else ()

    def method_of_class(self, label: str | None) -> Method:
        """The method, or its view of the class `label`; UserError as `class_to_translate`."""
        number = self.class_to_translate(label)
        return self.method if number is None else self.method.of_class(number)

    @cached_property
    def pipelines(self) -> dict[str, Pipeline]:  # type: ignore[override]
        """Of each direction; UserError for a method from noise."""
        directions = self.method.directions()
        if not directions:
            self.method.translate(torch.empty(0), "b")  # raises
        mappings = self.intensity
        return {
            letter: Pipeline(
                self._frame(letter),
                mappings[OTHER[letter]],
                mappings[letter],
                post_steps=partial(self._apply_post_steps, letter) if self._posts.steps else None,
                whole=self._posts.whole,
            )
            for letter in directions
        }

    def _frame(self, letter: str) -> Frame:
        data = self.recipe.data
        table = self.recipe.translate
        source, target = data.domains[0], data.domains[-1]
        if letter != "b":
            source, target = target, source

        # each contrast is made from the others
        targets = contrast_names(target)
        shared = set(contrast_names(source)) & set(targets)
        completes = self.method.hides and len(targets) > 1 and bool(shared)
        values = {}
        if self.values:
            values = {"source": self.values[OTHER[letter]], "target": self.values[letter]}

        return Frame(
            source=source,
            target=target,
            dims=data.dims,
            size=tuple(data.size),
            channels=self.method.geometry.channels[OTHER[letter]] // (2 * data.neighbours + 1),
            range=self.method.geometry.range,
            fit=data.fit,
            neighbours=data.neighbours,
            plane=data.plane,
            spacing=data.spacing,
            missing=data.missing,
            batch=table.batch,
            # a contrast is matched with its own channel, which may hold the truth
            detail="none" if completes else table.detail,
            masked=table.masked,
            stripped=table.stripped,
            values=values,
            completes=completes,
        )

    def network_of(self, letter: str, options: TranslateOptions) -> AnySize:
        """The network of any size that makes the results of `options`, without the recipe's
        post-steps.
        """
        if options.uncertainty:
            what = "an uncertainty map is the spread of an ensemble, but RUN names one model"
            remedy = "name several runs: gantk translate RUN1,RUN2 IN OUT --uncertainty"
            raise UserError(what, where="--uncertainty", remedy=remedy)
        measured = self._measured.get(letter)
        if measured is None and self.runtime.device.type == "cpu":
            fold_for_inference(self.method)
        method = self.method_of_class(options.label)
        if options.contrasts:
            method = method.of_contrasts(options.contrasts)
        example: Tensor | None = None
        if options.example is not None:
            style = self._example(options.example, letter)
            example = self.runtime.place(style, self.recipe.data.dims)

        def translate(x: Tensor) -> Tensor:
            if options.variants is not None:
                variants = method.variants(x, letter, options.variants, options.seed)
                return variants.movedim(0, 1).flatten(1, 2)
            if example is not None:
                return method.translate_like(x, letter, example.expand(len(x), *example.shape[1:]))
            return method.translate(x, letter)

        network = network_of_method(translate, method, letter, self.recipe, self.runtime, measured)
        self._measured.setdefault(letter, network)
        return network

    def network(self, source: str, to: str, *, label: str | None = None) -> Network:
        """The network that makes images of one domain from another, as a module of PyTorch.

        Example:

            network = model.network("T1", "T2")
            prepare = model.prepare("T1", "T2")
            seen = prepare(t1)                              # (N, C, H, W) in the units of the files
            t2 = prepare.restore(network(seen), t1, seen)

        Args:
            source: the name of the domain of the inputs.
            to: the name of the domain to make.
            label: the class of the images, for a model that was trained with classes.

        Returns:
            A float32 copy on the CPU in evaluation mode, whose weights need no gradients until
            `requires_grad_()`. It takes (N, C, *size) and returns (N, D, *size), in network
            intensities; sides must suit the network. Post-steps of the recipe are not part of it.

        Raises:
            UserError: the model has no such direction, or needs a class.
        """
        letter = self._direction(source, to)
        shape = self.method.geometry.channels[OTHER[letter]], *self.method.geometry.size
        return Network(self.method_of_class(label), letter, torch.zeros(1, *shape))

    def prepare(self, source: str, to: str) -> Prepare:
        """What images of `source` pass before the network that makes `to`; `restore` is the inverse.
        Both are modules of PyTorch with gradients, see `network`.

        Intensities are mapped as those of the training images. `translate` maps a scan that is off
        their scale by its own values.
        """
        pipeline = self.pipelines[self._direction(source, to)]
        return pipeline.preparation(pipeline.source)

    def _direction(self, source: str, to: str) -> str:
        """The letter of `to`, which is made from the domain `source`."""
        letter = self.domain(to)
        expected = self.frames[letter].source
        if source.lower() != expected.lower():
            raise UserError(f"'{to}' is not made from '{source}'", allowed=[expected])
        return letter

    def _example(self, image: Image, letter: str) -> Tensor:
        """A style image as network input, (1, C, *size); of a volume the middle slice."""
        # from the style's domain
        own = self.intensity[letter]
        data = self.recipe.data
        planes = 2 * data.neighbours + 1
        frame = self.frames[letter]
        channels = self.method.geometry.channels[letter] // planes
        frame = replace(frame, source=frame.target, channels=channels)
        pipeline = Pipeline(frame, own, own)
        pipeline.check_channels(image, "--style")
        stack = pipeline.stack_of(image)
        middle = np.concatenate(stack[[len(stack) // 2] * planes])
        prepare = pipeline.preparation(pipeline.own_scale(image.pixels))
        seen = prepare(torch.from_numpy(middle)[None])
        # with fit = "crop" it may have any size
        return centre(seen, list(data.size), seen.flatten(2).amin(dim=2))

    @cached_property
    def _posts(self) -> Posts:
        return Posts(self.recipe, self.method.geometry.range)

    @cached_property
    def _data(self) -> object:
        if self.data is not None:
            return self.data
        data = data_of(self.run, self.recipe.data, type(self.method))
        data.intensity.update(self.intensity)
        return data

    def post_records(self) -> list[PostLosses]:
        """What the post-steps measured in their last call."""
        return self._posts.records()

    def _apply_post_steps(
        self, letter: str, images: Tensor, made_from: Tensor | list[str]
    ) -> Tensor:
        """Apply the recipe's post-steps to images without neighbouring slices; the training images
        that these may need are read at first use.
        """
        reach = self.recipe.data.neighbours
        device = self.runtime.device
        examples = Examples(lambda: self._data, letter, device, made_from, neighbours=reach)
        return self._posts(images.to(device), examples).to(images.device)

    @as_guest
    def sample(
        self, n: int, seed: int = 0, label: str | None = None, post: bool = True
    ) -> np.ndarray:
        """Generate `n` native images from noise, (n, C, *size), the same for the same seed;
        `label`: their class.
        """
        labels = None
        if label is not None:
            labels = torch.full((n,), self.class_number(label), device=self.runtime.device)

        with torch.no_grad(), self.runtime.autocast():
            images = self.method.sample(n, seed, labels).float()

        shown = middle_slice(images, self.recipe.data.neighbours)
        if post and self._posts.steps:
            shown = self._apply_post_steps("image", shown, self._classes_of_samples(n, label))
        return np.asarray(self.intensity["image"].inverse(shown.cpu().numpy()), dtype=np.float32)

    def _classes_of_samples(self, n: int, label: str | None) -> list[str]:
        """The class of each of `n` samples: the one asked for, else one after the other; [] where
        the method knows none.
        """
        classes = self.classes()
        if not classes:
            return []
        return [label or classes[i % len(classes)] for i in range(n)]

    def sample_to(
        self,
        out: Path,
        n: int,
        seed: int,
        label: str | None,
        post: bool,
        *,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write `n` images from noise into the folder `out`; returns the paths written.

        Pictures are PNG if the training images were bytes, else TIFF with decimals; volumes are
        NIfTI. `labels.csv` lists the class of each file, if the method knows classes, and
        `post.json` what the post-steps measured. All replace those of an earlier call.
        """
        if n < 1:
            raise UserError(f"the number of images cannot be {n}", where="-n", allowed="1 or more")
        if out.is_file():
            raise UserError(f"'{out}' is a file", where="--out", remedy="name a folder")
        earlier = [path for kind in SAMPLE_KINDS for path in out.glob(f"sample-[0-9]*.{kind}")]
        lists = [out / "labels.csv", out / "post.json"]
        expect_replaceable([*earlier, *lists], overwrite, "--out")
        images = self.sample(n, seed, label, post)
        suffix = "nii.gz"
        if images.ndim == 4:
            suffix = "png" if images.shape[1] == 3 or self._has_bytes() else "tif"
        make_folder(out)
        for path in earlier:
            path.unlink()
        paths = []
        for number, pixels in enumerate(images):
            paths.append(out / f"sample-{number:04d}.{suffix}")
            write(paths[-1], _as_sample(pixels, suffix), overwrite=overwrite)

        classes = self._classes_of_samples(n, label)
        if classes:
            rows = [(path.name, name) for path, name in zip(paths, classes, strict=True)]
            write_output(lists[0], csv_text(("file", "label"), rows).encode())
        measured = [record.dump() for record in self._posts.records()] if post else []
        if measured:
            write_output(lists[1], json.dumps(measured, indent=1).encode())
        return paths

    def _has_bytes(self) -> bool:
        """Whether the training images were pictures of 8 bits."""
        low, high, whole = value_range(self.intensity["image"], self.values.get("image"))
        return whole and low >= 0 and MIN_BYTE_WHITE <= high <= MAX_OF_BYTE


def _as_sample(pixels: np.ndarray, suffix: str) -> Image:
    """Generated pixels (C, *spatial) as the image of a file of this kind."""
    if suffix == "png":
        levels = np.clip(np.rint(pixels), 0, MAX_OF_BYTE)
        return Image(levels, dtype=np.dtype(np.uint8))
    return Image(pixels, affine=np.eye(4) if suffix == "nii.gz" else None)
