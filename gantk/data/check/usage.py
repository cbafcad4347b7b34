"""Finds how a training would use images: the source that fits, the domains and patients, and the
split.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from gantk.data.check.findings import Problem, problem
from gantk.data.check.inspect import Inspected
from gantk.data.dataset import source_and_records, training_of
from gantk.data.names.domains import folders_apart
from gantk.data.preparation import Record, domain_letters
from gantk.data.sources.pairing import complete_pairs
from gantk.data.sources.reader import is_volume
from gantk.data.sources.rows import OF_FILES, PATIENT, open_rows
from gantk.data.sources.source import source_for
from gantk.data.split import Splits, consequences, split_records
from gantk.data.split.leakage import check_leakage
from gantk.data.split.near_duplicates import placed
from gantk.errors import UserError, counted
from gantk.formats.contrasts import CONTRASTS, USUAL
from gantk.plugin.spec import bind_or_raise
from gantk.recipe.load import Recipe
from gantk.recipe.tables import DataTable

TABLE_COLUMNS = {"path", "domain", "patient", "split", "fold", "label", "mask", "pair", *PATIENT}


@dataclass
class Usage:
    """The records, problems and splits that a [data] table yields, without training."""

    table: DataTable
    method: type  # its `reads` and `paired` are used
    names: dict[str, str]  # domain letter -> human name
    records: list[Record]
    recipe: str | None = None  # the table's recipe; None: a guess
    problems: list[Problem] = field(default_factory=list)
    splits: Splits | None = None
    how: str = ""  # description of the split


def usage_by_recipe(path: Path, recipe: str | Path, set: Iterable[str] = ()) -> Usage:
    """The use of the images below a path by a recipe."""
    from gantk.data.recipe_data import with_data, with_names_of_data
    from gantk.recipe.load import load_recipe

    loaded = with_data(load_recipe(recipe), path).override(set)
    loaded = with_names_of_data(loaded)
    model = loaded.check()
    return _usage(model.data, model.method.target, loaded.origin)


def _usage(table: DataTable, method: type, recipe: str | None = None) -> Usage:
    names = dict(zip(domain_letters(table.domains), table.domains, strict=True))
    listed = table
    uncertain = []
    if recipe is None and "channels" in table.source.options:
        # A mixture of gray and colour, which a guessed source would refuse, is reported as a
        # separate problem.
        part = bind_or_raise("source", table.source.table() | {"channels": 1})
        listed = table.model_copy(update={"source": part})
    source, records = source_and_records(listed, method, uncertain)
    usage = Usage(table, method, names, records, recipe)
    usage.problems += [problem("versions", "note", note) for note in getattr(source, "notes", ())]
    # a run with this recipe would stop with this error
    severity = "warning" if recipe is None else "error"
    usage.problems += [
        problem("patients", severity, each.what, (), each.remedy) for each in uncertain
    ]
    return usage


def usage_by_guess(path: Path, items: Sequence[Inspected] = (), set: Iterable[str] = ()) -> Usage:
    """The likely use of images: domains named by files or headers, else two groups, else one
    domain.
    """
    refusal = None
    for domains in _guesses(path, items):
        try:
            source = source_for(path, len(domains))
            if len(domains) == 2 and source["name"] == "images":
                continue
            table = (
                Recipe({"data": {"source": source, "domains": list(domains)}})
                .override(set)
                .data_table()
            )
            domains = table.domains
            usage = _usage(
                table, type("AnyMethod", (), {"paired": False, "reads": domain_letters(domains)})
            )
        except UserError as error:
            refusal = refusal or error
            # the domains exist but cannot be used: report that error
            if not error.what.startswith("no "):
                break
            continue
        if domains == ("A", "B"):
            apart = folders_apart(
                {
                    x: [r.path.relative_to(path) for r in usage.records if r.domain == x]
                    for x in "ab"
                }
            )
            if not all(
                name.endswith(letter.upper()) for letter, names in apart.items() for name in names
            ):
                if any(item.name_says for item in items) and all(
                    is_volume(record.path) for record in usage.records
                ):
                    continue  # one contrast of two sites or groups
                what = "no name says a contrast: taken for two domains, "
                what += " and ".join(
                    f"{letter.upper()} ({', '.join(names)})" for letter, names in apart.items()
                )
                usage.problems.append(
                    problem("domains", "note", what, (), "classes of one domain: use 'images'")
                )
        return usage
    raise refusal


def _guesses(path: Path, items: Sequence[Inspected]) -> Iterator[tuple[str, ...]]:
    words = [
        item.name_says or item.header_says or item.facts.get("modality") or "" for item in items
    ]
    counts = Counter(CONTRASTS.get(word.lower(), word).upper() for word in words if word)
    if counts.keys() - {"MR", "CT", "PET", "CBCT"}:  # T1 says more than MR
        del counts["MR"]
    if path.is_file():
        columns, rows = open_rows(path)
        counts = Counter(row["domain"] for _, row in rows if row.get("domain"))
        if not counts:  # a column for each domain: those whose first cells are files, if any are
            others = [name for name in columns if name not in TABLE_COLUMNS]
            first = islice(open_rows(path)[1], 20)
            named = {
                x
                for _, row in first
                for x in others
                if row.get(x) and (path.parent / row[x]).exists()
            }
            counts = Counter(
                OF_FILES.sub("", name) for name in others if name in named or not named
            )
    frequent = [name for name, count in counts.items() if 10 * count >= max(counts.values())]
    frequent.sort(key=lambda name: (USUAL.index(name) if name in USUAL else len(USUAL), name))
    if len(frequent) > 1:
        yield tuple(frequent[:2])
    if not path.is_file():
        yield "A", "B"
    yield (frequent[0],) if frequent and path.is_file() else ("images",)


def absolute(path: Path) -> str:
    """An absolute path as text; five times as fast as `Path.absolute`, which matters for large
    tables.
    """
    text = os.fspath(path)
    return text if text.startswith(os.sep) else os.path.join(os.getcwd(), text)


def assign(usage: Usage, items: Sequence[Inspected]) -> None:
    """Set the domains and the patient of every image."""
    by_file = {absolute(file): item for item in items for file in item.scan.files}
    own = {record.path for record in usage.records}
    for record in usage.records:
        # A record's further files count unless they are another record's own, used here only as the
        # target grid.
        for file in (file for file in record.files if file == record.path or file not in own):
            item = by_file.get(absolute(file))
            if item is not None:
                item.domains = list(dict.fromkeys([*item.domains, usage.names[record.domain]]))
                item.patient = record.subject or item.patient


def split_up(usage: Usage, items: Sequence[Inspected]) -> None:
    """Split the readable records as a training would; leaks and impossible splits become problems."""
    by_recipe = usage.recipe is not None
    table = usage.table
    unreadable = {
        absolute(file) for item in items if item.error is not None for file in item.scan.files
    }
    records = [
        r for r in usage.records if not unreadable or unreadable.isdisjoint(map(absolute, r.files))
    ]
    usage.records = records  # what is counted is what a training could read
    usage.problems += _incomplete(usage, records)
    # Reuse fingerprints of pictures that a training would use without resampling.
    items = items if table.dims == 2 and table.plane == "axial" and table.spacing is None else ()
    items = [
        item
        for item in items
        if item.seen and item.facts["channels"] == 1 and len(item.facts["shape"]) == 2
    ]
    whole = {item.scan.files: item.seen for item in items}
    seen = {
        r.id: placed(whole[r.files], r)
        for r in records
        if r.files in whole and not r.scan and not r.missing
    }
    try:
        usage.splits, usage.how = split_records(
            records, **table.split.model_dump(), fingerprints=seen
        )
        usage.splits.fingerprints |= seen
    except UserError as error:
        what = f"{'this split' if by_recipe else 'the usual split'} is not possible: {error.what}"
        usage.problems.append(
            problem("split", "error" if by_recipe else "warning", what, (), error.remedy)
        )
        return
    # no doubt about the patients
    if not any(each["kind"] == "patients" for each in usage.problems):
        usage.problems += [problem("patients", "note", said) for said in consequences(usage.splits)]
    trained = [
        r
        for r in training_of(table, usage.method, usage.splits["train"])
        if r.domain in usage.method.reads
    ]
    try:
        check_leakage(
            usage.splits | {"train": trained},
            same_patient=usage.method.paired or table.same_patient,
        )
    except UserError as error:
        kind = "same-patient" if error.where == "data.same_patient" else "leak"
        severity = "error" if by_recipe or kind == "leak" else "note"
        usage.problems.append(problem(kind, severity, error.what, (), error.remedy))


def _incomplete(usage: Usage, records: Sequence[Record]) -> Iterator[Problem]:
    """Yield problems: images without a partner where others have one, and patients who lack a
    contrast.
    """
    complete = complete_pairs(records)
    paired = usage.method.paired
    for kind, error, some, words, remedy in (
        (
            "pairs",
            paired,
            [r for r in records if complete and r.pair is not None and r.pair not in complete],
            "without a partner in the other domain",
            "complete the pairs, or leave these out",
        ),
        (
            "contrasts",
            usage.table.missing != "mask",
            [r for r in records if r.missing],
            "that lack a contrast",
            'leave them out, or set data.missing = "mask"',
        ),
    ):
        names = list(dict.fromkeys(record.scan_key or record.key for record in some))
        if names:
            yield problem(
                kind,
                "error" if error else "warning",
                f"{counted(names, 'image')} {words}:",
                names,
                remedy,
            )
    if paired and not complete:
        what = "the method learns from registered pairs, and there are none"
        yield problem("pairs", "error", what, (), "give a CSV of pairs, or name images alike")
