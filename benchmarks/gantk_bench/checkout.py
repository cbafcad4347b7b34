"""Which source was measured: the commit of the checkout that the running gantk lies in."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import gantk


def commit(package: Path | None = None) -> dict[str, Any] | None:
    """{"commit": ..., "dirty": ...} of the checkout that holds gantk; None where it is installed, or git is missing.

    A checkout that merely surrounds an installed gantk (an environment inside a project) is not it: git has to know
    the file.
    """
    package = package or Path(gantk.__file__).parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain", ":/")
    return None if head is None else {"commit": head, "dirty": bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    """What git answers, None where it refuses or is not there."""
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
