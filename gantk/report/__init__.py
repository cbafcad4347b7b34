"""What a run looked like: one HTML page and one animation, made from the files of the run folder alone."""

from gantk.report.build import write_report
from gantk.report.pictures import write_animation

__all__ = ["write_animation", "write_report"]
