"""A loss on features of a frozen network, a loss weighted to the body, and a segmenter that
provides features.
"""
