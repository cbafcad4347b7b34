"""A recipe's images, read in this order: sources/, preparation, split/, resample, intensity,
dataset, batches.
"""
