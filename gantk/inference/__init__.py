"""Inference: a trained model applied to native images of any size, to single files and to folders."""
