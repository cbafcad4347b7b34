"""Anatomy of the phantom: tissue maps of the ICBM152 template, deformed into seeded heads with lesions and a skull."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

CENTRE = (0.0, -18.0, 8.0)  # mm in MNI space (x right, y anterior, z superior), the middle of the brain
CEREBRUM = (-20.0, 50.0)  # mm, MNI z between which slices and lesions lie
ORIGIN = (-72.0, -107.0, -72.0)  # MNI mm (x, y, z) of the first voxel of anatomy.npz
TISSUES = ("csf", "gray", "white", "lesion")
SHELLS = ("bone", "scalp")  # around the brain, from the inside out
MARGIN = 40  # mm around the brain within which its distance is known
GOLDEN = 0.6180339887498949  # multiples of it fill the unit interval evenly, in no period that a split could follow


@lru_cache(maxsize=1)
def template() -> tuple[torch.Tensor, np.ndarray]:
    """Shares of CSF, gray and white matter of the ICBM152 template and the MNI mm of their first voxel.

    Shares (3, z, y, x) at 1 mm, x from left to right, y to anterior, z to superior; CSF is what gray and white matter
    leave of the brain mask. The maps are the left half of the symmetric 2009a template (Fonov et al., NeuroImage 2011),
    in 255ths; their licence, which allows any use that keeps its notice, lies beside them in anatomy.npz.LICENSE.
    """
    with np.load(Path(__file__).with_name("anatomy.npz")) as file:
        left = [file[name].astype(np.float32) for name in ("brain", "gray", "white")]
    brain, gray, white = (np.concatenate([part, part[..., -2::-1]], axis=-1) for part in left)
    gray, white = gray / np.float32(255), white / np.float32(255)
    total = np.maximum(gray + white, 1.0)
    gray, white = gray / total, white / total
    csf = np.clip(brain - gray - white, 0, None)
    return torch.from_numpy(np.stack([csf, gray, white])), np.array(ORIGIN)


@lru_cache(maxsize=2)
def template_at(voxel: tuple[float, float, float]) -> torch.Tensor:
    """The tissue shares as voxels of `voxel` mm (z, y, x) see them: averaged over the voxel, not sampled at a point."""
    maps = template()[0]
    for axis, width in enumerate(voxel, start=1):
        if width > 1:
            place = torch.arange(maps.shape[axis], dtype=torch.float32)
            sigma = width / 2.355  # a point spread as wide as the voxel at half its height
            spread = torch.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2) / (sigma * (2 * torch.pi) ** 0.5)
            spread[spread < 1e-30] = 0  # products of numbers near the smallest there are take five times as long
            maps = torch.tensordot(maps, spread, dims=([axis], [0])).movedim(-1, axis)
    return maps.contiguous()


class Waves:
    """A smooth random field: a sum of seeded sine waves, root mean square about 1 in each of its components."""

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

    `relaxation` (2, tissues) are the factors on T1 and T2. The same seed and number are the same head, with lesions or
    a skull or without.
    """

    def __init__(
        self, seed: int, number: int, *, jitter: float, deform: float, bias: float, lesions: int,
        radius: tuple[float, float], healthy: float, skull: bool,
    ):  # fmt: skip
        rng = np.random.default_rng([seed, number])
        turns = np.deg2rad(rng.normal(0, 4, 3).clip(-8, 8))
        scales = rng.normal(1, 0.04, 3).clip(0.92, 1.08)
        shears = np.eye(3)
        shears[[0, 0, 1], [1, 2, 2]] = rng.normal(0, 0.02, 3).clip(-0.04, 0.04)
        self.affine = torch.tensor(_rotation(turns) @ shears @ np.diag(scales), dtype=torch.float32)
        self.shift = torch.tensor(rng.normal(0, 3, 3).clip(-6, 6), dtype=torch.float32)  # mm
        self.warp, self.deform = Waves(rng, 3, 16, (80.0, 200.0)), deform
        self.coil, self.bias = Waves(rng, 1, 6, (250.0, 600.0)), bias
        # Of T1 and T2 of each tissue; bounded, so that gray matter never gets as bright as white.
        self.relaxation = rng.uniform(1 - jitter, 1 + jitter, (2, len(TISSUES)))
        spared = ((number + 1) * GOLDEN + seed * GOLDEN**2) % 1 < healthy
        self.lesions = [] if spared else [_lesion(rng, radius) for _ in range(lesions)]
        self.skull = None
        if skull:
            rng = np.random.default_rng([seed, number, 1, 1])
            self.skull = Skull(rng)
            shells = rng.uniform(1 - jitter, 1 + jitter, (2, len(SHELLS)))
            self.relaxation = np.concatenate([self.relaxation, shells], axis=1)

    def place(self, points: torch.Tensor) -> torch.Tensor:
        """Where in the template the points (..., 3) of this head lie, in mm."""
        centre = torch.tensor(CENTRE)
        inside = (points - centre) @ self.affine.T + centre + self.shift
        return inside + self.deform * self.warp(points)

    def tissue(self, points: torch.Tensor, voxel: tuple[float, float, float]) -> torch.Tensor:
        """Shares of the tissues and then the coil's gain at (D, H, W, 3) points in mm: (tissues + 1, D, H, W).

        Tissues are CSF, gray, white, lesion, and with a skull bone and scalp.
        """
        inside = self.place(points)
        shares = _shares(inside, voxel)
        lesion = self._lesion_share(inside, shares)
        shares = torch.cat([shares * (1 - lesion), lesion[None]])
        if self.skull is not None:
            shares = self.skull.around(shares, inside, voxel)
        # The logarithm of the gain has mean 0 and deviation 1 over the head: scanners calibrate its level away.
        head = self.coil(_head_points())[..., 0]
        unevenness = (self.coil(points)[..., 0] - head.mean()) / head.std().clamp_min(1e-3)
        return torch.cat([shares, torch.exp(self.bias * unevenness)[None]])

    def lesion_share(self, points: torch.Tensor, voxel: tuple[float, float, float]) -> torch.Tensor:
        """The lesions' share of the tissue at (n, 3) points in mm: (n,)."""
        inside = self.place(points)[:, None, None]
        return self._lesion_share(inside, _shares(inside, voxel))[:, 0, 0]

    def lesion_boxes(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Corners, (3,) and (3,) in mm of this head, of boxes that hold its lesions."""
        back, centre, boxes = torch.linalg.inv(self.affine).T, torch.tensor(CENTRE), []
        for place, axes in self.lesions:
            points = place.clone()
            for _ in range(6):  # the deformation is small and smooth: this converges to a fraction of a mm
                points = (place - centre - self.shift - self.deform * self.warp(points)) @ back + centre
            reach = 1.4 / axes.norm(dim=0).min() + 2 + self.deform  # the longest radius, stretched by affine and waves
            boxes.append((points - reach, points + reach))
        return boxes

    def _lesion_share(self, inside: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Lesions replace gray and white matter, from 1 inside to 0 outside within a fifth of their radius."""
        lesion = torch.zeros(shares.shape[1:])
        for place, axes in self.lesions:
            distance = ((inside - place) @ axes).norm(dim=-1)  # 1 on the lesion's surface
            lesion = torch.maximum(lesion, torch.sigmoid(6 * (1 - distance)))
        return lesion * (shares[1] + shares[2])


class Skull:
    """Bone and scalp around a brain: shells of smoothly uneven thickness, by their distance from the brain.

    Between brain and bone lies CSF. It is a closed shell: there are no face, no neck and no base of the skull.
    """

    def __init__(self, rng: np.random.Generator):
        self.mean = rng.uniform((1.5, 4.0, 3.5), (3.5, 6.0, 6.0))  # mm of gap, bone and scalp
        self.uneven = Waves(rng, 3, 12, (60.0, 150.0))

    def around(self, shares: torch.Tensor, inside: torch.Tensor, voxel: tuple[float, float, float]) -> torch.Tensor:
        """Shares (tissues, D, H, W) with the gap added to CSF, and bone and scalp at the end."""
        maps, origin = brain_distance()
        distance = _sample(maps, inside, origin, spacing=2.0, beyond="border")[0]
        thickness = torch.tensor(self.mean, dtype=torch.float32) * (1 + 0.2 * self.uneven(inside)).clamp(0.5, 1.6)
        edges = thickness.cumsum(dim=-1).movedim(-1, 0)  # inner table, outer table, skin
        within = torch.sigmoid(4 * (edges - distance) / max(1.5, *voxel[1:]))  # an edge is as soft as a pixel is wide
        left = (1 - shares.sum(dim=0)).clamp_min(0)  # what the brain does not fill
        gap, bone, scalp = left * torch.diff(within, dim=0, prepend=torch.zeros_like(within[:1]))
        return torch.cat([shares[:1] + gap, shares[1:], bone[None], scalp[None]])


def _shares(inside: torch.Tensor, voxel: tuple[float, float, float]) -> torch.Tensor:
    """Shares of CSF, gray and white matter at (D, H, W, 3) points of the template: (3, D, H, W)."""
    return _sample(template_at(voxel), inside, template()[1])


def _sample(
    maps: torch.Tensor, inside: torch.Tensor, origin: np.ndarray, spacing: float = 1.0, beyond: str = "zeros"
) -> torch.Tensor:
    """Maps (C, z, y, x) whose first voxel lies at `origin`, interpolated at (D, H, W, 3) points in mm."""
    origin = torch.tensor(origin, dtype=torch.float32)
    last = torch.tensor(maps.shape[:0:-1], dtype=torch.float32) - 1  # x, y, z
    grid = 2 * (inside - origin) / (last * spacing) - 1
    return F.grid_sample(maps[None], grid[None], align_corners=True, padding_mode=beyond)[0]


@lru_cache(maxsize=1)
def brain_distance() -> tuple[torch.Tensor, np.ndarray]:
    """How far every place is from the brain, in mm, 0 inside, and the MNI mm of the first voxel.

    (1, z, y, x) at 2 mm, up to `MARGIN` mm around the template. The sulci and the gap under the temporal lobes are
    closed first: the skull does not follow them.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter, label

    brain = np.pad(template()[0].sum(dim=0).numpy() > 0.5, MARGIN)[::2, ::2, ::2]
    parts = label(brain)[0]
    brain = parts == np.bincount(parts[brain]).argmax()  # stray voxels of the mask would grow heads of their own
    closed = distance_transform_edt(distance_transform_edt(~brain) < 15) > 14.5
    distance = gaussian_filter(2 * distance_transform_edt(~closed).astype(np.float32), 1)
    return torch.from_numpy(distance)[None], template()[1] - MARGIN


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


@lru_cache(maxsize=1)
def _deep_white() -> np.ndarray:
    """MNI mm of the voxels where lesions may be centred: white matter between the lowest and highest slice, (n, 3)."""
    maps, origin = template()
    z = np.arange(maps.shape[1]) + origin[2]
    deep = (maps[2] > 0.9).numpy() & ((z > CEREBRUM[0]) & (z < CEREBRUM[1]))[:, None, None]
    return np.argwhere(deep)[:, ::-1] + origin


def _lesion(rng: np.random.Generator, radius: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Its centre in mm, and the axes that turn mm into radii: an ellipsoid whose radii lie within `radius` mm."""
    places = _deep_white()
    place = places[rng.integers(len(places))]
    axes = _rotation(rng.uniform(0, np.pi, 3)) @ np.diag(1 / rng.uniform(*radius, 3))
    return torch.tensor(place, dtype=torch.float32), torch.tensor(axes, dtype=torch.float32)
