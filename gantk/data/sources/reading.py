"""Found files to records, and their reading: files that do not belong together are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from gantk.data.items import Record
from gantk.data.sources.file_names import Found
from gantk.data.sources.volumes import Item, Reader, is_volume, records
from gantk.errors import UserError
from gantk.formats import files as io

Channels = Literal[1, 3] | None  # what `channels` of a source may ask for


def records_of(
    found: Sequence[Found],
    root: Path,
    pairs: dict[Path, str],
    patient: re.Pattern | None,
    reader: Reader,
    planes: tuple[float, float],
    expected: dict[str, str],
    labels: Mapping[Path, str] = MappingProxyType({}),
    masks: Mapping[Path, Path] = MappingProxyType({}),
) -> list[Record]:
    """Records in natural order; `position` counts within the stack of one domain, patient and split.

    `expected` names the domains; one of no image, or of one, from which nothing can be held out, is a UserError.
    `labels` and `masks` tell an image's class and the file of its mask, where these are known.
    """
    # A folder is a patient where folders are numbered: `patient07`, `BRATS_HG0006`; `tumour` and `healthy` are kinds.
    numbered = sum(any(map(str.isdigit, "".join(image.place))) for image in found) * 2 > len(found)
    items = []
    for image in found:
        shown = (image.path.relative_to(root) if image.path.is_relative_to(root) else image.path).as_posix()
        subject = patient_of(shown, patient) if patient else "/".join(image.place) if numbered else ""
        items.append(
            Item(
                letter=image.letter,
                source=image.path,
                key=shown,
                subject=subject or (image.name if is_volume(image.path) else ""),  # a volume is a scan of somebody
                split=image.split,
                pair=pairs.get(image.path),
                label=labels.get(image.path),
                mask=masks.get(image.path),
            )
        )
    return expected_records(items, reader, planes, expected, root)


def expected_records(
    items: Sequence[Item], reader: Reader, planes: tuple[float, float], expected: dict[str, str], root: Path
) -> list[Record]:
    """The records of items; a domain of `expected` (letter to name) without two of them is a UserError."""
    found = records(items, reader, planes)
    for letter in sorted({record.domain for record in found} | set(expected)):
        expect_several([record for record in found if record.domain == letter], expected.get(letter, ""), root)
    return found


def expect_several(records: Sequence[Record], domain: str, root: Path) -> None:
    """UserError where a domain has no image, or one, from which nothing can be held out."""
    if len(records) < 2:
        of = f" of {domain}" if domain else ""
        what = f"only one image{of} in '{root}': '{records[0].key}'" if records else f"no images{of} in '{root}'"
        raise UserError(what, where="data.source.path", allowed=io.readable(), remedy="two or more are needed")


def patient_of(path: str, pattern: re.Pattern) -> str:
    """The patient that a pattern finds in a relative path, or in the file's name without suffix; else a UserError."""
    match = pattern.search(path) or pattern.search(io.stem_of(path))
    if not match:
        raise UserError(
            f"the pattern '{pattern.pattern}' finds no patient in '{path}'",
            where="data.source.patient",
            remedy="correct the regular expression; it is searched in the path relative to the folder, "
            "then in the file's name without its suffix",
        )
    return match["patient"] if "patient" in pattern.groupindex else match[1]


def patient_pattern(pattern: str) -> re.Pattern | None:
    """The regular expression of a `patient` option, None for ""; it has one group, or one named `patient`."""
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"'{pattern}' is no regular expression: {error}", where="data.source.patient") from error
    if compiled.groups != 1 and "patient" not in compiled.groupindex:
        raise UserError(
            f"'{pattern}' has {compiled.groups} groups",
            where="data.source.patient",
            allowed="one group, or one that is named: (?P<patient>...)",
        )
    return compiled


def needed_path(path: str, name: str) -> Path:
    """A source's `path`, which it cannot do without."""
    if not path:
        raise UserError(
            f"'{name}' does not know where its images are",
            where="data.source.path",
            remedy=f'for example source = {{ name = "{name}", path = "data" }}, or --data PATH',
        )
    return Path(path)
