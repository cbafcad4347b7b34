"""`gantk data check`: describes images, how a training would use them, and problems in them, as
JSON.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gantk.catalog.catalog import Row
from gantk.catalog.layouts import Asked
from gantk.catalog.scan import scan as catalog_of
from gantk.data.check import findings
from gantk.data.check.findings import Problem, problem
from gantk.data.check.inspect import Inspected, inspect, inspect_kept, scans_of
from gantk.data.check.pairs import measured_in_words, no_true_pairs
from gantk.data.check.usage import (
    Usage,
    assign,
    incomplete,
    is_about_setting,
    split_up,
    usage_of,
)
from gantk.data.check.write_table import expect_table, write_table
from gantk.data.dataset import Data, Study
from gantk.data.preparation import Record, patients_of
from gantk.data.sources.pairing import complete_pairs
from gantk.data.sources.reader import FileImage
from gantk.data.sources.source import nothing_fits
from gantk.data.split import few_test_patients
from gantk.data.split.near_duplicates import sample_indices
from gantk.data.spread import spread
from gantk.errors import TooFewImages, UserError, count_noun, join_first
from gantk.formats import files as io
from gantk.formats.image import Scan

MAX_SCANS_OF_RUN = 256  # scans that a run checks before it trains
FORMAT = 1  # version of the result; increased when the meaning of a key changes
SEVERITIES = ("error", "warning", "note")


def check(
    path: str | Path,
    *,
    # check the images as this recipe would use them; None: guess the use
    recipe: str | Path | None = None,
    # `data.KEY=value` settings that override the recipe's or the guessed ones
    set: Iterable[str] = (),
    # read the pixels of every image, even of a very large set, instead of a sample
    every: bool = False,
    # write what was understood to this new CSV, with empty cells for what is not known
    table: str | Path | None = None,
    # replace a table that gantk did not write, or that was completed since
    overwrite: bool = False,
    # say which rule filled each cell: a column of the table, and a line for each rule
    why: bool = False,
    # called with the finished share and the current operation
    progress: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """Describe images, how a training would use them, and the problems in them.

    Example:

        found = gantk.check("scans")
        [problem for problem in found["problems"] if problem["severity"] == "error"]

    Args:
        path: a folder, a DICOM tree, a CSV file or one image.
        recipe: the recipe whose use of the images is checked. Default: the use is guessed.
        set: settings of the recipe's data, such as `["data.size=[64, 64]"]`.
        every: whether to read the pixels of all images of a very large set, and not only of a
            sample.
        table: a new CSV file for the domains, patients and splits that were found. Cells are empty
            where they are unknown.
        why: whether to say which rule filled each cell: in a column of `table`, and under `why` of
            the result.
        progress: called with the share that is done, from 0 to 1, and the current operation.

    Returns:
        A dictionary that can be written as JSON. `files` has the properties of each inspected image
        with its domain, patient and split; see `gantk.data.check.inspect.inspect`. `problems` are
        sorted by severity: an error makes a training useless, a warning may do so, a note is only
        information.

    Raises:
        UserError: the path does not exist or has no image. Unreadable files are listed as problems.

    One image at a time is in memory. The only file that is written is `table`.
    """
    if table is not None:
        expect_table(Path(table), overwrite)

    found = examine(Path(path), recipe, list(set), every=every, progress=progress)
    result = result_of(found)
    if table is not None:
        result["summary"]["table"] = write_table(
            Path(table), found.scans, found.usage, found.rows, why
        )
    if why:
        result["why"] = _rules(found.usage)
    return result


class Examination(NamedTuple):
    """What `check` finds."""

    path: Path
    scans: list[Scan]  # the images of the path
    rows: list[Row]  # what names and headers say of those of a folder; nothing is guessed
    items: list[Inspected]  # the images, or a sample of them
    usage: Usage | None  # None: no training could use the images
    problems: list[Problem]


@io.listed_once()
def examine(
    path: Path,
    recipe: str | Path | None,
    settings: Sequence[str],
    *,
    every: bool = False,
    inspected: Iterable[Inspected] = (),
    progress: Callable[[float, str], None] | None = None,
) -> Examination:
    """As of `check`; images that are `inspected` are not read again."""
    report = progress or (lambda share, what: None)
    report(0.0, f"reading {path.name}")
    usage = None
    rows: list[Row] = []
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        usage = usage_of(path, recipe, settings)
        every_scan = list(_readers_of(usage.records))
    elif path.is_file():
        every_scan = [Scan(path)]
    else:
        catalog = catalog_of(path, Asked(by_folders=False))
        rows = [row for row in catalog if row.kind != "other"]
        every_scan = [row.scan_below(path) for row in rows]

    if not every_scan:
        raise UserError(nothing_fits(path), where="PATH")

    scans = every_scan
    if not every:
        scans = [scans[n] for n in sample_indices([scan.name for scan in scans])]

    items = []
    known = {item.scan: item for item in inspected}
    contrasts = {(row.files, row.scan.volume): row.contrast for row in rows}
    for number, scan in enumerate(scans):
        report(0.8 * number / len(scans), scan.name)
        item = known[scan].as_inspected() if scan in known else inspect(scan)
        item.contrast = contrasts.get((scan.files, scan.volume), "")
        item.domains = [item.contrast] if item.contrast else []  # until the use is known
        items.append(item)

    problems = list(findings.unreadable_images(items))
    if len(items) < len(every_scan):
        what = f"only a sample of {len(items)} of {len(every_scan)} images was checked"
        remedy = "use --every to check all images, which is slow"
        problems.append(problem("sample", "note", what, (), remedy))

    report(0.8, "splitting the images")
    try:
        if path.is_file() and usage is None:
            raise TooFewImages(
                "no training is possible with a single file", remedy="check its folder"
            )
        usage = usage or usage_of(path, recipe, settings, items)
        assign(usage, items)
        split_up(usage, items)
        problems += usage.problems
    except UserError as error:
        if is_about_setting(error):
            raise
        problems.append(_unusable(error, guessed=not (recipe or settings)))

    report(0.95, "comparing the images")
    problems += _compare([item for item in items if item.error is None], usage)
    report(1.0, "done")
    return Examination(path, every_scan, rows, items, usage, problems)


def warnings_about(data: Data) -> list[str]:
    """What `check` would warn of in the images of a new run, in lines for a terminal.

    Of many scans only some are read.
    """
    records = [record for each in data.splits.values() for record in each if record.files]
    readers = _readers_of(records)
    items = []
    for scan in spread(list(readers), MAX_SCANS_OF_RUN):
        contrast, file = readers[scan]
        item = inspect_kept(scan, file) if file else inspect(scan, partial(io.read, scan))
        item.contrast = contrast
        items.append(item)
    assign(data, items)
    problems = [each for each in incomplete(data) if each["kind"] == "pairs"]
    if items:  # computed images have no names and files to compare
        problems += _compare([item for item in items if item.error is None], data)
    lines = []
    for each in problems:
        if each["severity"] == "warning" or each["kind"] == "colour":
            remedy = each["remedy"] and f". {each['remedy'][0].upper()}{each['remedy'][1:]}"
            lines.append(f"{each['severity']:9}{each['what']}{remedy or ''}")

    return lines


def _rules(usage: Usage | None) -> list[dict[str, Any]]:
    """How often each rule filled a column of the catalog, with the first file that it filled."""
    files: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in usage.catalog if usage else ():
        for column, rule in row.rules.items():
            value = getattr(row, column)
            shown = value if column in ("kind", "contrast", "split", "label") else ""
            files[column, shown, rule].append(row.path.name)
    return [
        {"column": column, "value": value, "rule": rule, "files": len(own), "first": own[0]}
        for (column, value, rule), own in files.items()
    ]


def _readers_of(records: Iterable[Record]) -> dict[Scan, tuple[str, FileImage | None]]:
    """The scans of records, see `scans_of`, each once with its contrast and with what reads it."""
    readers: dict[Scan, tuple[str, FileImage | None]] = {}
    for record in records:
        for contrast, scan in scans_of(record):
            readers.setdefault(scan, (contrast, record.file))
    return readers


def _unusable(error: UserError, guessed: bool) -> Problem:
    """The problem that no training could use the images.

    Where the use was guessed, too few images for a training are only a warning.
    """
    too_few = guessed and isinstance(error, TooFewImages)
    severity = "warning" if too_few else "error"
    what = f"these images cannot be used for training: {error.what}"
    return problem("source", severity, what, (), error.remedy)


def result_of(found: Examination) -> dict[str, Any]:
    """The result of `check` as JSON."""
    path, scans, _, items, usage, problems = found
    split: dict[str, Any] | None = None
    set_of: dict[tuple[str, str], str] = {}
    if usage and usage.split_description:
        sizes = {name: len(records) for name, records in usage.splits.items()}
        split = {"by": usage.splits.by, "how": usage.split_description} | sizes
        set_of = {each.id: name for name, records in usage.splits.items() for each in records}

    files = []
    for item in items:
        own_sets = {set_of.get(record.id, "") for record in item.records} - {""}
        place = {"domains": item.domains, "patient": item.patient or None}
        files.append(item.facts | place | {"split": sorted(own_sets)})

    return {
        "format": FORMAT,
        "path": str(path),
        "recipe": usage and usage.recipe,
        "source": usage and usage.table.source.table() | {"path": str(path)},
        "images": len(scans),
        "patients": len(patients_of(usage.records)) if usage else 0,
        "domains": _domains(usage, items),
        "split": split,
        "summary": _summary(usage, items),
        "problems": sorted(problems, key=lambda each: SEVERITIES.index(each["severity"])),
        "files": files,
    }


def _compare(items: Sequence[Inspected], study: Study | None) -> list[Problem]:
    """Problems found by comparing readable images; files outside a source's domains are skipped."""
    if study:
        items = [item for item in items if item.domains]

    problems = list(findings.about_each(items))
    for name, group in _comparable(findings.with_agreeing_skulls(items)):
        of = f" of {name}" if name else ""
        for finding in (findings.unlike, findings.far):
            problems += finding(group, of)

    problems += findings.same_people(items)
    problems += findings.ct_without_air(items)
    if study:
        problems += findings.wrong_contrast(items, study.table.domains, study.splits)
        problems += findings.named_otherwise(study)
        problems += findings.numbers_after_contrasts(study)
        problems += findings.single_slices(study)
        problems += findings.scans_of_other_scales(items, study)
        problems += findings.made_gray(items, study)
        problems += no_true_pairs(study)
        problems += findings.domains_of_two_kinds(items, study)
        problems += findings.test_of_another_kind(
            items, study.splits, study.names, study.table.spacing is not None
        )
        problems = [each for each in problems if not _is_solved(each, study)]

    return problems + list(findings.copies(items))


