"""The window of `gantk app` and its REST endpoint make what the command line makes, and say what is
wrong.
"""

import io
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import zipfile
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dicom_files
import numpy as np
import pytest
import requests
from browser import BROWSER
from tiny import small_run
from volumes import volume

from gantk.errors import UserError
from gantk.formats.files import read

MOST = 300_000  # bytes of an upload
OPERATED = Path(__file__).parent / "app_operated.html"


@pytest.fixture(scope="module")
def service(tiny_run, tmp_path_factory):
    """A service with the tiny run in an empty folder."""
    pytest.importorskip("gradio", reason='gradio is not installed: pip install "gantk[app]"')
    from gantk_serve.app.service import Service

    return Service(str(tiny_run), tmp_path_factory.mktemp("place"), MOST, "cpu")


@pytest.fixture(scope="module")
def client(service):
    """`client.post(...)` as a browser on this machine; answers come when all that follows them is
    done, too.
    """
    from fastapi.testclient import TestClient

    from gantk_serve.app.server import application

    return TestClient(application(service), base_url="http://127.0.0.1")


@pytest.mark.slow
def test_a_model_with_classes_needs_one(tmp_path, pictures):
    pytest.importorskip("gradio", reason='gradio is not installed: pip install "gantk[app]"')
    from fastapi.testclient import TestClient

    from gantk_serve.app.server import application
    from gantk_serve.app.service import Service

    method = {"name": "pix2pix", "conditional": True, "generator": {"name": "unet", "width": 4}}
    heads = {"lesions": 1, "radius": [10.0, 20.0], "healthy": 0.5}
    run = small_run(tmp_path, method, source=heads, domains=["T1", "FLAIR"], labels=True)
    service = Service(str(run), tmp_path / "place", MOST, "cpu")
    client = TestClient(application(service), base_url="http://127.0.0.1")
    (picture,) = pictures(tmp_path / "pictures", 1)
    sent = {"files": {"file": ("a.png", picture.read_bytes())}}
    answers = [
        client.post("/translate", data=given, **sent)
        for given in ({"label": "healthy"}, {"label": "tumour"}, {})
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 400]
    assert answers[0].content != answers[1].content
    assert "healthy, tumour" in answers[2].text


