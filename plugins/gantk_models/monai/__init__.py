"""Trained models as MONAI bundles: `gantk export RUN --format monai --out FOLDER`."""
