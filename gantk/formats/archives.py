"""Unpacks archives of public data sets and of uploads by zipfile and tarfile, which keep all names
inside the folder; bounds what they unpack to.
"""

from __future__ import annotations

import math
import tarfile
import zipfile
from pathlib import Path
from typing import IO, cast

from gantk.formats.budget import MAX_COMPRESSION, reading, spend

PIECE_BYTES = 2**20
MEMBER_BYTES = 4096  # that a file or a folder takes on a disk, whatever its content


def unpack(
    archive: Path, folder: Path, compression: float = MAX_COMPRESSION, most: float = math.inf
) -> None:
    """Unpack a zip (.zip) or a tar archive into a folder.

    Args:
        archive: the archive; a tar from a source that is trusted, such as a published checksum.
        folder: the folder to write to.
        compression: the largest ratio of unpacked to packed size.
        most: the most bytes that are unpacked.

    Raises:
        OverBudget: it unpacks to more than it may.

    A damaged archive, a wrong checksum, a device and a name that leads out of the folder raise the
    error of zipfile, tarfile or gzip.
    """
    with reading(archive, compression=compression, most=most):
        # `zipfile.is_zipfile` would take a tar that ends with a zip for that zip
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as opened:
                for member in opened.infolist():
                    _pay(member.filename, member.file_size)
                    opened.extract(member, folder)
        else:
            with tarfile.open(archive) as packed:
                for part in packed:
                    _pay(part.name, part.size)
                    packed.extract(part, folder, filter="data")
                # to the checksum at the end of a compressed one
                while piece := cast("IO[bytes]", packed.fileobj).read(PIECE_BYTES):
                    spend(unpacked=len(piece))


def _pay(name: str, size: int) -> None:
    """Pay for a member: its bytes, and the folders of its name."""
    spend(unpacked=size + MEMBER_BYTES * (1 + name.count("/")))
