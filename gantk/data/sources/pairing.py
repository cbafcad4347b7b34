"""Which image of one domain shows the same place as which of the other: from a CSV, or from equal names."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gantk.data.items import Record
from gantk.data.sources.file_names import Found
from gantk.errors import UserError
from gantk.formats.files import difference, is_volume

NAMED_ALIKE = 0.9  # share of the smaller domain's names that the other must have for equal names to mean pairs


def pairs_of(root: Path, found: Sequence[Found], table: str) -> dict[Path, str]:
    """The pair of each image that has one. `table` is a CSV, "" for one found in `root` or equal names, or "none"."""
    if table == "none":
        return {}
    if table:
        path = Path(table) if Path(table).is_absolute() or not (root / table).is_file() else root / table
        if not path.is_file():
            raise UserError(f"the CSV of pairs '{table}' does not exist", where="data.source.pairs")
        pairs = from_csv(path, root, found)
        if pairs is None:
            raise UserError(
                f"'{path}' has no two columns with paths of the images of both domains",
                where="data.source.pairs",
                allowed=f"paths relative to '{root}', one column for each domain, under a header",
            )
        return pairs
    for path in sorted(root.glob("*.csv")):
        pairs = from_csv(path, root, found)
        if pairs is not None:
            return pairs
    return from_names(found)


def from_csv(path: Path, root: Path, found: Sequence[Found]) -> dict[Path, str] | None:
    """Pairs of the rows of a CSV, None where no two columns hold paths of images of a and b."""
    letters = {image.path.resolve(): (image.letter, image.path) for image in found}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{path}' cannot be read as a CSV: {error}", where="data.source.pairs") from error

    def image(value: str | None) -> tuple[str, Path] | None:
        return letters.get((root / value.strip()).resolve()) if value and value.strip() else None

    columns = {}
    for column in rows[0] if rows else ():
        first = image(rows[0][column]) if column else None
        if first:
            columns.setdefault(first[0], column)
    if columns.keys() != {"a", "b"}:
        return None
    pairs: dict[Path, str] = {}
    for line, row in enumerate(rows, start=2):
        ends = {letter: image(row[column]) for letter, column in columns.items()}
        for letter, end in ends.items():
            if end is None or end[0] != letter or end[1] in pairs:
                what = (
                    "is in two pairs" if end and end[1] in pairs else f"is no image in the column '{columns[letter]}'"
                )
                value = row[columns[letter]]
                raise UserError(f"'{value}' {what}", where=f"{path}, line {line}", remedy="correct that row")
        pairs |= dict.fromkeys((ends["a"][1], ends["b"][1]), row[columns["a"]].strip())
    return pairs


def from_names(found: Sequence[Found]) -> dict[Path, str]:
    """Images named alike in both domains, if nearly all of the smaller domain are: a few may be chance.

    An image whose name the other domain lacks is then a pair without its partner, for paired methods to complain of.
    """
    names = {letter: Counter((image.split, image.name) for image in found if image.letter == letter) for letter in "ab"}
    shared = {name for name in names["a"] if names["a"][name] == 1 and names["b"].get(name) == 1}
    scans: dict[tuple, list[Path]] = {name: [] for name in shared}
    for image in found:
        if (image.split, image.name) in shared and is_volume(image.path):
            scans[image.split, image.name].append(image.path)
    # Scans on different grids are not registered.
    shared = {name for name in shared if len(scans[name]) < 2 or difference(*scans[name]) is None}
    smaller = min(len(names["a"]), len(names["b"]))
    if not smaller or len(shared) < NAMED_ALIKE * smaller:
        return {}
    return {
        image.path: "/".join(filter(None, (image.split, image.name)))
        if (image.split, image.name) in shared
        else "/".join(("alone", image.letter, image.split or "", image.name))
        for image in found
    }


def complete_pairs(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """The registered pairs of which both images are there, {"a": record, "b": record}, in order."""
    by_pair: dict[str, dict[str, Record]] = {}
    for record in records:
        if record.pair is not None:
            by_pair.setdefault(record.pair, {})[record.domain] = record
    return {name: pair for name, pair in by_pair.items() if pair.keys() == {"a", "b"}}


def _expect_one_grid(apart: Sequence[Record], remedy: str) -> None:
    """UserError where scans without a partner have one after all, on another grid."""
    files: dict[str, dict[str, set[Path]]] = {}
    for record in apart:
        if record.subject and record.path and is_volume(record.path):
            files.setdefault(record.subject, {}).setdefault(record.domain, set()).add(record.path)
    for domains in files.values():
        if [len(domains.get(letter, ())) for letter in "ab"] != [1, 1]:
            continue
        one, other = (next(iter(domains[letter])) for letter in "ab")
        differs = difference(one, other)
        if differs:
            raise UserError(
                f"'{one}' and '{other}' are of one patient, and on different grids: {differs}",
                where="data.source",
                remedy="resample one onto the other by their headers: the sources nifti, bids, dicom and manifest take "
                f'onto = "a" (or "b"). Or {remedy}',
            )


def expect_pairs(records: Sequence[Record], domains: Sequence[str]) -> None:
    """UserError where a paired method would find no pairs, or pairs without one of their images.

    Images that nobody called a pair, such as those that a CSV of pairs does not list, are no mistake.
    """
    complete = complete_pairs(records)
    remedy = "use an unpaired method such as dualgan"
    if not complete or any(record.pair is not None and record.pair not in complete for record in records):
        _expect_one_grid([record for record in records if record.pair not in complete], remedy)
    if not complete:
        counts = [sum(record.domain == letter for record in records) for letter in "ab"]
        raise UserError(
            f"this method learns from registered pairs, and the source knows none among {counts[0]} images of "
            f"{domains[0]} and {counts[1]} of {domains[1]}: the first without a partner is '{records[0].key}'",
            where="data.source",
            remedy=f"give a CSV of pairs (data.source.pairs), side-by-side pictures, or {remedy}",
        )
    broken = [record for record in records if record.pair is not None and record.pair not in complete]
    if broken:
        other = domains[1 if broken[0].domain == "a" else 0]
        raise UserError(
            f"this method learns from registered pairs, and {len(broken)} of {len(records)} images have no partner: "
            f"the first is '{broken[0].key}', which {other} lacks",
            where="data.source",
            remedy=f"remove them, list the pairs in a CSV (data.source.pairs), or {remedy}",
        )
