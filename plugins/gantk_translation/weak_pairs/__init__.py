"""A loss for unpaired training that finds weak pairs: the most similar images of the other domain,
in any contrast.
"""
