"""MUNIT (Huang et al. 2018)."""
