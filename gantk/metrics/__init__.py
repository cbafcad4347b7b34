"""Evaluation of trained models: scores with their definitions, baselines, confidence intervals and verdicts."""
