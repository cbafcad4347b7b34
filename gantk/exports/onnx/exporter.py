"""The exporter "onnx": writes a model and all its settings to one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import UserError, importing
from gantk.exports.onnx.model import OnnxModel, call, open_session
from gantk.files import write_output


class Onnx:
    """Writes one .onnx file; `gantk translate model.onnx IN OUT` runs its network by onnxruntime."""

    def check(self, out: Path) -> None:
        """Raise UserError if a package is missing or `out` is no .onnx file, before the model is
        loaded.
        """
        with importing("the export to ONNX", "onnx"):
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401

        if out.suffix.lower() != ".onnx" or out.is_dir():
            raise UserError(
                f"'{out.name}' is not the name of an .onnx file",
                where="--out",
                remedy="name a file such as t2.onnx",
            )

    def write(self, direction: Any, out: Path, say: Callable[[str], None]) -> Path:
        """Write the most general graph that exports and whose outputs equal PyTorch's to `out`;
        returns `out`.
        """
        from gantk.exports.onnx.graph import checked_file

        content, parity, accepts = checked_file(direction)
        say(f"parity   ONNX against PyTorch: {parity}")
        say(f"accepts  {accepts}")
        write_output(out, content)
        say(f"written  {out} ({len(content) / 2**20:.1f} MiB)")
        return out

    def load(self, path: Path) -> OnnxModel:
        """Load an exported file as a model that translates."""
        return OnnxModel.load(path)

    def network(
        self, path: Path
    ) -> tuple[list[list[int | str]], Callable[[np.ndarray], np.ndarray]]:
        """The input shapes of any ONNX file, and a function from its only input to its first
        output.
        """
        session = open_session(path)
        inputs = session.get_inputs()
        kind = np.float16 if inputs[0].type == "tensor(float16)" else np.float32
        single = isinstance(inputs[0].shape[0], int)
        return [list(each.shape) for each in inputs], lambda x: call(
            session, x.astype(kind), one_by_one=single
        )
