"""Chooses the lines of a recipe's [data] table except the size: source, grid, intensities,
augmentation, split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

from gantk.data.check.kinds import width_ratio
from gantk.data.preparation import patients_of
from gantk.data.split import SplitTable, few_test_patients, split_records
from gantk.data.test_size import least_patients
from gantk.errors import count_noun
from gantk.method import domain_letters
from gantk.planning.look import Scans
from gantk.plugin.loader import registry


class Line(NamedTuple):
    """A key of the recipe, its value (None: only a comment is written), and the reason."""

    key: str
    value: Any
    why: str


def lines_of(table: str, rows: Iterable[tuple[Any, str, Any, str]]) -> list[Line]:
    """Lines of a table from rows (condition, key, value, why), without the rows whose condition is
    false.
    """
    return [Line(f"{table}.{key}", value, why) for so, key, value, why in rows if so]


def proposals(kind: str, *about: Any, **options: Any) -> Iterator[Any]:
    """What the parts of a kind propose for scans by their `plan`, without those that do not suit."""
    for entry in registry().of_kind(kind):
        if entry.plan:
            proposed = replace(entry, target=entry.plan).load()(*about, **options)
            if proposed is not None:
                yield proposed


def data_of(seen: Scans) -> list[Line]:
    """The lines for source, domains, augmentation, grid, intensities and split."""
    false = bool(seen.fit and not seen.fit.good)
    others = ""
    if seen.others:
        others = f"; also found: {', '.join(seen.others)} (choose with --set data.domains)"
    augments: list[Any] = []
    reasons = []
    for parts, why in proposals("augment", seen):
        augments += parts
        reasons.append(why)
    said = (
        f"{name}: {count_noun([f for f in seen.files if name in f['domains']], 'file')}"
        for name in seen.domains
    )
    rows = [
        (True, "domains", seen.domains, ", ".join(said) + others),
        (
            True,
            "dims",
            2,
            f"slices, because 3-D networks need more than {count_noun(seen.volumes, 'volume')}"
            if seen.volumes
            else "pictures",
        ),
        (
            seen.channels,
            "channels",
            seen.channels,
            "some images are gray and some are in colour, so all are read as gray",
        ),
        (reasons, "augment", augments, "; ".join(reasons)),
        (
            false,
            "unpair",
            False,
            "training uses both images of a patient, because they do not fit each other",
        ),
        (
            false,
            "same_patient",
            True,
            "this is not a leak, because the two images of a patient do not fit each other",
        ),
    ]
    return [
        _source(seen, false),
        *lines_of("data", rows),
        *_grid(seen),
        _intensity(seen),
        _split(seen),
    ]


def _source(seen: Scans, false: bool) -> Line:
    """The line for the source with its options; `false`: images that are pairs by name do not fit
    each other.
    """
    options = {
        key: value for key, value in seen.source.items() if value not in ("", None, "none", [], ())
    }
    why = count_noun(seen.files, "file")
    if not seen.volumes:
        options.pop("planes", None)
    elif "planes" in options:
        why += "; planes: the part of each stack whose slices are used"

    if "onto" in options:
        why += (
            "; onto: a patient's scans have different grids, and the second is resampled"
            " onto the first by the headers"
        )

    if options.get("patient") == "names":
        why += "; patient: the names may contain patients, and each patient belongs to one set only"
    if false and "pairs" in seen.source:
        options["pairs"] = "none"
        why += (
            "; pairs: the images that are pairs by name do not fit each other, so no score"
            " compares them"
        )

    return Line("data.source", options, why)


def _grid(seen: Scans) -> list[Line]:
    """For volumes, the lines for the plane of slices and, where voxel sizes differ, the common
    spacing.
    """
    if not seen.volumes:
        return []

    plane = "axial"
    why = "most scans have voxels of about equal sides"
    planes = [file.get("plane") for file in seen.files]
    thick = [name for name in planes if name in ("axial", "coronal", "sagittal")]
    if 2 * len(thick) > len(planes):
        plane = max(thick, key=thick.count)
        why = "the scans have thick slices in this plane"

    lines = [Line("data.plane", plane, why)]
    spacings = [file["spacing"] for file in seen.files if len(file["spacing"] or ()) == 3]
    resampled_by_source = seen.source.get("onto") not in (None, "", "none")
    if spacings and plane == "axial" and not resampled_by_source:
        lines.append(_spacing(spacings))

    return lines


def _spacing(spacings: Sequence[Sequence[float]]) -> Line:
    """The line for the common spacing: the median where voxel sizes differ by more than a tenth."""
    axes = list(zip(*spacings, strict=True))
    if max(max(axis) / min(axis) for axis in axes) <= 1.1:
        return Line("data.spacing", None, "not set, because all scans have the same voxel size")
    low = " x ".join(f"{min(axis):.3g}" for axis in axes)
    high = " x ".join(f"{max(axis):.3g}" for axis in axes)
    why = f"in mm; voxels measure {low} to {high}, and all scans are resampled to the median"
    return Line("data.spacing", [round(median(axis), 3) for axis in axes], why)


def _intensity(seen: Scans) -> Line:
    """The line for the intensity mapping of each domain."""
    parts: list[dict[str, Any]] = []
    whys = []
    range_ratios = []
    for name, kind in zip(seen.domains, seen.kinds, strict=True):
        own = [each for each in seen.files if name in each["domains"]]
        proposed = next(proposals("intensity", name, kind, own), None)
        if proposed:
            parts.append(proposed[0])
            whys.append(proposed[1])
            continue

        part: dict[str, Any] = {"name": "percentile", "high": 99.9}
        if seen.volumes:
            part |= {"low": 5.0, "per": "volume"}
            range_ratios.append(width_ratio(own))

        parts.append(part)

    if range_ratios:
        whys.append(
            "each scan is mapped by its own range, because scanners share no scale (here the ranges"
            f" of scans differ by up to {max(range_ratios):.1f} to 1)"
        )
    if not whys:
        whys.append("the 99.9th percentile is the upper end of the range")

    if parts[0] == parts[-1]:
        mapping = parts[0]
    else:
        mapping = {"name": "domains", "a": parts[0], "b": parts[1]}

    return Line("data.intensity", mapping, "; ".join(whys))


def _split(seen: Scans) -> Line:
    """The line for the split: that of `data check`, or folds where few patients are known."""
    split = seen.found["split"] or {}
    if split.get("by") in ("folders", "file"):
        return Line("data.split", None, split["how"])

    letters = domain_letters(tuple(seen.domains))
    patients = min(
        len(patients_of(record for record in seen.records if record.domain == letter))
        for letter in letters
    )
    if patients < 2:
        why = "no name contains a patient"
        if seen.patients:
            why = "there are too few patients to hold one out"
        why += ", so runs of neighbouring slices are held out; scores hold only for these patients"
        placed = all(record.position is not None for record in seen.records)
        by = "block" if placed else "image"
        return Line("data.split", {"test": 0.2, "validation": 0.1, "by": by}, why)

    values: dict[str, Any] = {"test": 0.2, "validation": 0.1, "by": "patient"}
    repeat = _cross_validation(5, " --set data.split.folds=5")
    if patients < least_patients():
        values = {"folds": patients, "fold": 0, "validation": 0.0, "by": "patient"}
        repeat = _cross_validation(patients)
    splits, how = split_records(seen.records, SplitTable.model_validate(values))
    too_few = few_test_patients(splits)
    if too_few:
        how += f"; {too_few}; {repeat}"
    return Line("data.split", values, how)


def _cross_validation(folds: int, settings: str = "") -> str:
    """How to test every patient once, where one run tests too few to tell a gain from chance."""
    numbers = " ".join(map(str, range(folds)))
    return (
        f"to test each patient once: `for k in {numbers}; do gantk run RECIPE{settings} --set"
        " data.split.fold=$k; done`, then `gantk report` of these runs"
    )
