"""Exports models to .onnx files and runs these: `gantk export RUN --out t2.onnx`, `gantk translate
t2.onnx IN OUT`.
"""
