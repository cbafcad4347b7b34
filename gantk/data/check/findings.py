"""Findings of `data check`: each is a function that compares headers or pixels of images and yields
problems.

A problem is a dict: `kind`, `severity` (an error would spoil a training, a warning may, a note is
good to know), `what` is wrong, the names of the `files` concerned, and a `remedy` or None.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gantk.data.check.inspect import Inspected
from gantk.data.split.near_duplicates import SIDE, background, content_box, near_copies
from gantk.errors import counted
from gantk.formats.contrasts import CONTRASTS, one_word

ENOUGH = 12  # minimum images per domain for finding outliers
NEIGHBOURS = 2_000  # reference images per domain to compare all images with
FEW = 0.25  # largest share of the images that may be reported as outliers
SHOWN = 4  # file names per sentence

Problem = dict[str, Any]


def problem(
    kind: str, severity: str, what: str, files: Sequence[str] = (), remedy: str | None = None
) -> Problem:
    """Build a problem; where `what` ends with a colon, the first few files are named after it."""
    what += f" {listed([repr(file) for file in files])}" if what.endswith(":") else ""
    return {
        "kind": kind,
        "severity": severity,
        "what": what.rstrip("."),
        "files": list(files),
        "remedy": remedy,
    }


def listed(texts: Sequence[str], between: str = ", ") -> str:
    """Join the first few texts, and add the number of the others."""
    return between.join(texts[:SHOWN]) + (
        f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    )


# --- single images

OF_EACH = (  # kind, severity, condition on an image's facts, words, remedy
    (
        "constant",
        "warning",
        lambda facts: facts["constant"],
        "of one value throughout",
        "leave them out",
    ),
    (
        "empty",
        "warning",
        lambda facts: not facts["constant"] and facts["content"] < 0.005,
        "nearly empty, below 0.5 % of the pixels",
        "look at them, or leave them out",
    ),
    (
        "empty",
        "note",
        lambda facts: (
            not facts["constant"] and 2 * facts.get("empty_planes", 0) > facts["shape"][0]
        ),
        "empty in more than half of the planes",
        "take fewer planes: data.source.planes",
    ),
    (
        "lossy",
        "note",
        lambda facts: facts["lossy"],
        "saved with losses (JPEG), which networks imitate",
        "use the originals where there are any",
    ),
)


def broken(items: Sequence[Inspected]) -> Iterator[Problem]:
    """One error for every image that cannot be read, with the reader's message."""
    for item in items:
        if item.error is not None:
            kind = "not-finite" if "not finite" in item.error.what else "unreadable"
            yield problem(kind, "error", item.error.what, [item.name], item.error.remedy)


def about_each(items: Sequence[Inspected]) -> Iterator[Problem]:
    """Finds constant, nearly empty and lossy images, and passes on the readers' remarks."""
    for kind, severity, is_so, words, remedy in OF_EACH:
        names = [item.name for item in items if is_so(item.facts)]
        if names:
            yield problem(kind, severity, f"{counted(names, 'image')} {words}:", names, remedy)
    for remark in dict.fromkeys(remark for item in items for remark in item.remarks):
        names = [item.name for item in items if remark in item.remarks]
        lacking = re.search(r"\blacks\b|slices are missing", remark)
        yield problem(
            "slices" if lacking else "remark", "warning" if lacking else "note", f"{remark}:", names
        )


# --- images that differ from the others of their domain

UNLIKE = (  # kind, severity, function from an image's facts to a value or None, words, remedy
    (
        "planes",
        "warning",
        lambda facts: None if facts["plane"] == "any" else facts["plane"],
        "lie in different planes",
        "keep one plane, or choose it by data.plane",
    ),
    (
        "dimensions",
        "warning",
        lambda facts: "picture" if len(facts["shape"]) == 2 else "volume",
        "are pictures and volumes",
        "keep one kind",
    ),
    (
        "size",
        "note",
        lambda facts: "of " + " x ".join(map(str, facts["shape"])),
        "have several sizes",
        "see data.fit for how they are fitted",
    ),
    (
        "channels",
        "error",
        lambda facts: f"with {facts['channels']}",
        "differ in their channels, which no network takes",
        "set data.source.channels = 1 (gray) or 3 (colour)",
    ),
    (
        "type",
        "note",
        lambda facts: facts["dtype"] or "unknown",
        "are stored in different types",
        "check that their intensities mean the same",
    ),
)
PER_VOLUME = (
    'convert them alike, or map each scan on its own: intensity = { name = "percentile", per ='
    ' "volume" }'
)
# kind, function from an image's facts to numbers or None, largest ratio to the median, words,
# remedy
FAR = (
    ("spacing", lambda facts: facts["spacing"], 1.2, "mm", "set data.spacing, or leave them out"),
    (
        "scale",
        lambda facts: (
            [facts["range"][1] - facts["range"][0]]
            if facts["range"][1] > facts["range"][0]
            else None
        ),
        8.0,
        "wide",
        PER_VOLUME,
    ),
)


