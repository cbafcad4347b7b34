"""One of five patients in other units: what is fitted is the others', and a run says so."""

from types import SimpleNamespace

import numpy as np
import pytest
from volumes import UNPAIRED, load, volume

from gantk.data.look import values_of

TOP = 300.0
FACTOR = 3000.0


def head(seed):
    """Values of a head: air around an ellipsoid of tissue, up to about TOP."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (12, 14, 16)], indexing="ij"))
    inside = (grid**2).sum(axis=0) < 0.8
    values = np.random.default_rng(seed).uniform(0.3 * TOP, TOP, inside.shape)
    return np.where(inside, values, 0).astype(np.float32)


@pytest.fixture
def scans(tmp_path):
    for n in range(5):
        for k, kind in enumerate(("T1", "T2")):
            factor = FACTOR if n == 1 else 1
            volume(tmp_path / "scans" / f"p{n}" / f"{kind}.nii", values=factor * head(10 * n + k))
    return tmp_path / "scans"


@pytest.mark.parametrize(
    "intensity",
    ["percentile", "minmax", "zscore", {"name": "percentile", "per": "volume"}, "nyul"],
    ids=str,
)
def test_a_training_is_fitted_to_the_usual_scale(scans, intensity):
    data = load(
        {"name": "nifti", "path": str(scans)},
        UNPAIRED,
        domains=("T1", "T2"),
        intensity=intensity,
        unpair=False,
        split={"test": 0.0, "validation": 0.0},
    )
    for letter in "ab":
        white = data.intensity[letter].inverse(np.ones((1, 4, 4), np.float32))
        assert 0.5 * TOP < white.mean() < 4 * TOP
        assert data.values[letter]["high"] <= TOP
        assert max(data.values[letter]["quantiles"]) <= TOP


@pytest.mark.parametrize("factor, told", [(1, False), (2, False), (1000, True)])
def test_translations_far_outside_the_targets_values_are_told(factor, told):
    from gantk_trust.wrong_contrast import doubt_of_result

    training = values_of([head(n)[None] for n in range(4)])
    frame = SimpleNamespace(target="T2", values={"source": training, "target": training})
    warning = doubt_of_result(head(5)[None], factor * head(6)[None], frame)

    assert ("far outside those of T2" in (warning or "")) is told
