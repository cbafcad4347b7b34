"""ProGAN (Karras et al. 2018)."""
