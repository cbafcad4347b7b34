"""A service whose parts are killed loses no study and makes none twice."""

import sys

import pytest
from tiny import ROOT

pytest.importorskip("pynetdicom", reason='needs pynetdicom: pip install "gantk[serve]"')
pytest.importorskip("fastapi", reason='needs fastapi: pip install "gantk[serve]"')
sys.path.insert(0, str(ROOT / "benchmarks"))

from serve_kills import Trial, killed  # noqa: E402
from serving import tiny_model  # noqa: E402

pytestmark = pytest.mark.slow
KILLS = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


def test_kills_lose_nothing_and_double_nothing(model, tmp_path):
    outcome = Trial(tmp_path, model, seed=5).run(KILLS, 60.0, print)

    assert killed(outcome.kills) >= KILLS
    assert outcome.series >= 8
    assert outcome.is_right(), outcome
