"""Trained models at work: translation of files, folders and arrays.

Read first: model (what all models have in common), pipeline (one image, through `gantk.prepare`) with
scales (its intensities) and windows (an image of any size), then translator (a run's networks),
objects (arrays, tensors, images of libraries) and translation (files and folders).
Imports nothing of metrics, report or training.
"""
