"""How pixels become what a network sees, and results become pixels again: size, intensities, detail.

Read first: module (`Prepare`, in torch: training, files, arrays, gradients and exported networks
use it).
Imports nothing of inference, metrics or training.
"""