def _comparable(items: Sequence[Inspected]) -> list[tuple[str, list[Inspected]]]:
    """(name, images) of each group of images that should be alike: of the same domains, and of the
    same contrast within a domain of several ("T1+FLAIR").
    """
    groups: dict[tuple[str, str], list[Inspected]] = defaultdict(list)
    for item in items:
        name = " and ".join(item.domains)
        groups[name, item.contrast if "+" in name else ""].append(item)
    return [(name, group) for (name, _), group in groups.items()]


def _is_solved(problem: Problem, study: Study) -> bool:
    """Whether a setting of the recipe, or of --set, solves a problem, such as spacing for different
    spacings.
    """
    settings = {"channels": study.table.channels, "spacing": study.table.spacing}
    return bool(settings.get(problem["kind"]))


def _domains(usage: Usage | None, items: Sequence[Inspected]) -> dict[str, dict[str, int]]:
    """Domain -> its numbers of files, images and patients."""
    if usage is None:
        return {}

    domains = {}
    for letter, name in usage.names.items():
        records = [record for record in usage.records if record.domain == letter]
        domains[name] = {
            "files": sum(name in item.domains for item in items),
            "images": len(records),
            "patients": len(patients_of(records)),
        }

    return domains


def _summary(usage: Usage | None, items: Sequence[Inspected]) -> dict[str, str]:
    """Topic -> a line of text about it."""
    readable = [item for item in items if item.error is None]
    lines = _summary_of_files(items, readable)
    if usage is None:
        return lines

    lines["source"] = usage.table.source.name
    lines["domains"] = usage.images_in_words
    layout = getattr(usage.source, "layout", "")
    if layout:
        lines["layout"] = layout
    lines["patients"] = str(len(patients_of(usage.records)) or "unknown")
    if len(usage.names) == 2:
        pairs = complete_pairs(usage.records)
        lines["pairs"] = "none found"
        if pairs:
            lines["pairs"] = f"{len(pairs)} registered; {measured_in_words(usage)}"

    lines["split"] = usage.split_description or "none"
    if usage.splits.held_out:
        lines["held out"] = usage.splits.held_out
    too_few = few_test_patients(usage.splits, len(usage.names))
    if too_few:
        lines["too few"] = too_few
    without_domain = [item for item in readable if not item.domains]
    masks = {file for record in usage.records for file in record.mask_files}
    used = [item.name for item in without_domain if item.scan.path in masks]
    if used:
        lines["masks"] = f"{count_noun(used, 'file')} that are used as masks of lesions"
    left_out = [item.name for item in without_domain if item.name not in used]
    if left_out:
        files = count_noun(left_out, "file")
        lines["left out"] = f"{files} that are not used: {join_first(left_out)}"

    return lines


def _summary_of_files(items: Sequence[Inspected], readable: Sequence[Inspected]) -> dict[str, str]:
    """Formats, sizes, types and spacing of the files."""
    formats = Counter(item.facts["format"] for item in items)
    files = ", ".join(f"{n} {name}" for name, n in formats.most_common())
    if len(readable) < len(items):
        files += f"; {len(items) - len(readable)} cannot be read"

    lines = {
        "files": files,
        "size": _values(" x ".join(map(str, item.facts["shape"])) for item in readable),
        "type": _values(item.facts["dtype"] for item in readable),
    }
    spacings = {tuple(item.facts["spacing"] or ()) for item in readable}
    if len(spacings) == 1 and spacings != {()}:
        lines["spacing"] = " x ".join(f"{step:g}" for step in spacings.pop()) + " mm"

    return lines


def _values(values: Iterable[Any]) -> str:
    """The different values, the most frequent first, with their counts if there are several."""
    counts = Counter(map(str, values)).most_common()
    if len(counts) == 1:
        return join_first([counts[0][0]])
    return join_first([f"{value} ({count})" for value, count in counts])
