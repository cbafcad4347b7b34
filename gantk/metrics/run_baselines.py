"""The baselines of a run: what identity, histograms, a look-up table and plain regression make of its test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch import Tensor

from gantk.data.dataset import Data
from gantk.data.items import Record
from gantk.machine.runtime import Runtime
from gantk.metrics.baselines import HistogramMatching, IntensityMap, identity
from gantk.metrics.reals import BYTES, MOST, spread
from gantk.metrics.references import OTHER
from gantk.recipe.tables import Model

BASELINE_IMAGES = 64  # training images that histograms and intensity maps are taken of

Baseline = Callable[[Tensor], Tensor]  # sources (N, C, *size) to images (N, C', *size)


def rivals(
    model: Model, data: Data, load: Callable[[Record], Tensor], to: str, runtime: Runtime
) -> Iterator[tuple[str, Baseline]]:
    """(name, baseline) for images of domain `to`; those that learn from pairs only where training pairs are known.

    `load` gives a record as it is scored, (C, *size).
    """
    pool = [load(record) for record in spread(_of(data.splits["train"], to), BASELINE_IMAGES)]
    yield "identity", lambda sources: identity(sources, len(pool[0]))
    yield "histogram", HistogramMatching(pool)
    pairs = data.pairs("train")
    if not pairs:
        return
    shown = lambda count: ((load(pair[OTHER[to]]), load(pair[to])) for pair in spread(pairs, count))  # noqa: E731
    yield "intensity_map", IntensityMap(shown(BASELINE_IMAGES))
    if model.evaluate.regression:
        from gantk.metrics.regression import Regression

        low, high = data.range
        yield (
            "regression",
            Regression(
                shown(min(MOST, max(2, BYTES // (8 * int(np.prod(model.data.size)))))),
                dims=model.data.dims,
                steps=model.evaluate.regression,
                seed=model.train.seed,
                low=low,
                high=high,
                runtime=runtime,
            ),
        )


def _of(records: Sequence[Record], letter: str) -> list[Record]:
    return [record for record in records if record.domain == letter]
