"""`Image` (pixels, affine, header), `Format` (its reader and writer), and the conversion between a
file's axes and upright images.

Pixels are always upright, for any order of the axes in the file. Rows run from anterior (or the top
of a picture) down, columns from the patient's right (or the left of a picture), and planes from
inferior to superior. Writers convert back to the axes of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import UserError

GRID_TOLERANCE_VOXELS = 0.1  # by which equal grids may differ: headers are rounded
MARK = "(gantk)"  # ends the description of every image that gantk made
# the affine of a picture that has none; also LPS to RAS and back
UPRIGHT = np.diag([-1.0, -1.0, 1.0, 1.0])
# Magnitude up to which differences, squares and sums of values stay finite in float32. What is
# above it is no measurement but a fill value, such as 3.4e38.
MAX_MAGNITUDE = np.float64(1e15)  # float64, because 1e15 is infinite in float16
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
# voxels of a volume that are computed at a time: its float64 values fit into caches, and into memory
# that the allocator keeps (from 32 MiB on, every array is new pages)
SLAB = 2**17
Shape = tuple[int, ...]  # of pixels (D, H, W) or (H, W), or of the voxels (i, j, k) of a file
SLACK_BYTES = 2**20  # bytes of a stream that are read beyond the last volume
UNUSABLE = "NaN, infinite or too large (above 1e15)"  # values that cannot be computed with


@dataclass(frozen=True)
class Scan:
    """What `read` reads as one image: a file, one volume of it, or the files of one DICOM series."""

    path: Path  # the file, or the folder of the series
    files: tuple[Path, ...] = ()  # the series' files sorted by position; (): the file
    # relative name of the result: the file's path, for a series its folder or
    # folder/NUMBER-DESCRIPTION; "": the file's name
    name: str = ""
    volume: int | None = None  # of a file that holds several, counted from 0
    is_series: bool = False  # whether it is of a format of series, maybe of one file

    def __post_init__(self):
        object.__setattr__(self, "files", self.files or (self.path,))
        object.__setattr__(self, "name", self.name or self.path.name)


@dataclass(frozen=True)
class SeriesHeader:
    """What the header of a series says of it; "" where it says nothing.

    Attributes:
        modality: as DICOM names it: MR, CT, PT.
        words: descriptions, which may say its contrast.
        label: modality and description for messages, without names of people.
        no_scan: what the image is, where a scanner did not measure it: "a localizer".
        patient, study, pair: pseudonyms of the patient, of the study, and of what registered
            series of a patient share.
        agent: whether it names a contrast agent.
        person: what one person has once, such as the date of birth, by its element.
    """

    modality: str
    words: tuple[str, ...]
    label: str
    no_scan: str
    patient: str
    study: str
    pair: str
    agent: bool
    person: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the upright pixels of an image are in the patient."""

    shape: Shape  # (D, H, W) or (H, W)
    # float64 4x4: upright indices (column, row, plane) to mm (right, anterior, superior); None: a
    # picture
    affine: np.ndarray | None

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres from one pixel to the next along each axis of `shape`; 1.0 if unknown."""
        if self.affine is None:
            return (1.0,) * len(self.shape)
        steps = np.linalg.norm(self.affine[:3, :3], axis=0)
        return tuple(float(step) for step in steps[: len(self.shape)][::-1])

    def same_as(self, other: Grid) -> bool:
        """Whether two grids have equally many pixels at the same places, to a tenth of a voxel.
        The places of a picture are unknown, so only its shape is compared.
        """
        if self.shape != other.shape:
            return False
        if self.affine is None or other.affine is None:
            return True

        change = np.linalg.solve(other.affine, self.affine)
        ends = np.array((*self.shape[::-1], 1)[:3]) - 1
        corners = np.array([[*(np.array(at) * ends), 1] for at in np.ndindex(2, 2, 2)], dtype=float)
        return bool(np.abs(corners @ change.T - corners).max() < GRID_TOLERANCE_VOXELS)


@dataclass(frozen=True, eq=False)
class Image:
    """The pixels of one 2-D or 3-D image in native intensities, beside the geometry of its file."""

    pixels: np.ndarray  # float32 (C, H, W) or (C, D, H, W), C is 1 (gray) or 3 (RGB), upright
    # float64 4x4: the FILE's voxel (i, j, k) to mm (right, anterior, superior)
    affine: np.ndarray | None = None
    path: Path | None = None  # the file, or the folder of a DICOM series
    # the type of the stored values, which a writer keeps where it holds the new ones
    dtype: np.dtype | None = None
    # the format's own metadata, kept for writing back; may have `remarks`, `facts`, `doubts` and
    # `states_orientation`
    header: Any = None
    # whether a result is on the scale of the image it was made from, not in a model's units
    own_scale: bool = False
    # of an array: its slices are those that a network sees, whatever a recipe's plane and spacing
    is_array: bool = False
    # whether the values are in the units of scans; None: where there is an affine
    in_units: bool | None = None
    # the headers of the images it was made of, where these are several
    made_of: tuple[Any, ...] = ()
    # of a translation: the notes and warnings about it and the image it was made of, which DICOM
    # files hold as comments
    notes: tuple[str, ...] = ()
    description: str = ""  # the text in its file in which `Format.write` stores what it shows

    def __repr__(self) -> str:
        return f"Image({self.pixels.shape}, spacing {self.spacing} mm, '{self.path}')"

    @property
    def dims(self) -> int:
        """2 for a picture or slice, 3 for a volume."""
        return self.pixels.ndim - 1

    @property
    def middle_plane(self) -> np.ndarray:
        """The pixels (C, H, W) of a picture, or of the middle plane of a volume."""
        return self.pixels if self.dims == 2 else self.pixels[:, self.pixels.shape[1] // 2]

    @property
    def channels(self) -> int:
        """1 for gray, 3 for colour."""
        return self.pixels.shape[0]

    @property
    def is_integer(self) -> bool:
        """Whether the stored values are whole numbers."""
        return self.dtype is not None and np.issubdtype(self.dtype, np.integer)

    @property
    def has_units(self) -> bool:
        """Whether the values are in the units of scans, not in the gray levels of a picture."""
        return self.affine is not None if self.in_units is None else self.in_units

    @property
    def remarks(self) -> tuple[str, ...]:
        """The header's remarks for the user on how the file was read, such as slices that were left
        out.
        """
        return tuple(getattr(self.header, "remarks", ()))

    @property
    def doubts(self) -> tuple[tuple[str, bool], ...]:
        """What the header says that makes the image unlike a measured scan, in words; and whether
        it is none, as a localizer.
        """
        return tuple(getattr(self.header, "doubts", ()))

    @property
    def states_orientation(self) -> bool:
        """Whether the header says where the patient's left and right are."""
        return self.affine is not None and getattr(self.header, "states_orientation", True)

    @property
    def facts(self) -> dict[str, Any]:
        """What the header says about the scan: `modality`, `patient`, `contrast` and more; {} if it
        says nothing.
        """
        return dict(getattr(self.header, "facts", {}))

    @property
    def file_shape(self) -> Shape:
        """Voxels along the FILE's axes (i, j, k), 1 for a missing axis: from the header, or else
        from the affine.

        A slice without a header is taken to be one plane k, as in DICOM.
        """
        sides = tuple(int(n) for n in getattr(self.header, "get_data_shape", tuple)()[:3])
        spatial = _above_one(self.pixels.shape[1:])
        if sides and sorted(_above_one(sides)) == sorted(spatial):
            return three_sides(sides)

        affine = UPRIGHT if self.affine is None else self.affine
        upright = self.pixels.shape[:0:-1]  # columns, rows, planes
        if self.dims == 3:
            return tuple(upright[axis] for axis in turn(affine, (2, 2, 2))[:, 0].astype(int))

        first, second, _ = turn(affine, (2, 2, 1))[:, 0]
        width, height = upright
        return (width, height, 1) if first < second else (height, width, 1)

    @property
    def grid(self) -> Grid:
        """Where the pixels are."""
        shape = self.pixels.shape[1:]
        if self.affine is None:
            return Grid(shape, None)

        from nibabel.orientations import inv_ornt_aff  # pictures do not need it

        sides = self.file_shape
        upright = self.affine @ inv_ornt_aff(turn(self.affine, sides), sides)
        # the rows and columns of a slice come first, whatever its plane
        flat = [side == 1 for side in upright_sides(sides, self.affine)[::-1]]
        return Grid(shape, upright[:, [*np.argsort(flat, kind="stable"), 3]])

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres from one pixel to the next along each axis of the pixels: (H, W) or (D, H,
        W); 1.0 if unknown.
        """
        return self.grid.spacing


class Format:
    """A file format: its suffixes, and how a file is read as an `Image` and written from one.

    A plugin adds one with `add.format("npy", "my_package.npy:Npy")`; the class is then used
    wherever files are read or written. It is imported to learn its suffixes, so import heavy
    libraries within the methods. Example:

        class Npy(Format):
            \"\"\"NumPy arrays (.npy), (H, W) or (D, H, W).\"\"\"

            suffixes = (".npy",)
            volumes = True

            def read(self, path, volume=None, values=True):
                array = np.load(path)
                return Image(array[None].astype(np.float32), path=path, dtype=array.dtype)

            def write(self, path, image, description=""):
                np.save(path, image.pixels[0])

    Any error of `read` and `write` other than UserError is reported as a broken file;
    `gantk.formats.files` handles missing and empty files, values that are not finite, and
    half-written results.
    """

    name: str = ""  # in messages; "" = the name it is registered by
    owner: str = ""  # the distribution that registered it
    # in the list of formats; "" = name and suffixes, None = not listed (gantk's own files)
    listed: str | None = ""
    allowed: str = ""  # what the error for a broken file names as allowed, beside `name`
    suffixes: tuple[str, ...] = ()  # in lower case, with the dot: (".nii", ".nii.gz")
    volumes: bool = False  # whether a file may hold three axes
    several: bool = False  # whether a file may hold several images, of which `volume` chooses one
    describes: bool = False  # whether `write` stores the description, and `read` returns it

    def read(self, path: Path, volume: int | None = None, values: bool = True) -> Image:
        """The image in a file; `volume`, counted from 0, is only ever above 0 where `several`.

        Without `values` only the grid is needed: where the header contains it, `zeros` may replace
        the pixels.
        """
        raise NotImplementedError

    def write(self, path: Path, image: Image, description: str = "") -> None:
        """Write to a new file; UserError where the format cannot hold the image. `description`:
        what it shows.
        """
        raise NotImplementedError

    def withdraw(self, path: Path) -> None:
        """Remove an earlier result, if there is one: a file, or only the files of the series from
        its folder.
        """
        path.unlink(missing_ok=True)

    def limits(self, path: Path, image: Image) -> Sequence[tuple[float, float]]:
        """The value ranges that such a file can store such an image in, narrowest first: of its
        integer types, or infinite for floats.
        """
        return [(-np.inf, np.inf)]

    def files(self, path: Path) -> list[Path]:
        """All files that `read` opens for a path: two where a header names the file of its voxels."""
        return [path]


class SeriesFormat(Format):
    """A format in which several files of one folder may be one image, as the slices of a DICOM
    series are.

    `list_images` leaves its files out, because a single file is not an image. `group` finds which
    files belong together.
    """

    def owns(self, path: Path) -> bool:
        """Whether a file of unknown suffix has this format, by its first bytes; False if
        unreadable.
        """
        return False

    def group(self, folder: Path, files: Sequence[Path]) -> list[Scan]:
        """The images among such files of one folder, each with its files in order; UserError if a
        library is missing.

        A scan of several files has the folder as its `path`, and a name that is unique there.
        """
        raise NotImplementedError

    def header(self, path: Path) -> Any:
        """The header of a file, without its pixels; UserError if unreadable."""
        raise NotImplementedError

    def describe(self, path: Path) -> SeriesHeader:
        """What the header of a file says of its series; UserError if unreadable."""
        raise NotImplementedError

    def read_series(self, files: Sequence[Path], values: bool = True) -> Image:
        """The image of a group of files."""
        raise NotImplementedError

    def holds(self, image: Image) -> bool:
        """Whether an image was read by this format, hence may be written as a folder of its files."""
        return False

    def write_series(self, folder: Path, image: Image, description: str = "") -> None:
        """Write such an image to a folder of files, which appear when all are complete, in place of
        an earlier series.
        """
        raise NotImplementedError

    def files_of_others(self, folder: Path) -> list[Path]:
        """The files of other images of this format in a folder, which a series written there would
        replace: all but those whose fields say that gantk wrote them.
        """
        return []


def label_of(description: str, length: int) -> str:
    """What the header of a generated image says of it, in at most `length` characters:
    `synthetic T2, input does not fit, t1t2 0.1.0 (gantk)`.
    """
    label = " ".join(f"synthetic {description}".split())
    return f"{label[: length - len(MARK) - 1]} {MARK}"


def in_channels(pixels: np.ndarray, channels: int | None) -> np.ndarray:
    """Pixels (C, *spatial) in gray (1) or colour (3); the same array where nothing is asked for, or
    where they have other channels. A colour picture whose channels are equal is gray as it is.
    """
    if len(pixels) == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=0)
    if len(pixels) != 3 or channels != 1:
        return pixels
    if (pixels == pixels[:1]).all():
        return pixels[:1]
    return np.einsum("c,c...->...", LUMA, pixels)[None]


def zeros(*shape) -> np.ndarray:
    """float32 zeros that take no memory, read-only."""
    # a tenth of broadcast_to's time
    return np.ndarray(shape, np.float32, bytes(4), strides=(0,) * len(shape))


def turn(affine: np.ndarray, shape: Shape) -> np.ndarray:
    """nibabel's orientation array (3, 2): where each axis of the file goes (columns, rows, planes),
    and its sign.
    """
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    axes = io_orientation(affine)
    flat = [axes[axis, 0] for axis in range(3) if shape[axis] == 1]
    # Left, posterior, superior; where a slice is not axial, its rows run from superior down
    # instead.
    return ornt_transform(
        axes, axcodes2ornt(("L", "P", "I") if flat and 2 not in flat else ("L", "P", "S"))
    )


def three_sides(sides: Sequence[int]) -> Shape:
    """The first three sides; a missing one is 1."""
    return (*sides, 1, 1, 1)[:3]


def upright_sides(shape: Shape, affine: np.ndarray) -> Shape:
    """(D, H, W) of the upright pixels of a file of this shape (i, j, k)."""
    axes = np.argsort(turn(affine, shape)[:, 0])[::-1]  # that become planes, rows and columns
    return three_sides([int(shape[axis]) for axis in axes])


def to_upright(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn voxels (i, j, k, ...) in the file's order to (D, H, W): planes from inferior to
    superior, rows from anterior down, columns from the patient's right. A single slice that is not
    axial has its rows from superior down.
    """
    from nibabel.orientations import apply_orientation

    return apply_orientation(voxels, turn(affine, voxels.shape)).transpose(2, 1, 0)


