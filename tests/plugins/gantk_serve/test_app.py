"""The window of `gantk app` and its API make what the command line makes, and say what is wrong."""

import io
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from base64 import b64decode
from html import unescape
from pathlib import Path

import dicom_files
import nibabel as nib
import numpy as np
import pytest
import requests
from app_client import program, served
from browser import BROWSER
from tiny import small_run
from volumes import volume

import gantk as gantk_package
from gantk.errors import UserError
from gantk.formats.files import read
from gantk.inference.frame import fit_words
from gantk_serve.trust import answer_for, quality_on_unseen

MOST = 300_000  # bytes of an upload
OPERATED = Path(__file__).parent / "app_operated.html"


@pytest.fixture(scope="module")
def gradio():
    """A test that needs it is skipped where it is not installed."""
    return pytest.importorskip("gradio", reason='gradio is not installed: pip install "gantk[app]"')


@pytest.fixture(scope="module")
def parts(gradio):
    """The parts of the page, as functions."""
    from gantk_serve.app.server import PARTS

    return PARTS


@pytest.fixture(scope="module")
def service(gradio, tiny_run, tmp_path_factory):
    """A service with the tiny run in an empty folder."""
    from gantk_serve.app.service import Service

    return Service(str(tiny_run), tmp_path_factory.mktemp("place"), MOST, "cpu")


