"""The service: DICOM node, HTTP server, workers, sending and retention, until a signal to stop."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gantk.errors import GantkError, UserError, one_line
from gantk.files import lock_folder, make_folder, restrict, sweep
from gantk_serve.journal import Journal, kind_and_place, silence_libraries
from gantk_serve.rules import DicomTable, PeerTable, Rules, load_rules
from gantk_serve.store import Job, Store, now
from gantk_serve.worker import RESULTS, TEMPORARY, UPLOADS

TICK_SECONDS = 0.5
MAX_WAIT_SECONDS = 60.0  # after steps that fail
STOP_SECONDS = 30.0  # that workers have to end their translation
DAY = 86400.0


class Workers:
    """One process for each device; one that ends is started again, later each time.

    Each process has a name of its own: a worker that has outlived a killed service must not be taken
    for one of this service.
    """

    def __init__(
        self, folder: Path, devices: list[str], store: Store, journal: Journal, most: int = 2**31
    ):
        """`most`: the largest content of a zip in bytes."""
        self.folder = folder
        self.most = most
        self.store = store
        self.journal = journal
        self.devices = devices or [""]
        self.processes: dict[str, subprocess.Popen] = {}
        self.restarts = 0
        self._numbers: dict[str, int] = {}  # of their devices
        self._codes: dict[str, int] = {}  # of those that ended
        self._begin = [0.0] * len(self.devices)
        self._idle_ends = [0] * len(self.devices)  # in a row, without a job

    def check(self) -> None:
        """Start workers that are missing. What one that ended was working on goes back."""
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        for name in ended:
            self._note_end(name)
        self._put_back_jobs()
        running = {self._numbers[name] for name in self.processes}
        for number in range(len(self.devices)):
            if number not in running and now() >= self._begin[number]:
                self._start(number)

    def _start(self, number: int) -> None:
        name = f"worker-{number}-{secrets.token_hex(4)}"
        command = [sys.executable, "-m", "gantk_serve.worker", str(self.folder), name]
        arguments = [str(os.getpid()), str(self.most), *filter(None, [self.devices[number]])]
        self.processes[name] = subprocess.Popen([*command, *arguments])
        self._numbers[name] = number

    def _note_end(self, name: str) -> None:
        code = self.processes.pop(name).returncode
        number = self._numbers[name]
        self._codes[name] = code
        self.restarts += 1
        self._idle_ends[number] += 1
        if any(job.worker == name for job in self.store.running()):
            self._idle_ends[number] = 0
        if self._idle_ends[number] > 1:  # it cannot even begin
            self._begin[number] = now() + min(60.0, 2.0 ** self._idle_ends[number])
        shutil.rmtree(self.folder / TEMPORARY / name, ignore_errors=True)
        sweep(self.folder / RESULTS)
        self.journal.say("worker ended", worker=name, code=code)

    def _put_back_jobs(self) -> None:
        """Put back the jobs whose workers have ended; again at the next check where the disk is full."""
        for job in self.store.running():
            if job.worker not in self.processes:
                reason = f"the worker ended with code {self._codes.get(job.worker, 'unknown')}"
                self.store.put_back(job, reason, now())
                self.journal.say("put back", study=job.study, job=job.job, reason=reason)

    def stop(self) -> None:
        """Let the workers end their translations, and end those that take too long."""
        for process in self.processes.values():
            process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for process in self.processes.values():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Service:
    """All parts of a service with these rules."""

    def __init__(self, rules: Rules):
        self.rules = rules
        from gantk_serve.inbox import Inbox  # needs pydicom

        self.folder = make_folder(Path(rules.service.folder), private=True)
        restrict(self.folder, private=True)  # also one that was there
        for name in (RESULTS, UPLOADS, TEMPORARY):
            make_folder(self.folder / name, private=True)
        self.journal = Journal(self.folder)
        self.store = Store(self.folder, rules.service.retry)
        self.inbox = Inbox(self.folder, rules, self.store, self.journal)
        self.workers = Workers(
            self.folder,
            rules.service.devices,
            self.store,
            self.journal,
            rules.service.max_mb << 20,
        )
        self.stopping = threading.Event()

    def resume(self) -> None:
        """Take up what a killed service has left."""
        for place in (self.folder, self.folder / RESULTS, self.folder / UPLOADS):
            sweep(place)
        for unfinished in (self.folder / TEMPORARY).iterdir():
            shutil.rmtree(unfinished, ignore_errors=True)
        self.inbox.sweep()
        for job in self.store.resume(now()):
            self.journal.say("put back", study=job.study, job=job.job, reason="service restarted")

    def run(self, say: Callable[[str], None]) -> None:
        """Work until `stopping` is set."""
        node = web = None
        # one for each: a peer that does not answer must not delay the others
        senders = []
        for peer in self.rules.peers:
            step = partial(self.send_results, peer)
            senders.append(threading.Thread(target=self._repeat, args=(step,), name=peer.title))
        try:
            if self.rules.dicom is not None:
                from gantk_serve.dicom import Node

                node = Node(self.rules, self.inbox, self.journal)
                port = node.start()
                self.store.await_senders(now())
                say(f"dicom    {self.rules.dicom.title} at {self.rules.dicom.host}:{port}")
            if self.rules.http is not None:
                from gantk_serve.web import Web

                web = Web(self)
                say(f"http     {web.start()}")
            for sender in senders:
                sender.start()
            self._repeat(self.tick)
        finally:
            self.stopping.set()
            if node is not None:
                node.stop()
            if web is not None:
                web.stop()
            self.workers.stop()
            for sender in senders:
                if sender.is_alive():
                    sender.join()

    def _repeat(self, step: Callable[[], None]) -> None:
        """Do a step again and again; one that fails is logged, and tried again later each time."""
        wait = TICK_SECONDS
        while not self.stopping.wait(wait):
            try:
                step()
            except Exception as error:  # a full disk, a defect: it must not end the service
                wait = min(MAX_WAIT_SECONDS, 2 * wait)
                known = isinstance(error, (GantkError, OSError))
                reason = one_line(error) if known else kind_and_place(error)
                self.journal.say("error", reason=reason, wait=wait)
            else:
                wait = TICK_SECONDS

    def tick(self) -> None:
        """What is due: workers, complete studies, what is no longer kept."""
        self.workers.check()
        self.inbox.complete_quiet()
        self.drop_unknown_peers()
        self.expire()

    def send_results(self, peer: PeerTable) -> None:
        """Send the results that wait for a peer. One that cannot be reached is tried again later."""
        for job in self.store.to_send(peer.title, now()):
            if self.stopping.is_set():
                return
            files = sorted((self.folder / job.result).rglob("*.dcm"))
            failure = self._send_to(peer, files)
            self._note_sending(job, peer.title, failure, instances=len(files))

    def drop_unknown_peers(self) -> None:
        """Give up results for peers that the rules no longer name."""
        for job in self.store.jobs_to_deliver():
            for title in job.peers:
                if self.rules.peer(title) is None and job.is_due(title, now()):
                    self._note_sending(job, title, "it is no longer a peer")

    def _note_sending(self, job: Job, title: str, failure: str, **facts: object) -> None:
        """Note that a result was sent, or why not, in the queue and in the log."""
        if failure:
            self.store.not_sent(job.job, title, failure, now())
            facts["reason"] = f"{title}: {failure}"
        else:
            self.store.sent(job.job, title, now())
            facts["peer"] = title
        event = "not sent" if failure else "sent"
        self.journal.say(event, study=job.study, job=job.job, **facts)

    def _send_to(self, peer: PeerTable, files: Sequence[Path]) -> str:
        """Send files to a peer; returns "" if it has all of them, else the reason."""
        from gantk_serve.dicom import send

        if not files:
            return "there is no result to send"
        try:
            return send(files, peer, self.rules.dicom or DicomTable())
        except Exception as error:  # a damaged file, a defect: it is tried again later, not at once
            return f"it could not be sent ({type(error).__name__})"

    def expire(self) -> None:
        """Delete inputs and results that are no longer kept."""
        table = self.rules.service
        failed = now() - table.keep_failed * DAY
        for study in self.store.finished_studies(now() - table.keep_inputs * DAY, failed):
            self.inbox.forget(study)
        for job in self.store.expired_jobs(now() - table.keep_results * DAY, failed):
            self.forget(job)

    def forget(self, job: Job) -> None:
        """Delete a job with its result and its upload."""
        if job.result:
            shutil.rmtree(self.folder / job.result, ignore_errors=True)
        if job.study is None:
            shutil.rmtree(self.folder / UPLOADS / job.job, ignore_errors=True)
        self.store.forget_job(job.job)


def serve(rules: str | Path, *, say: Callable[[str], None] = print) -> None:
    """Run the service of a rules file until Ctrl-C or a signal to stop.

    Args:
        rules: the path of a TOML file; the keys are those of `gantk_serve.rules.Rules`.
        say: called with a line for each address that the service listens on.

    Raises:
        UserError: the rules are wrong, another process has the service's folder, an address is taken,
            or a package is missing.
    """
    loaded = load_rules(Path(rules))
    if loaded.dicom is None and loaded.http is None:
        raise UserError("the rules have neither the table [dicom] nor [http]", where=str(rules))
    try:
        from gantk_serve import dicom, web  # noqa: F401 (a package is missing before anything runs)
    except ModuleNotFoundError as error:
        what = f"gantk serve needs the package {error.name}, which is not installed"
        raise UserError(what, remedy='install it: pip install "gantk[serve]"') from None

    silence_libraries()
    service = Service(loaded)
    with lock_folder(service.folder):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: service.stopping.set())
        service.resume()
        service.run(say)
