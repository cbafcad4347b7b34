"""A model that `gantk export` wrote as .onnx: translates with onnxruntime and numpy alone, without torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from gantk.data.intensity import mapping_from
from gantk.errors import UserError, told
from gantk.inference.pipeline import PLAIN, Frame, Look, Pipeline, TrainedModel
from gantk.inference.windows import by_windows, padded

KEY = "gantk"  # the one entry of the model's metadata: JSON that says all that a network alone does not
FORMAT = 1  # raised when an older gantk could no longer read what this one writes
WHOLE = 2**21  # pixels (128 x 128 x 128) of an image that goes through at once where the network takes any size
EXTRA = 'pip install "gantk[onnx]"'


class OnnxModel(TrainedModel):
    """One direction of a trained model in a .onnx file that `gantk export` wrote.

    `session` is onnxruntime's, `meta` what the file says beside the network: `gantk_onnx.graph.state`, and more.
    UserError where that is damaged, or newer than this gantk.
    """

    def __init__(self, session: Any, meta: dict[str, Any], path: Path):
        self.session, self.meta = session, meta
        try:
            if meta["format"] > FORMAT:
                what = f"'{path}' has format {meta['format']}, and this gantk reads up to {FORMAT}"
                raise UserError(what, remedy="upgrade gantk: pip install --upgrade gantk")
            if meta["kind"] != "translation":
                what = f"'{path}' makes images from noise and translates none"
                raise UserError(what, remedy="name a model that does")
            known = {key: value for key, value in meta["frame"].items() if key in Frame.__annotations__}
            frame = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
            self._frame, self._letter = Frame(**frame), meta["direction"][-1]
            self._mappings = [mapping_from(meta["intensity"][end]) for end in ("source", "target")]
            self._window, self._free = tuple(meta["window"]), meta["free"]
        except (KeyError, TypeError):
            what = f"what '{path}' says of itself is damaged"
            raise UserError(what, remedy="export or copy it again") from None

    @classmethod
    def load(cls, path: Path) -> OnnxModel:
        """From a file; UserError where it is missing, damaged, not gantk's, or newer than this gantk."""
        if not path.is_file():
            raise UserError(f"there is no file '{path}'", remedy="name a file that `gantk export` wrote")
        session = open_session(path)
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            what = f"'{path}' is an ONNX model, but not one that gantk exported: it says nothing of intensities"
            raise UserError(what, remedy="export it with `gantk export RUN --format onnx`")
        try:
            meta = json.loads(text)
        except ValueError:
            meta = {}
        return cls(session, meta, path)

    def domain(self, name: str | None) -> str:
        """The letter of the one domain that the file makes; UserError where another is asked for."""
        made = self._frame.target
        if name is not None and name.lower() not in (made.lower(), self._letter):
            remedy = f"export the other direction: gantk export RUN --to {name}"
            raise UserError(f"this file cannot produce '{name}'", where="--to", allowed=made, remedy=remedy)
        return self._letter

    def contrasts(self, letter: str) -> list[str]:
        """The contrasts of a domain, one channel each."""
        return list(self.meta["contrasts"]["target" if letter == self._letter else "source"])

    def frame(self, letter: str) -> Frame:
        """What the network sees, in plain values."""
        return self._frame

    def identity(self) -> dict[str, str]:
        """What says whether two translations are by the same weights."""
        return {"name": f"{self.meta['method']}, ONNX", "sha256": self.meta["trained"]["sha256"]}

    def pipeline(self, letter: str, look: Look = PLAIN) -> Pipeline:
        """The whole way from a native image to a translated one; UserError where more than one answer is wanted."""
        asked = {"--variants": look.variants, "--style": look.example, "--uncertainty": look.uncertainty}
        for option in (option for option, value in asked.items() if value is not None):
            what = "an exported model gives one answer to an image"
            raise UserError(what, where=option, remedy="use the run folder that it was exported from")
        return Pipeline(self._frame, *self._mappings, self.run)

    def sample_to(self, *options: Any) -> list[Any]:
        """No images from noise: UserError."""
        raise UserError("an exported model makes no images from noise here", remedy="name the run folder")

    def run(self, images: np.ndarray) -> np.ndarray:
        """(N, C, *size) float32 in network intensities to (N, D, *size).

        Where the network takes any size, images of at most WHOLE pixels go through at once, brought to a size that it
        takes by reflection. Others go by overlapping windows, each of which is normalised by itself.
        """
        window, size, sizes = self._window, images.shape[2:], self._free["sizes"]
        if sizes and size != window and self.meta["statistics"] == "image" and np.prod(size) <= WHOLE:
            step, least = sizes["multiple"], sizes["smallest"]
            window = tuple(-(-max(side, least) // step) * step for side in size)
        framed, inside = padded(images, tuple(map(max, size, window)))

        def forward(part: np.ndarray) -> np.ndarray:
            return call(self.session, part, one_by_one=not self._free["batch"])

        return by_windows(framed, window, self.meta["overlap"], forward, len(images))[(..., *inside)]


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
        what = f"{name} is not a readable ONNX model: {told(error)}"
        raise UserError(what, remedy="export or copy it again") from None


def call(session: Any, *inputs: np.ndarray, one_by_one: bool = False) -> np.ndarray:
    """What the network in a session answers to a batch."""
    names, count = [each.name for each in session.get_inputs()], len(inputs[0])
    step, parts = 1 if one_by_one else count, []
    for first in range(0, count, step):
        given = {name: np.ascontiguousarray(x[first : first + step]) for name, x in zip(names, inputs, strict=True)}
        parts.append(session.run(None, given)[0])
    return np.concatenate(parts)