@pytest.fixture(scope="module")
def client(service):
    """`client.post(...)` as a browser on this machine."""
    from fastapi.testclient import TestClient

    from gantk_serve.app.server import application

    return TestClient(application(service), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def address(service):
    """The address of the served application."""
    from gantk_serve.app.server import application

    with served(application(service)) as found:
        yield found


def zipped(files: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> bytes:
    with zipfile.ZipFile(made := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            (member := zipfile.ZipInfo(name)).external_attr = mode << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def left(service) -> list[str]:
    """What is left of uploads and results; the folder of taken ones stays."""
    return [str(path) for path in service.folder.rglob("*") if path.name != "taken"]


def wait_until(condition):
    end = time.monotonic() + 60.0
    while not condition() and time.monotonic() < end:
        threading.Event().wait(0.05)
    assert condition()


def test_a_program_gets_the_bytes_that_the_command_line_writes(
    address, service, gantk, tiny_run, tmp_path, pictures
):
    scans = [
        pictures(tmp_path, 1)[0],
        volume(tmp_path / "scan.nii.gz"),
        volume(tmp_path / "T2.nii"),
    ]
    with program(address, tmp_path / "back") as call:
        for scan in scans:
            result, notes = call(scan, "T2")
            out = tmp_path / "out" / scan.name
            gantk("translate", tiny_run, scan, out, "--to", "T2").ok()
            assert Path(result).read_bytes() == out.read_bytes()
            assert f"{scan.name.partition('.')[0]}_synthetic_T2." in result
        assert "the header or the name says T2, but this model translates T1" in " ".join(notes)


@pytest.mark.slow
def test_a_result_stays_until_its_session_ends(address, service, tmp_path, pictures):
    (scan,) = pictures(tmp_path, 1)
    with program(address, tmp_path / "back") as call:
        call(scan)
        assert [name for name in left(service) if "_synthetic_" in name]

    wait_until(lambda: left(service) == [])


@pytest.mark.slow
def test_a_password_is_asked_for_by_page_and_api(service, tmp_path, pictures):
    from gradio_client.exceptions import AuthenticationError

    from gantk_serve.app.server import application

    (scan,) = pictures(tmp_path, 1)
    token = "f" * 32
    with served(application(service, token=token)) as address:
        assert requests.get(f"{address}/config", timeout=60).status_code == 401
        with (
            pytest.raises((AuthenticationError, ValueError)),
            program(address, tmp_path, auth=("gantk", "wrong")),
        ):
            pass
        with program(address, tmp_path, auth=("gantk", token)) as call:
            result, _ = call(scan)
            assert Path(result).stat().st_size > 0

        wait_until(lambda: left(service) == [])


TOKENS = {
    "no file": (None, 0, "without a password"),
    "missing": ("", 0, "does not exist"),
    "empty": ("", 0o600, "has 0 characters"),
    "short": ("f" * 31, 0o600, "has 31 characters"),
    "read by others": ("f" * 32, 0o640, "others can read"),
}


@pytest.mark.parametrize("case", TOKENS)
def test_an_open_address_needs_a_good_password(case, tmp_path, gantk):
    text, mode, words = TOKENS[case]
    file = tmp_path / "token"
    if mode:
        file.write_text(text)
        file.chmod(mode)
    options = [] if text is None else ["--token-file", file]
    told = gantk("app", "--host", "0.0.0.0", "--port", 0, *options).refused()

    assert words in told


def test_a_zipped_dicom_series_comes_back_as_derived_series(address, gantk, tiny_run, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    folder = tmp_path / "series"
    dicom_files.series(folder, dicom_files.head())
    content = {f"head/{path.name}": path.read_bytes() for path in folder.iterdir()}
    sent = tmp_path / "head.zip"
    sent.write_bytes(zipped(content | {"read.me": b"notes"}))
    with program(address, tmp_path / "client") as call:
        result, _ = call(sent, "T2")
        zipfile.ZipFile(result).extractall(tmp_path / "back")

    gantk("translate", tiny_run, folder, tmp_path / "cli", "--to", "T2").ok()

    back = read(tmp_path / "back" / "head")
    cli = read(tmp_path / "cli")

    assert np.array_equal(back.pixels, cli.pixels)
    assert np.allclose(back.affine, cli.affine)
    made = pydicom.dcmread(next((tmp_path / "back" / "head").iterdir()))
    assert made.ImageType[0] == "DERIVED"
    assert made.SyntheticData == "YES"


@pytest.mark.slow
def test_a_model_with_classes_needs_one(tmp_path, pictures):
    from gantk_serve.app.service import Service

    method = {"name": "pix2pix", "conditional": True, "generator": {"name": "unet", "width": 4}}
    heads = {"lesions": 1, "radius": [10.0, 20.0], "healthy": 0.5}
    run = small_run(tmp_path, method, source=heads, domains=["T1", "FLAIR"], labels=True)
    service = Service(str(run), tmp_path / "place", MOST, "cpu")
    (picture,) = pictures(tmp_path / "pictures", 1)
    made = {}
    for label in ("healthy", "tumour"):
        upload = service.place("a.png")
        upload.write_bytes(picture.read_bytes())
        made[label] = service.translate(upload, "FLAIR", label=label).file.read_bytes()
    with pytest.raises(UserError, match="healthy, tumour"):
        service.translate(upload, "FLAIR")
    found, _ = service.look(upload)  # before a class is chosen

    assert found == "FLAIR"
    assert made["healthy"] != made["tumour"]


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("p1/T1.nii.gz", "p1/T2.nii.gz"),
        (
            "sub-01/anat/sub-01_T1w.nii.gz",
            "sub-01/anat/sub-01_space-T1w_desc-gantk_T2w.nii.gz",
        ),
    ],
)
def test_translations_of_a_zip_are_shown(service, tmp_path, name, result):
    scan = volume(tmp_path / "scan.nii.gz")
    upload = service.place("study.zip")
    upload.write_bytes(zipped({name: scan.read_bytes()}))
    made = service.translate(upload, "T2", show=True)
    images = [each for each in zipfile.ZipFile(made.file).namelist() if each.endswith(".gz")]

    assert images == [result]
    (view,) = made.views
    assert view["name"] == name


PNG = b"\x89PNG\r\n\x1a\n"
HOSTILE = {
    "climbing": ("a.zip", zipped({"../evil.png": PNG}), "cannot be read as a zip file"),
    "absolute": ("a.zip", zipped({"/tmp/evil.png": PNG}), "cannot be read as a zip file"),
    "link": (
        "a.zip",
        zipped({"a.png": b"/etc/passwd"}, stat.S_IFLNK | 0o777),
        "neither a file nor a folder",
    ),
    "bomb": ("a.zip", zipped({"a.nii": bytes(9 * MOST)}), "unpacks to more than"),
    "no zip": ("a.zip", b"PK\x03\x04 and nothing", "cannot be read as a zip file"),
    "deep": ("a.zip", zipped({"a/" * 400 + "a.png": PNG}), "more than 50 folders"),
    "only damaged": ("a.zip", zipped({"y.png": PNG[:60]}), "y.png"),
    "no images": ("a.zip", zipped({"letter.txt": b"text"}), "no images"),
    "a letter": ("letter.txt", b"text", "unknown suffix '.txt'"),
    "another kind": ("a.nii.gz", PNG, "cannot be read as NIfTI"),
    "empty": ("a.nii", b"", "is empty"),
    "two volumes": (
        "a.nii",
        nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.uint8), np.eye(4)).to_bytes(),
        "Allowed: one 2-D or 3-D image.",
    ),
}


