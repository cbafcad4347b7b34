"""Sample pictures of all rows in one place: small copies of what each run drew last, within a budget of bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from gantk.errors import UserError
from gantk.report.pictures import evenly, preview
from gantk.report.run_record import Direction, Samples, read_run
from gantk.report.words import digits, metric_name
from gantk_bench.systems import Line, System

BUDGET = 5_000_000  # bytes of pictures in the page
ATTEMPTS = ((3, 160), (3, 128), (2, 128), (2, 96), (1, 96), (1, 64))  # samples a direction, pixels: the first that fits
TRIED = 8  # strips that say how much all of them will take
WALL = 3  # as many pictures of images from noise as a strip of so many translations has


@dataclass(frozen=True)
class Strip:
    """What one run made in one direction: rows of input, output and truth, or a wall of images from noise."""

    name: str
    direction: str
    scores: str  # what it was scored at, in short
    heads: tuple[str, ...]
    samples: tuple[tuple[str, ...], ...]  # data URIs; "" where a file is missing

    @property
    def size(self) -> int:
        return sum(len(uri) for sample in self.samples for uri in sample)


@dataclass(frozen=True)
class _Source:
    name: str
    scores: str
    samples: Samples
    direction: Direction


def gallery(systems: Sequence[System], folder: Path, *, budget: int = BUDGET) -> tuple[dict[str, list[Strip]], int]:
    """Direction in words -> a strip a run, first seeds first; and how many strips there was no room for."""
    sources = sorted(_sources(systems, folder), key=lambda found: found[0])
    found = [source for _, source in sources]
    count, side = _fitting(found, budget)
    strips: dict[str, list[Strip]] = {}
    taken = left_out = 0
    for source in found:
        strip = _strip(source, count, side) if taken <= budget else None
        taken += strip.size if strip else 0
        if strip is None or taken > budget:
            left_out += 1
        elif strip.samples:
            strips.setdefault(strip.direction, []).append(strip)
    return strips, left_out


def _fitting(found: list[_Source], budget: int) -> tuple[int, int]:
    """The largest pictures that all strips have room for, going by some of them."""
    tried = [found[i] for i in evenly(range(len(found)), TRIED)]
    for count, side in ATTEMPTS:
        size = sum(_strip(source, count, side).size for source in tried)
        if not tried or size / len(tried) * len(found) <= budget:
            break
    return count, side


def _sources(systems: Sequence[System], folder: Path) -> Iterator[tuple[int, _Source]]:
    """(which seed of its system, a run's samples in one direction)."""
    for system in systems:
        for place, row in enumerate(system.rows):
            samples = _samples(folder, row.get("run"))
            seed = f", seed {row.get('seed')}" if len(system.rows) > 1 else ""
            for direction in samples.directions if samples else ():
                scores = _scores(Line(System(system.name, (row,)), direction.key))
                yield place, _Source(f"{system.name}{seed}", scores, samples, direction)


def _scores(line: Line) -> str:
    """`PSNR 24.31, SSIM 0.861`."""
    figures = [(metric, line.figure(metric)) for metric in line.main]
    return ", ".join(f"{metric_name(m)} {digits(f.mean, line.places(m))}" for m, f in figures if f)


def _samples(folder: Path, run: object) -> Samples | None:
    """The samples of a row's run folder, which lies inside the bench folder."""
    if not isinstance(run, str) or not run:
        return None
    try:
        path = (folder / run).resolve()
        return read_run(path).samples if path.is_relative_to(folder.resolve()) else None
    except (UserError, OSError, ValueError):
        return None


def _strip(source: _Source, count: int, side: int) -> Strip:
    samples, direction = source.samples, source.direction
    step = samples.steps[-1]
    if direction.source is None:
        chosen = range(min(direction.count, WALL * count))
        made = tuple((_small(samples.output(direction, i, step), side),) for i in chosen)
        return Strip(source.name, direction.label, source.scores, (), tuple(sample for sample in made if sample[0]))
    rows = []
    for i in evenly(range(direction.count), count)[:count]:
        files = [samples.input(direction, i), samples.output(direction, i, step)]
        files += [samples.truth(direction, i)] if samples.has_truth else []
        rows.append(tuple(_small(file, side) for file in files))
    heads = ("input", "output", *(("truth",) if samples.has_truth else ()))
    return Strip(source.name, direction.label, source.scores, heads, tuple(row for row in rows if any(row)))


def _small(file: Path, side: int) -> str:
    try:
        with Image.open(file) as image:
            return preview(image, side)
    except (OSError, ValueError):
        return ""
