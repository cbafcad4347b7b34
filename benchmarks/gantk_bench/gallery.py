"""Sample pictures of all rows: small copies of each run's last samples, within a limit of bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gantk.errors import UserError
from gantk.report.pictures import embedded, evenly
from gantk.report.run_record import Direction, RunRecord, Samples
from gantk_bench.columns import named_scores
from gantk_bench.systems import Line, System

BUDGET = 5_000_000  # bytes of pictures in the page
SIZES = ((3, 160), (3, 96), (1, 96), (1, 64))  # (samples per direction, pixels); the first pair within BUDGET is used
WALL = 3  # images generated from noise, for each sample that a translation would show


@dataclass(frozen=True)
class Strip:
    """One run's pictures in one direction: rows of input, output and truth, or images generated from noise."""

    name: str
    direction: str
    scores: str  # its main scores as text
    heads: tuple[str, ...]
    samples: tuple[tuple[str, ...], ...]  # data URIs; "" where a file is missing

    @property
    def size(self) -> int:
        return sum(len(uri) for sample in self.samples for uri in sample)


def gallery(systems: Sequence[System], folder: Path, *, budget: int = BUDGET) -> tuple[dict[str, list[Strip]], int]:
    """(direction label -> strips, one per run, the first seeds of all systems first; number of strips left out)."""
    sources = [source[1:] for source in sorted(_sources(systems, folder), key=lambda source: source[0])]
    for count, side in SIZES:
        strips = [_strip(*source, count, side) for source in sources]
        if sum(strip.size for strip in strips) <= budget:
            break
    by_direction: dict[str, list[Strip]] = {}
    size = left_out = 0
    for strip in strips:
        size += strip.size
        left_out += size > budget
        if strip.samples and size <= budget:
            by_direction.setdefault(strip.direction, []).append(strip)
    return by_direction, left_out


def _sources(systems: Sequence[System], folder: Path) -> Iterator[tuple[int, str, str, Samples, Direction]]:
    """(seed's position in its system, name, scores, the run's samples, one of their directions)."""
    for system in systems:
        for place, row in enumerate(system.rows):
            samples = _samples(folder, row.get("run"))
            name = f"{system.name}, seed {row.get('seed')}" if len(system.rows) > 1 else system.name
            for direction in samples.directions if samples else ():
                line = Line(System(system.name, (row,)), direction.key)
                yield place, name, named_scores(line), samples, direction


def _samples(folder: Path, run: object) -> Samples | None:
    """The samples of a row's run folder; None if it has none or does not lie inside the bench folder."""
    if not isinstance(run, str) or not run:
        return None
    try:
        path = (folder / run).resolve()
        return RunRecord(path).samples if path.is_relative_to(folder.resolve()) else None
    except (UserError, OSError, ValueError):
        return None


def _strip(name: str, scores: str, samples: Samples, direction: Direction, count: int, side: int) -> Strip:
    step = samples.steps[-1]
    if direction.source is None:
        wall = (embedded(samples.picture(step, direction, i), side) for i in range(min(direction.count, WALL * count)))
        return Strip(name, direction.label, scores, (), tuple((uri,) for uri in wall if uri))
    rows = []
    for i in evenly(range(direction.count), count)[:count]:
        files = [samples.picture("input", direction, i), samples.picture(step, direction, i)]
        files += [samples.picture("truth", direction, i)] if samples.has_truth else []
        rows.append(tuple(embedded(file, side) for file in files))
    heads = ("input", "output", *(("truth",) if samples.has_truth else ()))
    return Strip(name, direction.label, scores, heads, tuple(row for row in rows if any(row)))
