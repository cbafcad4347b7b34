"""Channels in the names of files, as nnU-Net writes them: `p1_0000` and `p1_0001` are two contrasts
of one patient, which `dataset.json` names.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from gantk.catalog.catalog import Row
from gantk.catalog.contrasts import contrasts_in, one_word, same_contrast, usual_contrast
from gantk.catalog.tables import FILL_IN_TABLE
from gantk.errors import UserError, reading_file
from gantk.files import read_file
from gantk.formats.files import is_volume, stem_of
from gantk.formats.image import Scan

DATASET_FILE = "dataset.json"
KEYS = ("channel_names", "modality")  # of nnU-Net 2 and 1: number of a channel -> its name
CHANNEL = re.compile(r"(.+)_(\d{4})")
IMAGES_FOLDER = re.compile(r"images(Tr|Ts|Va|Val)")
MAX_CHANNELS = 10


def rows_of_images(images: Iterable[Path], contrasts: Sequence[str]) -> list[Row]:
    """A row for each image, with its contrast where a dataset.json beside it, or beside its folder,
    names that of its channel (`p1_0000.nii.gz`). A file of several volumes has one for each of these
    contrasts, or for each where none is given, that dataset.json says of it (MSD's
    `BRATS_001.nii.gz` with FLAIR, T1w, ...).

    UserError for a dataset.json that cannot be read, or gives two channels one name.
    """
    words_of = cache(_words_of_folder)  # for this call: the file may be corrected afterwards
    rows = []
    for image in images:
        stem = stem_of(image)
        channel = CHANNEL.fullmatch(stem)
        says_one = contrasts_in(stem) or contrasts_in(image.parent.name)
        words: dict[int, str] = {}
        if channel or (is_volume(image) and not says_one):
            words = words_of(image.absolute().parent)

        found = []
        if channel and int(channel[2]) in words:
            found.append(Row(Scan(image), words[int(channel[2])], stem=channel[1]))
        for number, word in words.items() if len(words) > 1 and not channel else ():
            asked = [same_contrast(word.lower(), one_word(contrast)) for contrast in contrasts]
            if any(asked) or not contrasts:
                found.append(Row(Scan(image, volume=number), word))
        rows += found or [Row(Scan(image))]
    return rows


def _words_of_folder(folder: Path) -> dict[int, str]:
    """The channels that a dataset.json in a folder, or in the one above, names."""
    for place in (folder, folder.parent):
        if (place / DATASET_FILE).exists():
            return channel_words(place / DATASET_FILE)
    return {}


def channel_words(file: Path) -> dict[int, str]:
    """The channels that nnU-Net's dataset.json names: number -> a word, a usual contrast where the
    name says one that no other name says. {} where it names none.
    """
    remedy = 'write for example {"channel_names": {"0": "T1", "1": "T2"}}'
    kind = "names of the channels of images"
    with reading_file(file, kind, where="data.source.path", remedy=remedy):
        names = _names_of_channels(json.loads(read_file(file)))
        usual = {number: usual_contrast(name) or one_word(name) for number, name in names.items()}
        alike = Counter(usual.values())
        words: dict[int, str] = {}
        for number, name in names.items():
            word = usual[number] if alike[usual[number]] == 1 else one_word(name)
            if word in words.values():
                raise ValueError(f"it gives several channels the name '{name[:40]}'")
            words[number] = word

    return words


def _names_of_channels(content: object) -> dict[int, str]:
    """The names in the content of a dataset.json, by number of the channel."""
    tables = [content.get(key) for key in KEYS] if isinstance(content, dict) else []
    table = next((each for each in tables if isinstance(each, dict)), {})
    names = {}
    for number, name in table.items():
        if re.fullmatch(r"[0-9]{1,4}", number) and isinstance(name, str) and one_word(name):
            names[int(number)] = name
    return names


def numbered_channels(images: Sequence[Path]) -> list[Path]:
    """The images of one patient that differ in the number of a channel, where most patients have
    the same channels; [] where the numbers may be slices, patients or visits.
    """
    numbers: dict[Path, dict[int, Path]] = defaultdict(dict)
    for image in images:
        match = CHANNEL.fullmatch(stem_of(image))
        if match and (is_volume(image) or IMAGES_FOLDER.fullmatch(image.parent.name)):
            numbers[image.parent / match[1]][int(match[2])] = image

    counts = Counter(tuple(sorted(own)) for own in numbers.values())
    if not counts:
        return []

    usual, count = counts.most_common(1)[0]
    are_channels = 2 <= len(usual) <= MAX_CHANNELS and usual == tuple(range(len(usual)))
    if not are_channels or count < 2 or 2 * count <= len(numbers):
        return []
    first = next(own for own in numbers.values() if tuple(sorted(own)) == usual)
    return [first[number] for number in usual]


def refuse_numbered_channels(rows: Iterable[Row], contrasts: Sequence[str]) -> None:
    """UserError where the images of one of these contrasts differ in the number of a channel: they
    are different contrasts.
    """
    rows = list(rows)
    for contrast in contrasts:
        channels = numbered_channels([row.path for row in rows if row.contrast == contrast])
        if channels:
            raise _mixed_channels(channels, one_domain=len(contrasts) == 1)


def _mixed_channels(channels: Sequence[Path], one_domain: bool) -> UserError:
    shown = " and ".join(f"'{image.name}'" for image in channels[:2])
    what = (
        f"{shown} differ in the number of a channel, so they are different contrasts, and no"
        f" {DATASET_FILE} names both"
    )
    numbers = [stem_of(image)[-4:] for image in channels]
    ways = (
        '--set \'data.domains=["T1", "T2"]\''
        f" --set data.source.a='*_{numbers[0]}.*' --set data.source.b='*_{numbers[1]}.*'"
    )
    if one_domain:
        ways += f", or one with --set data.source.a={numbers[0]}"
    remedy = (
        f'name them in {DATASET_FILE}: {{"channel_names": {{"0": "T1", "1": "T2"}}}}. Or choose'
        f" two with {ways}. {FILL_IN_TABLE}"
    )
    return UserError(what, where="data.source.path", remedy=remedy)
