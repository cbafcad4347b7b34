"""Evaluation: scores, their intervals, and what they say about a model.

Read first: table (a line for each image and score), then evaluate (`Scorer`); pair_scores and sets
compute scores, baselines is what a model has to beat, intervals, verdict and comparing weigh them,
names, rows and summary say them; validation is what a training shows and scores.
Imports nothing of report or training.
"""
