"""Trained models as files for other programs: ONNX and MONAI bundles, checked against PyTorch before they are left."""
