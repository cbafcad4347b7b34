"""A service whose disk is full, whose PACS is away, or whose worker dies says so and goes on."""

from __future__ import annotations

import errno
import io
import math
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packages import put_distribution

pytest.importorskip("pynetdicom", reason='needs pynetdicom: pip install "gantk[serve]"')
pytest.importorskip("fastapi", reason='needs fastapi: pip install "gantk[serve]"')

from serving import (
    ARCHIVE,
    SENDER,
    Archive,
    Server,
    free_ports,
    store,
    study,
    tiny_model,
    wait_for,
)

from gantk_serve import store as queue
from gantk_serve.journal import Journal
from gantk_serve.rules import load_rules
from gantk_serve.service import Service
from gantk_serve.store import Store

pytestmark = pytest.mark.slow
SECONDS = 300.0  # for a translation and what goes before, on a busy machine
RETRY_SECONDS = 0.2
DEADLY = """
import os
from gantk import hookimpl

@hookimpl
def gantk_load_model(model, device):
    if str(model).endswith("deadly"):
        os._exit(3)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


class Place:
    """A service and an archive in a folder; the archive does not run yet."""

    def __init__(self, folder: Path, model: Path, quiet: float = 1.0):
        self.port, archive_port, http = free_ports(3)
        self.archive = Archive(folder, archive_port)
        rules = {
            "service": {"quiet": quiet, "retry": RETRY_SECONDS},
            "dicom": {"port": self.port},
            "http": {"port": http},
            "peers": [
                {"title": SENDER, "host": "127.0.0.1"},
                {"title": ARCHIVE, "host": "127.0.0.1", "port": archive_port},
            ],
            "rules": [
                {"when": {"contrast": "T2"}, "model": str(model), "to": "T1", "send": ARCHIVE},
                {"when": {"contrast": "T1"}, "model": str(model), "to": "T2", "send": ARCHIVE},
            ],
        }
        self.rules = rules
        self.folder = folder

    def server(self) -> Server:
        return Server(self.folder, self.rules)

    def expect_once(self, files: list[Path]) -> None:
        """Assert that the archive has one derived series for these files, and nothing else."""
        derived = self.archive.derived()
        assert len(derived) == len(files)
        assert len({series for each in derived.values() for series in each}) == 1
        assert all(len(made) == 1 for each in derived.values() for made in each.values())


@contextmanager
def running(server: Server) -> Iterator[Service]:
    """A service in this process."""
    service = Service(load_rules(server.rules))
    service.resume()
    thread = threading.Thread(target=service.run, args=(lambda line: None,))
    thread.start()
    try:
        yield service
    finally:
        service.stopping.set()
        thread.join()


def state_of(service: Service) -> dict[str, str]:
    """target domain -> state of its job."""
    return {job.target: job.state for job in service.store.jobs()}


# ---- a PACS that is away


def test_an_absent_pacs_is_tried_less_and_less_often(model, tmp_path):
    place = Place(tmp_path, model)
    files = study(tmp_path / "studies", 1)
    with place.archive, place.server() as server:
        server.start()
        assert store(files, place.port) == []
        wait_for(lambda: server.log("done"), SECONDS, "a translation")
        begun = time.time()
        wait_for(lambda: len(server.log("not sent")) >= 6, SECONDS, "six tries")
        tries = len([line for line in server.log("not sent")])
        passed = time.time() - begun + 1.0  # the log may be late with the first line
        assert tries <= 2 + math.log2(passed / RETRY_SECONDS + 1)
        assert {line["reason"] for line in server.log("not sent")} == {f"{ARCHIVE}: no connection"}

        place.archive.start()
        wait_for(lambda: server.log("sent"), SECONDS, "the delivery")
        (job,) = server.jobs()
        assert job.sends == len(server.log("not sent")) + 1
        place.expect_once(files)


def test_an_archive_that_stays_away_is_given_up_until_a_retry(model, tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "MAX_SENDS", 3)
    place = Place(tmp_path, model)
    files = study(tmp_path / "studies", 1)
    with place.archive, running(place.server()) as service:
        wait_for(lambda: store(files, place.port) == [], SECONDS, "the service")
        wait_for(lambda: state_of(service) == {"T2": "failed"}, SECONDS, "the last try")
        (job,) = service.store.jobs()
        assert job.reason == f"{ARCHIVE}: no connection, after 3 tries"

        place.archive.start()
        assert service.store.retry(job.job, time.time())
        wait_for(lambda: state_of(service) == {"T2": "sent"}, SECONDS, "the delivery")
        assert service.store.job(job.job).attempts <= 1  # it was not translated again
        place.expect_once(files)


# ---- a worker that dies


def test_a_job_that_ends_its_worker_fails_and_others_go_on(model, tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "MAX_ATTEMPTS", 3)
    plugins = put_distribution(tmp_path / "installed", "deadly-model", "deadly_model", DEADLY)
    given = filter(None, [os.environ.get("PYTHONPATH")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(plugins), *given]))
    place = Place(tmp_path, model)
    (tmp_path / "deadly").mkdir()
    place.rules["rules"][1]["model"] = "deadly"
    files = study(tmp_path / "studies", 1, ("T1", "T2"))
    with place.archive, running(place.server()) as service:
        place.archive.start()
        wait_for(lambda: store(files, place.port) == [], SECONDS, "the service")
        expected = {"T2": "failed", "T1": "sent"}
        wait_for(lambda: state_of(service) == expected, SECONDS, "both translations")

        (failed,) = [job for job in service.store.jobs() if job.state == "failed"]
        assert failed.reason == "the worker ended with code 3, 3 times"
        assert failed.attempts == 3
        place.expect_once(files[3:])


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MB for the service's folder."""
    folder = tmp_path / "serve"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write a file that leaves no room."""
    path = disk / "filler"
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def test_a_full_disk_refuses_instances_and_loses_none(model, tmp_path, small_disk):
    place = Place(tmp_path, model, quiet=3.0)
    files = study(tmp_path / "studies", 1, slices=4)
    with place.archive, place.server() as server:
        place.archive.start()
        server.start()
        assert store(files[:1], place.port) == []
        filler = fill(small_disk)
        assert store(files[1:], place.port) == files[1:]
        assert "instance not kept" in server.err.read_text()

        status = [*server.command[:4], "status", str(server.rules)]
        told = subprocess.run(status, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert told.returncode == 0, told.stderr
        assert "1 received" in told.stdout

        filler.unlink()
        wait_for(lambda: store(files, place.port) == [], SECONDS, "room again")
        wait_for(lambda: server.log("sent"), SECONDS, "the delivery")
        place.expect_once(files)


def test_a_disk_that_is_full_between_two_steps_delays_them(model, tmp_path, small_disk):
    place = Place(tmp_path, model)
    files = study(tmp_path / "studies", 1, slices=4)
    with place.archive, place.server() as server:
        place.archive.start()
        server.start()
        assert store(files, place.port) == []
        filler = fill(small_disk)
        wait_for(
            lambda: any(word in server.err.read_text() for word in ('"error"', "put back")),
            SECONDS,
            "a line that says so",
        )
        assert server.process.poll() is None

        filler.unlink()
        wait_for(lambda: server.log("sent"), SECONDS, "the delivery")
        place.expect_once(files)
        wait_for(
            lambda: not list((small_disk / "inputs").rglob("*.dcm")), SECONDS, "deleted inputs"
        )


class FullStream(io.StringIO):
    """A file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_log_that_cannot_be_printed_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", FullStream())
    journal = Journal(tmp_path)
    journal.say("refused", sender="NOBODY")

    assert '"event": "refused"' in journal.path.read_text()


def test_a_change_that_fails_leaves_the_queue_usable(tmp_path):
    """After an error, the connection has no open transaction."""
    store = Store(tmp_path)
    with pytest.raises(OSError, match="the queue cannot be written"), store.change() as db:
        db.execute("INSERT INTO nothing VALUES (1)")
    with store.change() as db:
        db.execute("DELETE FROM jobs")
