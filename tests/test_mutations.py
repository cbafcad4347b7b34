"""A wrong metric is worse than none: each of these small mistakes in the metric code makes a quick test fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAIRS = ("test_metrics.py", "test_parity_pairs.py")

MUTANTS = [
    # module, the line, the mistake, the tests that must notice
    ("pairs", "self.data_range**2 / error", "truth.amax() ** 2 / error", PAIRS),
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
