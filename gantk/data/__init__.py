"""A recipe's images, from files to batches.

Read first: dataset (`Data`); it uses sources/ (which files are what), preparation, split/ and
intensity; batches reads ahead. `gantk.catalog` holds the rules for names, check/ is `gantk data
check`.
Imports nothing of runs or training: they pass in what to read and how.
"""
