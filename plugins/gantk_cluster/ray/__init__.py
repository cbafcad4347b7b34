"""Connects to Ray clusters, and runs the rows of `gantk bench` and the files of `gantk translate`
on their workers.
"""
