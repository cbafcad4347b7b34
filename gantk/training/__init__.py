"""Training: from a checked recipe to checkpoints.

Read first: loop (`Training.fit`: the steps and what is due between them), then engine (one step) and
assemble (builds data, method, optimizers). optim holds optimizers and schedules of the learning
rate, two_way what methods of two directions share, accelerate/ what makes a step faster.
Imports nothing of planning, the API or the command line.
"""
