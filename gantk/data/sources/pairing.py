"""Registered pairs: images of both domains that show the same anatomy, found by a CSV or by equal
names.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from gantk.catalog.tables import NoHeader, read_rows
from gantk.data.preparation import Record
from gantk.data.sources.reader import ALONE, Item, is_volume, mismatch
from gantk.errors import UserError, count_noun
from gantk.formats.files import difference, files_below

# share of the smaller domain's names that the other must have for equal names to mean pairs
NAMED_ALIKE = 0.9


def _mismatch_if_readable(one: Item, other: Item) -> str:
    """Their `mismatch`, and "" for a file that cannot be read: reading its pixels reports the error."""
    try:
        return mismatch(one, other)
    except UserError:
        return ""


def pair_by_table(items: Sequence[Item], root: Path, table: str) -> bool:
    """Set the pairs of items by the CSV `table`, or with "" by one in `root`; returns whether there
    is one.
    """
    csv_path = root / table if (root / table).is_file() else Path(table)
    if table and not csv_path.is_file():
        raise UserError(f"the CSV of pairs '{table}' does not exist", where="data.source.pairs")

    for path in [csv_path] if table else _tables_in(root):
        try:
            names, rows = read_rows(path)
        except UserError as error:
            if table or _lists_pairs(error, items, root):
                raise error.at("data.source.pairs") from error
            continue  # not a table of pairs
        if rows and _by_rows(items, root, path, names, rows):
            return True

    if table:
        what = f"'{csv_path}' has no column of image paths for each of the two domains"
        allowed = f"a header, and one column for each domain with paths relative to '{root}'"
        raise UserError(what, where="data.source.pairs", allowed=allowed)

    return False


def _tables_in(root: Path) -> list[Path]:
    """The CSV files of a folder, not of those below it."""
    return files_below(root, True, lambda path: path.suffix == ".csv" and path.parent == root)


def _lists_pairs(error: UserError, items: Sequence[Item], root: Path) -> bool:
    """Whether a table without a header names images of both domains in its first line."""
    named = error.images if isinstance(error, NoHeader) else ()
    paths = {(root / name).resolve() for name in named}
    return len({item.letter for item in items if item.display_path.resolve() in paths}) == 2


def _by_rows(
    items: Sequence[Item],
    root: Path,
    path: Path,
    names: list[str],
    rows: list[tuple[int, dict[str, str]]],
) -> bool:
    """Set pairs by the rows of a table; returns False where no two columns hold paths of images of
    a and b.
    """
    by_path = {item.display_path.resolve(): item for item in items}

    def image(row: dict[str, str], column: str) -> Item | None:
        return by_path.get((root / row.get(column, "")).resolve())

    columns: dict[str, str] = {}
    for column in names:
        if item := image(rows[0][1], column):
            columns.setdefault(item.letter, column)

    if len(columns) < 2:
        return False

    for line, row in rows:
        pair = []
        for letter, column in sorted(columns.items()):
            item = image(row, column)
            if item is None or item.letter != letter or item.pair:
                if item is None or not item.pair:
                    what = f"in the column '{column}' is not an image of this domain"
                else:
                    what = "is in two pairs"
                what = f"'{row.get(column, '')}' {what}"
                raise UserError(what, where=f"{path}, line {line}", remedy="correct that row")

            item.pair = row[columns["a"]]
            pair.append(item)

        one, other = pair
        differs = _mismatch_if_readable(one, other)
        if differs:
            what = f"'{one.key}' and '{other.key}' are no registered pair: {differs}"
            remedy = "resample one onto the grid of the other first, or remove that row"
            raise UserError(what, where=f"{path}, line {line}", remedy=remedy)

    return True


def pair_by_name(items: Sequence[Item]) -> list[str]:
    """Set pairs of images with equal names, if nearly all of the smaller domain have one: a few may
    be chance, unless the images of each pair lie in one folder, as a patient's do.

    An image without an equal name, or on another grid than its namesake, then gets a pair of its
    own, for which paired methods raise a UserError. Returns notes on images on other grids.
    """
    alike: dict[tuple, list[Item]] = defaultdict(list)
    for item in items:
        alike[item.split, item.name].append(item)

    shared = {name for name, members in alike.items() if _are_registered(members)}
    names_of_domain = Counter[str]()
    for members in alike.values():
        names_of_domain.update({item.letter for item in members})

    smaller = min(names_of_domain["a"], names_of_domain["b"])
    by_chance = len(shared) < NAMED_ALIKE * smaller
    in_one_folder = all(
        len({item.display_path.parent for item in alike[name]}) == 1 for name in shared
    )
    if not shared or (by_chance and not in_one_folder):
        return []

    apart = {}
    for name in filter(shared.__contains__, alike):
        differs = _mismatch_if_readable(*alike[name])
        if differs:
            apart[name] = differs

    shared -= apart.keys()
    for (split, name), members in alike.items():
        for item in members:
            if (split, name) in shared:
                item.pair = "/".join(filter(None, (split, name)))
            else:
                item.pair = f"{ALONE}{item.letter}/{split or ''}/{name}"

    if not apart:
        return []
    name, differs = next(iter(apart.items()))
    one, other = (f"'{item.key}'" for item in alike[name])
    return [
        f"{count_noun(apart, 'pair')} by name {'is' if len(apart) == 1 else 'are'} not registered:"
        f" {one} and {other} have different grids, {differs}"
    ]


def _are_registered(items: Sequence[Item]) -> bool:
    """Whether items are one of each domain."""
    return sorted(item.letter for item in items) == ["a", "b"]


def complete_pairs(records: Sequence[Record]) -> dict[str, dict[str, Record]]:
    """The registered pairs that have both images: {pair: {"a": record, "b": record}}, in order."""
    by_pair: dict[str, dict[str, Record]] = {}
    for record in records:
        if record.pair is not None:
            by_pair.setdefault(record.pair, {})[record.domain] = record
    return {name: pair for name, pair in by_pair.items() if pair.keys() == {"a", "b"}}


def expect_pairs(records: Sequence[Record], domains: Sequence[str]) -> None:
    """UserError where a paired method would find no pairs, or pairs without one of their images.

    Images without `pair`, such as those that a CSV of pairs does not list, are allowed. The error
    names a patient's two scans that are on different grids, if there are any.
    """
    complete = complete_pairs(records)
    alone = [record for record in records if record.pair not in complete]
    broken = [record for record in alone if record.pair is not None]
    if complete and not broken:
        return

    unpaired = "use an unpaired method such as dualgan"
    apart = _on_different_grids(alone)
    if apart:
        one, other, differs = apart
        remedy = f"resample one onto the grid of the other first, or {unpaired}"
        what = f"'{one}' and '{other}' have one name, but different grids: {differs}"
        if is_volume(one):
            what = (
                f"'{one}' and '{other}' are of one patient, but on different voxel grids: {differs}"
            )
            remedy = (
                'set data.source.onto = "a" (or "b") to resample one onto the other by their headers'
                f" (an option of the sources files, bids, dicom and manifest). Or {unpaired}"
            )
    elif complete:
        lacking = domains[1 if broken[0].domain == "a" else 0]
        what = (
            f"{len(broken)} of {len(records)} images {'has' if len(broken) == 1 else 'have'} no"
            f" partner. The first is"
            f" '{broken[0].key}', which has no image in {lacking}"
        )
        remedy = f"remove these images, list the pairs in a CSV (data.source.pairs), or {unpaired}"
    else:
        counts = [sum(record.domain == letter for record in records) for letter in "ab"]
        what = (
            f"none were found among {counts[0]} images of {domains[0]} and {counts[1]} of"
            f" {domains[1]}. The first without a partner is '{records[0].key}'"
        )
        remedy = (
            f"give a CSV of pairs (data.source.pairs), use side-by-side pictures, or {unpaired}"
        )

    if not apart:
        what = f"this method needs registered pairs, but {what}"

    raise UserError(what, where="data.source", remedy=remedy)


def _on_different_grids(records: Sequence[Record]) -> tuple[Path, Path, str] | None:
    """The only two scans of a patient, or two images of one name, that are on different grids, and
    in words how these differ.
    """
    found: dict[str, dict[str, set[Path]]] = defaultdict(lambda: {"a": set(), "b": set()})
    for record in records:
        if record.path and record.subject and is_volume(record.path):
            found[f"patient {record.subject}"][record.domain].add(record.path)
        elif record.path and record.pair and record.pair.startswith(ALONE):
            name = record.pair.split("/", 2)[2]
            found[name][record.domain].add(record.path)

    for files in found.values():
        if len(files["a"]) == len(files["b"]) == 1:
            (one,) = files["a"]
            (other,) = files["b"]
            differs = difference(one, other)
            if differs:
                return one, other, differs

    return None
