"""Losses: pure functions of images, logits and features that training minimises."""
