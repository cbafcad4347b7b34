"""Images looked at before anything is trained on them: what they are, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gantk.data.check.compare import copies_among, wrong_contrast
from gantk.data.check.findings import Problem, about_each, broken, counted, named, odd_ones
from gantk.data.check.inspect import Inspected, inspect
from gantk.data.check.usage import Usage, assign, split_up, usage_of
from gantk.data.sources.file_names import CONTRASTS
from gantk.errors import UserError
from gantk.formats import files as io

FORMAT = 1  # of the result; raised when something in it changes its meaning
SEVERITIES = ("error", "warning", "note")


def check(
    path: str | Path,
    *,
    recipe: str | Path | None = None,  # check the images as this recipe would use them; None: as well as can be guessed
    progress: Callable[[float, str], None] | None = None,  # called with the share that is done and what is at work
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
    problems = broken(items)
    if isinstance(usage, Usage):
        assign(usage, items)
        tell(0.8, "the split")
        split_up(usage, items)
        problems += usage.problems
    else:
        problems.append(usage)
    tell(0.95, "comparisons")
    problems += _compared([item for item in items if item.error is None], usage)
    problems.sort(key=lambda problem: SEVERITIES.index(problem.severity))
    tell(1.0, "done")
    return _result(path, items, usage, problems)


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
            files = (record.path, *record.others) if record.path else ()
            shown = record.scan_key or record.key
            found.setdefault(files, io.Scan(record.path if len(files) == 1 else record.path.parent, files, shown))
        return list(found.values())
    scans = io.scans(path)
    if not scans:
        from gantk.data.sources.detect import nothing_fits

        raise UserError(nothing_fits(path), where="PATH", allowed=io.readable())
    return scans


def _compared(items: Sequence[Inspected], usage: Usage | Problem) -> list[Problem]:
    """What is told from pixels and headers; where a source fits, files of none of its domains are left out of it."""
    known = isinstance(usage, Usage)
    if not known:  # what names say has to do
        for item in items:
            item.domains = [CONTRASTS.get(item.said, item.said).upper()] if item.said else []
    members = [item for item in items if item.domains or not known]
    found = about_each(members)
    for domains in dict.fromkeys(tuple(item.domains) for item in members):
        group = [item for item in members if tuple(item.domains) == domains]
        for said in _contrasts(group, domains):
            found += odd_ones([i for i in group if said is None or i.said == said], " and ".join(domains))
    said = Counter(domain for item in members for domain in item.domains).most_common(2)
    found += wrong_contrast(members, list(usage.names.values()) if known else sorted(domain for domain, _ in said))
    answered = _own_settings(usage) if known else set()
    found = [problem for problem in found if problem.kind not in answered]
    for item in members:
        stack = (tuple(item.domains), Path(item.name).parent.as_posix())
        item.seen = item.seen and replace(item.seen, subject=item.patient, stack=stack)
    places = Counter()
    for item in members:
        if item.seen is not None:
            item.seen = replace(item.seen, position=float(places[item.seen.stack]))
            places[item.seen.stack] += 1
    return found + copies_among(members)


def _contrasts(group: Sequence[Inspected], domains: tuple[str, ...]) -> list[str | None]:
    """Contrasts within a domain of several ("T1+FLAIR"), which are not to be compared with each other."""
    several = any("+" in domain for domain in domains)
    return list(dict.fromkeys(item.said for item in group)) if several else [None]


def _own_settings(usage: Usage) -> set[str]:
    """Kinds of problems that a recipe's own settings answer."""
    if usage.recipe is None:
        return set()
    options = usage.table.source.options
    answered = {"channels"} if options.get("channels") else set()
    return answered | ({"spacing"} if usage.table.spacing else set())


def _result(path: Path, items: Sequence[Inspected], usage: Usage | Problem, problems: Sequence[Problem]) -> dict:
    known = isinstance(usage, Usage)
    split = _split_of_files(usage) if known else {}
    files = [
        item.facts
        | {"domains": item.domains, "patient": item.patient or None}
        | {"split": sorted({split[file] for file in item.scan.files if file in split})}
        for item in items
    ]
    return {
        "format": FORMAT,
        "path": str(path),
        "recipe": usage.recipe if known else None,
        "source": usage.source | {"path": str(path)} if known else None,
        "images": len(items),
        "patients": len({record.subject for record in usage.records} - {""}) if known else 0,
        "domains": _domains(usage, items) if known else {},
        "split": _split(usage) if known else None,
        "summary": _summary(items, usage),
        "problems": [problem.as_json() for problem in problems],
        "files": files,
    }


def _split_of_files(usage: Usage) -> dict[Path, str]:
    return {r.path: name for name, records in (usage.splits or {}).items() for r in records if r.path}


def _domains(usage: Usage, items: Sequence[Inspected]) -> dict[str, dict[str, int]]:
    found = {}
    for letter, name in usage.names.items():
        records = [record for record in usage.records if record.domain == letter]
        found[name] = {
            "files": sum(name in item.domains for item in items),
            "images": len(records),
            "patients": len({record.subject for record in records} - {""}),
        }
    return found


def _split(usage: Usage) -> dict[str, Any] | None:
    if usage.splits is None:
        return None
    return {"by": usage.splits.by, "how": usage.how} | {name: len(records) for name, records in usage.splits.items()}


def _summary(items: Sequence[Inspected], usage: Usage | Problem) -> dict[str, str]:
    """Lines for a person, by what they are about."""
    readable = [item for item in items if item.error is None]
    formats = Counter(item.facts["format"] for item in items)
    kinds = ", ".join(f"{count} {name}" for name, count in formats.most_common())
    broken_ones = len(items) - len(readable)
    lines = {"files": kinds + (f"; {broken_ones} cannot be read" if broken_ones else "")}
    shapes = Counter(" x ".join(map(str, item.facts["shape"])) for item in readable)
    if shapes:
        (shape, count), others = shapes.most_common(1)[0], len(shapes) - 1
        lines["size"] = shape + (f" ({count}), and {counted(range(others), 'other', 'others')}" if others else "")
    types = Counter(str(item.facts["dtype"]) for item in readable)
    lines["type"] = ", ".join(f"{count} {kind}" if len(types) > 1 else kind for kind, count in types.most_common())
    spacings = {tuple(item.facts["spacing"]) for item in readable if item.facts["spacing"]}
    if len(spacings) == 1:
        lines["spacing"] = " x ".join(f"{step:g}" for step in next(iter(spacings))) + " mm"
    return lines | (_usage_lines(usage, readable) if isinstance(usage, Usage) else {})


def _usage_lines(usage: Usage, items: Sequence[Inspected]) -> dict[str, str]:
    domains = _domains(usage, items)
    lines = {"source": usage.source["name"]}
    lines["domains"] = ", ".join(
        f"{name}: {each['images']} images"
        + (f" of {counted(range(each['files']), 'file', 'files')}" if each["files"] != each["images"] else "")
        for name, each in domains.items()
    )
    patients = {record.subject for record in usage.records}
    lines["patients"] = "not known" if patients == {""} else str(len(patients - {""}))
    pairs = {record.pair for record in usage.records if record.domain == "a" and record.pair is not None}
    pairs &= {record.pair for record in usage.records if record.domain == "b"}
    if len(usage.names) == 2:
        lines["pairs"] = f"{len(pairs)} registered" if pairs else "none known"
    if usage.how:
        lines["split"] = usage.how
    left = [item.name for item in items if not item.domains]
    if left:
        lines["left out"] = f"{counted(left, 'file', 'files')} of no domain: {named(left)}"
    return lines
