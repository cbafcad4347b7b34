"""What a training on weak pairs promises: slices are matched only by their pixels, and the partner
of a training slice is not in the other domain.
"""

from dataclasses import replace

import pytest
import torch
from pytest import approx
from tiny import registered

from gantk import Data
from gantk.data.batches import ImageSet
from gantk.recipe.load import load_recipe

WeakPairs = registered("loss", "weak_pairs")

SMALL = {
    "data.source": {"name": "phantom", "subjects": 10, "slices": 2},
    "data.size": [32, 32],
    "data.split": {"test": 0.2, "validation": 0.0},
}


@pytest.fixture(scope="module")
def data() -> Data:
    """The data of a bundled recipe, of ten small heads."""
    model = load_recipe("dualgan_t1t2").override(SMALL).check()
    return Data(model.data, model.method.target)


@pytest.fixture(scope="module")
def sets(data) -> dict[str, ImageSet]:
    """Training images of each domain, as the recipe gives them to the method."""
    return data.training_sets()


def matches(sets) -> dict[str, list[list[int]]]:
    """For each image the candidates of the other domain, the best first, by their numbers."""
    found = WeakPairs().companions(sets)
    return {letter: found[letter].like.tolist() for letter in "ab"}


def test_names_patients_and_order_of_files_do_not_count(data, sets):
    """Every record gets another name, patient, pair and position, and all are in another order."""
    draw = torch.Generator().manual_seed(0)
    orders = {letter: torch.randperm(len(sets[letter]), generator=draw).tolist() for letter in "ab"}
    scrambled = {}
    for letter, images in sets.items():
        records = [
            replace(
                images.records[old],
                key=f"file-{new * 7 % 5}-{new}",
                subject=f"patient-{(new * 3) % 4}",
                pair=f"pair-{new}",  # the same names in both domains: an invitation to match by them
                position=float(-new),
            )
            for new, old in enumerate(orders[letter])
        ]
        scrambled[letter] = ImageSet(records, images.intensity, data.preparation)

    before = WeakPairs().companions(sets)
    after = WeakPairs().companions(scrambled)
    for own, other in ("ab", "ba"):
        for new, old in enumerate(orders[own]):
            found = [orders[other][n] for n in after[own].like[new].tolist()]
            assert found == before[own].like[old].tolist()
            images = after[own](new, scrambled), before[own](old, sets)
            assert (images[0] - images[1]).abs().mean() == approx(0, abs=1e-3)


def test_a_match_is_never_of_the_same_head(sets):
    own = [record.subject for record in sets["a"].records]
    other = [record.subject for record in sets["b"].records]
    for number, found in enumerate(matches(sets)["a"]):
        assert own[number] not in {other[n] for n in found}
    assert not WeakPairs().companions(sets)["a"].alone
