"""How pixels become what a network sees, and results become pixels again: plane and spacing, size,
intensities, detail.

Read first: module (`Prepare`, in torch: training, files, arrays, gradients and exported networks
use it), then grid (plane and spacing of volumes, and the grid of another volume).
Imports nothing of data, inference, metrics or training.
"""
