"""Writing a file so that it is there whole or not at all; imports nothing heavy, since the report uses it too."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, content: bytes) -> Path:
    """Write under a temporary name, sync to the disk, rename: a reader sees the old file or the new one. The path."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
