"""The run folder: its file names, its checkpoints, and the trained method read back out of it."""
