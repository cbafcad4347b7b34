"""Who is trained on and who is held out: by patient, by blocks of slices, by image, in k folds, or as a file says."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gantk.data.preparation import Record
from gantk.data.split.near_duplicates import (
    copies,
    fingerprints_of_unknown,
    unit_of,
    with_near_copies,
    without_copies,
)
from gantk.data.split.split_file import read_split_file
from gantk.errors import UserError

SETS = ("train", "validation", "test")
By = Literal["auto", "patient", "block", "image"]
PATIENTS = 5  # from this many on, `auto` splits by patient
Sets = dict[str, list[Record]]


class Splits(dict[str, list[Record]]):
    """The records of `train`, `validation` and `test`; `by` says what was never divided."""

    def __init__(self, sets: Mapping[str, list[Record]], by: str, made: Mapping = {}, fingerprints: Mapping = {}):
        super().__init__({name: sets.get(name, []) for name in SETS})
        self.by = by  # "patient", "block", "image", or "folders" or "file" where these decided
        self.made = dict(made)  # what else it takes to make the same split again: seed, fold, the file's hash
        self.fingerprints = dict(fingerprints)  # by domain and key, of images that had to be read for this

    def __or__(self, other: Mapping[str, list[Record]]) -> Splits:
        return Splits({**self, **other}, self.by, self.made, self.fingerprints)


def split_records(
    records: Sequence[Record],
    *,
    test: float = 0.2,  # share that training never sees
    validation: float = 0.1,  # share that is scored while training
    by: By = "auto",  # unit that is never divided; auto: patient where 5 or more are known, else block, else image
    gap: int = 2,  # by block: neighbours of a held-out slice that training does not see either
    blocks: int = 2,  # by block: runs of neighbouring slices per held-out set
    seed: int = 0,  # which units are held out
    folds: int = 0,  # k-fold by patient: so many parts of equal size, each of them the test set once; 0 = by shares
    fold: int = 0,  # k-fold: which part is the test set, counted from 0
    file: str = "",  # CSV that says who is where, by a column patient (or path) and a column split (or fold)
) -> tuple[Splits, str]:
    """Records shared out to train, validation and test, and how in words; a seeded function of its arguments alone.

    What `file` says wins; else `folds` deal out all patients, whatever their folders are called; else what the folders
    themselves say (`Record.split`). Sets that a file or the folders lack are taken from their training images.
    Registered pairs are never divided. Too few units for the shares asked are a `UserError` with the numbers.

    A resumed run splits again instead of reading split.json: who falls where for a seed must never change.
    """
    if test < 0 or validation < 0 or test + validation >= 1:
        what = f"test = {test:g} and validation = {validation:g} leave nothing to train on"
        raise UserError(what, where="data.split", allowed="shares of 0 or more whose sum is below 1")
    shares, blockwise = {"test": test, "validation": validation}, {"gap": gap, "blocks": blocks}
    if file:
        records, made = read_split_file(records, file, folds, fold)
        splits, how = _by_file_or_folders(records, shares, by, seed, blockwise, f"'{Path(file).name}'")
        splits.by = "file"
    elif folds:
        made = {"folds": folds, "fold": fold}
        splits, how = _in_folds(records, folds, fold, validation, by, seed)
    else:
        made, said = {}, any(record.split for record in records)
        splits, how = (_by_file_or_folders if said else _by_shares)(records, shares, by, seed, blockwise)
    splits.made = {"seed": seed} | made
    return splits, how


def _by_file_or_folders(
    records: Sequence[Record], asked: dict[str, float], by: By, seed: int, blockwise: dict[str, int], file: str = ""
) -> tuple[Splits, str]:
    """The sets that a file or else the folders name; those that they do not are taken from the training images."""
    given = {name: [record for record in records if (record.split or "train") == name] for name in SETS}
    if not given["train"]:
        what = f"{file} leaves no image to train on" if file else "the folders hold no training images"
        where = "data.split.file" if file else "data.source"
        raise UserError(what, where=where, allowed="rows with train" if file else "a train folder")
    # Shares are of all images, so what is taken from the training images weighs more of them.
    whole, most = len(records) / len(given["train"]), {"test": 0.5, "validation": 0.4}
    shares = {name: 0.0 if given[name] else min(share * whole, most[name]) for name, share in asked.items()}
    inner, how = _by_shares([replace(record, split=None) for record in given["train"]], shares, by, seed, blockwise)
    fixed = " and ".join(name for name in ("validation", "test") if given[name])
    if not fixed:
        return inner, how
    splits = inner | {name: given[name] for name in ("validation", "test") if given[name]}
    whence = "its training images" if file else "the training folders"
    taken = f", the rest from {whence} by {inner.by}" if any(shares.values()) else ""
    splits.by = "folders"
    return splits, f"{fixed} as {f'{file} says' if file else 'the folders say'}{taken}: {_counts(splits)}"


def _by_shares(
    records: Sequence[Record], shares: dict[str, float], by: By, seed: int, blockwise: dict[str, int]
) -> tuple[Splits, str]:
    held_out = any(shares.values())
    by = _resolved(records, by) if held_out else "image"
    known = fingerprints_of_unknown(records) if held_out and by != "patient" else {}
    if by == "block":
        sets, how = _by_block(records, shares, seed, **blockwise)
        sets, copied = without_copies(sets, known)
        how += f"; of these, {copied} copies of held-out images left out" if copied else ""
    else:
        # Copies of one picture are one unit: on two sides of the split they would be trained on and scored.
        first = copies(records, unit_of) if held_out and by == "image" else {}
        kinds, unit = _units(records, by, first)
        place = _assigned_to_sets(kinds, shares, seed, f"{by}s")
        sets = _sets(records, lambda record: place[unit(record)])
        sets = with_near_copies(sets, known)
        how = _described(sets, by)
    _expect_all_domains(records, sets, shares)
    return Splits(sets, by, fingerprints=known), how


def _in_folds(
    records: Sequence[Record], folds: int, fold: int, validation: float, by: By, seed: int
) -> tuple[Splits, str]:
    """One fold: every patient is tested once, or every image where the recipe says `by = "image"`.

    Parts are the same for every `fold`, differ in size by one patient at most, and get of every kind of patient (with
    one domain or both, of one class or another) as even a number. `validation` is a share of all patients, taken from
    those that are not tested.
    """
    if folds < 2:
        what = f"folds = {folds} leaves nothing to train on"
        raise UserError(what, where="data.split.folds", allowed="2 or more; 0 to split by shares")
    if not 0 <= fold < folds:
        raise UserError(f"there is no fold {fold} of {folds}", where="data.split.fold", allowed=f"0 to {folds - 1}")
    if by == "block":
        what = f"by = 'block' holds out runs of slices, and folds = {folds} deals out patients"
        raise UserError(what, where="data.split", remedy="set folds = 0, or by = 'patient'")
    by = "image" if by == "image" else _resolved(records, "patient", "folds")
    known = fingerprints_of_unknown(records) if by == "image" else {}
    kinds, unit = _units(records, by, copies(records, unit_of, known) if by == "image" else {})
    part = _assigned_to_folds(kinds, folds, seed)
    share = validation * folds / (folds - 1)
    if by == "patient":
        if len(part) < folds:
            what = f"{len(part)} patients cannot be dealt out to {folds} folds"
            raise UserError(what, where="data.split.folds", allowed=f"2 to {max(2, len(part))}")
        for domain in sorted({record.domain for record in records}):  # said before the first, not after the third
            having = {part[record.subject] for record in records if record.domain == domain}
            if len(having) < folds:
                what = f"no image of domain {domain} falls into {folds - len(having)} of {folds} folds"
                raise UserError(what, where="data.split.folds", remedy="ask for fewer, or try another data.split.seed")
        share = validation * len(part) / sum(number != fold for number in part.values())
    rest = [[name for name in kind if part[name] != fold] for kind in kinds]
    place = _assigned_to_sets([kind for kind in rest if kind], {"validation": min(share, 0.5)}, seed, f"{by}s")
    sets = _sets(records, lambda record: place.get(unit(record), "test"))
    _expect_all_domains(records, sets, {"test": 1 / folds, "validation": validation})
    return Splits(sets, by, fingerprints=known), f"fold {fold} of {folds} (0 to {folds - 1}), {_described(sets, by)}"


# --- units: patients, or images; they go to sets, or to folds, kind by kind, so that every set gets of each kind


def _units(
    records: Sequence[Record], by: str, first: Mapping[Hashable, Hashable]
) -> tuple[list[list], Callable[[Record], Hashable]]:
    """What is never divided, those of one kind together, in an order of its own; and which unit a record belongs to.

    Patients with one domain or one class only are kinds of their own. Among images pairs are units, and of copies the
    `first` stands for all; kinds are pairs, and the images of each domain and class.
    """
    kinds: dict[Hashable, list] = defaultdict(list)
    if by == "patient":
        seen: dict[str, set] = defaultdict(set)
        for record in records:
            seen[record.subject].add((record.domain, record.label or ""))
        for patient in sorted(seen):
            kinds[tuple(sorted(seen[patient]))].append(patient)
        return [kinds[kind] for kind in sorted(kinds)], lambda record: record.subject
    labels = {unit_of(record): record.label or "" for record in reversed(records)}
    for name in dict.fromkeys(map(unit_of, records)):
        if first.get(name, name) == name:
            kinds[name[0], labels[name]].append(name)
    return [kinds[kind] for kind in sorted(kinds)], lambda record: first.get(unit_of(record), unit_of(record))


def _assigned_to_sets(kinds: Sequence[list], shares: dict[str, float], seed: int, word: str) -> dict[Any, str]:
    """The set of each unit: of each kind at least one for every share above 0, and at least one to train on.

    Too small a kind is trained on where another is held out.
    """
    least = 1 + sum(share > 0 for share in shares.values())
    some_large = any(len(units) >= least for units in kinds)
    place: dict[Any, str] = {}
    for units in kinds:
        if some_large and len(units) < least:
            place |= dict.fromkeys(units, "train")
            continue
        counts = {name: max(1, round(share * len(units))) if share > 0 else 0 for name, share in shares.items()}
        if sum(counts.values()) >= len(units):
            asked = " and ".join(f"{name} = {share:g}" for name, share in shares.items() if share)
            allowed = f"{sum(counts.values()) + 1} {word} or more of each domain"
            remedy = "set one of the two to 0, choose by = 'block' or 'image', or add data"
            what = f"{len(units)} {word} are too few for {asked}"
            raise UserError(what, where="data.split", allowed=allowed, remedy=remedy)
        order = np.random.default_rng(seed).permutation(len(units))
        names = [name for name, count in counts.items() for _ in range(count)]
        place |= {units[i]: names[n] if n < len(names) else "train" for n, i in enumerate(order)}
    return place


def _assigned_to_folds(kinds: Sequence[list], parts: int, seed: int) -> dict[Any, int]:
    """The part of each unit, 0 to `parts` - 1: no part has two units more than another, in all or of one kind."""
    rng = np.random.default_rng(seed)
    shuffled = [units[i] for units in kinds for i in rng.permutation(len(units))]
    return {unit: number % parts for number, unit in enumerate(shuffled)}


def _sets(records: Sequence[Record], place: Callable[[Record], str | None]) -> Sets:
    places = [place(record) for record in records]
    return {name: [r for r, where in zip(records, places, strict=True) if where == name] for name in SETS}


# --- blocks: in one stack, slices side by side are near copies of each other


def _by_block(
    records: Sequence[Record], shares: dict[str, float], seed: int, gap: int, blocks: int
) -> tuple[Sets, str]:
    """Sets by blocks, and how that went in words.

    Every stack (one patient, or all images of a class where patients are unknown) gives `blocks` runs to each held-out
    set, spread over its length, or fewer where these would be shorter than 3 slices or leave no room. `gap` neighbours
    on each side are left out of every set. Where pairs are known, the blocks of domain a decide: their partners in b
    are held out with them, and neighbours of these in b's own order are left out too.
    """
    stacks: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        stacks[record.subject, "" if record.subject else record.label or ""].append(record)
    place: dict[int, str] = {}  # id(record) -> set, or "gap"
    for _, stack in sorted(stacks.items()):
        by_position = sorted(stack, key=lambda r: r.position)
        ordered = {d: [r for r in by_position if r.domain == d] for d in sorted({r.domain for r in stack})}
        partners = {r.pair for r in ordered.get("b", ())} - {None}
        paired = any(r.pair in partners for r in ordered.get("a", ()))
        for domain, slices in ordered.items():
            if domain == "b" and paired:
                of_pair = {r.pair: place[id(r)] for r in ordered["a"] if r.pair is not None}
                names = [of_pair.get(r.pair, "train") for r in slices]
            else:
                # The same seed for both domains: in unpaired stacks of one anatomy the blocks are about the same.
                names = _runs(len(slices), shares, gap, blocks, seed)
            held = [i for i, name in enumerate(names) if name not in ("train", "gap")]
            near = {j for i in held for j in range(i - gap, i + gap + 1)}
            names = ["gap" if name == "train" and i in near else name for i, name in enumerate(names)]
            place |= {id(record): name for record, name in zip(slices, names, strict=True)}
        if paired:  # neighbours in b's own order, whose partners in a would otherwise still be trained on
            dropped = {record.pair for record in ordered["b"] if place[id(record)] == "gap"} - {None}
            place |= {id(record): "gap" for record in ordered["a"] if record.pair in dropped}
    lines = []
    for domain in sorted({record.domain for record in records}):
        names = [place[id(record)] for record in records if record.domain == domain]
        count = {name: names.count(name) for name in (*SETS, "gap")}
        lines.append(f"{domain}: {_words(count)}, {count['gap']} left out beside them")
    how = "by blocks of neighbouring slices; " + "; ".join(lines)
    return _sets(records, lambda record: place[id(record)]), how


def _runs(count: int, shares: dict[str, float], gap: int, blocks: int, seed: int) -> list[str]:
    """The set of each of `count` slices in order: the stack is cut into segments, each with a test run at a seeded
    place and a validation run beside it, `gap` slices apart."""
    sizes = {name: max(1, round(share * count)) for name, share in shares.items() if share > 0}
    needed = sum(sizes.values()) + gap * (len(sizes) + 1) + 1
    if needed > count:
        asked = " and ".join(f"{name} = {share:g}" for name, share in shares.items() if share)
        what = f"a stack of {count} slices is too short for {asked} with a gap of {gap}"
        remedy = "lower gap, set one of the two shares to 0, or choose by = 'patient' or 'image'"
        raise UserError(what, where="data.split", allowed=f"{needed} slices or more", remedy=remedy)
    rng = np.random.default_rng(seed)
    # A short stack has no room for all the blocks asked; one of each set always fits.
    attempts = (_runs_in_segments(count, sizes, gap, number, rng) for number in range(blocks, 0, -1))
    return next(names for names in attempts if names)


def _runs_in_segments(
    count: int, sizes: dict[str, int], gap: int, blocks: int, rng: np.random.Generator
) -> list[str] | None:
    """The set of each slice with up to `blocks` runs a set, or None where a segment has no room to train on."""
    runs = {name: min(blocks, max(1, size // 3)) for name, size in sizes.items()}
    segments = max(runs.values(), default=1)
    names = ["train"] * count
    for segment in range(segments):
        start, end = round(count * segment / segments), round(count * (segment + 1) / segments)
        inside = [name for name in runs if segment < runs[name]]
        held = [(name, sizes[name] // runs[name] + (segment < sizes[name] % runs[name])) for name in inside]
        if rng.random() < 0.5:
            held.reverse()
        room = end - start - sum(size for _, size in held) - gap * (len(held) - 1)
        if room < 2 * gap + 1:
            return None
        at = start + round(room * rng.uniform(0.25, 0.75))
        for name, size in held:
            names[at : at + size] = [name] * size
            at += size + gap
    return names


# --- what cannot be split


def _resolved(records: Sequence[Record], by: By, option: str = "by") -> str:
    """The unit that `auto` means for these records; UserError where they do not know the unit asked for."""
    patients = {record.subject for record in records}
    placed = all(record.position is not None for record in records)
    if by == "auto":
        known = "" not in patients and len(patients) >= PATIENTS
        return "patient" if known else "block" if placed else "image"
    if by == "patient" and ("" in patients or not patients):
        remedy = "put each patient into a folder, or tell the source where the names say it (patient = 'regex')"
        what, allowed = "the source does not know which image is of which patient", "'block' or 'image' for such images"
        raise UserError(what, where=f"data.split.{option}", allowed=allowed, remedy=remedy)
    if by == "block" and not placed:
        what = "the source does not know the order of the images"
        raise UserError(what, where="data.split.by", allowed="'patient' or 'image' for such images")
    return by


def _expect_all_domains(records: Sequence[Record], sets: Mapping[str, list[Record]], shares: dict[str, float]) -> None:
    domains = {record.domain for record in records}
    for name in ("train", *(name for name, share in shares.items() if share)):
        missing = domains - {record.domain for record in sets[name]}
        if missing:
            count = sum(record.domain in missing for record in records)
            what = f"no image of domain {', '.join(sorted(missing))} is left for {name} ({count} in all)"
            remedy = "set that share to 0, lower data.split.gap, or add data"
            raise UserError(what, where="data.split", remedy=remedy)


# --- what follows a split


def unpair(records: Sequence[Record], seed: int = 0) -> list[Record]:
    """An unpaired study of training records: a patient seen in both domains keeps one of them, half of them each.

    Records without patients, of one patient, or of patients seen in one domain only stay as they are.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    for record in records:
        seen[record.subject].add(record.domain)
    both = sorted(patient for patient, domains in seen.items() if patient and {"a", "b"} <= domains)
    if len(both) < 2:
        others = {record.domain for record in records if record.subject and record.subject not in both}
        gives = {both[0]: "a" if "b" in others else "b"} if both and others else {}
    else:
        order = np.random.default_rng(seed).permutation(len(both))
        gives = {both[i]: "a" if n < (len(both) + 1) // 2 else "b" for n, i in enumerate(order)}
    return [record for record in records if gives.get(record.subject, record.domain) == record.domain]


def split_json(splits: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """What split.json holds: for every record its domain, key, subject, pair, path and the SHA-256 of its file; how the
    split was made (`by`, `seed`), and of a k-fold its `folds` and `fold`, of a split file its path and SHA-256.

    Class, missing contrasts and further files (`others`) are there where a record has them.
    """
    paths = {path for name in SETS for record in splits[name] for path in record.files}
    file = {path: {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths}

    def entry(record: Record) -> dict[str, Any]:
        known = {"domain": record.domain, "key": record.key, "subject": record.subject, "pair": record.pair}
        known |= file[record.path] if record.path else {"path": None}
        known |= {"label": record.label} if record.label is not None else {}
        known |= {"missing": list(record.missing)} if record.missing else {}
        return known | ({"others": [file[other] for other in record.others]} if record.others else {})

    made = {"by": getattr(splits, "by", None)} | getattr(splits, "made", {})
    return made | {name: [entry(record) for record in splits[name]] for name in SETS}


def _described(sets: Mapping[str, Sequence[Record]], by: str) -> str:
    """`by patient: 4 train, 1 validation, 1 test patients (8+8 train, ... images of a+b)`, or the images alone."""
    if by == "image":
        return f"by image: {_counts(sets)}"
    patients = {name: len({record.subject for record in sets[name]}) for name in SETS}
    return f"by patient: {_words(patients)} patients ({_counts(sets)})"


def _counts(sets: Mapping[str, Sequence[Record]]) -> str:
    domains = sorted({record.domain for name in SETS for record in sets[name]})
    each = {name: "+".join(str(sum(r.domain == d for r in sets[name])) for d in domains) for name in SETS}
    return f"{_words(each)} images" + (f" of {'+'.join(domains)}" if len(domains) > 1 else "")


def _words(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{numbers[name]} {name}" for name in SETS)
