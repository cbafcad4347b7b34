"""How many test patients it takes until a difference between scores can be significant."""

from __future__ import annotations

from itertools import count

SIGNIFICANCE = 0.05  # of p-values that are corrected for all comparisons
# PSNR, SSIM and MAE, of the whole image and the foreground, in two directions, before and after
# post-steps
USUAL_COMPARISONS = 24


def least_patients(comparisons: int = 1) -> int:
    """The fewest test patients with whom a difference can be significant.

    The smallest p of a two-sided sign-flip test on n patients is 2 / 2^n. Corrected by Holm's method
    for so many comparisons it has to be below `SIGNIFICANCE`.
    """
    return next(n for n in count(1) if comparisons * 2.0 ** (1 - n) < SIGNIFICANCE)


def needed_patients() -> int:
    """The number of test patients that gantk asks for, everywhere: 10, with whom a difference in every
    usual score can be significant.
    """
    return least_patients(USUAL_COMPARISONS)


def lost_by_leaving_out(patients: int, left: int) -> str:
    """What folds cannot tell from chance with the patients that are `left`, in words; "" where it is no
    more than with all.
    """
    for needed, gain in (
        (least_patients(), "any gain"),
        (needed_patients(), "a gain in every score"),
    ):
        if left < needed <= patients:
            return f" (then folds test {left} patients: {needed} are needed to tell {gain} from chance)"
    return ""


def needed_words() -> str:
    """How many test patients gantk asks for, and what for, in words."""
    return f"{needed_patients()} test patients are needed to tell a gain in every score from chance"
