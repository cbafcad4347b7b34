"""`gantk data check`: describes images, how a training would use them, and problems in them, as
JSON.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import USUAL
from gantk.catalog.image_table import domains_in_table
from gantk.catalog.question import LayoutQuestion, as_setting
from gantk.catalog.scan import Asked, scan
from gantk.data.check import findings
from gantk.data.check.contrasts import wrong_contrast
from gantk.data.check.findings import Problem, line_of, problem, scan_names, with_verb
from gantk.data.check.inspect import Inspected, inspect, inspect_kept, scans_of
from gantk.data.check.pairs import Fit, measure_pairs, pairs_that_do_not_fit
from gantk.data.check.write_table import expect_table, write_table
from gantk.data.dataset import (
    Data,
    Study,
    doubts_of,
    expect_usable,
    layouts_in_words,
)
from gantk.data.preparation import Record, patients_of
from gantk.data.sources.pairing import (
    complete_pairs,
    on_other_grids,
    remedy_of_grids,
    too_many_alone,
    without_partner,
)
from gantk.data.sources.source import nothing_fits, source_for
from gantk.data.split import few_test_patients
from gantk.data.split.near_duplicates import (
    Fingerprint,
    like_training,
    place_fingerprint,
    sample_indices,
)
from gantk.data.spread import spread
from gantk.errors import NothingFound, TooFewImages, UserError, count_noun
from gantk.formats import files as io
from gantk.formats.image import Scan
from gantk.method import domain_letters
from gantk.progress import Work, track
from gantk.recipe.load import Recipe

MAX_SCANS_OF_RUN = 256  # scans that a run checks before it trains
MIN_DOMAIN_SHARE = 0.1  # of the images of the most frequent contrast; rarer ones are no domain
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
    # the line that says whose each file is and what it shows, such as {patient}/{contrast}.nii.gz
    layout: str = "",
) -> dict[str, Any]:
    """Describe images, how a training would use them, and the problems in them.

    Example:

        found = gantk.check("scans")
        [problem for problem in found["problems"] if problem["severity"] == "error"]

    Args:
        path: a folder, a DICOM tree or a CSV file.
        recipe: the recipe whose use of the images is checked. Default: the use is guessed.
        set: settings of the recipe's data, such as `["data.size=[64, 64]"]`.
        every: whether to read the pixels of all images of a very large set, and not only of a
            sample.
        table: a new CSV file for the domains, patients and splits that were found. Cells are empty
            where they are unknown.
        layout: the line that says whose each file of the folder is and what it shows, such as
            "{patient}/{visit}_{contrast}.nii.gz", or the name of a layout.

    Returns:
        A dictionary that can be written as JSON. `files` has the properties of each inspected image
        with its domain, patient and split; see `gantk.data.check.inspect.inspect`. `problems` are
        sorted by severity: an error stops a training, a warning spoils its scores, a note is only
        information.

    Raises:
        UserError: the path does not exist or has no image, or names do not say whose its files are.
            Unreadable files are listed as problems.

    One image at a time is in memory. The only file that is written is `table`.
    """
    if table is not None:
        expect_table(Path(table), overwrite)

    settings = [*set, as_setting(layout)] if layout else list(set)
    try:
        found = examine(Path(path), recipe, settings, every=every)
    except LayoutQuestion as question:
        if table is None:
            raise
        asked = replace(_asked_with_words(settings), patients="none")
        rows = scan(Path(path), asked).of_kind("image")
        open_question = problem("layout", "warning", question.what, (), "Complete the table")
        found = Examination(Path(path), rows, problems=[open_question])
    result = result_of(found)
    if table is not None:
        result["summary"]["table"] = write_table(Path(table), found.usage, found.rows)
    return result


def _asked_with_words(settings: Sequence[str]) -> Asked:
    """The further words for contrasts that the settings give; others are refused with their table."""
    data = Recipe({}).override(settings).tables.get("data", {})
    words = data.get("words")
    named = words.items() if isinstance(words, dict) else ()
    return Asked(words={name: texts for name, texts in named if isinstance(texts, list)})


@dataclass
class Examination:
    """What `check` finds."""

    path: Path
    rows: list[Row]  # what names and headers say of the images of a folder; nothing is guessed
    usage: Study | None = None  # how a training would use them; None: no training could
    recipe: str | None = None  # of the usage; None: the usual one
    images: int = 0  # of the usage
    items: list[Inspected] = field(default_factory=list)  # these images, or a sample of them
    problems: list[Problem] = field(default_factory=list)
    fit: Fit | None = None  # of the pairs


@Work("looking at the images")
@io.listed_once()
def examine(
    path: Path,
    recipe: str | Path | None,
    settings: Sequence[str],
    *,
    every: bool = False,
) -> Examination:
    """As of `check`."""
    found = Examination(path, [] if path.is_file() else _listed_rows(path, settings))
    try:
        found.usage, found.recipe = _study(path, recipe, settings, found.rows)
        _examine_use(found, found.usage, every)
    except UserError as error:
        if _is_for_the_user(error, found):
            raise
        are_too_few = isinstance(error, TooFewImages) and not (recipe or settings)
        severity = "warning" if are_too_few else "error"
        what = f"these images cannot be used for training: {error.what}"
        found.problems.append(problem("source", severity, what, (), error.remedy))
        if found.usage is None:
            found.items += [inspect(row.scan_below(path)) for row in track(found.rows, "reading")]
            found.problems += findings.unreadable_images(found.items)

    found.problems += _compare(found.items, found.usage, found.fit)
    return found


def _listed_rows(path: Path, settings: Sequence[str]) -> list[Row]:
    """The images below a folder; UserError where there are none."""
    listed = scan(path, replace(_asked_with_words(settings), patients="if clear"))
    rows = [row for row in listed if row.kind != "other"]
    if not rows:
        raise UserError(nothing_fits(path), where="PATH")
    return rows


def _is_for_the_user(error: UserError, found: Examination) -> bool:
    """Whether an error asks the user, or says that what they gave is wrong."""
    is_of_table = found.path.is_file() and found.usage is None
    is_wrong_setting = (error.where or "").startswith("--set")
    return is_of_table or is_wrong_setting or isinstance(error, LayoutQuestion)


def _examine_use(found: Examination, usage: Study, every: bool) -> None:
    """Find the images of a usage, all or a sample, the problems of the usage, and its pairs."""
    uses = _scans_of(usage.records)
    found.images = len(uses)
    names = [scan.name for (_, scan), _ in uses]
    chosen = range(len(uses)) if every else sample_indices(names)
    if len(chosen) < len(uses):
        what = f"only a sample of {len(chosen)} of {len(uses)} images was checked"
        remedy = "use --every to check all images, which is slow"
        found.problems.append(problem("sample", "note", what, (), remedy))
    for number in track(chosen, "reading"):
        found.items.append(_inspect(usage, uses[number]))
    found.problems.extend(_about_use(usage, found.items))
    found.fit = measure_pairs(usage.records)


def warnings_about(data: Data) -> list[str]:
    """What `check` would warn of in the images of a new run, in lines for a terminal.

    Of many scans only some are read.
    """
    records = [record for each in data.splits.values() for record in each if record.files]
    uses = spread(_scans_of(records), MAX_SCANS_OF_RUN)
    items = [_inspect(data, use) for use in track(uses, "comparing", "scan")]
    problems = list(_without_partner(data))
    if items:  # computed images have no names and files to compare
        problems += _compare(items, data, measure_pairs(data.records))
    return [line_of(each) for each in problems if each["severity"] == "warning"]


Use = tuple[tuple[str, Scan], list[Record]]  # contrast and scan, and the records of them


def _scans_of(records: Iterable[Record]) -> list[Use]:
    """The scans of records, see `scans_of`, each once."""
    uses: dict[tuple[str, Scan], list[Record]] = defaultdict(list)
    for record in records:
        for contrast_and_scan in scans_of(record):
            uses[contrast_and_scan].append(record)
    return [*uses.items()]


def _inspect(study: Study, use: Use) -> Inspected:
    """What is found in a scan of a study."""
    (contrast, scan), records = use
    item = inspect_kept(scan, records[0].file)
    domains = list(dict.fromkeys(study.names[record.domain] for record in records))
    seen = item.seen and place_fingerprint(item.seen, records[0])
    return replace(item, records=records, domains=domains, contrast=contrast, seen=seen)


# --- how a training would use the images


def _study(
    path: Path, recipe: str | Path | None, settings: Sequence[str], rows: Sequence[Row]
) -> tuple[Study, str | None]:
    """The study of a recipe, with its name; without one, of the first domains that a source finds."""
    if recipe is not None:
        from gantk.data.recipe_data import checked_recipe

        loaded, model = checked_recipe(recipe, path, settings, None)
        return Study(model.data, model.method.target), loaded.origin

    refusal: UserError | None = None
    for domains in _possible_domains(path, settings, rows):
        try:
            return _usual_study(path, domains, settings), None
        except (NothingFound, LayoutQuestion) as error:
            said = any(each.startswith("data.domains") for each in settings)
            nobody_said_two = domains == ("A", "B") and not said
            if isinstance(error, LayoutQuestion) and not nobody_said_two:
                raise
            if domains != ("A", "B"):
                refusal = refusal or error
    raise refusal or NothingFound(f"no data source can use '{path}'")


def _possible_domains(
    path: Path, settings: Sequence[str], rows: Sequence[Row]
) -> Iterator[tuple[str, ...]]:
    """Yield the domains that images may be of: the two most usual contrasts of a table, or of names
    and headers; else two groups; else one.
    """
    if any(each.startswith("data.domains") for each in settings):
        yield "A", "B"
        return
    if path.is_file():
        counts = domains_in_table(path)
    else:
        said = (row.contrast or (row.header.modality if row.header else "") for row in rows)
        counts = Counter(filter(None, said))
        if counts.keys() - {"MR", "CT", "PET", "CBCT"}:  # T1 says more than MR
            del counts["MR"]
    least = MIN_DOMAIN_SHARE * max(counts.values(), default=0)
    frequent = [name for name, count in counts.items() if count >= least]
    usual = {name: place for place, name in enumerate(USUAL)}
    frequent.sort(key=lambda name: (usual.get(name.upper(), len(USUAL)), name))
    if len(frequent) > 1:
        yield tuple(frequent[:2])

    if path.is_dir():
        yield "A", "B"
    yield (frequent[0] if path.is_file() and frequent else "images",)


def _usual_study(path: Path, domains: tuple[str, ...], settings: Iterable[str]) -> Study:
    """The study of images as these domains by the usual recipe, of no certain method."""
    tables = {"data": {"source": source_for(path), "domains": list(domains)}}
    table = Recipe(tables).override(settings).data_table()
    method: Any = type("AnyMethod", (), {"paired": False, "reads": domain_letters(table.domains)})
    # A mixture of gray and colour is reported as a problem of its own.
    study = Study(table.model_copy(update={"channels": 1}), method)
    study.table = table
    study.guessed = True
    return study


def _about_names(study: Study) -> Iterator[Problem]:
    """The notes of a source, and its doubts, with which a training would stop."""
    source = study.source
    for note in source.notes:
        yield problem("versions", "note", note)

    nameless = source.nameless() if study.guessed and len(study.names) == 2 else ""
    if nameless:
        remedy = "if these are classes of one domain, use --set 'data.domains=[\"MR\"]'"
        yield problem("domains", "note", nameless, (), remedy)

    for each in doubts_of(source, study.table):
        yield problem("patients", "error", each.what, (), each.remedy)


def _about_use(study: Study, items: Sequence[Inspected]) -> Iterator[Problem]:
    """Do with the readable images what a training does before its first step, and yield what stops
    it, or spoils its scores.
    """
    about = list(_about_names(study))
    yield from about
    yield from _without_partner(study)
    try:
        expect_usable(study.table, study.method, study.records)
    except UserError as error:
        yield problem("use", "error", error.what, (), error.remedy)

    yield from findings.unreadable_images(items)
    unreadable = {record.id for item in items if item.error for record in item.records}
    study.records = [record for record in study.records if record.id not in unreadable]
    study.fingerprints = _fingerprints(study, items)
    try:
        study.divide()
    except UserError as error:
        what = f"the {'usual ' if study.guessed else ''}split is not possible: {error.what}"
        yield problem("split", "error", what, (), error.remedy)
        return

    if not any(each["kind"] == "patients" for each in about):
        kind = "neighbours" if like_training(study.splits, study.fingerprints) else "scores"
        for said in study.consequences():
            yield problem(kind, "warning", said)
    leak = study.leaks()
    if leak:
        kind = "same-patient" if leak.where == "data.same_patient" else "leak"
        severity = "note" if study.guessed and kind == "same-patient" else "error"
        yield problem(kind, severity, leak.what, (), leak.remedy)


def _without_partner(study: Study) -> Iterator[Problem]:
    """Yield images without a partner where others have one, and pairs on two grids: no score compares
    them, and of methods only unpaired ones train on them. A paired training of many stops.
    """
    if study.method.paired and too_many_alone(study.records):
        return
    apart = on_other_grids(study.records)
    alone = without_partner(study.records) if complete_pairs(study.records) else []
    for severity, records, words, remedy in (
        (
            "warning",
            apart,
            "has|have a partner, but on another grid:",
            remedy_of_grids(apart[0]) if apart else "",
        ),
        (
            "warning" if study.method.paired else "note",
            [record for record in alone if record not in apart],
            "has|have no partner in the other domain"
            + (" and is|are left out:" if study.method.paired else ":"),
            "complete the pairs, or remove these images",
        ),
    ):
        names = scan_names(records)
        if names:
            yield problem("pairs", severity, with_verb(names, "image", words), names, remedy)


def _fingerprints(study: Study, items: Sequence[Inspected]) -> dict[tuple[str, str], Fingerprint]:
    """The fingerprints, by record, of pictures that a training would use without resampling."""
    table = study.table
    if table.dims != 2 or table.plane != "axial" or table.spacing is not None:
        return {}
    return {
        record.id: place_fingerprint(item.seen, record)
        for item in items
        if item.seen and item.facts["channels"] == 1 and len(item.facts["shape"]) == 2
        for record in item.records
        if record.files == item.scan.files and not record.scan and not record.missing
    }


def _compare(items: Sequence[Inspected], study: Study | None, fit: Fit | None) -> list[Problem]:
    """Problems found by comparing the readable images."""
    items = [item for item in items if item.error is None]
    problems = [
        *findings.about_each(items),
        *findings.differing_in_domain(items),
        *findings.same_people(items),
        *findings.ct_without_air(items),
    ]
    if study:
        problems += [
            *wrong_contrast(items, study),
            *findings.scans_of_other_scales(items, study),
            *pairs_that_do_not_fit(fit),
        ]
        # what the recipe, or --set, has solved already
        settings = {"channels": study.table.channels, "spacing": study.table.spacing}
        problems = [each for each in problems if not settings.get(each["kind"])]

    return problems + list(findings.copies(items))


# --- the result


def result_of(found: Examination) -> dict[str, Any]:
    """The result of `check` as JSON."""
    return {
        "format": FORMAT,
        "path": str(found.path),
        "recipe": found.recipe,
        "source": None,
        "images": found.images,
        "patients": 0,
        "domains": {},
        "split": None,
        "summary": _summary_of_files(found.items),
        "problems": sorted(found.problems, key=lambda each: SEVERITIES.index(each["severity"])),
        "files": [item.facts | {"domains": [], "split": []} for item in found.items],
        **(_result_of_use(found, found.usage) if found.usage else {}),
    }


def _result_of_use(found: Examination, usage: Study) -> dict[str, Any]:
    """The part of the result that says how a training would use the images."""
    domains = {}
    for letter, name in usage.names.items():
        records = [record for record in usage.records if record.domain == letter]
        domains[name] = {
            "files": sum(name in item.domains for item in found.items),
            "images": len(records),
            "patients": len(patients_of(records)),
        }

    split: dict[str, Any] | None = None
    if usage.split_description:
        sizes = {name: len(records) for name, records in usage.splits.items()}
        split = {"by": usage.splits.by, "how": usage.split_description} | sizes

    set_of = {each.id: name for name, records in usage.splits.items() for each in records}
    files = []
    for item in found.items:
        sets = sorted({set_of[record.id] for record in item.records if record.id in set_of})
        place = {"domains": item.domains, "patient": item.patient or None, "split": sets}
        files.append(item.facts | place)

    return {
        "source": usage.table.source.table() | {"path": str(found.path)},
        "patients": len(patients_of(usage.records)),
        "domains": domains,
        "split": split,
        "summary": _summary_of_files(found.items) | _summary_of_use(found, usage),
        "files": files,
    }


def _summary_of_files(items: Sequence[Inspected]) -> dict[str, str]:
    """A line of text on the files, and their sizes, types and spacings, if there are any."""
    if not items:
        return {}
    readable = [item.facts for item in items if item.error is None]
    spacings = (facts["spacing"] for facts in readable if facts["spacing"])
    values = {
        "size": {" x ".join(map(str, facts["shape"])) for facts in readable},
        "type": {str(facts["dtype"]) for facts in readable},
        "spacing": {" x ".join(f"{mm:g}" for mm in each) + " mm" for each in spacings},
    }
    formats = Counter(item.facts["format"] for item in items)
    parts = [f"{count} {name}" for name, count in formats.most_common()]
    for topic, different in values.items():
        parts += different if len(different) == 1 else [count_noun(different, topic)]
    if len(readable) < len(items):
        parts.append(f"{len(items) - len(readable)} cannot be read")
    return {"files": ", ".join(part for part in parts if not part.startswith("0 "))}


def _summary_of_use(found: Examination, usage: Study) -> dict[str, str]:
    """Topic -> a line of text about how a training would use the images."""
    layout = layouts_in_words(usage.source)
    lines = {"layout": layout} if layout else {}
    lines["domains"] = usage.images_in_words
    if len(usage.names) == 2:
        lines["pairs"] = _pairs_in_words(found, usage)
    lines["split"] = usage.split_description or "none"
    if usage.splits.held_out:
        lines["held out"] = usage.splits.held_out
    too_few = few_test_patients(usage.splits)
    if too_few:
        lines["too few"] = too_few
    masks = {file for record in usage.records for file in record.mask_files}
    if masks:
        lines["masks"] = f"{count_noun(masks, 'file')} used as masks of lesions"
    return lines


def _pairs_in_words(found: Examination, usage: Study) -> str:
    count = len(complete_pairs(usage.records))
    if count:
        return f"{count} registered; {found.fit.measured if found.fit else 'none'} measured"
    if on_other_grids(usage.records):
        return "none found on one grid: use --set data.source.onto=a"
    return "none found"
