"""`gantk data check`: describes images and finds problems in them before a
training.
"""
