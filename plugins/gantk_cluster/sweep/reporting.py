"""The link from a training to the sweep whose trial it is."""

from collections.abc import Callable
from pathlib import Path

REPORTING: dict[Path, Callable[[], None]] = {}  # run folder of a trial -> its reporter
