"""Tests whether a noise-to-image model copies its training images: metric `memorisation`, and a
report section.
"""