def in_file_order(upright: np.ndarray, shape: Shape, affine: np.ndarray) -> np.ndarray:
    """A view (i, j, k) in the file's order of upright pixels, with or without axes of one voxel."""
    axes = turn(affine, shape)
    view = (
        upright.reshape(upright_sides(shape, affine))
        .transpose(2, 1, 0)
        .transpose(axes[:, 0].astype(int))
    )
    return np.flip(view, tuple(axis for axis in range(3) if axes[axis, 1] < 0))


def expect_grid(image: Image, shape: Shape, affine: np.ndarray) -> None:
    """UserError where upright pixels do not have the sides of a file of this shape (i, j, k)."""
    if _above_one(upright_sides(shape, affine)) != _above_one(image.pixels.shape[1:]):
        raise UserError(
            f"an image of the shape {image.pixels.shape[1:]} does not fit the voxel grid {shape} of"
            f" '{image.path}'",
            remedy="resample it to the grid of the input first",
        )


def upright_affine(image: Image) -> np.ndarray:
    """4x4: the indices (column, row, plane) of an upright volume's pixels to mm (right, anterior,
    superior).
    """
    affine = image.grid.affine
    if image.dims != 3 or affine is None:
        raise UserError(
            f"'{image.path}' is no volume with an affine: its position in the patient is not known",
            remedy="use volumes",
        )
    return affine


