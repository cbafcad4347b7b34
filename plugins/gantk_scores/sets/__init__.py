"""Metrics of sets of images beside KID: FID, FRD, precision, recall, density, coverage, diversity;
and MS-SSIM.
"""
