"""The bytes of image files to and from `Image`: start with files and image; NIfTI, pictures,
plugins' formats.
"""