def unlike(items: Sequence[Inspected], of: str) -> Iterator[Problem]:
    """Finds planes, dimensions, sizes, channels and types that differ between images of a domain."""
    for kind, severity, value, words, remedy in UNLIKE:
        values = {item.name: each for item in items if (each := value(item.facts)) is not None}
        counts = Counter(values.values()).most_common()
        if len(counts) > 1:
            spread = listed([f"{count} {each}" for each, count in counts])
            odd = [name for name, each in values.items() if each != counts[0][0]]
            yield problem(kind, severity, f"images{of} {words} ({spread}):", odd, remedy)


def far(items: Sequence[Inspected], of: str) -> Iterator[Problem]:
    """Finds spacings and intensity ranges that are far from the domain's median."""
    for kind, value, ratio, words, remedy in FAR:
        for dims in (1, 2, 3):
            some = [item for item in items if len(value(item.facts) or ()) == dims]
            values = np.array([value(item.facts) for item in some]).reshape(-1, dims)
            usual = np.median(values, axis=0) if some else values
            odd = [
                i
                for i, each in enumerate(values)
                if (np.abs(np.log(each / usual)) > np.log(ratio)).any()
            ]
            if odd:
                severity = "warning" if len(some) >= 4 and len(odd) <= FEW * len(some) else "note"
                first, most = (
                    " x ".join(f"{number:.3g}" for number in numbers)
                    for numbers in (values[odd[0]], usual)
                )
                what = (
                    f"{counted(odd, 'image')}{of} with another {kind} ({first} against {most}"
                    f" {words}):"
                )
                yield problem(kind, severity, what, [some[i].name for i in odd], remedy)


def from_the_side(items: Sequence[Inspected], of: str) -> Iterator[Problem]:
    """Finds pictures that may be sagittal: wider and less symmetric than the others. (Pictures
    state no plane.)
    """
    items = [
        item for item in items if item.facts["plane"] is None and len(item.facts["shape"]) == 2
    ]
    items = [item for item in items if item.seen.thumbnails is not None]
    if len(items) < ENOUGH:
        return
    frames, contents = np.float32([item.seen.thumbnails[:, 0] for item in items]).swapaxes(0, 1)
    symmetry = np.array([np.corrcoef(one.ravel(), one[:, ::-1].ravel())[0, 1] for one in contents])
    # height and width of the content
    boxes = np.diff([content_box(frame / 255) for frame in frames])[..., 0] / SIDE
    height, width = (boxes * [item.facts["shape"] for item in items]).T
    area = boxes.prod(axis=1)
    aspect = height / width
    # Most must be axial. Small contents are left out: the lowest and highest slices of a head have
    # any shape.
    odd = (symmetry < 0.62) & (aspect < np.median(aspect) / 1.25) & (area > np.median(area) / 2)
    odd &= np.median(symmetry) >= 0.7 and np.median(aspect) >= 1.05
    names = [item.name for item, is_odd in zip(items, odd, strict=True) if is_odd]
    if 0 < len(names) <= FEW * len(items):
        what = (
            f"{counted(names, 'picture')}{of} may be sagittal, wider and less symmetric than the"
            " axial others:"
        )
        remedy = (
            "look at them: pictures do not say their plane, and coronal ones cannot be told from"
            " axial ones"
        )
        yield problem("planes", "warning", what, names, remedy)


# --- images in the wrong domain


def wrong_contrast(items: Sequence[Inspected], domains: Sequence[str]) -> Iterator[Problem]:
    """Finds images that belong to the other domain by their DICOM header or by their appearance."""
    odd = _look_like_the_other(items, domains)
    for domain, other in zip(domains, domains[::-1], strict=False):
        own = [item for item in items if item.domains == [domain]]
        for item in (item for item in own if _header_contradicts(item, domain)):
            said = item.facts.get("description") or item.facts.get("modality") or "otherwise"
            said += (
                f", TE {item.facts['echo_time']:g} ms"
                if item.facts.get("echo_time") is not None
                else ""
            )
            what = f"'{item.name}' is in {domain}, and its header says {said}"
            yield problem("contrast", "warning", what, [item.name], f"is it {other}? Look at it")
        names = [item.name for item in own if item in odd and not _header_contradicts(item, domain)]
        if names:
            what = f"{counted(names, 'image')} of {domain} that may look like {other}:"
            yield problem(
                "contrast", "warning", what, names, f"look at them, and move what is {other}"
            )


def _header_contradicts(item: Inspected, domain: str) -> bool:
    meant = CONTRASTS.get(one_word(domain), "")
    said = CONTRASTS.get(item.header_says, item.header_says)
    if meant and said and said != meant and {meant, said} != {"t1", "t1ce"}:
        return meant not in ("mr", "ct", "pet") or said in ("ct", "pet")
    echo = item.facts.get("echo_time")
    inversion = item.facts.get("inversion_time")
    if echo is None or not meant or said:
        return False
    return (meant in ("t1", "t1ce", "pd") and echo > 60) or (
        meant == "t2" and echo < 45 and not inversion
    )


