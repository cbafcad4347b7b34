"""`gantk bench` from the names of recipes to the table: plan, run in processes, keep each row, compare."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from gantk.errors import GantkError, Interrupted
from gantk.machine.runtime import start
from gantk.terminal import console as standard_output
from gantk.training.loop import stop_on_ctrl_c
from gantk_bench import comparison
from gantk_bench.board import Board, result_table
from gantk_bench.child import Child, End, now
from gantk_bench.comparison import Change
from gantk_bench.folder import BenchFolder
from gantk_bench.plan import Job, Wish, jobs_for, recipe_names
from gantk_bench.rows import FORMAT, commit, figures, read_rows, without_places
from gantk_bench.spread import over_seeds
from gantk_bench.suite import Suite, load_suite

LOOK_EVERY = 0.2  # seconds between looks at the children


@dataclass(frozen=True)
class Outcome:
    """What a bench left: its rows, its folder, and what changed since the rows it was held against, or the last time.

    `judged`: whether a change for the worse is a failure, as it is against rows that were asked for.
    """

    rows: list[dict[str, Any]]
    folder: Path
    changes: list[Change] | None = None
    judged: bool = False

    @property
    def bad(self) -> list[dict[str, Any]]:
        """Rows that neither ended well nor were left out on purpose."""
        return [row for row in self.rows if row["status"] not in ("ok", "skipped")]

    @property
    def good(self) -> bool:
        """Whether every row is there and none got worse."""
        return not self.bad and not (self.judged and comparison.regressed(self.changes or []))


def bench(
    names: Iterable[str] = (),
    *,
    all: bool = False,
    suite: str = "quick",
    against: str | Path | None = None,
    json: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    seeds: int | None = None,
    grid: Iterable[str] = (),
    set: Iterable[str] = (),
    jobs: int | None = None,
    limit: float | None = None,
    data: str | Path | None = None,
    device: str | None = None,
    console: Console | None = None,
) -> Outcome:
    """Train and score recipes the same way, each in a process of its own, one row each.

    Args:
        names: names or paths of recipes; none with `all`.
        all: the suite's recipes, or every recipe there is, third parties' too.
        suite: the name of a suite, or a TOML file.
        against: rows (JSONL) of an earlier bench to compare with; None: those of the same folder, if there are any.
        json: a file that gets the rows too.
        out: the bench folder; None: runs/bench-SUITE. Rows of other recipes in it stay.
        resume: keep rows of the folder that are ok and would be measured again with the same recipe, settings and seed.
        seeds: train with the seeds 0 to `seeds` - 1.
        grid: `key=v1,v2` sweeps; a row for each combination.
        set: `key=value` settings over the suite's.
        jobs: how many train at once; None: the suite's.
        limit: seconds for one recipe; None: the suite's.
        data: a file or folder that all recipes train on instead.
        device: "cpu", "cuda", ...; None: the best there is.
        console: where to show how it goes; None: standard output.

    Raises UserError before anything runs where the input is wrong, Interrupted on Ctrl-C, after the children have been
    stopped and all finished rows kept.
    """
    chosen = load_suite(str(suite))
    names = [names] if isinstance(names, str | Path) else names
    wanted, named = recipe_names(map(str, names), all, chosen)
    before = read_rows(against) if against is not None else None
    wish = Wish(tuple(grid), seeds, tuple(set), None if data is None else str(Path(data).absolute()), limit)
    planned = jobs_for(wanted, chosen, wish, named=named)
    path = Path(out) if out else Path("runs") / f"bench-{chosen.name}"
    folder = BenchFolder(path, [job.label for job in planned], Path(json) if json else None)
    if device is not None:
        start(device, "fp32")  # raises where there is no such device
    console = console or standard_output()
    Bench(planned, chosen, folder, jobs, device, console).run(resume)
    rows = list(folder.own())
    # The last time in the same folder may have been of other recipes: those are not missing now.
    rivals = _rivals(folder.before, planned, True) if before is None else _rivals(before, planned, named)
    changes = comparison.compare(rows, rivals) if rivals or before is not None else None
    outcome = Outcome(rows, path, changes, before is not None)
    _tell(outcome, folder.write_tables(outcome.changes), console)
    return outcome


class Bench:
    """The jobs of one bench at work: so many at once, each in a process of its own."""

    def __init__(
        self,
        planned: Sequence[Job],
        suite: Suite,
        folder: BenchFolder,
        jobs: int | None,
        device: str | None,
        out: Console,
    ):
        self.planned, self.suite, self.folder, self.device, self.out = planned, suite, folder, device, out
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.jobs = jobs or min(suite.jobs, cores)
        self.threads = suite.threads or max(cores // self.jobs, 1)
        self.commit = commit()

    def run(self, resume: bool) -> None:
        """Measure all that is to be measured; with `resume` all but what the folder has already."""
        self.folder.open(aside=not resume)
        todo = [job for job in self.planned if not (resume and self._done(job))]
        at_once = f"{self.jobs} at once, {self.threads} thread{'s' * (self.threads > 1)} each"
        _say(self.out, f"bench    suite {self.suite.name}, {len(self.planned)} rows, {at_once}")
        if len(todo) < len(self.planned):
            _say(self.out, f"resume   {len(self.planned) - len(todo)} rows are done already")
        _say(self.out, f"folder   {self.folder.path}")
        with Board(len(todo), self.out) as board, stop_on_ctrl_c() as stopped:
            self._measure(todo, board, stopped)

    def _done(self, job: Job) -> bool:
        """Whether the folder has a good row of the very same job."""
        row = self.folder.rows.get(job.label)
        same = row is not None and all(row.get(key) == value for key, value in self._head(job).items())
        return same and row["status"] == "ok"

    def _measure(self, todo: Sequence[Job], board: Board, stopped: list[int]) -> None:
        waiting, children = iter(todo), []
        try:
            while True:
                if stopped:
                    raise KeyboardInterrupt
                children += self._started(waiting, self.jobs - len(children), board)
                if not children:
                    return
                time.sleep(LOOK_EVERY)
                board.progress(children)
                for child in list(children):
                    end = child.poll()
                    if end is not None:
                        children.remove(child)
                        self._keep(child.job, end, child.started, board)
        except KeyboardInterrupt:
            _stop(children)
            what = f"stopped after {len(board.ended)} of {len(todo)} rows, which are kept in {self.folder.path}"
            raise Interrupted(f"{what}. Go on with the same command and --resume") from None
        finally:
            _stop(children)

    def _started(self, waiting: Iterator[Job], free: int, board: Board) -> Iterator[Child]:
        """As many children as there is room for; a job that cannot run is a row at once."""
        for job in waiting if free > 0 else ():
            if job.skip or job.problem:
                end = End("skipped", job.skip, 0.0) if job.skip else End("failed", without_places(job.problem), 0.0)
                self._keep(job, end, now(), board)
                continue
            try:
                child = Child(job, self.folder.run(job.folder), self.folder.log(job.folder), self.threads, self.device)
            except OSError as error:  # neither memory nor disk left for one more process
                self._keep(job, End("failed", f"it could not be started: {error.strerror}", 0.0), now(), board)
                continue
            board.started(job)
            yield child
            free -= 1
            if free <= 0:
                return

    def _keep(self, job: Job, end: End, started: str, board: Board) -> None:
        row = self._row(job, end, started)
        self.folder.keep(row)
        board.finished(row)

    def _head(self, job: Job) -> dict[str, Any]:
        """The fields that say which measurement a row is."""
        return {
            "format": FORMAT,
            "suite": self.suite.name,
            "recipe": job.recipe,
            "label": job.label,
            "profile": job.profile,
            "settings": [without_places(setting) for setting in job.settings],
            "grid": job.facts.get("grid", {}),
            "seed": job.facts.get("seed"),
            "recipe_hash": job.facts.get("recipe_hash"),
        }

    def _row(self, job: Job, end: End, started: str) -> dict[str, Any]:
        run = self.folder.path / "runs" / job.folder
        row = self._head(job) | job.facts | {"status": end.status, "error": end.error, "started": started}
        row |= {"wall_s": round(end.seconds, 1), "run": f"runs/{job.folder}" if run.is_dir() else None}
        row |= {"git": self.commit, "jobs": self.jobs, "peer": None}
        if end.status == "ok":
            try:
                row |= figures(run)
            except GantkError as error:
                row |= {"status": "failed", "error": without_places(str(error))}
        return row


def _stop(children: list[Child]) -> None:
    """End what still runs: asked first, killed where it does not listen or Ctrl-C comes again."""
    try:
        for child in children:
            child.stop("stopped")
        while None in [child.poll() for child in children]:
            time.sleep(LOOK_EVERY)
    finally:
        for child in children:
            child.kill()
        children.clear()


def _tell(outcome: Outcome, files: Sequence[Path], out: Console) -> None:
    """The table of results, what is not as it should be, what changed, and where it all is."""
    out.print(result_table(outcome.rows, over_seeds(outcome.rows)))
    for row in outcome.bad:
        _say(out, f"{row['status']:<11}  {row['label']}: {row['error']}")
    for line in () if outcome.changes is None else comparison.told(outcome.changes):
        out.print(line, markup=False, soft_wrap=True, style="red" if line.startswith(comparison.REGRESSION) else None)
    for label, path in zip(("rows", "table", "page"), (outcome.folder / "rows.jsonl", *files), strict=True):
        _say(out, f"{label:<7}  {path}")


def _say(out: Console, line: str) -> None:
    label, _, rest = line.partition("  ")
    out.print(f"[dim]{escape(label)}[/]  {escape(rest)}", soft_wrap=True)


def _rivals(before: list[dict[str, Any]] | None, planned: Sequence[Job], named: bool) -> list[dict[str, Any]] | None:
    """The rows to compare with; of recipes named one by one, theirs alone: the others are not missing."""
    if before is None or not named:
        return before
    recipes = {job.recipe for job in planned}
    return [row for row in before if row.get("recipe") in recipes]
