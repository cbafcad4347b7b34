"""Paired tests over patients, corrected for multiple comparisons."""
