"""Names the shipped recipe of a translation that suits inspected scans, and what is changed in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gantk.errors import count_noun

MIN_PATIENTS = 20  # with fewer heads none is like another
SMALL_SIDE = 64  # pixels; smaller images get smaller patches, and no first stage at half size
# images of which each is compared with all of the other domain; a tenth of a second for each
MAX_COMPARED_IMAGES = 4000
# no similar slices are matched
UNMATCHED = dict.fromkeys(("pairs", "source_losses", "source_losses_in_warmup"))

Proposal = tuple[str, str, dict[str, Any]]  # recipe, reason, keys of [method] to change in it


def plan_paired(
    seen: Any, size: Sequence[int], *, hours: float, dims: int, short: bool
) -> Proposal | None:
    """Pix2Pix for registered pairs; without its discriminator if the training is `short`."""
    if not seen.suits_paired:
        return None
    why = f"the pairs fit, so the method is paired: {seen.fit}"
    if short:
        why += (
            "; it has only an L1 loss, because the training is short: a step of Pix2Pix takes"
            " 1.7 times as long and comes no closer to the truth"
        )
        return "regression_t1t2", why, {}
    return "pix2pix_t1t2", why, _for_size(size)


def plan_unpaired(
    seen: Any, size: Sequence[int], *, hours: float, dims: int, short: bool
) -> Proposal | None:
    """DualGAN for MR of two contrasts, CycleGAN for other images of two kinds."""
    if len(seen.domains) == 1 or seen.suits_paired:
        return None

    few_heads = bool(seen.volumes) and 0 < seen.patients < MIN_PATIENTS
    # the search for like images takes a tenth of the time at most; of few heads none is like another
    compared = min(MAX_COMPARED_IMAGES, 3600 * hours)
    is_matched = dims == 2 and not few_heads and len(seen.records) <= compared
    if "ct" in seen.kinds:
        recipe = "ct_mr_heads"
        changes = {"pairs": "weak_pairs"} if is_matched else {}
    elif {"", "pet"} & {*seen.kinds}:
        recipe = "cyclegan_t1t2"
        changes = UNMATCHED | {"flat_region": None, "noise_floor": None}
    elif few_heads:
        recipe = "t1t2_patients"
        changes = {} if seen.is_masked else {"flat_region": 6.0, "noise_floor": 0.06}
    else:
        recipe = "dualgan_t1t2"
        flat = 4.0 if seen.is_masked else 6.0
        changes = {} if is_matched else UNMATCHED | {"local_ncc": 2.0, "flat_region": flat}

    if seen.is_masked:
        changes = {"air": 10.0, "defense": None, "noise_floor": 0.02} | changes
    else:
        changes |= {"air": None, "defense": 0.05}
    inverts = seen.is_stripped and "t2" in seen.kinds and {"t1", "t1ce", "pd"} & {*seen.kinds}
    changes["contrast"] = "inverted" if inverts else None
    return recipe, f"{_why_unpaired(seen)}, so the method is unpaired", changes | _for_size(size)


def _for_size(size: Sequence[int]) -> dict[str, Any]:
    """Smaller patches of small images, which get no first stage at half size."""
    if min(size) >= SMALL_SIDE:
        return {}
    return {"discriminator.receptive_field": 16, "low_res_warmup": None}


def _why_unpaired(seen: Any) -> str:
    """Why no paired method suits the scans."""
    if seen.alone:
        have = "has" if seen.alone == 1 else "have"
        lonely = f"{count_noun(seen.alone, 'image')} {have} no partner"
        return f"{lonely} (complete pairs would allow a paired method)"
    return f"the pairs do not fit: {seen.fit}" if seen.fit else "no pairs are known"
