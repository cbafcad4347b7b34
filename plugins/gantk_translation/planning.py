"""Plans recipes of paired and unpaired methods for inspected scans: networks, losses, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gantk.errors import count_noun

UNET_WIDTH = 16
UNET = {"name": "unet", "width": UNET_WIDTH, "depth": 3, "stem": 1, "head": 2}
EDGES = (
    "convolutions at full resolution before and after the U-Net keep edges sharp; more"
    " filters take more time"
)
SMALL_SIDE = 64  # pixels; smaller images get smaller patches, and no first stage at half size
SMALL_PATCHES = "small patches, because the images are small"
# images of which each is compared with all of the other domain; a tenth of a second for each
MAX_COMPARED_IMAGES = 4000

Rows = list[tuple[str, Any, str]]  # key of the recipe, value, reason


def rows_of_method(rows: Iterable[tuple[Any, str, Any, str]]) -> Rows:
    """Rows of the table [method] from (condition, key, value, reason)."""
    return [(f"method.{key}", value, why) for wanted, key, value, why in rows if wanted]


def plan_paired(
    seen: Any, size: Sequence[int], width: int, *, hours: float, dims: int, short: bool
) -> Rows | None:
    """Pix2Pix for registered pairs; without its discriminator if the training is `short`."""
    if not seen.suits_paired:
        return None
    back = f"{seen.domains[1]} -> {seen.domains[0]} is trained too, with separate networks"
    fit = f"the pairs fit, so the method is paired: {seen.fit}"
    if short:
        fit += (
            "; it has only an L1 loss, because the training is short: a step of Pix2Pix takes"
            " 1.7 times as long and comes no closer to the truth"
        )

    generator = UNET | {"width": UNET_WIDTH * width} | ({"depth": 4} if width > 1 else {})
    patches: dict[str, Any] = {"name": "patchgan", "width": 32}
    why_patches = "it judges patches of 70 pixels"
    if min(size) < SMALL_SIDE:
        patches["receptive_field"] = 16
        why_patches = SMALL_PATCHES
    weight = "weight of the L1 distance from the truth, as in the paper"
    rows = [
        (True, "name", "regression" if short else "pix2pix", fit),
        (True, "generator", generator, EDGES),
        (not short, "discriminator", patches, why_patches),
        (not short, "l1", 100.0, weight),
        (True, "both", True, back),
    ]
    return rows_of_method(rows)


def plan_unpaired(
    seen: Any, size: Sequence[int], width: int, *, hours: float, dims: int, short: bool
) -> Rows | None:
    """DualGAN for MR of two contrasts, CycleGAN for other images of two kinds."""
    if len(seen.domains) == 1 or seen.suits_paired:
        return None
    why = f"the pairs do not fit: {seen.fit}" if seen.fit else "no pairs are known"
    if seen.alone:
        have = "has" if seen.alone == 1 else "have"
        why = f"{count_noun(seen.alone, 'image')} {have} no partner (complete pairs would allow a paired method)"

    ct = "ct" in seen.kinds
    mr = all(kind not in ("", "ct", "pet") for kind in seen.kinds)
    masked = seen.is_masked
    heads = seen.volumes and 0 < seen.patients < 20
    few = mr and heads
    small = min(size) < SMALL_SIDE
    opposite = seen.is_stripped and "t2" in seen.kinds and {"t1", "t1ce", "pd"} & {*seen.kinds}
    generator = UNET | {"width": UNET_WIDTH * width}
    why_generator = EDGES
    patches: dict[str, Any] = {"name": "patchgan", "width": 32}
    why_patches = "it judges patches of 70 pixels"
    if ct:
        generator = {"name": "resnet", "width": 12 * width, "blocks": 6}
        why_generator = "as in CycleGAN's paper; a longer training allows a larger width"
        patches |= {"width": 24, "coordinates": True}
        why_patches = (
            "bone is bright in CT and dark in MR, so the discriminator also sees where a patch is"
        )
    elif few:
        patches["receptive_field"] = 34
        why_patches = (
            f"small patches: with only {count_noun(seen.patients, 'patient')}, larger ones show the size"
            " of ventricles, and the generator would learn to change it"
        )
    if small:
        patches["receptive_field"] = 16
        why_patches = SMALL_PATCHES

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
        (not small, "low_res_warmup", 0.4, half),
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
    return rows_of_method(rows)
