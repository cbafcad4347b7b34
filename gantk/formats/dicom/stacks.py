"""Slices to stacks on one even grid: told apart, sorted along their normal, and checked for gaps, repeats and tilt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gantk.errors import UserError
from gantk.formats.dicom.slices import Slice

EVEN = 0.05  # share of the usual distance between slices by which one distance may differ from it
SAME = 0.01  # share of it, or mm where there is none, within which two slices lie at one place
TILT = 0.5  # pixels by which a stack may lean over, from its first slice to its last
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM counts to the left and back, affines to the right and front


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices sorted along their normal, evenly apart."""

    slices: tuple[Slice, ...]
    origin: np.ndarray  # centre of the first voxel, mm (left, posterior, superior)
    apart: float  # mm from slice to slice
    drift: np.ndarray  # (rows, columns) by which each slice is shifted against the one before: gantry tilt; else 0
    remarks: tuple[str, ...] = ()

    @property
    def affine(self) -> np.ndarray:
        """4x4: voxel (column, row, slice) to mm (right, anterior, superior); PS3.3, C.7.6.2.1.1, extended by slices."""
        first, affine = self.slices[0], np.eye(4)
        affine[:3, 0] = first.axes[0] * first.spacing[1]
        affine[:3, 1] = first.axes[1] * first.spacing[0]
        affine[:3, 2] = first.normal * self.apart
        affine[:3, 3] = self.origin
        return TO_RAS @ affine


