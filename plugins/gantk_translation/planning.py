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
MIN_PATIENTS = 20  # with fewer heads none is like another
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


# reasons for keys of [method] that are the same for all scans
REASONS = {
    "pairs": "similar slices of the other domain are matched automatically by their edges; no"
    " registered pairs are needed",
    "adversarial": "least squares, the usual choice",
    "cycle": "weight of the cycle loss; 10 is usual, half of it where local_ncc keeps the edges too",
    "identity": "off, because it would keep the brightness of each tissue",
    "low_res_warmup": "share of the steps at half the size, trained first; there a patch sees the"
    " whole head, which keeps the generator from copying its input",
    "source_losses": "both are MR, so output and input share their edges",
    "source_losses_in_warmup": "edges join once the pairs have settled which tissue is bright; from"
    " the first step they can hold the input's contrast",
    "local_ncc": "both are MR, so output and input share their edges",
    "contrast": "without fat and skull, what is darker in T1 is brighter in T2; without this loss,"
    " the generator may copy its input",
    "flat_region": "where the input is flat, the output is flat; air stays empty",
    "noise_floor": "standard deviation, as a share of the range, below which the input counts as"
    " noise, not as an edge",
    "air": "pixels that are exactly empty stay empty",
    "defense": "noise on the generated image before it is translated back, so that hiding a copy of"
    " the input does not help",
}
EDGE_LOSSES = [{"name": "edge_direction", "weight": 20.0}]


def plan_unpaired(
    seen: Any, size: Sequence[int], width: int, *, hours: float, dims: int, short: bool
) -> Rows | None:
    """DualGAN for MR of two contrasts, CycleGAN for other images of two kinds."""
    if len(seen.domains) == 1 or seen.suits_paired:
        return None

    kind = "mr"
    if "ct" in seen.kinds:
        kind = "ct"
    elif {"", "pet"} & {*seen.kinds}:
        kind = "other"
    name = "dualgan" if kind == "mr" else "cyclegan"
    few_heads = bool(seen.volumes) and 0 < seen.patients < MIN_PATIENTS
    rows = [
        ("name", name, f"{_why_unpaired(seen)}, so the method is unpaired"),
        *_networks(seen, size, width, kind, few_heads),
    ]
    # the search for like images takes a tenth of the time at most; of few heads none is like another
    compared = min(MAX_COMPARED_IMAGES, 3600 * hours)
    is_matched = dims == 2 and kind != "other" and not few_heads and len(seen.records) <= compared
    losses = _losses(seen, kind, few_heads, is_matched)
    if min(size) >= SMALL_SIDE:
        losses["low_res_warmup"] = 0.4
    rows += [(key, value, REASONS[key]) for key, value in losses.items()]
    return [(f"method.{key}", value, why) for key, value, why in rows]


def _why_unpaired(seen: Any) -> str:
    """Why no paired method suits the scans."""
    if seen.alone:
        have = "has" if seen.alone == 1 else "have"
        lonely = f"{count_noun(seen.alone, 'image')} {have} no partner"
        return f"{lonely} (complete pairs would allow a paired method)"
    return f"the pairs do not fit: {seen.fit}" if seen.fit else "no pairs are known"


def _networks(seen: Any, size: Sequence[int], width: int, kind: str, few_heads: bool) -> Rows:
    """The rows of generator and discriminator."""
    generator: dict[str, Any] = UNET | {"width": UNET_WIDTH * width}
    why_generator = EDGES
    patches: dict[str, Any] = {"name": "patchgan", "width": 32}
    why_patches = "it judges patches of 70 pixels"
    if kind == "ct":
        generator = {"name": "resnet", "width": 12 * width, "blocks": 6}
        why_generator = "as in CycleGAN's paper; a longer training allows a larger width"
        patches |= {"width": 24, "coordinates": True}
        why_patches = (
            "bone is bright in CT and dark in MR, so the discriminator also sees where a patch is"
        )
    if min(size) < SMALL_SIDE:
        patches["receptive_field"] = 16
        why_patches = SMALL_PATCHES
    elif kind == "mr" and few_heads:
        patches["receptive_field"] = 34
        why_patches = (
            f"small patches: with only {count_noun(seen.patients, 'patient')}, larger ones show the"
            " size of ventricles, and the generator would learn to change it"
        )
    return [
        ("generator", generator, why_generator),
        ("discriminator", patches, why_patches),
    ]


def _losses(seen: Any, kind: str, few_heads: bool, is_matched: bool) -> dict[str, Any]:
    """The losses and their weights, by what the images show."""
    losses: dict[str, Any] = {"adversarial": "ls", "cycle": 10.0}
    if kind == "mr" and few_heads:
        losses["cycle"] = 5.0  # half is enough, because local_ncc keeps the edges too
    if is_matched:
        losses["pairs"] = "weak_pairs"
    if kind != "mr":
        losses["identity"] = 0.0
    elif is_matched:
        losses |= {"source_losses": EDGE_LOSSES, "source_losses_in_warmup": False}
    else:
        losses["local_ncc"] = 2.0
    if seen.is_stripped and "t2" in seen.kinds and {"t1", "t1ce", "pd"} & {*seen.kinds}:
        losses["contrast"] = "inverted"

    masked = seen.is_masked
    if kind != "other":
        flat = {"ct": 3.0, "mr": 4.0 if masked else 6.0}
        losses["flat_region"] = 1.0 if kind == "mr" and is_matched else flat[kind]
        losses["noise_floor"] = 0.02 if masked else 0.06
    losses |= {"air": 10.0} if masked else {"defense": 0.05}
    return losses
