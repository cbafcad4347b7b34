"""Learned features for comparing sets of images: Inception as published, networks of timm, ONNX
files.
"""
