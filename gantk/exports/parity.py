"""Whether an exported network answers as PyTorch does: measured on real images, in network and native intensities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gantk.data.dataset import Data
from gantk.errors import GantkError, UserError

IMAGES = {2: 4, 3: 2}  # real images that are compared, by dimensions
TOLERANCE = 1e-3  # of the range; float32 on both sides usually differs by a thousandth of that
Network = Callable[..., np.ndarray]  # (N, ...) float32 -> (N, D, *size) float32


@dataclass(frozen=True)
class Probes:
    """What the two are compared on: what a network takes, and what that is in words."""

    inputs: tuple[np.ndarray, ...]  # N > 1: (N, C, *size) in network intensities; or noise (N, latent), labels (N,)
    what: str
    why: str = ""  # they are no real images, where they are not; may name files

    def part(self, places: slice, larger: int = 0) -> tuple[np.ndarray, ...]:
        """Some of them, with the borders of images repeated until axis k is (k + 1) times `larger` pixels longer."""

        def extended(images: np.ndarray) -> np.ndarray:
            widths = [(0, 0), (0, 0), *[(0, larger * (k + 1)) for k in range(images.ndim - 2)]]
            return np.pad(images, widths, mode="edge") if larger and images.ndim > 2 else images

        return tuple(extended(each[places]) for each in self.inputs)


@dataclass(frozen=True)
class Parity:
    """The largest and the mean absolute difference, as shares of the range, and what they were measured on."""

    largest: float
    mean: float
    native_largest: float  # after the way back to native intensities, as a share of their range there
    native_mean: float
    on: str
    batches: list[int]
    sizes: list[list[int]]  # sides of the images, of all that were tried

    def state(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return asdict(self)

    def line(self) -> str:
        """What was found, for a person."""
        sizes = " and ".join(" x ".join(map(str, size)) for size in self.sizes)
        return (
            f"largest difference {self.largest:.1e} of the range, mean {self.mean:.1e}; in native intensities "
            f"{self.native_largest:.1e} and {self.native_mean:.1e}, on {self.on}, batches of "
            f"{', '.join(map(str, self.batches))}" + (f", {sizes}" if sizes else "")
        )


class OnlyAlone(GantkError):
    """Single images at the network's own size are answered as PyTorch does, batches or other sizes are not."""


def compare(
    found: Network, expected: Network, probes: Probes, target: Any, *, batches: bool = True, larger: int = 0
) -> Parity:
    """Both networks on every probe, one by one, in batches and on larger images.

    `target` is the intensity mapping of what comes out; `batches` says whether `found` takes more than one image at a
    time, `larger` by how many pixels sides may grow (0: they may not).
    """
    count = len(probes.inputs[0])
    numbers = sorted({1, min(3, count), count} if batches else {1})
    calls = [probes.part(slice(first, first + n)) for n in numbers for first in range(0, count - n + 1, n)]
    calls += [probes.part(slice(0, 1), larger)] if larger else []
    largest, mean, *native = zip(*(_differences(found(*call), expected(*call), target) for call in calls), strict=True)
    sizes = sorted({call[0].shape[2:] for call in calls} - {()})
    shares = [float(np.max(largest)), float(np.mean(mean)), float(np.max(native[0])), float(np.mean(native[1]))]
    return Parity(*shares, probes.what, numbers, [list(size) for size in sizes])


def checked(
    found: Network,
    expected: Network,
    probes: Probes,
    target: Any,
    *,
    batches: bool = True,
    larger: int = 0,
    tolerance: float = TOLERANCE,
    what: str = "the file",
) -> Parity:
    """`compare`, where the difference is within the tolerance; else OnlyAlone, or GantkError where nothing is right."""

    def right(parity: Parity) -> bool:
        native = 0.0 if np.isnan(parity.native_largest) else parity.native_largest
        return parity.largest <= tolerance and native <= tolerance

    parity = compare(found, expected, probes, target, batches=batches, larger=larger)
    if right(parity):
        return parity
    alone = (batches or larger) and right(compare(found, expected, probes, target, batches=False))
    raise (OnlyAlone if alone else GantkError)(
        f"{what} does not answer as PyTorch does: {parity.line()}. The tolerance is {tolerance:g} of the range. "
        "No file was written."
    )


