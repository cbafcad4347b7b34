"""Formats numbers, metrics and directions as text: `24.31 dB`, `12.4 kJ`, `MS-SSIM`, `T1 → T2`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gantk.metrics.names import short_metric_name, title_of
from gantk.runs.results import NO_VALUE, Score, number_text
from gantk.terminal import duration

ARROW = "\u00a0→\u00a0"  # never broken over two lines


def short_time(seconds: float) -> str:
    """Format seconds as `12 ms`, `0.46 s`, `93 s`; from two minutes on like `duration`."""
    if seconds < 0.1:
        return f"{number(1000 * seconds, 3)} ms"
    return f"{number(seconds, 3)} s" if seconds < 120 else duration(seconds)


def metric_name(name: str) -> str:
    """A metric's short name as a title: `ms_ssim` is MS-SSIM, `cycle_error` is Cycle error."""
    short = short_metric_name(name)
    return short[:1].upper() + short[1:]


def direction_name(key: str, domains: Sequence[str]) -> str:
    """`a_to_b` is `T1 → T2`, `image` is `T1 from noise`; the key itself where no domains are known."""
    return title_of(key, domains).replace(" -> ", ARROW)


def typographic(text: str) -> str:
    """A number's text as a page prints it: with a minus sign, ∞, and a dash for nothing."""
    if text == NO_VALUE:
        return "–"
    return text.replace("inf", "∞").replace("-", "−")


def number(value: float | None, digits: int = 4) -> str:
    """A number that is no score, to some significant digits."""
    known = value is not None and not math.isnan(value)
    return typographic(f"{value:.{digits}g}" if known else NO_VALUE)


def digits(value: float | None, decimals: int) -> str:
    """A value with that many decimal places."""
    return typographic(number_text(value, decimals))


def score_number(value: float | None, score: Score) -> str:
    """A value of a score in the unit in which pages show it."""
    own = score.model_copy(update={"value": value}).in_percent
    return digits(own.value, score.in_percent.decimals)


def with_unit(score: Score, decimals: int | None = None) -> str:
    """A score's value with its unit, such as `24.31 dB`; `decimals` as in `Score.text`."""
    return typographic(score.text(decimals))