def _look_like_the_other(items: Sequence[Inspected], domains: Sequence[str]) -> list[Inspected]:
    """Images whose third nearest neighbour is nearer by a fifth in the other domain than in their
    own.

    Neighbours are of other patients. [] where a domain has fewer than 12 images or the domains look
    alike.
    """
    items = [item for item in items if item.domains in [[name] for name in domains]]
    items = [item for item in items if item.seen is not None and item.seen.thumbnails is not None]
    first = np.array([item.domains == [domains[0]] for item in items], dtype=bool)
    views = {item.seen.thumbnails.shape for item in items}
    smaller = min(first.sum(), (~first).sum())
    if len(domains) != 2 or smaller < ENOUGH or len(views) > 1:
        return []

    neighbours = np.concatenate([_every_nth(np.flatnonzero(side)) for side in (first, ~first)])
    features = np.stack([_contrast_features(item.seen.thumbnails) for item in items])
    distance = _distances(features, neighbours)
    patients = np.unique([item.patient or item.name for item in items], return_inverse=True)[1]
    distance[patients[:, None] == patients[neighbours]] = np.inf

    log_ratio = np.full(len(items), -np.inf)  # own distance over that to the other domain
    for side in (first, ~first):
        own = _third_smallest(distance[side][:, side[neighbours]])
        other = _third_smallest(distance[side][:, ~side[neighbours]])
        known = np.isfinite(own + other)
        log_ratio[np.flatnonzero(side)[known]] = np.log(own[known] / other[known])
        if np.median(log_ratio[side]) > -0.4:  # the two domains look alike
            return []
    odd = [item for item, ratio in zip(items, log_ratio, strict=True) if ratio > 0.25]
    return odd if len(odd) <= FEW * smaller else []


def _every_nth(places: np.ndarray) -> np.ndarray:
    """At most NEIGHBOURS of the places, at equal steps."""
    return places[:: -(-len(places) // NEIGHBOURS)]


def _distances(features: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    """(N, M) root mean square distances of N feature vectors to the M that `neighbours` names."""
    # smaller numbers lose less precision in the differences of squares
    features = features - features.mean(axis=0)
    squares = (features**2).mean(axis=1)
    products = features @ features[neighbours].T
    distance = squares[:, None] + squares[neighbours] - 2 / features.shape[1] * products
    return np.sqrt(np.maximum(distance, 1e-8))


def _third_smallest(distance: np.ndarray) -> np.ndarray:
    """The third smallest value of each row."""
    return np.partition(distance, 2, axis=1)[:, 2]


def _contrast_features(thumbnails: np.ndarray) -> np.ndarray:
    """float32 features from 0 to 1 by which contrasts differ: quantiles of the content's
    brightness, and the mean brightness of 8 x 8 blocks. Independent of the native intensities'
    scale.
    """
    traits = []
    for view in thumbnails[1].astype(np.float32) / 255:
        inside = view[np.abs(view - background(view)) > 0.1]
        quantiles = np.percentile(inside if inside.size > 50 else view, np.arange(5, 100, 5))
        places = view.reshape(8, SIDE // 8, 8, SIDE // 8).mean(axis=(1, 3))
        traits += [quantiles, places.ravel()]
    return np.concatenate(traits).astype(np.float32)


# --- copies


def copies(items: Sequence[Inspected]) -> Iterator[Problem]:
    """Finds exact copies of pixels, and near copies of images that are not of one known patient."""
    exact: dict[str, list[Inspected]] = defaultdict(list)
    for item in items:
        if item.seen is not None and item.seen.digest:
            exact[item.seen.digest].append(item)
    groups = [group for group in exact.values() if len(group) > 1]
    if groups:
        yield _exact_copies(groups)

    firsts = [group[0] for group in exact.values()]
    near = []
    for i, j, _ in near_copies([item.seen for item in firsts]):
        near.append((firsts[i].name, firsts[j].name))
    if near:
        pairs = listed([f"{one!r} and {other!r}" for one, other in near], "; ")
        what = f"{counted(near, 'pair')} of near copies: {pairs}"
        names = list(dict.fromkeys(name for pair in near for name in pair))
        remedy = "remove one of each, or keep both on one side"
        yield problem("near-copies", "warning", what, names, remedy)


def _exact_copies(groups: Sequence[Sequence[Inspected]]) -> Problem:
    """The problem of groups of images with equal pixels."""
    spare = sum(len(group) - 1 for group in groups)
    across = 0
    names = []
    equations = []
    for group in groups:
        across += len({tuple(item.domains) for item in group}) > 1
        names += [item.name for item in group]
        equations.append(" = ".join(repr(item.name) for item in group[:3]))
    what = (
        f"{counted(spare, 'image')} of which the pixels are another's too, {across} across"
        f" domains: {listed(equations, '; ')}"
    )
    return problem("copies", "warning", what, names, "remove the copies")
