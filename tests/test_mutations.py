"""A wrong metric is worse than none: each of these small mistakes in the metric code makes a quick test fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAIRS = ("test_pair_scores.py", "test_metrics.py", "test_baselines.py")
SETS = ("test_sets.py",)
EVALUATION = ("test_evaluation.py",)

MUTANTS = [
    # module, the line, the mistake, the tests that must notice
    ("pairs", "self.data_range**2 / mean", "self.data_range / mean", PAIRS),
    ("pairs", "(output - reference).square()", "(output + reference).square()", PAIRS),
    ("pairs", "(output - reference).abs()", "(output - reference)", PAIRS),
    ("pairs", '"mae", "", False', '"mae", "", True', PAIRS),
    ("pairs", "torch.where(mask, values, 0).flatten(1).sum(1)", "values.flatten(1).sum(1)", PAIRS),
    ("pairs", "[self._on_map(expanded(mask, output)) for mask in masks]", "[None for mask in masks]", PAIRS),
    ("pairs", "(0.03 * data_range) ** 2", "(0.03 * float(reference.max() - reference.min())) ** 2", PAIRS),
    ("pairs", "(0.01 * data_range) ** 2", "(0.01 * float(reference.max())) ** 2", PAIRS),
    ("pairs", "2 * (mean_or - products) + c2", "2 * (mean_or + products) + c2", PAIRS),
    ("pairs", "(weight / sum(weights))", "weight", PAIRS),
    ("pairs", "2 * images / self.data_range - 1", "2 * images / images.amax() - 1", PAIRS),
    ("pairs", '"lpips_random" if self.random else "lpips"', '"lpips"', PAIRS),
    ("pairs", "region_mean(c, inside) - region_mean(c, ring)", "region_mean(c, inside)", PAIRS),
    ("intervals", "gains if higher_is_better else -gains", "gains", PAIRS),
    ("intervals", "counts[picks].sum(1), [2.5, 97.5]", "counts[picks].sum(1), [5, 95]", PAIRS),
    ("intervals", "weights=None if weights is None else weights[known]", "weights=None", PAIRS),
    ("intervals", "(count - 1) / count * np.square", "np.square", PAIRS),
    (
        "pair_scores",
        "{FOREGROUND: references.foreground, LESION: references.masks}",
        "{FOREGROUND: references.masks, LESION: references.foreground}",
        PAIRS,
    ),
    ("pair_scores", "linearly_corrected(made, real, mask)", "linearly_corrected(made, real)", PAIRS),
    ("references", "return mappings[0].inverse(images)", "return mappings[0].forward(images)", PAIRS),
    ("verdict", "(max if higher else min)(known", "(min if higher else max)(known", PAIRS),
    ("verdict", "if n not in WITH_PAIRS", "if n in WITH_PAIRS", PAIRS),
    ("baselines", "mean_y + slope * (x - mean_x)", "mean_y - slope * (x - mean_x)", PAIRS),
    ("baselines", "sums[:, counts > 0] / counts[counts > 0]", "sums[:, counts > 0] / counts.mean()", PAIRS),
    ("evaluate", 'self.reals.records("train", to)', 'self.reals.records("test", to)', EVALUATION),
    ("sets", "(w @ k @ w - w @ diagonal)", "(w @ k @ w)", SETS),
    ("sets", "- 2 * (weights[0] @", "+ 2 * (weights[0] @", SETS),
    ("sets", "spreads - 2 * shared", "spreads", SETS),
    ("sets", "(len(vectors) - 1) ** 0.5", "len(vectors) ** 0.5", SETS),
    ("sets", "scale = train.vectors(self.features)", "scale = test.vectors(self.features)", SETS),
    ("sets", "self.kind + self.features.suffix", "self.kind", SETS),
    ("neighbours", "np.ix_(keep, keep)], k - 1, axis=1)[:, k - 1]", "np.ix_(keep, keep)], k, axis=1)[:, k]", SETS),
    ("neighbours", "np.fill_diagonal(away, np.inf)", "pass", SETS),
    ("features", "picture = picture.clamp(0, 1)", "picture = (picture * 255).round() / 255", ("test_features.py",)),
]


def outcome(mutant: list[str] | None, files: tuple[str, ...]) -> subprocess.CompletedProcess:
    """pytest over the files with one line of the metric code changed."""
    plugin = ["-p", "mutant"] if mutant else []
    environment = os.environ | {"PYTHONPATH": str(TESTS), "GANTK_MUTANT": json.dumps(mutant), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *plugin]
    return subprocess.run(
        [*command, *(str(TESTS / file) for file in files)], capture_output=True, text=True, env=environment, cwd=TESTS
    )


@pytest.mark.slow
def test_the_tests_pass_as_long_as_nothing_is_changed():
    files = tuple(dict.fromkeys(file for *_, names in MUTANTS for file in names))
    done = outcome(None, files)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize(("module", "line", "mistake", "files"), MUTANTS, ids=lambda value: str(value)[:40])
def test_a_mistake_in_the_metric_code_is_noticed(module, line, mistake, files):
    done = outcome([f"gantk.metrics.{module}", line, mistake], files)
    assert done.returncode == 1, f"status {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-500:]}"
