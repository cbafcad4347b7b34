"""Exports models to .onnx files and runs these: `gantk export RUN --out t2.onnx`, `gantk translate
t2.onnx IN OUT`.
"""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Register the exporter onnx."""
    add.exporter("onnx", "gantk_onnx.exporter:Onnx")
