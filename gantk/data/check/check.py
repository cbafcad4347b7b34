"""`gantk data check`: what images are, how a training would use them, and what is wrong with them, as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gantk.data.check.findings import (
    Problem,
    about_each,
    broken,
    copies_among,
    counted,
    named,
    odd_ones,
    wrong_contrast,
)
from gantk.data.check.inspect import Inspected, inspect
from gantk.data.check.usage import Usage, assign, split_up, usage_of
from gantk.errors import UserError
from gantk.formats import files as io
from gantk.formats.contrasts import CONTRASTS

FORMAT = 1  # of the result; raised when something in it changes its meaning
SEVERITIES = ("error", "warning", "note")


def check(
    path: str | Path,
    *,
    recipe: str | Path | None = None,  # check the images as this recipe would use them; None: as well as can be guessed
    progress: Callable[[float, str], None] | None = None,  # called with the share that is done and what is being done
) -> dict[str, Any]:
    """What the images of a folder, a DICOM tree, a CSV or one file are, and what is wrong with them, as JSON.

    `files` has the facts of every image (see `gantk.data.check.inspect.inspect`) with its domain, patient and split;
    `problems` are sorted by severity: an error would spoil a training, a warning may, a note is good to know. Nothing
    is written. One image is in memory at a time. No such path, or no image below it: UserError; broken files are
    problems.
    """
    path = Path(path)
    usage = usage_of(path, recipe) if not _is_image(path) else Problem("source", "note", "one file is no training set")
    scans = _scans(path, usage)
    tell = progress or (lambda share, what: None)
    items = []
    for number, scan in enumerate(scans):
        tell(0.8 * number / len(scans), scan.name)
        items.append(inspect(scan))
    problems = list(broken(items))
    if isinstance(usage, Usage):
        assign(usage, items)
        tell(0.8, "the split")
        split_up(usage, items)
        problems += usage.problems
    else:
        problems.append(usage)
        usage, guess = None, [item for item in items if item.said]
        for item in guess:  # what names say has to do
            item.domains = [CONTRASTS.get(item.said, item.said).upper()]
    tell(0.95, "comparisons")
    problems += _compared([item for item in items if item.error is None], usage)
    problems.sort(key=lambda problem: SEVERITIES.index(problem.severity))
    tell(1.0, "done")
    split = {r.path: name for name, records in (usage.splits or {}).items() for r in records} if usage else {}
    return {
        "format": FORMAT,
        "path": str(path),
        "recipe": usage.recipe if usage else None,
        "source": usage.source | {"path": str(path)} if usage else None,
        "images": len(items),
        "patients": len({record.subject for record in usage.records} - {""}) if usage else 0,
        "domains": _domains(usage, items) if usage else {},
        "split": _split(usage) if usage and usage.splits is not None else None,
        "summary": _summary(items) | (_summary_of_usage(usage, items) if usage else {}),
        "problems": [problem.as_json() for problem in problems],
        "files": [
            item.facts
            | {"domains": item.domains, "patient": item.patient or None}
            | {"split": sorted({split[file] for file in item.scan.files if file in split})}
            for item in items
        ],
    }


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() not in (".csv", ".tsv")


def _scans(path: Path, usage: Usage | Problem) -> list[io.Scan]:
    """All images below a folder, or those that a table names."""
    if _is_image(path):
        return [io.Scan(path, (path,), path.name)]
    if path.is_file():
        if isinstance(usage, Problem):
            raise UserError(usage.what, where=str(path), remedy=usage.remedy)
        found = {}
        for record in usage.records:
            files, shown = record.files, record.scan_key or record.key
            found.setdefault(files, io.Scan(record.path if len(files) == 1 else record.path.parent, files, shown))
        return list(found.values())
    scans = io.scans(path)
    if not scans:
        from gantk.data.sources.source import nothing_fits

        raise UserError(nothing_fits(path), where="PATH", allowed=io.readable())
    return scans


def _compared(items: Sequence[Inspected], usage: Usage | None) -> list[Problem]:
    """Findings in readable images; files outside a source's domains are skipped."""
    members = [item for item in items if item.domains or usage is None]
    found = list(about_each(members))
    groups: dict[tuple, list[Inspected]] = {}
    for item in members:
        # Contrasts within a domain of several ("T1+FLAIR") are not compared with each other.
        several = any("+" in domain for domain in item.domains)
        groups.setdefault((tuple(item.domains), item.said if several else None), []).append(item)
    for (domains, _), group in groups.items():
        found += odd_ones(group, " and ".join(domains))
    frequent = Counter(domain for item in members for domain in item.domains).most_common(2)
    found += wrong_contrast(members, list(usage.names.values()) if usage else sorted(domain for domain, _ in frequent))
    if usage and usage.recipe is not None:  # problems that a recipe's own settings answer
        settings = {"channels": usage.table.source.options.get("channels"), "spacing": usage.table.spacing}
        found = [problem for problem in found if not settings.get(problem.kind)]
    places: Counter = Counter()
    for item in (item for item in members if item.seen is not None):
        stack = tuple(item.domains), Path(item.name).parent.as_posix()
        item.seen = replace(item.seen, subject=item.patient, stack=stack, position=float(places[stack]))
        places[stack] += 1
    return found + list(copies_among(members))


