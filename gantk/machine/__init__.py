"""The machine: start with runtime; device, memory, threads, and the ranks of one training."""
