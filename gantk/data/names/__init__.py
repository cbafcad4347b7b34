"""What names of files and folders say, by the few rules that patterns.py lists.

patterns: the words, as a table of patterns. domains: which images are of which domain. patients: which
folder or part of a name is the patient. versions: one of several versions of an image.
"""
