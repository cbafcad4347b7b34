"""What a training would make of images: which source fits, which domains and patients it finds, how it splits them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gantk.data.check.findings import Problem, counted, named
from gantk.data.check.inspect import Inspected
from gantk.data.items import Record, domain_letters
from gantk.data.resample import SamplingGrid
from gantk.data.sources.choice import source_for
from gantk.data.sources.file_names import domain_match
from gantk.data.sources.manifest import read_rows
from gantk.data.sources.pairing import complete_pairs
from gantk.data.split.leakage import check_leakage, patients_in_both_domains
from gantk.data.split.split import SETS, Splits, split_records, unpair
from gantk.errors import UserError
from gantk.formats.files import is_image
from gantk.plugin.spec import bind_or_raise
from gantk.recipe.tables import DataTable

# What the domains may be called where no recipe says so; the last are for folders that say A and B, or nothing.
GUESSES = (
    ("T1", "T2"), ("CT", "MR"), ("T1", "FLAIR"), ("T2", "FLAIR"), ("T1", "T1CE"), ("T1", "PD"), ("T2", "PD"),
    ("MR", "PET"), ("CT", "PET"), ("A", "B"),
)  # fmt: skip
TABLE_COLUMNS = {"path", "domain", "patient", "split", "fold", "label", "mask", "pair"}


@dataclass
class Usage:
    """A [data] table at work, as far as it goes without training."""

    table: DataTable
    source: dict[str, Any]  # as a recipe has it
    names: dict[str, str]  # domain letter -> human name
    records: list[Record]
    paired: bool = False  # whether the method learns from registered pairs
    reads: tuple[str, ...] = ("a", "b")
    recipe: str | None = None
    problems: list[Problem] = field(default_factory=list)
    splits: Splits | None = None
    how: str = ""  # how the split was made, in words


def usage_of(path: Path, recipe: str | Path | None = None) -> Usage | Problem:
    """How the images below a path would be used, by a recipe or as well as can be guessed; or why they cannot be."""
    try:
        return _by_recipe(path, recipe) if recipe is not None else _by_guess(path)
    except UserError as error:
        # Too little to train on is no mistake where nobody said that it should be trained on.
        little = recipe is None and error.what.startswith(("no ", "only one image"))
        severity = "warning" if little else "error"
        return Problem("source", severity, f"no training could use this: {error.what}".rstrip("."), (), error.remedy)


def _by_recipe(path: Path, recipe: str | Path) -> Usage:
    from gantk.recipe.load import load_recipe

    loaded = load_recipe(recipe)
    data = loaded.tables.get("data", {})
    own = data.get("source", {}) if isinstance(data, dict) else {}
    own = {"name": own} if isinstance(own, str) else own
    domains = data.get("domains", ["A", "B"]) if isinstance(data, dict) else ["A", "B"]
    if isinstance(data, dict):
        source = source_for(path, len(domains), own.get("name"))
        data["source"] = (own if own.get("name") == source["name"] else {}) | source
        loaded.tables["data"] = data
    model = loaded.check()
    table, method = model.data, model.method.target
    names = dict(zip(domain_letters(table.domains), table.domains, strict=True))
    records = _records(table)
    return Usage(table, data["source"], names, records, method.paired, tuple(method.reads), loaded.origin)


def _by_guess(path: Path) -> Usage:
    """By the first domains that names bear out, else by the first that can be had at all."""
    source, first, second = source_for(path, 2), None, None
    for domains in _guesses(path, source["name"]):
        if len(domains) == 1 and second is None:
            # Several domains that are there but of no use are for the user to hear of, not to be taken for one.
            if first is not None and not first.what.startswith("no "):
                break
            source = source_for(path, 1) if source["name"] != "manifest" else source
        table = DataTable(source=bind_or_raise("source", source), domains=domains)
        try:
            records = _records(table)
        except UserError as error:
            first = first or error
            continue
        names, said = _names(path, domains, records)
        usage = Usage(table, source, names, records, reads=domain_letters(domains))
        if said:
            return usage
        second = second or usage
    if second is None:
        raise first
    second.problems.append(_unsaid(second.names))
    return second


def _unsaid(names: dict[str, str]) -> Problem:
    what = f"no name says a contrast: taken for two domains, '{names['a']}' and '{names['b']}'"
    return Problem("domains", "note", what, (), "classes of one domain are for the source 'images'")


def _guesses(path: Path, source: str) -> list[tuple[str, ...]]:
    if source == "images":
        return [("images",)]
    if source in ("folders", "aligned"):
        return list(GUESSES)
    if source != "manifest":
        return [*GUESSES, ("images",)]
    columns, rows = read_rows(path)
    said = [name for name, _ in Counter(row.get("domain", "") for _, row in rows).most_common() if name]
    wide = [name for name in columns if name not in TABLE_COLUMNS]
    pairs = [tuple(sorted(said[:2]))] if len(said) > 1 else [tuple(wide[:2])] if len(wide) > 1 else []
    lone = [(said[0],)] if said else []
    return [*pairs, *GUESSES, *lone, ("images",)]


def _records(table: DataTable) -> list[Record]:
    source = table.source(table.domains, table.dims, table.size)
    view = SamplingGrid(table.plane, table.spacing)
    if not view.is_plain and hasattr(source, "sees"):
        source.sees(view)
    return source.records()


def _names(path: Path, domains: tuple[str, ...], records: Sequence[Record]) -> tuple[dict[str, str], bool]:
    """What the domains are called, and whether anything says so: the guess where paths bear it out, else their folders.

    A and B where folders are called that, or where both domains lie in one picture.
    """
    letters = domain_letters(domains)
    guessed = dict(zip(letters, domains, strict=True))
    files = {letter: [r.path for r in records if r.domain == letter and r.path] for letter in letters}
    pictures = all(is_image(file) for some in files.values() for file in some)
    if len(letters) == 1 or path.is_file() or not pictures:
        return guessed, True
    below = {letter: [file.relative_to(path).parts for file in some] for letter, some in files.items()}
    if all(any(domain_match(part, guessed[letter]) for part in below[letter][0]) for letter in letters):
        return guessed, True
    folders = {letter: {parts[0] for parts in below[letter] if len(parts) > 1} for letter in letters}
    if set(files["a"]) == set(files["b"]) or folders["a"] & folders["b"] or not all(folders.values()):
        return {"a": "A", "b": "B"}, True
    said = all(name.rstrip("AB") != name for names in folders.values() for name in names)
    alone = all(len(names) == 1 for names in folders.values()) and not said
    return {letter: min(names) if alone else letter.upper() for letter, names in folders.items()}, not alone


def assign(usage: Usage, items: Sequence[Inspected]) -> None:
    """Tell every image its domains and its patient."""
    by_file = {file: item for item in items for file in item.scan.files}
    own = {record.path for record in usage.records}
    for record in usage.records:
        for file in record.files:
            item = by_file.get(file)
            # Further files belong to a record where nobody else claims them: others are on whose grid it was brought.
            if item is None or (file != record.path and file in own):
                continue
            name = usage.names[record.domain]
            if name not in item.domains:
                item.domains.append(name)
            item.patient = record.subject or item.patient


def _one_kind_of_channels(usage: Usage, items: Sequence[Inspected]) -> None:
    """Gray for all where a guessed source would refuse a mixture, which is a problem of its own: the rest goes on."""
    mixed = len({item.facts["channels"] for item in items if item.error is None and item.domains}) > 1
    if usage.recipe is None and mixed and "channels" in usage.table.source.options:
        part = bind_or_raise("source", usage.source | {"channels": 1})
        usage.table = DataTable(source=part, domains=usage.table.domains)
        usage.records = _records(usage.table)


def split_up(usage: Usage, items: Sequence[Inspected]) -> None:
    """Split the records as a training would, without those that cannot be read; what speaks against it is a problem."""
    _one_kind_of_channels(usage, items)
    unreadable = {file for item in items if item.error is not None for file in item.scan.files}
    records = [record for record in usage.records if not unreadable & set(record.files)]
    usage.problems += _pairs(usage, records)
    asked = usage.recipe is not None
    try:
        usage.splits, usage.how = split_records(records, **usage.table.split.model_dump())
    except UserError as error:
        severity = "error" if asked else "note"
        which = "this split" if asked else "the usual split"
        what = f"{which} is not possible: {error.what}".rstrip(".")
        usage.problems.append(Problem("split", severity, what, (), error.remedy))
        return
    usage.problems += _leaks(usage, items)


def _leaks(usage: Usage, items: Sequence[Inspected]) -> list[Problem]:
    splits, table = usage.splits, usage.table
    trained = [record for record in splits["train"] if record.domain in usage.reads]
    if not usage.paired and table.unpair:
        trained = unpair(trained, table.split.seed)
    both = patients_in_both_domains(trained)
    found = []
    if both and not usage.paired and not table.same_patient:
        severity = "error" if usage.recipe is not None else "note"
        what = f"{counted(both, 'patient gives', 'patients give')} training images of both domains: {named(both)}"
        remedy = "an unpaired method asks for data.same_patient = true, or for more patients"
        found.append(Problem("same-patient", severity, what, (), remedy))
    splits = splits | {"train": trained}
    splits.seen = _seen_already(splits, items) | splits.seen
    try:
        check_leakage(splits)
    except UserError as error:
        found.append(Problem("leak", "error", error.what.rstrip("."), (), error.remedy))
    return found


def _seen_already(splits: Splits, items: Sequence[Inspected]) -> dict:
    """What the pixels of records look like that are whole files: these have been read."""
    by_file = {item.scan.files: item for item in items if item.seen is not None and len(item.scan.files) == 1}
    used = Counter(record.files for name in SETS for record in splits[name])
    return {
        (r.domain, r.key): replace(
            by_file[r.files].seen, name=r.key, subject=r.subject, stack=(r.domain, r.label), position=r.position
        )
        for name in SETS
        for r in splits[name]
        if r.files in by_file and used[r.files] == 1 and not r.scan_key
    }


def _pairs(usage: Usage, records: Sequence[Record]) -> list[Problem]:
    """Images that have no partner though others have one, and patients who lack a contrast."""
    found = []
    complete = complete_pairs(records)
    lonely = [record for record in records if record.pair is not None and record.pair not in complete]
    if complete and lonely:
        names = tuple(dict.fromkeys(record.scan_key or record.key for record in lonely))
        severity = "error" if usage.paired else "warning"
        what = f"{counted(names, 'image has', 'images have')} no partner in the other domain: {named(names)}"
        found.append(Problem("pairs", severity, what, names, "complete the pairs, or leave these out"))
    elif usage.paired and not complete:
        what = "the method learns from registered pairs, and there are none"
        found.append(Problem("pairs", "error", what, (), "give a CSV of pairs, or name images alike"))
    lacking = tuple(dict.fromkeys(record.scan_key or record.key for record in records if record.missing))
    if lacking:
        severity = "warning" if usage.table.missing == "mask" else "error"
        what = f"{counted(lacking, 'image lacks', 'images lack')} a contrast: {named(lacking)}"
        found.append(Problem("contrasts", severity, what, lacking, 'leave them out, or set data.missing = "mask"'))
    return found
