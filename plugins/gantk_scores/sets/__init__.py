"""Metrics of sets of images beside KID: FID, precision, recall, density, coverage, diversity;
and MS-SSIM.
"""
