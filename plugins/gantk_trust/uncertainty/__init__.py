"""Uncertainty maps of translations: `gantk translate RUN IN OUT --uncertainty auto`."""
