"""Translates one job after another, in a process of its own for each device. A kill loses nothing:
its job goes back to the queue.

    python -m gantk_serve.worker FOLDER NAME SERVER MOST [DEVICE]

SERVER is the process id of the service, and MOST the largest content of a zip in bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from gantk.errors import GantkError, UserError, machine_failure, one_line
from gantk.files import WRITTEN, make_folder, whole_folder
from gantk_serve.journal import Journal, kind_and_place, silence_libraries
from gantk_serve.store import Job, Store, now

RESULTS = "results"
UPLOADS = "uploads"
IDLE_SECONDS = 0.2  # between two looks at an empty queue
PROGRESS_SECONDS = 1.0  # between two notes of a job's progress
TEMPORARY = "work"  # folder of what is being made
CONTENT = "input"  # folder of what a zip or several series hold, within one of the above
SENT = "in"  # folder of a file with its sender's name, within that of an upload
MAX_REASON = 600  # characters
MAX_FILES = 20_000  # in a zip
DEFECT = "an unexpected error: "  # begins the reason of a job that failed by no fault of its input


class Worker:
    """Translates the jobs of the service in `folder` with models on one device."""

    def __init__(
        self,
        folder: Path,
        name: str,
        device: str | None = None,
        *,
        most: int = 2**31,  # bytes of a zip's content
        journal: Journal | None = None,
        show_defect: Callable[[BaseException], None] = lambda error: None,
    ):
        """`show_defect` is called with an error that nobody expected, which the journal only names."""
        self.folder = folder
        self.name = name
        self.device = device
        self.most = most
        self.store = Store(folder)
        self.journal = journal or Journal(folder)
        self.show_defect = show_defect
        self.stop = threading.Event()
        self.model = lru_cache(maxsize=2)(self._load)  # a model by its name or folder

    def run(self, is_needed: Callable[[], bool] = lambda: True) -> None:
        """Work until `stop`, or until no longer needed."""
        import torch  # noqa: F401  takes seconds, in which no job should be running

        while not self.stop.is_set() and is_needed():
            job = self.store.claim(self.name, now())
            if job is None:
                self.stop.wait(IDLE_SECONDS)
            else:
                self.do(job)

    def do(self, job: Job) -> None:
        """Translate a job, and note its result, or why there is none."""
        begun = time.monotonic()
        try:
            result, notes = self._translate(job)
        except Exception as error:  # a defect of a model or a plugin: the next job may be well
            self._give_up(job, error)
        else:
            seconds = round(time.monotonic() - begun, 3)
            kept = self.store.finish(job, self.name, result, now(), notes)
            facts = {"job": job.job, "seconds": seconds, "worker": self.name}
            self.journal.say("done" if kept else "not needed", study=job.study, **facts)
            if not kept and self.store.job(job.job) is None:
                shutil.rmtree(self.folder / result, ignore_errors=True)

    def _give_up(self, job: Job, error: BaseException) -> None:
        """Let a job fail for its own fault, or wait for a machine that has no room."""
        reason = self._reason(error)
        transient = isinstance(error, (OSError, MemoryError)) and not isinstance(error, UserError)
        if transient:
            changed = self.store.put_back(job, reason, now())
        else:
            changed = self.store.fail(job, reason, now(), self.name)
        event = "put back" if transient else "failed"
        if changed:  # else another worker has it, or it was cancelled
            self.journal.say(event, study=job.study, job=job.job, reason=reason, worker=self.name)

    def _reason(self, error: BaseException) -> str:
        """An error without the service's paths, and without what it may quote of a header."""
        failure = machine_failure(error)
        if failure is None and not isinstance(error, (GantkError, OSError, MemoryError)):
            self.show_defect(error)
            return f"{DEFECT}{kind_and_place(error)}"
        return one_line(self._without_places(str(failure or error)), MAX_REASON)

    def _without_places(self, text: str) -> str:
        """A message that names files as their sender did, and no arguments of a command."""
        folders = "|".join((UPLOADS, TEMPORARY, RESULTS))
        root = re.escape(f"{self.folder}{os.sep}")
        below = rf"(?:(?:{folders})/[^/']+/?(?:(?:{SENT}|{CONTENT})(?:/|(?=')))?)?"
        text = re.sub(f"{root}{below}", "", text)
        for argument in ("INPUT", "--to", "--label"):
            text = text.replace(f"  ({argument})", "")
        return text

    def _translate(self, job: Job) -> tuple[str, list[str]]:
        """Translate a job; returns the folder of its results, relative to the service's, and what
        is to be said about its input.
        """
        from gantk import translate

        model = self.model(job.model)
        final = Path(RESULTS, job.job)
        make_folder(self.folder / RESULTS, private=True)
        work = self.folder / TEMPORARY / self.name
        shutil.rmtree(work, ignore_errors=True)
        make_folder(work, private=True)
        said: list[str] = []
        options: dict[str, Any] = {
            "to": job.target or None,
            "label": job.label or None,
            "uncertainty": job.uncertainty or None,
        }
        try:
            source = self._source(job, work)
            with whole_folder(self.folder / final, private=True) as out:
                target = out if source.is_dir() else out / source.name
                try:
                    translate(
                        model,
                        source,
                        target,
                        **options,
                        say=said.append,
                        progress=self._progress_of(job),
                    )
                except GantkError as error:
                    some = job.study is None and out.is_dir() and any(out.iterdir())
                    if isinstance(error, UserError) or not some:
                        raise
                    said.append(f"warning  {error}")  # some of an upload's files failed
                for record in [*out.rglob(WRITTEN)]:  # is no result
                    record.unlink()
                if job.study is not None:
                    from gantk_serve.derived import name_results  # needs pydicom

                    name_results(out, job.job, model.identity())
        finally:
            shutil.rmtree(work, ignore_errors=True)

        notes = [
            self._without_places(line)
            for line in said
            if line.startswith(("warning", "note", "clipped"))
        ]
        for note in notes:
            if note.startswith("warning"):
                text = note.removeprefix("warning").strip()[:MAX_REASON]
                self.journal.say("warning", study=job.study, job=job.job, text=text)
        return final.as_posix(), notes

    def _progress_of(self, job: Job) -> Callable[[float, str], None]:
        """A function that notes a job's progress in the queue, at most once a second."""
        noted = time.monotonic()

        def note(share: float, name: str) -> None:
            nonlocal noted
            if time.monotonic() - noted >= PROGRESS_SECONDS:
                noted = time.monotonic()
                with suppress(OSError):  # a full disk: it is no reason to stop
                    self.store.note_progress(job, self.name, share)

        return note

    def _source(self, job: Job, work: Path) -> Path:
        """The input of a job: the folder of a series, of a study with a folder for each series, or
        an upload, which is a file or a folder.
        """
        files = [self.folder / path for path in job.files]
        source = work / CONTENT
        if job.study is None:
            (upload,) = files
            return unpack_upload(upload, source, self.most) if is_zip(upload) else upload

        series = {file.parent for file in files}
        for file in files:
            folder = source if len(series) == 1 else source / file.parent.name
            make_folder(folder, private=True)
            os.link(file, folder / file.name)
        return source

    def _load(self, model: str) -> Any:
        from gantk import load

        return load(model, device=self.device)


