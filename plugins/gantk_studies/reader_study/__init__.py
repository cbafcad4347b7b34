"""Reader studies: blinded pages that ask which images are real, scores of the answers, and weights
for a training.
"""
