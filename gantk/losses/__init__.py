"""The losses that training minimises: adversarial, reconstruction, structure, edges, SSIM.

Read first: adversarial and reconstruction; each loss is a function or a small registered class.
Imports nothing of data or methods: a loss sees only tensors.
"""
