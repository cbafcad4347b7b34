"""Metrics of an output against its reference image: PSNR, SSIM, MS-SSIM, MAE, RMSE, NRMSE, LPIPS, lesion contrast.

Each gives one number an image, over the whole of it or over a region. The data range is the recipe's, the same for
every image and every run: a score that divides by an image's own maximum can be raised by an outlier.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.errors import UserError
from gantk.metrics.features import middle_slices

CEILING = 100.0  # dB, the PSNR of equal images
RADIUS, SIGMA = 5, 1.5  # pixels of SSIM's Gaussian windows
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of MS-SSIM's scales, fine to coarse (Wang et al., 2003)
RING = 5  # pixels around a lesion that it is compared with
FAINT = 0.02  # of the data range: a lesion that differs by less in the reference has no contrast to be kept
LPIPS_FILES = {  # torchvision's own names
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
LPIPS_SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}  # pixels a side, below which the last layer sees nothing


class PairMetric:
    """A score of images (N, C, *size) against their references: (N,), float32, on the images' device.

    `mask` (N, 1, *size) or (N, C, *size), above 0 inside, limits the score to a region; an image whose mask is empty
    scores nan. Nothing is clipped. UserError where shapes differ.
    """

    name: str
    unit: str
    higher_is_better: bool | None
    smallest = 1  # pixels a side of images that can be scored

    def __init__(self, data_range: float, dims: int):
        if data_range <= 0:
            raise UserError(f"a data range of {data_range:g} cannot be", where="data_range", allowed="above 0")
        self.data_range, self.dims = float(data_range), dims

    @property
    def definition(self) -> str:
        """How the number was made, as it stands beside it; `in_mask` is the same over a mask."""
        return f"{self._method()}/whole-image"

    @property
    def in_mask(self) -> str | None:
        """None for a score that cannot be limited to a mask."""
        return f"{self._method()}/mask"

    def __call__(self, output: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None and self.in_mask is None:
            raise UserError(f"{self.name} cannot be limited to a mask", where="evaluate.regions")
        with self._compared(output, reference):
            return self._score(output.float(), reference.float(), expanded(mask, output))

    def expect_size(self, size: Sequence[int]) -> None:
        """UserError where images of this size cannot be judged."""
        if min(size) < self.smallest:
            what = f"{self.name} cannot judge images of {' x '.join(map(str, size))}"
            raise UserError(what, where="data.size", allowed=f"{self.smallest} or more a side")

    @contextmanager
    def _compared(self, output: Tensor, reference: Tensor) -> Iterator[None]:
        """Without gradients, in full precision; UserError where the two cannot be compared."""
        if output.shape != reference.shape or output.ndim != self.dims + 2:
            shapes = f"{tuple(output.shape)} with {tuple(reference.shape)}"
            raise UserError(f"{self.name} cannot compare {shapes}", allowed=f"two {self.dims}-D (N, C, ...)")
        self.expect_size(output.shape[2:])
        with torch.no_grad(), torch.autocast(output.device.type, enabled=False):
            yield

    def _method(self) -> str:
        return f"{self.name}/fixed-range-{self.data_range:g}"

    def _score(self, output: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError


class MapMetric(PairMetric):
    """A score that follows from the mean of a map: one map serves all regions, and slices pool to their volume."""

    def means(self, output: Tensor, reference: Tensor, masks: Sequence[Tensor | None]) -> list[tuple[Tensor, Tensor]]:
        """For each mask (None: the whole image) the map's mean over it, and of how many values that is: (N,) each."""
        with self._compared(output, reference):
            found = self._map(output.float(), reference.float())
            insides = [self._on_map(expanded(mask, output)) for mask in masks]
            return [(region_mean(found, inside), region_count(found, inside)) for inside in insides]

    def of_mean(self, mean: Tensor) -> Tensor:
        """The score of a map's mean."""
        return mean

    def _score(self, output: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        return self.of_mean(region_mean(self._map(output, reference), self._on_map(mask)))

    def _map(self, output: Tensor, reference: Tensor) -> Tensor:
        """Of squared errors, unless a score is of something else."""
        return (output - reference).square()

    def _on_map(self, mask: Tensor | None) -> Tensor | None:
        """The mask at the positions of the map."""
        return mask


class PSNR(MapMetric):
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
    native = "mae"  # the name of what `in_units` gives

    def in_units(self, mean: Tensor) -> Tensor:
        """From the mean absolute error of native intensities."""
        return mean

    def _map(self, output: Tensor, reference: Tensor) -> Tensor:
        return (output - reference).abs()


class RMSE(MapMetric):
    """Root mean square error, in the intensities that the networks work in; `in_units` is the same in native ones."""

    name, unit, higher_is_better = "rmse", "", False
    native = "rmse"

    def of_mean(self, mean: Tensor) -> Tensor:
        """From the mean square error."""
        return mean.sqrt()

    in_units = of_mean  # of native intensities


class NRMSE(RMSE):
    """Root mean square error divided by the recipe's data range: 0 for equal images, 1 for black against white."""

    name = "nrmse"

    def of_mean(self, mean: Tensor) -> Tensor:
        """From the mean square error."""
        return mean.sqrt() / self.data_range


class SSIM(MapMetric):
    """Structural similarity (Wang et al., 2004) in Gaussian windows of 11 pixels a side, sigma 1.5; 1 for equal images.

    Mean over the windows that lie wholly inside the image, in a region over those whose middle is inside it, and over
    channels; constants 0.01 and 0.03 of the range. Volumes have windows of 11 voxels along all three axes. As
    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`.
    """

    name, unit, higher_is_better = "ssim", "", True
    smallest = 2 * RADIUS + 1

    def _method(self) -> str:
        return f"{super()._method()}/gaussian-11-1.5"

    def _map(self, output: Tensor, reference: Tensor) -> Tensor:
        luminance, structure = similarity_terms(output, reference, self.data_range)
        return luminance[0] * structure[0] / (luminance[1] * structure[1])

    def _on_map(self, mask: Tensor | None) -> Tensor | None:
        if mask is not None:
            for axis in range(2, mask.ndim):
                mask = mask.narrow(axis, RADIUS, mask.shape[axis] - 2 * RADIUS)
        return mask


class MSSSIM(PairMetric):
    """Multi-scale structural similarity (Wang et al., 2003, eq. 7): contrast and structure at up to five scales.

    Each scale halves the one before; those at which an image has fewer than 11 pixels a side are left out, and the
    weights of the others scaled to sum to 1. All five need 176 pixels a side. A negative mean counts as 0. It cannot be
    limited to a region: a window of the coarsest scale is 176 pixels wide.
    """

    name, unit, higher_is_better = "ms_ssim", "", True
    in_mask = None
    smallest = 2 * RADIUS + 1

    def _method(self) -> str:
        return f"{super()._method()}/gaussian-11-1.5/up-to-{len(SCALES)}-scales"

    def _score(self, output: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        sides = [min(output.shape[2:]) // 2**scale for scale in range(len(SCALES))]
        weights = SCALES[: max(1, sum(side >= self.smallest for side in sides))]
        shrink = F.avg_pool2d if self.dims == 2 else F.avg_pool3d
        score = torch.ones(len(output), device=output.device)
        for scale, weight in enumerate(weights):
            luminance, structure = similarity_terms(output, reference, self.data_range)
            found = structure[0] / structure[1]
            if scale == len(weights) - 1:
                found = found * luminance[0] / luminance[1]
            score = score * region_mean(found, None).clamp_min(0) ** (weight / sum(weights))
            output, reference = shrink(output, 2), shrink(reference, 2)
        return score


class LesionContrast(PairMetric):
    """Lesion minus surroundings in the output, as a share of the same in the reference: 1 is kept, 0 gone, -1 inverted.

    Surroundings are the 5 pixels around the mask. Of several channels it is the factor that brings the reference's
    differences closest to the output's in mean square. An image without a lesion, or whose lesion is invisible in the
    reference (less than 2 % of the range), scores nan.
    """

    name, unit, higher_is_better = "lesion_contrast", "", None
    in_mask = f"lesion_contrast/ring-of-{RING}-pixels/output-over-truth/seen-above-{FAINT:g}-of-range"

    def _score(self, output: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            raise UserError("lesion_contrast needs lesion masks", where="evaluate.metrics")
        grown = F.max_pool2d if self.dims == 2 else F.max_pool3d
        inside = mask[:, :1].float()
        ring = (grown(inside, 2 * RING + 1, 1, RING) - inside) > 0
        made, real = (self._contrast(image, inside > 0, ring) for image in (output, reference))
        factor = (made * real).sum(1) / real.square().sum(1)
        return torch.where(real.abs().amax(1) < FAINT * self.data_range, torch.nan, factor)

    @staticmethod
    def _contrast(image: Tensor, inside: Tensor, ring: Tensor) -> Tensor:
        """(N, C)"""
        return torch.stack([region_mean(c, inside) - region_mean(c, ring) for c in image.split(1, 1)], 1)


class LPIPS(PairMetric):
    """Learned perceptual image patch similarity (Zhang et al., 2018, eq. 1): 0 for equal images, more is worse.

    Squared differences of a network's normalised activations in five layers (seven of SqueezeNet), averaged over
    positions and weighted as people judged: version 0.1 of the package lpips. Images are seen from black, -1, to white,
    +1, and not clipped. Those of 3 channels are colour pictures; of any other number each channel is a gray picture of
    its own, and a volume is its three slices through the middle: the mean is taken. UserError where weights are absent.

    With weights = "random" the result is called lpips_random, and is no LPIPS: the network's weights are drawn from a
    seed and all activations weigh alike. It says how different edges and textures are, and needs no file.
    """

    unit, higher_is_better = "", False
    in_mask = None

    def __init__(
        self,
        data_range: float,
        dims: int,
        *,
        net: Literal["alex", "vgg", "squeeze"] = "alex",  # the network: AlexNet, VGG16 or SqueezeNet 1.1
        weights: Literal["pretrained", "random"] = "pretrained",  # random: needs no file; then named lpips_random
        seed: int = 0,  # of random weights
    ):
        super().__init__(data_range, dims)
        self.random, self.smallest = weights == "random", LPIPS_SMALLEST[net]
        self.name = "lpips_random" if self.random else "lpips"
        self.which = f"net={net}-random-seed-{seed}" if self.random else f"version-0.1/net={net}"
        self.network = lpips_network(net, seed if self.random else None)

    def _method(self) -> str:
        return f"{super()._method()}/{self.which}" + ("/middle-slices" if self.dims == 3 else "")

    def _score(self, output: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        self.network.to(output.device)
        scaled = [2 * images / self.data_range - 1 for images in (output, reference)]
        found = []
        for views in zip(*map(middle_slices, scaled), strict=True) if self.dims == 3 else [scaled]:
            if output.shape[1] == 3:
                found.append(self.network(*views).flatten())
                continue
            channels = zip(*(view.split(1, 1) for view in views), strict=True)
            each = [self.network(*(gray.expand(-1, 3, -1, -1) for gray in both)).flatten() for both in channels]
            found.append(torch.stack(each).mean(0))
        return torch.stack(found).mean(0)


def lpips_network(net: str, seed: int | None) -> nn.Module:
    """The package's network with weights of a seed, which weigh alike, or (None) with those that it was published with.

    The backbone's are then those of $GANTK_WEIGHTS, torch's cache or the web; UserError where they are nowhere. The
    weights by which people's judgement enters come with the package. The global random generator stays as it was.
    """
    import lpips

    from gantk.nets.pretrained import weights_file

    path = weights_file(LPIPS_FILES[net]) if seed is None else None
    drawn = seed is not None or path is not None
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # it asks torchvision for weights in a way that is out of fashion
            torch.default_generator.manual_seed(seed or 0)
            network = lpips.LPIPS(net=net, verbose=False, pnet_rand=drawn, lpips=seed is None)
    except OSError as error:
        raise UserError(
            f"the weights of the network '{net}' of lpips are not on this machine and cannot be fetched ({error})",
            where="evaluate.metrics",
            remedy=f"put {LPIPS_FILES[net]} of torchvision into a folder and set GANTK_WEIGHTS to it, "
            'or set weights = "random": then it is no LPIPS',
        ) from None
    if path is not None:
        try:
            known = torch.load(path, map_location="cpu", weights_only=True)
            own = network.net.state_dict()  # slice2.3.weight is features.3.weight
            network.net.load_state_dict({name: known[f"features.{name.partition('.')[2]}"] for name in own})
        except Exception as error:  # damaged bytes make the readers raise whatever they lead them to
            what = f"'{path}' does not hold torchvision's weights of that network: {str(error)[:200]}"
            raise UserError(what, where="GANTK_WEIGHTS", remedy="copy it again, as torchvision offers it") from None
    return network.eval().requires_grad_(False)


Fraction = tuple[Tensor, Tensor]  # numerator, denominator


def similarity_terms(output: Tensor, reference: Tensor, data_range: float) -> tuple[Fraction, Fraction]:
    """The two factors of every window's similarity: luminance; contrast and structure."""
    maps = torch.stack([output, reference, output.square(), reference.square(), output * reference])
    mean_o, mean_r, mean_oo, mean_rr, mean_or = _window_mean(maps)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    means, products = mean_o.square() + mean_r.square(), mean_o * mean_r
    variances = mean_oo + mean_rr - means
    return (2 * products + c1, means + c1), (2 * (mean_or - products) + c2, variances + c2)


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian-weighted mean of every window inside the images (K, N, C, *size), one axis after another."""
    kernel = torch.exp(-(torch.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * SIGMA**2))
    kernel = (kernel / kernel.sum()).tolist()
    for axis in range(3, x.ndim):
        count = x.shape[axis] - 2 * RADIUS
        total = kernel[0] * x.narrow(axis, 0, count)
        for shift, weight in enumerate(kernel[1:], 1):
            total.add_(x.narrow(axis, shift, count), alpha=weight)
        x = total
    return x


def expanded(mask: Tensor | None, images: Tensor) -> Tensor | None:
    """A mask as bools, one for each value of the images."""
    return None if mask is None else (mask > 0).expand_as(images)


def region_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each image over all its channels and positions, or those inside the mask: (N,)."""
    if mask is None:
        return values.flatten(1).mean(1)
    return torch.where(mask, values, 0).flatten(1).sum(1) / region_count(values, mask)


def region_count(values: Tensor, mask: Tensor | None) -> Tensor:
    """Over how many values `region_mean` is a mean: (N,)."""
    if mask is None:
        return torch.full((len(values),), float(values[0].numel()), device=values.device)
    return mask.flatten(1).sum(1).float()
