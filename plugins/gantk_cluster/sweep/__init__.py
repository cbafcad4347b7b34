"""Hyperparameter search: `gantk sweep` trains a recipe with many settings, as trials of Ray Tune."""
