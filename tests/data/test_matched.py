"""Unpaired slices of like height are shown together, however they are read; outputs keep the
outline of their input.
"""

import pickle

import pytest
import torch

from gantk.data.batches import Batches, ImageSet
from gantk.data.preparation import Preparation, Record
from gantk.errors import UserError
from gantk.plugin.spec import bind_or_raise
from gantk_parts.ct.intensity import Window

# of scalp, bone and tissue
MR = (0.0, -0.99, 0.5)
CT = (-0.6, 0.9, -0.3)
# slices of the scans of a domain
A = (9, 13, 10)
B = (8, 12)


def head(
    radius: float, tissues: tuple[float, ...] = MR, size: tuple[int, ...] = (32, 32)
) -> torch.Tensor:
    axes = [
        (torch.arange(side) - side / 2).view(-1, *[1] * (len(size) - n)) ** 2
        for n, side in enumerate(size, 1)
    ]
    image = torch.full(size, -1.0)
    for shell, value in enumerate(tissues):
        image[sum(axes).sqrt() < radius - 2 * shell] = value
    return image[None, None]


def batches(counts=(A, B), placed=True, batch=4, ranks=(0, 1), workers=0, **options) -> Batches:
    """Planted scans, of which each slice's head is smaller than that below it, and their order as
    ranks are sent it.
    """
    sets = {}
    for letter, tissues, each in zip("ab", (MR, CT), counts, strict=True):
        own = []
        for scan, n, height in [
            (scan, n, n / (count - 1)) for scan, count in enumerate(each) for n in range(count)
        ]:
            image = head(14 - 8 * height, tissues)[0].numpy()
            place = 3.0 * n - 50 if placed else None
            own.append(Record(letter, f"{scan}", f"{scan}/{height}", image.copy, position=place))
        sets[letter] = ImageSet(own, Window(low=-1.0, high=1.0), Preparation(own, (32, 32), "pad"))
    made = Batches(sets, batch, 7, False, *ranks, workers=workers)
    made.chosen = pickle.loads(
        pickle.dumps(bind_or_raise("order", {"name": "matched"} | options)()(made))
    )
    return made


@pytest.mark.parametrize(
    ("options", "most"), [({"among": 0.0}, 0.1), ({"by": "outline"}, 0.2), ({}, 0.2)], ids=str
)
@pytest.mark.parametrize("counts", [(A, B), (B, A)], ids=["a leads", "b leads"])
def test_slices_shown_together_are_of_like_height(counts, options, most):
    made = batches(counts, placed=options != {"by": "outline"}, **options)
    shown = [
        tuple(made.sets[x].records[made.chosen(n)[x]].key for x in "ab") for n in range(10 * sum(A))
    ]
    # at random up to 1
    assert max(abs(float(a.split("/")[1]) - float(b.split("/")[1])) for a, b in shown) <= most
    assert len({pair[counts[1] == A] for pair in shown[: sum(A)]}) == sum(A), (
        "an epoch shows the larger domain once"
    )
    assert options == {"among": 0.0} or len({*shown}) > 1.5 * sum(A), (
        "each stands beside others from epoch to epoch"
    )
    assert all(len(each) == 3 for each in batches(((4,) * 5, (4,) * 3), among=0.0).chosen.near), (
        "all that are as near"
    )


def test_matched_order_depends_on_seed_and_step_only():
    # the latter as after a resume: nothing is remembered
    whole = batches()
    late = batches(workers=2)
    ranks = [batches(batch=2, ranks=(rank, 2)) for rank in range(2)]
    for step, name in [(step, name) for step in (0, 11, 12, 17) for name in "ab"]:
        assert torch.equal(whole.at(step)[name], late.at(step)[name])
        assert torch.equal(whole.at(step)[name], torch.cat([each.at(step)[name] for each in ranks]))
    late.close()


@pytest.mark.parametrize("size", [(32, 32), (24, 32, 32)], ids=str)
def test_outline_loss_is_zero_for_equal_outlines_only(
    size,
):
    loss = bind_or_raise("loss", "outline")()
    source = head(9, MR, size)
    assert loss(head(9, CT, size), source) == 0
    for sign in (1, -1):
        assert (
            costs := [float(loss(head(9 + sign * by, CT, size), source)) for by in range(4)]
        ) == sorted({*costs})
        output = head(9 + 2 * sign, CT, size).requires_grad_()
        gradient = sign * torch.autograd.grad(loss(output, source), output)[0]
        assert gradient.min() == 0 < gradient.max() < torch.inf
        assert not gradient[head(5, MR, size) > -1].any()


def test_what_cannot_be_matched_or_compared_is_refused():
    sets = batches().sets
    matched = bind_or_raise("order", "matched")()
    loss = bind_or_raise("loss", "outline")()
    for what, call in {
        "needs one domain": lambda: matched(Batches({"image": sets["a"]}, 1, 0, False)),
        "needs pairs": lambda: matched(Batches(sets, 1, 0, paired=True)),
        "no place in a stack": lambda: batches(placed=False, by="position"),
        "pixel by pixel": lambda: loss(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 9, 8)),
    }.items():
        with pytest.raises(UserError, match=what):
            call()
