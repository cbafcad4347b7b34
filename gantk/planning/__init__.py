"""`gantk plan`: writes a recipe for given scans, with the reason for every
choice.
"""
