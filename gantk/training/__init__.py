"""Training: from a checked recipe to checkpoints.

Read first: loop (`Training.fit`: the steps and what is due between them), then engine (one step) and
assemble (builds data, method, optimizers); two_way is shared by methods of two directions.
Imports nothing of planning, the API or the command line.
"""
