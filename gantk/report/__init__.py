"""Writes report.html, one page about a run, from the files of the run folder alone.

Read first: build, then run_record (what is read) and scores (tables); patients/ draws images.
Imports nothing of training: a report is written without the networks.
"""
