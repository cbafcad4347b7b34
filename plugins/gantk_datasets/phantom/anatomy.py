"""The phantom's anatomy: deforms tissue maps of the ICBM152 template into seeded heads, with
lesions and a skull.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation

from gantk_datasets.phantom.tissues import CENTRE, CEREBRUM, SHELLS, TISSUES

ORIGIN = (-72.0, -107.0, -72.0)  # MNI mm (x, y, z) of the first voxel of anatomy.npz
DEFORMATION = 2.0  # mm, root mean square of the smooth deformation along each axis
MARGIN = 40  # mm around the brain in which `brain_distance` is computed
# its multiples modulo 1 are spread evenly and have no period that a split could follow
GOLDEN = 0.6180339887498949


@cache
def template() -> torch.Tensor:
    """Shares of CSF, gray and white matter in the ICBM152 template: (3, z, y, x) at 1 mm, x from
    the left.

    CSF is the brain mask minus gray and white matter. The file holds the left half of the symmetric
    2009a template (Fonov et al., NeuroImage 2011), in 255ths; anatomy.npz.LICENSE beside it allows
    any use that keeps its notice.
    """
    with np.load(Path(__file__).with_name("anatomy.npz")) as file:
        left = {name: file[name].astype(np.float32) for name in ("brain", "gray", "white")}

    def with_right_half(part: np.ndarray) -> np.ndarray:
        return np.concatenate([part, part[..., -2::-1]], axis=-1)

    brain = with_right_half(left["brain"])
    gray = with_right_half(left["gray"])
    white = with_right_half(left["white"])
    gray /= np.float32(255)
    white /= np.float32(255)
    total = np.maximum(gray + white, 1.0)
    gray /= total
    white /= total
    fluid = np.clip(brain - gray - white, 0, None)
    return torch.from_numpy(np.stack([fluid, gray, white]))


@lru_cache(maxsize=2)
def template_at(voxel: tuple[float, float, float]) -> torch.Tensor:
    """The tissue shares averaged over voxels of `voxel` mm (z, y, x), on the template's grid."""
    maps = template()
    for axis, width in enumerate(voxel, start=1):
        if width > 1:
            place = torch.arange(maps.shape[axis], dtype=torch.float32)
            sigma = width / 2.355  # full width at half maximum = the voxel's width
            spread = torch.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
            spread /= sigma * (2 * torch.pi) ** 0.5
            spread[spread < 1e-30] = 0  # arithmetic on denormal numbers takes five times as long
            maps = torch.tensordot(maps, spread, dims=([axis], [0])).movedim(-1, axis)

    return maps.contiguous()


