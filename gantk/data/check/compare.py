"""Images that are not what they are called: of the other contrast, or one picture under two names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from gantk.data.check.findings import ENOUGH, MOST, SHOWN, Problem, counted, named
from gantk.data.check.inspect import Inspected
from gantk.data.near_duplicates import SIDE, near_copies
from gantk.data.sources.file_names import CONTRASTS, one_word


def wrong_contrast(items: Sequence[Inspected], domains: Sequence[str]) -> list[Problem]:
    """Images that look, or are called, like the other domain's.

    By looks where each domain has 12 images or more and the two can be told apart at all: an image is odd of which the
    third nearest neighbour in the other domain is nearer by a fifth than that in its own, patients of its own aside.
    By name where a DICOM header's description, or its echo time, speaks against the domain.
    """
    found = []
    for domain, other in zip(domains, domains[::-1], strict=False):
        odd = [item for item in items if item.domains == [domain] and _speaks_against(item, domain)]
        for item in odd:
            what = f"'{item.name}' is in {domain}, and its header says {_header(item)}"
            found.append(Problem("contrast", "warning", what, (item.name,), f"is it {other}? Look at it"))
    told = {name for problem in found for name in problem.files}
    by_looks = [name for name in _odd_looks(items, domains) if name[0].name not in told]
    for domain in domains:
        names = tuple(item.name for item, of in by_looks if of == domain)
        other = next((name for name in domains if name != domain), "")
        if names:
            looks, them = ("looks", "it") if len(names) == 1 else ("look", "them")
            what = f"{counted(names, 'image', 'images')} of {domain} {looks} like {other}: {named(names)}"
            found.append(Problem("contrast", "warning", what, names, f"look at {them}, and move what is {other}"))
    return found


def _odd_looks(items: Sequence[Inspected], domains: Sequence[str]) -> list[tuple[Inspected, str]]:
    if len(domains) != 2:
        return []
    sides = [
        [i for i in items if i.domains == [domain] and i.seen and i.seen.thumbnails is not None] for domain in domains
    ]
    views = {item.seen.thumbnails.shape[1] for side in sides for item in side}
    if min(map(len, sides)) < ENOUGH or len(views) > 1:
        return []
    traits = [np.stack([_traits(item.seen.thumbnails) for item in side]) for side in sides]
    ratios = [
        _nearness(traits[k], traits[1 - k], [i.patient for i in sides[k]], [i.patient for i in sides[1 - k]])
        for k in (0, 1)
    ]
    if max(np.median(ratio) for ratio in ratios) > -0.4:  # the two look alike altogether
        return []
    odd = [(sides[k][i], domains[k]) for k in (0, 1) for i in np.flatnonzero(ratios[k] > 0.25)]
    return odd if len(odd) <= (1 - MOST) * min(map(len, sides)) else []


def _traits(thumbnails: np.ndarray) -> np.ndarray:
    """float32 numbers from 0 to 1 by which contrasts differ: brightness shared out over what is in an image, and over
    its places. Native intensities have no part in it."""
    traits = []
    for view in thumbnails[1].astype(np.float32) / 255:
        border = np.concatenate([view[0], view[-1], view[:, 0], view[:, -1]])
        inside = view[np.abs(view - np.median(border)) > 0.1]
        quantiles = np.percentile(inside if inside.size > 50 else view, np.arange(5, 100, 5))
        places = view.reshape(8, SIDE // 8, 8, SIDE // 8).mean(axis=(1, 3))
        traits += [quantiles, places.ravel()]
    return np.concatenate(traits).astype(np.float32)


def _nearness(own: np.ndarray, other: np.ndarray, patients: list[str], others: list[str]) -> np.ndarray:
    """Logarithm of the distance to the third neighbour in the own domain by that in the other one."""
    ratios = np.empty(len(own))
    for i, one in enumerate(own):
        same = [j == i or (patients[i] != "" and patients[i] == patients[j]) for j in range(len(own))]
        same_there = [patients[i] != "" and patients[i] == name for name in others]
        distances = [
            np.sort(np.sqrt(np.mean((all_of[~np.array(left_out)] - one) ** 2, axis=1)))
            for all_of, left_out in ((own, same), (other, same_there))
        ]
        enough = min(map(len, distances)) >= 3
        ratios[i] = np.log(max(distances[0][2], 1e-4) / max(distances[1][2], 1e-4)) if enough else -np.inf
    return ratios


def _speaks_against(item: Inspected, domain: str) -> bool:
    meant, said = CONTRASTS.get(one_word(domain), ""), CONTRASTS.get(item.header_says, item.header_says)
    if meant and said and said != meant and {meant, said} != {"t1", "t1ce"}:
        return meant not in ("mr", "ct", "pet") or said in ("ct", "pet")
    echo, inversion = item.facts.get("echo_time"), item.facts.get("inversion_time")
    if echo is None or not meant or said:
        return False
    return (meant in ("t1", "t1ce", "pd") and echo > 60) or (meant == "t2" and echo < 45 and not inversion)


def _header(item: Inspected) -> str:
    facts = item.facts
    times = [f"TE {facts['echo_time']:g} ms"] if facts.get("echo_time") is not None else []
    return ", ".join(filter(None, [facts.get("description") or facts.get("modality"), *times])) or "otherwise"


def copies_among(items: Sequence[Inspected]) -> list[Problem]:
    """Exact copies of pixels, and near copies of images that are not of one known patient."""
    found = []
    exact: dict[str, list[Inspected]] = defaultdict(list)
    for item in items:
        if item.seen is not None and item.seen.digest:
            exact[item.seen.digest].append(item)
    groups = [group for group in exact.values() if len(group) > 1]
    if groups:
        spare = sum(len(group) - 1 for group in groups)
        shown = "; ".join(" = ".join(f"'{item.name}'" for item in group[:3]) for group in groups[:SHOWN])
        across = [group for group in groups if len({tuple(item.domains) for item in group}) > 1]
        what = f"{spare} {'image is an exact copy' if spare == 1 else 'images are exact copies'} of others: {shown}"
        what += f" and {len(groups) - SHOWN} more" if len(groups) > SHOWN else ""
        what += f"; {counted(across, 'of them is', 'of them are')} in both domains" if across else ""
        names = tuple(item.name for group in groups for item in group)
        found.append(Problem("copies", "warning", what, names, "remove the copies"))
    firsts = [group[0] for group in exact.values()]
    near = near_copies([item.seen for item in firsts], apart=False)
    if near:
        shown = "; ".join(f"'{firsts[i].name}' and '{firsts[j].name}'" for i, j, _ in near[:SHOWN])
        more = f" and {len(near) - SHOWN} more" if len(near) > SHOWN else ""
        names = tuple(dict.fromkeys(firsts[k].name for i, j, _ in near for k in (i, j)))
        what = f"{len(near)} {'pair is' if len(near) == 1 else 'pairs are'} near copies: {shown}{more}"
        found.append(Problem("near-copies", "warning", what, names, "remove one of each, or keep both on one side"))
    return found
