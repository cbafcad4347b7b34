"""DICOM slices to stacks on one even grid (sorted, checked for gaps, repeats and tilt), and folders to series."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from gantk.errors import UserError
from gantk.formats.files import Scan, natural
from gantk.formats.image import UPRIGHT
from gantk_dicom.slices import TAGS, Slice, frames_of, header, no_image, readable, slices_of

EVEN = 0.05  # share of the usual distance between slices by which one distance may differ from it
SAME = 0.01  # share of it, or mm where there is none, within which two slices lie at one place
TILT = 0.5  # pixels by which a stack may lean over, from its first slice to its last
PLANES = ("sagittal", "coronal", "axial")  # by the axis of the patient along which slices follow


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices sorted along their normal, evenly apart."""

    slices: tuple[Slice, ...]
    origin: np.ndarray  # centre of the first voxel, mm (left, posterior, superior)
    apart: float = 1.0  # mm from slice to slice
    drift: np.ndarray | None = None  # (rows, columns) by which each slice is shifted against the one before: tilt
    remarks: tuple[str, ...] = ()

    @property
    def affine(self) -> np.ndarray:
        """4x4: voxel (column, row, slice) to mm (right, anterior, superior); PS3.3, C.7.6.2.1.1, extended by slices."""
        first, affine = self.slices[0], np.eye(4)
        affine[:3, 0] = first.axes[0] * first.spacing[1]
        affine[:3, 1] = first.axes[1] * first.spacing[0]
        affine[:3, 2] = first.normal * self.apart
        affine[:3, 3] = self.origin
        return UPRIGHT @ affine


