"""Distances between two sets of vectors (n, d), in blocks of bounded memory, and how they change without a part of one.

A set's parts are what is left out at a time for an interval: its patients, dealt out to at most 20 parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from gantk.metrics.bootstrap import left_out_interval

BLOCK = 2**22  # numbers of a matrix of pairs that are in memory at once: 32 MiB

Interval = tuple[float, float] | None


def kernels(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x.y / d + 1)^3 of all pairs: real with real, fake with fake, real with fake."""
    return tuple(_kernel(x, y) for x, y in ((real, real), (fake, fake), (real, fake)))


def squared_mmd(k_rr: np.ndarray, k_ff: np.ndarray, k_rf: np.ndarray) -> float:
    """The unbiased estimate: an image is never compared with itself (Gretton et al., 2012, eq. 3)."""
    inside = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (k_rr, k_ff)]
    return float(inside[0] + inside[1] - 2 * k_rf.mean())


@dataclass(frozen=True)
class KernelSums:
    """All that the squared MMD of two sets, whole or without some of their parts, needs: sums by parts."""

    sums: tuple[np.ndarray, np.ndarray, np.ndarray]  # (R, R), (F, F), (R, F): of the pairs of two parts' images
    own: tuple[np.ndarray, np.ndarray]  # (R,), (F,): of each part's images with themselves
    counts: tuple[np.ndarray, np.ndarray]  # (R,), (F,): images of each part

    @classmethod
    def of(cls, real: np.ndarray, fake: np.ndarray, real_parts: np.ndarray, fake_parts: np.ndarray) -> KernelSums:
        """Blocks of the kernels, one after the other; no matrix of all pairs is ever held."""
        sides = ((real, real_parts), (fake, fake_parts))
        own = tuple(np.bincount(p, (np.square(x).sum(1) / x.shape[1] + 1) ** 3) for x, p in sides)
        pairs = ((sides[0], sides[0]), (sides[1], sides[1]), sides)
        sums = tuple(_sums_by_parts(x, y, of_x, of_y) for (x, of_x), (y, of_y) in pairs)
        return cls(sums, own, tuple(np.bincount(p) for _, p in sides))

    def squared_mmd(self, real: np.ndarray, fake: np.ndarray) -> float:
        """As the function of that name, of the parts at which `real` (R,) and `fake` (F,) are true."""
        kept = (real.astype(float), fake.astype(float))
        counts = [k @ c for k, c in zip(kept, self.counts, strict=True)]
        inside = [
            (k @ s @ k - k @ own) / (n * (n - 1))
            for k, s, own, n in zip(kept, self.sums[:2], self.own, counts, strict=True)
        ]
        return float(inside[0] + inside[1] - 2 * (kept[0] @ self.sums[2] @ kept[1]) / (counts[0] * counts[1]))


def gaussian(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (d,) and a factor A (n or d, d) of the covariance A'A of a set of vectors."""
    mean = vectors.mean(0)
    return mean, np.linalg.qr(vectors - mean, mode="r") / (len(vectors) - 1) ** 0.5


def frechet_of(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians (Dowson and Landau, 1982).

    With S = A'A the eigenvalues of S1 S2 are the squared singular values of A1 A2', so that no root of a singular
    matrix is taken, however few the images.
    """
    shared = np.linalg.svd(one[1] @ other[1].T, compute_uv=False).sum()
    spreads = np.square(one[1]).sum() + np.square(other[1]).sum()
    return max(0.0, float(np.square(one[0] - other[0]).sum() + spreads - 2 * shared))


def frechet(real: np.ndarray, fake: np.ndarray) -> float:
    """The Frechet distance of the Gaussians fitted to two sets of vectors (n, d)."""
    return frechet_of(gaussian(real), gaussian(fake))


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x - y|^2 of all pairs (n, m); exactly 0 where nothing but rounding is left, so that copies count as copies."""
    sizes = np.square(x).sum(1)[:, None] + np.square(y).sum(1)
    found = sizes - 2 * (x @ y.T)
    found[found < 1e-12 * sizes] = 0
    return found


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Rows of a matrix in parts that hold a bounded number of entries."""
    step = max(1, BLOCK // max(1, columns))
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


def parts_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float], real_parts: np.ndarray, fake_parts: np.ndarray
) -> Interval:
    """As left_out_interval; `statistic` is given which parts are kept, (R,) and (F,) of bool, not which images."""
    sides = [(parts, int(parts.max()) + 1) for parts in (real_parts, fake_parts)]

    def of_images(*kept: np.ndarray) -> float:
        return statistic(*(np.bincount(p[k], minlength=n) > 0 for (p, n), k in zip(sides, kept, strict=True)))

    return left_out_interval(of_images, *([str(part) for part in parts] for parts, _ in sides))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _sums_by_parts(x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    belongs = [(parts[:, None] == np.arange(parts.max() + 1)).astype(float) for parts in (of_x, of_y)]
    total = np.zeros([each.shape[1] for each in belongs])
    for rows in blocks(len(x), len(y)):
        total += belongs[0][rows].T @ _kernel(x[rows], y) @ belongs[1]
    return total
