"""Translates with a .onnx file that `gantk export` wrote, by onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gantk.data.intensity import mapping_from
from gantk.errors import UserError, importing, one_line, reading_file
from gantk.exports.onnx.metadata import Metadata, read_metadata
from gantk.files import MAX_TENSORS_BYTES, open_file
from gantk.inference.frame import TranslateOptions
from gantk.inference.model import Model
from gantk.inference.pipeline import Pipeline
from gantk.inference.windows import AnySize
from gantk.machine.memory import UPPER_BOUND_BYTES_PER_VOXEL
from gantk.machine.usage import GIB, free_memory

KEY = "gantk"  # the entry of the file's metadata that holds gantk's settings as JSON
# 128 x 128 x 128; larger images are processed in windows even if the network takes any size
MAX_WHOLE_IMAGE_PIXELS = 2**21
REMEDY = "export or copy it again"


class OnnxModel(Model):
    """One direction of a trained model in a .onnx file that `gantk export` wrote.

    `meta` is the file's metadata, checked by `gantk.exports.onnx.metadata`. UserError where its intensity
    mappings are damaged.
    """

    checkpoint = Path()

    def __init__(self, network: Network, meta: Metadata, path: Path):
        self.meta = meta
        self._path = path
        self._onnx = network
        mappings = [mapping_from(state) for _, state in meta.intensity]
        self.pipelines = {meta.direction[-1]: Pipeline(meta.frame, *mappings)}
        # run on at most MAX_WHOLE_IMAGE_PIXELS pixels at once if it accepts any size
        self._network = AnySize(
            self._run,
            meta.window,
            meta.input_size[1],
            batch=meta.frame.batch,
            memory=MAX_WHOLE_IMAGE_PIXELS * UPPER_BOUND_BYTES_PER_VOXEL,
            overlap=meta.overlap,
        )
        self._network.known = {"sides": meta.free.sizes, "bytes": UPPER_BOUND_BYTES_PER_VOXEL}

    def __reduce__(self):
        return OnnxModel.load, (self._path,)

    @classmethod
    def load(cls, path: Path, device: str | None = None) -> OnnxModel:
        """Load a file; UserError where it is missing, damaged, not written by gantk, or newer than
        this gantk.
        """
        with importing("an .onnx model", "onnx"):
            import onnx
            import onnxruntime  # noqa: F401 - what is missing is told before a file is read

        with (
            reading_file(path, "an ONNX model", remedy=REMEDY),
            open_file(path, max_bytes=MAX_TENSORS_BYTES) as file,
        ):
            model = onnx.load_model(file, load_external_data=False)

        texts = [entry.value for entry in model.metadata_props if entry.key == KEY]
        if not texts:
            raise UserError(
                f"'{path}' is an ONNX model, but gantk did not export it: it lacks the"
                " intensity mapping",
                remedy="export it with `gantk export RUN --format onnx`",
            )

        with reading_file(path, "a model that gantk exported", remedy=REMEDY):
            meta = read_metadata(texts[0], path)
            return cls(Network(model, meta.input_size), meta, path)

    def classes(self) -> tuple[str, ...]:
        """None need be given: the file translates the class that was exported."""
        return ()

    def identity(self) -> dict[str, str]:
        """Name and weights' hash: two translations with equal hashes are by the same weights."""
        return {"name": f"{self.meta.method}, ONNX", "sha256": self.meta.trained.sha256}

    def network_of(self, letter: str, options: TranslateOptions) -> AnySize:
        """The network of any size; UserError where `options` needs several outputs per image."""
        if options.tails != [""] or options.example is not None:
            raise UserError(
                "an exported model gives only one result for each image, in its own style",
                where="--variants, --style or --uncertainty",
                remedy="use the run folder that the model was exported from",
            )

        if options.label not in (None, self.meta.label):
            raise UserError(
                f"this file cannot translate images of the class '{options.label}'",
                where="--label",
                allowed=self.meta.label or "no class",
                remedy=f"export that class: gantk export RUN --label {options.label}",
            )
        return self._network

    def _run(self, images: Tensor) -> Tensor:
        """Run the network on (N, C, *size) float32 in network intensities; returns (N, D, *size)."""
        made = self._onnx(images.detach().numpy(), one_by_one=not self.meta.free.batch)
        expected = (len(images), len(self.meta.frame.targets), *images.shape[2:])
        if made.shape[:1] + made.shape[2:] != images.shape[:1] + images.shape[2:]:
            raise UserError(
                f"the network in the .onnx file maps {list(images.shape)} to {list(made.shape)}",
                allowed=str(list(expected)),
                remedy=REMEDY,
            )
        return torch.from_numpy(made)


class Network:
    """The network of a .onnx file in onnxruntime, on the CPU: (N, C, *spatial) to (N, D, *spatial),
    float32.

    The file is checked before onnxruntime sees it (`gantk.exports.onnx.bounds`), and so is each new
    size of images. ValueError where it may not run on images of `size`, the first; UserError where
    onnxruntime is missing.
    """

    def __init__(self, model: Any, size: Sequence[int]):
        with importing("an .onnx model", "onnx"):
            import onnxruntime

            from gantk.exports.onnx import bounds

        self._model = model
        self._bounds = bounds
        self._sizes: set[tuple[int, ...]] = set()  # that are checked
        bounds.require_plain_graph(model)
        self._require_bounded_work(size)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        threads = os.environ.get("OMP_NUM_THREADS", "")
        # 0: one for each core
        options.intra_op_num_threads = int(threads) if threads.isdigit() else 0
        limit_memory(onnxruntime)
        options.add_session_config_entry("session.use_env_allocators", "1")
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, images: np.ndarray, *, one_by_one: bool = False) -> np.ndarray:
        """The first output of a batch; UserError where the network does not run on it."""
        name = self.session.get_inputs()[0].name
        step = 1 if one_by_one else len(images)
        parts = []
        for first in range(0, len(images), step):
            part = np.ascontiguousarray(images[first : first + step])
            try:
                self._require_bounded_work(part.shape)
                parts.append(self.session.run(None, {name: part})[0])
            # one type for each kind of damage, and one for lack of memory
            except Exception as error:
                said = str(error)  # it starts with a position in onnxruntime's source
                why = one_line(ValueError(said[max(0, said.rfind("Available memory")) :]))
                raise UserError(
                    f"the network in the .onnx file does not accept {list(images.shape)}: {why}",
                    remedy=REMEDY,
                ) from None

        return np.concatenate(parts)

    def _require_bounded_work(self, size: Sequence[int]) -> None:
        if tuple(size) not in self._sizes:
            self._bounds.require_bounded_work(self._model, size)
            self._sizes.add(tuple(size))


@cache
def limit_memory(onnxruntime: Any) -> None:
    """Limit the memory of networks' activations to half of the free memory, for all sessions of
    this process.
    """
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    use = onnxruntime.OrtMemType.DEFAULT
    # 1: grow as needed
    sizes = {"max_mem": round((free_memory() or 8) / 2 * GIB), "arena_extend_strategy": 1}
    place = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, use)
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg(sizes))
