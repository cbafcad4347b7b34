"""Data sources: which files are which image of which domain and patient."""
