"""SPADE (Park et al. 2019): generates images from label maps."""
