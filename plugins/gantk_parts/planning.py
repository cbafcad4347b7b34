"""Proposals of `gantk plan`: changes of training images, and windows for CT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MIN_PATIENTS_WITHOUT_AFFINE = 50  # with fewer, small changes of the images vary them


def plan_augments(seen: Any) -> tuple[list[Any], str]:
    """The changes of training images that suit inspected scans, and the reason."""
    mirror = min(each.mirror for each in seen.pixels)
    similar = mirror > 0.5
    augments = ["hflip"] if similar else []
    reasons = [f"left and right correlate by {mirror:.2f}"]
    if seen.patients < MIN_PATIENTS_WITHOUT_AFFINE:
        augments.append({"name": "affine", "p": 0.8})
        reasons.append("small rotations, shifts and scalings vary the images")
    if seen.suits_paired:
        reasons.append("both images of a pair get the same change")

    return augments, "; ".join(reasons)


def plan_windows(
    name: str, contrast: str, files: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], str] | None:
    """The mapping of a domain of CT in Hounsfield units, and the reason."""
    is_ct = contrast == "ct" or files[0].get("modality") == "CT"
    if not is_ct or min(file["min"] for file in files) >= -500:
        return None
    why = f"{name} is in Hounsfield units; soft tissue (-20 to 100 HU) gets 40 % of the range"
    return {"name": "ct", "share": 0.4}, why
