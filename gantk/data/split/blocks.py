"""Hold out runs of neighbouring slices: in one stack, slices side by side are near copies of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gantk.data.items import Record
from gantk.errors import UserError


def hold_out_blocks(
    records: Sequence[Record], shares: dict[str, float], gap: int, blocks: int, seed: int
) -> tuple[dict[str, list[Record]], str]:
    """Sets by blocks, and how that went in words.

    Every stack (one patient, or all images of a class where patients are unknown) gives `blocks` runs to each held-out
    set, spread over its length, or fewer where these would be shorter than 3 slices or leave no room. `gap` neighbours
    on each side are left out of every set. Where pairs are known, the blocks of domain a decide: their partners in b
    are held out with them, and neighbours of these in b's own order are left out too.
    """
    place: dict[int, str] = {}  # id(record) -> set, or "gap"
    for _, stack in sorted(_stacks(records).items()):
        domains = sorted({record.domain for record in stack})
        ordered = {d: sorted((r for r in stack if r.domain == d), key=lambda r: r.position) for d in domains}
        partner = {r.pair: r for r in ordered.get("b", ()) if r.pair is not None}
        paired = any(r.pair in partner for r in ordered.get("a", ()))
        for domain in domains:
            if domain == "b" and paired:
                names = _followers(ordered["a"], ordered["b"], place)
            else:
                # The same seed for both domains: in unpaired stacks of one anatomy the blocks are about the same.
                names = lay_out(len(ordered[domain]), shares, gap, blocks, np.random.default_rng(seed))
            names = _with_gaps(names, gap)
            place |= {id(record): name for record, name in zip(ordered[domain], names, strict=True)}
        if paired:  # neighbours in b's own order, whose partners in a would otherwise still be trained on
            dropped = {record.pair for record in ordered["b"] if place[id(record)] == "gap"} - {None}
            place |= {id(record): "gap" for record in ordered["a"] if record.pair in dropped}
    names = ("train", "validation", "test")
    sets = {name: [record for record in records if place[id(record)] == name] for name in names}
    return sets, _describe(records, place)


def lay_out(count: int, shares: dict[str, float], gap: int, blocks: int, rng: np.random.Generator) -> list[str]:
    """The set of each of `count` slices in order: the stack is cut into segments, each with a test run at a seeded
    place and a validation run beside it, `gap` slices apart."""
    sizes = {name: max(1, round(share * count)) for name, share in shares.items() if share > 0}
    needed = sum(sizes.values()) + gap * (len(sizes) + 1) + 1
    if needed > count:
        asked = " and ".join(f"{name} = {share:g}" for name, share in shares.items() if share)
        raise UserError(
            f"a stack of {count} slices is too short for {asked} with a gap of {gap}",
            where="data.split",
            allowed=f"{needed} slices or more",
            remedy="lower gap, set one of the two shares to 0, or choose by = 'patient' or 'image'",
        )
    # A short stack has no room for all the blocks asked; one of each set always fits.
    for segments in range(blocks, 0, -1):
        names = _runs(count, sizes, gap, segments, rng)
        if names:
            break
    return names


def _runs(count: int, sizes: dict[str, int], gap: int, blocks: int, rng: np.random.Generator) -> list[str] | None:
    """The set of each slice with up to `blocks` runs a set, or None where a segment has no room to train on."""
    runs = {name: min(blocks, max(1, size // 3)) for name, size in sizes.items()}
    segments = max(runs.values(), default=1)
    names = ["train"] * count
    for segment in range(segments):
        start, end = round(count * segment / segments), round(count * (segment + 1) / segments)
        held = [(name, _share(sizes[name], runs[name], segment)) for name in runs if segment < runs[name]]
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


def _share(size: int, runs: int, run: int) -> int:
    """How many of `size` slices the run gets."""
    return size // runs + (run < size % runs)


def _followers(a: list[Record], b: list[Record], place: dict[int, str]) -> list[str]:
    """The sets of b's slices: those of their partners in a; neither held out nor trained on where that is a gap."""
    of_pair = {record.pair: place[id(record)] for record in a if record.pair is not None}
    return [of_pair.get(record.pair, "train") for record in b]


def _with_gaps(names: list[str], gap: int) -> list[str]:
    """Training slices within `gap` of a held-out one, in this order, are given to nobody."""
    held = [i for i, name in enumerate(names) if name not in ("train", "gap")]
    near = {j for i in held for j in range(i - gap, i + gap + 1)}
    return ["gap" if name == "train" and i in near else name for i, name in enumerate(names)]


def _stacks(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    stacks: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        stacks[record.subject, "" if record.subject else record.label or ""].append(record)
    return stacks


def _describe(records: Sequence[Record], place: dict[int, str]) -> str:
    lines = []
    for domain in sorted({record.domain for record in records}):
        names = [place[id(record)] for record in records if record.domain == domain]
        count = {name: names.count(name) for name in ("train", "validation", "test", "gap")}
        lines.append(
            f"{domain}: {count['train']} train, {count['validation']} validation, {count['test']} test, "
            f"{count['gap']} left out beside them"
        )
    return "by blocks of neighbouring slices; " + "; ".join(lines)
