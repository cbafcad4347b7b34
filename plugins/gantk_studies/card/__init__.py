"""`gantk card`: a model card by the items of CLAIM and TRIPOD+AI, filled from the run; open items
are listed.
"""
