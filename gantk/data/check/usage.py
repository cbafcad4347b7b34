"""Finds how a training would use images: the source that fits, the domains and patients, and the
split.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import USUAL
from gantk.catalog.domains import left_out_note, relative_to
from gantk.catalog.image_table import kinds_in_table
from gantk.catalog.layouts import names_classes
from gantk.data.check.findings import Problem, problem, scan_names, with_verb
from gantk.data.check.inspect import Inspected, scans_of
from gantk.data.dataset import Study, doubts_of
from gantk.data.sources.pairing import (
    complete_pairs,
    expect_pairs,
    on_other_grids,
    remedy_of_grids,
    without_partner,
)
from gantk.data.sources.source import source_for
from gantk.data.split.near_duplicates import Fingerprint, like_training, place_fingerprint
from gantk.errors import NothingFound, UserError
from gantk.method import domain_letters
from gantk.recipe.load import Recipe
from gantk.recipe.tables import DataTable


class Usage(Study):
    """A table's study, without training, and its problems."""

    def __init__(self, table: DataTable, method: Any, recipe: str | None = None):
        super().__init__(table, method)
        self.recipe = recipe  # the table's recipe
        self.guessed = recipe is None
        self.catalog: Sequence[Row] = getattr(self.source, "catalog", ())
        self.problems: list[Problem] = []


def usage_of(
    path: Path,
    recipe: str | Path | None,
    settings: Sequence[str],
    items: Sequence[Inspected] = (),
) -> Usage:
    """How a training would use the rows of a table, or the images `items` of a folder: by a recipe,
    or as names and headers say.
    """
    if recipe is None:
        return _usage_by_guess(path, items, settings)

    from gantk.data.recipe_data import checked_recipe

    loaded, model = checked_recipe(recipe, path, settings, None)
    return _usage(model.data, model.method.target, loaded.origin)


def _usage(table: DataTable, method: type[Any], recipe: str | None = None) -> Usage:
    # A mixture of gray and colour, which a guess would refuse, is reported as a separate problem.
    listed = table.model_copy(update={"channels": 1}) if recipe is None else table
    usage = Usage(listed, method, recipe)
    usage.table = table
    source = usage.source
    for note in getattr(source, "notes", ()):
        usage.problems.append(problem("versions", "note", note))

    note = left_out_note(getattr(source, "left_out", {}), table.domains, by_order=recipe is None)
    if note:
        usage.problems.append(problem("choice", "note", note.what, (), note.remedy))

    if recipe is None and len(table.domains) == 2 and hasattr(source, "nameless"):
        remedy = "if these are classes of one domain, use --set 'data.domains=[\"MR\"]'"
        nameless = source.nameless()
        if nameless:
            usage.problems.append(problem("domains", "note", nameless, (), remedy))

    # a run with this recipe would stop with this error
    severity = "warning" if recipe is None else "error"
    for each in doubts_of(source, table):
        usage.problems.append(problem("patients", severity, each.what, (), each.remedy))

    return usage


def _usage_by_guess(path: Path, items: Sequence[Inspected], settings: Sequence[str]) -> Usage:
    """The likely use of images: domains named by files or headers, else two groups, else one
    domain.
    """
    if any(each.startswith("data.domains") for each in settings):
        return _usage_as(path, ("A", "B"), settings)

    refusal: UserError | None = None
    for domains in _guesses(path, items, settings):
        try:
            return _usage_as(path, domains, settings)
        except UserError as error:
            if is_about_setting(error):
                raise
            is_missing = isinstance(error, NothingFound)
            if domains != ("A", "B") or not is_missing:  # nobody said that there are two domains
                refusal = refusal or error
            if not is_missing:
                break  # the domains exist but cannot be used: report that error

    raise refusal or NothingFound(f"no data source can use '{path}'")


def is_about_setting(error: UserError) -> bool:
    """Whether an error is of an option --set, not of the images."""
    return (error.where or "").startswith("--set")


def _usage_as(path: Path, domains: tuple[str, ...], settings: Iterable[str]) -> Usage:
    """The use of images as these domains."""
    source = source_for(path)
    recipe = Recipe({"data": {"source": source, "domains": list(domains)}})
    table = recipe.override(settings).data_table()
    reads = domain_letters(table.domains)
    return _usage(table, type("AnyMethod", (), {"paired": False, "reads": reads}))


def _frequent_domains(path: Path, items: Sequence[Inspected]) -> list[str]:
    """The domains that tables or names say, without rare ones, the most usual first."""
    counts = kinds_in_table(path) if path.is_file() else _domains_in_files(items)
    frequent = [name for name, count in counts.items() if 10 * count >= max(counts.values())]
    usual = {name: USUAL.index(name.upper()) for name in frequent if name.upper() in USUAL}
    return sorted(frequent, key=lambda name: (usual.get(name, len(USUAL)), name))


