"""How long a bench will take, from what its rows took last time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gantk.errors import count_noun
from gantk.terminal import TextTable, duration
from gantk_bench.plan import Job
from gantk_bench.rows import Row, read_rows

RESULTS = Path(__file__).resolve().parent.parent / "results"  # of a clone


@dataclass(frozen=True)
class Forecast:
    """The rows of a bench, and the seconds that each took last time, by its label."""

    planned: Sequence[Job]
    seconds: dict[str, float]
    jobs: int  # that train at the same time

    def sentence(self) -> str:
        """`about 45 min 10 s, as its 44 rows took last time`; what is not known otherwise."""
        known = len(self.seconds)
        if not known:
            return "unknown: no row has been trained before"
        whole = duration(sum(self.seconds.values()) / self.jobs)
        if known == len(self.planned):
            return f"about {whole}, as its {count_noun(known, 'row')} took last time"
        return f"more than {whole}: {known} of {len(self.planned)} rows have been trained before"

    def table(self) -> TextTable:
        """A line for each row: its steps, its time limit and its time last time."""
        lines = []
        for job in self.planned:
            steps = f"{job.steps:,}" if job.steps else "epochs"
            limit = duration(job.limit) if job.limit else "none"
            seconds = self.seconds.get(job.label)
            last = duration(seconds) if seconds else "unknown"
            lines.append((job.label, job.skip or job.problem or steps, limit, last))
        return TextTable(("Row", "Steps", "Limit", "Last time"), lines)


def forecast(planned: Sequence[Job], jobs: int, known: Iterable[Row]) -> Forecast:
    """The forecast from rows that are `known`; of two of one label the first counts."""
    seconds: dict[str, float] = {}
    labels = {job.label for job in planned}
    for row in known:
        if row.label in labels and row.status == "ok" and row.wall_s:
            seconds.setdefault(row.label, row.wall_s)
    return Forecast(planned, seconds, jobs)


def known_rows(folder: Path, suite: str) -> list[Row]:
    """The rows of a bench folder, then those that a clone of gantk has of this suite."""
    files = folder / "rows.jsonl", RESULTS / f"{suite}.jsonl"
    return [row for file in files if file.is_file() for row in read_rows(file)]
