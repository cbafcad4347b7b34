"""`gantk plan`: writes a recipe for given scans, with the reason for every choice.

Read first: recipe (the lines that are written), then look (what is measured of the scans).
Imports nothing of the API or the command line.
"""
