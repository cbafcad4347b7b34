"""`gantk bench` from Python: plans the rows, runs them, compares, and writes the table."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from gantk.errors import UserError, argument, writing_file
from gantk.files import expect_file, expect_replaceable, write_file
from gantk.machine.runtime import start
from gantk.terminal import console as standard_output
from gantk_bench import comparison
from gantk_bench.comparison import Change
from gantk_bench.plan import Options, jobs_for, recipe_names
from gantk_bench.rows import ROWS_ARE_THERE, Row, read_rows, write_rows
from gantk_bench.running import Bench, print_line
from gantk_bench.statistics import sentences
from gantk_bench.suite import load_suite
from gantk_bench.systems import systems as grouped
from gantk_bench.tables import markdown, plain, terminal
from gantk_bench.timed import TimedBench


@dataclass(frozen=True)
class Outcome:
    """Result of a bench: its rows, its folder, and the changes since `against` or since the
    folder's earlier rows.

    `judged`: whether a regression makes the bench fail, as it does with `against`.
    """

    rows: list[Row]
    folder: Path
    changes: list[Change] | None = None
    judged: bool = False

    @property
    def good(self) -> bool:
        """Whether no row failed and, if `judged`, no score regressed."""
        failed = any(row.status not in ("ok", "skipped") for row in self.rows)
        return not failed and not (self.judged and comparison.regressed(self.changes or []))


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
    minutes: float | None = None,
    tiny: bool = False,
    reference: str | Path | None = None,
    data: str | Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
    dry_run: bool = False,
    console: Console | None = None,
) -> Outcome:
    """Train and score recipes the same way, each in a process of its own; returns one row for each.

    Args: the options of the command, as `gantk bench --help` tells them, and
        against: None: the folder's earlier rows, if it has any. Rows of other recipes in the folder
          stay.
        resume: skip rows that are "ok" and have the same recipe, settings and seed.
        jobs, limit, minutes: None: those of the suite.
        reference: a checkout whose CycleGAN is timed too, in a suite of fixed minutes.
        dry_run: print the rows and how long they will take, and train nothing.
        console: where progress is shown; None: standard output.

    Raises UserError for invalid input before anything runs, and Interrupted on Ctrl-C, once the
    children have stopped and all finished rows are saved.
    """
    chosen = load_suite(str(suite))
    if isinstance(names, str | Path):
        names = [names]
    names = [*map(str, names)]
    if chosen.minutes is None and (minutes is not None or tiny or reference is not None):
        what = f"the suite {chosen.name} has no fixed length"
        remedy = "take --suite gpu, or limit the time of each recipe by --limit SECONDS"
        raise UserError(what, where="--suite", remedy=remedy)
    recipes, named = recipe_names(names, all or bool(chosen.minutes and not names), chosen)
    earlier = read_rows(against) if against is not None else None
    data_path = None if data is None else str(Path(data).absolute())
    opts = Options(tuple(grid), seeds, tuple(set), data_path, limit, tiny)
    planned = jobs_for(recipes, chosen, opts, named=named)
    path = Path(out) if out else Path("runs") / f"bench-{chosen.name}"
    copy = Path(json) if json else None
    if copy:
        expect_file(copy, "--json", overwrite=overwrite)
    if not (path / "rows.jsonl").is_file() and not dry_run:
        expect_replaceable([path], overwrite, "--out")
    if device is not None:
        start(device, "fp32")  # raises if the device does not exist
    console = console or standard_output()

    benchmark = Bench(planned, chosen, path, jobs, device, console)
    if chosen.minutes is not None:
        seconds = 60 * (minutes or chosen.minutes)
        benchmark = TimedBench(planned, chosen, path, seconds, device, console, tiny, reference)
    if dry_run:
        expected = benchmark.forecast(planned)
        expected.table().print_on(console)
        benchmark.print_plan(expected)
        return Outcome([], path)
    benchmark.run(resume)
    changes = _changes(benchmark, earlier, named)
    outcome = Outcome(benchmark.own_rows(), path, changes, judged=earlier is not None)
    if copy:
        write_rows(copy, benchmark.all_rows())
    table = _write_table(list(benchmark.all_rows()), path)
    _show(outcome, table, console)
    return outcome


def _changes(benchmark: Bench, reference: list[Row] | None, named: bool) -> list[Change] | None:
    """Changes since `reference` (--against), else since the folder's earlier rows; None without
    either.
    """
    earlier = benchmark.before if reference is None else reference
    if earlier is not None and (named or reference is None):
        # a recipe that this bench does not run is not "missing"
        recipes = {job.recipe for job in benchmark.planned}
        earlier = [row for row in earlier if row.recipe in recipes]
    if not earlier and reference is None:
        return None
    return comparison.compare(benchmark.own_rows(), earlier)


def _write_table(rows: list[Row], path: Path) -> Path:
    """Write bench.md; returns its path."""
    with writing_file(path, remedy=ROWS_ARE_THERE):
        return write_file(path / "bench.md", markdown(rows).encode())


def _show(outcome: Outcome, table: Path, out: Console) -> None:
    """Print the table of results, the statistics, the changes and the paths of the files."""
    terminal(outcome.rows).print_on(out)
    for line in sentences(grouped(outcome.rows)):
        out.print(plain(line), markup=False, soft_wrap=True)
    if outcome.changes is not None:
        for line in comparison.change_lines(outcome.changes):
            style = "red" if line.startswith(comparison.REGRESSION) else None
            out.print(line, markup=False, soft_wrap=True, style=style)
    print_line(out, f"rows     {outcome.folder / 'rows.jsonl'}")
    print_line(out, f"table    {table}")
    if any(row.run for row in outcome.rows):
        print_line(out, f"next     gantk report {argument(outcome.folder)}/runs/*")