@cache
def brain_distance() -> torch.Tensor:
    """Distance to the brain in mm, 0 inside: (1, z, y, x) at 2 mm, up to `MARGIN` mm around the
    template.

    The sulci and the gap under the temporal lobes are closed first, because the skull does not
    follow them.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter, label

    brain = np.pad(template().sum(dim=0).numpy() > 0.5, MARGIN)[::2, ::2, ::2]
    parts = label(brain)[0]
    # stray voxels of the mask would get a skull of their own
    brain = parts == np.bincount(parts[brain]).argmax()
    closed = distance_transform_edt(distance_transform_edt(~brain) < 15) > 14.5
    distance = 2 * distance_transform_edt(~closed).astype(np.float32)  # mm
    return torch.from_numpy(gaussian_filter(distance, 1))[None]


@cache
def deep_white() -> np.ndarray:
    """Possible centres of lesions in MNI mm, (n, 3): white matter between the lowest and the
    highest slice.
    """
    white = template()[2].numpy() > 0.9
    z = np.arange(len(white)) + ORIGIN[2]
    white[(z <= CEREBRUM[0]) | (z >= CEREBRUM[1])] = False
    return np.argwhere(white)[:, ::-1] + np.array(ORIGIN)


def sample_maps(
    maps: torch.Tensor, inside: torch.Tensor, margin: int = 0, spacing: float = 1.0
) -> torch.Tensor:
    """Interpolate maps (C, z, y, x) that reach `margin` mm beyond the template at (D, H, W, 3)
    points in mm.
    """
    first = torch.tensor(np.array(ORIGIN) - margin, dtype=torch.float32)
    extent = (torch.tensor(maps.shape[:0:-1], dtype=torch.float32) - 1) * spacing  # x, y, z
    grid = 2 * (inside - first) / extent - 1
    beyond = "border" if margin else "zeros"
    return F.grid_sample(maps[None], grid[None], align_corners=True, padding_mode=beyond)[0]


class Waves:
    """A smooth random field: a sum of seeded sine waves; each component has a root mean square of
    about 1.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        components: int,
        count: int,
        wavelengths: tuple[float, float],
    ):
        directions = rng.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        numbers = 2 * np.pi / rng.uniform(*wavelengths, (count, 1))  # wavelengths in mm
        self.vectors = torch.tensor(directions * numbers, dtype=torch.float32)
        self.phases = torch.tensor(rng.uniform(0, 2 * np.pi, count), dtype=torch.float32)
        weights = rng.standard_normal((count, components)) * np.sqrt(2 / count)
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Evaluate the field at (..., 3) points in mm; returns (..., components)."""
        return torch.sin(points @ self.vectors.T + self.phases) @ self.weights


class Subject:
    """One seeded head: the deformation of the template, the relaxation of its tissues, and the gain
    of its coil.

    `relaxation` (2, tissues) are the factors on T1 and T2. A seed and number define the same head
    with or without lesions and skull. The skull is shells of bone and scalp around the brain, of
    smoothly varying thickness, with CSF between brain and bone: closed, without a face, a neck or a
    base.
    """

    def __init__(
        self,
        seed: int,
        number: int,
        *,
        jitter: float,
        bias: float,
        lesions: int,
        radius: tuple[float, float],
        healthy: float,
        skull: bool,
    ):
        rng = np.random.default_rng([seed, number])
        turns = rng.normal(0, 4, 3).clip(-8, 8)
        rotation = Rotation.from_euler("xyz", turns, degrees=True).as_matrix()
        scales = rng.normal(1, 0.04, 3).clip(0.92, 1.08)
        shears = np.eye(3)
        shears[[0, 0, 1], [1, 2, 2]] = rng.normal(0, 0.02, 3).clip(-0.04, 0.04)
        self.affine = torch.tensor(rotation @ shears @ np.diag(scales), dtype=torch.float32)
        self.shift = torch.tensor(rng.normal(0, 3, 3).clip(-6, 6), dtype=torch.float32)  # mm
        self.warp = Waves(rng, 3, 16, (80.0, 200.0))
        self.coil = Waves(rng, 1, 6, (250.0, 600.0))
        self.bias = bias
        # Factors on T1 and T2 of each tissue; bounded, so that gray matter is always darker than
        # white.
        self.relaxation = rng.uniform(1 - jitter, 1 + jitter, (2, len(TISSUES)))
        spared = ((number + 1) * GOLDEN + seed * GOLDEN**2) % 1 < healthy
        self.lesions = [] if spared else [_lesion(rng, radius) for _ in range(lesions)]
        self.skull = skull
        if skull:
            rng = np.random.default_rng([seed, number, 1, 1])
            mean = rng.uniform((1.5, 4.0, 3.5), (3.5, 6.0, 6.0))  # mm of gap, bone and scalp
            self.thickness = torch.tensor(mean, dtype=torch.float32)
            self.uneven = Waves(rng, 3, 12, (60.0, 150.0))
            shells = rng.uniform(1 - jitter, 1 + jitter, (2, len(SHELLS)))
            self.relaxation = np.concatenate([self.relaxation, shells], axis=1)

    def tissue(self, points: torch.Tensor, voxel: tuple[float, float, float]) -> torch.Tensor:
        """The tissues' shares and, last, the coil's gain at (D, H, W, 3) points in mm: (tissues +
        1, D, H, W).

        Tissues are CSF, gray, white, lesion, and with a skull bone and scalp.
        """
        centre = torch.tensor(CENTRE)
        # the points' coordinates in the template
        inside = (points - centre) @ self.affine.T + centre + self.shift
        inside = inside + DEFORMATION * self.warp(points)
        shares = self._with_lesions(sample_maps(template_at(voxel), inside), inside)
        if self.skull:
            shares = self._with_skull(shares, inside, edge=max(1.5, *voxel[1:]))

        return torch.cat([shares, self._gain(points)[None]])

    def _with_lesions(self, shares: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        """Add the share of the lesions, which replace gray and white matter."""
        lesion = torch.zeros(shares.shape[1:])
        # from 1 inside to 0 outside within a fifth of their radius
        for place, axes in self.lesions:
            distance = ((inside - place) @ axes).norm(dim=-1)  # 1 on the lesion's surface
            lesion = torch.maximum(lesion, torch.sigmoid(6 * (1 - distance)))

        lesion = lesion * (shares[1] + shares[2])
        return torch.cat([shares * (1 - lesion), lesion[None]])

    def _with_skull(self, shares: torch.Tensor, inside: torch.Tensor, edge: float) -> torch.Tensor:
        """Add bone and scalp around the brain, and CSF between; `edge`: width of their edges, mm."""
        distance = sample_maps(brain_distance(), inside, MARGIN, spacing=2.0)[0]
        thickness = self.thickness * (1 + 0.2 * self.uneven(inside)).clamp(0.5, 1.6)
        edges = thickness.cumsum(dim=-1).movedim(-1, 0)  # inner table, outer table, skin
        within = torch.sigmoid(4 * (edges - distance) / edge)
        shells = torch.diff(within, dim=0, prepend=torch.zeros_like(within[:1]))
        outside_brain = (1 - shares.sum(dim=0)).clamp_min(0)
        gap, bone, scalp = outside_brain * shells
        return torch.cat([shares[:1] + gap, shares[1:], bone[None], scalp[None]])

    def _gain(self, points: torch.Tensor) -> torch.Tensor:
        """The coil's gain; its logarithm is normalised to mean 0 and deviation 1 over the head,
        because scanners calibrate its level.
        """
        line = torch.linspace(-70, 70, 8)
        ball = torch.cartesian_prod(line, line, line)
        head = self.coil(ball[ball.norm(dim=1) <= 75] + torch.tensor(CENTRE))[..., 0]
        unevenness = (self.coil(points)[..., 0] - head.mean()) / head.std().clamp_min(1e-3)
        return torch.exp(self.bias * unevenness)


def _lesion(
    rng: np.random.Generator, radius: tuple[float, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a lesion, an ellipsoid with radii within `radius` mm: its centre in mm, and axes that
    turn mm into radii.
    """
    place = deep_white()[rng.integers(len(deep_white()))]
    rotation = Rotation.from_euler("xyz", rng.uniform(0, np.pi, 3)).as_matrix()
    axes = rotation @ np.diag(1 / rng.uniform(*radius, 3))
    return torch.tensor(place, dtype=torch.float32), torch.tensor(axes, dtype=torch.float32)
