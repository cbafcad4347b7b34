"""`gantk data check`: describes images, how a training would use them, and problems in them, as
JSON.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gantk.data.check import findings
from gantk.data.check.findings import Problem, listed, problem
from gantk.data.check.inspect import Inspected, inspect
from gantk.data.check.usage import (
    Usage,
    absolute,
    assign,
    split_up,
    usage_by_guess,
    usage_by_recipe,
)
from gantk.data.dataset import without_full_collections
from gantk.data.sources.rows import READING
from gantk.data.split.near_duplicates import sampled
from gantk.errors import UserError, counted
from gantk.formats import files as io
from gantk.formats.contrasts import CONTRASTS

FORMAT = 1  # version of the result; increased when the meaning of a key changes
SEVERITIES = ("error", "warning", "note")


@io.listed_once()
@without_full_collections()
def check(
    path: str | Path,
    *,
    # check the images as this recipe would use them; None: guess the use
    recipe: str | Path | None = None,
    # `data.KEY=value` settings that override the recipe's or the guessed ones
    set: Iterable[str] = (),
    # read the pixels of every image, even of a very large set, instead of a sample
    every: bool = False,
    # called with the finished share and the current operation
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Describe the images of a folder, a DICOM tree, a CSV or one file, and the problems in them,
    as JSON.

    `files` has the facts of every inspected image, see `gantk.data.check.inspect.inspect`, with its
    domain, patient and split; `problems` are sorted by severity: an error would spoil a training, a
    warning may, a note is good to know. Writes nothing, and holds one image in memory at a time.
    UserError where the path does not exist or has no image; unreadable files are problems.
    """
    path = Path(path)
    usage = None
    report = progress or (lambda share, what: None)
    start = 0.0
    report(0.0, f"reading {path.name}")
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        start = 0.2
        token = READING.set(_TableProgress(path.name, report))
        try:
            if recipe is None:
                usage = usage_by_guess(path, set=set)
            else:
                usage = usage_by_recipe(path, recipe, set)
        finally:
            READING.reset(token)
        named = {
            r.files: (r.files[0] if len(r.files) == 1 else r.files[0].parent, r)
            for r in usage.records
        }
        scans = [io.Scan(place, files, r.scan_key or r.key) for files, (place, r) in named.items()]
    else:
        scans = [io.Scan(path, (path,), path.name)] if path.is_file() else io.scans(path)
    if not scans:
        from gantk.data.sources.source import nothing_fits

        raise UserError(nothing_fits(path), where="PATH", allowed=io.readable())
    items = []
    count = len(scans)
    scans = scans if every else [scans[n] for n in sampled([scan.name for scan in scans])]
    for number, scan in enumerate(scans):
        report(start + (0.8 - start) * number / len(scans), scan.name)
        items.append(inspect(scan))
    problems = list(findings.broken(items))
    if len(items) < count:
        what = (
            f"the pixels of {len(items)} of {count} images were looked at, drawn from all of them"
        )
        problems.append(
            problem("sample", "note", what, (), "--every looks at all, which takes its time")
        )
    report(0.8, "the split")
    try:
        if path.is_file() and usage is None:
            raise UserError("no training could use one file alone")
        usage = usage or (
            usage_by_guess(path, items, set)
            if recipe is None
            else usage_by_recipe(path, recipe, set)
        )
        assign(usage, items)
        split_up(usage, items)
        problems += usage.problems
    except UserError as error:
        if (error.where or "").startswith("--set"):
            raise
        # Without a recipe, too few images for a training are only a warning.
        little = recipe is None and error.what.startswith(("no ", "only one image"))
        what = f"no training could use this: {error.what}"
        problems.append(problem("source", "warning" if little else "error", what, (), error.remedy))
        for item in items:  # domains from file names alone
            if item.name_says:
                item.domains = [CONTRASTS.get(item.name_says, item.name_says).upper()]
            else:
                item.domains = []
    report(0.95, "comparisons")
    problems += _compare([item for item in items if item.error is None], usage)
    report(1.0, "done")
    splits = (usage and usage.splits) or {}
    place = {
        absolute(file): name
        for name, records in splits.items()
        for r in records
        for file in r.files[:1]
    }
    return {
        "format": FORMAT,
        "path": str(path),
        "recipe": usage and usage.recipe,
        "source": usage and usage.table.source.table() | {"path": str(path)},
        "images": count,
        "patients": len({record.subject for record in usage.records} - {""}) if usage else 0,
        "domains": _domains(usage, items),
        "split": {"by": splits.by, "how": usage.how} | {k: len(v) for k, v in splits.items()}
        if splits
        else None,
        "summary": _summary(usage, items, count),
        "problems": sorted(problems, key=lambda each: SEVERITIES.index(each["severity"])),
        "files": [
            item.facts
            | {"domains": item.domains, "patient": item.patient or None}
            | {"split": sorted({place[f] for f in map(absolute, item.scan.files) if f in place})}
            for item in items
        ],
    }


