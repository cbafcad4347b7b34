"""Recipes of the package."""
