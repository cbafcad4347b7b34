"""Scores translated volumes against true scans of the same person, with code that shares nothing
with gantk. Prints one line of JSON.

    python benchmarks/score_volumes.py PRED TRUTH [INPUT] >> FILE.jsonl

1. PRED and INPUT are resampled onto TRUTH's grid by their affines (linear) if grid or affine
  differ.
2. Each volume is divided by its own 99.5th percentile on that grid and clipped to [0, 1].
3. Scores use the axial slices (by TRUTH's affine) with more than 15 % tissue (truth > 0.05), if at
   least 95 % of that
   tissue lies inside the field of view of PRED and INPUT.
4. PSNR and SSIM (Gaussian 11 x 11, sigma 1.5, range 1, border left out) are means over these
   slices. The jump is the
   mean absolute second difference of tissue along the slice axis, divided by that of the truth.
5. With INPUT also scores INPUT itself, and the best monotonic intensity map, fitted on these slices
   and their truth:
   a lower bound on the mean squared error of any method that only changes intensities and keeps
   their order.
"""

import argparse
import json

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from scipy.ndimage import gaussian_filter
from sklearn.isotonic import IsotonicRegression

MIN_TISSUE_VALUE = 0.05
MIN_TISSUE_SHARE = 0.15
MIN_COVERED_SHARE = 0.95


def load(path: str) -> nib.Nifti1Image:
    """The first volume of a file, with axes reordered to right, anterior, superior."""
    image = nib.load(path)
    data = np.asanyarray(image.dataobj).astype(np.float32)
    data = data.reshape(*data.shape[:3], -1)[..., 0]
    return nib.as_closest_canonical(nib.Nifti1Image(np.nan_to_num(data), image.affine))


def onto(image: nib.Nifti1Image, grid: nib.Nifti1Image) -> tuple[np.ndarray, np.ndarray]:
    """(`image` resampled onto the grid of `grid`, mask of the grid's voxels inside the field of
    view of `image`).
    """
    data = image.get_fdata(dtype=np.float32)
    if image.shape == grid.shape and np.allclose(image.affine, grid.affine, atol=1e-3):
        return data, np.ones(grid.shape, bool)
    everywhere = nib.Nifti1Image(np.ones(image.shape, np.float32), image.affine)
    inside = resample_from_to(everywhere, grid, order=0, mode="grid-constant")
    return resample_from_to(image, grid, order=1).get_fdata(
        dtype=np.float32
    ), inside.get_fdata() > 0


def scaled(data: np.ndarray) -> np.ndarray:
    """A volume divided by its 99.5th percentile, clipped to [0, 1]."""
    return np.clip(data / (float(np.percentile(data, 99.5)) or 1.0), 0, 1).astype(np.float64)


def slices_with_tissue(truth: np.ndarray) -> np.ndarray:
    """Which axial slices of a scaled volume (W, H, D) have enough tissue: (D,) bool."""
    return (truth > MIN_TISSUE_VALUE).mean((0, 1)) > MIN_TISSUE_SHARE


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Mean structural similarity of two slices (Wang et al., 2004)."""
    means = [
        gaussian_filter(x, 1.5, truncate=3.5)
        for x in (one, other, one * one, other * other, one * other)
    ]
    a, b, aa, bb, ab = means
    low = 0.01**2
    high = 0.03**2
    value = (2 * a * b + low) * (2 * (ab - a * b) + high)
    value /= (a * a + b * b + low) * (aa - a * a + bb - b * b + high)
    return float(value[5:-5, 5:-5].mean())


def scores(made: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """(mean PSNR in dB, at most 100, mean SSIM, jump over the truth's jump) of the slices along the
    last axis.
    """
    tissue = truth[..., 1:-1] > MIN_TISSUE_VALUE
    one, other = (
        np.abs(np.diff(volume, 2))[tissue].mean() if tissue.any() else np.nan
        for volume in (made, truth)
    )
    errors = np.maximum(((made - truth) ** 2).mean((0, 1)), 1e-10)
    similarity = [ssim(made[..., k], truth[..., k]) for k in range(truth.shape[-1])]
    return float(np.mean(-10 * np.log10(errors))), float(np.mean(similarity)), float(one / other)


def score(made: str, true: str, source: str = "") -> dict[str, tuple[float, float, float]]:
    """Volume name -> (PSNR, SSIM, jump): the prediction and, with `source`, the input and its best
    intensity map.
    """
    grid = load(true)
    truth = scaled(grid.get_fdata(dtype=np.float32))
    volumes = {}
    inside = np.ones(grid.shape, bool)
    for name, path in {"prediction": made, "input": source}.items():
        if path:
            moved, seen = onto(load(path), grid)
            volumes[name] = scaled(moved)
            inside = inside & seen
    tissue = truth > MIN_TISSUE_VALUE
    used = slices_with_tissue(truth)
    used &= (tissue & inside).sum((0, 1)) >= MIN_COVERED_SHARE * tissue.sum((0, 1))
    if not used.any():
        raise SystemExit(
            f"no axial slice of {true} has more than 15 % tissue inside the field of view of {made}"
        )
    truth = truth[..., used]
    volumes = {name: volume[..., used] for name, volume in volumes.items()}
    if source:
        fit = IsotonicRegression(increasing="auto", out_of_bounds="clip")
        volumes["map"] = fit.fit_transform(volumes["input"].ravel(), truth.ravel()).reshape(
            truth.shape
        )
    return {name: scores(volume, truth) for name, volume in volumes.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, count in (("PRED", None), ("TRUTH", None), ("INPUT", "?")):
        parser.add_argument(name, nargs=count)
    files = [*filter(None, vars(parser.parse_args()).values())]
    print(json.dumps({"volume": files[0], **score(*files)}))
