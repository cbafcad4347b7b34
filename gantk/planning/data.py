"""Chooses the keys of a recipe's [data] table except the size: source, grid, intensities,
augmentation, split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median
from typing import Any

from gantk.data.intensity import usual_scale
from gantk.data.preparation import patients_of
from gantk.data.split import SplitTable, few_test_patients, patients_who_lack, split_records
from gantk.data.test_size import folds_of, least_patients
from gantk.errors import count_noun
from gantk.method import domain_letters
from gantk.planning.look import Scans
from gantk.plugin.loader import registry

# dotted key of the recipe -> its value (None: only a comment is written), and the reason
Lines = dict[str, tuple[Any, str]]


def proposals(kind: str, *about: Any, **options: Any) -> Iterator[Any]:
    """What the parts of a kind propose for scans by their `plan`, without those that do not suit."""
    for entry in registry().of_kind(kind):
        if entry.plan:
            proposed = replace(entry, target=entry.plan).load()(*about, **options)
            if proposed is not None:
                yield proposed


def data_lines(seen: Scans) -> Lines:
    """Source, domains, augmentation, grid, intensities and split."""
    misfit = bool(seen.fit and not seen.fit.good)
    lines: Lines = {
        "data.source": _source(seen, misfit),
        "data.domains": (seen.domains, "what the images show"),
        "data.dims": (2, "slices of volumes" if seen.volumes else "pictures"),
    }
    changes = [*proposals("augment", seen)]
    if changes:
        parts = [part for parts, _ in changes for part in parts]
        lines["data.augment"] = (parts, "; ".join(why for _, why in changes))
    if misfit or seen.both_kinds:
        why = "training uses both images of a patient, because these do not fit each other"
        if seen.both_kinds:
            why = "both methods see the same images, to compare; the unpaired one is not told which belong together"
        lines["data.unpair"] = (False, why)
        lines["data.same_patient"] = (True, "this is not a leak")
    if seen.volumes:
        lines |= _grid(seen)
    split, why, _ = planned_split(seen)
    return lines | {"data.intensity": _intensity(seen), "data.split": (split, why)}


def _source(seen: Scans, misfit: bool) -> tuple[dict[str, Any], str]:
    """The source with its options; `misfit`: images that are pairs by name do not fit each other."""
    options = {
        key: value for key, value in seen.source.items() if value not in ("", None, "none", [], ())
    }
    why = [count_noun(seen.files, "image")]
    if not seen.volumes:
        options.pop("planes", None)
    if "onto" in options:
        why.append(
            "onto: a patient's scans have different grids, and the second is resampled onto the"
            " first by the headers"
        )
    if misfit and "pairs" in seen.source:
        options["pairs"] = "none"

    return options, "; ".join(why)


def _grid(seen: Scans) -> Lines:
    """For volumes, the plane of thick slices, else a common spacing where voxel sizes differ by more
    than a tenth: their median.
    """
    planes = [file.get("plane") for file in seen.files]
    thick = [name for name in planes if name in ("axial", "coronal", "sagittal")]
    plane = max(thick, key=thick.count) if 2 * len(thick) > len(planes) else "axial"
    if plane != "axial":
        return {"data.plane": (plane, "the scans have thick slices in this plane")}

    spacings = [file["spacing"] for file in seen.files if len(file["spacing"] or ()) == 3]
    axes = list(zip(*spacings, strict=True))
    resampled_by_source = seen.source.get("onto", "none") != "none"
    if resampled_by_source or all(max(axis) / min(axis) <= 1.1 for axis in axes):
        return {}
    why = "in mm; voxel sizes differ, and all scans are resampled to the median"
    return {"data.spacing": ([round(median(axis), 3) for axis in axes], why)}


def _intensity(seen: Scans) -> tuple[dict[str, Any], str]:
    """The intensity mapping of each domain."""
    usual = {"name": "percentile", **usual_scale(seen.are_whole)}
    mappings = []
    whys = []
    for name, kind in zip(seen.domains, seen.kinds, strict=True):
        files = [each for each in seen.files if name in each["domains"]]
        mapping, why = next(proposals("intensity", name, kind, files), (usual, ""))
        mappings.append(mapping)
        if why:
            whys.append(why)
        elif seen.are_whole:
            whys.append("each scan is mapped by its own range, because scanners share no scale")
    why = "; ".join(dict.fromkeys(whys)) or "the 99.9th percentile is the upper end of the range"
    first, last = mappings[0], mappings[-1]
    return first if first == last else {"name": "domains", "a": first, "b": last}, why


def planned_split(seen: Scans) -> tuple[dict[str, Any] | None, str, int]:
    """The split: what the user set of it, that of `data check`, or folds where few patients are known;
    the reason; and in how many folds runs test each patient once, where the user asks for these or one
    run tests too few to tell a gain from chance, else 0.
    """
    given = seen.study.table.split.model_dump(exclude_unset=True)
    drawn = seen.report["split"] or {}
    if given or drawn.get("by") == "folders":
        few = seen.report["summary"].get("too few")
        reasons = [drawn.get("how"), few, "set by you" if given else ""]
        return given or None, "; ".join(filter(None, reasons)), given.get("folds", 0)

    lacking = patients_who_lack(seen.records)
    patients = min(
        len(patients_of(record for record in seen.records if record.domain == letter) - lacking)
        for letter in domain_letters(tuple(seen.domains))
    )
    values: dict[str, Any] = {"test": 0.2, "validation": 0.1, "by": "patient"}
    if patients < 2:
        are_slices = all(record.position is not None for record in seen.records)
        values["by"] = "block" if are_slices else "image"
        why = "fewer than two patients have images of both kinds"
        if not patients_of(seen.records):
            why = "the patients are not known"
        if not are_slices:
            return values, f"single images are held out, because {why}", 0
        how = f"blocks of neighbouring slices (pictures: by name) are held out, because {why}"
        unrelated = "if no two show one head, --set data.split.by=image leaves fewer out"
        return values, f"{how}; {unrelated}", 0

    folds = folds_of(patients)
    why = f"{folds} folds test each patient once"
    if patients < least_patients():
        values = {"folds": folds, "fold": 0, "validation": 0.0, "by": "patient"}
        why += ". No validation set, because so few patients are needed for training and test"
    splits, how = split_records(seen.records, SplitTable.model_validate(values))
    how += f". In {splits.held_out}"
    too_few = few_test_patients(splits)
    return (values, f"{how}. {too_few}. {why}", folds) if too_few else (values, how, 0)
