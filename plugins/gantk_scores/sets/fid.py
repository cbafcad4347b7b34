"""The Frechet distance between two sets of images in a space of features."""

from __future__ import annotations

import numpy as np

from gantk.metrics.intervals import left_out_interval
from gantk.metrics.sets import ImageGroup, InFeatures, require_images
from gantk.runs.results import Score

# fewer images than Inception's features have no full covariance: there is a warning
MIN_RELIABLE_IMAGES = 2048
MIN_IMAGES = 8  # fewest images
WARNING = (
    f"fewer than {MIN_RELIABLE_IMAGES} images bias the value upwards. Compare it only between sets"
    " of the same size, or use kid, which has no such bias"
)


class Fid(InFeatures):
    """Frechet distance between Gaussians fitted to the features of both sets (Heusel et al., 2017).

    It is biased: it falls as a set grows. Compare it only between sets of the same size. Below 2048
    images (Inception's number of features) use KID instead; the definition then says so. Fewer than
    8 images are an error: their bias is 40 % or more of the distance between CT and MR slices of
    heads. The interval comes from leaving out a group of patients at a time.
    """

    kind = "fid"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        remedy = "compare more images, or use kid, which has no such bias"
        require_images(self.name, test, fake, least=MIN_IMAGES, remedy=remedy)
        real, made = self.vectors(train, test, fake)
        of_all_real = gaussian(real)
        of_all_made = gaussian(made)

        def of_kept(kept_real: np.ndarray, kept_made: np.ndarray) -> float:
            of_real = of_all_real if kept_real.all() else gaussian(real[kept_real])
            of_made = of_all_made if kept_made.all() else gaussian(made[kept_made])
            return frechet(of_real, of_made)

        value, ci95 = left_out_interval(of_kept, test.patients, fake.patients)
        ci95 = ci95 and np.clip(ci95, 0.0, None).tolist()
        how = "gaussians"
        details = {}
        if min(len(real), len(made)) < MIN_RELIABLE_IMAGES:
            how = f"biased-upwards-below-{MIN_RELIABLE_IMAGES}-images"
            details["warning"] = WARNING

        definition = f"{self.definition}/n={len(fake)},real={len(test)}/{how}"
        return Score(value=value, ci95=ci95, definition=definition, details=details)


def gaussian(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a Gaussian to vectors (n, d): the mean (d,) and a factor A (n or d, d) of the covariance
    A'A.
    """
    mean = vectors.mean(0)
    return mean, np.linalg.qr(vectors - mean, mode="r") / (len(vectors) - 1) ** 0.5


def frechet(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians (Dowson and Landau, 1982).

    With S = A'A the eigenvalues of S1 S2 are the squared singular values of A1 A2'; this avoids the
    square root of a matrix, which is singular if there are few images.
    """
    shared = np.linalg.svd(one[1] @ other[1].T, compute_uv=False).sum()
    spreads = np.square(one[1]).sum() + np.square(other[1]).sum()
    return max(0.0, float(np.square(one[0] - other[0]).sum() + spreads - 2 * shared))
