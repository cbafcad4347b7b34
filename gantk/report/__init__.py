"""Writes report.html, one page about a run, from the files of the run folder alone."""

from gantk.report.build import write_report

__all__ = ["write_report"]
