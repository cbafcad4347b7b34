"""Registered pairs: which image of one domain shows the same place as which of the other, by a CSV or equal names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from gantk.data.preparation import Record
from gantk.data.sources.file_names import Found
from gantk.data.sources.manifest import read_rows
from gantk.errors import UserError
from gantk.formats.files import difference, is_volume

NAMED_ALIKE = 0.9  # share of the smaller domain's names that the other must have for equal names to mean pairs


def pairs_of(root: Path, found: Sequence[Found], table: str) -> dict[Path, str]:
    """The pair of each image that has one. `table` is a CSV, "" for one found in `root` or equal names, or "none"."""
    if table == "none":
        return {}
    if not table:
        tables = (_from_csv(path, root, found) for path in sorted(root.glob("*.csv")))
        return next((pairs for pairs in tables if pairs is not None), None) or _from_names(found)
    path = root / table if (root / table).is_file() else Path(table)
    if not path.is_file():
        raise UserError(f"the CSV of pairs '{table}' does not exist", where="data.source.pairs")
    pairs = _from_csv(path, root, found, asked=True)
    if pairs is None:
        what = f"'{path}' has no two columns with paths of the images of both domains"
        allowed = f"paths relative to '{root}', one column for each domain, under a header"
        raise UserError(what, where="data.source.pairs", allowed=allowed)
    return pairs


def _from_csv(path: Path, root: Path, found: Sequence[Found], asked: bool = False) -> dict[Path, str] | None:
    """Pairs of the rows of a CSV, None where no two columns hold paths of images of a and b."""
    images = {image.path.resolve(): (image.letter, image.path) for image in found}
    try:
        names, rows = read_rows(path)
    except UserError as error:
        if asked:
            raise error.at("data.source.pairs") from error
        return None

    def image(row: dict[str, str], column: str) -> tuple[str, Path | None]:
        return images.get((root / row.get(column, "")).resolve(), ("", None))

    columns: dict[str, str] = {}
    for column in names if rows else ():
        columns.setdefault(image(rows[0][1], column)[0], column)
    if not {"a", "b"} <= columns.keys():
        return None
    pairs: dict[Path, str] = {}
    for line, row in rows:
        for letter in "ab":
            own, end = image(row, columns[letter])
            if own != letter or end in pairs:
                what = "is in two pairs" if end in pairs else f"is no image in the column '{columns[letter]}'"
                what = f"'{row.get(columns[letter], '')}' {what}"
                raise UserError(what, where=f"{path}, line {line}", remedy="correct that row")
            pairs[end] = row[columns["a"]]
    return pairs


def _from_names(found: Sequence[Found]) -> dict[Path, str]:
    """Images named alike in both domains, if nearly all of the smaller domain are: a few may be chance.

    An image whose name the other domain lacks is then a pair without its partner, for paired methods to complain of.
    """
    alike: dict[tuple, list[Found]] = defaultdict(list)
    for image in found:
        alike[image.split, image.name].append(image)
    shared = set()
    for name, images in alike.items():
        if sorted(image.letter for image in images) == ["a", "b"]:
            scans = [image.path for image in images if is_volume(image.path)]
            if len(scans) < 2 or difference(*scans) is None:  # scans on different grids are not registered
                shared.add(name)
    smaller = min(sum(any(image.letter == letter for image in images) for images in alike.values()) for letter in "ab")
    if not smaller or len(shared) < NAMED_ALIKE * smaller:
        return {}
    pairs = {}
    for image in found:
        alone = () if (image.split, image.name) in shared else ("alone", image.letter)
        parts = (*alone, image.split or "", image.name) if alone else filter(None, (image.split, image.name))
        pairs[image.path] = "/".join(parts)
    return pairs


def complete_pairs(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """The registered pairs of which both images are there, {"a": record, "b": record}, in order."""
    by_pair: dict[str, dict[str, Record]] = {}
    for record in records:
        if record.pair is not None:
            by_pair.setdefault(record.pair, {})[record.domain] = record
    return {name: pair for name, pair in by_pair.items() if pair.keys() == {"a", "b"}}


def expect_pairs(records: Sequence[Record], domains: Sequence[str]) -> None:
    """UserError where a paired method would find no pairs, or pairs without one of their images.

    Images that nobody called a pair, such as those that a CSV of pairs does not list, are no mistake. Where a patient's
    two scans lie on different grids, that is said.
    """
    complete = complete_pairs(records)
    broken = [record for record in records if record.pair is not None and record.pair not in complete]
    if complete and not broken:
        return
    files: dict[str, dict[str, set[Path]]] = defaultdict(lambda: {"a": set(), "b": set()})
    for record in records:
        if record.pair not in complete and record.subject and record.path and is_volume(record.path):
            files[record.subject][record.domain].add(record.path)
    unpaired = "use an unpaired method such as dualgan"
    for scans in files.values():
        if len(scans["a"]) == len(scans["b"]) == 1 and (differs := difference(*scans["a"], *scans["b"])):
            what = f"'{min(scans['a'])}' and '{min(scans['b'])}' are of one patient, and on different grids: {differs}"
            remedy = "resample one onto the other by their headers: the sources nifti, bids, dicom and manifest take "
            raise UserError(what, where="data.source", remedy=f'{remedy}onto = "a" (or "b"). Or {unpaired}')
    if not complete:
        counts = [sum(record.domain == letter for record in records) for letter in "ab"]
        what = f"the source knows none among {counts[0]} images of {domains[0]} and {counts[1]} of {domains[1]}: "
        what += f"the first without a partner is '{records[0].key}'"
        remedy = f"give a CSV of pairs (data.source.pairs), side-by-side pictures, or {unpaired}"
    else:
        what = f"{len(broken)} of {len(records)} images have no partner: the first is '{broken[0].key}', "
        what += f"which {domains[1 if broken[0].domain == 'a' else 0]} lacks"
        remedy = f"remove them, list the pairs in a CSV (data.source.pairs), or {unpaired}"
    raise UserError(f"this method learns from registered pairs, and {what}", where="data.source", remedy=remedy)
