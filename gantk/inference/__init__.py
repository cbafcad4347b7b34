"""Trained models at work: translation of files, folders and arrays.

Read first: model, case (a patient), pipeline (one image, through `gantk.prepare`) with scales and
windows (an image of any size), then objects (arrays, tensors, images of libraries), translation
(files and folders) and samples (images from noise).
Imports nothing of metrics, report or training.
"""
