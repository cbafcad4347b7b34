"""One network for translations between any registered contrasts (T1, T2, FLAIR, PD, ...), as a
gantk plugin.
"""
