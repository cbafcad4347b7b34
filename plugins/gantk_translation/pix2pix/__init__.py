"""Pix2Pix (Isola et al. 2017) and a plain regression as its baseline."""
