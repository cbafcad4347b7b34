"""Parts of `benchmarks/gpu_suite.py`: times gantk's training steps on a GPU and the peak rates of
that GPU.
"""
