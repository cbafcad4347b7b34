"""Names and numbers as a reader knows them: metrics, baselines, directions, scores with their unit and interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gantk.report.figures import number

ABBREVIATIONS = ("psnr", "ssim", "mae", "mse", "rmse", "nrmse", "lpips", "fid", "kid", "prdc", "auroc", "ause")
BASELINE_NAMES = {
    "identity": "identity",
    "histogram": "histogram matching",
    "intensity_map": "intensity-only map",
    "regression": "L1 U-Net regression",
    "real_split": "real images",
    "noise": "pixel noise",
}
FITTED_ON_PAIRS = ("intensity_map", "regression")
REGIONS = ("foreground", "lesion")
LETTERS = {"a": 0, "b": 1}
Scored = dict[str, Any]  # one row of metrics.json: value, ci95, n, unit, definition, ...


def metric_name(name: str) -> str:
    """`psnr_foreground` is PSNR foreground, `ms_ssim` is MS-SSIM, `lesion_contrast` is Lesion contrast."""
    multi = name.startswith(("ms_ssim", "msssim"))
    head, _, rest = ("ssim" + name.partition("ssim")[2] if multi else name).partition("_")
    if head in ABBREVIATIONS:
        return f"{'MS-' if multi else ''}{head.upper()} {rest}".strip().replace("_", " ")
    plain = name.replace("_", " ")
    return plain[:1].upper() + plain[1:]


def region_of(metric: str) -> str:
    """`foreground`, `lesion`, or "" where the whole image is scored."""
    return next((region for region in REGIONS if metric.endswith(f"_{region}")), "")


def baseline_name(name: str) -> str:
    return BASELINE_NAMES.get(name, name.replace("_", " "))


def arrow(source: str, target: str) -> str:
    """`T1 → T2`, never broken over two lines."""
    return f"{source}\u00a0→\u00a0{target}"


def direction_name(key: str, domains: Sequence[str]) -> str:
    """`a_to_b` is `T1 → T2`, `image` is `T1 from noise`; the key itself where the domains are not known."""
    plain = key.removesuffix("_post")
    if plain != key:
        return f"{direction_name(plain, domains)}, after the post-steps"
    if key == "image" and domains:
        return f"{domains[0]} from noise"
    source, _, target = key.partition("_to_")
    if not target:
        return key
    known = [domains[LETTERS[x]] if x in LETTERS and LETTERS[x] < len(domains) else x for x in (source, target)]
    return arrow(*known)


def decimals(entry: Scored) -> int:
    """Decibels to a hundredth, scores near one to three places: set by the model's value, so that rows line up."""
    size = abs(entry.get("value") or 0.0)
    if entry.get("unit") == "dB":
        return 2
    return 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 else 4


def digits(value: float | None, places: int) -> str:
    if value is None or not math.isfinite(value) or 0 < abs(value) < 1e-4:
        return number(value, 3)
    return f"{value:.{places}f}".replace("-", "−")


def with_unit(entry: Scored, places: int) -> str:
    return f"{digits(entry.get('value'), places)} {entry.get('unit') or ''}".strip()


def ends(entry: Scored) -> tuple[float | None, float | None, float | None]:
    """Lower end of the interval, value, upper end."""
    interval = entry.get("ci95") or (None, None)
    return interval[0], entry.get("value"), interval[1]


def interval(entry: Scored, places: int) -> str:
    low, _, high = ends(entry)
    return f"{digits(low, places)} to {digits(high, places)}" if low is not None and high is not None else ""


def count(entry: Scored) -> str:
    """How many stand behind a score: patients, and their images where that is another number."""
    n, images = entry.get("n"), entry.get("images")
    return "" if n is None else f"n = {n} ({images} images)" if images and images != n else f"n = {n}"


def listed(items: Sequence[str], conjunction: str = "and") -> str:
    """`A`, `A and B`, `A, B and C`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {conjunction} {items[-1]}"
