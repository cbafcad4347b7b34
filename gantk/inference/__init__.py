"""Trained models at work: translation of files, folders and arrays.

Read first: translation (files and folders, with the ledger), then translator (a run's networks),
pipeline (one image, through `gantk.prepare`) and tiles (an image larger than the network; windows
says where tiles lie, receptive_field what a network needs).
Imports nothing of metrics, report or training.
"""
