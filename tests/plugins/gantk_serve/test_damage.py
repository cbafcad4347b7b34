"""Damaged instances, a disk without room and libraries that talk do no harm to others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dicom_files import head, series

pytest.importorskip("pynetdicom", reason='needs pynetdicom: pip install "gantk[serve]"')

from gantk_serve import worker as workers
from gantk_serve.inbox import Inbox
from gantk_serve.journal import Journal
from gantk_serve.rules import Rules
from gantk_serve.service import Workers
from gantk_serve.store import Job, Store
from gantk_serve.worker import Worker

STUDY = "1.2.826.0.1.3680043.8.498.1"
RULES = {
    "service": {"quiet": 0.0},
    "rules": [{"when": {"contrast": "T1"}, "model": "t1t2", "to": "T2"}],
}


@pytest.fixture
def inbox(tmp_path) -> Inbox:
    return Inbox(tmp_path, Rules(**RULES), Store(tmp_path), Journal(tmp_path, quiet=True))


def contents(folder: Path, count: int = 3, **elements) -> list[bytes]:
    return [path.read_bytes() for path in series(folder, head(count), **elements)]


def test_a_damaged_instance_takes_no_place_in_another_study(inbox, tmp_path):
    good, *_ = contents(tmp_path / "series")
    damaged = good.replace(STUDY.encode(), STUDY.replace("8.498", "8.499").encode())
    for content in (good, damaged):
        inbox.take(content, "PACS")

    assert len(inbox.store.instances(STUDY)) == 1
    assert (tmp_path / inbox.store.instances(STUDY)[0].path).read_bytes() == good


def test_a_series_with_a_damaged_header_is_matched_by_another(inbox, tmp_path):
    taken = [inbox.take(content, "PACS") for content in contents(tmp_path / "series")]
    first = min(taken, key=lambda each: each.instance)
    (tmp_path / first.path).write_bytes(b"damaged")
    inbox.complete_quiet()

    assert [job.model for job in inbox.store.jobs(STUDY)] == ["t1t2"]


def test_a_study_waits_for_an_instance_that_was_not_kept(inbox, tmp_path, monkeypatch):
    first, second, _ = contents(tmp_path / "series")
    inbox.take(first, "PACS")
    with monkeypatch.context() as patch:
        patch.setattr(inbox.store, "add_instance", full_disk)
        with pytest.raises(OSError):
            inbox.take(second, "PACS")
    kept = [path for path in (tmp_path / "inputs").rglob("*.dcm")]
    assert len(kept) == 1  # what the queue does not know is not kept

    inbox.rules.service.quiet = 60.0
    inbox.store.await_senders(0.0)  # the first instance came long ago
    inbox.complete_quiet()
    assert inbox.store.counts()["received"] == 1


def test_studies_wait_for_their_senders_after_a_restart(inbox, tmp_path):
    inbox.take(contents(tmp_path / "series")[0], "PACS")
    inbox.store.await_senders(1000.0)
    assert inbox.store.quiet_studies(999.0) == []
    assert inbox.store.quiet_studies(1000.0) == [STUDY]


def test_an_unexpected_error_is_told_without_its_text(tmp_path, monkeypatch):
    """Texts of errors quote headers."""
    worker = Worker(tmp_path, "worker-0")
    monkeypatch.setattr(worker, "_translate", raise_name)
    worker.store.add(Job("a", STUDY, [], "t1t2"))
    worker.do(worker.store.claim("worker-0", 1.0))

    (job,) = worker.store.jobs()
    assert job.state == "failed"
    assert job.reason.startswith("an unexpected error: ValueError in test_damage.py, line ")
    assert "Zweifel" not in (tmp_path / "log.jsonl").read_text()


def test_a_worker_of_a_killed_service_changes_nothing(tmp_path, monkeypatch):
    """Another worker has its job by now."""
    old = Worker(tmp_path, "worker-0-a")
    monkeypatch.setattr(old, "_translate", raise_name)
    old.store.add(Job("a", STUDY, [], "t1t2"))
    stale = old.store.claim("worker-0-a", 1.0)
    old.store.resume(2.0)
    old.store.claim("worker-0-b", 3.0)
    old.do(stale)

    (job,) = old.store.jobs()
    assert (job.state, job.worker) == ("running", "worker-0-b")


class EndedProcess:
    """A worker that ends at once."""

    returncode = 3

    def __init__(self, command: list[str]):
        self.command = command

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def own_workers(tmp_path, monkeypatch) -> Workers:
    monkeypatch.setattr("gantk_serve.service.subprocess.Popen", EndedProcess)
    return Workers(tmp_path, [], Store(tmp_path), Journal(tmp_path, quiet=True))


def test_each_worker_has_a_name_of_its_own(own_workers):
    """One that has outlived a killed service is not taken for its successor."""
    own_workers.check()
    (first,) = own_workers.processes
    own_workers.check()
    (second,) = own_workers.processes
    assert first != second


def test_a_job_of_an_ended_worker_goes_back(own_workers, monkeypatch):
    """If not at once, because the disk is full, then later."""
    store = own_workers.store
    own_workers.check()
    (name,) = own_workers.processes
    store.add(Job("a", STUDY, [], "t1t2"))
    store.claim(name, 1.0)
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(store, "put_back", full_disk)
        own_workers.check()

    own_workers.check()
    (job,) = store.jobs()
    assert (job.state, job.reason) == ("waiting", "the worker ended with code 3")


def test_a_worker_without_its_service_ends(tmp_path):
    """Also one whose service was killed before it could look."""
    command = [sys.executable, "-m", workers.__name__, str(tmp_path), "worker-0", "1234567", "1"]
    done = subprocess.run(command, timeout=300, check=False)
    assert done.returncode == 0


def test_warnings_about_headers_are_not_printed(tmp_path):
    script = """
import warnings
from gantk_serve.journal import silence_libraries
silence_libraries()
from pydicom.dataset import Dataset
warnings.warn("anything")
Dataset().PatientBirthDate = "Zweifel"
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def raise_name(*_: object) -> None:
    raise ValueError("invalid value: 'Zweifel^Amalie'")
