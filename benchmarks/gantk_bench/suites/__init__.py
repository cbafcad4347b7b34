"""Suites: TOML files that say which recipes are run, and how."""
