"""Training: start with assemble (builds all objects), loop (logs, saves) and engine (takes the
steps).
"""
