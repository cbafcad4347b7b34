"""The process that translates, one job after another. A kill loses nothing: its job goes back to
the queue.

    python -m gantk_serve.worker FOLDER NAME SERVER [DEVICE]

SERVER is the process id of the service.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from gantk.errors import GantkError, UserError, machine_failure, one_line
from gantk.files import make_folder, whole_folder
from gantk_serve.journal import Journal, kind_and_place, silence_libraries
from gantk_serve.store import Job, Store, now

RESULTS = "results"
UPLOADS = "uploads"
IDLE_SECONDS = 0.5  # between two looks at an empty queue
TEMPORARY = "work"  # folder of what is being made
MAX_REASON = 300  # characters


class Worker:
    """Translates the jobs of the service in `folder` with models on one device."""

    def __init__(self, folder: Path, name: str, device: str | None = None):
        self.folder = folder
        self.name = name
        self.device = device
        self.store = Store(folder)
        self.journal = Journal(folder)
        self.stop = threading.Event()
        self._model = lru_cache(maxsize=2)(self._load)

    def run(self, server: int) -> None:
        """Work until `stop`, or until the process `server` is gone."""
        import torch  # noqa: F401  takes seconds, in which no job should be running

        while not self.stop.is_set() and os.getppid() == server:
            job = self.store.claim(self.name, now())
            if job is None:
                self.stop.wait(IDLE_SECONDS)
            else:
                self.do(job)

    def do(self, job: Job) -> None:
        """Translate a job, and note its result, or why there is none."""
        begun = time.monotonic()
        try:
            result = self._translate(job)
        except Exception as error:  # a defect of a model or a plugin: the next job may be well
            self._give_up(job, error)
        else:
            seconds = round(time.monotonic() - begun, 3)
            kept = self.store.finish(job, self.name, result, now())
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
            return kind_and_place(error)
        text = one_line(failure or error, MAX_REASON)
        return text.replace(f"{self.folder}{os.sep}", "")

    def _translate(self, job: Job) -> str:
        """Translate a job; returns the folder of its results, relative to the service's."""
        from gantk import translate
        from gantk_serve.derived import name_results

        model = self._model(job.model)
        final = Path(RESULTS, job.job)
        make_folder(self.folder / RESULTS, private=True)
        work = self.folder / TEMPORARY / self.name
        shutil.rmtree(work, ignore_errors=True)
        make_folder(work, private=True)
        try:
            source = self._source(job, work)
            with whole_folder(self.folder / final, private=True) as out:
                notes: list[str] = []
                target = out if source.is_dir() else out / source.name
                options: dict[str, Any] = {"to": job.target or None, "label": job.label or None}
                translate(model, source, target, **options, say=notes.append)
                if job.study is not None:
                    name_results(out, job.job, model.identity())
        finally:
            shutil.rmtree(work, ignore_errors=True)

        for note in notes:
            if note.startswith("warning"):
                text = note.removeprefix("warning").strip()[:MAX_REASON]
                self.journal.say("warning", study=job.study, job=job.job, text=text)
        return final.as_posix()

    def _source(self, job: Job, work: Path) -> Path:
        """The input of a job: the folder of a series, of a study with a folder for each series, or
        an uploaded file.
        """
        files = [self.folder / path for path in job.files]
        if job.study is None:
            return self._upload(files, work)

        series = {file.parent for file in files}
        source = work / "input"
        for file in files:
            folder = source if len(series) == 1 else source / file.parent.name
            make_folder(folder, private=True)
            os.link(file, folder / file.name)
        return source

    def _upload(self, files: Sequence[Path], work: Path) -> Path:
        (file,) = files
        if file.suffix.lower() != ".zip":
            return file

        from gantk.formats.archives import unpack

        content = work / "input"
        make_folder(content, private=True)
        try:
            unpack(file, content)
        except (OSError, GantkError):
            raise
        # zipfile and its decompressors raise any exception for a malicious file
        except Exception as error:
            what = f"the zip file cannot be unpacked: {one_line(error)}"
            raise UserError(what, allowed="a zip of DICOM series or images") from None
        return content

    def _load(self, model: str) -> Any:
        from gantk import load

        return load(model, device=self.device)


def main() -> None:
    """Work until a signal to stop, or until the server is gone."""
    folder, name, server, *device = sys.argv[1:]
    silence_libraries()
    worker = Worker(Path(folder), name, *device)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: worker.stop.set())
    try:
        worker.run(int(server))
    except OSError as error:  # the queue cannot be written: the service puts the job back
        sys.exit(f"the worker ends: {error.strerror}")


if __name__ == "__main__":
    main()
