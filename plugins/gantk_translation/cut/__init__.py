"""CUT (Park et al. 2020)."""
