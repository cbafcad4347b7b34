"""Precision, recall, density and coverage: are made images like real ones, and are real ones all made, kept apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gantk.errors import UserError
from gantk.metrics.bootstrap import parts_of
from gantk.metrics.distances import blocks, parts_interval, squared_distances
from gantk.metrics.sets import ImageGroup, InFeatures, Score, enough

FEW = 1000  # images, below which a definition says so
WARNING = (
    "these depend on the number of images: with few, neighbours are far and each ball takes in much of the space; "
    "compare them between sets of the same size only, and with what real images get as if made (real_split)"
)


@dataclass(frozen=True)
class Balls:
    """Which vectors lie in the balls around others, each as wide as its centre's k-th nearest neighbour is away.

    Row 0 is of the whole sets; rows 1 to C of the centres without each of their parts; the rest of `covers` of the
    points without each of theirs.
    """

    holding: np.ndarray  # (1 + C, points) int: how many balls hold a point
    covers: np.ndarray  # (1 + C + P, centres) bool: whether a centre's ball holds any point

    @classmethod
    def around(
        cls, centres: np.ndarray, points: np.ndarray, centre_parts: np.ndarray, point_parts: np.ndarray, k: int
    ) -> Balls:
        """In blocks of centres: no matrix of all pairs is ever held. Balls are closed; nothing is its own neighbour."""
        count, others = int(centre_parts.max()) + 1, int(point_parts.max()) + 1
        holding = np.zeros((1 + count, len(points)), dtype=np.int64)
        covers = np.zeros((1 + count + others, len(centres)), dtype=bool)
        for rows in blocks(len(centres), max(len(centres), len(points))):
            radii = radii_without(centres, rows, centre_parts, k)
            away = squared_distances(centres[rows], points)
            for version, radius in enumerate(radii):
                kept = centre_parts[rows] != version - 1  # version 0 leaves nobody out
                holding[version] += (away <= np.where(kept, radius, -1)[:, None]).sum(0)
            nearest = np.stack([away[:, point_parts == part].min(1) for part in range(others)])
            covers[: 1 + count, rows] = nearest.min(0) <= radii
            for part in range(others):
                covers[1 + count + part, rows] = np.delete(nearest, part, 0).min(0, initial=np.inf) <= radii[0]
        return cls(holding, covers)


def radii_without(vectors: np.ndarray, rows: slice, parts: np.ndarray, k: int) -> np.ndarray:
    """(1 + parts, rows): squared distances to the k-th nearest other vector, of all and without each part.

    Each part's own k nearest are enough to know them all. Infinite where fewer than k others are left.
    """
    away = squared_distances(vectors[rows], vectors)
    away[np.arange(len(away)), np.arange(rows.start, rows.start + len(away))] = np.inf
    count = int(parts.max()) + 1
    nearest = np.full((count, len(away), k), np.inf)
    for part in range(count):
        inside = away[:, parts == part]
        least = min(k, inside.shape[1])
        nearest[part, :, :least] = np.partition(inside, least - 1, axis=1)[:, :least]

    def kth(candidates: np.ndarray) -> np.ndarray:
        flat = np.moveaxis(candidates, 0, 1).reshape(len(away), -1)
        return np.partition(flat, k - 1, axis=1)[:, k - 1] if flat.shape[1] else np.full(len(away), np.inf)

    return np.stack([kth(nearest), *(kth(np.delete(nearest, part, 0)) for part in range(count))])


class Neighbourhoods:
    """The four shares of two sets of vectors, whole or with one part of one of them left out."""

    def __init__(self, real: np.ndarray, fake: np.ndarray, real_parts: np.ndarray, fake_parts: np.ndarray, k: int):
        middle = real.mean(0)  # distances between vectors far from 0 would lose digits
        self.k, self.parts = k, (real_parts, fake_parts)
        self.real = Balls.around(real - middle, fake - middle, real_parts, fake_parts, k)
        self.fake = Balls.around(fake - middle, real - middle, fake_parts, real_parts, k)

    def shares(self, real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
        """Of the parts at which `real` (R,) and `fake` (F,) are true: all, or all but one of one side."""
        gone = [0 if kept.all() else 1 + int(np.argmin(kept)) for kept in (real, fake)]
        reals, fakes = real[self.parts[0]], fake[self.parts[1]]  # of images
        held = self.real.holding[gone[0]][fakes]
        covered = self.real.covers[len(real) + gone[1] if gone[1] else gone[0]][reals]
        return {
            "precision": float((held > 0).mean()),
            "recall": float((self.fake.holding[gone[1]][reals] > 0).mean()),
            "density": float(held.mean() / self.k),
            "coverage": float(covered.mean()),
        }


class Prdc(InFeatures):
    """Precision and recall (Kynkaanniemi et al., 2019), density and coverage (Naeem et al., 2020): four scores.

    Around each vector lies a ball as wide as its k-th nearest neighbour of the same set is away. Precision: the share
    of fakes in any ball of a real image; recall: the share of real images in any ball of a fake (eq. 1 and 2 of the
    first paper). Density: how many balls of real images hold a fake, on average, over k, which is 1 on average for one
    distribution and may be above; coverage: the share of the balls of real images that hold any fake. All depend on
    how many images there are; what density and coverage are for one distribution stands in their definitions.
    Intervals come from leaving out a group of patients at a time; none where that changes nothing. UserError for fewer
    than k + 1 images of either set.
    """

    kind, unit, higher_is_better = "prdc", "", True

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        features: str = "random",  # random: seeded, no file; inception; a timm name; or a file of a network, X.onnx
        weights: str | None = None,  # a file of weights for the timm network that `features` names
        mean: list[float] | None = None,  # subtracted from intensities 0 to 1; None: timm's for it, 0 for X.onnx
        std: list[float] | None = None,  # what they are then divided by; None: timm's for the network, 1 for X.onnx
        side: int | None = None,  # pixels that images are brought to; None: the network's own
        k: int = 5,  # which neighbour sets a ball's width; 5 in Naeem et al., 3 in Kynkaanniemi et al.
    ):
        if k < 1:
            raise UserError(f"k = {k} is no neighbour", where="evaluate.metrics", allowed="1 or more")
        self.k = k
        super().__init__(data_range, dims, features=features, weights=weights, mean=mean, std=std, side=side)

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
        """precision, recall, density and coverage, named with the suffix of their features."""
        enough(self.name, test, fake, least=self.k + 1)
        real, made = self.vectors(train, test, fake)
        parts = parts_of(test.patients), parts_of(fake.patients)
        found = Neighbourhoods(real, made, *parts, self.k)
        value = found.shares(*(np.ones(p.max() + 1, dtype=bool) for p in parts))
        few = min(len(test), len(fake)) < FEW
        alike = {"density": 1.0, "coverage": expected_coverage(len(test), len(fake), self.k)}
        scores = {}
        for name, share in value.items():
            note = f"/if-alike={alike[name]:.3f}" if name in alike else ""
            how = f"k={self.k}/{self.seen}/n={len(fake)},real={len(test)}{note}"
            details = {"if_alike": alike[name]} if name in alike else {}
            details |= {"warning": WARNING} if few else {}
            definition = f"{name}/{how}" + (f"/depends-on-n-below-{FEW}-images" if few else "")
            scores[name + self.features.suffix] = Score(
                share, self._interval(found, name, parts), len(fake), definition, details
            )
        return scores

    def _interval(self, found: Neighbourhoods, name: str, parts: tuple[np.ndarray, np.ndarray]):
        if any(len(p) - np.bincount(p).max() <= self.k for p in parts):  # a set would be left without a k-th neighbour
            return None
        ci95 = parts_interval(lambda real, fake: found.shares(real, fake)[name], *parts)
        if ci95 is None or ci95[0] == ci95[1]:
            return None
        return max(0.0, ci95[0]), ci95[1] if name == "density" else min(1.0, ci95[1])


def expected_coverage(real: int, fake: int, k: int) -> float:
    """What coverage is on average where both sets come from one distribution (Naeem et al., 2020)."""
    return 1 - float(np.prod([(real - i) / (real + fake - i) for i in range(1, k + 1)]))
