"""What a training would make of images: which source fits, which domains and patients it finds, how it splits them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gantk.data.check.findings import Problem, counted, named
from gantk.data.check.inspect import Inspected
from gantk.data.preparation import Record, domain_letters
from gantk.data.resample import SamplingGrid
from gantk.data.sources.file_names import domain_match
from gantk.data.sources.manifest import read_rows
from gantk.data.sources.pairing import complete_pairs
from gantk.data.sources.source import source_for
from gantk.data.split import SETS, Splits, split_records, unpair
from gantk.data.split.leakage import check_leakage, patients_in_both_domains
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

    loaded = load_recipe(recipe).with_data(path)
    data = loaded.tables["data"]
    if isinstance(data, dict) and "path" in data["source"]:
        data["source"]["path"] = str(path)  # as its files are called here
    model = loaded.check()
    table, method = model.data, model.method.target
    names = dict(zip(domain_letters(table.domains), table.domains, strict=True))
    return Usage(table, data["source"], names, _records(table), method.paired, tuple(method.reads), loaded.origin)


def _by_guess(path: Path) -> Usage:
    """By the first domains that names bear out, else by the first that can be had at all."""
    source, refusal, unnamed = source_for(path, 2), None, None
    for domains in _guesses(path, source["name"]):
        if len(domains) == 1 and unnamed is None:
            # Several domains that are there but of no use are for the user to hear of, not to be taken for one.
            if refusal is not None and not refusal.what.startswith("no "):
                break
            source = source_for(path, 1) if source["name"] != "manifest" else source
        table = DataTable(source=bind_or_raise("source", source), domains=domains)
        try:
            records = _records(table)
        except UserError as error:
            refusal = refusal or error
            continue
        names, said = _names(path, domains, records)
        usage = Usage(table, source, names, records, reads=domain_letters(domains))
        if said:
            return usage
        unnamed = unnamed or usage
    if unnamed is None:
        raise refusal
    what = f"no name says a contrast: taken for two domains, '{unnamed.names['a']}' and '{unnamed.names['b']}'"
    unnamed.problems.append(Problem("domains", "note", what, (), "classes of one domain are for the source 'images'"))
    return unnamed


def _guesses(path: Path, source: str) -> list[tuple[str, ...]]:
    if source == "manifest":
        columns, rows = read_rows(path)
        said = [name for name, _ in Counter(row.get("domain", "") for _, row in rows).most_common() if name]
        wide = [name for name in columns if name not in TABLE_COLUMNS]
        pairs = [tuple(sorted(said[:2]))] if len(said) > 1 else [tuple(wide[:2])] if len(wide) > 1 else []
        return [*pairs, *GUESSES, *((name,) for name in said[:1]), ("images",)]
    two = () if source == "images" else GUESSES
    return [*two] if source in ("folders", "aligned") else [*two, ("images",)]


def _records(table: DataTable) -> list[Record]:
    source, grid = table.source(table.domains, table.dims, table.size), SamplingGrid(table.plane, table.spacing)
    if not grid.is_plain and hasattr(source, "sees"):
        source.sees(grid)
    return source.records()


def _names(path: Path, domains: tuple[str, ...], records: Sequence[Record]) -> tuple[dict[str, str], bool]:
    """What the domains are called, and whether anything says so: the guess where paths bear it out, else their folders.

    A and B where folders are called that, or where both domains lie in one picture.
    """
    guessed = dict(zip(domain_letters(domains), domains, strict=True))
    files = {letter: [r.path for r in records if r.domain == letter and r.path] for letter in guessed}
    if len(guessed) == 1 or path.is_file() or not all(is_image(file) for some in files.values() for file in some):
        return guessed, True
    below = {letter: [file.relative_to(path).parts for file in some] for letter, some in files.items()}
    if all(any(domain_match(part, guessed[letter]) for part in below[letter][0]) for letter in guessed):
        return guessed, True
    folders = {letter: {parts[0] for parts in below[letter] if len(parts) > 1} for letter in guessed}
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
            if usage.names[record.domain] not in item.domains:
                item.domains.append(usage.names[record.domain])
            item.patient = record.subject or item.patient


def split_up(usage: Usage, items: Sequence[Inspected]) -> None:
    """Split the records as a training would, without those that cannot be read; what speaks against it is a problem."""
    asked = usage.recipe is not None
    mixed = len({item.facts["channels"] for item in items if item.error is None and item.domains}) > 1
    if not asked and mixed and "channels" in usage.table.source.options:
        # A guessed source would refuse a mixture of gray and colour, which is a problem of its own: the rest goes on.
        part = bind_or_raise("source", usage.source | {"channels": 1})
        usage.table = DataTable(source=part, domains=usage.table.domains)
        usage.records = _records(usage.table)
    unreadable = {file for item in items if item.error is not None for file in item.scan.files}
    records = [record for record in usage.records if not unreadable & set(record.files)]
    usage.problems += _incomplete(usage, records)
    try:
        usage.splits, usage.how = split_records(records, **usage.table.split.model_dump())
    except UserError as error:
        what = f"{'this split' if asked else 'the usual split'} is not possible: {error.what}".rstrip(".")
        usage.problems.append(Problem("split", "error" if asked else "note", what, (), error.remedy))
        return
    usage.problems += _leaks(usage, items)


def _incomplete(usage: Usage, records: Sequence[Record]) -> Iterator[Problem]:
    """Images that have no partner though others have one, and patients who lack a contrast."""
    complete = complete_pairs(records)
    lonely = dict.fromkeys(r.scan_key or r.key for r in records if r.pair is not None and r.pair not in complete)
    if complete and lonely:
        what = f"{counted(lonely, 'image has', 'images have')} no partner in the other domain: {named(lonely)}"
        severity = "error" if usage.paired else "warning"
        yield Problem("pairs", severity, what, tuple(lonely), "complete the pairs, or leave these out")
    elif usage.paired and not complete:
        what = "the method learns from registered pairs, and there are none"
        yield Problem("pairs", "error", what, (), "give a CSV of pairs, or name images alike")
    lacking = dict.fromkeys(record.scan_key or record.key for record in records if record.missing)
    if lacking:
        what = f"{counted(lacking, 'image lacks', 'images lack')} a contrast: {named(lacking)}"
        severity = "warning" if usage.table.missing == "mask" else "error"
        yield Problem("contrasts", severity, what, tuple(lacking), 'leave them out, or set data.missing = "mask"')


def _leaks(usage: Usage, items: Sequence[Inspected]) -> Iterator[Problem]:
    table = usage.table
    trained = [record for record in usage.splits["train"] if record.domain in usage.reads]
    if not usage.paired and table.unpair:
        trained = unpair(trained, table.split.seed)
    both = patients_in_both_domains(trained)
    if both and not usage.paired and not table.same_patient:
        severity = "error" if usage.recipe is not None else "note"
        what = f"{counted(both, 'patient gives', 'patients give')} training images of both domains: {named(both)}"
        remedy = "an unpaired method asks for data.same_patient = true, or for more patients"
        yield Problem("same-patient", severity, what, (), remedy)
    splits = usage.splits | {"train": trained}
    # What records look like that are whole files is known: these have been read.
    by_file = {item.scan.files: item.seen for item in items if item.seen is not None and len(item.scan.files) == 1}
    members = [record for name in SETS for record in splits[name]]
    used = Counter(record.files for record in members)
    splits.fingerprints = {
        (r.domain, r.key): replace(
            by_file[r.files], name=r.key, subject=r.subject, stack=(r.domain, r.label), position=r.position
        )
        for r in members
        if r.files in by_file and used[r.files] == 1 and not r.scan_key
    } | splits.fingerprints
    try:
        check_leakage(splits)
    except UserError as error:
        yield Problem("leak", "error", error.what.rstrip("."), (), error.remedy)
