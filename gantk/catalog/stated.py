"""Reads what names state by a standard: the entities of BIDS; the channels of nnU-Net and the MSD that
a `dataset.json` names, as files (`p1_0000.nii.gz`) or as volumes of one (`BRATS_001.nii.gz`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import ContrastWords, only
from gantk.catalog.layouts import Reading, scan_named
from gantk.catalog.words import split_named
from gantk.errors import reading_file
from gantk.files import read_file
from gantk.formats.files import entities_of, is_volume, natural, stem_of

DATASET_FILE = "dataset.json"
KEYS = ("channel_names", "modality")  # of nnU-Net 2 and 1: number of a channel -> its name
CHANNEL = re.compile(r"(.+)_(\d{4})")
BIDS = "BIDS"  # as a layout
PLACE_OF_BIDS = re.compile(r"(?:.*/)?sub-[^/]+(?:/ses-[^/]+)?(?:/[a-z]+)?")


def read_dataset_json(
    root: Path, file: str, images: Sequence[str], contrasts: Sequence[str], words: ContrastWords
) -> Reading | None:
    """The reading of images below `root` by a dataset.json, which lies at `file`; None where it does
    not name their channels.

    Channels of other contrasts are left out. UserError for a file that cannot be read, or gives two
    channels one name.
    """
    names = _channel_names(root / file, words)
    if not names:
        return None
    channels = {path: CHANNEL.fullmatch(stem_of(path)) for path in images}
    are_files = any(channel and int(channel[2]) in names for channel in channels.values())
    folder = re.escape(file.removesuffix(DATASET_FILE))
    place = re.compile(rf"{folder}(?:(images(?:Tr|Ts|Va|Val))/)?[^/]+")
    found = Reading(DATASET_FILE)
    for path, channel in channels.items():
        lies = place.fullmatch(path)
        if are_files and channel is None:
            found.left_out[path] = "without a channel"
        elif lies is None:
            return None
        elif channel is None:
            if words.said(stem_of(path)):
                return None
            row = _row_of_case(path, stem_of(path), lies[1])
            for number, contrast in names.items():
                scan = replace(row.scan, volume=number if len(names) > 1 else None)
                found.rows.append(replace(row, scan=scan, contrast=contrast, outlines={}))
        elif int(channel[2]) in names:
            row = _row_of_case(path, channel[1], lies[1])
            row.contrast = names[int(channel[2])]
            found.rows.append(row)
        else:
            return None
    found = found.of_contrasts(contrasts)
    if len({row.split for row in found.rows}) < 2:
        for row in found.rows:
            row.split = ""
    return found


def _row_of_case(path: str, case: str, folder: str | None) -> Row:
    """The row of a case's file in a folder such as `imagesTr`."""
    row = Row(scan_named(path), split=split_named(folder or ""))
    if is_volume(path):
        row.subject = case
    else:
        row.slice = case
    return row


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
        known = {number: only(words.meant(name), name) for number, name in names.items()}
        return known if len({*known.values()}) == len(known) else names


def read_entities(
    images: Sequence[str],
    contrasts: Sequence[str],
    words: ContrastWords,
    *,
    leaves_out_others: bool = False,
) -> Reading | None:
    """The reading of images by the entities of BIDS; images without such names are left out, or the
    reading is None.

    Of several runs of a session and contrast that with the fewest entities is used.
    """
    found = Reading(BIDS)
    runs: dict[tuple[str, ...], list[tuple[int, list, Row]]] = {}
    for path in images:
        entities = entities_of(path)
        is_placed = is_volume(path) and PLACE_OF_BIDS.fullmatch(path.rpartition("/")[0])
        if not (entities and is_placed):
            if not leaves_out_others:
                return None
            found.left_out[path] = "without a name of BIDS"
            continue
        suffix = stem_of(path).rpartition("_")[2]
        row = Row(scan_named(path), only(words.said(stem_of(path)), suffix))
        row.subject = f"sub-{entities['sub']}"
        row.session = f"ses-{entities['ses']}" if "ses" in entities else ""
        runs.setdefault(row.cell, []).append((len(entities), natural(path), row))
    for own in runs.values():
        (_, _, used), *others = sorted(own, key=lambda run: run[:2])
        found.rows.append(used)
        found.left_out |= {row.scan.name: "other run" for _, _, row in others}
    return found.of_contrasts(contrasts)
