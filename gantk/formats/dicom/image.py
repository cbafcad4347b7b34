"""DICOM files to an image: the slices of a series, or the frames of one file, as one upright volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from gantk.errors import UserError
from gantk.formats.dicom.header import expect_possible, header, no_image, readable
from gantk.formats.dicom.pixels import COLOUR, Coding, colour, frames
from gantk.formats.dicom.slices import FILMS, Slice, slices_of
from gantk.formats.dicom.stacks import TO_RAS, Stack, Straightening, separated, stacked
from gantk.formats.files import expect_room
from gantk.formats.image import Image, to_upright, upright_sides


class Headers(list[Dataset]):
    """The header of each slice in order of position, or the one of a multi-frame file; kept for writing back."""

    frames: tuple[int, ...] = ()  # which frames of a multi-frame file the planes are
    shape: tuple[int, int, int] = (1, 1, 1)  # columns, rows, slices
    padding: np.ndarray | None = None  # (slices, rows, columns) bits, packed: where no measurement was
    remarks: tuple[str, ...] = ()  # what a user should know of the reading

    def get_data_shape(self) -> tuple[int, int, int]:
        """Voxels along the file's axes, as nibabel's headers tell it."""
        return self.shape


@dataclass(frozen=True, eq=False)
class Plan:
    """What the headers of one image say, before anything is decoded."""

    path: Path
    headers: Headers
    stack: Stack
    colour: bool = False

    @property
    def placed(self) -> bool:
        """Whether the headers say where the slices lie."""
        return self.stack.slices[0].position is not None


def read_files(files: Sequence[Path], volume: int | None = None) -> Image:
    """The image of one file, or of the files of a series; UserError where they are not one even stack."""
    plan = planned(files, volume)
    with readable(plan.path):
        return _picture(plan) if plan.colour else _volume(plan)


def outline(files: Sequence[Path], volume: int | None = None) -> Image:
    """The image that `read_files` gives, all zeros and without memory: its grid, from headers alone."""
    plan = planned(files, volume)
    rows, columns, samples = plan.stack.slices[0].shape
    if plan.colour:
        return Image(np.broadcast_to(np.float32(0), (3, rows, columns)), None, plan.path, None, plan.headers)
    straightening = Straightening.of(plan.stack)
    shape = (len(plan.stack.slices), rows, columns) if straightening is None else straightening.shape
    stack = plan.stack if straightening is None else straightening.stack
    affine = stack.affine if plan.placed else None
    plan.headers.shape = shape[::-1]
    sides = tuple(n for n in (shape if affine is None else upright_sides(shape[::-1], affine)) if n > 1)
    return Image(np.broadcast_to(np.float32(0), (1, *sides)), affine, plan.path, None, plan.headers)


def planned(files: Sequence[Path], volume: int | None = None) -> Plan:
    """The stack that files make up, checked for gaps and repeats; one file may hold several, of which one is chosen."""
    path = Path(files[0]) if len(files) == 1 else Path(files[0]).parent
    read = {Path(file): _header(Path(file)) for file in files}
    slices = []
    for file, dataset in read.items():
        with readable(file):
            slices += slices_of(dataset, file)
    first = read[slices[0].path]
    if len(files) > 1 and any(each.framed for each in slices):
        raise UserError(f"'{path}' holds several multi-frame files", remedy="name one of them")
    in_colour = slices[0].shape[2] > 1 or first.get("PhotometricInterpretation") in COLOUR
    if in_colour and len(slices) > 1:
        raise UserError(f"'{path}' is in colour, with {len(slices)} slices", allowed="single pictures in colour")
    expect_room(path, len(slices) * int(np.prod(slices[0].shape)))
    if len(files) == 1 and len(slices) > 1 and slices[0].position is None:
        stack = _unplaced(path, first, slices)
    else:
        stack = _chosen(path, slices, volume, read)
    headers = Headers([first] if slices[0].framed else [read[each.path] for each in stack.slices])
    headers.remarks = stack.remarks
    if slices[0].framed:
        headers.frames = tuple(each.frame for each in stack.slices)
    return Plan(path, headers, stack, in_colour)


def _header(path: Path) -> Dataset:
    dataset = header(path)
    with readable(path):
        other = no_image(dataset)
        if other:
            raise UserError(f"'{path}' is no image: {other}", allowed="MR, CT and other images", remedy="leave it out")
        expect_possible(path, dataset)
        if "MOSAIC" in (dataset.get("ImageType") or ()):
            raise UserError(
                f"'{path}' is a mosaic: all slices of a volume as tiles of one picture",
                remedy="convert it to NIfTI with dcm2niix first",
            )
    return dataset


def _chosen(path: Path, slices: list[Slice], volume: int | None, headers: dict[Path, Dataset]) -> Stack:
    """The one stack of some slices, or the one that was asked for."""
    stacks = separated(slices)
    if volume is None and len(stacks) > 1:
        sizes = ", ".join(str(len(stack)) for stack in stacks[:6]) + ", ..." * (len(stacks) > 6)
        one = f"choose one with --volume, 0 to {len(stacks) - 1}"
        raise UserError(
            f"'{path}' holds {len(stacks)} stacks of different place, shape or kind, of {sizes} slices",
            allowed="one stack of slices",
            remedy=one if slices[0].framed else "name one of its files, or put each stack into a folder of its own",
        )
    if volume is not None and not 0 <= volume < len(stacks):
        raise UserError(f"'{path}' has no volume {volume}", where="--volume", allowed=f"0 to {len(stacks) - 1}")
    chosen = stacks[volume or 0]
    if chosen[0].position is None:
        return Stack(tuple(chosen), np.zeros(3), 1.0, np.zeros(2))
    return stacked(chosen, f"'{path}'", lambda one, other: _same_pixels(one, other, headers))


def _unplaced(path: Path, dataset: Dataset, slices: list[Slice]) -> Stack:
    film = dataset.get("Modality") in FILMS or "FrameTime" in dataset or "FrameTimeVector" in dataset
    if film:
        raise UserError(
            f"'{path}' is a film of {len(slices)} frames", allowed="slices and volumes", remedy="save single frames"
        )
    remark = f"'{path}' does not say where its {len(slices)} frames lie: they were taken in the file's order"
    return Stack(tuple(slices), np.zeros(3), 1.0, np.zeros(2), (remark,))


def _volume(plan: Plan) -> Image:
    """The volume of a stack, and what is needed to write another one in its place."""
    stack, headers = plan.stack, plan.headers
    codings = [Coding.of(dataset) for dataset in headers]
    volume = np.empty((len(stack.slices), *stack.slices[0].shape[:2]), dtype=np.float32)
    padding = np.zeros(volume.shape, dtype=bool) if any(coding.padding for coding in codings) else None
    for k, (numbers, coding) in enumerate(_numbers(stack.slices, headers, codings)):
        volume[k] = coding.values(numbers, stack.slices[k].rescale)
        if coding.padding:
            padding[k] = coding.padded(numbers)
    if padding is not None and padding.any() and not padding.all():
        volume[padding] = volume[~padding].min()  # what was never measured is air
        headers.padding = np.packbits(padding)
    straightening = Straightening.of(stack)
    if straightening is not None:
        stack, volume = straightening.stack, straightening(volume)
        _straighten(stack, volume, headers, plan.path)
    headers.shape, headers.remarks = volume.shape[::-1], stack.remarks
    dtype = np.result_type(*[c.kind(each.rescale) for c, each in zip(cycle(codings), stack.slices)])
    upright = to_upright(volume.transpose(2, 1, 0), stack.affine) if plan.placed else volume
    spatial = tuple(n for n in upright.shape if n > 1)
    pixels = np.ascontiguousarray(upright.reshape(1, *spatial))
    return Image(pixels, stack.affine if plan.placed else None, plan.path, dtype, headers)


def _numbers(slices: Sequence[Slice], headers: Headers, codings: list[Coding]) -> Iterator[tuple[np.ndarray, Coding]]:
    """What is stored of each slice, and how, one at a time."""
    if slices[0].framed:
        decoded = frames(slices[0].path, headers[0], [each.frame for each in slices])
        yield from ((codings[0].numbers(frame), codings[0]) for frame in decoded)
        return
    for each, dataset, coding in zip(slices, headers, codings, strict=True):
        for frame in frames(each.path, dataset, [0]):
            yield coding.numbers(frame), coding


def _straighten(stack: Stack, volume: np.ndarray, headers: Headers, path: Path) -> None:
    """Headers that say where the slices of a tilted stack now lie."""
    if stack.slices[0].framed:
        raise UserError(
            f"'{path}' was taken with a tilted gantry, and its frames are one file",
            remedy="convert it to NIfTI with dcm2niix first",
        )
    affine, headers.padding = TO_RAS @ stack.affine, None
    for k, dataset in enumerate(headers):
        dataset.Rows, dataset.Columns = volume.shape[1:]
        dataset.ImagePositionPatient = [float(mm) for mm in (affine @ [0, 0, k, 1])[:3]]
        if "GantryDetectorTilt" in dataset:
            dataset.GantryDetectorTilt = 0.0


def _picture(plan: Plan) -> Image:
    """One picture in colour, as it stands in its file."""
    (stored,) = frames(plan.path, plan.headers[0], [plan.stack.slices[0].frame])
    pixels = colour(stored, plan.headers[0])
    plan.headers.shape = (pixels.shape[2], pixels.shape[1], 1)
    dtype = np.dtype(np.uint8 if pixels.max() < 256 else np.uint16)
    return Image(pixels, None, plan.path, dtype, plan.headers)


def _same_pixels(one: Slice, other: Slice, headers: dict[Path, Dataset]) -> bool:
    first, second = (next(frames(each.path, headers[each.path], [each.frame])) for each in (one, other))
    return one.rescale == other.rescale and np.array_equal(first, second)
