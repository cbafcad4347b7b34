"""Names the shipped recipe of images from noise for inspected scans, and what is changed in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MANY_IMAGES = 5000  # a discriminator does not memorise these


def plan(
    seen: Any, size: Sequence[int], *, hours: float, dims: int
) -> tuple[str, str, dict[str, Any]] | None:
    """DCGAN for one kind of image: recipe, reason, keys of [method] to change in it."""
    if len(seen.domains) > 1:
        return None
    why = (
        "the names show one kind of image, so images are generated from noise; to translate, name"
        " two kinds with --set data.domains"
    )
    changes: dict[str, Any] = {}
    if len(seen.classes) < 2:
        changes["conditional"] = None
    if len(seen.records) >= MANY_IMAGES:
        changes["augment"] = None
    return "dcgan_phantom", why, changes
