"""Evaluation: scores, their intervals, and what they say about a model.

Read first: evaluate (`Scorer`); pair_scores and sets compute scores, intervals and verdict weigh
them, baselines are what a model has to beat.
Imports nothing of report or training.
"""
