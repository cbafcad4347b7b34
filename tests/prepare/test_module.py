"""`Prepare` brings any size to the network's and back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gantk.data.intensity import Percentile
from gantk.prepare.module import Prepare, Scale, resize

sides = st.integers(3, 30)
shapes = st.one_of(st.tuples(sides, sides), st.tuples(sides, sides, sides))


def prepare_for(size: tuple[int, ...], fit: str) -> Prepare:
    """A preparation whose intensities change nothing."""
    line = Percentile()
    line.fitted = [-1.0, 1.0, 0.05, -1.0]
    return Prepare(size, fit, Scale(line), Scale(line), -1.0)


@pytest.mark.parametrize("fit", ["pad", "resize", "crop"])
@given(data=st.data(), native=shapes)
@settings(max_examples=40, deadline=None)
def test_an_unchanged_image_comes_back_as_it_was(fit, data, native):
    size = data.draw(st.tuples(*[sides] * len(native)))
    image = torch.rand(1, 1, *native) * 2 - 1
    prepare = prepare_for(size, fit)
    seen = prepare(image)

    back = prepare.restore(seen, image, seen)

    torch.testing.assert_close(back, image, atol=1e-4, rtol=0)


def test_a_contrast_that_a_patient_lacks_is_black():
    image = torch.rand(2, 3, 9, 7)
    image[1, 2] = torch.nan
    line = Percentile()
    line.fitted = [0.0, 1.0, 0.05, 0.0]
    prepare = Prepare((8, 8), "resize", Scale(line), Scale(line), -1.0)

    seen = prepare(image)

    assert (seen[1, 2] == -1.0).all()
    assert torch.equal(seen[0], prepare(image[:1])[0])
    assert torch.equal(seen[1, :2], prepare(image[1:, :2])[0])


@given(data=st.data(), native=st.tuples(sides, sides, sides), to=sides)
@settings(max_examples=40, deadline=None)
def test_a_few_planes_are_resized_as_the_whole_volume(data, native, to):
    first = data.draw(st.integers(0, to - 1))
    last = data.draw(st.integers(first + 1, to))
    volume = torch.rand(2, 2, *native)

    planes = resize(volume, [to, 7, 9], first, last)

    torch.testing.assert_close(planes, resize(volume, [to, 7, 9])[:, :, first:last])