@pytest.mark.parametrize(("name", "to"), [("a_T1w", "T2"), ("a_T2w", "T1"), ("a_FLAIR", "T2")])
def test_an_upload_chooses_its_direction_and_is_compared(service, tmp_path, name, to):
    upload = service.place(f"{name}.nii.gz")
    volume(upload, values=dicom_files.head(12, 40, 36).T)
    found, answer = service.look(upload)

    assert found == to
    assert (answer.fits == "no") == (name == "a_FLAIR")
    assert any("says FLAIR" in text for _, text in answer.reasons) == (name == "a_FLAIR")


@pytest.mark.parametrize("names", [("T1", "T2"), ("T1",)])
def test_a_study_with_the_wanted_contrast_is_told(service, tmp_path, names):
    files = {}
    for name in names:
        scan = volume(tmp_path / f"{name}.nii.gz", values=dicom_files.head(12, 40, 36).T)
        files[f"p1/{name}.nii.gz"] = scan.read_bytes()
    upload = service.place("study.zip")
    upload.write_bytes(zipped(files))
    found, answer = service.look(upload)

    assert found == "T2"
    told = [text for _, text in answer.reasons if "has an acquired T2 already" in text]
    assert bool(told) == ("T2" in names)


@pytest.mark.parametrize(
    ("second", "fits", "words"),
    [
        (
            {"ProtocolName": "T1 localizer"},
            "not recorded",
            "not used: 'P1' (the header says that it is",
        ),
        ({"ImageType": ["DERIVED", "SUB"]}, "not recorded", "says that it is a subtraction)"),
        ({"skip": [4]}, "no", "lacks 1 slice"),
    ],
)
def test_each_patient_of_a_zip_gets_an_answer(service, tmp_path, second, fits, words):
    files = {}
    for number, changed in enumerate(({}, second)):
        person = f"P{number}"
        header = {
            "ProtocolName": "T1 se",
            "PatientID": person,
            "SeriesInstanceUID": f"1.2.{number}",
        } | changed
        dicom_files.series(tmp_path / person, dicom_files.head(12, 40, 36), **header)
        content = (tmp_path / person).iterdir()
        files |= {f"{person}/{path.name}": path.read_bytes() for path in content}
    upload = service.place("study.zip")
    upload.write_bytes(zipped(files))
    _, answer = service.look(upload)
    translated = service.translate(upload, "T2").trust

    told = [text for _, text in answer.reasons]
    assert translated.fits == answer.fits
    assert answer.fits == fits, told
    assert any(words in text and "P1" in text for text in told)
    # no file of a series is at fault
    assert not any("P1/IM" in text for _, text in translated.reasons)


@pytest.mark.parametrize("second", ["P1", "P2"])
def test_patients_in_one_folder_of_a_zip_are_told(service, tmp_path, second):
    for series, person in enumerate(("P1", second)):
        header = {
            "PatientID": person,
            "SeriesInstanceUID": f"1.2.{series}",
            "ProtocolName": "T1 se",
        }
        pixels = dicom_files.head(12, 40, 36, seed=series)
        dicom_files.series(tmp_path / "all", pixels, prefix=f"s{series}-", **header)
    upload = service.place("study.zip")
    files = {f"all/{path.name}": path.read_bytes() for path in (tmp_path / "all").iterdir()}
    upload.write_bytes(zipped(files))
    _, answer = service.look(upload)
    made = service.translate(upload, "T2").file
    results = [name for name in zipfile.ZipFile(made).namelist() if name.endswith(".dcm")]

    told = ("warning", "'all' has scans of 2 patients") in answer.reasons
    assert told == (second == "P2")
    assert len(results) == 24
    assert all(("patient-" in name) == told for name in results)


