"""A record: one image that a source can read, with what is known about where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Record:
    """One image that is read when it is needed.

    `read` returns float32 (C, *spatial) in the native intensities and at the native size. What it gives of files
    depends on these, its key and the source's options alone: it is kept on disk (data.cache).
    """

    domain: str  # "a", "b", or "image" where the source has one domain
    subject: str  # patient; "" where unknown
    key: str  # unique within its domain: a relative path, or "subject-003/slice-042"
    read: Callable[[], np.ndarray]
    pair: str | None = None  # records of a and b with the same pair are registered with each other
    position: float | None = None  # order inside a stack of slices
    path: Path | None = None  # file behind it; None where it is computed
    split: str | None = None  # "train", "validation" or "test" where the folders themselves say so
    mask: Callable[[], np.ndarray] | None = None  # float32 (1, *spatial) of 0 and 1: lesions, where known
    label: str | None = None  # class, such as "tumour"; None where unknown
    missing: tuple[str, ...] = ()  # contrasts of the domain that this patient lacks; their channels are NaN
    others: tuple[Path, ...] = ()  # further files behind it: one for each contrast beyond the first
    scan: Callable[[], np.ndarray] | None = None  # the whole scan (C, D, H, W) of which this is a slice; None: `read`
    scan_key: str = ""  # names that scan within its domain; "" where this is no slice of one
    mask_files: tuple[Path, ...] = ()  # what `mask` reads, so that masks are kept in the cache too

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that `read` reads; none where the image is computed."""
        return (self.path, *self.others) if self.path is not None else ()


def domain_letters(domains: tuple[str, ...]) -> tuple[str, ...]:
    """`("a", "b")` for two domains, `("image",)` for one."""
    return ("image",) if len(domains) == 1 else ("a", "b")


def contrast_names(domain: str) -> tuple[str, ...]:
    """The contrasts of a domain's human name, one channel each: `"T1+FLAIR"` is `("T1", "FLAIR")`."""
    return tuple(name.strip() for name in domain.split("+") if name.strip()) or (domain,)