def separated(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices by the stack that they belong to: one orientation, shape and spacing, and each place once.

    Where places repeat, whatever differs in the header (echo, b-value, time, magnitude and phase) tells stacks apart;
    repeats that nothing tells apart stay together. Slices without a position are each for themselves.
    """
    groups: list[list[Slice]] = []
    for each in slices:
        placed = [group for group in groups if each.position is not None and group[0].position is not None]
        mine = next((group for group in placed if _alike(group[0], each)), None)
        if mine is None:
            groups.append([each])
        else:
            mine.append(each)
    return [sorted(stack, key=_place) for group in groups for stack in _by_marks(group)]


def stacked(slices: Sequence[Slice], where: str, same_pixels: Callable[[Slice, Slice], bool]) -> Stack:
    """One stack on an even grid; UserError for gaps, for two different slices at one place, for a wandering stack.

    Copies of a slice (same place, same pixels) are left out, which `remarks` tells. `where` names the series.
    """
    slices = sorted(slices, key=_place)
    steps = [np.linalg.norm(b.position - a.position) for a, b in zip(slices, slices[1:], strict=False)]
    usual = float(np.median([step for step in steps if step > SAME] or [1.0]))
    kept, copies, remarks = slices[:1], [], []
    for each in slices[1:]:
        if np.linalg.norm(each.position - kept[-1].position) > SAME * usual:
            kept.append(each)
        elif same_pixels(kept[-1], each):
            copies.append(each.name)
        else:
            raise UserError(
                f"{where} holds two different slices at one place: {kept[-1].name} and {each.name}",
                remedy="keep one of them, or put each stack into a folder of its own",
            )
    if copies:
        names = ", ".join(copies[:3]) + ", ..." * (len(copies) > 3)
        remarks.append(f"{where}: left out {len(copies)} of {len(slices)} slices, copies of others there: {names}")
    first = kept[0]
    if len(kept) == 1:
        return Stack((first,), first.position, first.apart or first.thickness or 1.0, None, tuple(remarks))
    heights = np.array([float(each.position @ first.normal) for each in kept])
    _expect_even(kept, np.diff(heights), where)
    apart = float(heights[-1] - heights[0]) / (len(kept) - 1)
    stated = first.apart
    if stated and apart > 1.5 * stated and abs(apart - stated - first.thickness) > EVEN * apart:
        remarks.append(
            f"{where}: slices are missing between all that are there: they lie {apart:.4g} mm apart, and their "
            f"header says {stated:.4g} mm"
        )
    return Stack(tuple(kept), first.position, apart, _drift(kept, heights, where), tuple(remarks))


def straightened(stack: Stack) -> tuple[Stack, tuple[int, int, int], np.ndarray]:
    """A stack taken by a tilted gantry on a grid at right angles, its (slices, rows, columns), and the shifts to it.

    Each slice moves within its plane by its shift (slices, 2) of at least 0 rows and columns, as `shifted` does; the
    field of view grows so that nothing is cut.
    """
    first, count = stack.slices[0], len(stack.slices)
    before = np.minimum(0, stack.drift * (count - 1))
    shifts = np.maximum(np.outer(np.arange(count), stack.drift) - before, 0)
    rows, columns = np.ceil(shifts.max(axis=0)).astype(int) + 1 + first.shape[:2]
    origin = stack.origin + before * first.spacing @ first.axes[::-1]
    lean = np.degrees(np.arctan(np.linalg.norm(stack.drift * first.spacing) / stack.apart))
    remark = f"the gantry was tilted by {lean:.1f} degrees: the slices were brought onto a grid at right angles"
    straight = replace(stack, origin=origin, drift=None, remarks=(*stack.remarks, remark))
    return straight, (count, int(rows), int(columns)), shifts


def shifted(volume: np.ndarray, shape: tuple[int, int, int], shifts: np.ndarray) -> np.ndarray:
    """float32 (slices, rows, columns) shifted, linear; what no slice covers gets the lowest value."""
    done = np.full(shape, volume.min(), dtype=np.float32)
    for plane, target, shift in zip(volume, done, shifts, strict=True):
        row, column = shift.astype(int)
        target[row : row + plane.shape[0], column : column + plane.shape[1]] = plane
        for axis, part in enumerate(np.float32(shift % 1)):
            before = np.roll(target, 1, axis)  # the last row and column are never covered before this
            target += part * (before - target)
    return done


def series_in(folder: Path, files: Sequence[Path]) -> list[Scan]:
    """The scans among a folder's files, in natural order of their names."""
    alone, series = [], {}
    for file in files:
        try:
            with readable(file):
                dataset = header(file, TAGS)
                if no_image(dataset):
                    continue
                uid = str(dataset.get("SeriesInstanceUID") or "")
                slices = slices_of(dataset, file) if uid and frames_of(dataset) == 1 else []
        except UserError:  # reading it will say why
            slices = []
        if not slices or slices[0].position is None:
            alone.append(Scan(file, (file,), file.name))
        else:
            series.setdefault(uid, []).append((slices[0], dataset))
    named = [scan for parts in series.values() for scan in _stacks(folder, [each for each, _ in parts], parts[0][1])]
    names = [scan.name for scan in named]
    for k, scan in enumerate(named):  # series of one name get numbers
        tail = f"-{names[: k + 1].count(scan.name)}" if names.count(scan.name) > 1 else ""
        alone.append(replace(scan, name=scan.name + tail))
    return sorted(alone, key=lambda scan: natural(scan.name))


def _stacks(folder: Path, slices: list[Slice], dataset: Dataset) -> list[Scan]:
    """The stacks of one series, named NUMBER-DESCRIPTION, and by what its header tells them apart."""
    stacks, number = separated(slices), dataset.get("SeriesNumber")
    words = dataset.get("SeriesDescription") or dataset.get("ProtocolName") or dataset.get("Modality") or "series"
    name = "-".join(filter(None, ("" if number is None else str(number), _as_name(str(words))))) or "series"
    labels = [_label(stack, stacks) for stack in stacks]
    found = []
    for k, (stack, label) in enumerate(zip(stacks, labels, strict=True)):
        files = tuple(each.path for each in stack)
        count = str(labels[: k + 1].count(label)) if labels.count(label) > 1 else ""
        own = "-".join(filter(None, (name, label, count)))
        found.append(Scan(files[0], files, files[0].name) if len(files) == 1 else Scan(folder, files, own))
    return found


def _label(stack: list[Slice], stacks: list[list[Slice]]) -> str:
    """What tells a stack from the others of its series: its plane, and the mark in which it differs."""

    def plane(other: list[Slice]) -> str:
        return PLANES[int(np.argmax(np.abs(other[0].normal)))]

    words = [plane(stack)] if len({plane(other) for other in stacks}) > 1 else []
    alike = [other for other in stacks if plane(other) == plane(stack)]
    for mark, value in stack[0].marks.items():
        if value not in (None, ()) and len({other[0].marks.get(mark) for other in alike}) > 1:
            shown = "_".join(value) if isinstance(value, tuple) else str(value)
            words.append(f"{mark}_{re.sub(r'[^0-9A-Za-z.+-]+', '_', shown)[:40]}")
            break
    return "-".join(words)


def _as_name(words: str) -> str:
    """Words as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", words).strip("._")[:64]


def _alike(one: Slice, other: Slice) -> bool:
    """Whether two slices could be of one stack: same shape, orientation (to half a degree) and spacing."""
    oriented = one.shape == other.shape and np.allclose(one.axes, other.axes, atol=0.009)
    return oriented and np.allclose(one.spacing, other.spacing, rtol=1e-3)


def _place(each: Slice) -> tuple[float, int, int, str]:
    height = 0.0 if each.position is None else float(each.position @ each.normal)
    return round(height, 3), each.number, each.frame, each.path.name


def _by_marks(group: list[Slice]) -> list[list[Slice]]:
    """A group in which places repeat, divided by the first mark that leaves fewer repeats, and so on.

    Every part has to cover half of the places: what differs from slice to slice tells no stacks apart.
    """

    def places(part: Sequence[Slice]) -> int:
        return len({tuple(np.round(each.position, 2)) for each in part}) if part[0].position is not None else 1

    repeats = len(group) - places(group)
    for mark in group[0].marks if repeats else ():
        parts: dict[object, list[Slice]] = {}
        for each in group:
            parts.setdefault(each.marks.get(mark), []).append(each)
        covered = [places(part) for part in parts.values()]
        if len(group) - sum(covered) < repeats and 2 * min(covered) >= places(group):
            return [stack for part in parts.values() for stack in _by_marks(part)]
    return [group]


def _expect_even(slices: Sequence[Slice], steps: np.ndarray, where: str) -> None:
    apart = float(np.median(steps))
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


def _drift(slices: Sequence[Slice], heights: np.ndarray, where: str) -> np.ndarray | None:
    """(rows, columns) of shift from slice to slice, beyond what goes along the normal; None of a straight stack."""
    first = slices[0]
    along = np.outer(heights - heights[0], first.normal)
    across = np.array([each.position - first.position for each in slices]) - along
    shifts = np.stack([across @ first.axes[1] / first.spacing[0], across @ first.axes[0] / first.spacing[1]], axis=1)
    if np.abs(shifts).max() <= TILT:
        return None
    aside = np.abs(shifts - np.outer(np.arange(len(slices)), shifts[-1] / (len(slices) - 1))).max(axis=1)
    if aside.max() > TILT:
        raise UserError(
            f"{where} is no straight stack: {slices[int(aside.argmax())].name} lies {aside.max():.1f} pixels aside",
            remedy="put each straight part into a folder of its own",
        )
    return shifts[-1] / (len(slices) - 1)
