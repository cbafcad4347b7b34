"""Unpaired slices of like height are shown together, however they are read."""

import pytest
import torch

from gantk import Batches, Record
from gantk.data.batches import ImageSet
from gantk.data.intensity import Window
from gantk.data.preparation import Preparation
from gantk.errors import UserError
from gantk.plugin.spec import bind

# of scalp, bone and tissue
MR = (0.0, -0.99, 0.5)
CT = (-0.6, 0.9, -0.3)
# slices of the scans of a domain
A = (9, 13, 10)
B = (8, 12)


def head(radius: float, tissues: tuple[float, ...]) -> torch.Tensor:
    """A ball of shells of the tissues, each 2 pixels thick, around the middle of an image of air."""
    rows, columns = torch.meshgrid(*[torch.arange(32) - 16] * 2, indexing="ij")
    distance = (rows**2 + columns**2).sqrt()
    image = torch.full((32, 32), -1.0)
    for shell, value in enumerate(tissues):
        image[distance < radius - 2 * shell] = value

    return image[None, None]


def scan_records(letter: str, tissues: tuple, counts: tuple, placed: bool) -> list[Record]:
    """Slices of scans; a slice's key says its scan and its height, from 0 to 1."""
    records = []
    for scan, count in enumerate(counts):
        for number in range(count):
            height = number / (count - 1)
            image = head(14 - 8 * height, tissues)[0].numpy()
            key = f"{scan}/{height}"
            position = 3.0 * number - 50 if placed else None
            records.append(Record(letter, f"{scan}", key, image.copy, position=position))

    return records


def batches(counts=(A, B), placed=True, batch=4, ranks=(0, 1), workers=0) -> Batches:
    """Planted scans, of which each slice's head is smaller than that below it, and their order as
    ranks are sent it.
    """
    sets = {}
    for letter, tissues, each in zip("ab", (MR, CT), counts, strict=True):
        records = scan_records(letter, tissues, each, placed)
        preparation = Preparation(records, (32, 32), "pad")
        sets[letter] = ImageSet(records, Window(low=-1.0, high=1.0), preparation)

    made = Batches(sets, batch, 7, False, *ranks, workers=workers)
    made.chosen = bind("order", "matched")()(made)
    return made


def keys_shown(made: Batches, steps: int) -> list[tuple[str, str]]:
    """Keys of the images of a and b that are shown together."""
    shown = []
    for step in range(steps):
        chosen = made.chosen(step)
        shown.append(tuple(made.sets[name].records[chosen[name]].key for name in "ab"))
    return shown


def height_of(key: str) -> float:
    return float(key.split("/")[1])


@pytest.mark.parametrize("placed", [False, True], ids=["outlines", "positions"])
@pytest.mark.parametrize("counts", [(A, B), (B, A)], ids=["a leads", "b leads"])
def test_slices_shown_together_are_of_like_height(counts, placed):
    made = batches(counts, placed=placed)
    epoch = sum(A)
    shown = keys_shown(made, 10 * epoch)
    differences = [abs(height_of(a) - height_of(b)) for a, b in shown]

    assert max(differences) <= 0.2  # at random up to 1

    larger = 0 if counts[0] == A else 1
    first_epoch = {pair[larger] for pair in shown[:epoch]}

    assert len(first_epoch) == epoch, "an epoch shows the larger domain once"
    assert len({*shown}) > 1.5 * epoch, "each stands beside others from epoch to epoch"


def test_what_cannot_be_matched_or_compared_is_refused():
    sets = batches().sets
    matched = bind("order", "matched")()
    for what, call in {
        "needs one domain": lambda: matched(Batches({"image": sets["a"]}, 1, 0, False)),
        "needs pairs": lambda: matched(Batches(sets, 1, 0, paired=True)),
    }.items():
        with pytest.raises(UserError, match=what):
            call()
