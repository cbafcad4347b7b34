"""The bytes of image files to and from `Image`: pictures, NIfTI, NRRD, MetaImage, plugins' formats.

Read first: image (`Image`, `Scan`), then files (`read`, `scans`), which finds the format.
Imports nothing of data: a format knows no domain, patient or recipe.
"""
