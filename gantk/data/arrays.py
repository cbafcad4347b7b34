"""Images given in Python: they are written to a run folder first, as files and a table, from which
the run trains and can be resumed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk.catalog.contrasts import contrast_names
from gantk.data.preparation import letter_of
from gantk.errors import UserError, count_noun, did_you_mean
from gantk.files import whole_folder, write_file
from gantk.formats.budget import spend
from gantk.formats.files import write
from gantk.formats.image import UPRIGHT, Format, Image, unusable_words, zeros
from gantk.method import domain_letters

if TYPE_CHECKING:
    from pandas import DataFrame

ABOUT = ("patient", "split", "label", "position", "pair", "mask")  # optional, of an image
KINDS = (
    'a path, a table, arrays such as {"T1": array, "T2": array}, or a data set whose items are dicts'
    ' such as {"T1": tensor, "patient": "p1"}'
)
SHAPES = "(H, W), (C, H, W) with 1 or 3 channels, (D, H, W), (1, D, H, W)"
# suffixes of the files written
PICTURE = ".image.npy"
VOLUME = ".nii"


class Array(Format):
    """Images that a run stored because it was trained on arrays (.image.npy): NumPy arrays (C, H,
    W).
    """

    name = "an array stored by gantk"
    listed = None
    suffixes = (PICTURE,)

    def read(self, path: Path, volume: int | None = None, values: bool = True) -> Image:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        spend(values=array.size)
        pixels = np.array(array, dtype=np.float32) if values else zeros(*array.shape)
        return Image(pixels, path=path, dtype=array.dtype)

    def write(self, path: Path, image: Image, description: str = "") -> None:
        np.save(path, image.pixels if image.dtype is None else image.pixels.astype(image.dtype))


def keep(data: Any, folder: Path, domains: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return the recipe's `data.source` for the data of `gantk.run(data=...)`, and a sentence on
    what was found.

    A table (a data frame of pandas or polars, or a list of dicts, with the columns of a CSV; paths
    are relative to the working directory) is stored in the recipe itself. Other data are written to
    `folder`, each image as one access returns it: pictures as NumPy files, volumes as NIfTI, beside
    `table.csv`. UserError where they cannot be trained on.
    """
    from pandas import DataFrame  # slow import

    if hasattr(data, "columns"):  # a data frame
        data = data.to_dicts() if hasattr(data, "to_dicts") else data.to_dict("records")
    if isinstance(data, (list, tuple)) and all(map(_is_row, data)):
        if not data:
            raise UserError("the table has no rows", where="data", allowed="at least one row")
        words = f"table of {count_noun(data, 'row')}, in the run's recipe.toml"
        table = _csv(DataFrame(data))
        return {"name": "manifest", "path": str(Path.cwd()), "table": table}, words

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "a training of several processes cannot use images given in Python, because each process"
            " would store its own copy",
            where="data",
            remedy="write the images to files, and pass the folder",
        )

    rows: list[dict[str, Any]] = []
    names = dict(zip(domain_letters(tuple(domains)), domains, strict=True))
    with whole_folder(folder, private=True, record=True) as unfinished:
        for number, item in enumerate(_items(data, names)):
            rows += _write_item(item, number, names, unfinished)
        known = DataFrame(rows).dropna(axis="columns", how="all")
        write_file(unfinished / "table.csv", _csv(known).encode(), private=True)

    words = f"{count_noun(rows, 'image')} in {folder}"
    if any(str(row.get("pair")).startswith("row-") for row in rows):
        words += "; images of one row are registered pairs (pass 'pair': False if they are not)"
    return {"name": "manifest", "path": str(folder.absolute() / "table.csv")}, words


def _is_row(item: Any) -> bool:
    """Whether an item is a row of a table of paths, and holds no image."""
    cells = item.values() if isinstance(item, Mapping) else [np.zeros(1)]
    return all(np.ndim(cell) == 0 for cell in cells)


def _csv(table: DataFrame) -> str:
    """The text of a table; whole numbers, which are floats in a column with gaps, as such."""
    return table.convert_dtypes().to_csv(index=False, lineterminator="\n")


