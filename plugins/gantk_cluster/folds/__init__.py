"""`gantk run RECIPE --folds K`: k-fold cross-validation in one command."""
