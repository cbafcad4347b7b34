"""The run folder: folder (`Run`, its files), checkpoint, trained (loads a method), models (by
name), schemas.
"""
