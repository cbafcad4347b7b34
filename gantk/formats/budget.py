"""What reading one file may cost: the bytes that it unpacks to, the values that it declares, and the
seconds of processor time. A few bytes may claim any of them.

`reading` begins the budget of a file, and whatever reads the file pays from it with `spend`. An
image, a header and an archive have the same budget.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from gantk.errors import UserError

MAX_COMPRESSION = 200  # largest ratio of unpacked to packed size; that of images is 2 to 10
MAX_VALUES_PER_BYTE = 1032  # deflate's best ratio, for values of one byte
# largest possible compression of one stream
BEST_COMPRESSION = {"": 1, "gzip": 1032, "zlib": 1032}
FREE_BYTES = 16 * 2**20  # that any file may unpack to
FREE_VALUES = 2**28  # that any file may declare: 1 GiB as float32
PARSING_SECONDS_PER_MIB = 2.5  # of text and sequences, which libraries parse without a pause
JPEG_SECONDS_PER_VALUE = 1e-8  # of one scan
FREE_SECONDS = 10.0  # that any file may take; most take milliseconds
SECONDS_PER_MIB = 2.0  # for each MiB of a file; images of any format take less than 0.5


class Broken(ValueError):
    """A file is damaged or not supported; the message never quotes texts of the file, which may name
    a patient.
    """


class OverBudget(UserError):
    """A file costs more than files of its kind and size do."""


@dataclass
class Budget:
    """What reading a file, with the files that belong to it, may cost, and has cost."""

    path: Path
    max_values: float = FREE_VALUES
    max_unpacked: float = FREE_BYTES  # bytes
    max_seconds: float = FREE_SECONDS  # of this thread's processor time
    mib: float = 0.0  # size of all files
    files: set[Path] = field(default_factory=set)
    values: int = 0  # of float32, in memory
    unpacked: int = 0
    begun: float = field(default_factory=time.thread_time)  # earlier, for seconds that are foreseen

    def add(self, files: Iterable[Path], compression: float) -> None:
        """Let files that are read for the first time pay into it."""
        for file in {*files} - self.files:
            size = os.stat(file).st_size
            self.files.add(file)
            self.mib += size / 2**20
            self.max_values += MAX_VALUES_PER_BYTE * size
            self.max_unpacked += compression * size
            self.max_seconds += size / 2**20 * SECONDS_PER_MIB

    def spend(self, unpacked: int, values: int, seconds: float) -> None:
        """As the function `spend`."""
        self.unpacked += unpacked
        self.values += values
        self.begun -= seconds
        if self.unpacked > self.max_unpacked:
            raise self._error(f"unpacks to more than {self.max_unpacked:,.0f} bytes")
        if self.values > self.max_values:
            raise self._error(f"declares more than {self.max_values:,.0f} values")
        if time.thread_time() - self.begun > self.max_seconds:
            raise self._error(f"takes more than {self.max_seconds:.0f} s to read")
        if not values:
            return

        limit = os.environ.get("GANTK_MAX_GIB") or "16"
        if not re.fullmatch(r"\d*\.?\d+", limit):
            raise UserError(
                f"GANTK_MAX_GIB is set to '{limit}'",
                allowed="a number of GiB",
                remedy="correct or unset it",
            )
        if self.values / 2**28 > float(limit):
            raise OverBudget(
                f"'{self.path}' declares {self.values} values or more, which need"
                f" {self.values / 2**28:.1f} GiB of memory",
                allowed=f"at most {limit} GiB",
                remedy=(
                    "if its header is right, set the environment variable GANTK_MAX_GIB to a larger"
                    " number"
                ),
            )

    def _error(self, what: str) -> OverBudget:
        return OverBudget(
            f"'{self.path}' {what}, which no sound file of {self.mib:.1f} MiB does",
            remedy="copy it again, or leave it out",
        )


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def reading(
    *files: Path, compression: float = MAX_COMPRESSION, most: float = math.inf
) -> Iterator[None]:
    """Context manager: what is read below pays from one budget, by the size of the files. Inside
    another budget, the files belong to that.

    `compression` is the largest ratio of unpacked to packed bytes, `most` the most unpacked bytes.
    """
    outer = _current.get()
    if outer is not None:
        outer.add(files, compression)
        yield
        return

    budget = Budget(files[0], max_seconds=FREE_SECONDS)
    budget.add(files, compression)
    budget.max_unpacked = min(budget.max_unpacked, most)
    token = _current.set(budget)
    try:
        yield
    finally:
        _current.reset(token)


def spend(*, unpacked: int = 0, values: int = 0, seconds: float = 0.0) -> None:
    """Pay for bytes that were unpacked, for float32 values that an image declares, and for seconds
    that a library will take without a pause; each call also looks at the time.

    OverBudget where the budget of the file is spent, UserError where GANTK_MAX_GIB is not a number;
    nothing where no budget has begun.
    """
    budget = _current.get()
    if budget is not None:
        budget.spend(unpacked, values, seconds)


def pay_for_scans(content: bytes, values: int) -> None:
    """Pay for decoding a JPEG of so many values: each of its scans, which are any number, covers the
    whole picture.
    """
    spend(seconds=content.count(b"\xff\xda") * values * JPEG_SECONDS_PER_VALUE)


def expect_held(declared: int, held: int, packing: str = "") -> None:
    """Broken where a file's `held` bytes, packed or not, are too few for the `declared` bytes of
    its voxels.
    """
    if declared > held * BEST_COMPRESSION[packing]:
        compressed = " compressed bytes" if packing else ""
        raise Broken(
            f"it is truncated, or its header is wrong: it declares {declared} bytes of voxels, but"
            f" contains {held}{compressed}"
        )
