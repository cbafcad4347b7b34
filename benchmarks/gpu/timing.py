"""How long something takes on a device, single samples kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

PILOT = 3  # samples that say how many more there is time for


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def samples(
    work: Callable[[], object], device: torch.device, *, seconds: float = 1.0, least: int = 5, most: int = 50
) -> list[float]:
    """Seconds of single calls, back to back: as many as fit into `seconds`, from `least` to `most`. No warm-up."""
    pilot = _calls(work, device, min(PILOT, least))
    count = int(seconds / max(statistics.median(pilot), 1e-9))
    if least <= len(pilot) >= count:
        return pilot
    return _calls(work, device, max(least, min(most, count)))


def once(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, waiting included."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def summary(found: list[float]) -> dict[str, float | list[float]]:
    """The samples, their median, and how far they spread over it: the middle half, and from the 5th percentile to the
    95th."""
    several = found if len(found) > 1 else found * 2
    low, middle, high = statistics.quantiles(several, n=4)
    ends = statistics.quantiles(several, n=20, method="inclusive")
    return {
        "samples_s": found,
        "median_s": statistics.median(found),
        "spread": (high - low) / middle,
        "spread_90": (ends[-1] - ends[0]) / middle,
    }


class Turn:
    """Something's place among others that take turns, as `peers.speed.take_turns` asks for it."""

    digest = ""  # all step over the same batch, which stays on the device

    def __init__(self, step: Callable[[], object], device: torch.device):
        self.step, self.device = step, device

    def settle(self) -> None:
        """Nothing: what a step needs was made ready before."""

    def take(self, steps: int = 1) -> float:
        """Mean seconds of so many steps, the device waited for on both sides."""

        def several() -> None:
            for _ in range(steps):
                self.step()

        return once(several, self.device) / steps


def _calls(work: Callable[[], object], device: torch.device, count: int) -> list[float]:
    if device.type != "cuda":
        return [once(work, device) for _ in range(count)]
    # Events lie on the stream between the steps: waiting after each one would hide that Python runs ahead.
    torch.cuda.synchronize(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize(device)
    return [first.elapsed_time(second) / 1e3 for first, second in zip(events[:-1], events[1:], strict=True)]
