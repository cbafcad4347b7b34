"""What a comparison compares: runs; folds of one recipe, whose test patients count together; and
trainings with several seeds, whose scores of a patient are averaged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from gantk.metrics.comparing import add_tests
from gantk.metrics.intervals import estimate
from gantk.metrics.rows import result_sentence
from gantk.metrics.table import MODEL
from gantk.metrics.verdict import pair_verdict
from gantk.report.run_record import RunRecord
from gantk.runs.folder import flat
from gantk.runs.results import Results, Score

FOLD = "data.split.fold"
SEED = "train.seed"


@dataclass(frozen=True)
class System:
    """A run; or all folds and seeds of one recipe, as if one run had tested all patients, with the mean
    over the seeds as each patient's score.
    """

    name: str
    runs: list[RunRecord]

    @property
    def is_pooled(self) -> bool:
        return len(self.runs) > 1

    @cached_property
    def tests(self) -> dict[frozenset, RunRecord]:
        """The run that was scored on each set of test images, by their files or names."""
        return {run.files_of("test"): run for run in self.runs}

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({run.recipe.train.seed for run in self.runs})

    @cached_property
    def lines(self) -> pd.DataFrame:
        """The scores of each patient, of the metrics with a score for each."""
        return _lines_of(self.runs)

    @cached_property
    def results(self) -> Results:
        """The scores; of several runs those over all patients."""
        return self._pooled() if self.is_pooled else self.runs[0].results

    @property
    def sentence(self) -> str:
        """The result in words; of several runs also what they are."""
        result = result_sentence(self.results, unseen=not any(run.leak for run in self.runs))
        if not self.is_pooled:
            return f"{self.name}: {result}"

        parts = []
        folds = self.runs[0].recipe.data.split.folds
        if folds:
            parts.append(f"{len(self.runs) // len(self.seeds)} of {folds} folds")
        if len(self.seeds) > 1:
            parts.append(f"{len(self.seeds)} seeds")
        together = f"{self.name}, {' with '.join(parts)} of one recipe, together"
        if not self.results.metrics:
            return f"{together}: no score that all have of each patient."
        said = [result or "no baseline was measured of each patient."]
        if len(self.seeds) > 1:
            said += [self._by_seed(key) for key in self.results.metrics]
        return f"{together}: {' '.join(said)}"

    def _by_seed(self, key: str) -> str:
        """`T1 → T2: 24.10 dB to 25.32 dB by seed.`: the lowest and the highest mean over patients."""
        metric = next(iter(self.results.metrics[key]))
        means = []
        for seed in self.seeds:
            of_seed = [run for run in self.runs if run.recipe.train.seed == seed]
            means.append(System("", of_seed).results.metrics[key][metric])
        means.sort(key=lambda score: score.value or 0.0)
        return f"{self.runs[0].label(key)}: {means[0].text()} to {means[-1].text()} by seed."

    def _pooled(self) -> Results:
        """The results of several runs, as if one run had tested the patients of all."""
        first = self.runs[0].results
        results = Results(domains=first.domains, split=first.split)
        for key, lines in self.lines.groupby("direction", sort=False):
            systems = {name: own for name, own in lines.groupby("system", sort=False)}
            complete = {
                name: own for name, own in systems.items() if len(own) == len(systems[MODEL])
            }
            like = {metric: _scores_in(self.runs, key, metric) for metric in lines.metric.unique()}
            for name, own in complete.items():
                directions = (
                    results.metrics if name == MODEL else results.baselines.setdefault(name, {})
                )
                directions[key] = {
                    metric: self._mean(of_metric, like[metric])
                    for metric, of_metric in own.groupby("metric", sort=False)
                }
            higher = {metric: scores[0].higher_is_better for metric, scores in like.items()}
            results.verdict[key] = {**pair_verdict(pd.concat(complete.values()), higher)}

        add_tests(results)
        return results

    def _mean(self, lines: pd.DataFrame, of_runs: Sequence[Score]) -> Score:
        """The mean over patients, of the kind and on as many images as the scores of each run."""
        first = of_runs[0]
        return estimate(
            lines["value"],
            lines["patient"].to_list(),
            unit=first.unit,
            definition=first.definition,
            higher_is_better=first.higher_is_better,
            images=sum(each.images or 0 for each in of_runs) // len(self.seeds),
        )


def systems_of(named: Mapping[str, RunRecord]) -> list[System]:
    """The runs as systems. Scored runs whose recipes differ in the fold and the seed alone are one
    system, if every seed has the same tests, and no patient is in two of them.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, run in named.items():
        groups.setdefault(_recipe_of(run) or (name,), []).append(name)

    systems = []
    for names in groups.values():
        if _are_repeated([named[name] for name in names]):
            title = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
            systems.append(System(title, [named[name] for name in names]))
        else:
            systems += [System(name, [named[name]]) for name in names]
    places = [*named.values()]
    return sorted(systems, key=lambda system: places.index(system.runs[0]))


def _are_repeated(runs: Sequence[RunRecord]) -> bool:
    """Whether runs of one recipe have the same tests with every seed, which share no patient."""
    by_seed: dict[int, list[RunRecord]] = {}
    for run in runs:
        by_seed.setdefault(run.recipe.train.seed, []).append(run)
    for folds in by_seed.values():
        patients = [{image.subject for image in run.sets.test} for run in folds if run.sets]
        if sum(map(len, patients)) > len(set().union(*patients)):
            return False
    return (
        len({frozenset(run.files_of("test") for run in folds) for folds in by_seed.values()}) == 1
    )


def _recipe_of(run: RunRecord) -> tuple[str, ...]:
    """The recipe without its seed, and without the fold of known patients; () of a run that has no
    scores.
    """
    has_folds = run.recipe.data.split.folds and run.sets and run.sets.by == "patient"
    left_out = {SEED, FOLD} if has_folds else {SEED}
    values = {key: value for key, value in flat(run.recipe.dump()) if key not in left_out}
    return ("recipe", json.dumps(values)) if run.results.metrics else ()


def _lines_of(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """A line for each patient and score, the mean over images, then over seeds: of the metrics that
    every run has alike, and of each of its patients.
    """
    lines = pd.concat([run.lines.assign(run=number) for number, run in enumerate(runs)])
    known = lines[(lines.patient != "") & ~lines.direction.str.endswith("_post")]
    score = ["direction", "metric", "system", "patient"]
    of_runs = known.groupby([*score, "run"], sort=False, as_index=False)["value"].mean()
    complete = [of_runs[:0]]
    for (direction, metric), own in of_runs.groupby(["direction", "metric"], sort=False):
        scores = _scores_in(runs, direction, metric)
        alike = len({(each.definition, each.unit, each.higher_is_better) for each in scores}) == 1
        count = own[own.system == MODEL]["value"].count()
        if alike and count and count == sum(each.n or 0 for each in scores):
            complete.append(own)
    means = pd.concat(complete).groupby(score, sort=False, as_index=False)["value"].mean()
    return means.assign(finite=True)


def _scores_in(runs: Sequence[RunRecord], direction: str, metric: str) -> list[Score]:
    """A score of each run."""
    return [run.results.metrics.get(direction, {}).get(metric, Score()) for run in runs]
