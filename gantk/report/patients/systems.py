"""What a comparison compares: runs; folds of one recipe, whose test patients count together; and
trainings with several seeds, whose scores of a patient are averaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from gantk.metrics.intervals import estimate
from gantk.metrics.verdict import short_metric_name
from gantk.recipe.load import mapping
from gantk.report.run_record import RunRecord
from gantk.runs.folder import flat
from gantk.runs.results import Score

FOLD = "data.split.fold"
SEED = "train.seed"
Scores = Mapping[str, Mapping[str, Score]]  # direction in words -> metric
# (direction in words, metric) -> patient -> value
Values = dict[tuple[str, str], dict[str, float | None]]


@dataclass(frozen=True)
class System:
    """A run; or all folds of one recipe, as if one run had tested all patients; or trainings of either
    with several seeds, as if one run had the mean of their scores of each patient.
    """

    name: str
    place: int  # of its first run among all runs
    runs: list[RunRecord]

    @property
    def is_pooled(self) -> bool:
        return len(self.runs) > 1

    @cached_property
    def tests(self) -> dict[frozenset, RunRecord]:
        """The run that was scored on each set of test images, by their files or names."""
        found = {}
        for run in self.runs:
            found[run.files_of("test")] = run
        return found

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({_seed(run) for run in self.runs})

    @cached_property
    def values(self) -> Values:
        """The scores of patients, of metrics that every run has alike of each of its patients; of
        several seeds their mean.
        """
        by_run = [_values(run) for run in self.runs]
        found: Values = {}
        for label, metric in by_run[0]:
            in_all = all((label, metric) in of_run for of_run in by_run)
            if in_all and _are_alike([own[label][metric] for own in self._metrics_by_run]):
                of_runs = [of_run[label, metric] for of_run in by_run]
                found[label, metric] = {
                    patient: _mean([values.get(patient) for values in of_runs])
                    for values in of_runs
                    for patient in values
                }
        return found

    @cached_property
    def _metrics_by_run(self) -> list[Scores]:
        return [_by_label(run, run.results.metrics) for run in self.runs]

    @cached_property
    def metrics(self) -> Scores:
        """The scores; of folds the means over the patients of all of them."""
        if not self.is_pooled:
            return self._metrics_by_run[0]

        pooled: dict[str, dict[str, Score]] = {}
        for (label, metric), values in self.values.items():
            scores = [own[label][metric] for own in self._metrics_by_run]
            pooled.setdefault(label, {})[metric] = _mean_of_patients(
                scores, values, len(self.seeds)
            )
        return pooled

    @property
    def files(self) -> Scores:
        """The scores of whole files; none of folds, as they are not stored of each patient."""
        return {} if self.is_pooled else _by_label(self.runs[0], self.runs[0].results.files)

    def baselines(self, label: str) -> Iterator[tuple[str, dict[str, Score]]]:
        """Yield each baseline's name and scores of a direction; none of folds, as for `files`."""
        if self.is_pooled:
            return
        (run,) = self.runs
        for key in run.results.metrics:
            if run.label(key) == label:
                for name in run.results.baselines:
                    yield name, run.results.baseline(name, key)

    @property
    def sentence(self) -> str:
        """Of several runs: what they are, and the first score of each direction over all patients."""
        clauses = []
        for label, own in self.metrics.items():
            for metric, score in list(own.items())[:1]:
                figures = f"{score.text()} {score.interval()}".rstrip()
                clauses.append(f"{label}: {short_metric_name(metric)} {figures}, {score.sample()}")
                if len(self.seeds) > 1:
                    clauses[-1] += f", {self._by_seed(label, metric)}"
        together = "; ".join(clauses) or "no score that all have of each patient"
        return f"{self.name}, {self._parts}, together: {together}."

    @property
    def _parts(self) -> str:
        """`3 of 5 folds of one recipe`, `2 seeds of one recipe`."""
        parts = []
        if folds := _split(self.runs[0]).get("folds"):
            parts.append(f"{len(self.runs) // len(self.seeds)} of {folds} folds")
        if len(self.seeds) > 1:
            parts.append(f"{len(self.seeds)} seeds")
        return f"{' with '.join(parts)} of one recipe"

    def _by_seed(self, label: str, metric: str) -> str:
        """`24.10 dB to 25.32 dB by seed`: the lowest and the highest mean over the patients."""
        means = []
        for seed in self.seeds:
            of_seed = System("", 0, [run for run in self.runs if _seed(run) == seed])
            means.append(of_seed.metrics[label][metric])
        means.sort(key=lambda score: score.value or 0.0)
        return f"{means[0].text()} to {means[-1].text()} by seed"


