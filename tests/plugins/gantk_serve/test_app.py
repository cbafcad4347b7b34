"""The window of `gantk app` and its API make what the command line makes, and say what is wrong."""

import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from base64 import b64decode, b64encode
from html import unescape
from pathlib import Path

import dicom_files
import nibabel as nib
import numpy as np
import pytest
import requests
from app_client import program, served
from browser import BROWSER, Browser
from tiny import small_run
from volumes import volume

import gantk as gantk_package
from gantk.errors import UserError
from gantk.formats.files import read
from gantk.inference.frame import fit_words
from gantk_serve.trust import answer_for, quality_on_unseen

MOST = 300_000  # bytes of an upload


@pytest.fixture(scope="module")
def gradio():
    """A test that needs it is skipped where it is not installed."""
    return pytest.importorskip("gradio", reason='gradio is not installed: pip install "gantk[app]"')


@pytest.fixture(scope="module")
def parts(gradio):
    """The parts of the page, as functions."""
    from gantk_serve.app.page import PARTS

    return PARTS


@pytest.fixture(scope="module")
def service(gradio, tiny_run, tmp_path_factory):
    """A service with the tiny run in an empty folder."""
    from gantk_serve.app.service import Service

    return Service(str(tiny_run), tmp_path_factory.mktemp("place"), MOST, "cpu")


@pytest.fixture(scope="module")
def address(service):
    """The address of the served page."""
    with served(service) as found:
        yield found


