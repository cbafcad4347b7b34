"""Scores every contrast, translated from each single other one and from all others, on a run's test
images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gantk.metrics.baselines import IntensityMap, identity
from gantk.metrics.evaluate import MAX_BASELINE_IMAGES, Scorer, Tested
from gantk.metrics.pair_scores import References
from gantk.metrics.references import MAX_SET_BYTES, number_that_fits, spread
from gantk.metrics.verdict import pair_verdict


def add_scores(tested: Tested, scorer: Scorer, result: dict[str, Any]) -> None:
    """Add rows such as `T1_to_FLAIR`, and `others_to_FLAIR` from all contrasts but FLAIR, with
    baselines and verdicts.

    All rows use the same images. Their baselines, the mean of the network's inputs and the best
    intensity map from them, see no more than the network. Baselines over all contrasts at once are
    removed where a contrast is both source and target, because they see the truth.
    """
    method = scorer.method
    data = tested.data
    known = tested.references
    if set(method.sources) & set(method.targets):
        for rows in (*result["baselines"].values(), result["verdict"]):
            rows.pop("a_to_b", None)

    images = scorer.reals.network_inputs([pair["a"] for pair in tested.pairs])
    channels = torch.arange(images.shape[1]).view(1, -1, *[1] * (images.ndim - 2))
    contrast = channels % len(method.sources)
    max_bytes = MAX_SET_BYTES // (2 * len(method.sources))
    count = number_that_fits(MAX_BASELINE_IMAGES, max_bytes, data.table.size)
    pairs = spread(data.pairs("train"), count)
    if pairs:
        train_inputs = scorer.reals.scored_images([pair["a"] for pair in pairs])
        train_targets = scorer.reals.scored_images([pair["b"] for pair in pairs])

    for source in (*method.sources, "others"):
        made = tested.made
        if source != "others":
            seen = torch.where(contrast == method.sources.index(source), images, data.range[0])
            made = data.centre(scorer.translate(seen, tested.to))

        for place, target in enumerate(method.targets):
            shown = input_numbers(method.sources, source, target)
            if not shown:
                continue

            truth = References(
                known.images[:, [place]], known.patients, None, known.foreground, known.volumes
            )
            outputs = {"model": made[:, [place]], "identity": identity(tested.inputs[:, shown], 1)}
            if pairs:
                known_pairs = zip(train_inputs[:, shown], train_targets[:, [place]], strict=True)
                outputs["intensity_map"] = IntensityMap(known_pairs)(tested.inputs[:, shown])

            scores = {name: scorer.pairs(output, truth) for name, output in outputs.items()}
            rows = {name: scorer.pairs.rows(found) for name, found in scores.items()}
            key = f"{source}_to_{target}"
            result["metrics"][key] = rows.pop("model")
            result["verdict"][key] = pair_verdict(scores.pop("model"), scores, scorer.pairs.senses)
            for name, row in rows.items():
                result["baselines"].setdefault(name, {})[key] = row


def input_numbers(sources: Sequence[str], source: str, target: str) -> list[int]:
    """The numbers of the contrasts that the row of `source` ("others": all but the target) sees."""
    if source == target:
        return []
    if source == "others":
        return [number for number, name in enumerate(sources) if name != target]
    return [number for number, name in enumerate(sources) if name == source]
