"""What a training prints of its images: a label and a sentence a line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gantk.data.dataset import Data, Study, layouts_in_words
from gantk.data.look import MIN_PEOPLE, NO_UNITS, is_ct_without_units
from gantk.data.sources.pairing import LIKELY
from gantk.data.split.near_duplicates import MAX_ALL_COMPARED
from gantk.errors import count_noun, join_first

LOOKS_UNKNOWN = (
    f"fewer than {MIN_PEOPLE} patients are trained on: too few to tell later whether an image looks like"
    " the training images"
)
LIKELY_PAIRS = (
    f"pairs named '{LIKELY.strip()}' are by what images show, not by names: look at them (gantk data check"
    " TABLE --pictures pairs.png), then take this word out of the table"
)
MIN_TRAINING_PATIENTS = 3  # of a domain, from which a network can learn more than these look like
UNPAIRED_USES_HALF = (
    "an unpaired method trains on one contrast of each known patient, so on about half of the images that"
    " a paired one has"
)
NO_COMPARISON = (
    f"This is no comparison of methods: {UNPAIRED_USES_HALF}. To change this, plan recipes that train on"
    " the same images: gantk plan SCANS --methods cyclegan,pix2pix"
)


def describe(data: Data) -> list[str]:
    """Lines that describe the data to the user."""
    trained = len(data.training)
    lacking = sum(bool(record.missing) for record in data.training)
    unmasked = sum(record.mask is None for record in data.training) if data.table.mask else 0
    missing = f"{lacking} of {trained} training images lack a contrast; it is masked"
    masks = (
        f"{unmasked} of {trained} training images have no lesion mask; all their pixels count as"
        " outside of lesions"
    )
    layout = layouts_in_words(data.source)
    lines = [
        ("layout", layout) if layout else ("found", data.images_in_words(data.records)),
        ("data", _counts(data)),
        ("split", data.split_description),
        ("held out", "" if data.source.drawn else data.splits.held_out),
        *(("warning", said) for said in data.consequences()),
        ("warning", few_patients(data)),
        *(("note", said) for said in _notes(data)),
        ("classes", _classes(data)),
        ("missing", missing if lacking else ""),
        ("masks", masks if unmasked else ""),
    ]
    return [f"{label:8} {text}" for label, text in lines if text]


def _counts(data: Data) -> str:
    """The images that are trained on, of how many patients, whether each gives one contrast, at which
    size, and whether no held-out ones are pairs.
    """
    has_pairs = len(data.letters) == 1 or data.pairs("validation") or data.pairs("test")
    alone = "" if has_pairs else "; validation and test images without pairs"
    size = " x ".join(map(str, data.table.size))
    halved = " (one contrast of each patient)" if is_halved(data) else ""
    return f"{data.images_in_words(data.training)} for training{halved}, at {size} pixels{alone}"


def few_patients(study: Study) -> str:
    """A warning of domains of few patients where each patient gives one contrast; "" without any."""
    patients = Counter(letter for letter, _ in {(r.domain, r.subject) for r in study.training})
    few = [name for letter, name in study.names.items() if patients[letter] < MIN_TRAINING_PATIENTS]
    if not few or not is_halved(study):
        return ""
    return (
        f"the training sees {' and '.join(few)} of fewer than {MIN_TRAINING_PATIENTS} patients, too"
        f" few to learn what others look like: {UNPAIRED_USES_HALF}, unless data.unpair = false and"
        ' data.same_patient = true (with method.pairs = "none", or partners may be matched)'
    )


def is_halved(study: Study) -> bool:
    """Whether an unpaired training leaves out images, as each patient gives one domain."""
    available = sum(record.for_training for record in study.splits["train"])
    has_two = not study.method.paired and len(study.letters) > 1
    return has_two and len(study.training) < available


def _notes(data: Data) -> Iterator[str]:
    """Sentences on the choice of images, and on the intensity mappings."""
    yield from data.source.notes
    for letter, mapping in data.intensity.items():
        note = getattr(mapping, "note", "")
        if note:
            yield f"{data.names[letter]}: {note}"
    if any(LIKELY in (record.pair or "") for record in data.records):
        yield LIKELY_PAIRS
    for letter, known in data.values.items():
        if is_ct_without_units(data.names[letter], known):
            yield f"{data.names[letter]}: {NO_UNITS}"
    if any(known.get("traits") and "looks" not in known for known in data.values.values()):
        yield LOOKS_UNKNOWN
    available = {record.subject for record in data.splits["train"] if record.for_training}
    people = sorted(available - {record.subject for record in data.training})
    if people and is_halved(data):
        yield (
            f"{count_noun(people, 'patient')} left out of the training, because the images are of"
            f" another kind than those of most: {join_first([*map(repr, people)])}"
        )

    count = sum(map(len, data.splits.values()))
    if count > MAX_ALL_COMPARED:
        yield (
            f"exact copies were searched in all {count} files, near copies only in a sample of them"
        )


def _classes(data: Data) -> str:
    """How many training images each class has; "" for a single one that the method is not told."""
    counts = Counter(record.label for record in data.training if record.label)
    classes = data.classes or sorted(counts)
    if len(classes) < 2 and not data.classes:
        return ""
    mixed = "" if data.classes else ", mixed: the method is not told them (data.labels)"
    return ", ".join(f"{counts[name]} {name}" for name in classes) + mixed
