"""An exported model at work: `gantk translate model.onnx IN OUT` with onnxruntime alone, without torch."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gantk.data.intensity import PerChannel
from gantk.errors import UserError
from gantk.formats.image import Image
from gantk.inference.pipeline import PLAIN, Frame, Look, Pipeline, Progress
from gantk.plugin.loader import registry

KEY = "gantk"  # the one entry of the model's metadata: JSON that says all that a network alone does not
FORMAT = 1  # raised when an older gantk could no longer read what this one writes
INPUT, OUTPUT = "image", "translated"
NEEDS = {
    "translation": {"method", "direction", "frame", "contrasts", "intensity", "window", "overlap", "statistics", "free",
                    "trained"},
    "samples": {"method", "latent", "intensity", "trained"},
}  # fmt: skip
WHOLE = 2**21  # pixels (128 x 128 x 128) of an image that goes through at once where the network takes any size
EXTRA = 'pip install "gantk[onnx]"'


@dataclass
class OnnxModel:
    """One direction of a trained model in a .onnx file that `gantk export` wrote."""

    session: Any  # onnxruntime's
    meta: dict[str, Any]  # what the file says beside the network: `gantk.exports.exporting.Direction.state`, and more

    @classmethod
    def load(cls, path: Path) -> OnnxModel:
        """From a file; UserError where it is missing, damaged, not gantk's, or newer than this gantk."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"there is no file '{path}'", remedy="name a file that `gantk export` wrote")
        session = open_session(path)
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            what = f"'{path}' is an ONNX model, but not one that gantk exported: it says nothing of intensities"
            raise UserError(what, remedy="export it with `gantk export RUN --format onnx`")
        meta = _checked(text, path)
        if meta["kind"] != "translation":
            raise UserError(f"'{path}' makes images from noise and translates none", remedy="name a model that does")
        return cls(session, meta)

    def domain(self, name: str | None) -> str:
        """The letter of the one domain that the file makes; UserError where another is asked for."""
        letter, made = self.meta["direction"][-1], self.meta["frame"]["target"]
        if name is not None and name.lower() not in (made.lower(), letter):
            remedy = f"export the other direction: gantk export RUN --to {name}"
            raise UserError(f"this file cannot produce '{name}'", where="--to", allowed=made, remedy=remedy)
        return letter

    def contrasts(self, letter: str) -> list[str]:
        """The contrasts of a domain, one channel each."""
        return list(self.meta["contrasts"]["target" if letter == self.domain(None) else "source"])

    def frame(self, letter: str) -> Frame:
        """What the network sees, in plain values."""
        return Frame.from_state(self.meta["frame"])

    def identity(self) -> dict[str, str]:
        """What says whether two translations are by the same weights."""
        return {"name": f"{self.meta['method']}, ONNX", "sha256": self.meta["trained"]["sha256"]}

    def translate(
        self, pixels: np.ndarray, to: str | None = None, look: Look = PLAIN, progress: Progress | None = None
    ) -> np.ndarray:
        """Native images (N, C, *spatial) in, native images out, as `Translator.translate` does it."""
        pipeline = self.pipeline(self.domain(to), look)
        return pipeline.stack(pixels, pipeline.source, progress)[0]

    def images(
        self, image: Image, to: str | None = None, look: Look = PLAIN, progress: Progress | None = None
    ) -> list[Image]:
        """One file's image translated, on its grid."""
        pipeline = self.pipeline(self.domain(to), look)
        pipeline.check_channels(image)
        return pipeline.images(image, look.planes, progress)

    def image(self, image: Image, to: str | None = None) -> Image:
        """One file's image translated, on the same grid."""
        return self.images(image, to)[0]

    def pipeline(self, letter: str, look: Look = PLAIN) -> Pipeline:
        """The whole way from a native image to a translated one; UserError where more than one answer is wanted."""
        asked = {"--variants": look.variants, "--style": look.example, "--uncertainty": look.uncertainty}
        for option, value in asked.items():
            if value is not None:
                what = "an exported model gives one answer to an image"
                raise UserError(what, where=option, remedy="use the run folder that it was exported from")
        states = self.meta["intensity"]
        source, target = mapping_from(states["source"]), mapping_from(states["target"])
        return Pipeline(self.frame(letter), source, target, self.run)

    def run(self, images: np.ndarray) -> np.ndarray:
        """(N, C, *size) float32 in network intensities to (N, D, *size).

        Where the network takes any size, images of at most WHOLE pixels go through at once, brought to a size that it
        takes by reflection. Others go by overlapping windows, each of which is normalised by itself.
        """
        window, size, sizes = tuple(self.meta["window"]), images.shape[2:], self.meta["free"]["sizes"]
        if size == window:
            return self._forward(images)
        if sizes and self.meta["statistics"] == "image" and np.prod(size) <= WHOLE:
            step, least = sizes["multiple"], sizes["smallest"]
            framed, inside = padded(images, tuple(-(-max(side, least) // step) * step for side in size))
            return self._forward(framed)[(..., *inside)]
        framed, inside = padded(images, tuple(map(max, size, window)))
        return by_windows(framed, window, self.meta["overlap"], self._forward)[(..., *inside)]

    def _forward(self, images: np.ndarray) -> np.ndarray:
        return call(self.session, images, one_by_one=not self.meta["free"]["batch"])


def open_session(model: Path | bytes) -> Any:
    """onnxruntime on the CPU with a file or its bytes; UserError where it is not installed or cannot read them."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime is needed to run an exported model, and not installed", remedy=EXTRA) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdigit() else 0  # 0: as many as there are cores
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an exception of its own for each kind of damage
        name = "the model" if isinstance(model, bytes) else f"'{model}'"
        detail = str(error).strip().splitlines()[0][:160]
        raise UserError(f"{name} is not a readable ONNX model: {detail}", remedy="export or copy it again") from None


def call(session: Any, *inputs: np.ndarray, one_by_one: bool = False) -> np.ndarray:
    """What the network in a session answers to a batch."""
    names = [each.name for each in session.get_inputs()]
    whole = len(inputs[0])
    step = 1 if one_by_one else whole
    parts = []
    for first in range(0, whole, step):
        given = {name: np.ascontiguousarray(x[first : first + step]) for name, x in zip(names, inputs, strict=True)}
        parts.append(session.run(None, given)[0])
    return np.concatenate(parts)


def mapping_from(state: dict[str, Any]) -> Any:
    """The intensity mapping that a file describes, of one contrast or of several; UserError where it is unknown."""

    def line(each: dict[str, Any]) -> Any:
        return registry().get("intensity", each["name"]).load().from_state(each)

    return PerChannel.from_state(state, line) if "contrasts" in state else line(state)


def padded(images: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Images (N, C, *size) in the middle of a larger size, and where they lie in it.

    What is added is the image's reflection, or its border where it is too small to be reflected.
    """
    inside = []
    for axis, (side, full) in enumerate(zip(images.shape[2:], size, strict=True), 2):
        before, after = (full - side) // 2, full - side - (full - side) // 2
        widths = [(before, after) if k == axis else (0, 0) for k in range(images.ndim)]
        if full > side:
            images = np.pad(images, widths, mode="reflect" if after < side else "edge")
        inside.append(slice(before, before + side))
    return images, tuple(inside)


def by_windows(
    images: np.ndarray, window: tuple[int, ...], overlap: float, function: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """`function` over overlapping windows of images (N, C, *size), none smaller, put together by a weighted mean.

    A window counts most at its middle: a Gaussian of a quarter of its side.
    """
    size = images.shape[2:]
    weight = np.ones((), dtype=np.float32)
    for side in window:
        places = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
        weight = weight[..., None] * np.exp(-0.5 * (places / 0.25) ** 2)
    weight, total, weights = np.maximum(weight, 1e-3), None, np.zeros(size, dtype=np.float32)
    along = []
    for side, part in zip(size, window, strict=True):
        count = 1 + -(-(side - part) // max(1, int(part * (1 - overlap))))
        along.append([round(i * (side - part) / max(1, count - 1)) for i in range(count)])
    for corner in itertools.product(*along):
        box = tuple(slice(start, start + part) for start, part in zip(corner, window, strict=True))
        done = function(np.ascontiguousarray(images[(..., *box)]))
        total = np.zeros((*done.shape[:2], *size), dtype=np.float32) if total is None else total
        total[(..., *box)] += done * weight
        weights[box] += weight
    return total / weights


def _checked(text: str, path: Path) -> dict[str, Any]:
    damaged = UserError(f"what '{path}' says of itself is damaged", remedy="export or copy it again")
    try:
        meta = json.loads(text)
        newest = int(meta["format"])
    except (ValueError, KeyError, TypeError):
        raise damaged from None
    if newest > FORMAT:
        what = f"'{path}' has format {newest}, and this gantk reads up to {FORMAT}"
        raise UserError(what, remedy="upgrade gantk: pip install --upgrade gantk")
    if meta.get("kind") not in NEEDS or NEEDS[meta["kind"]] - meta.keys():
        raise damaged
    if meta["kind"] == "translation":
        try:
            Frame.from_state(meta["frame"])
        except TypeError:
            raise damaged from None
    return meta
