"""What is wrong with images, told from how they differ from the others of their domain."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gantk.data.check.inspect import Inspected

ENOUGH = 12  # images of each domain from which on statistics tell an odd one out
MOST = 0.75  # share that has to agree before the others are called odd
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
        return {
            "kind": self.kind,
            "severity": self.severity,
            "what": self.what,
            "files": list(self.files),
            "remedy": self.remedy,
        }


def named(names: Iterable[str]) -> str:
    """The first of some names, quoted, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:SHOWN]) + more


def broken(items: Sequence[Inspected]) -> list[Problem]:
    """One error for every image that cannot be read, with the reader's own message."""
    return [
        Problem(
            "not-finite" if "not finite" in item.error.what else "unreadable",
            "error",
            item.error.what.rstrip("."),
            (item.name,),
            item.error.remedy,
        )
        for item in items
        if item.error is not None
    ]


def about_each(items: Sequence[Inspected]) -> list[Problem]:
    """Images without contrast, nearly empty ones, lossy ones, and what their readers remarked."""
    constant = [item.name for item in items if item.facts["constant"]]
    empty = [item.name for item in items if not item.facts["constant"] and item.facts["content"] < 0.005]
    lossy = [item.name for item in items if item.facts["lossy"]]
    hollow = [
        i.name for i in items if not i.facts["constant"] and 2 * i.facts.get("empty_planes", 0) > i.facts["shape"][0]
    ]
    found = []
    if constant:
        what = f"{counted(constant, 'image holds', 'images hold')} one value throughout: {named(constant)}"
        found.append(Problem("constant", "warning", what, tuple(constant), "leave them out"))
    if empty:
        what = f"{counted(empty, 'image is', 'images are')} nearly empty, below 0.5 % of the pixels: {named(empty)}"
        found.append(Problem("empty", "warning", what, tuple(empty), "look at them, or leave them out"))
    if hollow:
        what = f"{counted(hollow, 'volume is', 'volumes are')} empty in more than half of the planes: {named(hollow)}"
        remedy = "take fewer planes: data.source.planes"
        found.append(Problem("empty", "note", what, tuple(hollow), remedy))
    if lossy:
        what = f"{counted(lossy, 'image was', 'images were')} saved with losses (JPEG), which networks learn to imitate"
        found.append(Problem("lossy", "note", what, tuple(lossy), "use the originals where there are any"))
    said: dict[str, list[str]] = defaultdict(list)
    for item in items:
        for remark in item.remarks:
            said[remark].append(item.name)
    found += [Problem("remark", "note", f"{named(names)}: {remark}", tuple(names)) for remark, names in said.items()]
    return found


def odd_ones(items: Sequence[Inspected], domain: str) -> list[Problem]:
    """What does not fit the other images of one domain: plane, spacing, size, type, scale of intensities."""
    of = f" of {domain}" if domain else ""
    return [
        *_planes(items, of),
        *_pictures_planes(items, of),
        *_spacings(items, of),
        *_sizes(items, of),
        *_kinds(items, of),
        *_scales(items, of),
    ]


def _planes(items: Sequence[Inspected], of: str) -> list[Problem]:
    planes = {item.name: item.facts["plane"] for item in items if item.facts["plane"] not in (None, "any")}
    counts = Counter(planes.values())
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    odd = [name for name, plane in planes.items() if plane != usual]
    spread = ", ".join(f"{count} {plane}" for plane, count in counts.most_common())
    what = f"slices{of} lie in different planes ({spread}): {named(odd)}"
    return [Problem("planes", "warning", what, tuple(odd), "keep one plane, or choose it by data.plane")]


def _pictures_planes(items: Sequence[Inspected], of: str) -> list[Problem]:
    """Pictures that know no plane: those that are wider and less symmetric than most may be seen from the side."""
    pictures = [item for item in items if item.facts["plane"] is None and item.mirror is not None]
    if len(pictures) < ENOUGH:
        return []
    aspect = np.array([item.extent[0] / item.extent[1] for item in pictures])
    size = np.array([item.extent[0] * item.extent[1] / np.prod(item.facts["shape"]) for item in pictures])
    mirror = np.array([item.mirror for item in pictures])
    if np.median(mirror) < 0.7 or np.median(aspect) < 1.05:  # most are not seen from above
        return []
    # The lowest and highest slices of a head are small, and of any shape.
    odd = (mirror < 0.62) & (aspect < np.median(aspect) / 1.25) & (size > np.median(size) / 2)
    names = tuple(item.name for item, is_odd in zip(pictures, odd, strict=True) if is_odd)
    if not names or len(names) > (1 - MOST) * len(pictures):
        return []
    what = (
        f"{counted(names, 'picture', 'pictures')}{of} may be sagittal, or stretched: wider and less symmetric than the "
        f"others, which look axial: {named(names)}"
    )
    remedy = "look at them: pictures do not say their plane, and coronal ones cannot be told from axial ones"
    return [Problem("planes", "warning", what, names, remedy)]


