"""MUNIT's learning-rate schedule: halves the rate at equal intervals."""

from __future__ import annotations

from gantk.plugin.spec import Count


class Halving:
    """Divides the training into `times` equal parts and halves the learning rate after each (Huang
    et al. 2018, appendix B).

    The paper halves it every 100,000 of 1,000,000 steps: ten parts, the last at 1/512 of the first
    learning rate.
    """

    def __init__(
        self,
        *,
        times: Count = 10,  # number of parts with a constant rate; 1 = a constant learning rate
    ):
        self.times = times

    def __call__(self, progress: float) -> float:
        # 1e-9: rounding must not delay a halving; 0.3 * 10 is a little less than 3
        return 0.5 ** min(self.times - 1, int(progress * self.times + 1e-9))