def _guesses(
    path: Path, items: Sequence[Inspected], settings: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """Yield the domains that images may be of, the likeliest first; folders of classes (yes, no) are
    of one.
    """
    frequent = _frequent_domains(path, items)
    if len(frequent) > 1:
        yield tuple(frequent[:2])

    if path.is_file():
        yield (frequent[0] if frequent else "images",)
        return
    places = [relative_to(item.scan.path, path).parts for item in items]
    classes = names_classes([parts[0] for parts in places if len(parts) > 1])
    if not classes or any(each.startswith("data.source.a=") for each in settings):
        yield "A", "B"
    yield ("images",)


def _domains_in_files(items: Sequence[Inspected]) -> Counter[str]:
    """How many images are of each contrast, or of each modality where none is known."""
    counts = Counter(item.contrast or item.facts.get("modality", "") for item in items)
    del counts[""]
    if counts.keys() - {"MR", "CT", "PET", "CBCT"}:  # T1 says more than MR
        del counts["MR"]
    return counts


def assign(study: Study, items: Sequence[Inspected]) -> None:
    """Set the records and domains of every image."""
    for item in items:
        item.domains = []
    item_of = {
        (os.path.abspath(file), item.scan.volume): item
        for item in items
        for file in item.scan.files
    }
    for record in study.records:
        domain = study.names[record.domain]
        for _, scan in scans_of(record):
            place = os.path.abspath(scan.files[0])
            known = (place, scan.volume) if (place, scan.volume) in item_of else (place, None)
            if known not in item_of:
                continue
            item = item_of[known]
            if item.seen and not item.records:
                item.seen = place_fingerprint(item.seen, record)
            item.records.append(record)
            if domain not in item.domains:
                item.domains.append(domain)


def split_up(usage: Usage, items: Sequence[Inspected]) -> None:
    """Split the readable records as a training would; leaks and impossible splits are problems."""
    unreadable = {record.id for item in items if item.error for record in item.records}
    usage.records = [record for record in usage.records if record.id not in unreadable]
    usage.problems += incomplete(usage)
    usage.fingerprints = _fingerprints(usage, items)
    try:
        usage.divide()
    except UserError as error:
        which = "the default split" if usage.guessed else "this split"
        what = f"{which} is not possible: {error.what}"
        severity = "warning" if usage.guessed else "error"
        usage.problems.append(problem("split", severity, what, (), error.remedy))
        return

    patients_in_doubt = any(each["kind"] == "patients" for each in usage.problems)
    if not patients_in_doubt:
        kind, severity = "patients", "note"
        if like_training(usage.splits, usage.fingerprints):
            kind, severity = "neighbours", "warning"
        usage.problems += [problem(kind, severity, said) for said in usage.consequences()]

    try:
        leak = usage.leaks()
    except UserError as error:  # an image that cannot be compared
        leak = error
    if leak:
        kind = "same-patient" if leak.where == "data.same_patient" else "leak"
        severity = "note" if usage.guessed and kind == "same-patient" else "error"
        usage.problems.append(problem(kind, severity, leak.what, (), leak.remedy))


def _fingerprints(usage: Usage, items: Sequence[Inspected]) -> dict[tuple[str, str], Fingerprint]:
    """The fingerprints, by record, of pictures that a training would use without resampling."""
    table = usage.table
    if table.dims != 2 or table.plane != "axial" or table.spacing is not None:
        return {}

    fingerprints = {}
    for item in items:
        if not item.seen or item.facts["channels"] != 1 or len(item.facts["shape"]) != 2:
            continue
        for record in item.records:
            if record.files == item.scan.files and not record.scan and not record.missing:
                fingerprints[record.id] = place_fingerprint(item.seen, record)
    return fingerprints


def incomplete(study: Study) -> Iterator[Problem]:
    """Yield problems: images without a partner where others have one, and patients who lack a
    contrast.
    """
    records = study.records
    complete = complete_pairs(records)
    paired = study.method.paired
    if complete:
        severity = "error" if paired else "warning"
        alone = without_partner(records, complete)
        apart = on_other_grids(alone)
        if apart:
            names = scan_names(apart)
            what = with_verb(names, "image", "has|have a partner, but on another grid:")
            yield problem("pairs", severity, what, names, remedy_of_grids(apart[0]))

        names = scan_names(record for record in alone if record not in apart)
        if names:
            what = with_verb(names, "image", "has|have no partner in the other domain:")
            remedy = "complete the pairs, or remove these images"
            yield problem("pairs", severity, what, names, remedy)

    names = scan_names(record for record in records if record.missing)
    if names:
        severity = "warning" if study.table.missing == "mask" else "error"
        what = with_verb(names, "image", "lacks|lack a contrast:")
        remedy = 'remove them, or set data.missing = "mask"'
        yield problem("contrasts", severity, what, names, remedy)

    if paired and not complete:
        try:
            expect_pairs(records, study.table.domains)
        except UserError as error:
            yield problem("pairs", "error", error.what, (), error.remedy)
