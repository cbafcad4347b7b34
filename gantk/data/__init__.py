"""Data: sources, splits, resampling, intensity mappings, augmentation and batches, and results back to native grids."""
