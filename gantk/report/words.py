"""Formats numbers, metrics and directions as text: `24.31 dB`, `12.4 kJ`, `MS-SSIM`, `T1 → T2`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gantk.metrics.verdict import title_of
from gantk.terminal import duration

ABBREVIATIONS = (
    "psnr",
    "ssim",
    "mae",
    "mse",
    "rmse",
    "nrmse",
    "lpips",
    "fid",
    "kid",
    "prdc",
    "auroc",
    "ause",
    "sfrc",
)
BASELINE_NAMES = {
    "histogram": "histogram matching",
    "intensity_map": "intensity-only map",
    "regression": "L1 U-Net regression",
    "real_split": "real images",
    "noise": "pixel noise",
}
REGIONS = ("foreground", "lesion")
ARROW = "\u00a0→\u00a0"  # never broken over two lines
Scored = dict[str, Any]  # one row of metrics.json: value, ci95, n, unit, definition, ...


def number(value: float | None, digits: int = 4) -> str:
    """A value to four significant digits; infinity as ∞, nothing as a dash."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}g}".replace("inf", "∞").replace("-", "−")


def short_time(seconds: float) -> str:
    """Format seconds as `12 ms`, `0.46 s`, `93 s`; from two minutes on like `duration`."""
    if seconds < 0.1:
        return f"{number(1000 * seconds, 3)} ms"
    return f"{number(seconds, 3)} s" if seconds < 120 else duration(seconds)


def join_words(items: Sequence[str], conjunction: str = "and") -> str:
    """Join items as text: `A`, `A and B`, `A, B and C`."""
    return f" {conjunction} ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def metric_name(name: str) -> str:
    """A metric's readable name: `psnr_foreground` is PSNR foreground, `ms_ssim` is MS-SSIM."""
    words = [word.upper() if word in ABBREVIATIONS else word for word in name.split("_")]
    plain = " ".join(words).replace("ms SSIM", "MS-SSIM")
    return plain[:1].upper() + plain[1:]


def figure_name(name: str) -> str:
    """A published figure's readable name; no report says what its accuracies and losses are of."""
    if name.startswith(("accuracy", "loss_")):
        return f"{metric_name(name)}, undefined in the report:"
    return metric_name(name)


def region_of(metric: str) -> str:
    """The region at the end of a metric's name, `foreground` or `lesion`; "" where the whole image
    is scored.
    """
    return next((region for region in REGIONS if metric.endswith(f"_{region}")), "")


def baseline_name(name: str) -> str:
    """`histogram` is histogram matching; a plugin's baseline is its name, with spaces for
    underscores.
    """
    return BASELINE_NAMES.get(name, name.replace("_", " "))


def arrow(*names: str) -> str:
    """`T1 → T2`; one name alone as it is."""
    return ARROW.join(names)


def direction_name(key: str, domains: Sequence[str], known: Mapping[str, str] | None = None) -> str:
    """`a_to_b` is `T1 → T2`, `image` is `T1 from noise`; the key itself where neither `known` nor
    `domains` name it.
    """
    plain = key.removesuffix("_post")
    if known and plain in known:
        if plain != key:
            return f"{known[plain]}, after the post-steps"
        return known[plain]
    return arrow(*title_of(key, domains).split(" -> "))


def decimals(entry: Scored) -> int:
    """Decimal places: 2 for decibels, 3 for scores near 1; from the model's value alone, so that
    rows line up.
    """
    size = abs(entry.get("value") or 0.0)
    if entry.get("unit") == "dB":
        return 2
    if size >= 100:
        return 1
    if size >= 10:
        return 2
    if size >= 0.1:
        return 3

    return 4


def digits(value: float | None, places: int) -> str:
    """A value with that many decimal places, or as `number` formats it where it is not finite or
    too small.
    """
    if value is None or not math.isfinite(value) or 0 < abs(value) < 1e-4:
        return number(value, 3)
    return f"{value:.{places}f}".replace("-", "−")


def with_unit(entry: Scored, places: int) -> str:
    """A score's value with its unit, such as `24.31 dB`."""
    return f"{digits(entry.get('value'), places)} {entry.get('unit') or ''}".strip()


def interval(entry: Scored, places: int) -> str:
    """The ends of a score's 95 % interval, such as `23.81 to 24.81`; "" where there is none."""
    low, high = entry.get("ci95") or (None, None)
    if low is not None and high is not None:
        return f"{digits(low, places)} to {digits(high, places)}"
    return ""


def count(entry: Scored) -> str:
    """The size of the sample behind a score: patients, and images where that number differs."""
    n = entry.get("n")
    images = entry.get("images")
    if n is None:
        return ""
    if images and images != n:
        return f"n = {n} ({images} images)"
    return f"n = {n}"
