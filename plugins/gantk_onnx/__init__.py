"""Trained models as .onnx files, and at work: `gantk export RUN --out t2.onnx`, `gantk translate t2.onnx IN OUT`."""

from gantk.plugin.hookspecs import hookimpl


@hookimpl
def gantk_register(add) -> None:
    """Offer the exporter."""
    add.exporter("onnx", "gantk_onnx.exporter:Onnx")