def _spacings(items: Sequence[Inspected], of: str) -> list[Problem]:
    known = [item for item in items if item.facts["spacing"]]
    found = []
    for dims in (2, 3):
        some = [item for item in known if len(item.facts["spacing"]) == dims]
        if len(some) < 2:
            continue
        spacing = np.array([item.facts["spacing"] for item in some])
        usual = np.median(spacing, axis=0)
        far = (np.abs(np.log(spacing / usual)) > np.log(1.2)).any(axis=1)
        odd = tuple(item.name for item, is_far in zip(some, far, strict=True) if is_far)
        if not odd:
            continue
        if len(some) >= 4 and len(odd) <= (1 - MOST) * len(some):
            first = next(item for item, is_far in zip(some, far, strict=True) if is_far)
            what = (
                f"{counted(odd, 'image', 'images')}{of} {'have' if len(odd) > 1 else 'has'} another spacing than most "
                f"({_mm(first.facts['spacing'])} against {_mm(usual)} mm): {named(odd)}"
            )
            found.append(Problem("spacing", "warning", what, odd, "set data.spacing, or leave them out"))
        else:
            low, high = spacing.min(axis=0), spacing.max(axis=0)
            what = f"images{of} have different spacings: from {_mm(low)} to {_mm(high)} mm"
            names = tuple(item.name for item in some)
            found.append(Problem("spacing", "note", what, names, "set data.spacing to bring volumes to one"))
    return found


def _sizes(items: Sequence[Inspected], of: str) -> list[Problem]:
    dims = Counter(len(item.facts["shape"]) for item in items)
    found = []
    if len(dims) > 1:
        few = 2 if dims[2] < dims[3] else 3
        names = tuple(item.name for item in items if len(item.facts["shape"]) == few)
        each = f"{counted(range(dims[2]), 'picture', 'pictures')} and {counted(range(dims[3]), 'volume', 'volumes')}"
        what = f"images{of} are {each}: {named(names)}"
        found.append(Problem("dimensions", "warning", what, names, "keep one kind"))
    shapes = Counter(tuple(item.facts["shape"]) for item in items)
    shape, count = shapes.most_common(1)[0] if shapes else ((), 0)
    odd = tuple(item.name for item in items if tuple(item.facts["shape"]) != shape)
    if len(items) >= ENOUGH and 0 < len(odd) <= (1 - MOST) * len(items):
        what = f"{counted(odd, 'image', 'images')}{of} {'have' if len(odd) > 1 else 'has'} another size than most: "
        found.append(Problem("size", "note", f"{what}{named(odd)}", odd, "see data.fit for how they are fitted"))
    elif odd:
        what = f"images{of} have {len(shapes)} sizes, {_sides(min(shapes))} to {_sides(max(shapes))}"
        found.append(Problem("size", "note", what, (), "see data.fit for how they are fitted"))
    return found


def _kinds(items: Sequence[Inspected], of: str) -> list[Problem]:
    found = []
    channels = Counter(item.facts["channels"] for item in items)
    if len(channels) > 1:
        few = min(channels, key=lambda number: (channels[number], number))
        names = tuple(item.name for item in items if item.facts["channels"] == few)
        spread = " and ".join(f"{count} with {number}" for number, count in channels.most_common())
        what = f"images{of} differ in their channels ({spread}), which no network takes: {named(names)}"
        remedy = "set data.source.channels = 1 (gray) or 3 (colour)"
        found.append(Problem("channels", "error", what, names, remedy))
    kinds = Counter(_type(item) for item in items)
    if len(kinds) > 1:
        usual = kinds.most_common(1)[0][0]
        names = tuple(item.name for item in items if _type(item) != usual)
        spread = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        what = f"images{of} are stored in different types ({spread}): {named(names)}"
        found.append(Problem("type", "note", what, names, "check that their intensities mean the same"))
    return found


def _scales(items: Sequence[Inspected], of: str) -> list[Problem]:
    """Images of which the range is 8 times as wide as the others', or an eighth: 8-bit among 12-bit."""
    some = [item for item in items if not item.facts["constant"]]
    width = np.array([max(item.facts["range"][1] - item.facts["range"][0], 1e-12) for item in some])
    # 99 % of a nearly empty image are background
    some, width = [i for i, w in zip(some, width, strict=True) if w > 1e-9], width[width > 1e-9]
    if len(some) < 4:
        return []
    times = width / np.median(width)
    odd = tuple(item.name for item, by in zip(some, times, strict=True) if not 1 / 8 < by < 8)
    if not odd or len(odd) > (1 - MOST) * len(some):
        return []
    first = next(i for i, by in zip(some, times, strict=True) if not 1 / 8 < by < 8)
    what = (
        f"{counted(odd, 'image', 'images')}{of} {'have' if len(odd) > 1 else 'has'} intensities on another scale "
        f"({first.facts['range'][0]:g} to {first.facts['range'][1]:g}, where {np.median(width):g} is a usual range): "
        f"{named(odd)}"
    )
    remedy = 'convert them alike, or map each scan on its own: intensity = { name = "percentile", per = "volume" }'
    return [Problem("scale", "warning", what, odd, remedy)]


def _type(item: Inspected) -> str:
    return item.facts["dtype"] or "unknown"


def counted(names: Sequence[Hashable], one: str, many: str) -> str:
    """`1 image is`, `3 images are`."""
    return f"{len(names)} {one if len(names) == 1 else many}"


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing)


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
