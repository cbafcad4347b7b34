"""Trained models at work: translation of files, folders and arrays.

Read first: translation (files and folders, with the ledger), then translator (a run's networks),
pipeline (one image, through `gantk.prepare`), tiles (a network that wraps a network) and windows
(overlapping tiles, blended).
Imports nothing of metrics, report or training.
"""
