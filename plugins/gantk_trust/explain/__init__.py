"""`gantk explain`: maps the input pixels that determine a region of a translation, with a check of
the map.
"""
