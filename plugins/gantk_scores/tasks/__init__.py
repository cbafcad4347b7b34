"""Metrics and a baseline that train small networks in seconds, to measure what generated images are
good for.
"""
