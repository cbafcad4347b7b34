"""Reads what names state by a standard: the entities of BIDS; the channels of nnU-Net and the MSD that
a `dataset.json` names, as files (`p1_0000.nii.gz`) or as volumes of one (`BRATS_001.nii.gz`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gantk.catalog.contrasts import ContrastWords
from gantk.catalog.layouts import Entry, Reading
from gantk.catalog.words import left_out, split_named
from gantk.errors import reading_file
from gantk.files import read_file
from gantk.formats.files import is_volume, natural, stem_of

DATASET_FILE = "dataset.json"
KEYS = ("channel_names", "modality")  # of nnU-Net 2 and 1: number of a channel -> its name
CHANNEL = re.compile(r"(.+)_(\d{4})")
IMAGES_FOLDER = r"images(?:Tr|Ts|Va|Val)"


def read_dataset_json(
    root: Path, file: str, paths: Sequence[str], contrasts: Sequence[str], words: ContrastWords
) -> Reading | None:
    """The reading of images below `root` by a dataset.json, which lies at `file`; None where it does
    not name their channels.

    Channels of other contrasts are left out. UserError for a file that cannot be read, or gives two
    channels one name.
    """
    names = _channel_names(root / file, words)
    skipped = left_out(paths, words)
    found = Reading(DATASET_FILE, [], dict(skipped))
    cases = {path: _case_and_channel(path) for path in paths if path not in skipped}
    are_files = any(channel in names for _, channel in cases.values())
    place = re.compile(rf"{re.escape(file.removesuffix(DATASET_FILE))}(?:({IMAGES_FOLDER})/)?[^/]+")
    for path, (case, channel) in cases.items():
        lies = place.fullmatch(path)
        is_named = channel in names if are_files else channel is None and not words.said(case)
        if are_files and channel is None:
            found.left_out[path] = "without a channel"
        elif not (names and lies and is_named):
            return None
        else:
            split = split_named(lies[1] or "")
            found.entries += _entries_of_case(path, case, split, channel, names)
    found = found.of_contrasts(contrasts)
    if len({entry.split for entry in found.entries}) < 2:
        for entry in found.entries:
            entry.split = ""
    return found


def _entries_of_case(
    path: str, case: str, split: str, channel: int | None, names: Mapping[int, str]
) -> list[Entry]:
    """The entry of a file's channel, or one for each channel of a file of several."""
    entries = []
    for number in names if channel is None else [channel]:
        entry = Entry(path, names[number], split=split)
        entry.patient = case if is_volume(path) else ""
        entry.slice = "" if is_volume(path) else case
        entry.volume = number if channel is None and len(names) > 1 else None
        entries.append(entry)
    return entries


def _case_and_channel(path: str) -> tuple[str, int | None]:
    """The case, and the number of its channel if the name ends in one."""
    match = CHANNEL.fullmatch(stem_of(path))
    return (match[1], int(match[2])) if match else (stem_of(path), None)


def _channel_names(file: Path, words: ContrastWords) -> dict[int, str]:
    """Number of a channel -> its contrast, or its name where that says none, or one of several."""
    remedy = 'write for example {"channel_names": {"0": "T1", "1": "T2"}}'
    kind = "names of the channels of images"
    with reading_file(file, kind, where="data.source.path", remedy=remedy):
        content = json.loads(read_file(file))
        tables = [content.get(key) for key in KEYS] if isinstance(content, dict) else []
        table = next((each for each in tables if isinstance(each, dict)), {})
        names = {int(number): str(name) for number, name in table.items() if number.isdecimal()}
        if len({*names.values()}) < len(names):
            raise ValueError("it gives several channels one name")
        said = {number: words.meant(name) for number, name in names.items()}
        known = {n: next(iter(own)) if len(own) == 1 else names[n] for n, own in said.items()}
        return known if len({*known.values()}) == len(known) else names


BIDS = "BIDS"  # as a layout
PLACE_OF_BIDS = re.compile(r"(?:.*/)?sub-[^/]+(?:/ses-[^/]+)?(?:/[a-z]+)?")


def read_entities(
    paths: Sequence[str],
    contrasts: Sequence[str],
    words: ContrastWords,
    *,
    leaves_out_others: bool = False,
) -> Reading | None:
    """The reading of images by the entities of BIDS; images without such names are left out, or the
    reading is None.

    Of several runs of a session and contrast that with the fewest entities is used.
    """
    found = Reading(BIDS, [], dict(left_out(paths, words)))
    best: dict[tuple[str, ...], Entry] = {}
    order_of: dict[str, tuple] = {}
    for path in paths:
        if path in found.left_out:
            continue
        entities, suffix = entities_of(path)
        is_named = "sub" in entities and PLACE_OF_BIDS.fullmatch(path.rpartition("/")[0])
        if not (is_named and is_volume(path)):
            if not leaves_out_others:
                return None
            found.left_out[path] = "without a name of BIDS"
            continue
        said = words.said(stem_of(path))
        contrast = next(iter(said)) if len(said) == 1 else suffix
        if contrasts and contrast not in contrasts:
            found.left_out[path] = contrast
            continue
        entry = Entry(path, contrast, f"sub-{entities['sub']}")
        entry.visit = f"ses-{entities['ses']}" if "ses" in entities else ""
        order_of[path] = len(entities), natural(path)
        other = best.setdefault(entry.cell, entry)
        if other is not entry:
            worse = max(entry, other, key=lambda each: order_of[each.path])
            found.left_out[worse.path] = "other run"
            best[entry.cell] = entry if worse is other else other
    found.entries = [*best.values()]
    return found


def entities_of(path: str) -> tuple[dict[str, str], str]:
    """The entities and the suffix of a name of BIDS, `sub-01_ses-2_T1w`; {} of another name."""
    *pairs, suffix = stem_of(path).split("_")
    entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
    return (entities if len(entities) == len(pairs) else {}), suffix
