"""The learning rate of MUNIT: halved again and again."""

from __future__ import annotations

from gantk.plugin.spec import Count


class Halving:
    """Half the rate after each of `times` equal stretches of the training (Huang et al. 2018, appendix B).

    The paper halves it every 100,000 of 1,000,000 steps: ten stretches, the last at 1/512 of the first.
    """

    def __init__(
        self,
        *,
        times: Count = 10,  # stretches of one rate each; 1 = a constant rate
    ):
        self.times = times

    def __call__(self, progress: float) -> float:
        # what is left of rounding must not put off a halving: 0.3 * 10 is a little less than 3
        return 0.5 ** min(self.times - 1, int(progress * self.times + 1e-9))