def zipped(files: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> bytes:
    with zipfile.ZipFile(made := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            (member := zipfile.ZipInfo(name)).external_attr = mode << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def left(service) -> list[str]:
    """What is left of uploads and results, and jobs; the folders of the service stay."""
    own = ("page", "uploads", "results", "work")
    found = [path for name in own for path in (service.folder / name).rglob("*")]
    return [str(path) for path in found] + [job.job for job in service.store.jobs()]


def test_a_program_gets_the_bytes_that_the_command_line_writes(
    client, service, gantk, tiny_run, tmp_path, pictures
):
    scans = [
        pictures(tmp_path, 1)[0],
        volume(tmp_path / "scan.nii.gz"),
        volume(tmp_path / "T2.nii"),
    ]
    for scan in scans:
        answer = client.post(
            "/translate",
            files={"file": (f"../../{scan.name}", scan.read_bytes())},
            data={"to": "T2"},
        )
        assert (
            gantk("translate", tiny_run, scan, tmp_path / "out" / scan.name, "--to", "T2").code == 0
        )
        assert answer.status_code == 200
        assert answer.content == (tmp_path / "out" / scan.name).read_bytes()
        assert (
            f"{scan.name.partition('.')[0]}_synthetic_T2." in answer.headers["content-disposition"]
        )

    assert "the header or the name says T2, but this model translates T1" in " ".join(
        json.loads(answer.headers["gantk-notes"])
    )
    assert left(service) == []
    schema = client.get("/openapi.json").json()
    assert "multipart/form-data" in schema["paths"]["/translate"]["post"]["requestBody"]["content"]


def test_a_picture_sent_keeps_depth_and_brightness(tmp_path, pictures):
    pytest.importorskip("gradio", reason='gradio is not installed: pip install "gantk[app]"')
    from fastapi.testclient import TestClient
    from PIL import Image

    from gantk_serve.app.server import application
    from gantk_serve.app.service import Service

    served = application(Service("t1t2", tmp_path / "place", MOST, "cpu"))
    client = TestClient(served, base_url="http://127.0.0.1")
    (picture,) = pictures(tmp_path / "pictures", 1, size=(64, 64))
    sent = {"file": (picture.name, picture.read_bytes())}
    answer = client.post("/translate", files=sent, data={"to": "T2"})
    before = Image.open(picture)
    after = Image.open(io.BytesIO(answer.content))

    assert (after.format, after.mode, after.size) == ("PNG", "L", before.size)
    assert 0.5 < np.asarray(after).mean() / np.asarray(before).mean() < 2


def test_a_zipped_dicom_series_comes_back_as_derived_series(client, gantk, tiny_run, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    folder = tmp_path / "series"
    dicom_files.series(folder, dicom_files.head())
    sent = zipped(
        {f"head/{path.name}": path.read_bytes() for path in folder.iterdir()}
        | {"read.me": b"notes"}
    )
    answer = client.post("/translate", files={"file": ("head.zip", sent)}, data={"to": "T2"})
    zipfile.ZipFile(io.BytesIO(answer.content)).extractall(tmp_path / "back")

    assert gantk("translate", tiny_run, folder, tmp_path / "cli", "--to", "T2").code == 0

    back = read(tmp_path / "back" / "head")
    cli = read(tmp_path / "cli")

    assert np.array_equal(back.pixels, cli.pixels)
    assert np.allclose(back.affine, cli.affine)
    made = pydicom.dcmread(next((tmp_path / "back" / "head").iterdir()))
    assert made.ImageType[0] == "DERIVED"
    assert made.SyntheticData == "YES"


PNG = b"\x89PNG\r\n\x1a\n"
HOSTILE = {
    "climbing": ("a.zip", zipped({"../evil.png": PNG}), 400, "cannot be unpacked"),
    "absolute": ("a.zip", zipped({"/tmp/evil.png": PNG}), 400, "cannot be unpacked"),
    "link": (
        "a.zip",
        zipped({"a.png": b"/etc/passwd"}, stat.S_IFLNK | 0o777),
        400,
        "neither a file nor a folder",
    ),
    "bomb": ("a.zip", zipped({"a.nii": bytes(9 * MOST)}), 400, "holds more than"),
    "no zip": ("a.zip", b"PK\x03\x04 and nothing", 400, "cannot be unpacked"),
    "deep": ("a.zip", zipped({"a/" * 400 + "a.png": PNG}), 400, "more than 50 folders"),
    "only damaged": ("a.zip", zipped({"y.png": PNG[:60]}), 400, "y.png"),
    "no images": ("a.zip", zipped({"letter.txt": b"text"}), 400, "no images"),
    "a letter": ("letter.txt", b"text", 400, "not an image that gantk reads"),
    "another kind": ("a.nii.gz", PNG, 400, "cannot be read as NIfTI"),
    "a way up": ("..", PNG, 400, "not an image that gantk reads"),
    "empty": ("a.nii", b"", 400, "is empty"),
    "too large": ("a.nii", bytes(MOST + 2**20), 413, "larger than"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_one_message_and_leave_nothing(client, service, kind):
    name, content, status, words = HOSTILE[kind]
    answer = client.post("/translate", files={"file": (name, content)})
    said = answer.json()["detail"]

    assert answer.status_code == status
    assert words in said
    assert str(service.folder) not in said
    assert left(service) == []


def test_incomplete_or_cross_site_requests_are_refused(client, service, tmp_path, pictures):
    sent = {"files": {"file": ("a.png", pictures(tmp_path, 1)[0].read_bytes())}}
    refused = [
        (client.post("/translate", data={"to": "T2"}), 400, "no file"),
        (client.post("/translate", data={"to": "T9"}, **sent), 400, "Allowed: T2, T1"),
        (
            client.post("/translate", headers={"Origin": "http://other.org"}, **sent),
            403,
            "other sites",
        ),
        (client.post("/translate", headers={"Host": "other.org"}, **sent), 403, "answers at"),
        (client.post("/translate", content=iter([b"a"])), 411, "Content-Length"),
        (client.post("/translate", headers={"Host": "["}, **sent), 400, "is not an address"),
        (
            client.post("/translate", headers={"Origin": "http://["}, **sent),
            400,
            "is not an address",
        ),
        (client.get("/", headers={"Origin": "http://]["}), 400, "is not an address"),
        (client.get("/", headers={"Host": "a\u2100b".encode()}), 403, ""),
        (client.get("/gradio_api/file=/etc/passwd"), 404, "no page at"),
        (client.get("/files/own/..%5Cservice.py"), 404, "deleted"),
        (client.get("/files/%2e%2e/passwd"), 404, ""),
    ]
    for answer, status, words in refused:
        assert answer.status_code == status
        assert words in answer.json()["detail"]

    assert left(service) == []


BAD_REQUESTS = [
    b'{"data": []}',
    b'{"data": ["\\ud800", null, true]}',
    b'{"data": [], "fn_index": 1}',
    b'{"data": [], "fn_index": 99, "session_hash": "s"}',
    b'{"session_hash": "s", "data": "\\udfff"}',
    b'{"data": NaN}',
    b'"\\ud800"',
]


@pytest.mark.parametrize("body", BAD_REQUESTS)
def test_requests_that_no_page_sends_are_refused(client, body, capfd):
    asked = {"content": body, "headers": {"Content-Type": "application/json"}}
    for end in ("run/go", "run/none", "api/go", "call/go", "call/v2/go", "queue/join", "reset"):
        answer = client.post(f"/gradio_api/{end}", **asked)
        assert 400 <= answer.status_code < 500, end
        assert answer.json()["detail"]

    told = capfd.readouterr()
    assert told.out + told.err == ""


@pytest.mark.parametrize("values", [[], ["\ud800", None, True], ["T9", None, True]])
def test_values_that_no_control_sends_are_one_message(service, values):
    import asyncio

    import gradio as gr

    from gantk_serve.app.server import window

    page = window(service, "")
    (go,) = (each for each in page.fns.values() if each.name == "go")
    with pytest.raises(gr.Error, match="do not fit the page") as failed:
        asyncio.run(page.process_api(go, values))

    assert not failed.value.print_exception  # Gradio prints no traceback


def test_uploads_that_no_page_takes_are_removed(client, service, monkeypatch, tmp_path, pictures):
    from gantk_serve.app import server

    timers = []

    class Timer:
        def __init__(self, seconds, call, arguments):
            timers.append((seconds, call, arguments))

        def start(self):
            pass

    monkeypatch.setattr(server, "UNTAKEN_S", 300.0)
    monkeypatch.setattr(server.threading, "Timer", Timer)
    sent = {"files": {"files": ("a.png", pictures(tmp_path, 1)[0].read_bytes())}}
    assert client.post("/gradio_api/upload", **sent).status_code == 200
    assert left(service) != []

    ((seconds, call, arguments),) = timers
    call(*arguments)
    assert left(service) != []  # a page may still take it
    assert seconds == 300.0

    monkeypatch.setattr(server, "UNTAKEN_S", 0.0)
    call(*arguments)
    assert left(service) == []


def test_files_that_were_not_uploaded_are_out_of_reach(service, tmp_path):
    import gradio as gr

    from gantk_serve.app.server import window

    take = next(each.fn for each in window(service, "").fns.values() if each.name == "take")
    (tmp_path / "private").mkdir()
    (victim := tmp_path / "private" / "letter.nii").write_bytes(b"secret")
    (service.folder / "page" / "link").mkdir(parents=True)
    (link := service.folder / "page" / "link" / "letter.nii").symlink_to(victim)
    up = service.folder / "page" / "link" / ".." / ".." / ".." / "letter.nii"
    for named in (victim, link, up, "http://127.0.0.1/letter.nii", "a\0b"):
        with pytest.raises(gr.Error, match="was not uploaded") as failed:
            take(str(named), gr.Request(session_hash="other"))
        assert not failed.value.print_exception

    assert victim.read_bytes() == b"secret"
    assert link.is_symlink()

    link.unlink()
    link.parent.rmdir()


def test_ten_requests_wait_and_the_next_is_refused(
    client, service, gantk, tiny_run, tmp_path, pictures, monkeypatch
):
    monkeypatch.setattr("gantk_serve.app.service.MAX_WAITING", 10)
    may_begin = threading.Event()
    do = service.worker.do
    monkeypatch.setattr(service.worker, "do", lambda job: may_begin.wait(300) and do(job))
    scans = pictures(tmp_path / "scans", 10)

    def send(scan):
        return client.post("/translate", files={"file": (scan.name, scan.read_bytes())})

    with ThreadPoolExecutor(10) as pool:
        answers = [pool.submit(send, scan) for scan in scans]
        while len(service.store.jobs()) < 10:
            assert not any(answer.done() for answer in answers)
        full = send(scans[0])
        assert full.status_code == 503
        assert "Try again" in full.json()["detail"]
        may_begin.set()
        answers = [answer.result() for answer in answers]

    assert sorted(int(answer.headers["gantk-waited"]) for answer in answers) == list(range(10))
    assert gantk("translate", tiny_run, tmp_path / "scans", tmp_path / "out").code == 0
    assert [answer.content for answer in answers] == [
        (tmp_path / "out" / scan.name).read_bytes() for scan in scans
    ]
    assert left(service) == []


def test_a_page_is_told_how_many_wait_and_how_much_is_done(
    service, tmp_path, pictures, monkeypatch
):
    (scan,) = pictures(tmp_path, 1)
    upload = service.place(scan.name)
    upload.write_bytes(scan.read_bytes())
    monkeypatch.setattr("gantk_serve.worker.PROGRESS_SECONDS", 0.0)
    told = []
    result = service.translate(upload, "T2", tell=lambda share, what: told.append((share, what)))
    shutil.rmtree(upload.parent.parent)

    assert result.waited == 0
    assert told[-1] == (1.0, "Preparing the view")
    assert {what for _, what in told[:-1]} <= {"Translating to T2"}
    assert left(service) == []


def test_a_damaged_zip_stays_damaged(service):
    upload = service.place("a.zip")
    upload.write_bytes(zipped({"a.png": PNG, "../b.png": PNG}))
    for _ in range(2):
        with pytest.raises(UserError, match="'a.zip' cannot be unpacked"):
            service.translate(upload, "T2")

    shutil.rmtree(upload.parent.parent)
    assert left(service) == []


def test_a_window_that_is_closed_leaves_nothing(service, tmp_path, pictures):
    (scan,) = pictures(tmp_path, 1)
    upload = service.place(scan.name)
    upload.write_bytes(scan.read_bytes())
    close = lambda *_: shutil.rmtree(upload.parent.parent, ignore_errors=True)  # noqa: E731
    with pytest.raises((OSError, UserError)):
        service.translate(upload, "T2", tell=close)

    assert left(service) == []


def test_a_full_disk_and_a_defect_are_told_at_once(
    client, service, monkeypatch, tmp_path, pictures
):
    sent = {"files": {"file": ("a.png", pictures(tmp_path, 1)[0].read_bytes())}}
    faults = {
        "No space left": OSError(28, "No space left on device"),
        "The terminal that runs gantk app": ZeroDivisionError("Zweifel"),
    }
    for words, fault in faults.items():

        def fail(job, fault=fault):
            raise fault

        with monkeypatch.context() as patch:
            patch.setattr(service.worker, "_translate", fail)
            answer = client.post("/translate", **sent)

        assert answer.status_code == 500
        assert words in answer.json()["detail"]
        assert "Zweifel" not in answer.json()["detail"]

    assert left(service) == []


def test_a_missing_extra_or_used_port_is_one_message(gantk, tiny_run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gradio", None)
        patch.delitem(sys.modules, "gantk_serve.app.server", raising=False)
        outcome = gantk("app", tiny_run)
        assert outcome.code == 2
        assert 'ip install "gantk[app]"' in outcome.err

    pytest.importorskip("gradio", reason='gradio is not installed: pip install "gantk[app]"')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = gantk("app", tiny_run, "--port", taken.getsockname()[1])

    assert outcome.code == 2
    assert "port 0 is a free one" in outcome.err


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_browser_translates_and_saves_a_dropped_scan(client, service, gantk, tiny_run, tmp_path):
    import uvicorn
    from starlette.responses import FileResponse, Response
    from starlette.routing import Route

    scan = volume(tmp_path / "scan.nii.gz")
    told = []
    ended = threading.Event()

    async def hear(request):
        told.append(json.loads(await request.body()))
        ended.set()
        return Response()

    pages = {"/operate": OPERATED, "/scan": scan}
    routes = [
        Route(path, lambda request, file=file: FileResponse(file)) for path, file in pages.items()
    ]
    client.app.router.routes[:0] = [*routes, Route("/told", hear, methods=["POST"])]
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(client.app, log_level="error", timeout_graceful_shutdown=5)
    )
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    serving.start()
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
    ]
    command += [f"--user-data-dir={tmp_path / 'user'}", f"{origin}/operate"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as browser:
        assert ended.wait(300)
        browser.kill()

    server.should_exit = True
    serving.join()
    (found,) = told

    assert "error" not in found, found
    assert found["kinds"] == ["input", "output", "difference", "uncertainty"]
    assert found["before"] != found["after"]
    assert gantk("translate", tiny_run, scan, tmp_path / "cli.nii.gz", "--to", "T2").code == 0
    assert b64decode(found["saved"]) == (tmp_path / "cli.nii.gz").read_bytes()
    assert found["asked"]
    assert all(each.startswith((origin, "data:", "blob:")) for each in found["asked"])
    assert left(service) == []  # the window was closed


@pytest.mark.slow
def test_app_listens_locally_and_leaves_nothing(client, tiny_run, tmp_path):
    command = [sys.executable, "-m", "gantk", "app", str(tiny_run), "--port", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as app:
        address = re.search(
            r"http://127\.0\.0\.1:\d+", next(line for line in app.stdout if "open" in line)
        )[0]
        sent = volume(tmp_path / "scan.nii.gz").read_bytes()
        assert requests.post(
            f"{address}/translate", files={"file": ("scan.nii.gz", sent)}, timeout=300
        ).ok
        app.terminate()

    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii.gz"]
