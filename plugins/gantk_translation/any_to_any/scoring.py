"""Scores every contrast, translated from the others or some of them, on a run's test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product

import torch

from gantk.metrics.baselines import IntensityMap, identity
from gantk.metrics.evaluate import MAX_BASELINE_IMAGES, Scorer, Tested
from gantk.metrics.pair_scores import score_pairs
from gantk.metrics.references import MAX_SET_BYTES, number_that_fits, spread
from gantk.runs.results import Case, Results

# Pairs scored at most: each image is translated once for every case.
MAX_PAIRS = 128
# Of more contrasts only the cases of one input and of all inputs are scored, not all subsets.
MAX_CONTRASTS_OF_ALL_CASES = 4


def cases(sources: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """All cases of (contrasts that are there, contrast to make), fewest inputs first."""
    for target in targets:
        others = [name for name in sources if name != target]
        for count in range(1, len(others) + 1):
            if len(sources) <= MAX_CONTRASTS_OF_ALL_CASES or count in (1, len(others)):
                yield from product(combinations(others, count), [target])


def add_scores(tested: Tested, scorer: Scorer, results: Results) -> None:
    """Add rows for all cases, such as `T1_to_FLAIR`, `T1+T2_to_FLAIR`, and `others_to_FLAIR` from
    all contrasts but FLAIR, with baselines and verdicts.

    All rows use the same images: `MAX_PAIRS` of the test split, evenly spaced. Their baselines, the
    mean of the network's inputs and the best intensity map from them, see no more than the network.
    Baselines over all contrasts at once are removed where a contrast is both source and target,
    because they see the truth.
    """
    method = scorer.method
    data = tested.data
    places = spread(range(len(tested.pairs)), MAX_PAIRS)
    known = tested.references
    inside = known.foreground
    known = replace(
        known,
        images=known.images[places],
        patients=[known.patients[place] for place in places],
        names=[known.names[place] for place in places],
        foreground=None if inside is None else inside[places],
        masks=None,
        units=None,
    )
    scored_inputs = tested.inputs[places]
    if set(method.sources) & set(method.targets):
        results.drop_baselines("a_to_b")

    records = [tested.pairs[place]["a"] for place in places]
    images = scorer.reals.network_inputs(records)
    channels = torch.arange(images.shape[1]).view(1, -1, *[1] * (images.ndim - 2))
    contrast = channels % len(method.sources)
    max_bytes = MAX_SET_BYTES // (2 * len(method.sources))
    count = number_that_fits(MAX_BASELINE_IMAGES, max_bytes, data.table.size)
    pairs = spread(data.pairs("train"), count)
    if pairs:
        train_inputs = scorer.reals.scored_images([pair["a"] for pair in pairs])
        train_targets = scorer.reals.scored_images([pair["b"] for pair in pairs])

    for given, target in cases(method.sources, method.targets):
        several = 1 < len(given) == len({*method.sources} - {target})
        key = f"{'others' if several else '+'.join(given)}_to_{target}"
        results.cases[key] = Case(given=[*given], made=target)
        place = method.targets.index(target)
        shown = [method.sources.index(name) for name in given]
        is_there = torch.isin(contrast, torch.tensor(shown))
        seen = torch.where(is_there, images, data.range[0])
        made = data.centre(scorer.translate_contrast(seen, tested.to, target))
        truth = replace(known, images=known.images[:, [place]])
        baselines = {"identity": identity(scored_inputs[:, shown], 1)}
        if pairs:
            known_pairs = zip(train_inputs[:, shown], train_targets[:, [place]], strict=True)
            baselines["intensity_map"] = IntensityMap(known_pairs)(scored_inputs[:, shown])

        score_pairs(results, key, scorer.pairs, {key: made[:, [place]]}, baselines, truth)
