"""Seeded heads: the tissue maps of the ICBM152 template, bent, and with lesions where asked."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

CENTRE = (0.0, -18.0, 8.0)  # mm in MNI space (x right, y anterior, z superior), the middle of the brain
CEREBRUM = (-20.0, 50.0)  # mm, MNI z between which slices and lesions lie
TISSUES = ("csf", "gray", "white", "lesion")


@lru_cache(maxsize=1)
def template() -> tuple[torch.Tensor, np.ndarray]:
    """Shares of CSF, gray and white matter of the ICBM152 template and the MNI mm of their first voxel.

    Shares (3, z, y, x) at 1 mm, x from left to right, y to anterior, z to superior; CSF is what the brain mask leaves.
    """
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template
    from scipy.ndimage import binary_fill_holes

    images = [load(resolution=1) for load in (load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template)]
    mask, gray, white = (np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0) for image in images)
    mask = binary_fill_holes(mask > 0.5).astype(np.float32)
    gray, white = gray * mask, white * mask
    total = np.maximum(gray + white, 1.0)
    gray, white = gray / total, white / total
    csf = np.clip(mask - gray - white, 0, None)
    box = tuple(slice(idx.min(), idx.max() + 1) for idx in np.nonzero(mask))
    origin = images[0].affine[:3, 3] + [part.start for part in reversed(box)]
    return torch.from_numpy(np.stack([csf, gray, white])[(slice(None), *box)].copy()), origin


@lru_cache(maxsize=2)
def template_at(voxel: tuple[float, float, float]) -> torch.Tensor:
    """The tissue shares as voxels of `voxel` mm (z, y, x) see them: averaged over the voxel, not sampled at a point."""
    maps = template()[0]
    for axis, width in enumerate(voxel, start=1):
        if width > 1:
            place = torch.arange(maps.shape[axis], dtype=torch.float32)
            sigma = width / 2.355  # a point spread as wide as the voxel at half its height
            spread = torch.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2) / (sigma * (2 * torch.pi) ** 0.5)
            maps = torch.tensordot(maps, spread, dims=([axis], [0])).movedim(-1, axis)
    return maps.contiguous()


class Waves:
    """A smooth random field: a sum of seeded sine waves, `root mean square` about 1 in each of its components."""

    def __init__(self, rng: np.random.Generator, components: int, count: int, wavelengths: tuple[float, float]):
        directions = rng.standard_normal((count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        numbers = 2 * np.pi / rng.uniform(*wavelengths, (count, 1))  # wavelengths in mm
        self.vectors = torch.tensor(directions * numbers, dtype=torch.float32)
        self.phases = torch.tensor(rng.uniform(0, 2 * np.pi, count), dtype=torch.float32)
        weights = rng.standard_normal((count, components)) * np.sqrt(2 / count)
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """(..., 3) points in mm -> (..., components)."""
        return torch.sin(points @ self.vectors.T + self.phases) @ self.weights


class Subject:
    """One seeded head: where the template's tissue lies in it, how its tissue relaxes, how evenly its coil receives.

    `relaxation` (2, tissues) are the factors on T1 and T2. The same seed and number are the same head.
    """

    def __init__(self, seed: int, number: int, *, jitter: float, deform: float, bias: float, lesions: int):
        rng = np.random.default_rng([seed, number])
        turns = np.deg2rad(rng.normal(0, 4, 3).clip(-8, 8))
        scales = rng.normal(1, 0.04, 3).clip(0.92, 1.08)
        shears = rng.normal(0, 0.02, 3).clip(-0.04, 0.04)
        self.affine = torch.tensor(_rotation(turns) @ _upper(shears) @ np.diag(scales), dtype=torch.float32)
        self.shift = torch.tensor(rng.normal(0, 3, 3).clip(-6, 6), dtype=torch.float32)  # mm
        self.warp, self.deform = Waves(rng, 3, 16, (80.0, 200.0)), deform
        self.coil, self.bias = Waves(rng, 1, 6, (250.0, 600.0)), bias
        # Of T1 and T2 of each tissue; bounded, so that gray matter never gets as bright as white.
        self.relaxation = rng.uniform(1 - jitter, 1 + jitter, (2, len(TISSUES)))
        self.lesions = [_lesion(rng) for _ in range(lesions)]

    def tissue(self, points: torch.Tensor, voxel: tuple[float, float, float]) -> torch.Tensor:
        """Shares of CSF, gray, white, lesion and then the coil's gain at (D, H, W, 3) points in mm: (5, D, H, W)."""
        centre = torch.tensor(CENTRE)
        inside = (points - centre) @ self.affine.T + centre + self.shift
        inside = inside + self.deform * self.warp(points)
        maps = template_at(voxel)
        origin = torch.tensor(template()[1], dtype=torch.float32)
        last = torch.tensor(maps.shape[:0:-1], dtype=torch.float32) - 1  # x, y, z
        grid = 2 * (inside - origin) / last - 1
        shares = F.grid_sample(maps[None], grid[None], align_corners=True)[0]
        hurt = torch.zeros(shares.shape[1:])
        for place, axes in self.lesions:
            distance = ((inside - place) @ axes).norm(dim=-1)  # 1 on the lesion's surface
            hurt = torch.maximum(hurt, torch.sigmoid(6 * (1 - distance)))
        hurt = hurt * (shares[1] + shares[2])
        shares = shares * (1 - hurt)
        gain = torch.exp(self.bias * self._unevenness(points))
        return torch.cat([shares, hurt[None], gain[None]])

    def _unevenness(self, points: torch.Tensor) -> torch.Tensor:
        """The logarithm of the gain, mean 0 and deviation 1 over the head: scanners calibrate its level away."""
        head = self.coil(_head_points())[..., 0]
        return (self.coil(points)[..., 0] - head.mean()) / head.std().clamp_min(1e-3)


@lru_cache(maxsize=1)
def _head_points() -> torch.Tensor:
    """(n, 3) points in mm, evenly spread over a ball about as large as a brain."""
    line = torch.linspace(-70, 70, 8)
    cube = torch.cartesian_prod(line, line, line)
    return cube[cube.norm(dim=1) <= 75] + torch.tensor(CENTRE, dtype=torch.float32)


def _rotation(turns: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    for axis, turn in enumerate(turns):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[[i, i, j, j], [i, j, i, j]] = np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)
        matrix = one @ matrix
    return matrix


def _upper(shears: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    matrix[[0, 0, 1], [1, 2, 2]] = shears
    return matrix


@lru_cache(maxsize=1)
def _deep_white() -> np.ndarray:
    """MNI mm of the voxels where lesions may be centred: white matter between the lowest and highest slice, (n, 3)."""
    maps, origin = template()
    z = np.arange(maps.shape[1]) + origin[2]
    deep = (maps[2] > 0.9).numpy() & ((z > CEREBRUM[0]) & (z < CEREBRUM[1]))[:, None, None]
    return np.argwhere(deep)[:, ::-1] + origin


def _lesion(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Its centre in mm, and the axes that turn mm into radii: an ellipsoid of 4 to 12 mm."""
    places = _deep_white()
    place = places[rng.integers(len(places))]
    axes = _rotation(rng.uniform(0, np.pi, 3)) @ np.diag(1 / rng.uniform(4, 12, 3))
    return torch.tensor(place, dtype=torch.float32), torch.tensor(axes, dtype=torch.float32)
