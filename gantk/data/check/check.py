"""`gantk data check`: describes images, how a training would use them, and problems in them, as
JSON. Read from the top: what is examined, how a training would use it, the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import in_usual_order, usual_contrast
from gantk.catalog.image_table import domains_in_table
from gantk.catalog.question import LayoutQuestion, as_setting
from gantk.catalog.scan import Asked, Patients, scan
from gantk.data.check.findings import (
    Problem,
    about_images,
    hollow_masks,
    leaving_out,
    problem,
    unreadable_images,
)
from gantk.data.check.inspect import Inspected, inspect, inspect_kept, scans_of
from gantk.data.check.pairs import (
    Fit,
    draw_pairs,
    measure_pairs,
    pairs_that_do_not_fit,
    show_the_same,
)
from gantk.data.check.windows import WHITE, other_windows
from gantk.data.check.write_table import expect_table, write_table
from gantk.data.dataset import (
    Data,
    Study,
    doubts_of,
    expect_usable,
    layouts_in_words,
    masks_in_words,
    unused_masks,
)
from gantk.data.description import LOOKS_UNKNOWN
from gantk.data.look import MIN_PEOPLE, NO_UNITS
from gantk.data.preparation import Record, RecordId, patients_of
from gantk.data.sources.pairing import (
    LIKELY,
    complete_pairs,
    on_other_grids,
    remedy_of_grids,
    too_many_alone,
    without_partner,
)
from gantk.data.sources.source import source_for
from gantk.data.split import few_test_patients
from gantk.data.split.near_duplicates import place_fingerprint, sample_indices
from gantk.data.split.split import NAME_PATIENTS, PATIENTS_UNKNOWN
from gantk.data.spread import spread
from gantk.errors import NothingFound, TooFewImages, UserError, argument, count_noun
from gantk.files import expect_file
from gantk.formats import files as io
from gantk.formats.image import Scan
from gantk.method import domain_letters
from gantk.plugin.loader import registry
from gantk.progress import Work, track
from gantk.recipe.load import Recipe, mapping

MAX_SCANS_OF_RUN = 256  # scans that a run checks before it trains
MIN_DOMAIN_SHARE = 0.1  # of the images of the most frequent contrast; rarer ones are no domain
MAX_LISTED = 3  # sizes, types and spacings
MIN_TRAINING_IMAGES = 20  # of a domain; of fewer, a line says so
FORMAT = 1  # version of the result; increased when the meaning of a key changes
SEVERITIES = ("error", "warning", "note")
UNSEEN = "at each patient ({}): gantk does not notice another sequence of the same contrast, or a head that is cut off"
FILL_IN_PATIENTS = "fill in the column patient of the table"
UNKNOWN = "all images may be of one patient, or one patient in training and test, and most scores get no interval. To mend this, {}"


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
    # draw pairs that may not fit, and some others, side by side in this new PNG
    pictures: str | Path | None = None,
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
        pictures: a new PNG file with pairs that may not fit, and some others, side by side.
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

    One image at a time is in memory. The only files that are written are `table` and `pictures`.
    """
    if table is not None:
        expect_table(Path(table), overwrite)
    if pictures is not None:
        expect_file(Path(pictures), "--pictures", overwrite=overwrite)

    settings = [*set, as_setting(layout)] if layout else list(set)
    try:
        found = examine(Path(path), recipe, settings, every=every)
    except LayoutQuestion as question:
        if table is None:
            raise
        rows = _images_of(Path(path), settings, "none")
        patients = question.known("subject")
        contrasts = question.known("contrast")
        are_asked = len(question.contrasts) > 1
        for row in rows:
            name = row.scan_below(Path(path)).name
            row.subject = patients.get(name, "")
            if are_asked and row.contrast not in (*question.contrasts, ""):
                row.kind = "left out"
            elif are_asked and contrasts:
                row.contrast = contrasts.get(name, "")
        found = Examination(Path(path), rows, problems=[problem("layout", str(question))])
    masked = _proposed_masks(found, recipe, settings)
    found.problems += hollow_masks(masked)
    result = result_of(found)
    if pictures is not None and found.usage and found.fit:
        drawn = draw_pairs(masked or found.usage.records, found.fit, Path(pictures))
        result["summary"]["look"] = UNSEEN.format(f"in '{pictures}', {drawn}")
    elif pictures is not None:
        result["summary"]["look"] = f"'{pictures}' is not drawn, because no pairs are known"
    if table is not None:
        result["summary"]["table"] = write_table(
            Path(table), found.usage, found.rows, found.proposed_pairs
        )
    return result


