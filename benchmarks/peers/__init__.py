"""Times training steps of other toolkits, with their own classes, in turns with gantk's on the same
batches.
"""
