"""Help for unpaired training: an order that shows slices of similar height together, and a loss of
the outline.
"""
