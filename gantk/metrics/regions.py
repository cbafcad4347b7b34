"""Parts of an image that are scored apart: what is not air, and lesions."""

from __future__ import annotations

from typing import Any

from gantk.metrics.uncertainty import AIR

FOREGROUND = "_foreground"  # what the name of a score of what is not air ends with
LESION = "_lesion"  # of one over the lesion masks
SUFFIXES = {"whole": "", "foreground": FOREGROUND, "lesion": LESION}
SHOWN = f"foreground-above-{AIR:.0%}-of-range-in-truth-or-source"


def maskable(metric: Any) -> bool:
    """Whether a pair metric can be limited to a mask."""
    return getattr(metric, "in_mask", None) is not None


def definition_in(metric: Any, suffix: str) -> str:
    """How a metric's number was made in the region of that suffix."""
    if not suffix:
        return metric.definition
    return metric.in_mask if suffix == LESION else f"{metric.in_mask.removesuffix('/mask')}/{SHOWN}"
