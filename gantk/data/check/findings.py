"""Findings of `data check`: each compares headers or pixels of images and yields a Problem."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gantk.data.check.inspect import Inspected
from gantk.data.split.near_duplicates import SIDE, near_copies
from gantk.formats.contrasts import CONTRASTS, one_word

ENOUGH = 12  # images of each domain from which on statistics tell an odd one out
FEW = 0.25  # share of the images up to which those that differ from the others are called odd
SHOWN = 4  # files that a sentence names


@dataclass(frozen=True)
class Problem:
    """One finding: an error would spoil a training, a warning may, a note is good to know."""

    kind: str
    severity: str  # "error", "warning" or "note"
    what: str
    files: tuple[str, ...] = ()
    remedy: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As the result of a check holds it."""
        return asdict(self) | {"files": list(self.files)}


def named(names: Iterable[str]) -> str:
    """The first of some names, quoted, and how many more there are."""
    names = list(names)
    return _shortened([f"'{name}'" for name in names], ", ")


def counted(names: Sequence[Hashable], one: str, many: str) -> str:
    """`1 image is`, `3 images are`."""
    return f"{len(names)} {one if len(names) == 1 else many}"


def _shortened(texts: Sequence[str], between: str) -> str:
    return between.join(texts[:SHOWN]) + (f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")


def broken(items: Sequence[Inspected]) -> Iterator[Problem]:
    """One error for every image that cannot be read, with the reader's own message."""
    for item in items:
        if item.error is not None:
            kind = "not-finite" if "not finite" in item.error.what else "unreadable"
            yield Problem(kind, "error", item.error.what.rstrip("."), (item.name,), item.error.remedy)


def about_each(items: Sequence[Inspected]) -> Iterator[Problem]:
    """Images without contrast, nearly empty ones, lossy ones, and what their readers remarked."""
    for kind, severity, is_so, one, many, remedy in (
        ("constant", "warning", lambda facts: facts["constant"],
         "image holds one value throughout", "images hold one value throughout", "leave them out"),
        ("empty", "warning", lambda facts: not facts["constant"] and facts["content"] < 0.005,
         "image is nearly empty, below 0.5 % of the pixels", "images are nearly empty, below 0.5 % of the pixels",
         "look at them, or leave them out"),
        ("empty", "note", lambda facts: not facts["constant"] and 2 * facts.get("empty_planes", 0) > facts["shape"][0],
         "volume is empty in more than half of the planes", "volumes are empty in more than half of the planes",
         "take fewer planes: data.source.planes"),
        ("lossy", "note", lambda facts: facts["lossy"],
         "image was saved with losses (JPEG), which networks imitate",
         "images were saved with losses (JPEG), which networks imitate", "use the originals where there are any"),
    ):  # fmt: skip
        names = tuple(item.name for item in items if is_so(item.facts))
        if names:
            yield Problem(kind, severity, f"{counted(names, one, many)}: {named(names)}", names, remedy)
    remarks: dict[str, list[str]] = defaultdict(list)
    for item in items:
        for remark in item.remarks:
            remarks[remark].append(item.name)
    for remark, names in remarks.items():
        yield Problem("remark", "note", f"{named(names)}: {remark}", tuple(names))


def odd_ones(items: Sequence[Inspected], domain: str) -> Iterator[Problem]:
    """What does not fit the other images of one domain: plane, spacing, size, type, scale of intensities."""
    of = f" of {domain}" if domain else ""
    slices = [item for item in items if item.facts["plane"] not in (None, "any")]
    for some, value, kind, severity, what, remedy in (
        (slices, lambda facts: facts["plane"], "planes", "warning", f"slices{of} lie in different planes",
         "keep one plane, or choose it by data.plane"),
        (items, lambda facts: "picture" if len(facts["shape"]) == 2 else "volume", "dimensions", "warning",
         f"images{of} are pictures and volumes", "keep one kind"),
        (items, lambda facts: "of " + " x ".join(map(str, facts["shape"])), "size", "note",
         f"images{of} have several sizes", "see data.fit for how they are fitted"),
        (items, lambda facts: f"with {facts['channels']}", "channels", "error",
         f"images{of} differ in their channels, which no network takes",
         "set data.source.channels = 1 (gray) or 3 (colour)"),
        (items, lambda facts: facts["dtype"] or "unknown", "type", "note",
         f"images{of} are stored in different types", "check that their intensities mean the same"),
    ):  # fmt: skip
        counts = Counter(value(item.facts) for item in some)
        if len(counts) > 1:  # how often each value is there, and which images do not have the most frequent
            usual = counts.most_common(1)[0][0]
            odd = tuple(item.name for item in some if value(item.facts) != usual)
            spread = _shortened([f"{count} {each}" for each, count in counts.most_common()], ", ")
            yield Problem(kind, severity, f"{what} ({spread}): {named(odd)}", odd, remedy)
    yield from _pictures_seen_from_the_side(items, of)
    yield from _spacings(items, of)
    yield from _scales(items, of)


def _pictures_seen_from_the_side(items: Sequence[Inspected], of: str) -> Iterator[Problem]:
    """Pictures, which say no plane, that are wider and less symmetric than the others may be sagittal."""
    pictures = [item for item in items if item.facts["plane"] is None and item.symmetry is not None]
    if len(pictures) < ENOUGH:
        return
    aspect = np.array([item.extent[0] / item.extent[1] for item in pictures])
    area = np.array([item.extent[0] * item.extent[1] / np.prod(item.facts["shape"]) for item in pictures])
    symmetry = np.array([item.symmetry for item in pictures])
    if np.median(symmetry) < 0.7 or np.median(aspect) < 1.05:  # most are not seen from above
        return
    # The lowest and highest slices of a head are small, and of any shape.
    odd = (symmetry < 0.62) & (aspect < np.median(aspect) / 1.25) & (area > np.median(area) / 2)
    names = tuple(item.name for item, is_odd in zip(pictures, odd, strict=True) if is_odd)
    if 0 < len(names) <= FEW * len(pictures):
        what = (
            f"{counted(names, 'picture', 'pictures')}{of} may be sagittal, or stretched: wider and less symmetric than "
        )
        remedy = "look at them: pictures do not say their plane, and coronal ones cannot be told from axial ones"
        yield Problem("planes", "warning", f"{what}the others, which look axial: {named(names)}", names, remedy)


def _spacings(items: Sequence[Inspected], of: str) -> Iterator[Problem]:
    for dims in (2, 3):
        some = [item for item in items if len(item.facts["spacing"] or ()) == dims]
        spacing = np.array([item.facts["spacing"] for item in some])
        if len(some) < 2:
            continue
        usual = np.median(spacing, axis=0)
        odd = [i for i in some if (np.abs(np.log(np.array(i.facts["spacing"]) / usual)) > np.log(1.2)).any()]
        names = tuple(item.name for item in odd)
        if len(some) >= 4 and 0 < len(odd) <= FEW * len(some):
            what = f"{counted(odd, 'image', 'images')}{of} with another spacing than most "
            what += f"({_mm(odd[0].facts['spacing'])} against {_mm(usual)} mm): {named(names)}"
            yield Problem("spacing", "warning", what, names, "set data.spacing, or leave them out")
        elif odd:
            spread = f"from {_mm(spacing.min(axis=0))} to {_mm(spacing.max(axis=0))} mm"
            what, names = f"images{of} have different spacings: {spread}", tuple(item.name for item in some)
            yield Problem("spacing", "note", what, names, "set data.spacing to bring volumes to one")


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing)


