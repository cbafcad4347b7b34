"""Which files there are, whose they are and what they show: one table, made once.

Read `catalog.py` first (`Row`, `Catalog`), then `layouts.py`, the only place that reads names of
files and folders. Does not open pixels, and imports no source, split or recipe.
"""
