"""Windows over images that are larger than what a network sees."""

from __future__ import annotations

import pytest
import torch

from gantk.inference.windows import by_windows, corners


@pytest.mark.parametrize(("size", "window"), [((40, 50), (16, 16)), ((20, 24, 17), (8, 8, 8)), ((16, 16), (16, 16))])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_a_function_of_single_pixels_is_not_changed_by_windows(size, window, overlap):
    images = torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(0))
    done = by_windows(images, window, overlap, lambda x: torch.cat([x.sin(), x[:, :1]], 1), batch=5)
    torch.testing.assert_close(done, torch.cat([images.sin(), images[:, :1]], 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_windows_cover_everything_and_overlap_at_least_as_asked(overlap):
    starts = sorted({corner[0] for corner in corners((53,), (16,), overlap)})
    assert starts[0] == 0
    assert starts[-1] == 53 - 16
    assert max(b - a for a, b in zip(starts[:-1], starts[1:], strict=True)) <= max(1, 16 * (1 - overlap)) + 1


def test_windows_that_disagree_meet_without_a_step():
    """Each window's own brightness, as an instance norm gives it, must fade into the next one's."""
    ramp = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    done = by_windows(ramp, (32, 32), 0.5, lambda x: x.mean((1, 2, 3), keepdim=True).expand_as(x))
    steps = done.diff(dim=-1).abs().max()
    assert steps < 0.25 * (done.max() - done.min())


def test_images_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match="smaller than the window"):
        by_windows(torch.zeros(1, 1, 8, 8), (16, 16), 0.25, lambda x: x)
