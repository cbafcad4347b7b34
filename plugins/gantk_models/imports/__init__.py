"""Checkpoints of other programs as packed models: `gantk import`. First read `folder`."""
