"""`Model`, a trained method in use: an image of one domain in, images of the same grid in another one
out. Exported files and ensembles are models that bring networks of their own.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gantk.catalog.contrasts import (
    contrast_names,
    known_contrast,
    only,
    possible_contrasts,
)
from gantk.data.intensity import IntensityMapping, mapping_from, network_range
from gantk.errors import UserError, argument
from gantk.formats.image import Image, Scan
from gantk.guest import as_guest
from gantk.inference.frame import DEFAULT_OPTIONS, FITS, Frame, Results, TranslateOptions
from gantk.inference.jobs import inputs_below, jobs_of_images
from gantk.inference.network import Network
from gantk.inference.notes import InputCheck, Note, check_input
from gantk.inference.objects import translate_object
from gantk.inference.pipeline import Pipeline
from gantk.inference.windows import AnySize, network_of_method
from gantk.machine.device import keep_memory
from gantk.machine.runtime import Runtime, start
from gantk.method import OTHER, Method
from gantk.prepare.module import Prepare, centre, middle_slice
from gantk.recipe.tables import CheckedRecipe
from gantk.runs.checkpoint import load_meta_of, weights_hash
from gantk.runs.folder import RunFolder
from gantk.runs.models import data_of, is_among, limits_of, trained_on
from gantk.runs.results import PostLosses
from gantk.runs.schemas import Packing
from gantk.runs.trained import Examples, Posts, load_method

if TYPE_CHECKING:
    from gantk.catalog.catalog import Row
    from gantk.data.dataset import Data


@dataclass(repr=False, eq=False)
class Model:
    """A trained method with its intensity mappings, on a device.

        t2 = gantk.load("runs/NAME").translate(t1)      # arrays, tensors, nibabel, files
        (image,) = gantk.load("runs/NAME")(image, "T2")  # an `Image`

    Another kind of model defines `pipelines`, `network_of` and `identity`, or `results`.
    """

    recipe: CheckedRecipe
    method: Method
    intensity: dict[str, IntensityMapping]  # by domain, fitted on the training split
    runtime: Runtime
    checkpoint: Path  # its folder; Path(): none
    # by domain, of the training images; empty in old runs
    values: dict[str, dict] = field(default_factory=dict)
    packed: Packing | None = None  # what `gantk pack` recorded
    data: Data | None = None  # of the run; None: read at first use
    # by target domain: what its network accepts and needs is measured once for many files
    _known: dict[str, dict] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, device: str | None = None) -> Model:
        """Load a run folder's chosen checkpoint, or one checkpoint's folder; averaged weights if
        there are any.
        """
        path = Path(path)
        is_checkpoint = (path / "meta.json").is_file()
        folder = RunFolder.open(path.parent.parent if is_checkpoint else path)
        saved = path if is_checkpoint else folder.inference_checkpoint()
        recipe = folder.recipe().check()
        train = recipe.train
        runtime = start(device, train.precision, train.fast.channels_last)
        if train.precision == "auto" and runtime.device.type == "cpu":
            # results must not depend on the processor: bf16 differs by up to 3 % of the range
            runtime = replace(runtime, precision="fp32")

        keep_memory(train.fast.keep_memory, runtime.device.type)
        try:
            meta = load_meta_of(recipe.method.name, saved)
            states = meta.intensity.items()
            intensity = {letter: mapping_from(state.dump()) for letter, state in states}
            method = load_method(recipe, saved, network_range(intensity.values()), runtime)
        except UserError:
            if is_checkpoint or saved == folder.inference_checkpoint():
                raise
            return cls.load(path, device)  # a training has saved a newer one and deleted this one
        values = {letter: each.dump() for letter, each in meta.values.items()}
        return cls(recipe, method, intensity, runtime, saved, values, meta.packed)

    def __repr__(self) -> str:
        """Name and directions, in one line."""
        directions = ["from noise"]
        with suppress(UserError):
            directions = [f"{each.source} -> {each.target}" for each in self.frames.values()]
        name = f" {self.run.path.name}" if self.run else ""
        return f"<{type(self).__name__}{name}: {', '.join(directions)}>"

    def __reduce__(self):
        # a copy of a network would keep what it has measured, bound to the first one's layers
        return Model.load, (self.checkpoint, str(self.runtime.device))

    # ---- what it translates

    @property
    def run(self) -> RunFolder | None:
        """The run folder, if it was loaded from one."""
        return None if self.checkpoint == Path() else RunFolder(self.checkpoint.parent.parent)

    @property
    def frames(self) -> dict[str, Frame]:
        """What the network sees of each direction."""
        return {letter: pipeline.frame for letter, pipeline in self.pipelines.items()}

    @cached_property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """Of each direction, by the letter of the target domain, the usual direction first; UserError
        for a method from noise.
        """
        directions = self.method.directions()
        if not directions:
            self.method.translate(torch.empty(0), "b")  # raises
        return {
            letter: Pipeline(
                self._frame(letter),
                self.intensity[OTHER[letter]],
                self.intensity[letter],
                post_steps=partial(self.apply_post_steps, letter) if self._posts.steps else None,
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

    def domain(self, name: str | None) -> str:
        """The letter of the target domain that a name, a contrast or a letter means; None: the usual
        one. UserError where the model does not make it.
        """
        frames = self.frames
        if name is None:
            return next(iter(frames))

        letters = {contrast: letter for letter in frames for contrast in frames[letter].targets}
        letters |= {frame.target: letter for letter, frame in frames.items()}
        called = {known.lower(): letter for known, letter in letters.items()}
        # a name wins over a letter: the first domain may be called B
        chosen = called.get(known_contrast(name, [*called]) or "", name.lower())
        if chosen not in frames:
            raise UserError(
                f"this model cannot generate '{name}'", where="--to", allowed=[*letters]
            )
        return chosen

    def domain_stated(
        self, images: Iterable[Image | Row], name: str
    ) -> tuple[str | None, list[Note]]:
        """The domain to make of images, by what their headers or names say that they show; and what is
        said of this choice.

        Another direction than the usual one is taken if all that state a contrast of the model state
        its source. Where none states any, a warning says which direction is taken; `name` is that of
        the images. None for a model of one direction.
        """
        targets = {frame.source: frame.target for frame in self.frames.values()}
        usual, *others = targets
        if not others:
            return None, []
        possible = [possible_contrasts(each.facts, each.path, targets) for each in images]
        stated = [each for each in possible if each != targets.keys()]
        source = only(frozenset().union(*stated), usual)
        target = targets[source]
        notes = []
        if source != usual:
            line = f"header or name say {source}, so the model makes {target}; `to` chooses another"
            notes.append(("note", line))
        elif not stated:
            line = (
                f"nothing says whether {name} shows {' or '.join(targets)}: taken for {usual}, and"
                f" {target} is made. If it shows {others[0]}: --to {argument(targets[others[0]])}"
            )
            notes.append(("warning", line))
        return target, notes

    def frame(self, to: str | None) -> Frame:
        """The direction to a domain; if `to` is one of its contrasts, with this one as target."""
        frame = self.frames[self.domain(to)]
        return replace(frame, target="+".join(frame.targets[frame.part(to)]))

    def classes(self) -> tuple[str, ...]:
        """The classes of a model whose images are made of a given class; () for other models."""
        return self.method.geometry.classes if self.method.conditional else ()

    def class_number(self, label: str) -> int:
        """The index of a class; UserError where the model does not know it."""
        known = self.classes()
        if label not in known:
            raise UserError(
                f"this run has no class '{label}'",
                where="--label",
                allowed=known or "no classes, because it was trained without labels",
            )
        return known.index(label)

    def method_of_class(self, label: str | None) -> Method:
        """The method, or its view of the class `label`.

        Raises:
            UserError: the model needs a class and `label` is None, or it has no such class.
        """
        known = self.classes()
        if label is None and known:
            raise UserError(
                "this model translates images of a given class, but no class is given",
                where="--label",
                allowed=known,
                remedy=f"add --label {known[-1]}",
            )
        return self.method if label is None else self.method.of_class(self.class_number(label))

    def identity(self) -> dict[str, str]:
        """A record that two translations share only if they used the same weights: name and SHA-256,
        and of a packed model its limits.
        """
        try:
            digest = weights_hash(self.checkpoint)
        except FileNotFoundError:  # deleted by a running training: no other translation can use it
            digest = secrets.token_hex()

        name = self.recipe.method.name
        if self.packed is None:
            return {"name": name, "sha256": digest}
        assert self.run is not None  # what is packed is a run
        limits = limits_of(self.run.path)
        return {"name": f"{self.packed.name} ({name})", "sha256": digest, "limits": limits}

    # ---- what is said about images

    def images_in(self, folder: Path, to: str | None = None) -> list[Scan]:
        """The images below a folder that a model of one contrast makes `to` from."""
        source = self.frames[self.domain(to)].source
        jobs = jobs_of_images(inputs_below(folder, folder, [source]), folder, source)
        return [job.scans[source] for job in jobs]

    def check(
        self, image: Image, to: str | None = None, contrast: str = ""
    ) -> tuple[Image, InputCheck]:
        """Compare an image with the training images of the domain that is translated to `to`, see
        `check_input`; `contrast` is its name where a patient has several.
        """
        trained_on = self.run_trained_on(image.facts.get("patient", ""), image.path)
        found = [check_input(image, each, contrast, trained_on) for each in self.checked_frames(to)]
        _, worst = max(found, key=lambda each: FITS.index(each[1].fits))
        return found[0][0], worst

    def checked_frames(self, to: str | None) -> list[Frame]:
        """The directions to a domain that an image has to fit: of an ensemble those of all models."""
        return [self.frame(to)]

    def run_trained_on(self, patient: str, file: Path | None) -> str:
        """The name of the run that was trained on a patient, as far as this name or a file of the
        patient say; "" for others, and for models that do not list their training images.
        """
        is_known = is_among(self._training_ids, patient, file)
        return self.run.path.resolve().name if self.run and is_known else ""

    @cached_property
    def _training_ids(self) -> set[str]:
        """The patients of the run's training images, and the SHA-256 of their files; of a packed model
        the latter only.
        """
        if self.run is not None:
            with suppress(UserError):  # split.json is damaged, and no translation needs it
                return trained_on(self.run.path, self.packed)
        return set()

    # ---- images in, images out

    @partial(as_guest, keeps_grad=True)
    def translate(
        self,
        images: Any,
        to: str | None = None,
        options: TranslateOptions = DEFAULT_OPTIONS,
        *,
        label: str | None = None,
    ) -> Any:
        """Images in, images of the same kind and grid out, in the target domain's intensities,
        never clipped.

            t2 = gantk.load("runs/NAME").translate(t1)      # arrays give arrays, tensors tensors,
            nibabel nibabel

        Args:
            images: in the intensities of the files that were trained on, one of

                * an array or a tensor of one scan. To a 2-D model (H, W) is an image, (D, H, W) a
                  volume; to a 3-D model (D, H, W) is a volume. To a model of several channels (C, H,
                  W), or (C, D, H, W), is one image. Floats keep their type, whole numbers become
                  float32; tensors stay on their device. A tensor that requires gradients gets them,
                  which needs the memory of a training step.
                * an image of nibabel or torchio: float32 on the same grid and affine.
                * a path (a file, or a folder of one DICOM series) or an `Image` of
                  gantk.formats.image: an `Image`, which `gantk.formats.files.write(path, image)`
                  writes.
                * a list of these: a list of results.
                * a dict of the contrasts of one patient, {"T1": image, "T2": image}: the result of the
                  contrast that `to` names, or a dict of results. Arrays are (H, W), or (D, H, W) for a
                  volume. Images on other grids are resampled by their headers onto
                  the grid of the first of the model's contrasts.
            to: the domain to make, by its name, or one of its contrasts; None: the recipe's second
              domain, or the first for an image whose header or name states the second, with a
              warning where these state none; for a dict the contrasts that are missing, if the
              model makes any from others.
            options: options of the result; several results are a list.
            label: the class of the images, for a model that was trained with classes.

        An array whose values are off the training set's scale gets a scale of its own, as files do.
        Arrays of uint8, of values from -1 to 1, and pictures have no units: if they are off that
        scale, results are on the scale of the input, where the target's white becomes its white.
        NaN throughout a channel is a contrast that is missing. UserError where shape, channels,
        type or values do not fit, or a class is missing or unknown.
        """
        if label is not None:
            options = replace(options, label=label)
        return translate_object(self, images, to, options)

    def __call__(
        self, image: Image, to: str | None = None, options: TranslateOptions = DEFAULT_OPTIONS
    ) -> list[Image]:
        """Translate one image; returns one image on its grid, or one for each variant, or the image
        and its uncertainty.
        """
        made, own_scale, _ = self.results(image, to, options)
        return [replace(image, pixels=each.numpy(), own_scale=own_scale) for each in made]

    def results(
        self,
        image: Image,
        to: str | None,
        options: TranslateOptions,
        pixels: Tensor | None = None,
    ) -> Results:
        """What `__call__` makes, as tensors. `pixels`: those of an array, where gradients are to reach
        them.
        """
        letter = self.domain(to)
        frame = self.frames[letter]
        part = frame.part(to)
        if len(frame.targets[part]) < len(frame.targets):
            options = replace(options, contrasts=tuple(frame.targets[part]))
        network = self.network_of(letter, options)
        pipeline = self.pipelines[letter]
        made, own_scale = pipeline.results(image, network, options.variants or 1, pixels)
        notes = []
        if frame.fit == "crop" and isinstance(network, AnySize) and pixels is None:
            sides = pipeline.grid_of(image).sides(image.pixels.shape[1:], image.spacing)
            window = network.window(sides[-frame.dims :])
            if window != network.padded(sides[-frame.dims :]):
                line = (
                    f"translated in windows of {' x '.join(map(str, window))} pixels, each with its"
                    " own norms: grays may differ between windows, and from those of a translation"
                    " in one piece. Raise translate.memory in the run's recipe.toml if there is"
                    " more memory"
                )
                notes.append(("warning", line))
        return Results([each[part] for each in made], own_scale, notes)

    def network_of(self, letter: str, options: TranslateOptions) -> AnySize:
        """The network of any size that makes the results of `options`, without the recipe's
        post-steps; UserError where the model cannot do what they ask for.
        """
        if options.uncertainty:
            raise UserError(
                "an uncertainty map is the spread of an ensemble, but RUN names one model",
                where="--uncertainty",
                remedy="name several runs: gantk translate RUN1,RUN2 IN OUT --uncertainty",
            )
        method = self.method_of_class(options.label)
        if options.contrasts:
            method = method.of_contrasts(options.contrasts)
        example = None
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

        count = options.variants or 1
        network = network_of_method(translate, method, letter, self.recipe, self.runtime, count)
        network.known = self._known.setdefault(letter, network.known)
        return network

    def _example(self, image: Image, letter: str) -> Tensor:
        """A style image as network input, (1, C, *size); of a volume the middle slice."""
        data = self.recipe.data
        planes = 2 * data.neighbours + 1
        frame = self.frames[letter]
        channels = self.method.geometry.channels[letter] // planes
        frame = replace(frame, source=frame.target, channels=channels)
        pipeline = Pipeline(frame, self.intensity[letter], self.intensity[letter])
        pipeline.check_channels(image, "--style")
        stack = pipeline.stack_of(image)
        middle = np.concatenate(stack[[len(stack) // 2] * planes])
        prepare = pipeline.preparation(pipeline.own_scale(image.pixels))
        seen = prepare(torch.from_numpy(middle)[None])
        # with fit = "crop" it may have any size
        return centre(seen, list(data.size), seen.flatten(2).amin(dim=2))

    # ---- its parts for other programs

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
        letter = self.letter_of(source, to)
        shape = self.method.geometry.channels[OTHER[letter]], *self.method.geometry.size
        return Network(self.method_of_class(label), letter, torch.zeros(1, *shape))

    def prepare(self, source: str, to: str) -> Prepare:
        """What images of `source` pass before the network that makes `to`; `restore` is the inverse.
        Both are modules of PyTorch with gradients, see `network`.

        Intensities are mapped as those of the training images. `translate` maps a scan that is off
        their scale by its own values.
        """
        pipeline = self.pipelines[self.letter_of(source, to)]
        return pipeline.preparation(pipeline.source)

    def letter_of(self, source: str, to: str) -> str:
        """The letter of `to`, which is made from the domain `source`."""
        letter = self.domain(to)
        expected = self.frames[letter].source
        if source.lower() != expected.lower():
            raise UserError(f"'{to}' is not made from '{source}'", allowed=[expected])
        return letter

    # ---- images from noise, and post-steps

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
            shown = self.apply_post_steps("image", shown, self.classes_of_samples(n, label))
        return np.asarray(self.intensity["image"].inverse(shown.cpu().numpy()), dtype=np.float32)

    def classes_of_samples(self, n: int, label: str | None) -> list[str]:
        """The class of each of `n` samples: the one asked for, else one after the other; [] where
        the method knows none.
        """
        classes = self.classes()
        return [label or classes[number % len(classes)] for number in range(n)] if classes else []

    def apply_post_steps(
        self, letter: str, images: Tensor, made_from: Tensor | list[str]
    ) -> Tensor:
        """Apply the recipe's post-steps to images without neighbouring slices; the training images
        that these may need are read at first use.
        """
        reach = self.recipe.data.neighbours
        device = self.runtime.device
        examples = Examples(lambda: self.training_data, letter, device, made_from, neighbours=reach)
        return self._posts(images.to(device), examples).to(images.device)

    @cached_property
    def _posts(self) -> Posts:
        return Posts(self.recipe, self.method.geometry.range)

    @cached_property
    def training_data(self) -> Data:
        """The images of its run in their recorded split, with the intensities of this model.

        Raises:
            UserError: they are gone, or are other images than those of a packed model.
        """
        if self.data is not None:
            return self.data
        assert self.run is not None  # an exported file has no post-steps
        data = data_of(self.run, self.recipe.data, type(self.method))
        data.intensity.update(self.intensity)
        return data

    def post_records(self) -> list[PostLosses]:
        """What the post-steps measured in their last call."""
        return self._posts.records()