def require_steady(network: Network, probes: Probes, target: Any) -> None:
    """UserError where a network draws random numbers in use, or mixes the images of a batch: no file can do that."""
    first, again = network(*probes.inputs), network(*probes.inputs)
    if not np.isfinite(first).all():
        raise UserError("the network answers with values that are not finite: its training has diverged")
    if not np.array_equal(first, again):
        share = _differences(first, again, target)[0]
        what = f"two translations of one image differ by up to {share:.1e} of the range"
        what = f"{what}: the method draws random numbers"
        raise UserError(what, remedy="export a run that does not (pix2pix: method.test_dropout = false)")
    singles = np.concatenate([network(*probes.part(slice(n, n + 1))) for n in range(len(first))])
    share = _differences(first, singles, target)[0]
    if not share <= TOLERANCE:
        what = f"an image alone and in a batch gives answers that differ by {share:.1e} of the range"
        raise UserError(what, remedy="a layer stays in training mode in use: mend the method's eval()")


def real_images(translator: Any, letter: str) -> Probes:
    """Images of the domain that is translated to `letter`, as the network sees them: held-out ones where there are any.

    Training images where nothing is held out, and drawn ones where the run's data are not to be had here: the words say
    which.
    """
    other = "a" if letter == "b" else "b"
    model, method = translator.model, translator.method
    window, count = tuple(method.geometry.size), IMAGES[model.data.dims]
    shape = (method.geometry.channels[other], *window)
    try:
        data = Data.load(model.data, type(method))
        data.intensity.update(translator.intensity)
        kinds = {"test": "held-out", "validation": "validation", "train": "training"}
        shown = {kind: [r for r in data.splits[split] if r.domain == other] for split, kind in kinds.items()}
        kind, found = next(((kind, records) for kind, records in shown.items() if records), ("", []))
        images = [_middle(data.image(record).numpy(), window) for record in found[:: max(1, len(found) // count)]]
        images = images[:count]
        if images and all(image.shape == shape for image in images):
            what = f"{len(images)} {kind} image{'s' * (len(images) > 1)} of {translator.frame(letter).source}"
            if len(images) == 1:  # batches have to be tried too
                images, what = [*images, np.flip(images[0], -1)], f"{what} and its mirror image"
            return Probes((np.stack(images),), what)
        why = "the run's data have changed"
    except (UserError, OSError) as error:
        why = str(error)
    from scipy.ndimage import gaussian_filter

    rough = np.random.default_rng(0).standard_normal((count, *shape))
    smooth = gaussian_filter(rough, sigma=(0, 0, *[max(1.0, side / 16) for side in window]))
    low, span = (each.reshape(count, -1, *[1] * len(window)) for each in _ends(smooth.reshape(count, shape[0], -1)))
    black, white = method.geometry.range
    drawn = ((smooth - low) / span * (white - black) + black).astype(np.float32)
    return Probes((drawn,), f"{count} drawn images, not real ones", why)


def noise(translator: Any, latent: int) -> Probes:
    """Normal noise, and classes in turn where the method knows any."""
    count, classes = 4, len(translator.method.geometry.classes) if translator.method.conditional else 0
    drawn = np.random.default_rng(0).standard_normal((count, latent)).astype(np.float32)
    labels = (np.arange(count, dtype=np.int64) % classes,) if classes else ()
    return Probes((drawn, *labels), f"{count} vectors of normal noise")


def _ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return values.min(-1), np.ptp(values, -1)


def _middle(image: np.ndarray, window: tuple[int, ...]) -> np.ndarray:
    """(C, *window): the middle of an image, where windows are smaller."""
    starts = [(side - part) // 2 for side, part in zip(image.shape[1:], window, strict=True)]
    return image[(slice(None), *(slice(at, at + part) for at, part in zip(starts, window, strict=True)))]


def _differences(found: np.ndarray, expected: np.ndarray, target: Any) -> tuple[float, float, float, float]:
    """Largest and mean absolute difference as shares of the range: in network and in native intensities."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return (np.inf,) * 4
    low, high = target.range
    flat = np.ones((1, found.shape[1], *[1] * (found.ndim - 2)))
    span = np.abs(np.asarray(target.inverse(flat * high)) - target.inverse(flat * low))
    native = (np.asarray(target.inverse(each.astype(np.float64))) for each in (found, expected))
    apart = [np.abs(found.astype(np.float64) - expected) / (high - low), np.abs(np.subtract(*native)) / span]
    return tuple(float(share) for each in apart for share in (each.max(), each.mean()))
