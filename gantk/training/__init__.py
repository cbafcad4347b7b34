"""Training: the engine that takes steps, the loop around it, and what methods share (pools, averages, optimizers)."""
