"""`gantk new KIND NAME`: writes a small package with a new part, whose tests pass
as written.
"""
