"""The HTTP calls of a service: a token on each, limits, jobs from upload to result."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_files import head, series
from PIL import Image

pytest.importorskip("pynetdicom", reason='needs pynetdicom: pip install "gantk[serve]"')
pytest.importorskip("fastapi", reason='needs FastAPI: pip install "gantk[serve]"')

from fastapi.testclient import TestClient
from tiny import PATCHGAN, UNET, small_run

import gantk
from gantk_serve.rules import Rules
from gantk_serve.service import Service
from gantk_serve.store import Job, now
from gantk_serve.web import Web, application
from gantk_serve.worker import Worker

CALLS = [
    ("get", "/"),
    ("get", "/status"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    ("post", "/translate"),
    ("get", "/jobs/a"),
    ("get", "/jobs/a/result"),
    ("delete", "/jobs/a"),
    ("post", "/jobs/a/retry"),
    ("post", "/dicom-web/studies"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    method = {"name": "cyclegan", "generator": UNET, "discriminator": PATCHGAN, "pool": 0}
    return small_run(tmp_path_factory.mktemp("model"), method, domains=["T1", "T2"])


@pytest.fixture
def service(tmp_path, run) -> Service:
    tables = {
        "service": {"folder": str(tmp_path / "serve"), "max_mb": 1, "max_waiting": 3},
        "dicom": None,
        "http": {"models": [str(run)]},
    }
    return Service(Rules(**tables))


@pytest.fixture
def client(service) -> TestClient:
    web = Web(service)
    token = web.token.decode()
    return TestClient(application(web), headers={"Authorization": f"Bearer {token}"})


def picture(path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def upload(client, path: Path, **form) -> str:
    with open(path, "rb") as file:
        answer = client.post("/translate", files={"file": (path.name, file)}, data=form)
    assert answer.status_code == 202, answer.text
    return answer.json()["job"]


def work(service, **options) -> None:
    """What a worker process does, once."""
    worker = Worker(service.folder, "one", "cpu", **options)
    while (job := worker.store.claim("one", 1e12)) is not None:
        worker.do(job)


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer wrong", "Basic YTpi", "Bearer é"])
def test_no_call_is_answered_without_the_token(service, token):
    client = TestClient(application(Web(service)))
    headers = {"Authorization": token.encode("latin-1")} if token else {}
    for method, path in CALLS:
        if method == "post":
            headers["Content-Length"] = "0"
        assert client.request(method, path, headers=headers).status_code == 401, (method, path)


def test_an_upload_becomes_a_job_whose_result_is_fetched_once(service, client, tmp_path):
    job = upload(client, picture(tmp_path / "scan.png"), to="T2")
    assert client.get(f"/jobs/{job}").json()["state"] == "waiting"
    assert client.get(f"/jobs/{job}/result").status_code == 409

    work(service)
    assert client.get(f"/jobs/{job}").json()["state"] == "done"
    result = client.get(f"/jobs/{job}/result")
    assert result.content.startswith(b"\x89PNG")
    assert "synthetic.png" in result.headers["content-disposition"]
    assert client.get(f"/jobs/{job}").status_code == 404
    left = [path for path in service.folder.rglob("*") if path.is_file()]
    assert not [path for path in left if path.suffix == ".png"]


def test_a_damaged_upload_fails_with_a_reason_without_paths(service, client, tmp_path):
    (tmp_path / "scan.png").write_bytes(b"no picture")
    job = upload(client, tmp_path / "scan.png")
    work(service)
    found = client.get(f"/jobs/{job}").json()

    assert found["state"] == "failed"
    assert found["reason"]
    assert str(service.folder) not in json.dumps(found)


def test_a_zip_that_holds_too_much_fails(service, client, tmp_path):
    scan = picture(tmp_path / "scan.png")
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        archive.write(scan, "scan.png")
    job = upload(client, tmp_path / "scans.zip")
    work(service, most=scan.stat().st_size - 1)

    found = client.get(f"/jobs/{job}").json()
    assert found["state"] == "failed"
    assert "holds more than" in found["reason"]


def test_a_job_tells_its_progress_and_what_its_model_says(service, client, tmp_path, monkeypatch):
    translate = gantk.translate

    def translate_odd(model, source, target, *, say, **options):
        say(f"warning  '{source}' looks odd  (INPUT)")
        translate(model, source, target, say=say, **options)

    monkeypatch.setattr(gantk, "translate", translate_odd)
    job = upload(client, picture(tmp_path / "scan.png"), to="T2")
    running = service.store.claim("one", now())
    service.store.note_progress(running, "one", 0.25)
    assert client.get(f"/jobs/{job}").json()["progress"] == 0.25
    assert "running 25%" in client.get("/").text
    service.store.note_progress(running, "another", 0.5)  # it does not have the job
    assert client.get(f"/jobs/{job}").json()["progress"] == 0.25

    service.store.put_back(running, "", now())
    work(service)
    found = client.get(f"/jobs/{job}").json()
    assert found["progress"] == 1.0
    assert found["notes"][0] == "warning  'input.png' looks odd"


def test_a_job_can_be_cancelled_and_its_upload_is_gone(service, client, tmp_path):
    job = upload(client, picture(tmp_path / "scan.png"))
    assert client.delete(f"/jobs/{job}").json()["state"] == "cancelled"
    assert not (service.folder / "uploads" / job).exists()
    assert client.delete(f"/jobs/{job}").status_code == 409
    assert service.store.claim("one", 1e12) is None


def test_a_call_without_content_needs_no_length(service, client, tmp_path):
    job = upload(client, picture(tmp_path / "scan.png"), to="CT")
    work(service)
    request = client.build_request("POST", f"/jobs/{job}/retry")  # as `curl -X POST` sends it
    del request.headers["content-length"]

    assert client.send(request).json()["state"] == "waiting"


def test_an_upload_names_a_run_by_its_folder(client, run, tmp_path):
    upload(client, picture(tmp_path / "scan.png"), model=run.name)


def test_uploads_that_cannot_be_are_refused(client, service, tmp_path):
    scan = picture(tmp_path / "scan.png").read_bytes()

    def answer(name: str, **form):
        return client.post("/translate", files={"file": (name, scan)}, data=form).status_code

    assert answer("scan.exe") == 400
    assert answer("../../scan.png\0.exe") == 400
    assert answer("scan.png", model="/etc/passwd") == 400
    assert client.post("/translate").status_code == 422
    assert client.post("/translate", content=iter([b"x"])).status_code == 411
    assert client.post("/translate", content=b"x" * (3 << 20)).status_code == 413
    for length in ("9" * 30, "0" * 25 + "9" * 9):
        headers = {"Content-Length": length}
        assert client.post("/translate", content=b"x", headers=headers).status_code == 413
    for _ in range(3):
        assert answer("../../../up.png") == 202
    assert answer("scan.png") == 503
    assert not list(tmp_path.glob("*up*"))


def test_stow_takes_instances_and_tells_which_failed(client, service, tmp_path):
    files = [path.read_bytes() for path in series(tmp_path / "series", head(2))]

    def send(contents):
        parts = b"".join(
            b"--x\r\nContent-Type: application/dicom\r\n\r\n" + each + b"\r\n" for each in contents
        )
        kind = 'multipart/related; type="application/dicom"; boundary=x'
        return client.post(
            "/dicom-web/studies", content=parts + b"--x--\r\n", headers={"Content-Type": kind}
        )

    good = send(files)
    assert good.status_code == 200
    assert len(good.json()["00081199"]["Value"]) == 2
    partly = send([files[0], b"damaged"])
    assert partly.status_code == 202
    assert len(partly.json()["00081198"]["Value"]) == 1
    assert send([b"damaged"]).status_code == 409
    assert service.store.counts()["received"] == 1
    assert client.post("/dicom-web/studies", content=b"x").status_code == 415


def test_page_status_and_metrics_name_nobody(client, service, tmp_path):
    for path in series(tmp_path / "series", head(2)):
        service.inbox.take(path.read_bytes(), "PACS")
    texts = [client.get(path).text for path in ("/", "/status", "/metrics")]

    assert "gantk_studies_incomplete 1.0" in texts[2]
    for text in texts:
        for name in ("Doe", "P1", "19700101", "1.2.826.0.1.3680043.8.498"):
            assert name not in text


def test_a_peer_that_the_rules_no_longer_name_gets_nothing(service):
    service.store.add(Job("a", "1.2.3", [], "t1t2", peers=["GONE"]))
    service.store.finish(service.store.claim("one", now()), "one", "results/a", now())
    service.drop_unknown_peers()

    (job,) = service.store.jobs()
    assert (job.state, job.reason) == ("done", "GONE: it is no longer a peer")
    assert job.sends == 1
    service.drop_unknown_peers()  # it waits like any other that was not sent
    assert service.store.job("a").sends == 1
