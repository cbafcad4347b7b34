"""Scores of an output against the truth it should be, pixel by pixel, each with its definition."""

from __future__ import annotations

import torch
from torch import Tensor

from gantk.metrics.pair_metric import MapMetric, PairMetric, region_mean
from gantk.metrics.structural import MSSSIM, SSIM

__all__ = ["MAE", "MSSSIM", "NRMSE", "PSNR", "RMSE", "SSIM", "MapMetric", "PairMetric", "region_mean"]

CEILING = 100.0  # dB


class _SquaredError(MapMetric):
    """Scores that follow from the mean square error; that of a volume pools its slices."""

    def _map(self, output: Tensor, truth: Tensor) -> Tensor:
        return (output - truth).square()


class PSNR(_SquaredError):
    """Peak signal-to-noise ratio, 10 log10(range^2 / mean square error), in decibels.

    The range is the recipe's, never an image's own maximum. Never above 100 dB, which equal images get. The PSNR of a
    volume is that of the squared error of all its slices together, not the mean of their PSNRs.
    """

    name, unit, higher_is_better = "psnr", "dB", True

    def of_mean(self, mean: Tensor) -> Tensor:
        """From the mean square error."""
        return (10 * torch.log10(self.data_range**2 / mean)).clamp_max(CEILING)

    def _method(self) -> str:
        return f"{super()._method()}/at-most-{CEILING:g}-dB"


class MAE(MapMetric):
    """Mean absolute error, in the intensities that the networks work in; `in_units` is the same in native ones."""

    name, unit, higher_is_better = "mae", "", False
    native = "mae"  # what `in_units` gives

    def in_units(self, mean: Tensor) -> Tensor:
        """From the mean absolute error of native intensities."""
        return mean

    def _map(self, output: Tensor, truth: Tensor) -> Tensor:
        return (output - truth).abs()


class RMSE(_SquaredError):
    """Root mean square error, in the intensities that the networks work in; `in_units` is the same in native ones."""

    name, unit, higher_is_better = "rmse", "", False
    native = "rmse"

    def of_mean(self, mean: Tensor) -> Tensor:
        """From the mean square error."""
        return mean.sqrt()

    def in_units(self, mean: Tensor) -> Tensor:
        """From the mean square error of native intensities."""
        return mean.sqrt()


class NRMSE(RMSE):
    """Root mean square error divided by the data range: 0 for equal images, 1 for black against white.

    The range is the recipe's, neither an image's own extremes nor its mean or norm, by which others divide.
    """

    name, unit, higher_is_better = "nrmse", "", False

    def of_mean(self, mean: Tensor) -> Tensor:
        """From the mean square error."""
        return mean.sqrt() / self.data_range
