"""Evaluation: start with evaluate (`Scorer`); pair_scores and sets compute scores, intervals and
verdict weigh them.
"""
