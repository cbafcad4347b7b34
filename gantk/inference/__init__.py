"""Inference: translation (files, folders), pipeline (one image), translator (a run's networks),
tiles, windows.
"""
