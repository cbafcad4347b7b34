"""Names the shipped recipe of a translation that suits inspected scans, and what is changed in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gantk.errors import count_noun

MIN_PATIENTS = 20  # with fewer heads none is like another
SMALL_SIDE = 64  # pixels; smaller images get smaller patches, and no first stage at half size
# images of which each is compared with all of the other domain; a tenth of a second for each
MAX_COMPARED_IMAGES = 4000
# keys by what is around a head: exactly one value, or noise
MASKED = {"air": 10.0, "defense": None, "noise_floor": 0.02, "flat_region": 4.0}
WITH_AIR = {"air": None, "defense": 0.05, "noise_floor": 0.06, "flat_region": 6.0}
# no similar slices are matched
UNMATCHED = dict.fromkeys(("pairs", "source_losses", "source_losses_in_warmup"))
# patches that see the whole head: without weak pairs, discriminators alone tell which contrast is right
WHOLE_HEAD = {"discriminator.width": 32, "discriminator.receptive_field": 70}

Proposal = tuple[str, str, dict[str, Any]]  # recipe, reason, keys of [method] to change in it


def plan_paired(seen: Any, size: Sequence[int], *, hours: float, dims: int) -> Proposal | None:
    """Pix2Pix for registered pairs."""
    if not seen.suits_paired:
        return None
    why = (
        ""
        if seen.method
        else f"the pairs fit, so the method is paired. Measured: {seen.fit.to_shifted}"
    )
    direction = {"both": False} if seen.to else {}
    return "pix2pix_t1t2", why, direction | _for_size(size)


def plan_unpaired(seen: Any, size: Sequence[int], *, hours: float, dims: int) -> Proposal | None:
    """DualGAN for MR of two contrasts, CycleGAN for other images of two kinds."""
    if len(seen.domains) == 1 or seen.suits_paired:
        return None

    few_heads = bool(seen.volumes) and 0 < seen.patients < MIN_PATIENTS
    unmatched = _why_unmatched(seen, few_heads, hours, dims)
    background = MASKED if seen.is_masked else WITH_AIR
    changes = {}
    if "ct" in seen.kinds:
        recipe = "ct_mr_heads"
        changes = {} if unmatched else {"pairs": "weak_pairs"}
    elif {"", "pet"} & {*seen.kinds}:
        recipe = "cyclegan_t1t2"
        unmatched = "they need named contrasts of MR or CT"
        changes = UNMATCHED | {"flat_region": None, "noise_floor": None}
    elif few_heads:
        recipe = "t1t2_patients"
        changes = {"flat_region": background["flat_region"]}
    else:
        recipe = "dualgan_t1t2"
        if unmatched:
            structure = {"local_ncc": 2.0, "flat_region": background["flat_region"]}
            changes = UNMATCHED | WHOLE_HEAD | structure

    changes = {key: value for key, value in background.items() if key != "flat_region"} | changes
    why = "" if seen.method else f"the method is unpaired, because {_why_unpaired(seen)}"
    pairs = f"Without weak pairs: {unmatched}" if unmatched else ""
    if seen.examination.same_heads and not unmatched:
        pairs = (
            "Both domains seem to show the same heads, so weak pairs make this nearly paired training"
            " (without them: --set method.pairs=none)"
        )
    # without fat and skull, what is darker in T1 is brighter in T2; else the contrast is open
    inverts = seen.is_stripped and "t2" in seen.kinds and {"t1", "t1ce", "pd"} & {*seen.kinds}
    changes["contrast"] = "inverted" if inverts else None
    reason = ". ".join(filter(None, [why, pairs]))
    return recipe, reason, changes | _for_size(size)


def _why_unmatched(seen: Any, few_heads: bool, hours: float, dims: int) -> str:
    """Why similar slices are not matched as weak pairs; "" where they are."""
    if seen.both_kinds:
        return "they would be true pairs, as both methods see the same images"
    if dims != 2 or few_heads:
        return f"they need slices, of {MIN_PATIENTS} patients or more if of volumes"
    # the search takes a tenth of the time at most
    compared = int(min(MAX_COMPARED_IMAGES, 3600 * hours))
    images = len(seen.study.training)
    if images <= compared:
        return ""
    return f"comparing {images} training images takes too long (at most {compared} in this time)"


def _for_size(size: Sequence[int]) -> dict[str, Any]:
    """Smaller patches of small images, which get no first stage at half size."""
    if min(size) >= SMALL_SIDE:
        return {}
    return {"discriminator.receptive_field": 16, "low_res_warmup": None}


def plan_structure(seen: Any) -> tuple[str, str] | None:
    """For images without pairs the metric that compares outputs with their inputs."""
    return None if seen.fit else ("nmi", "nmi each output with its input")


def _why_unpaired(seen: Any) -> str:
    """Why no paired method suits the scans."""
    if seen.alone:
        alone = count_noun(seen.alone, "image")
        return f"{alone} without a partner (complete pairs would allow a paired method)"
    return f"the pairs do not fit: {seen.fit}" if seen.fit else "no pairs are known"
