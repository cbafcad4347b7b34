"""The report's section of test patients, worst first, and `gantk report`, which rewrites reports
and compares runs.
"""
