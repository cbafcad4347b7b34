"""`gantk study`: readers say which of two images is real; their answers are scored, and weight the
images of a next training. Read `new` first.
"""
