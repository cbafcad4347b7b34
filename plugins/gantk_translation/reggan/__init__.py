"""RegGAN (Kong et al. 2021): translation from pairs that do not lie on each
other.
"""
