"""The class of an image: told by the folder it lies in, handed to the method as a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gantk.data.items import Record
from gantk.data.sources.file_names import Found
from gantk.errors import UserError, did_you_mean


def classes_of_folders(found: Sequence[Found]) -> dict[Found, str]:
    """The class of each image: its first folder, where two or more of these hold no digits (numbers are patients)."""
    names = {image.place[0] for image in found if image.place and not any(map(str.isdigit, image.place[0]))}
    if len(names) < 2:
        return {}
    return {image: image.place[0] for image in found if image.place and image.place[0] in names}


def beyond_class(image: Found) -> Found:
    """The image with its class taken off its place: what is left may be a patient."""
    return replace(image, place=image.place[1:])


def of_class(records: Sequence[Record], name: str) -> list[Record]:
    """The records of one class; UserError with those there are where it is unknown."""
    kept = [record for record in records if record.label == name]
    if not kept:
        known = sorted({record.label for record in records if record.label is not None})
        raise UserError(
            f"no image is of the class '{name}'" + ("" if known else ": the folders name no classes"),
            where="data.source.only",
            allowed=known or "folders of the classes' names, such as yes and no",
            remedy=did_you_mean(name, known),
        )
    return kept


def classes_of(records: Sequence[Record], domains: Sequence[str]) -> tuple[str, ...]:
    """The classes of the records of these domains, sorted; UserError where some records have none."""
    needed = [record for record in records if record.domain in domains]
    without = [record.key for record in needed if record.label is None]
    if without:
        raise UserError(
            f"{len(without)} of {len(needed)} images have no label: the first is '{without[0]}'",
            where="data.labels",
            remedy="put every image into a folder named after its class, or set data.labels = false",
        )
    return tuple(sorted({record.label for record in needed if record.label is not None}))
