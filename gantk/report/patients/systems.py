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
        """A line for each patient and score of the model and of each baseline, the mean over images and
        seeds: of the metrics that every run has alike.
        """
        lines = pd.concat([run.lines for run in self.runs])
        known = lines[(lines.patient != "") & ~lines.direction.str.endswith("_post")]
        score = ["direction", "metric", "system", "patient"]
        means = known.groupby(score, sort=False, as_index=False)["value"].mean()
        places = zip(means.direction, means.metric, strict=True)
        alike = [self._like(*place) is not None for place in places]
        return means.loc[alike].assign(finite=True)

    @cached_property
    def results(self) -> Results:
        """The scores; of several runs those over all patients."""
        return self._results_of_all() if self.is_pooled else self.runs[0].results

    @property
    def sentence(self) -> str:
        """The result in words; of several runs also what they are."""
        result = result_sentence(self.results, unseen=not any(run.leak for run in self.runs))
        if not self.is_pooled:
            return f"{self.name}: {result}"

        parts = []
        folds = self.runs[0].recipe.data.split.folds
        if folds:
            parts.append(f"{len(self.tests)} of {folds} folds")
        if len(self.seeds) > 1:
            parts.append(f"{len(self.seeds)} seeds")
        if not self.results.metrics:
            result = "no score that all have of each patient."
        together = f"{self.name}, {' with '.join(parts)} of one recipe, together"
        return f"{together}: {result or 'no baseline was measured of each patient.'}"

    def _results_of_all(self) -> Results:
        """The results of several runs, as if one run had tested the patients of all."""
        first = self.runs[0].results
        results = Results(domains=first.domains, split=first.split)
        for key, lines in self.lines.groupby("direction", sort=False):
            count = (lines.system == MODEL).sum()
            complete = lines.groupby("system", sort=False).filter(lambda own: len(own) == count)  # noqa: B023
            higher = {}
            for (name, metric), own in complete.groupby(["system", "metric"], sort=False):
                like = self._like(key, metric) or Score()
                higher[metric] = like.higher_is_better
                score = estimate(own["value"], own["patient"].to_list())
                systems = results.baselines.setdefault(name, {})
                systems.setdefault(key, {})[metric] = score.model_copy(update=like.dump())
            results.verdict[key] = {**pair_verdict(complete, higher)}

        results.metrics = results.baselines.pop(MODEL, {})
        add_tests(results)
        return results

    def _like(self, direction: str, metric: str) -> Score | None:
        """What a score over all runs has in common with that of each; None where these differ."""
        scores = [run.results.metrics.get(direction, {}).get(metric, Score()) for run in self.runs]
        kinds = {(each.definition, each.unit, each.higher_is_better) for each in scores}
        if len(kinds) > 1:
            return None
        definition, unit, higher = kinds.pop()
        images = sum(each.images or 0 for each in scores) // len(self.seeds)
        return Score(definition=definition, unit=unit, higher_is_better=higher, images=images)


def systems_of(named: Mapping[str, RunRecord]) -> list[System]:
    """The runs as systems. Scored runs whose recipes differ in the fold and the seed alone are one
    system, if every seed has the same tests, and no patient is in two of them.
    """
    groups: dict[tuple[str, ...], dict[str, RunRecord]] = {}
    for name, run in named.items():
        groups.setdefault(_recipe_of(run) or (name,), {})[name] = run

    systems = []
    for runs in groups.values():
        names = [*runs]
        if _are_repeated([*runs.values()]):
            title = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
            systems.append(System(title, [*runs.values()]))
        else:
            systems += [System(name, [run]) for name, run in runs.items()]
    places = [*named.values()]
    return sorted(systems, key=lambda system: places.index(system.runs[0]))


def _are_repeated(runs: Sequence[RunRecord]) -> bool:
    """Whether runs of one recipe have the same tests with every seed, which share no patient."""
    tests: dict[int, list[frozenset]] = {}
    patients: dict[int, list[str | None]] = {}
    for run in runs:
        seed = run.recipe.train.seed
        own = {image.subject for image in run.sets.test} if run.sets else set()
        tests.setdefault(seed, []).append(run.files_of("test"))
        patients.setdefault(seed, []).extend(own)
    is_once = all(len(own) == len({*own}) for own in patients.values())
    return is_once and len({frozenset(own) for own in tests.values()}) == 1


def _recipe_of(run: RunRecord) -> tuple[str, ...]:
    """The recipe without its seed, and without the fold of known patients; () of a run that has no
    scores.
    """
    has_folds = run.recipe.data.split.folds and run.sets and run.sets.by == "patient"
    left_out = {SEED, FOLD} if has_folds else {SEED}
    values = {key: value for key, value in flat(run.recipe.dump()) if key not in left_out}
    return ("recipe", json.dumps(values)) if run.results.metrics else ()
