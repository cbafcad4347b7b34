"""The Frechet radiomics distance between two sets of images, in the features of the package
frd-score.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from tempfile import TemporaryDirectory

import numpy as np
from torch import Tensor

from gantk.errors import UserError
from gantk.metrics.intervals import left_out_interval
from gantk.metrics.sets import ImageGroup, require_images
from gantk.runs.results import Score
from gantk_scores.sets.fid import MIN_IMAGES, frechet, gaussian

INSTALL = (
    "install them: pip install frd-score, then pip install --no-build-isolation pyradiomics==3.0.1 "
    "(this compiles it: it needs Python 3.11, setuptools and a C compiler)"
)


class Radiomics:
    """Features of intensity and texture of images (N, C, *size) from 0 to `data_range`: (N, d),
    float32.

    Those of frd-score: of each channel, of its Laplacians of Gaussians and of its wavelet bands;
    nan where undefined.
    """

    what = "radiomics-v1"

    def __init__(self, data_range: float, dims: int):
        try:
            import SimpleITK
            from frd_score import frd
            from radiomics import setVerbosity
        except ImportError as error:
            what = (
                f"the metric 'frd' needs frd-score and pyradiomics, but {error.name} is not"
                " installed"
            )
            raise UserError(what, where="evaluate.metrics", remedy=INSTALL) from error

        setVerbosity(logging.CRITICAL)
        self.data_range = data_range
        self.files = SimpleITK
        self.extract = frd.process_image_mask_pair
        self.extractor = frd.get_feature_extractor("v1", image_dim=dims)

    def __call__(self, images: Tensor) -> np.ndarray:
        with TemporaryDirectory() as folder:
            found = [
                [self._of(channel, f"{folder}/image.mha") for channel in image]
                for image in images.cpu()
            ]
        return np.array(found).reshape(len(images), -1)

    def _of(self, image: Tensor, path: str) -> np.ndarray:
        """The features of one channel, through a file, as frd-score takes no arrays."""
        pixels = self.files.GetImageFromArray((image.float() * (255 / self.data_range)).numpy())
        self.files.WriteImage(pixels, path)
        return np.array(
            self.extract((path, None), feature_extractor=self.extractor)[0], dtype=np.float32
        )


class Frd:
    """Frechet radiomics distance, version 1 of frd-score (Konz et al. 2025): the logarithm of the
    squared distance.

    It compares features of intensity and texture, standardised by the held-out real images. It uses
    no network and no weights and takes a fifth of a second per image of 96 px. It needs frd-score
    and pyradiomics. Lower is better; the minimum is -20. Like FID it is biased upwards for few
    images, so compare it only between sets of the same size. Fewer than 8 images are an error.
    """

    sets = True
    published = ("frd",)
    name = "frd"
    unit = ""
    higher_is_better = False

    @staticmethod
    def at_hand() -> bool:
        """Whether its packages are installed: images from noise are scored by it then, if a recipe
        names no metrics.
        """
        return bool(find_spec("frd_score") and find_spec("radiomics"))

    def __init__(self, data_range: float, dims: int):
        self.network = Radiomics(data_range, dims)
        self.definition = "frd/v1/log-of-squared-distance"

    def __call__(self, train: ImageGroup, test: ImageGroup, fake: ImageGroup) -> Score:
        require_images(self.name, test, fake, least=MIN_IMAGES)
        test_features = test.vectors(self.network)
        fake_features = fake.vectors(self.network)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.nanmean(test_features, 0)
            deviation = np.nanstd(test_features, 0)
            real = (test_features - mean) / deviation
            made = (fake_features - mean) / deviation

        # frd-score leaves these images out, and then these features
        whole_real = ~np.isnan(test_features).any(1)
        whole_made = ~np.isnan(fake_features).any(1)
        finite_real = np.isfinite(real[whole_real]).all(0)
        finite_made = np.isfinite(made[whole_made]).all(0)
        use = finite_real & finite_made

        def of_kept(kept_real: np.ndarray, kept_made: np.ndarray) -> float:
            reals = real[kept_real & whole_real][:, use]
            fakes = made[kept_made & whole_made][:, use]
            distance = frechet(gaussian(reals), gaussian(fakes))
            return float(np.log(max(distance, np.exp(-20))))

        value, ci95 = left_out_interval(of_kept, test.patients, fake.patients)
        counts = f"features={use.sum()}/n={whole_made.sum()},real={whole_real.sum()}"
        return Score(value=value, ci95=ci95, n=len(fake), definition=f"{self.definition}/{counts}")
