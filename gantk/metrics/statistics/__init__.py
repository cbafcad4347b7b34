"""Paired tests over patients, corrected for multiple comparisons; ranks of several systems; scores
of subgroups.
"""
