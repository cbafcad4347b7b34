"""`gantk serve` beside a real Orthanc, with a second one as the PACS."""

import shutil
import threading
from pathlib import Path

import pydicom
import pytest
from dicom_files import change
from serving import (
    ORTHANC,
    PACS,
    OrthancServer,
    Worker,
    store_until_kept,
    study,
    tiny_model,
    wait_for,
)
from tiny import python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ORTHANC is None, reason="Orthanc is not installed: apt install orthanc"),
]
SECONDS = 120.0  # for a translation, on a busy machine


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("model")))


class Site:
    """An Orthanc, a PACS and a worker between them."""

    def __init__(self, folder: Path, model: str, **settings):
        self.folder = folder
        self.pacs = OrthancServer(folder, "pacs")
        self.orthanc = OrthancServer(folder, pacs=self.pacs.dicom, **settings)
        rule = {"when": {"contrast": "T1"}, "model": model, "to": "T2", "send": PACS}
        self.rules = {
            "orthanc": {"url": self.orthanc.url},
            "service": {"quiet": 8.0},
            "rules": [rule],
        }
        self.worker = Worker(folder, self.rules)

    def start(self) -> "Site":
        for part in (self.pacs, self.orthanc, self.worker):
            part.start()
        return self

    def send(self, files) -> None:
        assert store_until_kept(self.orthanc, files, threading.Event())

    def outcomes(self) -> list[str]:
        return sorted(each.get("outcome", "") for each in self.orthanc.records())

    def wait(self, *outcomes: str) -> None:
        wait_for(lambda: self.outcomes() == sorted(outcomes), SECONDS, f"{outcomes}")

    def slices(self, server: OrthancServer) -> list[int]:
        """The number of instances of each derived series."""
        marked = "SeriesDescription"
        return sorted(
            len(each["Instances"])
            for each in server.series()
            if each["MainDicomTags"].get(marked, "").endswith("(gantk)")
        )


@pytest.fixture
def site(tmp_path, model):
    site = Site(tmp_path, model)
    with site.pacs, site.orthanc, site.worker:
        yield site.start()


def test_a_series_comes_back_derived_and_reaches_the_pacs(site, tmp_path):
    files = study(tmp_path / "s", 1, ("T1", "T2"), 4)
    site.send(files)
    site.wait("done", "left out")

    assert site.slices(site.orthanc) == site.slices(site.pacs) == [4]
    assert site.orthanc.derived() == site.pacs.derived()
    assert set(site.pacs.derived()) == {pydicom.dcmread(file).SOPInstanceUID for file in files[:4]}


def test_late_slices_make_a_new_series_and_withdraw_the_first(site, tmp_path):
    files = study(tmp_path / "s", 1, slices=6)
    site.send(files[:4])
    site.wait("done")
    site.send(files[4:])
    wait_for(lambda: site.slices(site.orthanc) == [6], SECONDS, "six slices")
    wait_for(lambda: site.slices(site.pacs) == [4, 6], SECONDS, "six slices in the PACS")


def test_corrected_pixels_under_the_same_uids_are_translated(site, tmp_path):
    files = study(tmp_path / "s", 1)
    site.send(files)
    site.wait("done")
    before = site.orthanc.derived()
    made = pydicom.dcmread(files[1])
    made.PixelData = (made.pixel_array * 2).astype("<i2").tobytes()
    made.save_as(files[1])
    site.send(files[1:2])
    wait_for(
        lambda: site.orthanc.derived().keys() == before.keys() and site.orthanc.derived() != before,
        SECONDS,
        "another series",
    )

    assert site.slices(site.orthanc) == [3]


def test_two_patients_under_one_series_uid_are_refused(site, tmp_path):
    files = study(tmp_path / "s", 1, slices=4)
    for file in files[2:]:
        made = pydicom.dcmread(file)
        change(made, PatientID="other")
        made.save_as(file)
    site.send(files)
    site.wait("refused", "refused")

    assert site.slices(site.orthanc) == []


def test_an_abort_is_refused_until_the_rest_arrives(site, tmp_path):
    files = study(tmp_path / "s", 1, slices=6, ImagesInAcquisition=6)
    site.send(files[:4])
    site.wait("refused")
    assert site.slices(site.orthanc) == []

    site.send(files[4:])
    site.wait("done")
    assert site.slices(site.pacs) == [6]


def test_an_orthanc_killed_while_receiving_is_not_believed(site, tmp_path):
    files = study(tmp_path / "s", 1, slices=6)
    site.send(files[:4])
    site.orthanc.kill()
    site.orthanc.start()  # calls the series stable
    site.send(files[4:])
    site.wait("done")

    assert site.slices(site.orthanc) == site.slices(site.pacs) == [6]


def test_an_orthanc_restarted_empty_is_followed_anew(site, tmp_path):
    files = [study(tmp_path / "s", number) for number in (1, 2)]
    for each in files:
        site.send(each)
    site.wait("done", "done")
    site.orthanc.kill()
    shutil.rmtree(site.orthanc.storage)
    site.orthanc.start()
    site.send(files[1])
    site.wait("done")

    assert site.slices(site.orthanc) == [3]
    assert site.slices(site.pacs) == [3, 3]


def test_a_pacs_that_was_away_gets_all(site, tmp_path):
    site.pacs.kill()
    site.send(study(tmp_path / "s", 1))
    wait_for(
        lambda: any(each.get("reason") for each in site.orthanc.records()), SECONDS, "a reason"
    )
    assert site.outcomes() == ["sending"]
    site.pacs.start()
    site.wait("done")

    assert site.slices(site.pacs) == [3]


def test_two_workers_make_each_series_once(site, tmp_path):
    second = Worker(tmp_path, site.rules, "second")
    with second:
        second.start()
        for number in range(8):
            site.send(study(tmp_path / "s", number))
        site.wait(*["done"] * 8)

    assert site.slices(site.orthanc) == site.slices(site.pacs) == [3] * 8
    workers = {each["worker"] for each in site.orthanc.records()}
    assert len(workers) == 2


def test_a_worker_listens_nowhere(site):
    inodes = {
        path.readlink().name
        for path in Path(f"/proc/{site.worker.process.pid}/fd").iterdir()
        if path.is_symlink()
    }
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                listening.add(f"socket:[{words[9]}]")

    assert inodes & listening == set()


def test_a_password_lets_the_worker_in(tmp_path, model):
    settings = {"AuthenticationEnabled": True, "RegisteredUsers": {"gantk": "secret"}}
    site = Site(tmp_path, model, **settings)
    (tmp_path / "password").write_text("wrong\n")
    rules = site.rules | {
        "orthanc": {
            "url": site.orthanc.url,
            "user": "gantk",
            "password_file": str(tmp_path / "password"),
        }
    }
    worker = Worker(tmp_path, rules)
    get = site.orthanc.get
    site.orthanc.get = lambda path: get(path) or _is_closed(site.orthanc)
    with site.orthanc:
        site.orthanc.start()
        status = ("-m", "gantk", "serve", "status", worker.rules)
        assert "401" in python(*status).refused()

        (tmp_path / "password").write_text("secret\n")
        python(*status).ok()


def _is_closed(orthanc: OrthancServer) -> bool:
    import requests

    try:
        return requests.get(orthanc.url, timeout=10).status_code == 401
    except requests.RequestException:
        return False
