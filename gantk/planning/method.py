"""Chooses the method for inspected scans, with networks and losses: paired, unpaired, or images
from noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from gantk.data.check.pixels import Fit
from gantk.planning.look import Scans

UNET = {"name": "unet", "width": 16, "depth": 3, "stem": 1, "head": 2}
EDGES = (
    "convolutions at full resolution ahead of and behind the U-Net carry the edges; the wider, the"
    " more time"
)
# images of which each is compared with all of the other domain; a tenth of a second for each
MAX_COMPARED_IMAGES = 4000
ADAM = {"name": "adam", "lr": 2e-4, "betas": [0.5, 0.999]}


class Line(NamedTuple):
    """A key of the recipe, its value (None: only a comment is written), and the reason."""

    key: str
    value: Any
    why: str


def lines_of(table: str, rows: Iterable[tuple[Any, str, Any, str]]) -> list[Line]:
    """Lines of a table from rows (condition, key, value, why), without the rows whose condition is
    false.
    """
    return [Line(f"{table}.{key}", value, why) for so, key, value, why in rows if so]


def method_of(seen: Scans, hours: float, dims: int) -> list[Line]:
    """The lines of [method], with networks of the smallest width."""
    if len(seen.domains) == 1:
        return _noise(seen)
    if seen.suits_paired and seen.fit is not None:
        return _paired_lines(seen, seen.fit)
    return _unpaired_lines(seen, hours, dims)


def _paired_lines(seen: Scans, found: Fit) -> list[Line]:
    back = f"{seen.domains[1]} -> {seen.domains[0]} too, with networks of its own"
    fit = f"{found}: they fit, and a paired method learns from them"
    if found.rough:
        setting = "data.source.pairs=none" if "pairs" in seen.source else "method.name=cyclegan"
        fit = f"{found}: they fit roughly, enough for a paired method; if they show two patients: "
        fit += f"--set {setting}"

    rows = [
        (True, "name", "pix2pix", fit),
        (True, "generator", UNET, EDGES),
        (True, "discriminator", {"name": "patchgan", "width": 32}, "judges patches of 70 px"),
        (True, "l1", 100.0, "weight of the distance from the truth, the paper's"),
        (True, "both", True, back),
    ]
    return lines_of("method", rows)


def shorter(lines: list[Line]) -> list[Line]:
    """The lines of a paired method without the discriminator, for short trainings: `regression`."""
    why = (
        "; in so little time by L1 alone: a step of Pix2Pix takes 1.7 times as long, and it is no"
        " nearer to the truth"
    )
    kept = [line for line in lines if line.key not in ("method.discriminator", "method.l1")]
    return [kept[0]._replace(value="regression", why=kept[0].why + why), *kept[1:]]


def _unpaired_lines(seen: Scans, hours: float, dims: int) -> list[Line]:
    why = f"{seen.fit}: they do not fit" if seen.fit else "no pairs are known"
    if seen.alone:
        why = f"{seen.alone} images have no partner; complete, they could teach a paired method"

    ct = "ct" in seen.kinds
    mr = all(kind not in ("", "ct", "pet") for kind in seen.kinds)
    stripped = seen.volumes and seen.empty > 0.4
    heads = seen.volumes and 0 < seen.patients < 20
    few = mr and heads
    opposite = stripped and "t2" in seen.kinds and {"t1", "t1ce", "pd"} & {*seen.kinds}
    generator: dict[str, Any] = UNET
    why_generator = EDGES
    patches: dict[str, Any] = {"name": "patchgan", "width": 32}
    why_patches = "judges patches of 70 px"
    if ct:
        generator = {"name": "resnet", "width": 12, "blocks": 6}
        why_generator = "of CycleGAN's paper; wider with more time"
        patches |= {"width": 24, "coordinates": True}
        why_patches = (
            "bone is bright in CT and dark in MR: where a patch lies tells one from the other"
        )
    elif few:
        patches["receptive_field"] = 34
        why_patches = (
            f"{seen.patients} patients: larger patches see whose ventricles are larger, and teach"
            " to invent that"
        )

    half = (
        "share of the steps that come first, at half the size: a patch sees the whole head, else"
        " copying can win"
    )
    calm = "both are calm in the same places: air stays empty"
    floor = (
        "deviation of the input, as a share of the range, below which it is noise rather than an"
        " edge"
    )
    turned = (
        "what is darker in T1 is brighter in T2, where fat and skull are gone: else copying the"
        " input can win"
    )
    air = f"{100 * seen.empty:.0f} % of the pixels and more are exactly empty, and stay so"
    # the search for like images takes a tenth of the time at most
    most = min(MAX_COMPARED_IMAGES, 3600 * hours)
    # of few heads none is like another
    like = dims == 2 and (mr or ct) and not heads and len(seen.records) <= most
    if ct:
        flat_region = 3.0
    elif like:
        flat_region = 1.0
    else:
        flat_region = 4.0 if stripped else 6.0

    found = (
        "like images of the other domain, found by their edges; outputs are drawn to them, and no"
        " pair is told"
    )
    edges = [{"name": "edge_direction", "weight": 20.0}]
    rows = [
        (True, "name", "dualgan" if mr else "cyclegan", f"{why}: an unpaired method"),
        (like, "pairs", "weak_pairs", found),
        (True, "generator", generator, why_generator),
        (True, "discriminator", patches, why_patches),
        (True, "adversarial", "ls", "least squares, the usual one"),
        (
            True,
            "cycle",
            5.0 if few else 10.0,
            "weight of the way back; half of it where edges are held as well",
        ),
        (not mr, "identity", 0.0, "would keep each tissue as bright as it is"),
        (True, "low_res_warmup", 0.4, half),
        (mr and like, "source_losses", edges, "both are MR: output and input share their edges"),
        (mr and not like, "local_ncc", 2.0, "both are MR: output and input share their edges"),
        (opposite, "contrast", "inverted", turned),
        (mr or ct, "flat_region", flat_region, calm),
        (mr or ct, "noise_floor", 0.02 if stripped else 0.06, floor),
        (stripped, "air", 10.0, air),
        (
            not stripped,
            "defense",
            0.05,
            "noise on what is brought back, so that no hidden copy of the input pays",
        ),
    ]
    return lines_of("method", rows)


def _noise(seen: Scans) -> list[Line]:
    classes = sorted({record.label for record in seen.records if record.label is not None})
    told = f"the folders are classes, and images of each can be asked for: {', '.join(classes)}"
    heart = (
        f"of all that the discriminator sees: {len(seen.records)} images are few enough to be"
        " learnt by heart"
    )
    rows = [
        (
            True,
            "name",
            "dcgan",
            "names tell no two kinds apart: images from noise; to translate, name two: --a, --b",
        ),
        (len(classes) > 1, "conditional", True, told),
        (True, "width", 16, "filters of its last layer; 64 in the paper, with more time"),
        (True, "up", "resize", "no checkerboard; transpose in the paper"),
        (True, "discriminator", {"name": "dcgan", "width": 16}, "as wide as the generator"),
        (
            True,
            "adversarial",
            {"name": "bce", "smooth": 0.1},
            "a discriminator that is never sure keeps teaching",
        ),
        (len(seen.records) < 5000, "augment", ["translate"], heart),
    ]
    slower = {"generator": ADAM, "discriminator": ADAM | {"lr": 1e-4}}
    train = Line("train.optimizers", slower, "the discriminator is slower, so that it does not win")
    return [
        *lines_of("method", rows),
        train,
        *lines_of("data", [(len(classes) > 1, "labels", True, "the classes")]),
    ]
