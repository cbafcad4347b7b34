"""Registered pairs: images of both domains that show the same anatomy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from gantk.catalog.catalog import Row
from gantk.data.preparation import Pair, Record
from gantk.errors import UserError, count_noun
from gantk.formats.files import grids_differ

LIKELY = "likely "  # begins the name of a pair that was matched by what its images show
ALONE = "alone/"  # start of the pair of an image without a partner
# of the ratio of two pictures' aspect ratios: 1 % at each edge
ASPECT_TOLERANCE = 0.02
# share of the smaller domain's names that the other must have for equal names to mean pairs
NAMED_ALIKE = 0.9
MAX_LEFT_OUT = 0.5  # share of images without a partner that a paired method leaves out


def pair_rows(rows: Sequence[Row], onto: str = "none", by_name: bool = False) -> list[str]:
    """Keep the `pair` of rows that are registered: one of a and one of b that share it, on one
    grid or, if they are volumes, resampled `onto` the grid of a or b by their headers.

    `by_name`: they share a name, which means pairs if nearly all of the smaller domain do: a few
    may be chance, unless the images of each pair lie in one folder, as a patient's do.

    Any other row then gets a pair of its own, for which paired methods raise a UserError; without
    pairs all rows get "". Returns notes on images of one name on other grids.
    """
    pairs = _rows_that_share(rows)
    if by_name and _by_chance(rows, pairs.values()):
        pairs = {}

    apart = []
    registered = set()
    for pair, (a, b) in pairs.items():
        grid = None
        if a.is_volume and b.is_volume:
            grid = {"none": None, "a": a.scan, "b": b.scan}[onto]
        differs = "" if grid else _mismatch_if_readable(a, b)
        if differs:
            shared = "are of one patient" if a.is_volume else "have one name"
            a.apart = b.apart = (
                f"'{a.key}' and '{b.key}' {shared}, but their grids differ: {differs}"
            )
            apart.append(a.apart)
            continue
        registered.add(pair)
        a.onto = b.onto = grid
        a.outlines = b.outlines = a.outlines | b.outlines

    for row in rows:
        if not registered:
            row.pair = ""
        elif row.pair not in registered:
            row.pair = f"{ALONE}{row.letter}/{row.key}"

    if not apart or not by_name:
        return []
    return [f"{count_noun(apart, 'pair')} by name, but not registered: {apart[0]}"]


def _rows_that_share(rows: Sequence[Row]) -> dict[str, tuple[Row, Row]]:
    """By pair, the row of a and the row of b where these two alone share it."""
    sharing = defaultdict(list)
    for row in rows:
        if row.pair:
            sharing[row.pair].append(row)

    pairs = {}
    for pair, members in sharing.items():
        by_letter = {row.letter: row for row in members}
        if by_letter.keys() == {"a", "b"} and len(members) == 2:
            pairs[pair] = by_letter["a"], by_letter["b"]
    return pairs


def _by_chance(rows: Sequence[Row], pairs: Collection[tuple[Row, Row]]) -> bool:
    """Whether equal names may be chance: few share them, and their images lie in two folders."""
    names = {letter: {row.pair for row in rows if row.letter == letter} for letter in "ab"}
    few = len(pairs) < NAMED_ALIKE * min(map(len, names.values()))
    return few and any(a.scan.path.parent != b.scan.path.parent for a, b in pairs)


def _mismatch_if_readable(one: Row, other: Row) -> str:
    """How the grids of two images differ, in words; of pictures, their aspect ratios. "" where they
    can be a registered pair, and for a file that cannot be read: reading its pixels reports that.
    """
    try:
        differs = grids_differ(one.outline, other.outline) or ""
    except UserError:
        return ""
    if differs and not (one.is_volume or other.is_volume):
        (height, width), (other_height, other_width) = (
            row.outline.pixels.shape[1:] for row in (one, other)
        )
        if abs(height * other_width / (width * other_height) - 1) <= ASPECT_TOLERANCE:
            return ""
    return differs


def complete_pairs(records: Sequence[Record]) -> dict[str, Pair]:
    """The registered pairs that have both images: {pair: {"a": record, "b": record}}, in order."""
    by_pair: dict[str, Pair] = {}
    for record in records:
        if record.pair is not None:
            by_pair.setdefault(record.pair, {})[record.domain] = record
    return {name: pair for name, pair in by_pair.items() if pair.keys() == {"a", "b"}}


def without_partner(records: Sequence[Record]) -> list[Record]:
    """The records whose pair is not complete."""
    complete = complete_pairs(records)
    return [each for each in records if each.pair is not None and each.pair not in complete]


def too_many_alone(records: Sequence[Record]) -> bool:
    """Whether there are no pairs, or too many images without a partner for a paired method."""
    alone = without_partner(records)
    return len(alone) > MAX_LEFT_OUT * len(records) or not complete_pairs(records)


def on_other_grids(records: Sequence[Record]) -> list[Record]:
    """The records whose partner is there, but on another grid."""
    return [record for record in records if record.file and record.file.row.apart]


def remedy_of_grids(record: Record) -> str:
    """How a record of `on_other_grids` gets its partner."""
    if record.file.row.is_volume:
        return "use --set data.source.onto=a (or b) to resample one onto the other by their headers"
    return "resample one onto the grid of the other first"


def expect_pairs(records: Sequence[Record], domains: Sequence[str]) -> None:
    """UserError where a paired method would find no pairs, or more than half of the images without
    their partner; fewer are left out of the training.

    Images without `pair` are allowed. The error names a patient's two scans that are on different
    grids, if there are any.
    """
    if not too_many_alone(records):
        return

    remedy = (
        "list the pairs in a table (--data pairs.csv), or use an unpaired method such as dualgan"
    )
    apart = on_other_grids(records)
    lacking = without_partner(records) or records
    what = (
        f"this method needs registered pairs, but {len(lacking)} of {count_noun(records, 'image')}"
        f" of {' and '.join(domains)} have no partner. The first is '{lacking[0].key}'"
    )
    if apart:
        what = apart[0].file.row.apart
        remedy = f"{remedy_of_grids(apart[0])}, or use an unpaired method such as dualgan"
    raise UserError(what, where="data.source", remedy=remedy)
