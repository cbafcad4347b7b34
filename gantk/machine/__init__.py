"""The machine: start with runtime; device, memory, energy, threads, and the ranks of one training."""