def separated(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices by the stack that they belong to: one orientation, shape and spacing, and each place once.

    Where places repeat, whatever differs in the header (echo, b-value, time, magnitude and phase) tells stacks apart;
    repeats that nothing tells apart stay together. Slices without a position are each for themselves.
    """
    groups: list[list[Slice]] = []
    for each in slices:
        mine = next((group for group in groups if _alike(group[0], each)), None) if each.position is not None else None
        if mine is None:
            groups.append([each])
        else:
            mine.append(each)
    return [sorted(stack, key=_place) for group in groups for stack in _by_marks(group)]


def stacked(slices: Sequence[Slice], where: str, same_pixels: Callable[[Slice, Slice], bool]) -> Stack:
    """One stack on an even grid; UserError for gaps, for two different slices at one place, for a wandering stack.

    Copies of a slice (same place, same pixels) are left out, which `remarks` tells. `where` names the series.
    """
    kept, remarks = _without_copies(sorted(slices, key=_place), where, same_pixels)
    first = kept[0]
    if len(kept) == 1:
        return Stack((first,), first.position, first.apart or first.thickness or 1.0, np.zeros(2), tuple(remarks))
    heights = np.array([float(each.position @ first.normal) for each in kept])
    apart = float(np.median(np.diff(heights)))
    _expect_even(kept, np.diff(heights), apart, where)
    apart = float(heights[-1] - heights[0]) / (len(kept) - 1)
    stated = first.apart
    if stated and apart > 1.5 * stated and abs(apart - stated - first.thickness) > EVEN * apart:
        remarks.append(
            f"{where}: slices are missing between all that are there: they lie {apart:.4g} mm apart, and their "
            f"header says {stated:.4g} mm"
        )
    drift = _drift(kept, heights, where)
    return Stack(tuple(kept), first.position, apart, drift, tuple(remarks))


def _alike(one: Slice, other: Slice) -> bool:
    """Whether two slices could be of one stack: same shape, orientation (to half a degree) and spacing."""
    return (
        one.shape == other.shape
        and np.allclose(one.axes, other.axes, atol=0.009)
        and np.allclose(one.spacing, other.spacing, rtol=1e-3)
    )


def _place(each: Slice) -> tuple[float, int, int, str]:
    height = 0.0 if each.position is None else float(each.position @ each.normal)
    return round(height, 3), each.number, each.frame, each.path.name


def _by_marks(group: list[Slice]) -> list[list[Slice]]:
    """A group in which places repeat, divided by the first mark that leaves fewer repeats, and so on.

    Every part has to cover half of the places: what differs from slice to slice tells no stacks apart.
    """
    places, repeats = _places(group), len(group) - _places(group)
    for mark in group[0].marks if repeats else ():
        parts: dict[object, list[Slice]] = {}
        for each in group:
            parts.setdefault(each.marks.get(mark), []).append(each)
        covered = [_places(part) for part in parts.values()]
        if len(group) - sum(covered) < repeats and 2 * min(covered) >= places:
            return [stack for part in parts.values() for stack in _by_marks(part)]
    return [group]


def _places(group: Sequence[Slice]) -> int:
    """At how many places the slices lie."""
    return len({tuple(np.round(each.position, 2)) for each in group}) if group[0].position is not None else 1


def _without_copies(
    slices: list[Slice], where: str, same_pixels: Callable[[Slice, Slice], bool]
) -> tuple[list[Slice], list[str]]:
    places = [np.array(each.position) for each in slices]
    steps = [np.linalg.norm(b - a) for a, b in zip(places, places[1:], strict=False)]
    usual = float(np.median([step for step in steps if step > SAME] or [1.0]))
    kept, copies = slices[:1], []
    for each in slices[1:]:
        other = kept[-1]
        if np.linalg.norm(each.position - other.position) > SAME * usual:
            kept.append(each)
        elif same_pixels(other, each):
            copies.append(each)
        else:
            raise UserError(
                f"{where} holds two different slices at one place: {other.name} and {each.name}",
                remedy="keep one of them, or put each stack into a folder of its own",
            )
    told = ", ".join(each.name for each in copies[:3]) + ", ..." * (len(copies) > 3)
    remark = f"{where}: left out {len(copies)} of {len(slices)} slices, copies of others there: {told}"
    return kept, [remark] if copies else []


def _expect_even(slices: Sequence[Slice], steps: np.ndarray, apart: float, where: str) -> None:
    wrong = np.flatnonzero(np.abs(steps - apart) > EVEN * apart)
    if not len(wrong):
        return
    worst = int(wrong[np.argmax(np.abs(steps[wrong] - apart))])
    missing = round(float(steps[worst] / apart)) - 1
    gap = missing >= 1 and abs(steps[worst] - (missing + 1) * apart) <= 2 * EVEN * apart
    what = f"lacks {missing} slice{'s' * (missing > 1)}" if gap else "is not evenly spaced"
    more = f", and at {len(wrong) - 1} other places" if len(wrong) > 1 else ""
    raise UserError(
        f"{where} {what}: {slices[worst].name} and {slices[worst + 1].name} lie {steps[worst]:.4g} mm apart, "
        f"and slices usually {apart:.4g} mm{more}",
        allowed="slices that are evenly apart, to 5 %",
        remedy="copy the missing slices, or put each evenly spaced part into a folder of its own",
    )


def _drift(slices: Sequence[Slice], heights: np.ndarray, where: str) -> np.ndarray:
    """(rows, columns) of shift from slice to slice, beyond what goes along the normal."""
    first = slices[0]
    across = np.array([each.position - first.position for each in slices]) - np.outer(
        heights - heights[0], first.normal
    )
    shifts = np.stack([across @ first.axes[1] / first.spacing[0], across @ first.axes[0] / first.spacing[1]], axis=1)
    if np.abs(shifts).max() <= TILT:
        return np.zeros(2)
    even = np.outer(np.arange(len(slices)), shifts[-1] / (len(slices) - 1))
    if np.abs(shifts - even).max() > TILT:
        worst = int(np.abs(shifts - even).max(axis=1).argmax())
        raise UserError(
            f"{where} is no straight stack: {slices[worst].name} lies {np.abs(shifts - even).max():.1f} pixels aside",
            remedy="put each straight part into a folder of its own",
        )
    return even[1]


@dataclass(frozen=True, eq=False)
class Straightening:
    """What brings a stack taken by a tilted gantry onto a grid at right angles: each slice is moved within its plane.

    The field of view grows so that nothing is cut. Slices keep their heights.
    """

    stack: Stack  # as it stands afterwards
    shape: tuple[int, int, int]  # slices, rows, columns afterwards
    shifts: np.ndarray  # (slices, 2) rows and columns, at least 0, by which each slice moves

    @classmethod
    def of(cls, stack: Stack) -> Straightening | None:
        """None for a stack that stands straight."""
        if not stack.drift.any():
            return None
        first, count = stack.slices[0], len(stack.slices)
        before = np.minimum(0, stack.drift * (count - 1))
        shifts = np.maximum(np.outer(np.arange(count), stack.drift) - before, 0)
        grown = np.ceil(shifts.max(axis=0)).astype(int) + 1
        origin = stack.origin + before * first.spacing @ first.axes[::-1]
        lean = np.degrees(np.arctan(np.linalg.norm(stack.drift * first.spacing) / stack.apart))
        remark = f"the gantry was tilted by {lean:.1f} degrees: the slices were brought onto a grid at right angles"
        straight = replace(stack, origin=origin, drift=np.zeros(2), remarks=(*stack.remarks, remark))
        return cls(straight, (count, first.shape[0] + int(grown[0]), first.shape[1] + int(grown[1])), shifts)

    def __call__(self, volume: np.ndarray) -> np.ndarray:
        """float32 (slices, rows, columns) on the new grid, linear; what no slice covers gets the lowest value."""
        done = np.full(self.shape, volume.min(), dtype=np.float32)
        for plane, moved, shift in zip(volume, done, self.shifts, strict=True):
            row, column = shift.astype(int)
            moved[row : row + plane.shape[0], column : column + plane.shape[1]] = plane
            for axis, part in enumerate(np.float32(shift % 1)):
                before = np.roll(moved, 1, axis)  # the last row and column are never covered before this
                moved += part * (before - moved)
        return done
