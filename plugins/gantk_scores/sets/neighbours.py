"""Precision, recall, density and coverage: measures the quality and the variety of generated images
separately.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from gantk.metrics.intervals import left_out_interval
from gantk.metrics.sets import ImageGroup, InFeatures, require_images
from gantk.plugin.spec import Count
from gantk.runs.results import Score

NAMES = ("precision", "recall", "density", "coverage")
MIN_RELIABLE_IMAGES = 1000  # below this number of images there is a warning
WARNING = (
    "these scores depend on the number of images: few images have distant neighbours and large"
    " balls. Compare them only between sets of the same size, and with the scores of other real"
    " images"
)


@dataclass(eq=False, kw_only=True)
class Prdc(InFeatures):
    """Precision and recall (Kynkaanniemi et al., 2019), density and coverage (Naeem et al., 2020):
    four scores.

    Each vector has a ball whose radius is the distance to its k-th nearest neighbour in the same
    set. Precision is the share of fakes in any ball of a real image. Recall is the share of real
    images in any ball of a fake (eq. 1 and 2 of the first paper). Density is the mean number of
    real images' balls around a fake, divided by k: on average 1 for equal distributions, possibly
    higher. Coverage is the share of real images' balls that contain any fake.

    All four depend on the number of images; the definitions state density and coverage for equal
    distributions. Intervals come from leaving out a group of patients at a time, and are None if
    that changes nothing. Fewer than k + 1 images in either set are an error.
    """

    k: Count = 5  # number of the neighbour that sets a ball's radius; 5 in Naeem et al., 3 in Kynkaanniemi et al.

    kind = "prdc"
    higher_is_better = True

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> dict[str, Score]:
        """Precision, recall, density and coverage; their names end in the suffix of the
        features.
        """
        require_images(self.name, test, fake, least=self.k + 1)
        statistic = shares_of(*self.vectors(train, test, fake), self.k)
        values, ci95 = left_out_interval(statistic, test.patients, fake.patients, least=self.k + 1)
        few = min(len(test), len(fake)) < MIN_RELIABLE_IMAGES
        alike = {"density": 1.0, "coverage": expected_coverage(len(test), len(fake), self.k)}
        scores = {}
        for place, name in enumerate(NAMES):
            definition = f"{name}/k={self.k}/{self.seen}/n={len(fake)},real={len(test)}"
            details = {}
            if name in alike:
                definition += f"/if-alike={alike[name]:.3f}"
                details["if_alike"] = alike[name]
            if few:
                definition += f"/depends-on-n-below-{MIN_RELIABLE_IMAGES}-images"
                details["warning"] = WARNING

            interval = None
            if ci95 is not None and ci95[0][place] != ci95[1][place]:
                ends = np.transpose(ci95)[place]
                interval = ends.clip(0.0, None if name == "density" else 1.0).tolist()

            value = float(values[place])
            score = Score(value=value, ci95=interval, definition=definition, details=details)
            scores[name + self.network.suffix] = score

        return scores


def shares_of(real: np.ndarray, fake: np.ndarray, k: int):
    """A function that returns the four shares, (4,), of the vectors (n, d) selected by bools (R,)
    and (F,).
    """
    between = cdist(real, fake)
    inside = [cdist(x, x) for x in (real, fake)]
    for away in inside:
        np.fill_diagonal(away, np.inf)  # a vector is not its own neighbour

    def shares(*kept: np.ndarray) -> np.ndarray:
        own = (away[np.ix_(keep, keep)] for keep, away in zip(kept, inside, strict=True))
        radii = [np.partition(away, k - 1, axis=1)[:, k - 1] for away in own]
        away = between[np.ix_(*kept)]
        # number of real images' (closed) balls around each fake
        held = (away <= radii[0][:, None]).sum(0)
        recall = (away <= radii[1]).any(1).mean()
        coverage = (away.min(1) <= radii[0]).mean()
        return np.array([(held > 0).mean(), recall, held.mean() / k, coverage])

    return shares


def expected_coverage(real: int, fake: int, k: int) -> float:
    """The expected coverage of two sets from the same distribution (Naeem et al., 2020)."""
    return 1 - float(np.prod([(real - i) / (real + fake - i) for i in range(1, k + 1)]))
