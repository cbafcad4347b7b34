"""A data source that misaligns registered pairs, to measure how much a method loses by that, and
the metric nmi.
"""
