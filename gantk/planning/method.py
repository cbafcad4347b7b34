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
    "convolutions at full resolution before and after the U-Net keep edges sharp; more"
    " filters take more time"
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
    back = f"{seen.domains[1]} -> {seen.domains[0]} is trained too, with separate networks"
    fit = f"the pairs fit, so the method is paired: {found}"
    if found.rough:
        setting = "data.source.pairs=none" if "pairs" in seen.source else "method.name=cyclegan"
        fit = (
            f"the pairs fit roughly, which is enough for a paired method: {found}. If they show"
            f" different patients, use --set {setting}"
        )

    rows = [
        (True, "name", "pix2pix", fit),
        (True, "generator", UNET, EDGES),
        (
            True,
            "discriminator",
            {"name": "patchgan", "width": 32},
            "it judges patches of 70 pixels",
        ),
        (True, "l1", 100.0, "weight of the L1 distance from the truth, as in the paper"),
        (True, "both", True, back),
    ]
    return lines_of("method", rows)


def shorter(lines: list[Line]) -> list[Line]:
    """The lines of Pix2Pix without the discriminator, for short trainings: `regression`; those of
    other methods unchanged.
    """
    if lines[0].value != "pix2pix":
        return lines
    why = (
        "; it has only an L1 loss, because the training is short: a step of Pix2Pix takes"
        " 1.7 times as long and comes no closer to the truth"
    )
    kept = [line for line in lines if line.key not in ("method.discriminator", "method.l1")]
    return [kept[0]._replace(value="regression", why=kept[0].why + why), *kept[1:]]


def _unpaired_lines(seen: Scans, hours: float, dims: int) -> list[Line]:
    why = f"the pairs do not fit: {seen.fit}" if seen.fit else "no pairs are known"
    if seen.alone:
        why = f"{seen.alone} images have no partner (complete pairs would allow a paired method)"

    ct = "ct" in seen.kinds
    mr = all(kind not in ("", "ct", "pet") for kind in seen.kinds)
    masked = seen.is_masked
    heads = seen.volumes and 0 < seen.patients < 20
    few = mr and heads
    opposite = seen.is_stripped and "t2" in seen.kinds and {"t1", "t1ce", "pd"} & {*seen.kinds}
    generator: dict[str, Any] = UNET
    why_generator = EDGES
    patches: dict[str, Any] = {"name": "patchgan", "width": 32}
    why_patches = "it judges patches of 70 pixels"
    if ct:
        generator = {"name": "resnet", "width": 12, "blocks": 6}
        why_generator = "as in CycleGAN's paper; a longer training allows a larger width"
        patches |= {"width": 24, "coordinates": True}
        why_patches = (
            "bone is bright in CT and dark in MR, so the discriminator also sees where a patch is"
        )
    elif few:
        patches["receptive_field"] = 34
        why_patches = (
            f"small patches: with only {seen.patients} patients, larger ones show the size"
            " of ventricles, and the generator would learn to change it"
        )

    half = (
        "share of the steps at half the size, trained first; there a patch sees the whole"
        " head, which keeps the generator from copying its input"
    )
    calm = "where the input is flat, the output is flat; air stays empty"
    floor = (
        "standard deviation, as a share of the range, below which the input counts as"
        " noise, not as an edge"
    )
    turned = (
        "without fat and skull, what is darker in T1 is brighter in T2; without this loss,"
        " the generator may copy its input"
    )
    air = f"at least {100 * seen.empty:.0f} % of the pixels are exactly empty and stay empty"
    # the search for like images takes a tenth of the time at most
    most = min(MAX_COMPARED_IMAGES, 3600 * hours)
    # of few heads none is like another
    like = dims == 2 and (mr or ct) and not heads and len(seen.records) <= most
    if ct:
        flat_region = 3.0
    elif like:
        flat_region = 1.0
    else:
        flat_region = 4.0 if masked else 6.0

    cycle_weight = "weight of the cycle loss; 10 is usual"
    if few:
        cycle_weight += ", and half is enough because local_ncc keeps the edges too"
    found = (
        "similar slices of the other domain are matched automatically by their edges; no"
        " registered pairs are needed"
    )
    edges = [{"name": "edge_direction", "weight": 20.0}]
    once_bright = (
        "edges join once the pairs have settled which tissue is bright; from the first step they"
        " can hold the input's contrast"
    )
    rows = [
        (True, "name", "dualgan" if mr else "cyclegan", f"{why}, so the method is unpaired"),
        (like, "pairs", "weak_pairs", found),
        (True, "generator", generator, why_generator),
        (True, "discriminator", patches, why_patches),
        (True, "adversarial", "ls", "least squares, the usual choice"),
        (
            True,
            "cycle",
            5.0 if few else 10.0,
            cycle_weight,
        ),
        (not mr, "identity", 0.0, "off, because it would keep the brightness of each tissue"),
        (True, "low_res_warmup", 0.4, half),
        (mr and like, "source_losses", edges, "both are MR, so output and input share their edges"),
        (mr and like, "source_losses_in_warmup", False, once_bright),
        (mr and not like, "local_ncc", 2.0, "both are MR, so output and input share their edges"),
        (opposite, "contrast", "inverted", turned),
        (mr or ct, "flat_region", flat_region, calm),
        (mr or ct, "noise_floor", 0.02 if masked else 0.06, floor),
        (masked, "air", 10.0, air),
        (
            not masked,
            "defense",
            0.05,
            (
                "noise on the generated image before it is translated back, so that hiding a"
                " copy of the input does not help"
            ),
        ),
    ]
    return lines_of("method", rows)


def _noise(seen: Scans) -> list[Line]:
    classes = sorted({record.label for record in seen.records if record.label is not None})
    told = f"the folders are classes, and images of each can be generated: {', '.join(classes)}"
    heart = (
        "shifts every image that the discriminator sees, which could memorise only"
        f" {len(seen.records)} images"
    )
    rows = [
        (
            True,
            "name",
            "dcgan",
            (
                "the names show one kind of image, so images are generated from noise; to"
                " translate, name two kinds with --a and --b"
            ),
        ),
        (len(classes) > 1, "conditional", True, told),
        (
            True,
            "width",
            16,
            "filters of the last layer; a longer training allows 64, as in the paper",
        ),
        (True, "up", "resize", "avoids checkerboard patterns; the paper uses transpose"),
        (True, "discriminator", {"name": "dcgan", "width": 16}, "as wide as the generator"),
        (
            True,
            "adversarial",
            {"name": "bce", "smooth": 0.1},
            "label smoothing keeps the discriminator's gradient alive",
        ),
        (len(seen.records) < 5000, "augment", ["translate"], heart),
    ]
    slower = {"generator": ADAM, "discriminator": ADAM | {"lr": 1e-4}}
    train = Line(
        "train.optimizers", slower, "the discriminator learns more slowly, so that it does not win"
    )
    return [
        *lines_of("method", rows),
        train,
        *lines_of(
            "data", [(len(classes) > 1, "labels", True, "the method gets the class of each image")]
        ),
    ]