def zipped(files: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> bytes:
    with zipfile.ZipFile(made := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            (member := zipfile.ZipInfo(name)).external_attr = mode << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def left(service) -> list[str]:
    """What is left of uploads and results; the folder of sessions stays."""
    names = []
    for place, folders, files in os.walk(service.folder):
        names += [os.path.join(place, name) for name in (*folders, *files) if name != "sessions"]
    return names


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

    (scan,) = pictures(tmp_path, 1)
    token = "f" * 32
    with served(service, token) as address:
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
        upload = service.place("a session", "a.png")
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
    upload = service.place("a session", "study.zip")
    upload.write_bytes(zipped({name: scan.read_bytes()}))
    made = service.translate(upload, "T2", show=True)
    images = [each for each in zipfile.ZipFile(made.file).namelist() if each.endswith(".gz")]

    assert images == [result]
    (view,) = made.views
    assert view["name"] == name
    assert list(view["files"]) == ["input", "output", "difference"]


def test_a_long_zip_leaves_the_queue_to_others(service, tmp_path, monkeypatch):
    monkeypatch.setattr("gantk_serve.app.service.MAX_ZIP_SECONDS", -1.0)
    scan = volume(tmp_path / "scan.nii.gz").read_bytes()
    upload = service.place("a session", "study.zip")
    upload.write_bytes(zipped({f"p{n}_T1.nii.gz": scan for n in range(3)}))
    made = service.translate(upload, "T2")
    images = [each for each in zipfile.ZipFile(made.file).namelist() if each.endswith(".gz")]

    assert len(images) == 1
    assert any("others wait" in text and "2 of 3 images" in text for _, text in made.notes)


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
    "many": ("a.zip", zipped({f"{n}.png": b"" for n in range(4097)}), "more than 4,096 files"),
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
    upload = service.place("a session", f"{name}.nii.gz")
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
    upload = service.place("a session", "study.zip")
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
            "not used (the header says that it is a localizer): 'P1'",
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
    upload = service.place("a session", "study.zip")
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
    upload = service.place("a session", "study.zip")
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


def test_page_on_trust_shows_its_pictures(gradio, address):
    from gantk_serve.app.page import FILES
    from gantk_serve.trust import page_text

    page = page_text(FILES)
    pictures = set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", page))

    assert "Can I trust it for my patient?" in page
    assert len(pictures) == 3
    for picture in pictures:
        answer = requests.get(f"{address}{picture}", timeout=60)
        assert answer.headers["content-type"].startswith("image"), picture
    assert not re.search(r"(?<!!)\[[^]]*\]\((?!#)", page)  # links to pages that are not here


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_one_message(service, kind):
    name, content, words = HOSTILE[kind]
    upload = service.place("a session", name)
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
    service.forget("a session")

    assert not upload.parent.parent.exists()


def test_a_name_cannot_lead_out_of_its_place(service):
    for name in ("../../a.nii", "..", "/etc/passwd", "a\\..\\b.nii", ".hidden.nii", ""):
        upload = service.place("a session", name)
        assert upload.parent.name == "in"
        assert upload.parents[2] == service.session_folder("a session")
        assert not upload.name.startswith(".")
        service.forget("a session")


def test_large_or_cross_site_requests_are_refused(address):
    upload = f"{address}/gradio_api/upload"

    def post(content=PNG, **headers):
        return requests.post(
            upload, headers=headers, files={"files": ("a.nii", content)}, timeout=60
        )

    refused = [
        (post(Origin="http://other.org"), 403),
        (post(Origin="http://["), 400),
        (post(Host="other.org"), 400),
        (post(Host="["), 400),
        (post(bytes(MOST + 1)), 413),
        (requests.get(f"{address}/gradio_api/file=/etc/passwd", timeout=60), 403),
        (requests.get(f"{address}/gradio_api/proxy=http://other.org", timeout=60), 400),
    ]
    for number, (answer, status) in enumerate(refused):
        assert answer.status_code == status, (number, answer.text)


def test_every_answer_keeps_scripts_of_others_out(address):
    answer = requests.get(address, timeout=60)

    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"


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
def test_requests_that_no_page_sends_are_refused(address, body, capfd):
    asked = {"data": body, "headers": {"Content-Type": "application/json"}, "timeout": 60}
    for end in ("run/go", "run/none", "api/go", "call/go", "call/v2/go", "queue/join", "reset"):
        answer = requests.post(f"{address}/gradio_api/{end}", **asked)
        assert 400 <= answer.status_code < 500, (end, answer.text)

    told = capfd.readouterr()
    assert told.out + told.err == ""


def test_an_upload_that_breaks_off_prints_nothing(address, capfd):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
    assert requests.get(address, timeout=60).ok  # it has seen the end of the other meanwhile

    told = capfd.readouterr()
    assert told.out + told.err == ""


def result_of(address, function, values):
    """The last message of Gradio's queue for a call of a session without a heartbeat."""
    config = requests.get(f"{address}/config", timeout=60).json()
    (number,) = [each["id"] for each in config["dependencies"] if each["api_name"] == function]
    asked = {"data": values, "fn_index": number, "session_hash": "no-heartbeat"}
    join = requests.post(f"{address}/gradio_api/queue/join", json=asked, timeout=60)
    assert join.ok, join.text
    query = f"{address}/gradio_api/queue/data?session_hash=no-heartbeat"
    with requests.get(query, stream=True, timeout=60) as answer:
        for line in answer.iter_lines():
            message = json.loads(line.removeprefix(b"data: ") or b"{}")
            if message.get("msg") == "process_completed":
                return message


def test_files_that_were_not_uploaded_are_out_of_reach(address, service, tmp_path, capfd):
    (victim := tmp_path / "letter.nii").write_bytes(b"secret")
    service.forget("a session")
    place = service.folder / "link"
    place.mkdir()
    up = f"{place}/../../../{tmp_path.name}/letter.nii"
    for named in (str(victim), up, "http://127.0.0.1/letter.nii", "a\0b"):
        given = {"path": named, "meta": {"_type": "gradio.FileData"}}
        message = result_of(address, "translate", [given, "T2", ""])
        assert not message["success"], named
        assert "secret" not in json.dumps(message)
    place.rmdir()
    told = capfd.readouterr()

    assert victim.read_bytes() == b"secret"
    wait_until(lambda: left(service) == [])  # sessions of other tests end
    assert "Traceback" not in told.err


def test_what_nobody_uses_is_deleted(address, service, tmp_path, pictures, monkeypatch):
    from gantk_serve.app import service as module

    service.forget("a session")
    wait_until(lambda: left(service) == [])  # sessions of other tests end
    content = pictures(tmp_path, 1)[0].read_bytes()
    sent = {"files": ("a.png", content)}
    (path,) = requests.post(f"{address}/gradio_api/upload", files=sent, timeout=60).json()
    given = {"path": path, "meta": {"_type": "gradio.FileData"}}
    assert result_of(address, "translate", [given, "T2", ""])["success"]
    requests.post(f"{address}/gradio_api/upload", files=sent, timeout=60)  # which nobody takes

    names = {Path(each).name for each in left(service)}
    assert {"a.png", "a_synthetic_T2.png"} <= names  # the result of a session without a heartbeat
    service.delete_idle()
    assert names == {Path(each).name for each in left(service)}
    monkeypatch.setattr(module, "IDLE_S", -1.0)
    service.delete_idle()
    assert left(service) == []


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
def test_browser_translates_and_saves_a_dropped_scan(address, service, gantk, tiny_run, tmp_path):
    scan = volume(tmp_path / "scan.nii.gz")
    slices = read(scan).pixels.shape[1]
    gantk("translate", tiny_run, scan, tmp_path / "cli.nii.gz", "--to", "T2").ok()
    with Browser(tmp_path, address, gpu=True) as page:
        page.until("document.querySelector('#scan input[type=file]')")
        page.js(
            "(() => { const list = new DataTransfer();"
            f" const bytes = Uint8Array.from(atob('{b64encode(scan.read_bytes()).decode()}'),"
            " (c) => c.charCodeAt(0)); list.items.add(new File([bytes], 'scan.nii.gz'));"
            " const input = document.querySelector('#scan input[type=file]');"
            " input.files = list.files;"
            " input.dispatchEvent(new Event('change', { bubbles: true })); })()"
        )
        page.until("document.querySelector('#go:not([disabled])')")
        page.js("document.querySelector('#go').click()")
        page.until("document.querySelector('#viewer[data-ready]')")
        values = (
            "[...document.querySelectorAll('#viewer output')].map((o) => Number(o.textContent))"
        )
        kinds = page.js(
            "[...document.querySelectorAll('#viewer canvas')].map((c) => c.dataset.kind)"
        )
        before = page.js(values)
        place = page.js("document.querySelector('#viewer [data-at=slice]').textContent")
        page.js("document.querySelector('canvas[data-kind=output]').scrollIntoView()")
        page.drag("canvas[data-kind=output]", dy=30)
        page.until(f"String({values}) != '{','.join(f'{value:g}' for value in before)}'")
        saved = page.js(
            "fetch(document.querySelector('#save').href).then((a) => a.arrayBuffer())"
            ".then((b) => btoa(String.fromCharCode(...new Uint8Array(b))))"
        )
        asked = page.js("performance.getEntriesByType('resource').map((each) => each.name)")
        errors = page.errors
    wait_until(lambda: left(service) == [])  # the window was closed

    assert kinds == ["input", "output", "difference"]  # no uncertainty was judged
    assert slices % 2 == 0  # so that the middle is between two slices
    assert place == f"slice {slices // 2} of {slices}"
    assert b64decode(saved) == (tmp_path / "cli.nii.gz").read_bytes()
    assert asked
    assert all(each.startswith((address, "data:", "blob:")) for each in asked)
    assert errors == []


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
