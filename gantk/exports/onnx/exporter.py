"""The exporter "onnx": writes a model and all its settings to one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantk.errors import UserError, importing
from gantk.exports.onnx.model import OnnxModel
from gantk.files import write_output
from gantk.guest import Say


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

    def write(self, direction: Any, out: Path, say: Say) -> Path:
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
