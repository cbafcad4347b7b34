"""Variational autoencoders (Kingma & Welling 2014) and VAE-GANs (Larsen et al. 2016) as a gantk
plugin.
"""