def _proposed_masks(
    found: Examination, recipe: str | Path | None, settings: Sequence[str]
) -> list[Record]:
    """The records of a use as they are once its masks are named; [] where no word names them all."""
    mask = _mask_setting(found)
    if not mask or found.usage is None:
        return []
    source = source_for(found.path, where="PATH")
    try:
        masked, _ = _study(found.path, source, recipe, [*settings, mask], found.rows)
    except UserError:  # they are no masks of these images
        return []
    used = {record.id for record in found.usage.records}
    return [record for record in masked.records if record.id in used]


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
    same_heads: bool = False  # whether domains without pairs seem to show the same
    # the pairs that these seem to be, by the id of a record
    proposed_pairs: dict[RecordId, str] = field(default_factory=dict)


@Work("looking at the images")
@io.listed_once()
def examine(
    path: Path, recipe: str | Path | None, settings: Sequence[str], *, every: bool = False
) -> Examination:
    """As of `check`."""
    found = Examination(path, [])
    source = source_for(path, where="PATH")
    if not path.is_file():
        found.rows = _images_of(path, settings, "if clear")
    try:
        found.usage, found.recipe = _study(path, source, recipe, settings, found.rows)
        _examine_use(found, found.usage, every)
    except UserError as error:
        nothing_said = not found.rows and found.usage is None
        is_wrong_setting = (error.where or "").startswith("--set")
        if nothing_said or is_wrong_setting or isinstance(error, LayoutQuestion):
            raise
        are_too_few = isinstance(error, TooFewImages) and not (recipe or settings)
        _examine_unused(found, error, "warning" if are_too_few else None)

    found.problems += _compare(found.items, found.usage, found.fit)
    return found


def _examine_unused(found: Examination, error: UserError, severity: str | None) -> None:
    """Look at images that no training can use, and keep why, unless it is said of one of them."""
    if found.usage is None:
        rows = track(found.rows, "reading")
        found.items = [inspect(row.scan_below(found.path)) for row in rows]
        found.problems += unreadable_images(found.items)
    if not any(error.what in each.what for each in found.problems):
        found.problems.append(
            problem(
                "source",
                f"these images cannot be used for training: {error.what}",
                (),
                error.remedy,
                severity,
            )
        )


def _images_of(path: Path, settings: Sequence[str], patients: Patients) -> list[Row]:
    """The images below a folder, by the words for contrasts that the settings give, if they are words;
    reading the recipe's table refuses others.
    """
    words = mapping(mapping(Recipe({}).override(settings).tables.get("data")).get("words"))
    named = {name: texts for name, texts in words.items() if isinstance(texts, list)}
    rows = scan(path, Asked(words=named, patients=patients))
    return [row for row in rows if row.kind != "other"]


def _examine_use(found: Examination, study: Study, every: bool) -> None:
    """Do with the images of a study, all or a sample, what a training does before its first step, and
    find what stops it, or spoils its scores.
    """
    scans = scans_of(study.records)
    chosen = [*scans]
    if not every:
        chosen = [chosen[number] for number in sample_indices([scan.name for _, scan in scans])]
    found.images = len(scans)
    found.items = [
        _inspect(study, contrast, scan, scans[contrast, scan])
        for contrast, scan in track(chosen, "reading")
    ]

    problems = found.problems
    if len(chosen) < len(scans):
        problems.append(
            problem("sample", f"only a sample of {len(chosen)} of {len(scans)} images was checked")
        )
    problems += [problem("versions", note) for note in study.source.notes]
    doubts = doubts_of(study.source, study.table)
    problems += [problem("patients", each.what, (), each.remedy) for each in doubts]
    problems += _without_partner(study)
    problems += _refusal("use", expect_usable, study.table, study.method, study.records)
    problems += unreadable_images(found.items)
    _leave_out_unreadable(study, found.items)
    refused = _refusal("split", study.divide)
    for each in refused:
        scored = f"`gantk eval RUN --data {argument(found.path)}`"
        each.what = f"for a training only, not for {scored}: {each.what}"
    problems += refused
    if not refused:
        problems += _about_split(study, bool(doubts))
    problems += other_windows(study.records, study.names)
    found.fit = measure_pairs(study.records)
    patients = [patients_of(x for x in study.records if x.domain == name) for name in study.letters]
    if len(patients) == 2 and not found.fit and not patients[0] & patients[1]:
        found.same_heads, found.proposed_pairs = show_the_same(study.records)


def _refusal(kind: str, step: Callable[..., None], *about: Any) -> list[Problem]:
    """The problem with which a step of a training stops."""
    try:
        step(*about)
    except UserError as error:
        return [problem(kind, error.what, (), error.remedy)]
    return []


