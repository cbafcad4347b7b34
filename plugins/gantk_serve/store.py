"""The queue of a service: instances, studies and translations in an SQLite file, which survives a
kill at any point.

A study is `received`, then `complete`. A translation (job) is `waiting`, `running`, `done`, and
`sent` once all peers that are to have the result have it; or `failed` or `cancelled`, with a
reason. Its number is a function of its inputs, its rule and its model, so that the same inputs never
make two jobs.
"""

from __future__ import annotations

import errno
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Full
from typing import Any

from gantk.errors import UserError
from gantk.files import write_file

NAME = "queue.sqlite"
VERSION = 2
MAX_ATTEMPTS = 10  # of a translation whose worker ended, before it counts as failed
MAX_SENDS = 16  # of a result: over a day and a half, with the default first wait
FIRST_WAIT = 10.0  # seconds
MAX_WAIT = 4 * 3600.0
STATES = ("waiting", "running", "done", "sent", "failed", "cancelled")
JSON = ("files", "peers", "waits", "notes")  # columns of lists and tables
NOT_TRANSLATED = "state IN ('waiting', 'running')"
NOT_DELIVERED = "state = 'done' AND peers != '[]'"
# jobs that will change by themselves
OPEN = f"({NOT_TRANSLATED} OR ({NOT_DELIVERED}))"

SCHEMA = """
CREATE TABLE studies (
    study TEXT PRIMARY KEY,      -- StudyInstanceUID
    sender TEXT NOT NULL,        -- AE title
    state TEXT NOT NULL,         -- received, complete
    first REAL NOT NULL,         -- time of the first and the last instance
    last REAL NOT NULL
);
CREATE TABLE instances (
    instance TEXT NOT NULL,      -- SOPInstanceUID
    study TEXT NOT NULL REFERENCES studies (study) ON DELETE CASCADE,
    series TEXT NOT NULL,        -- SeriesInstanceUID
    path TEXT NOT NULL,          -- relative to the service's folder
    bytes INTEGER NOT NULL,
    -- a damaged instance must not take the place of one of another study
    PRIMARY KEY (study, series, instance)
);
CREATE TABLE jobs (
    job TEXT PRIMARY KEY,
    study TEXT,                  -- NULL: an upload
    files TEXT NOT NULL,         -- JSON: paths relative to the service's folder
    model TEXT NOT NULL,
    target TEXT NOT NULL,        -- the domain to make, "" for the default
    label TEXT NOT NULL,
    peers TEXT NOT NULL,         -- JSON: AE titles that still lack the result
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,   -- times that a worker has begun
    sends INTEGER NOT NULL,      -- times that the result was sent, or could not be
    ready REAL NOT NULL,         -- no worker before this time
    waits TEXT NOT NULL,         -- JSON: by AE title, no sending before this time
    created REAL NOT NULL,
    begun REAL,
    ended REAL,                  -- time of the last change of state
    worker TEXT NOT NULL,
    progress REAL NOT NULL,      -- share of the translation that is done
    notes TEXT NOT NULL,         -- JSON: what the translation says about the input
    result TEXT NOT NULL,        -- relative to the service's folder
    uncertainty TEXT NOT NULL    -- as of `gantk.translate`, "" for none
);
CREATE INDEX jobs_by_state ON jobs (state, ready);
"""


@dataclass(frozen=True)
class Instance:
    """A received DICOM instance."""

    instance: str
    study: str
    series: str
    path: str
    bytes: int


@dataclass(frozen=True)
class Job:
    """A translation; the columns of its table."""

    job: str
    study: str | None
    files: list[str]
    model: str
    target: str = ""
    label: str = ""
    peers: list[str] = field(default_factory=list)
    state: str = "waiting"
    reason: str = ""
    attempts: int = 0
    sends: int = 0
    ready: float = 0.0
    created: float = 0.0
    begun: float | None = None
    ended: float | None = None
    worker: str = ""
    progress: float = 0.0
    notes: list[str] = field(default_factory=list)
    result: str = ""
    waits: dict[str, float] = field(default_factory=dict)
    uncertainty: str = ""

    @property
    def model_name(self) -> str:
        """The name of the model without the folders before it."""
        return Path(self.model).name

    def is_due(self, peer: str, now: float) -> bool:
        """Whether a peer lacks the result, and sending is not to wait any more."""
        return peer in self.peers and self.waits.get(peer, 0.0) <= now

    @property
    def shown_state(self) -> str:
        """The state for people: that of a running job with its progress."""
        return f"{self.state} {self.progress:.0%}" if self.state == "running" else self.state


