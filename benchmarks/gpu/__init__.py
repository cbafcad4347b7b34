"""What gantk's training step costs on a GPU, beside what that GPU can do: the parts of `benchmarks/gpu_suite.py`."""