def warnings_about(data: Data) -> list[str]:
    """What `check` would warn of in the images of a new run, in lines for a terminal.

    Of many scans only some are read.
    """
    records = [record for each in data.splits.values() for record in each if record.files]
    scans = scans_of(records)
    chosen = track(spread([*scans], MAX_SCANS_OF_RUN), "comparing", "scan")
    items = [_inspect(data, contrast, scan, scans[contrast, scan]) for contrast, scan in chosen]
    problems = [*_without_partner(data)]
    if items:  # computed images have no names and files to compare
        problems += _compare(items, data, measure_pairs(data.records))
    return [each.line for each in problems if each.severity == "warning"]


def _inspect(study: Study, contrast: str, scan: Scan, records: list[Record]) -> Inspected:
    """What is found in a scan of a study, of which these are the records."""
    item = inspect_kept(scan, records[0])
    domains = list(dict.fromkeys(study.names[record.domain] for record in records))
    contrast = contrast if records[0].file else ""
    return replace(item, records=records, domains=domains, contrast=contrast)


def _compare(items: Sequence[Inspected], study: Study | None, fit: Fit | None) -> list[Problem]:
    """Problems found by comparing the readable images, but for what the recipe has solved already."""
    readable = [item for item in items if item.error is None]
    test = study.splits["test"] if study else ()
    tested = {record.subject for record in test}
    problems = [*about_images(readable, study), *pairs_that_do_not_fit(fit, tested)]
    solved = (
        {study.table.channels and "channels", study.table.spacing and "spacing"} if study else ()
    )
    return [each for each in problems if each.kind not in solved]


# --- how a training would use the images


def _study(
    path: Path,
    source: dict[str, Any],
    recipe: str | Path | None,
    settings: Sequence[str],
    rows: Sequence[Row],
) -> tuple[Study, str | None]:
    """The study of a recipe, with its name; without one, of the first domains that a source finds."""
    if recipe is not None:
        from gantk.data.recipe_data import checked_recipe

        loaded, model = checked_recipe(recipe, path, settings, None)
        return Study(model.data, model.method.target), loaded.origin

    possible: list[tuple[str, ...]] = [("A", "B")]
    if not any(each.startswith("data.domains") for each in settings):
        possible = _possible_domains(path, source["name"], rows)
    for domains in possible[:-1]:
        try:
            return _usual_study(source, domains, settings), None
        except NothingFound:
            continue
        except LayoutQuestion:
            if domains != ("A", "B"):
                raise
    return _usual_study(source, possible[-1], settings), None


def contrasts_of(path: Path, settings: Sequence[str]) -> list[str]:
    """The contrasts of images, the most usual first, without rare ones; as of `examine`."""
    rows = [] if path.is_file() else _images_of(path, settings, "if clear")
    return _frequent_contrasts(path, source_for(path, where="PATH")["name"], rows)


def _frequent_contrasts(path: Path, source: str, rows: Sequence[Row]) -> list[str]:
    """As of `contrasts_of`, those of a table, or of names and headers."""
    if source == "manifest":
        counts = domains_in_table(path)
    else:
        stated = (row.contrast or (row.header.modality if row.header else "") for row in rows)
        counts = Counter(filter(None, stated))
        if counts.keys() - {"MR", "CT", "PET", "CBCT"}:  # T1 says more than MR
            del counts["MR"]
    least = max(1, MIN_DOMAIN_SHARE * max(counts.values(), default=0))
    return [name for name in in_usual_order(counts) if counts[name] >= least]