class _TableProgress:
    """Reports progress while a table is read, which happens three times and counts as a fifth of
    the check.
    """

    def __init__(self, name: str, tell: Callable[[float, str], None]):
        self.name = name
        self.tell = tell
        self.passes = 0
        self.share = 0.0

    def __call__(self, share: float, line: int) -> None:
        self.passes += share < self.share
        self.share = share
        self.tell(0.2 * min(1.0, (self.passes + share) / 3), f"reading {self.name}, line {line}")


def _compare(items: Sequence[Inspected], usage: Usage | None) -> list[Problem]:
    """Problems found by comparing readable images; files outside a source's domains are skipped."""
    items = [item for item in items if item.domains or usage is None]
    problems = list(findings.about_each(items))
    groups: dict[tuple, list[Inspected]] = defaultdict(list)
    places: Counter = Counter()
    for item in items:
        # Contrasts within a domain of several ("T1+FLAIR") are not compared with each other.
        several = any("+" in domain for domain in item.domains)
        groups[tuple(item.domains), item.name_says if several else None].append(item)
        stack = tuple(item.domains), Path(item.name).parent.as_posix()
        item.seen = replace(
            item.seen, subject=item.patient, stack=stack, position=float(places[stack])
        )
        places[stack] += 1
    for (domains, _), group in groups.items():
        of = f" of {' and '.join(domains)}" if domains else ""
        for finding in (findings.unlike, findings.far, findings.from_the_side):
            problems += finding(group, of)
    frequent = [
        domain
        for domain, _ in Counter(domain for item in items for domain in item.domains).most_common(2)
    ]
    problems += findings.wrong_contrast(
        items, list(usage.names.values()) if usage else sorted(frequent)
    )
    if usage and usage.recipe is not None:  # drop problems that the recipe's settings solve
        settings = {
            "channels": usage.table.source.options.get("channels"),
            "spacing": usage.table.spacing,
        }
        problems = [each for each in problems if not settings.get(each["kind"])]
    return problems + list(findings.copies(items))


def _domains(usage: Usage | None, items: Sequence[Inspected]) -> dict[str, dict[str, int]]:
    domains = {}
    for letter, name in usage.names.items() if usage else ():
        records = [record for record in usage.records if record.domain == letter]
        patients = {record.subject for record in records} - {""}
        domains[name] = {
            "files": sum(name in item.domains for item in items),
            "images": len(records),
        }
        domains[name]["patients"] = len(patients)
    return domains


def _summary(usage: Usage | None, items: Sequence[Inspected], count: int) -> dict[str, str]:
    """Topic -> a line of text about it."""

    def shares(values: Iterable) -> str:
        counts = Counter(map(str, values)).most_common()
        return listed(
            [f"{value} ({count})" if len(counts) > 1 else value for value, count in counts]
        )

    readable = [item for item in items if item.error is None]
    lines = {
        "files": ", ".join(
            f"{n} {name}" for name, n in Counter(i.facts["format"] for i in items).most_common()
        )
    }
    lines["files"] += (
        f"; {len(items) - len(readable)} cannot be read" if len(readable) < len(items) else ""
    )
    lines["size"] = shares(" x ".join(map(str, item.facts["shape"])) for item in readable)
    lines["type"] = shares(item.facts["dtype"] for item in readable)
    spacings = {tuple(item.facts["spacing"] or ()) for item in readable}
    if len(spacings) == 1 and spacings != {()}:
        lines["spacing"] = " x ".join(f"{step:g}" for step in spacings.pop()) + " mm"
    if usage is None:
        return lines
    domains = _domains(usage, readable).items()
    lines["source"] = usage.table.source.name
    looked = " looked at" * (len(items) < count)
    pairs = (
        (name, counted(e["images"], "image"), counted(e["files"], "file")) for name, e in domains
    )
    lines["domains"] = ", ".join(
        f"{name}: {images}, {files}{looked}" if looked else f"{name}: {images} of {files}"
        for name, images, files in pairs
    )
    lines["patients"] = str(len({record.subject for record in usage.records} - {""}) or "not known")
    if len(usage.names) == 2:
        first, second = (
            {r.pair for r in usage.records if r.domain == letter} - {None} for letter in "ab"
        )
        lines["pairs"] = f"{len(first & second)} registered" if first & second else "none known"
    lines["split"] = usage.how or "none"
    left = [item.name for item in readable if not item.domains]
    return lines | (
        {"left out": f"{counted(left, 'file')} of no domain: {listed(left)}"} if left else {}
    )
