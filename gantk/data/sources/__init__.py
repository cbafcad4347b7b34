"""Data sources: they find the domain, patient, pair and mask of each image file."""
