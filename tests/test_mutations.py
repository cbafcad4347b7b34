"""A wrong metric is worse than none: each of these small mistakes in the metric code makes a quick test fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAIRS = ("test_parity_pairs.py", "test_metrics.py")
SETS = ("test_sets.py", "test_parity_sets.py")
EVALUATION = ("test_evaluation.py",)
TASKS = ("test_segmentation.py", "test_regression.py", "test_task.py")

MUTANTS = [
    # module, the line, the mistake, the tests that must notice
    ("pairs", "self.data_range**2 / mean", "self.data_range / mean", PAIRS),
    ("pairs", "(output - truth).square()", "(output + truth).square()", PAIRS),
    ("pairs", "(output - truth).abs()", "(output - truth)", PAIRS),
    ("pairs", '"mae", "", False', '"mae", "", True', PAIRS),
    ("pair_metric", "torch.where(mask, values, 0).flatten(1).sum(1)", "values.flatten(1).sum(1)", PAIRS),
    ("pair_metric", "insides = [self._seen(expanded(mask, output)) for mask in masks]",
     "insides = [None for mask in masks]", PAIRS),
    ("structural", "(0.03 * data_range) ** 2", "(0.03 * float(truth.max() - truth.min())) ** 2", PAIRS),
    ("structural", "(0.01 * data_range) ** 2", "(0.01 * float(truth.max())) ** 2", PAIRS),
    ("structural", "2 * (mean_ot - products) + c2", "2 * (mean_ot + products) + c2", PAIRS),
    ("structural", "(weight / sum(SCALES[:count]))", "weight", PAIRS),
    ("perceptual", "2 * images / self.data_range - 1", "2 * images / images.amax() - 1", PAIRS),
    ("perceptual", '"lpips_random" if self.random else "lpips"', '"lpips"', PAIRS),
    ("bootstrap", "gains if higher_is_better else -gains", "gains", PAIRS),
    ("bootstrap", "percentile(drawn_means(means, seed, draws), [2.5, 97.5])",
     "percentile(drawn_means(means, seed, draws), [5, 95])", PAIRS),
    ("levels", "weights=None if weights is None else weights[known]", "weights=None", PAIRS),
    ("pair_scores", "masks = {FOREGROUND: truth.foreground, LESION: truth.masks}",
     "masks = {FOREGROUND: truth.masks, LESION: truth.foreground}", PAIRS),
    ("pair_scores", "linearly_corrected(made, real, mask)", "linearly_corrected(made, real)", PAIRS),
    ("units", "return mappings[0].inverse(images)", "return mappings[0].forward(images)", PAIRS),
    ("verdicts", "(max if higher else min)(means, key=means.get)", "(min if higher else max)(means, key=means.get)",
     PAIRS),
    ("verdicts", "if n not in WITH_PAIRS", "if n in WITH_PAIRS", PAIRS),
    ("baselines", "mean_y + slope * (x - mean_x)", "mean_y - slope * (x - mean_x)", PAIRS),
    ("baselines", "sums[:, seen] / counts[seen]", "sums[:, seen] / counts.mean()", PAIRS),
    ("lesions", "region_mean(c, inside) - region_mean(c, ring)", "region_mean(c, inside)", EVALUATION),
    ("rivals", 'data.splits["train"], to', 'data.splits["test"], to', EVALUATION),
    ("distances", " - np.trace(k)", "", SETS),
    ("distances", "- 2 * k_rf.mean()", "+ 2 * k_rf.mean()", SETS),
    ("distances", "spreads - 2 * shared", "spreads", SETS),
    ("distances", "(len(vectors) - 1) ** 0.5", "len(vectors) ** 0.5", SETS),
    ("neighbours", "np.partition(flat, k - 1, axis=1)[:, k - 1]", "np.partition(flat, k, axis=1)[:, k]", SETS),
    ("neighbours", "np.arange(rows.start, rows.start + len(away))", "np.arange(len(away))", SETS),
    ("sets", "scale = train.vectors(self.features)", "scale = test.vectors(self.features)", SETS),
    ("sets", "self.kind + self.features.suffix", "self.kind", SETS),
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
