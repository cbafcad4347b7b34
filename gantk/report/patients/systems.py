"""What a comparison compares: runs, and folds of one recipe, whose test patients count together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from gantk.metrics.intervals import estimate
from gantk.metrics.verdict import short_metric_name
from gantk.recipe.load import mapping
from gantk.report.run_record import RunRecord
from gantk.runs.folder import flat
from gantk.runs.results import Score

FOLD = "data.split.fold"
Scores = Mapping[str, Mapping[str, Score]]  # direction in words -> metric
# (direction in words, metric) -> patient -> value
Values = dict[tuple[str, str], dict[str, float | None]]


@dataclass(frozen=True)
class System:
    """A run; or the runs that test folds of one recipe, as if one run had tested all patients."""

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
    def values(self) -> Values:
        """The scores of patients, of metrics that every run has alike of each of its patients."""
        by_run = [_values(run) for run in self.runs]
        found: Values = {}
        for label, metric in by_run[0]:
            in_all = all((label, metric) in of_run for of_run in by_run)
            if in_all and _are_alike([own[label][metric] for own in self._metrics_by_run]):
                found[label, metric] = {}
                for of_run in by_run:
                    found[label, metric] |= of_run[label, metric]
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
            pooled.setdefault(label, {})[metric] = _mean_of_folds(scores, values)
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
        """Of folds: how many they are, and the first score of each direction over all patients."""
        clauses = []
        for label, own in self.metrics.items():
            for metric, score in list(own.items())[:1]:
                figures = f"{score.text()} {score.interval()}".rstrip()
                clauses.append(f"{label}: {short_metric_name(metric)} {figures}, {score.sample()}")
        together = "; ".join(clauses) or "no score that all have of each patient"
        of = _split(self.runs[0])["folds"]
        return f"{self.name}, {len(self.runs)} of {of} folds of one recipe, together: {together}."


def systems_of(named: Mapping[str, RunRecord]) -> list[System]:
    """The runs as systems. Scored runs whose recipes differ in the fold alone are one system, if no
    patient is tested by two of them.
    """
    groups: dict[str, list[str]] = {}
    for name, run in named.items():
        groups.setdefault(_recipe_of_fold(run) or name, []).append(name)

    systems = []
    for names in groups.values():
        apart = [[name] for name in names]
        for together in [names] if _test_other_patients([named[name] for name in names]) else apart:
            title = together[0]
            if len(together) > 1:
                title += f" to {together[-1]}"
            runs = [named[name] for name in together]
            systems.append(System(title, [*named].index(together[0]), runs))
    return sorted(systems, key=lambda system: system.place)


def _recipe_of_fold(run: RunRecord) -> str:
    """The recipe without its fold; "" of a run without folds of known patients or without scores."""
    of_patients = run.sets is not None and run.sets.by == "patient"
    if not (_split(run).get("folds") and of_patients and run.results.metrics):
        return ""
    return json.dumps({key: value for key, value in flat(run.recipe) if key != FOLD})


def _split(run: RunRecord) -> Mapping:
    return mapping(run.table("data").get("split"))


def _test_other_patients(runs: list[RunRecord]) -> bool:
    """Whether no patient is tested by two of the runs."""
    tested = [{one.subject for one in run.sets.test} for run in runs if run.sets]
    return sum(map(len, tested)) == len(set().union(*tested))


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


def _mean_of_folds(scores: list[Score], values: Mapping[str, float | None]) -> Score:
    """The mean over the patients of several scores of one metric."""
    known = {patient: value for patient, value in values.items() if value is not None}
    found = estimate([*known.values()], [*known])
    about = ("unit", "definition", "higher_is_better")
    kept = {key: getattr(scores[0], key) for key in about}
    return found.model_copy(update=kept | {"images": sum(each.images or 0 for each in scores)})
