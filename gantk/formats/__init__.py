"""The bytes of image files to and from `Image`: NIfTI, NRRD and MetaImage, pictures, and plugins' formats."""