def _scales(items: Sequence[Inspected], of: str) -> Iterator[Problem]:
    """Images of which the range is 8 times as wide as the others', or an eighth: 8-bit among 12-bit."""
    # 99 % of a nearly empty image are background
    widths = {item: item.facts["range"][1] - item.facts["range"][0] for item in items if not item.facts["constant"]}
    widths = {item: width for item, width in widths.items() if width > 1e-9}
    usual = np.median(list(widths.values())) if widths else 0.0
    odd = [item for item, width in widths.items() if not 1 / 8 < width / usual < 8]
    if len(widths) >= 4 and 0 < len(odd) <= FEW * len(widths):
        names, (low, high) = tuple(item.name for item in odd), odd[0].facts["range"]
        what = f"{counted(odd, 'image', 'images')}{of} with intensities on another scale ({low:g} to {high:g}, "
        remedy = 'convert them alike, or map each scan on its own: intensity = { name = "percentile", per = "volume" }'
        yield Problem("scale", "warning", f"{what}where {usual:g} is a usual range): {named(names)}", names, remedy)


# --- images that are not what they are called


def wrong_contrast(items: Sequence[Inspected], domains: Sequence[str]) -> Iterator[Problem]:
    """Images that look, or are called, like the other domain's.

    By name where a DICOM header's description, or its echo time, speaks against the domain; of the others by pixels.
    """
    by_header = set()
    for domain, other in zip(domains, domains[::-1], strict=False):
        for item in (item for item in items if item.domains == [domain] and _speaks_against(item, domain)):
            by_header.add(item.name)
            what = f"'{item.name}' is in {domain}, and its header says {_header(item)}"
            yield Problem("contrast", "warning", what, (item.name,), f"is it {other}? Look at it")
    odd = _look_like_the_other(items, domains)
    for domain, other in zip(domains, domains[::-1], strict=False):
        names = tuple(item.name for item in odd if item.domains == [domain] and item.name not in by_header)
        if names:
            what = (
                f"{counted(names, 'image', 'images')} of {domain} {'looks' if len(names) == 1 else 'look'} like {other}"
            )
            remedy = f"look at {'it' if len(names) == 1 else 'them'}, and move what is {other}"
            yield Problem("contrast", "warning", f"{what}: {named(names)}", names, remedy)


