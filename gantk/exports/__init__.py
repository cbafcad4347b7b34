"""What all exporters of trained models share, and the export to ONNX.

Read first: exporting, then onnx/.
Imports nothing of training.
"""
