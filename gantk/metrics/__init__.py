"""Evaluation: scores, their intervals, and what they say about a model.

Read first: evaluate (`Scorer`); pair_scores and sets compute scores (pair_scores also baselines, which
a model has to beat), intervals and verdict weigh them, names says them; samples is what a training
shows.
Imports nothing of report or training.
"""