def _look_like_the_other(items: Sequence[Inspected], domains: Sequence[str]) -> list[Inspected]:
    """Images of which the third nearest neighbour in the other domain is nearer by a fifth than that in their own.

    Patients of their own aside, where each domain has 12 images and the two can be told apart at all.
    """
    from scipy.spatial.distance import cdist

    known = [item for item in items if item.seen is not None and item.seen.thumbnails is not None]
    sides = [[item for item in known if item.domains == [domain]] for domain in domains]
    views = {item.seen.thumbnails.shape for side in sides for item in side}
    if len(sides) != 2 or min(map(len, sides)) < ENOUGH or len(views) > 1:
        return []
    traits = [np.stack([_traits(item.seen.thumbnails) for item in side]) for side in sides]
    odd, apart = [], []
    for own, other in ((0, 1), (1, 0)):
        third = []
        for side in (own, other):
            distance = cdist(traits[own], traits[side]) / np.sqrt(traits[own].shape[1])
            for row, item in enumerate(sides[own]):
                same = [each is item or (each.patient and each.patient == item.patient) for each in sides[side]]
                distance[row, np.array(same, dtype=bool)] = np.inf
            third.append(np.maximum(np.sort(distance, axis=1)[:, 2], 1e-4))
        ratio = np.full(len(sides[own]), -np.inf)
        enough = np.isfinite(third[0]) & np.isfinite(third[1])
        ratio[enough] = np.log(third[0][enough] / third[1][enough])
        apart.append(np.median(ratio) <= -0.4)
        odd += [item for item, by in zip(sides[own], ratio, strict=True) if by > 0.25]
    return odd if all(apart) and len(odd) <= FEW * min(map(len, sides)) else []


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


def copies_among(items: Sequence[Inspected]) -> Iterator[Problem]:
    """Exact copies of pixels, and near copies of images that are not of one known patient."""
    exact: dict[str, list[Inspected]] = defaultdict(list)
    for item in items:
        if item.seen is not None and item.seen.digest:
            exact[item.seen.digest].append(item)
    groups = [group for group in exact.values() if len(group) > 1]
    if groups:
        spare = [item for group in groups for item in group[1:]]
        shown = _shortened([" = ".join(f"'{item.name}'" for item in group[:3]) for group in groups], "; ")
        what = f"{counted(spare, 'image is an exact copy', 'images are exact copies')} of others: {shown}"
        across = [group for group in groups if len({tuple(item.domains) for item in group}) > 1]
        what += f"; {counted(across, 'of them is', 'of them are')} in both domains" if across else ""
        names = tuple(item.name for group in groups for item in group)
        yield Problem("copies", "warning", what, names, "remove the copies")
    firsts = [group[0] for group in exact.values()]
    near = [(firsts[i].name, firsts[j].name) for i, j, _ in near_copies([i.seen for i in firsts], apart=False)]
    if near:
        shown = _shortened([f"'{one}' and '{other}'" for one, other in near], "; ")
        what = f"{counted(near, 'pair is', 'pairs are')} near copies: {shown}"
        names = tuple(dict.fromkeys(name for pair in near for name in pair))
        yield Problem("near-copies", "warning", what, names, "remove one of each, or keep both on one side")
