"""The run folder: its file names, its checkpoints, and loading a trained method from it."""
