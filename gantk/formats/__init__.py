"""The bytes of image files to and from `Image`: NIfTI, pictures, and plugins' formats."""
