"""CT in Hounsfield units: intensity windows, a separate mapping for each domain, a loss, and errors
in HU.
"""
