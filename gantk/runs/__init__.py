"""The run folder: its files, checkpoints, and the methods loaded from them.

Read first: folder (`RunFolder`), then checkpoint and trained; schemas and results hold what JSON
files contain.
Imports nothing of inference, metrics or training, which write and read runs through it.
"""