# notes about the scans of an upload -> the answer, and the number of reasons
ANSWERS = {
    "one scan": ([("note", fit_words("partly")), ("note", "spacing")], "partly", 1),
    "the worst of a zip": (
        [
            ("note", f"{fit_words('yes')} (2 of 3 images: a.nii, c.nii)"),
            ("warning", f"{fit_words('no')} (1 of 3 images: b.nii)"),
        ],
        "no",
        2,
    ),
    "one contrast of several": ([("note", f"T1: {fit_words('yes')}")], "yes", 0),
    "a header that quotes it": ([("note", "fits the training data: well")], "not recorded", 1),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_the_page_tells_what_does_not_hold(case, parts):
    notes, fits, reasons = ANSWERS[case]
    answer = answer_for(notes, "PSNR 21.7 dB.")
    told = parts.trust(answer)

    assert (answer.fits, len(answer.reasons)) == (fits, reasons)
    assert "lesions are not judged" in told
    assert ("do not hold for a scan that does not fit" in told) == (fits == "no")


def test_quality_is_of_people_whom_the_model_has_not_seen(service, parts):
    shipped, _ = quality_on_unseen(gantk_package.load("t1t2", device="cpu").run, "T2", "T1")

    assert shipped.startswith("On 12 people whom the model had not seen: PSNR 21.7 dB, SSIM 0.845")
    assert "; single volumes: 16.9 to 25.0 dB." in shipped
    assert shipped.endswith(
        "21.7 dB is a typical error of 8 % of the gray range on them; the error on this scan is not"
        " known."
    )
    sentence, tone = quality_on_unseen(service.model.run, "T1", "T2")
    assert "PSNR" in sentence
    assert (tone == "bad") == ("not better than" in sentence)
    assert f'<p class="{tone}">{sentence}' in unescape(parts.trust(answer_for([], sentence, tone)))


def test_page_on_trust_and_its_pictures_are_served(client):
    page = client.get("/trust").text
    pictures = set(re.findall(r'<img src="([^"]+)"', page))

    assert "Can I trust it for my patient?" in page
    assert len(pictures) == 3
    assert all(client.get(picture).headers["content-type"][:5] == "image" for picture in pictures)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_one_message(service, kind):
    name, content, words = HOSTILE[kind]
    upload = service.place(name)
    upload.write_bytes(content)
    steps = [service.translate, service.translate]  # a damaged zip stays damaged
    if kind != "no images":  # there is nothing to look at
        steps.append(lambda upload, _: service.look(upload))
    for step in steps:
        with pytest.raises(UserError) as failed:
            step(upload, "T2")
        assert words in str(failed.value)
        assert str(service.folder) not in str(failed.value)
        assert "--" not in str(failed.value)
    service.forget(upload)

    assert not upload.parent.parent.exists()


def test_a_name_cannot_lead_out_of_its_place(service):
    for name in ("../../a.nii", "..", "/etc/passwd", "a\\..\\b.nii", ".hidden.nii", ""):
        upload = service.place(name)
        assert upload.parent.name == "in"
        assert upload.parent.parent.parent == service.folder / "taken"
        assert not upload.name.startswith(".")
        service.forget(upload)


def test_large_or_cross_site_requests_are_refused(client):
    sent = {"files": {"files": ("a.png", PNG)}}
    large = {"files": {"files": ("a.nii", bytes(MOST + 2**20))}}
    upload = "/gradio_api/upload"
    refused = [
        (client.post(upload, headers={"Origin": "http://other.org"}, **sent), 403, "other sites"),
        (client.post(upload, headers={"Host": "other.org"}, **sent), 403, "answers at"),
        (client.post(upload, content=iter([b"a"])), 411, "Content-Length"),
        (client.post(upload, **large), 413, "larger than"),
        (client.post(upload, headers={"Host": "["}, **sent), 400, "is not an address"),
        (client.post(upload, headers={"Origin": "http://["}, **sent), 400, "is not an address"),
        (client.get("/", headers={"Origin": "http://]["}), 400, "is not an address"),
        (client.get("/", headers={"Host": "a\u2100b".encode()}), 403, ""),
        (client.get("/gradio_api/file=/etc/passwd"), 403, ""),
        (client.get("/gradio_api/proxy=http://other.org"), 404, "no page at"),
        (client.get("/files/own/..%5Cservice.py"), 404, "deleted"),
        (client.get("/files/%2e%2e/passwd"), 404, ""),
    ]
    for answer, status, words in refused:
        assert answer.status_code == status
        assert words in answer.json()["detail"]


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


def untaken(service) -> list[str]:
    """Uploads that no session has taken."""
    return [path.name for path in service.folder.iterdir() if path.name != "taken"]


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
    assert untaken(service) != []

    ((seconds, call, arguments),) = timers
    call(*arguments)
    assert untaken(service) != []  # a page may still take it
    assert seconds == 300.0

    monkeypatch.setattr(server, "UNTAKEN_S", 0.0)
    call(*arguments)
    assert untaken(service) == []


def test_files_that_were_not_uploaded_are_out_of_reach(service, tmp_path):
    import gradio as gr

    from gantk_serve.app.server import window

    take = next(each.fn for each in window(service, "").fns.values() if each.name == "take")
    (tmp_path / "private").mkdir()
    (victim := tmp_path / "private" / "letter.nii").write_bytes(b"secret")
    (service.folder / "link").mkdir(parents=True)
    (link := service.folder / "link" / "letter.nii").symlink_to(victim)
    up = service.folder / "link" / ".." / ".." / ".." / "letter.nii"
    for named in (victim, link, up, "http://127.0.0.1/letter.nii", "a\0b"):
        with pytest.raises(gr.Error, match="was not uploaded") as failed:
            take(str(named), gr.Request(session_hash="other"))
        assert not failed.value.print_exception

    assert victim.read_bytes() == b"secret"
    assert link.is_symlink()

    link.unlink()
    link.parent.rmdir()


def test_a_used_port_is_one_message(gantk, tiny_run):
    pytest.importorskip("gradio", reason='gradio is not installed: pip install "gantk[app]"')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = gantk("app", tiny_run, "--port", taken.getsockname()[1])

    assert outcome.code == 2
    assert "port 0 is a free one" in outcome.err


def test_a_model_of_several_contrasts_is_refused_with_a_command(gantk, gradio):
    told = gantk("app", "missing", "--port", 0).refused()

    assert "'missing' needs several contrasts of a patient (T1, T1CE, T2, FLAIR)" in told
    assert "gantk translate missing --t1 A --t1ce B OUTPUT" in told


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_browser_translates_and_saves_a_dropped_scan(client, service, gantk, tiny_run, tmp_path):
    from starlette.responses import FileResponse, Response
    from starlette.routing import Route

    scan = volume(tmp_path / "scan.nii.gz")
    slices = read(scan).pixels.shape[1]
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
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        f"--user-data-dir={tmp_path / 'user'}",
    ]
    quiet = {"stderr": subprocess.DEVNULL, "start_new_session": True}
    with served(client.app) as origin:
        with subprocess.Popen([*command, f"{origin}/operate"], **quiet) as browser:
            assert ended.wait(300)
            os.killpg(browser.pid, signal.SIGKILL)  # one of its processes holds the connection
        wait_until(lambda: not left(service))

    (found,) = told

    assert "error" not in found, found
    assert found["kinds"] == ["input", "output", "difference"]
    assert slices % 2 == 0  # so that the middle is between two slices
    assert found["slice"] == f"slice {slices // 2} of {slices}"
    assert found["before"] != found["after"]
    gantk("translate", tiny_run, scan, tmp_path / "cli.nii.gz", "--to", "T2").ok()
    assert b64decode(found["saved"]) == (tmp_path / "cli.nii.gz").read_bytes()
    assert found["asked"]
    assert all(each.startswith((origin, "data:", "blob:")) for each in found["asked"])
    assert left(service) == []  # the window was closed


@pytest.mark.slow
def test_app_listens_locally_and_leaves_nothing(tiny_run, tmp_path):
    command = [sys.executable, "-m", "gantk", "app", str(tiny_run), "--port", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    scan = volume(tmp_path / "scan.nii.gz")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as app:
        address = re.search(
            r"http://127\.0\.0\.1:\d+", next(line for line in app.stdout if "open" in line)
        )[0]
        with program(address, tmp_path / "back") as call:
            assert Path(call(scan)[0]).stat().st_size > 0
        app.terminate()

    assert {path.name for path in tmp_path.iterdir()} == {"scan.nii.gz", "back"}
