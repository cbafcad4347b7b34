"""What a run looked like: one HTML page and one animation, made from the files of the run folder alone."""

from gantk.report.animation import write_animation
from gantk.report.build import write_report

__all__ = ["write_animation", "write_report"]