def systems_of(named: Mapping[str, RunRecord]) -> list[System]:
    """The runs as systems. Scored runs whose recipes differ in the fold alone are one system, if no
    patient is tested by two of them; so are those of several seeds, if all have the same tests.
    """
    groups: dict[tuple[str, ...], dict[str, RunRecord]] = {}
    for name, run in named.items():
        groups.setdefault(_recipe_of(run) or (name,), {})[name] = run

    places = [*named]
    systems = []
    for repeated in groups.values():
        by_seed: dict[int, dict[str, RunRecord]] = {}
        for name, run in repeated.items():
            by_seed.setdefault(_seed(run), {})[name] = run
        of_seeds = [_folds_together(folds, places) for folds in by_seed.values()]
        are_alike = (
            len({frozenset(system.tests) for of_seed in of_seeds for system in of_seed}) == 1
        )
        if are_alike and all(len(of_seed) == 1 for of_seed in of_seeds):
            of_seeds = [[_system(repeated, places)]]
        systems += [system for of_seed in of_seeds for system in of_seed]
    return sorted(systems, key=lambda system: system.place)


def _folds_together(runs: Mapping[str, RunRecord], places: list[str]) -> list[System]:
    """Folds of one recipe as one system, if no patient is tested by two of them; else each run."""
    tested = [{one.subject for one in run.sets.test} for run in runs.values() if run.sets]
    are_folds = all(_has_folds(run) for run in runs.values())
    if are_folds and sum(map(len, tested)) == len(set().union(*tested)):
        return [_system(runs, places)]
    return [_system({name: run}, places) for name, run in runs.items()]


def _system(runs: Mapping[str, RunRecord], places: list[str]) -> System:
    first, *_, last = [*runs, *runs]
    title = first if len(runs) == 1 else f"{first} to {last}"
    return System(title, places.index(first), [*runs.values()])


def _recipe_of(run: RunRecord) -> tuple[str, ...]:
    """The recipe without its seed, and without the fold of known patients; () of a run that has no
    scores.
    """
    left_out = {SEED, FOLD} if _has_folds(run) else {SEED}
    values = {key: value for key, value in flat(run.recipe) if key not in left_out}
    return ("recipe", json.dumps(values)) if run.results.metrics else ()


def _has_folds(run: RunRecord) -> bool:
    return bool(_split(run).get("folds") and run.sets and run.sets.by == "patient")


def _seed(run: RunRecord) -> int:
    return int(run.table("train").get("seed", 0))


def _split(run: RunRecord) -> Mapping:
    return mapping(run.table("data").get("split"))


def _values(run: RunRecord) -> Values:
    """The scores of each patient of a run, of metrics with a score for each patient."""
    found = {}
    for key, one in run.patients.items():
        for metric, score in run.results.metrics.get(key, {}).items():
            values = {each.patient: each.scores.get(metric) for each in one.patients}
            scored = [value for value in values.values() if value is not None]
            if score.n == len(scored):  # else no patient is known
                found[run.label(key), metric] = values
    return found


def _by_label(run: RunRecord, scores: Scores) -> Scores:
    """Scores by direction, by the direction in words."""
    return {run.label(key): own for key, own in scores.items()}


def _are_alike(scores: list[Score]) -> bool:
    return len({(each.definition, each.unit, each.higher_is_better) for each in scores}) == 1


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _mean_of_patients(scores: list[Score], values: Mapping[str, float | None], seeds: int) -> Score:
    """The mean over the patients of several scores of one metric, each image scored once a seed."""
    known = {patient: value for patient, value in values.items() if value is not None}
    found = estimate([*known.values()], [*known])
    about = ("unit", "definition", "higher_is_better")
    kept = {key: getattr(scores[0], key) for key in about}
    images = sum(each.images or 0 for each in scores) // seeds
    return found.model_copy(update=kept | {"images": images})
