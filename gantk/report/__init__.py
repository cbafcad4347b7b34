"""Writes report.html, one page about a run, from the files of the run folder alone: see `build`."""
