"""How many test patients it takes until a difference between scores can be significant, and how folds
test each patient once.
"""

from __future__ import annotations

from itertools import count

SIGNIFICANCE = 0.05  # of p-values that are corrected for all comparisons
# PSNR, SSIM and MAE, of the whole image and the foreground, in two directions, before and after
# post-steps
USUAL_COMPARISONS = 24
MAX_FOLDS = 5


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


def needed_words() -> str:
    """How many test patients a significant gain needs, a clause."""
    one = least_patients()
    return f"a significant gain needs at least {one} test patients for one score, {needed_patients()} for every score"


def folds_of(patients: int) -> int:
    """Into how many folds so many patients are divided."""
    return min(MAX_FOLDS, patients)


def folds_command(recipe: str, run: str, folds: int) -> str:
    """The shell's line that trains a recipe once for each fold; both paths are quoted for it."""
    numbers = " ".join(map(str, range(folds)))
    fold = f"--set data.split.folds={folds} --set data.split.fold=$k"
    return f"for k in {numbers}; do gantk run {recipe} {fold} --out {run}_fold$k || break; done"
