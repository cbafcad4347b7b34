"""Finds invented and lost structures: the metric `sfrc`, patches in the report."""
