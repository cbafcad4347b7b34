"""What a comparison compares: the runs of one recipe, which differ in fold and seed alone, as one system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from gantk.metrics.comparing import add_tests
from gantk.metrics.names import name_systems
from gantk.metrics.pair_scores import add_scores
from gantk.metrics.rows import Said, result_sentences, sets_sentence
from gantk.metrics.table import MODEL
from gantk.report.run_record import RunRecord
from gantk.runs.folder import FOLD, recipe_without
from gantk.runs.results import Results, Score, ScoresByMetric, StoredImage

SEED = "train.seed"
ABOUT = {"definition", "unit", "higher_is_better"}  # keys that runs of one recipe have alike


@dataclass(frozen=True)
class System:
    """A run; or folds and seeds of one recipe, as if one run had tested all patients, with the mean
    over the seeds as each image's score.
    """

    name: str
    folders: list[str]
    runs: list[RunRecord]

    @cached_property
    def lines(self) -> pd.DataFrame:
        """The scores of single images of known patients, without those after the post-steps."""
        lines = pd.concat([run.lines for run in self.runs])
        return lines[(lines.patient != "") & ~lines.direction.str.endswith("_post")]

    @property
    def test_images(self) -> frozenset[tuple[str, str]]:
        """The file and the name of each test image."""
        return frozenset().union(*(run.test_images for run in self.runs))

    @property
    def saved_images(self) -> dict[tuple[str, ...], tuple[RunRecord, StoredImage]]:
        """The saved test images by direction in words, name, and the files of input and truth."""
        found = {}
        for run in self.runs:
            for key, images in run.stored.items():
                for image in images:
                    files = (run.test_files.get(path, path) for path in (image.input, image.truth))
                    found[run.label(key), image.image, *files] = run, image
        return found

    @cached_property
    def results(self) -> Results:
        """The scores of a run; of several those of the patients of all."""
        first = self.runs[0].results
        if len(self.runs) == 1:
            return first

        results = Results(
            domains=first.domains, split=first.split, baseline_steps=first.baseline_steps
        )
        place = ["direction", "metric", "system", "image", "patient"]
        means = self.lines.groupby(place, sort=False, as_index=False)["value"].mean()
        for key, of_direction in means.groupby("direction", sort=False):
            about = self._about(key)
            own = of_direction[of_direction.metric.isin(about)].assign(finite=True, corrected=None)
            count = (own.system == MODEL).sum()
            if count:
                complete = own[own.groupby("system").system.transform("size") == count]
                add_scores(results, complete, about)
        add_tests(results)
        return results

    def _about(self, direction: str) -> ScoresByMetric:
        """What all runs say alike of a score: its definition, unit and which way is better."""
        about = [
            {
                metric: Score(**score.model_dump(include=ABOUT))
                for metric, score in run.results.metrics.get(direction, {}).items()
            }
            for run in self.runs
        ]
        return {
            metric: score
            for metric, score in about[0].items()
            if all(own.get(metric) == score for own in about)
        }

    @property
    def is_halved(self) -> bool:
        """Whether each known patient of its training gave one contrast only, as unpaired methods need."""
        run = self.runs[0]
        images = getattr(run.sets, "train", ())
        contrasts = {(image.subject, image.domain) for image in images if image.subject}
        patients = {patient for patient, _ in contrasts}
        return len(run.domains) > 1 and 0 < len(contrasts) == len(patients)

    @property
    def sentences(self) -> list[Said]:
        """The result in sentences with their tones; of several runs also how many they are."""
        if not self.results.metrics:
            why = self.runs[0].why_unscored
            if len(self.runs) > 1:
                why = "no score that all of these runs have of each patient"
            return [Said(f"{self.name}: {why}.", "")]
        unseen = not any(run.leak for run in self.runs)
        said_of_all = sets_sentence(self.results)
        said = [
            each
            for each in result_sentences(self.results, unseen=unseen)
            if each.text != said_of_all
        ]
        (text, tone), *others = said or [Said("not compared with a baseline.", "")]
        of_runs = f" ({len(self.runs)} runs of one recipe)" if len(self.runs) > 1 else ""
        size = self.runs[0].environment.size
        return [Said(f"{self.name}{of_runs}{size}: {text}", tone), *others]


def systems_of(named: Mapping[str, RunRecord]) -> list[System]:
    """The runs as systems: scored runs whose recipes differ in fold and seed alone are one."""
    groups: dict[str, dict[str, RunRecord]] = {}
    for name, run in named.items():
        key = recipe_without(run.recipe.dump(), FOLD, SEED) if run.results.metrics else name
        groups.setdefault(key, {})[name] = run

    found = []
    for runs in groups.values():
        # no two of one system trained the same fold with the same seed
        are_one = len({str(run.recipe.dump()) for run in runs.values()}) == len(runs)
        found += [runs] if are_one else [{name: run} for name, run in runs.items()]
    return [
        System(name, [*runs], [*runs.values()])
        for name, runs in zip(name_systems(found), found, strict=True)
    ]