def is_zip(upload: Path) -> bool:
    """Whether an upload is to be unpacked."""
    return upload.suffix.lower() == ".zip"


def unpack_upload(upload: Path, folder: Path, most: int) -> Path:
    """Unpack a zip into a new folder and return it; UserError where it is damaged, holds more than
    `most` bytes or MAX_FILES files, or has paths outside of it.
    """
    from gantk.formats.archives import unpack

    make_folder(folder, private=True)
    try:
        with zipfile.ZipFile(upload) as opened:
            sizes = [each.file_size for each in opened.infolist()]
        if len(sizes) > MAX_FILES or sum(sizes) > most:
            raise ValueError(f"it holds more than {MAX_FILES:,} files or {most >> 20} MB")
        unpack(upload, folder)
    except OSError:
        raise  # a full disk
    # zipfile and its decompressors raise any exception for a malicious file
    except Exception as error:
        what = f"the zip file '{upload.name}' cannot be unpacked: {one_line(error)}"
        raise UserError(
            what, allowed="a zip of DICOM series or images", remedy="pack it again"
        ) from None
    return folder


def main() -> None:
    """Work until a signal to stop, or until the server is gone."""
    folder, name, server, most, *device = sys.argv[1:]
    silence_libraries()
    worker = Worker(Path(folder), name, *device, most=int(most))
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: worker.stop.set())
    try:
        worker.run(lambda: os.getppid() == int(server))
    except OSError as error:  # the queue cannot be written: the service puts the job back
        sys.exit(f"the worker ends: {error.strerror}")


if __name__ == "__main__":
    main()