def unusable_values(pixels: np.ndarray) -> int:
    """How many values are NaN, infinite or too large to compute with; takes no memory if none is."""
    if pixels.min(initial=0) >= -MAX_MAGNITUDE and pixels.max(initial=0) <= MAX_MAGNITUDE:
        return 0
    return int(pixels.size - (np.abs(pixels) <= MAX_MAGNITUDE).sum())


def unusable_words(pixels: np.ndarray) -> str:
    """`3 values that are NaN, infinite or too large (above 1e15)`; "" where all can be used."""
    wrong = unusable_values(pixels)
    if not wrong:
        return ""
    return f"1 value that is {UNUSABLE}" if wrong == 1 else f"{wrong} values that are {UNUSABLE}"


def _above_one(sides: Shape) -> Shape:
    """The sides without axes of one voxel."""
    return tuple(n for n in sides if n > 1)


def slabs(sides: Shape) -> list[slice]:
    """Slices of the first axis with a few planes (rows of a picture) each."""
    count = max(1, SLAB // int(np.prod(sides[1:])))
    return [slice(first, min(first + count, sides[0])) for first in range(0, sides[0], count)]


def as_integers(
    voxels: np.ndarray, dtype: np.dtype | None, slope: float = 1.0, inter: float = 0.0
) -> np.ndarray | None:
    """The values (i, j, k) as stored integers of the source's type; None where one is not on
    their grid.
    """
    if dtype is None or not np.issubdtype(dtype, np.integer):
        return None

    limits = np.iinfo(dtype)
    step = abs(slope)
    peak = max(abs(float(voxels.min())), abs(float(voxels.max())))
    near = min(max(1e-3 * step, 5e-7 * peak), 0.05 * step)
    stored = np.empty(voxels.shape, np.dtype(dtype).newbyteorder("="), order="F")
    for k in range(voxels.shape[2]):
        values = voxels[:, :, k].astype(np.float64)
        whole = np.rint((values - inter) / slope)
        back = whole * slope + inter
        exact = (np.abs(back - values) <= near) | (back.astype(np.float32) == voxels[:, :, k])
        if not exact.all() or whole.min() < limits.min or whole.max() >= float(limits.max) + 1:
            return None
        stored[:, :, k] = whole

    return stored


def nifti_of_levels(volume: np.ndarray, affine: np.ndarray, thin: int) -> bytes:
    """A NIfTI file for viewers: every `thin`-th voxel of a volume (i, j, k) along each axis, in 4096
    levels over the range of the whole volume.
    """
    import nibabel

    low = float(volume.min())
    step = float(np.ptp(volume)) / 4095 or 1.0
    levels = ((volume[::thin, ::thin, ::thin] - low) / step).round().astype(np.int16)
    image = nibabel.Nifti1Image(levels, affine @ np.diag([thin, thin, thin, 1.0]))
    image.header.set_slope_inter(step, low)
    return image.to_bytes()
