"""Hyperparameter search: `gantk sweep` trains a recipe with many settings by Ray Tune."""
