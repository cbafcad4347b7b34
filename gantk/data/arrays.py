"""Writes training images given in Python to a run folder, as files and a table, so that the run can
be resumed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gantk.catalog.contrasts import contrast_names
from gantk.catalog.tables import csv_text
from gantk.data.array_tables import source_of
from gantk.data.preparation import letter_of
from gantk.errors import UserError, count_noun, did_you_mean
from gantk.files import make_folder, write_file
from gantk.formats.budget import spend
from gantk.formats.files import write
from gantk.formats.image import UPRIGHT, Format, Image, unusable_words, zeros
from gantk.method import domain_letters

ABOUT = ("patient", "split", "label", "position", "pair")  # optional metadata of an image
COLUMNS = ("path", "domain", *ABOUT, "mask")
KINDS = (
    'a path, a table, arrays such as {"T1": array, "T2": array}, or a data set whose items are dicts'
    ' such as {"T1": tensor, "patient": "p1"}'
)
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

    A table is stored in the recipe itself. Other data are written to `folder`, each image as one
    access returns it: pictures as NumPy files, volumes as NIfTI, beside `table.csv`. UserError
    where they cannot be trained on.
    """
    if _is_table(data):
        source = source_of(data)
        return source, f"table of {count_noun(len(data), 'row')}, in the run's recipe.toml"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        what = (
            "a training of several processes cannot use images given in Python, because each process"
            " would store its own copy"
        )
        raise UserError(what, where="data", remedy="write the images to files, and pass the folder")

    kept = _Kept(folder, tuple(domains))
    if isinstance(data, Mapping):
        kept.add_columns(data)
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        kept.add_items(data)
    else:
        what = f"data of the type {type(data).__name__} cannot be used for training"
        remedy = None
        if hasattr(data, "__iter__"):
            remedy = "add __len__ and __getitem__, as in torch.utils.data.Dataset"
        raise UserError(what, where="data", allowed=KINDS, remedy=remedy)

    return kept.finish()


def _is_table(data: Any) -> bool:
    """Whether the data are a table of paths: a data frame of pandas or polars, or a list of dicts."""
    if hasattr(data, "columns") and (hasattr(data, "to_dict") or hasattr(data, "to_dicts")):
        return True
    first = data[0] if isinstance(data, (list, tuple)) and data else None
    return isinstance(first, Mapping) and all(
        isinstance(cell, (str, Path, int, float)) for cell in first.values()
    )


