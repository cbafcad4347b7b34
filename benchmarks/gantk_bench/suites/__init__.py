"""Bundled suites: TOML files with the recipes of a bench, their settings, limits and metrics."""