class Store:
    """The queue of the service in `folder`. Each thread and each process has its own connection."""

    def __init__(self, folder: Path, first_wait: float = FIRST_WAIT):
        """`first_wait`: seconds until a second try; each further one waits twice as long."""
        self.path = folder / NAME
        self.first_wait = first_wait
        self._local = threading.local()
        if not self.path.exists():
            write_file(self.path, b"", private=True)  # the files beside it get the same rights
        with self.change() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in filter(str.strip, SCHEMA.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                what = f"'{self.path}' was written by another version of gantk"
                raise UserError(what, remedy="name a new folder in the rules: service.folder")

    @property
    def _db(self) -> sqlite3.Connection:
        if not hasattr(self._local, "db"):
            db = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            # a commit is on the disk when it returns
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            self._local.db = db
        return self._local.db

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it is kept, or nothing. OSError where the disk does not allow it."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            code = errno.ENOSPC if full else errno.EIO
            raise OSError(code, f"the queue cannot be written: {error}") from None
        finally:
            if db.in_transaction:  # SQLite ends some that fail by itself
                db.execute("ROLLBACK")

    # ---- studies

    def add_instance(self, new: Instance, sender: str, now: float) -> None:
        """Add an instance to its study, which is `received` again if it was complete. An instance
        that is known changes nothing but its file.
        """
        with self.change() as db:
            db.execute(
                "INSERT INTO studies VALUES (?, ?, 'received', ?, ?)"
                " ON CONFLICT (study) DO UPDATE SET last = excluded.last, state = 'received',"
                " sender = excluded.sender",
                (new.study, sender, now, now),
            )
            db.execute(
                "INSERT OR REPLACE INTO instances VALUES (?, ?, ?, ?, ?)",
                (new.instance, new.study, new.series, new.path, new.bytes),
            )

    def quiet_studies(self, before: float) -> list[str]:
        """Studies that are still `received` and got their last instance before this time."""
        rows = self._db.execute(
            "SELECT study FROM studies WHERE state = 'received' AND last <= ?", (before,)
        )
        return [row["study"] for row in rows]

    def await_senders(self, now: float) -> None:
        """Let incomplete studies wait for more instances from now on: while no service ran, their
        senders had nobody to send to.
        """
        with self.change() as db:
            db.execute("UPDATE studies SET last = ? WHERE state = 'received'", (now,))

    def sender_of(self, study: str) -> str:
        """The AE title that sent a study; "" if it is not known."""
        row = self._db.execute("SELECT sender FROM studies WHERE study = ?", (study,)).fetchone()
        return row["sender"] if row else ""

    def instances(self, study: str) -> list[Instance]:
        """The instances of a study, in the order of their UIDs."""
        rows = self._db.execute(
            "SELECT * FROM instances WHERE study = ? ORDER BY instance", (study,)
        )
        return [Instance(**row) for row in rows]

    def complete(self, study: str, last: float, jobs: Sequence[Job]) -> list[Job]:
        """Make a study complete and add its jobs in one step; returns those that are new. Nothing
        happens if an instance has come after the time `last`.
        """
        with self.change() as db:
            changed = db.execute(
                "UPDATE studies SET state = 'complete'"
                " WHERE study = ? AND state = 'received' AND last <= ?",
                (study, last),
            )
            if not changed.rowcount:
                return []
            return [job for job in jobs if self._add(db, job)]

    def add(self, job: Job) -> bool:
        """Add a job; False if there is one of its number."""
        with self.change() as db:
            return self._add(db, job)

    def enqueue(self, job: Job, most: int) -> int:
        """Add a job of an upload; returns how many run or wait before it. queue.Full where that are
        `most`.
        """
        with self.change() as db:
            found = db.execute(f"SELECT count(*) FROM jobs WHERE {NOT_TRANSLATED}")
            before = found.fetchone()[0]
            if before >= most:
                raise Full(
                    f"{before} translations are already waiting. Try again in a few minutes."
                )
            self._add(db, job)
        return before

    def _add(self, db: sqlite3.Connection, job: Job) -> bool:
        values = vars(job) | {name: json.dumps(getattr(job, name)) for name in JSON}
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        added = db.execute(
            f"INSERT OR IGNORE INTO jobs ({names}) VALUES ({marks})", list(values.values())
        )
        return added.rowcount == 1

    # ---- jobs

    def claim(self, worker: str, now: float) -> Job | None:
        """The next job for a worker, which is `running` from now on; None if none is ready."""
        ready = "SELECT job FROM jobs WHERE state = 'waiting' AND ready <= ?"
        first = f"{ready} ORDER BY created, job LIMIT 1"
        begin = "state = 'running', worker = ?, begun = ?, ended = ?, progress = 0"
        changes = f"{begin}, attempts = attempts + 1"
        with self.change() as db:
            row = db.execute(
                f"UPDATE jobs SET {changes} WHERE job = ({first}) RETURNING *",
                (worker, now, now, now),
            ).fetchone()
        return _job(row) if row else None

    def note_progress(self, job: Job, worker: str, share: float) -> None:
        """Note how much of a job is done, if this worker still has it."""
        condition = "job = ? AND state = 'running' AND worker = ?"
        with self.change() as db:
            db.execute(f"UPDATE jobs SET progress = ? WHERE {condition}", (share, job.job, worker))

    def finish(
        self, job: Job, worker: str, result: str, now: float, notes: Sequence[str] = ()
    ) -> bool:
        """Note the result of a job; False if another worker has it by now, or it was cancelled."""
        changes = {"result": result, "progress": 1.0, "notes": json.dumps([*notes])}
        return self._leave("running", job, "done", now, worker=worker, changes=changes)

    def fail(self, job: Job, reason: str, now: float, worker: str | None = None) -> bool:
        """Give a job up."""
        return self._leave(job.state, job, "failed", now, reason, worker)

    def put_back(self, job: Job, reason: str, now: float) -> bool:
        """Let a job that a worker has left be translated again, later; it fails after MAX_ATTEMPTS."""
        if job.attempts >= MAX_ATTEMPTS:
            what = f"{reason}, {job.attempts} times"
            return self._leave("running", job, "failed", now, what, job.worker)
        ready = now + self._wait(job.attempts)
        return self._leave("running", job, "waiting", now, reason, job.worker, {"ready": ready})

    def resume(self, now: float) -> list[Job]:
        """Let the jobs that a killed server has left `running` be translated again."""
        with self.change() as db:
            rows = db.execute(
                "UPDATE jobs SET state = 'waiting', attempts = attempts - 1, ready = ?"
                " WHERE state = 'running' RETURNING *",
                (now,),
            ).fetchall()
        return [_job(row) for row in rows]

    def _wait(self, tries: int) -> float:
        """Seconds until the next try after so many."""
        return min(MAX_WAIT, self.first_wait * 2 ** max(0, tries - 1))

    def running(self) -> list[Job]:
        """The jobs that workers have begun and not finished."""
        rows = self._db.execute("SELECT * FROM jobs WHERE state = 'running'")
        return [_job(row) for row in rows]

    def to_send(self, peer: str, now: float) -> list[Job]:
        """The jobs whose results are to be sent to a peer, those that were done first at first."""
        return [job for job in self.jobs_to_deliver() if job.is_due(peer, now)]

    def jobs_to_deliver(self) -> list[Job]:
        """The jobs whose results some peer still lacks."""
        rows = self._db.execute(f"SELECT * FROM jobs WHERE {NOT_DELIVERED} ORDER BY ended")
        return [_job(row) for row in rows]

    def sent(self, number: str, peer: str, now: float) -> None:
        """Note that a peer has the result of a job."""
        with self.change() as db:
            job = self._job_with_result(db, number)
            if job is None:
                return
            still = [each for each in job.peers if each != peer]
            state = "done" if still else "sent"
            reason = job.reason if still else ""
            db.execute(
                "UPDATE jobs SET peers = ?, state = ?, reason = ?, ended = ?, sends = sends + 1"
                " WHERE job = ?",
                (json.dumps(still), state, reason, now, number),
            )

    def not_sent(self, number: str, peer: str, failure: str, now: float) -> None:
        """Note why a peer does not have the result of a job. It is sent again later, and fails
        after MAX_SENDS.
        """
        with self.change() as db:
            job = self._job_with_result(db, number)
            if job is None:
                return
            reason = f"{peer}: {failure}"
            state = "done"
            if job.sends + 1 >= MAX_SENDS:
                state = "failed"
                reason += f", after {MAX_SENDS} tries"
            waits = job.waits | {peer: now + self._wait(job.sends + 1)}
            db.execute(
                "UPDATE jobs SET waits = ?, state = ?, reason = ?, ended = ?, sends = sends + 1"
                " WHERE job = ?",
                (json.dumps(waits), state, reason, now, number),
            )

    def _job_with_result(self, db: sqlite3.Connection, number: str) -> Job | None:
        row = db.execute(
            "SELECT * FROM jobs WHERE job = ? AND state = 'done'", (number,)
        ).fetchone()
        return _job(row) if row else None

    def cancel(self, number: str, now: float) -> bool:
        """Cancel a job that has not ended."""
        job = self.job(number)
        if job is None or job.state not in ("waiting", "running", "done"):
            return False
        return self._leave(job.state, job, "cancelled", now, "cancelled")

    def retry(self, number: str, now: float) -> bool:
        """Let a failed job start again; one that has a result is only sent again."""
        job = self.job(number)
        if job is None or job.state != "failed":
            return False
        state = "done" if job.result else "waiting"
        changes = {"attempts": 0, "sends": 0, "ready": now, "waits": "{}"}
        return self._leave("failed", job, state, now, changes=changes)

    def _leave(
        self,
        before: str,
        job: Job,
        after: str,
        now: float,
        reason: str = "",
        worker: str | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> bool:
        """Change the state of a job if it is still that of before, and still with this worker."""
        values = {"state": after, "reason": reason, "ended": now} | dict(changes or {})
        assignments = ", ".join(f"{name} = ?" for name in values)
        condition = "job = ? AND state = ?"
        wanted = [job.job, before]
        if worker is not None:
            condition += " AND worker = ?"
            wanted.append(worker)
        with self.change() as db:
            changed = db.execute(
                f"UPDATE jobs SET {assignments} WHERE {condition}", [*values.values(), *wanted]
            )
            return changed.rowcount == 1

    def job(self, number: str) -> Job | None:
        """The job of a number."""
        row = self._db.execute("SELECT * FROM jobs WHERE job = ?", (number,)).fetchone()
        return _job(row) if row else None

    def jobs(self, study: str | None = None, newest: int = 1000) -> list[Job]:
        """The jobs, newest first; of one study if it is named."""
        condition = "" if study is None else "WHERE study = ?"
        wanted = [] if study is None else [study]
        rows = self._db.execute(
            f"SELECT * FROM jobs {condition} ORDER BY created DESC LIMIT ?", [*wanted, newest]
        )
        return [_job(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """The number of studies that are received, and of jobs by state."""
        found = {"received": 0, **dict.fromkeys(STATES, 0)}
        row = self._db.execute("SELECT count(*) FROM studies WHERE state = 'received'").fetchone()
        found["received"] = row[0]
        for state, count in self._db.execute("SELECT state, count(*) FROM jobs GROUP BY state"):
            found[state] = count
        return found

    def ahead(self, job: Job) -> int:
        """The number of translations that run or wait, and were added before this one."""
        row = self._db.execute(
            f"SELECT count(*) FROM jobs WHERE {NOT_TRANSLATED} AND (created, job) < (?, ?)",
            (job.created, job.job),
        ).fetchone()
        return row[0]

    # ---- what is kept

    def expired_jobs(self, before: float, failed_before: float) -> list[Job]:
        """The jobs that ended before a time, and those that failed before another."""
        rows = self._db.execute(
            f"SELECT * FROM jobs WHERE NOT {OPEN}"
            " AND ((state = 'failed' AND ended <= ?) OR (state != 'failed' AND ended <= ?))",
            (failed_before, before),
        )
        return [_job(row) for row in rows]

    def finished_studies(self, before: float, failed_before: float) -> list[str]:
        """Complete studies of which no job is open, none ended after `before`, and none failed
        after `failed_before`.
        """
        recent = "(state = 'failed' AND ended > ?) OR (state != 'failed' AND ended > ?)"
        rows = self._db.execute(
            "SELECT study FROM studies WHERE studies.state = 'complete' AND NOT EXISTS"
            f" (SELECT 1 FROM jobs WHERE jobs.study = studies.study AND ({OPEN} OR {recent}))",
            (failed_before, before),
        )
        return [row["study"] for row in rows]

    def forget_study(self, study: str) -> bool:
        """Delete a complete study and its instances; False if an instance has come meanwhile."""
        with self.change() as db:
            found = db.execute(
                "DELETE FROM studies WHERE study = ? AND state = 'complete'", (study,)
            )
            return found.rowcount == 1

    def forget_job(self, number: str) -> None:
        """Delete a job."""
        with self.change() as db:
            db.execute("DELETE FROM jobs WHERE job = ?", (number,))


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    return Job(**values | {name: json.loads(values[name]) for name in JSON})


def now() -> float:
    """The time in seconds since 1970."""
    return time.time()