class _Kept:
    """Writes images to a folder and collects a table row for each; `finish` writes the table."""

    def __init__(self, folder: Path, domains: tuple[str, ...]):
        self.folder = folder
        self.domains = domains
        self.bytes = 0
        self.paired = False
        self.rows: list[dict[str, str]] = []
        self.letters = dict(zip(domain_letters(domains), domains, strict=True))

    def add_columns(self, data: Mapping[str, Any]) -> None:
        """Add a dict of arrays or lists, one for each domain, with lists of the images' metadata."""
        images = {
            letter: _elements(self.letters[letter], value)
            for letter, value in self._images(data).items()
        }
        self._expect([letter for letter, each in images.items() if len(each)])
        counts = {letter: len(each) for letter, each in images.items()}
        self.paired = (
            len(images) == 2 and len(set(counts.values())) == 1 and data.get("pair") is not False
        )
        for letter, each in images.items():
            about = {
                key: self._metadata_of(key, data[key], letter, counts)
                for key in (*ABOUT, "mask")
                if key in data
            }
            for number, image in enumerate(each):
                metadata = {key: values[number] for key, values in about.items()}
                if "pair" not in metadata:
                    metadata["pair"] = f"row-{number}" if self.paired else ""
                self._add(letter, number, image, f"{self.letters[letter]}[{number}]", metadata)

    def add_items(self, data: Any) -> None:
        """Add a data set whose items are dicts with an image of one domain, or of both, which are
        then a pair.
        """
        counts: dict[str, int] = {}
        for number in range(len(data)):
            item = data[number]
            if not isinstance(item, Mapping):
                what = f"item {number} of the data set has the type {type(item).__name__}, not dict"
                raise UserError(what, where="data", allowed=KINDS)

            images = {
                letter: value
                for key, value in item.items()
                if (letter := letter_of(key, self.letters))
            }
            # raises the UserError; keys beside an image are ignored
            images = images or self._images(item)
            metadata = {key: item[key] for key in (*ABOUT, "mask") if key in item}
            if "pair" not in metadata or metadata["pair"] is False:
                if len(images) == 2 and "pair" not in metadata:
                    metadata["pair"] = f"row-{number}"
                else:
                    metadata["pair"] = ""

            self.paired |= len(images) == 2 and bool(metadata["pair"])
            for letter, image in images.items():
                self._add(
                    letter, number, image, f"{self.letters[letter]} of item {number}", metadata
                )
                counts[letter] = counts.get(letter, 0) + 1

        self._expect(counts)

    def finish(self) -> tuple[dict[str, Any], str]:
        """Write the table; returns the source that reads it, and a sentence on the images it holds."""
        rows = [[row.get(name) for name in COLUMNS] for row in self.rows]
        write_file(self.folder / "table.csv", csv_text(COLUMNS, rows).encode(), private=True)
        counts = [
            f"{sum(row['domain'] == name for row in self.rows)} {name}" for name in self.domains
        ]
        patients = len({row.get("patient") for row in self.rows} - {None, ""})
        whose = f" of {count_noun(patients, 'patient')}" if patients else ", patients unknown"
        how = ""
        if self.paired:
            how = "; images of one row are registered pairs (pass 'pair': False if they are not)"
        words = f"{' and '.join(counts)}{whose}{how}; {self.bytes / 2**20:.1f} MiB in {self.folder}"
        return {"name": "manifest", "path": str(self.folder.absolute() / "table.csv")}, words

    def _images(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """A dict's entries without metadata, by domain letter; UserError where a key names no
        domain.
        """
        keys = [key for key in data if key not in (*ABOUT, "mask")]
        unknown = [str(key) for key in keys if letter_of(key, self.letters) is None]
        if unknown:
            close = did_you_mean(
                unknown[0], [name.lower() for name in (*self.domains, *ABOUT, "mask")]
            )
            renamed = (
                'rename the recipe\'s domains: set={"data.domains":'
                f" {[str(key) for key in keys]}}}"
            )
            remedy = close or (renamed if len(keys) == len(self.domains) else None)
            what = (
                f"the data contain {', '.join(map(repr, unknown))}, but the recipe's domains are"
                f" {' and '.join(self.domains)}"
            )
            raise UserError(
                what, where="data", allowed=(*self.domains, *ABOUT, "mask"), remedy=remedy
            )

        return {letter: data[key] for key in keys if (letter := letter_of(key, self.letters))}

    def _expect(self, images: Iterable[str]) -> None:
        if lacking := [name for letter, name in self.letters.items() if letter not in images]:
            raise UserError(
                f"the data contain no images of {' and '.join(lacking)}",
                where="data",
                allowed=KINDS,
            )

    def _metadata_of(
        self, key: str, values: Any, letter: str, counts: Mapping[str, int]
    ) -> Sequence[Any]:
        """The metadata `key` of each image of a domain, from one list for all domains or one for
        each.
        """
        if key == "pair" and isinstance(values, bool):
            return [f"row-{number}" if self.paired else "" for number in range(counts[letter])]

        if isinstance(values, Mapping):
            values = {letter_of(name, self.letters): each for name, each in values.items()}.get(
                letter, [""] * counts[letter]
            )

        values = _host(values) if hasattr(values, "shape") else list(values)
        if len(values) != counts[letter]:
            what = (
                f"'{key}' has {count_noun(len(values), 'value')}, but there are {counts[letter]} images of"
                f" {self.letters[letter]}"
            )
            remedy = (
                f'give one list for each domain: {{"{key}": {{"{self.domains[0]}": [...], ...}}}}'
            )
            raise UserError(what, where="data", remedy=remedy)

        return values

    def _add(
        self, letter: str, number: int, image: Any, called: str, said: Mapping[str, Any]
    ) -> None:
        pixels = self._pixels(image, called, self.letters[letter])
        row = {
            key: (
                ""
                if (text := str(getattr(value, "item", lambda value=value: value)())) == "None"
                else text
            )
            for key, value in said.items()
            if key != "mask"
        }
        if pixels.ndim == 4 and not row.get("patient"):  # a volume is one patient's scan
            row["patient"] = f"scan-{row.get('pair') or f'{letter}-{number}'}"

        row["path"] = self._write(f"{letter}-{number:05d}", pixels)
        row["domain"] = self.letters[letter]
        if said.get("mask") is not None:
            row["mask"] = self._write(
                f"mask-{letter}-{number:05d}", self._pixels(said["mask"], "mask", "mask")
            )

        self.rows.append(row)

    def _pixels(self, image: Any, called: str, domain: str) -> np.ndarray:
        """(C, H, W), or (1, D, H, W) of a volume, in the dtype to be written; UserError where it is
        no image.
        """
        array = _host(image)
        if array.dtype.kind not in "biuf":
            raise UserError(
                f"{called} has values of the type {array.dtype}",
                where="data",
                allowed="integers and floats",
            )

        array = self._with_channels(array, len(contrast_names(domain)))
        if array.ndim not in (3, 4) or not array.size or (array.ndim == 4 and len(array) != 1):
            allowed = "(H, W), (C, H, W) with 1 or 3 channels, (D, H, W), (1, D, H, W)"
            raise UserError(
                f"{called} has the shape {np.shape(image)}", where="data", allowed=allowed
            )

        kind = {"b": np.uint8, "f": np.float16 if array.dtype == np.float16 else np.float32}.get(
            array.dtype.kind
        )
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, dtype=kind or array.dtype.newbyteorder("="))

        if wrong := unusable_words(array):
            what = f"{called} contains {wrong}"
            remedy = "replace them, for example with np.nan_to_num(array, nan=0)"
            raise UserError(what, where="data", remedy=remedy)

        return array

    @staticmethod
    def _with_channels(array: np.ndarray, contrasts: int) -> np.ndarray:
        """An array with its channels first: (H, W, C) is turned, (H, W) and (D, H, W) get one."""
        channels = {1, 3, contrasts}
        if array.ndim == 3 and array.shape[-1] in (1, 3) and array.shape[0] not in channels:
            return np.moveaxis(array, -1, 0)
        if array.ndim == 2 or (array.ndim == 3 and array.shape[0] not in channels):
            return array[None]
        return array

    def _write(self, stem: str, pixels: np.ndarray) -> str:
        make_folder(self.folder, private=True)
        name = stem + (PICTURE if pixels.ndim == 3 else VOLUME)
        self.bytes += pixels.nbytes
        if pixels.ndim == 3:
            np.save(self.folder / name, pixels)
        else:
            write(self.folder / name, Image(pixels.astype(np.float32), UPRIGHT, dtype=pixels.dtype))
        return name


def _elements(key: str, images: Any) -> Sequence[Any] | np.ndarray:
    """The images of an array (N, ...), a tensor or a list, as a sequence; UserError for another
    type or shape.
    """
    if hasattr(images, "shape"):
        array = _host(images)
        if array.ndim in (3, 4, 5):
            return array
        raise UserError(
            f"'{key}' has the shape {array.shape}",
            where="data",
            allowed="(N, H, W), (N, C, H, W), (N, D, H, W)",
        )

    if isinstance(images, (list, tuple)):
        return images

    raise UserError(
        f"'{key}' has the type {type(images).__name__}",
        where="data",
        allowed="an array, a tensor, or a list of these",
    )


def _host(value: Any) -> np.ndarray:
    """A tensor of any device and dtype, or anything that NumPy converts, as an array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        value = value.numpy()
    return np.asarray(value)
