"""A model that `gantk export` wrote as .onnx: translates with onnxruntime and numpy alone, without torch."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import UserError
from gantk.inference.pipeline import PLAIN, Frame, Look, Pipeline, TrainedModel, mapping_from
from gantk.inference.windows import by_windows, padded

KEY = "gantk"  # the one entry of the model's metadata: JSON that says all that a network alone does not
FORMAT = 1  # raised when an older gantk could no longer read what this one writes
INPUT, OUTPUT = "image", "translated"
NEEDED = {"translation": {"method", "direction", "frame", "contrasts", "intensity", "window", "overlap", "statistics",
                          "free", "trained"},
          "samples": {"method", "latent", "intensity", "trained"}}  # fmt: skip
WHOLE = 2**21  # pixels (128 x 128 x 128) of an image that goes through at once where the network takes any size
EXTRA = 'pip install "gantk[onnx]"'


@dataclass
class OnnxModel(TrainedModel):
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

    def pipeline(self, letter: str, look: Look = PLAIN) -> Pipeline:
        """The whole way from a native image to a translated one; UserError where more than one answer is wanted."""
        asked = {"--variants": look.variants, "--style": look.example, "--uncertainty": look.uncertainty}
        for option in (option for option, value in asked.items() if value is not None):
            what = "an exported model gives one answer to an image"
            raise UserError(what, where=option, remedy="use the run folder that it was exported from")
        states = self.meta["intensity"]
        return Pipeline(self.frame(letter), mapping_from(states["source"]), mapping_from(states["target"]), self.run)

    def sample_to(self, *options: Any) -> list[Any]:
        """No images from noise: UserError."""
        raise UserError("an exported model makes no images from noise here", remedy="name the run folder")

    def run(self, images: np.ndarray) -> np.ndarray:
        """(N, C, *size) float32 in network intensities to (N, D, *size).

        Where the network takes any size, images of at most WHOLE pixels go through at once, brought to a size that it
        takes by reflection. Others go by overlapping windows, each of which is normalised by itself.
        """
        window, size, sizes = tuple(self.meta["window"]), images.shape[2:], self.meta["free"]["sizes"]
        if sizes and size != window and self.meta["statistics"] == "image" and np.prod(size) <= WHOLE:
            step, least = sizes["multiple"], sizes["smallest"]
            window = tuple(-(-max(side, least) // step) * step for side in size)
        framed, inside = padded(images, tuple(map(max, size, window)))
        return by_windows(framed, window, self.meta["overlap"], self._forward, len(images))[(..., *inside)]

    def _forward(self, images: np.ndarray) -> np.ndarray:
        return call(self.session, images, one_by_one=not self.meta["free"]["batch"])


def open_session(model: Path | bytes) -> Any:
    """An onnxruntime session on the CPU; UserError where onnxruntime is missing or the model damaged."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError("onnxruntime is needed for .onnx models, and it is not installed", remedy=EXTRA) from None
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
    names, count = [each.name for each in session.get_inputs()], len(inputs[0])
    step, parts = 1 if one_by_one else count, []
    for first in range(0, count, step):
        given = {name: np.ascontiguousarray(x[first : first + step]) for name, x in zip(names, inputs, strict=True)}
        parts.append(session.run(None, given)[0])
    return np.concatenate(parts)


def _checked(text: str, path: Path) -> dict[str, Any]:
    """The file's metadata; UserError where it is damaged or of a newer format."""
    try:
        meta = json.loads(text)
        newest = int(meta["format"])
        if newest > FORMAT:
            what = f"'{path}' has format {newest}, and this gantk reads up to {FORMAT}"
            raise UserError(what, remedy="upgrade gantk: pip install --upgrade gantk")
        missing = NEEDED[meta["kind"]] - meta.keys()
        if missing:
            raise KeyError(missing)
        if meta["kind"] == "translation":
            Frame.from_state(meta["frame"])
    except (ValueError, KeyError, TypeError):
        what = f"what '{path}' says of itself is damaged"
        raise UserError(what, remedy="export or copy it again") from None
    return meta