def _domains(usage: Usage, items: Sequence[Inspected]) -> dict[str, dict[str, int]]:
    found = {}
    for letter, name in usage.names.items():
        records = [record for record in usage.records if record.domain == letter]
        files, patients = sum(name in item.domains for item in items), {record.subject for record in records} - {""}
        found[name] = {"files": files, "images": len(records), "patients": len(patients)}
    return found


def _split(usage: Usage) -> dict[str, Any]:
    return {"by": usage.splits.by, "how": usage.how} | {name: len(records) for name, records in usage.splits.items()}


def _summary(items: Sequence[Inspected]) -> dict[str, str]:
    """Lines for a person, by what they are about."""
    readable = [item for item in items if item.error is None]
    formats = Counter(item.facts["format"] for item in items)
    lines = {"files": ", ".join(f"{count} {name}" for name, count in formats.most_common())}
    if len(readable) < len(items):
        lines["files"] += f"; {len(items) - len(readable)} cannot be read"
    shapes = Counter(" x ".join(map(str, item.facts["shape"])) for item in readable)
    if shapes:
        (shape, count), others = shapes.most_common(1)[0], len(shapes) - 1
        lines["size"] = shape + (f" ({count}), and {counted(range(others), 'other', 'others')}" if others else "")
    types = Counter(str(item.facts["dtype"]) for item in readable)
    lines["type"] = ", ".join(f"{count} {kind}" if len(types) > 1 else kind for kind, count in types.most_common())
    spacings = {tuple(item.facts["spacing"]) for item in readable if item.facts["spacing"]}
    if len(spacings) == 1:
        lines["spacing"] = " x ".join(f"{step:g}" for step in spacings.pop()) + " mm"
    return lines


def _summary_of_usage(usage: Usage, items: Sequence[Inspected]) -> dict[str, str]:
    lines = {"source": usage.source["name"]}
    lines["domains"] = ", ".join(
        f"{name}: {each['images']} images"
        + (f" of {counted(range(each['files']), 'file', 'files')}" if each["files"] != each["images"] else "")
        for name, each in _domains(usage, [item for item in items if item.error is None]).items()
    )
    patients = {record.subject for record in usage.records}
    lines["patients"] = "not known" if patients == {""} else str(len(patients - {""}))
    if len(usage.names) == 2:
        first, second = ({r.pair for r in usage.records if r.domain == letter} - {None} for letter in "ab")
        lines["pairs"] = f"{len(first & second)} registered" if first & second else "none known"
    if usage.how:
        lines["split"] = usage.how
    left = [item.name for item in items if not item.domains and item.error is None]
    if left:
        lines["left out"] = f"{counted(left, 'file', 'files')} of no domain: {named(left)}"
    return lines