def _possible_domains(path: Path, source: str, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The domains that images may be of, to be tried in turn: the two most usual contrasts of a table,
    or of names and headers; of a folder two groups; one. UserError where only a plugin's source knows.
    """
    frequent = _frequent_contrasts(path, source, rows)
    two = [tuple(frequent[:2])] if len(frequent) > 1 else []
    if source == "manifest":
        return [*two, tuple(frequent[:1] or ["images"])]
    is_of_plugin = registry().get("source", source).owner != "gantk"
    if is_of_plugin or not (rows or source == "files"):
        if two:
            return two
        raise UserError(
            f"'{path}' is read by the source '{source}', which does not say its domains",
            where="PATH",
            remedy="""name them: --set 'data.domains=["T1", "T2"]'""",
        )
    return [*two, ("A", "B"), ("images",)]


def _usual_study(
    source: dict[str, Any], domains: tuple[str, ...], settings: Iterable[str]
) -> Study:
    """The study of images as these domains by the usual recipe, of no certain method."""
    tables = {"data": {"source": {**source}, "domains": list(domains)}}
    table = Recipe(tables).override(settings).data_table()
    method = type("AnyMethod", (), {"paired": False, "reads": domain_letters(table.domains)})
    # A mixture of gray and colour is reported as a problem of its own.
    study = Study(table.model_copy(update={"channels": 1}), method)
    study.table = table
    study.guessed = True
    return study


def _without_partner(study: Study) -> Iterator[Problem]:
    """Yield pairs on two grids, which no score compares, and images without a partner that a paired
    method leaves out. Of many it stops.
    """
    alone = without_partner(study.records) if study.method.paired else []
    if alone and too_many_alone(study.records):
        return
    apart = on_other_grids(study.records)
    if apart:
        yield problem(
            "pairs",
            "these images have a partner, but on another grid:",
            _scan_names(apart),
            remedy_of_grids(apart[0]),
        )
    names = _scan_names(record for record in alone if record not in apart)
    if names:
        yield problem(
            "pairs",
            "these images have no partner in the other domain and are left out:",
            names,
            "complete the pairs, or remove these images",
        )


def _scan_names(records: Iterable[Record]) -> list[str]:
    """The names of the scans of records, each once; of a record without a scan its own."""
    return list(dict.fromkeys(record.scan_key or record.key for record in records))


def _leave_out_unreadable(study: Study, items: Sequence[Inspected]) -> None:
    """Leave unreadable images out of a study, and give it the fingerprints of records that are whole
    images, so that its split reads none twice.
    """
    unreadable = {record.id for item in items if item.error for record in item.records}
    study.records = [record for record in study.records if record.id not in unreadable]
    study.fingerprints = {
        record.id: place_fingerprint(item.seen, record)
        for item in items
        if item.seen
        for record in item.records
        if record.files == item.scan.files
        if not record.scan and not record.missing
    }


def _about_split(study: Study, are_doubted: bool) -> Iterator[Problem]:
    """Yield what a split means for the scores, unless patients are doubted, and its leaks."""
    leak = study.leaks()  # reads what the consequences compare
    for line in () if are_doubted else study.consequences():
        remedy = None
        if line.startswith(PATIENTS_UNKNOWN):
            has_table = study.table.source.name == "manifest"
            remedy = UNKNOWN.format(FILL_IN_PATIENTS if has_table else NAME_PATIENTS)
        yield problem("scores", line, (), remedy)
    if leak:
        kind = "same-patient" if leak.where == "data.same_patient" else "leak"
        severity = "note" if study.guessed and kind == "same-patient" else None
        yield problem(kind, leak.what, (), leak.remedy, severity)


# --- the result


def result_of(found: Examination) -> dict[str, Any]:
    """The result of `check` as JSON."""
    usage = found.usage
    records = usage.records if usage else []
    splits = usage.splits if usage else {}
    set_of = {record.id: name for name, own in splits.items() for record in own}
    files = []
    for item in found.items:
        sets = {set_of[record.id] for record in item.records if record.id in set_of}
        place = {"domains": item.domains, "patient": item.patient or None, "split": sorted(sets)}
        files.append(item.facts | place)
    domains = {}
    for letter, name in usage.names.items() if usage else ():
        own = [record for record in records if record.domain == letter]
        domains[name] = {
            "files": sum(name in each["domains"] for each in files),
            "images": len(own),
            "patients": len(patients_of(own)),
        }
    split = None
    if usage and usage.split_description:
        sizes = {name: len(own) for name, own in splits.items()}
        split = {"by": usage.splits.by, "how": usage.split_description} | sizes
    summary = _summary_of_files(found.items)
    problems = sorted(found.problems, key=lambda each: SEVERITIES.index(each.severity))
    return {
        "format": FORMAT,
        "path": str(found.path),
        "recipe": found.recipe,
        "source": usage and usage.table.source.table() | {"path": str(found.path)},
        "images": found.images,
        "patients": len(patients_of(records)),
        "domains": domains,
        "split": split,
        "summary": summary | _summary_of_use(found, usage) if usage else summary,
        "problems": [asdict(each) for each in problems],
        "settings": _proposed_settings(found),
        "likely_pairs": len(found.proposed_pairs) // 2,
        "files": files,
    }


def _proposed_settings(found: Examination) -> list[str]:
    """Settings that may help: to score lesions, and without patients whose pairs do not fit."""
    patients = dict.fromkeys(chain.from_iterable(each.leave_out for each in found.problems))
    settings = [leaving_out(patients)] if patients else []
    return [*filter(None, [_mask_setting(found)]), *settings]


def _mask_setting(found: Examination) -> str:
    """The setting that names the masks of a use which nobody has named; "" without one."""
    word = unused_masks(found.usage.source)[0] if found.usage else ""
    return word and f"data.source.mask={word}"


def _summary_of_files(items: Sequence[Inspected]) -> dict[str, str]:
    """A line of text on the files, and their sizes, types and spacings, if there are any."""
    readable = [item.facts for item in items if item.error is None]
    format_of = {item.scan.path: item.facts["format"] for item in items}
    parts = [f"{count} {name}" for name, count in Counter(format_of.values()).most_common()]
    if len(format_of) < len(items):
        parts.append(count_noun(items, "image"))
    for topic, key, unit in (
        ("size", "shape", ""),
        ("type", "dtype", ""),
        ("spacing", "spacing", " mm"),
    ):
        counts = Counter(_in_words(facts[key]) + unit for facts in readable if facts[key])
        if len(counts) > MAX_LISTED:
            parts.append(count_noun(counts, topic))
        else:
            several = len(counts) > 1
            parts += [
                f"{count} of {value}" if several else value for value, count in counts.most_common()
            ]
    if len(readable) < len(items):
        parts.append(f"{len(items) - len(readable)} cannot be read")
    return {"files": ", ".join(parts)} if parts else {}


def _in_words(value: str | Sequence[float]) -> str:
    return value if isinstance(value, str) else " x ".join(f"{number:g}" for number in value)


def _summary_of_use(found: Examination, usage: Study) -> dict[str, str]:
    """Topic -> a line of text about how a training would use the images, where there is one."""
    layout = layouts_in_words(usage.source)
    has_volumes = any(record.scan_key for record in usage.records)  # else the layout says all
    trained = Counter(record.domain for record in usage.splits["train"])
    fewest = min(trained.values(), default=MIN_TRAINING_IMAGES)
    few = f"a domain has only {count_noun(fewest, 'training image')}, rarely enough for a model to work on new patients"
    people = patients_of(usage.splits["train"])
    few_people = LOOKS_UNKNOWN if 0 < len(people) < MIN_PEOPLE else ""
    few_images = few if fewest < MIN_TRAINING_IMAGES else ""
    lines = {
        "layout": layout,
        "domains": usage.images_in_words(usage.records) if not layout or has_volumes else "",
        "pairs": _pairs_in_words(found, usage) if len(usage.names) == 2 else "",
        "split": usage.split_description or "none",
        "held out": usage.splits.held_out,
        "few": ". ".join(filter(None, (few_images, few_people))),
        "too few": few_test_patients(usage.splits),
        "masks": masks_in_words(usage.source, usage.records),
        "look": UNSEEN.format("gantk data check SCANS --pictures pairs.png") if found.fit else "",
        "CT": _ct_pictures_in_words(found.items),
    }
    return {topic: line for topic, line in lines.items() if line}


def _pairs_in_words(found: Examination, usage: Study) -> str:
    """How many pairs there are, how they are known, and how well they fit."""
    pairs = [*complete_pairs(usage.records).values()]
    if not pairs and on_other_grids(usage.records):
        return "none found on one grid: use --set data.source.onto=a"
    if found.same_heads:
        return (
            "none known, but both domains seem to show the same heads. `gantk data check SCANS --table"
            " pairs.csv` lists likely pairs for you to check"
        )
    if not pairs:
        return "none found"
    # only names say that two files without a voxel grid are a pair, where no table does
    by_name = any(x["a"].file and not x["a"].file.row.is_volume for x in pairs)
    is_stated = usage.source.pairs_by == "table"
    how = "by table" if is_stated else "by name" if by_name else "registered"
    if any(LIKELY in (pair["a"].pair or "") for pair in pairs):
        how = "by what they show, to be checked"
    said = f"{len(pairs)} {how}"
    if not found.fit:
        return f"{said}; none measured"
    said = f"{said}; {found.fit.measured} measured"
    return ": ".join(filter(None, (said, found.fit.to_others)))


def _ct_pictures_in_words(items: Sequence[Inspected]) -> str:
    """That 8-bit CT has no Hounsfield units, and whether its bone is cut off; "" without such."""
    pictures = [
        item.facts
        for item in items
        if item.facts.get("dtype") == "uint8" and "ct" in map(usual_contrast, item.domains)
    ]
    if not pictures:
        return ""
    said = f"8-bit pictures: {NO_UNITS}"
    if cut_off := sum(facts["range"][1] == WHITE for facts in pictures):
        said += (
            f". In {cut_off} of {len(pictures)}, a percent or more is white: differences within bone are"
            " lost, and no model can bring them back"
        )
    return said
