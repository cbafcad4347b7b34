"""The bench folder: rows.jsonl, the runs and what they printed, and the tables made of the rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gantk.errors import GantkError, UserError
from gantk.files import write_file
from gantk_bench.comparison import Change
from gantk_bench.rows import read_rows, write_rows


class BenchFolder:
    """Keeps rows by their label, on the disk as soon as they are known; rows of other labels stay as they are."""

    def __init__(self, path: Path, labels: Iterable[str], copy: Path | None = None):
        self.path, self.copy = path, copy  # the folder, and a file that gets the rows too
        self.labels = list(labels)  # of the bench at hand, in its order
        self.rows: dict[str, dict[str, Any]] = {}
        self.before: list[dict[str, Any]] | None = None  # what `open` put aside

    @property
    def file(self) -> Path:
        return self.path / "rows.jsonl"

    def open(self, *, aside: bool) -> None:
        """Make the folder or take over an earlier bench's; `aside` copies its rows to rows.before.jsonl.

        UserError where the folder holds anything else: a bench replaces the runs in it.
        """
        if self.copy and not self.copy.absolute().parent.is_dir():
            raise UserError(f"there is no folder '{self.copy.parent}'", where="--json", remedy="make it first")
        if self.path.is_dir() and not self.file.is_file() and any(self.path.iterdir()):
            what = f"'{self.path}' holds other things and no rows.jsonl: it is not a bench folder"
            raise UserError(what, where="--out", remedy="name a new folder, or one of an earlier bench")
        if self.file.is_file():
            self.rows = {row["label"]: row for row in read_rows(self.file)}
        try:
            for name in ("runs", "logs"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            if self.rows and aside:
                shutil.copyfile(self.file, self.path / "rows.before.jsonl")
                self.before = list(self.rows.values())
        except OSError as error:
            what = f"'{self.path}' cannot be written to: {error.strerror}"
            raise UserError(what, where="--out", remedy="choose another folder") from None
        write_rows(self.file, self.ordered())

    def run(self, name: str) -> Path:
        """The run folder of that name, empty: what an earlier attempt left is removed."""
        path = self.path / "runs" / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def log(self, name: str) -> Path:
        """The file for what a run prints."""
        return self.path / "logs" / f"{name}.txt"

    def keep(self, row: dict[str, Any]) -> None:
        """Add or replace a row; GantkError where the disk does not take it."""
        self.rows[row["label"]] = row
        write_rows(self.file, self.ordered())

    def ordered(self) -> Iterator[dict[str, Any]]:
        """Earlier rows of others first, then this bench's in its order."""
        yield from (row for label, row in self.rows.items() if label not in self.labels)
        yield from self.own()

    def own(self) -> Iterator[dict[str, Any]]:
        """The rows of this bench."""
        return (self.rows[label] for label in self.labels if label in self.rows)

    def write_tables(self, changes: Sequence[Change] | None) -> list[Path]:
        """bench.md, bench.html and the copy of the rows; their paths."""
        from gantk_bench.markdown import table
        from gantk_bench.page import write_page

        rows = list(self.ordered())
        if self.copy:
            write_rows(self.copy, rows)
        try:
            markdown = write_file(self.path / "bench.md", table(rows).encode())
            return [markdown, write_page(rows, self.path, changes=changes)]
        except OSError as error:
            what = f"the tables cannot be written to '{self.path}': {error.strerror}"
            raise GantkError(f"{what}. All rows are there; make room and go on with --resume.") from None