def _items(data: Any, names: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    """Yield dicts with an image of one domain, or of both, and what is known of them: the items of a
    data set, or the rows of a dict of columns; UserError where these are not equally long.
    """
    if not isinstance(data, Mapping):
        if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
            raise UserError(
                f"data of the type {type(data).__name__} cannot be used for training",
                where="data",
                allowed=KINDS,
            )
        for number in range(len(data)):
            yield data[number]
        return

    allowed = (*names.values(), *ABOUT)
    unknown = [key for key in data if key not in ABOUT and letter_of(key, names) is None]
    if unknown or not data:
        found = ", ".join(map(repr, unknown)) or "no images"
        raise UserError(
            f"the data contain {found}, but the recipe's domains are {' and '.join(names.values())}",
            where="data",
            allowed=allowed,
            remedy=did_you_mean(str(unknown[0]), allowed) if unknown else None,
        )
    columns = {key: value for key, value in data.items() if value is not False}
    try:
        rows = [*zip(*columns.values(), strict=True)]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the columns {', '.join(map(str, columns))} have different lengths, or one is no list",
            where="data",
            allowed=KINDS,
        ) from error
    for values in rows:
        yield {**data, **dict(zip(columns, values, strict=True))}  # "pair": False


def _write_item(
    item: Any, number: int, names: Mapping[str, str], folder: Path
) -> Iterator[dict[str, Any]]:
    """Write the images of an item, and yield a row of the table for each."""
    images = _images_of(item, number, names)
    mask = item.get("mask")
    about = {name: _plain(item[name]) for name in ABOUT[:-1] if name in item}
    about["pair"] = about.get("pair", f"row-{number}" if len(images) == 2 else "") or None
    for letter, image in images.items():
        pixels = _pixels(image, f"{names[letter]} of item {number}", names[letter])
        row = about | {"domain": names[letter]}
        if pixels.ndim == 4 and not row.get("patient"):  # a volume is one patient's scan
            row["patient"] = f"scan-{row.get('pair') or f'{letter}-{number}'}"
        name = f"{letter}-{number:05d}"
        row["path"] = _write(folder / name, pixels)
        if mask is not None:
            row["mask"] = _write(folder / f"mask-{name}", _pixels(mask, "mask", "mask"))
        yield row


def _images_of(item: Any, number: int, names: Mapping[str, str]) -> dict[str, Any]:
    """The images of an item by the letters of their domains; UserError where it has none."""
    letters = {key: letter_of(key, names) for key in item} if isinstance(item, Mapping) else {}
    images = {letter: item[key] for key, letter in letters.items() if letter and key not in ABOUT}
    if not images:
        raise UserError(
            f"item {number} of the data contains no image of {' or '.join(names.values())}",
            where="data",
            allowed=KINDS,
        )
    return images


def _plain(value: Any) -> Any:
    """A number of NumPy or torch as one of Python."""
    return value.item() if hasattr(value, "item") else value


def _pixels(image: Any, called: str, domain: str) -> np.ndarray:
    """(C, H, W), or (1, D, H, W) of a volume, in the dtype to be written; UserError where it is
    no image.
    """
    if hasattr(image, "detach"):  # a tensor of any device and dtype
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    array = _with_channels_first(np.asarray(image), len(contrast_names(domain)))
    is_image = array.ndim == 3 or (array.ndim == 4 and len(array) == 1)
    if array.dtype.kind not in "biuf" or not array.size or not is_image:
        raise UserError(
            f"{called} has the shape {np.shape(image)} and values of the type {array.dtype}",
            where="data",
            allowed=f"integers and floats, {SHAPES}",
        )

    if array.dtype.kind == "f" and array.dtype != np.float16:
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    if wrong := unusable_words(array):
        raise UserError(
            f"{called} contains {wrong}",
            where="data",
            remedy="replace them, for example with np.nan_to_num(array, nan=0)",
        )
    return array.astype(np.uint8 if array.dtype.kind == "b" else array.dtype.newbyteorder("="))


def _with_channels_first(array: np.ndarray, contrasts: int) -> np.ndarray:
    """(C, ...) of an image without channels, or with 1, 3 or one for each contrast."""
    has_channels = array.ndim == 3 and array.shape[0] in (1, 3, contrasts)
    if array.ndim not in (2, 3) or has_channels:
        return array
    if array.ndim == 3 and array.shape[-1] in (1, 3):
        return np.moveaxis(array, -1, 0)
    return array[None]


def _write(stem: Path, pixels: np.ndarray) -> str:
    """Write pixels, and return the name of the file."""
    path = stem.with_name(stem.name + (PICTURE if pixels.ndim == 3 else VOLUME))
    if pixels.ndim == 3:
        np.save(path, np.ascontiguousarray(pixels))
    else:
        write(path, Image(pixels.astype(np.float32), UPRIGHT, dtype=pixels.dtype))
    return path.name
