"""gantk from its source folder: it need not be installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def use_checkout() -> None:
    """Put the source folders on the path of this process and, through PYTHONPATH, of its children.

    An installed gantk goes first, as it is most often this very folder.
    """
    folders = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "benchmarks")]
    sys.path += [folder for folder in folders if folder not in sys.path]
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    added = [folder for folder in folders if folder not in known]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*known, *added]))
