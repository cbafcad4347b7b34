"""What training costs: time and memory predicted before it, steps traced during it, what was used after it."""
