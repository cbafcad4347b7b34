"""What a trained run, an exported file and an ensemble have in common: `translate`, for arrays and
images, and what is known of each direction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk.catalog.contrasts import known_contrast
from gantk.errors import UserError
from gantk.formats.image import Image, Scan
from gantk.guest import as_guest
from gantk.inference.frame import DEFAULT_OPTIONS, Frame, TranslateOptions
from gantk.inference.jobs import inputs_below, jobs_of_images
from gantk.inference.notes import InputCheck, Note, check_input
from gantk.inference.objects import translate_object
from gantk.inference.pipeline import Network, Pipeline
from gantk.inference.windows import AnySize

if TYPE_CHECKING:
    from torch import Tensor

    from gantk.runs.folder import RunFolder


class TrainedModel:
    """What a run's model, an exported file and an ensemble have in common. They define:

    pipelines: of each direction, by the letter of the target domain, the usual direction first.
    network_of: `network_of(letter, options)`, the function that a pipeline applies; UserError where
        the model cannot do what the options ask for.
    identity: a record that only models of the same weights share.
    """

    pipelines: Mapping[str, Pipeline]
    network_of: Callable[[str, TranslateOptions], Network]
    identity: Callable[[], dict[str, str]]
    # (n, seed, label) of a run that makes images from noise: (n, C, *size)
    sample: Callable[..., np.ndarray]
    sample_to: Callable[..., list[Path]]  # the same, written to files
    kind = "run"  # what it was loaded from, for messages
    for_other_directions: str | None = None  # what to do where it lacks one
    # what to do where an image is too large for it
    for_large_images = "Raise translate.memory in the run's recipe.toml if there is more memory"

    @property
    def run(self) -> RunFolder | None:
        """The run folder, if it was loaded from one."""
        return None

    @cached_property
    def frames(self) -> dict[str, Frame]:
        """What the network sees of each direction."""
        return {letter: pipeline.frame for letter, pipeline in self.pipelines.items()}

    def domain(self, name: str | None) -> str:
        """The letter of the target domain that a name, a contrast or a letter means; None: the usual
        one. UserError where the model does not make it.
        """
        if name is None:
            return next(iter(self.frames))

        letters: dict[str, str] = {}
        allowed: list[str] = []
        for letter, frame in self.frames.items():
            letters |= {contrast.lower(): letter for contrast in frame.targets}
            allowed += [*frame.targets, frame.target]
        letters |= {frame.target.lower(): letter for letter, frame in self.frames.items()}

        # a name wins over a letter: the first domain may be called B
        chosen = letters.get(known_contrast(name, [*letters]) or "", name.lower())
        if chosen not in self.frames:
            what = f"this {self.kind} cannot generate '{name}'"
            raise UserError(
                what,
                where="--to",
                allowed=list(dict.fromkeys(allowed)),
                remedy=self.for_other_directions,
            )
        return chosen

    def check(
        self, image: Image, to: str | None = None, contrast: str = ""
    ) -> tuple[Image, InputCheck]:
        """Compare an image with the training images of the domain that is translated to `to`, see
        `check_input`; `contrast` is its name where a patient has several.
        """
        frame = self.frames[self.domain(to)]
        frame = replace(frame, target="+".join(frame.targets[frame.part(to)]))
        return check_input(image, frame, contrast, self.run_trained_on(image))

    def images_in(self, folder: Path, to: str | None = None) -> list[Scan]:
        """The images below a folder that a model of one contrast makes `to` from."""
        source = self.frames[self.domain(to)].source
        jobs = jobs_of_images(inputs_below(folder, folder, [source]), folder, source)
        return [job.scans[source] for job in jobs]

    def run_trained_on(self, image: Image) -> str:
        """The name of the run that was trained on the patient of an image, as far as its file or its
        header say; "" for others, and for models that do not list their training images.
        """
        return ""

    def notes_on_results(
        self, image: Image, letter: str, options: TranslateOptions = DEFAULT_OPTIONS
    ) -> list[Note]:
        """What is to be said of the results of an image, beside what `check_result` sees: that it was
        translated in windows.
        """
        network = self.network_of(letter, options)
        frame = self.frames[letter]
        if frame.fit != "crop" or not isinstance(network, AnySize):
            return []
        grid = self.pipelines[letter].grid_of(image)
        shown = grid.sides(image.pixels.shape[1:], image.spacing)[-frame.dims :]
        window = network.window(shown)
        if window == network.padded(shown):
            return []
        size = " x ".join(map(str, window))
        line = (
            f"translated in windows of {size} pixels, each with its own norms: grays may differ"
            f" between windows, and from those of a translation in one piece. {self.for_large_images}"
        )
        return [("warning", line)]

    def classes(self) -> tuple[str, ...]:
        """The classes of a model whose images are made of a given class; () for other models."""
        return ()

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

    def class_to_translate(self, label: str | None) -> int | None:
        """The index of the class that a translation is asked for; None for a model without classes.

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
        return None if label is None else self.class_number(label)

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
              domain, or for a dict the contrasts that are missing, if the model makes any from others.
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

    def results(
        self,
        image: Image,
        to: str | None,
        options: TranslateOptions,
        pixels: Tensor | None = None,
    ) -> tuple[list[Tensor], bool]:
        """The results of one image as tensors (D, *spatial), see `__call__`, and whether they are on
        a scale of their own.
        """
        letter = self.domain(to)
        frame = self.frames[letter]
        part = frame.part(to)
        if len(frame.targets[part]) < len(frame.targets):
            options = replace(options, contrasts=tuple(frame.targets[part]))
        network = self.network_of(letter, options)
        count = options.variants or 1
        made, own = self.pipelines[letter].results(image, network, count, pixels)
        return [each[part] for each in made], own

    def __call__(
        self,
        image: Image,
        to: str | None = None,
        options: TranslateOptions = DEFAULT_OPTIONS,
        pixels: Tensor | None = None,
    ) -> list[Image]:
        """Translate one image; returns one image on its grid, or one for each variant, or the image
        and its uncertainty. `pixels`: those of an array, where gradients are to reach them; results
        then hold tensors.
        """
        made, own_scale = self.results(image, to, options, pixels)
        values: list[Any] = [each.numpy() if pixels is None else each for each in made]
        return [replace(image, pixels=each, own_scale=own_scale) for each in values]


def load_same(load: Callable[..., TrainedModel], sha256: str, *where: Any) -> TrainedModel:
    """`load(*where)`, which is how a copied or unpickled model is made. Its network cannot be copied:
    what it has measured is bound to the layers of the first model.

    Raises:
        UserError: the weights are gone, or others than those with this digest.
    """
    model = load(*where)
    if model.identity()["sha256"] != sha256:
        what = f"the weights of '{where[0]}' have changed since the model was pickled or copied"
        raise UserError(what, remedy="load it again with gantk.load")
    return model
