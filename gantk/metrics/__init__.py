"""How a trained model is judged: scores with their definitions, the baselines to beat, and how sure the numbers are."""
