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
from base64 import b64decode
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

from gantk.errors import UserError
from gantk.formats.files import read
from gantk.metrics.rows import judgement

MOST = 600_000  # bytes of an upload


@pytest.fixture(scope="module")
def gradio():
    """A test that needs it is skipped where it is not installed."""
    return pytest.importorskip("gradio", reason='gradio is not installed: pip install "gantk[app]"')


@pytest.fixture(scope="module")
def service(gradio, tiny_run):
    """A service with the tiny run."""
    from gantk_serve.app.service import Service

    return Service(str(tiny_run), MOST, "cpu")


@pytest.fixture(scope="module")
def address(service, tmp_path_factory):
    """The address of the served page."""
    with served(service, tmp_path_factory.mktemp("place")) as found:
        yield found


def zipped(files: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> bytes:
    with zipfile.ZipFile(made := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            (member := zipfile.ZipInfo(name)).external_attr = mode << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return made.getvalue()


def taken(service, folder, name, content):
    """The image of an upload."""
    folder.mkdir()
    sent = folder.parent / name
    sent.write_bytes(content)
    return service.take(sent, folder)


def wait_until(condition):
    end = time.monotonic() + 60.0
    while not condition() and time.monotonic() < end:
        threading.Event().wait(0.05)
    assert condition()


def test_a_program_gets_the_bytes_that_the_command_line_writes(
    address, gantk, tiny_run, tmp_path, pictures
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
        assert "the header or the name says T2, but it is translated as T1" in " ".join(notes)


@pytest.mark.slow
def test_a_password_is_asked_for_by_page_and_api(service, tmp_path, pictures):
    from gradio_client.exceptions import AuthenticationError

    (scan,) = pictures(tmp_path, 1)
    with served(service, tmp_path, "secret") as address:
        assert requests.get(f"{address}/config", timeout=60).status_code == 401
        with (
            pytest.raises((AuthenticationError, ValueError)),
            program(address, tmp_path, auth=("gantk", "wrong")),
        ):
            pass
        with program(address, tmp_path, auth=("gantk", "secret")) as call:
            assert Path(call(scan)[0]).stat().st_size > 0


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

    back = read(tmp_path / "back")
    cli = read(tmp_path / "cli")

    assert np.array_equal(back.pixels, cli.pixels)
    assert np.allclose(back.affine, cli.affine)
    made = pydicom.dcmread(next((tmp_path / "back").iterdir()))
    assert made.ImageType[0] == "DERIVED"
    assert made.SyntheticData == "YES"


def test_a_single_dicom_file_is_translated(service, tmp_path):
    (slice_file,) = dicom_files.series(tmp_path / "one", dicom_files.head(1))
    source = taken(service, tmp_path / "place", "one.dcm", slice_file.read_bytes())

    assert zipfile.ZipFile(service.translate(service.check(source, "T2")).file).namelist()


@pytest.mark.slow
def test_a_model_with_classes_needs_one(tmp_path, pictures):
    from gantk_serve.app.service import Service

    method = {"name": "pix2pix", "conditional": True, "generator": {"name": "unet", "width": 4}}
    heads = {"lesions": 1, "radius": [10.0, 20.0], "healthy": 0.5}
    run = small_run(tmp_path, method, source=heads, domains=["T1", "FLAIR"], labels=True)
    service = Service(str(run), MOST, "cpu")
    (picture,) = pictures(tmp_path / "pictures", 1)
    source = taken(service, tmp_path / "place", "a.png", picture.read_bytes())
    check = service.check(source)  # before a class is chosen
    made = {
        label: service.translate(check, label).file.read_bytes() for label in ("healthy", "tumour")
    }
    with pytest.raises(UserError, match="healthy, tumour"):
        service.translate(check)

    assert check.to == "FLAIR"
    assert made["healthy"] != made["tumour"]


# the series of a zip: description of each -> the one that is translated; "" where that is not known
STUDIES = {
    "one": (["T1 se"], "T1 se"),
    "one of each contrast": (["T1 se", "T2 tse"], "T1 se"),
    "a localizer beside it": (["T1 localizer", "T1 se"], "T1 se"),
    "two of a contrast": (["T1 se", "T1 mprage"], ""),
}


@pytest.mark.parametrize("name", STUDIES)
def test_the_one_series_of_a_zip_is_translated(service, tmp_path, name):
    pydicom = pytest.importorskip("pydicom")
    described, chosen = STUDIES[name]
    files = {}
    for number, words in enumerate(described):
        header = {"SeriesDescription": words, "SeriesInstanceUID": f"1.2.{number}"}
        made = dicom_files.series(tmp_path / str(number), dicom_files.head(4), **header)
        files |= {f"study/S{number}/{path.name}": path.read_bytes() for path in made}
    if not chosen:
        with pytest.raises(
            UserError, match=r"holds 'study/S0', 'study/S1'\. Allowed: a zip of one"
        ):
            taken(service, tmp_path / "place", "study.zip", zipped(files))
        return

    source = taken(service, tmp_path / "place", "study.zip", zipped(files))
    first = pydicom.dcmread(sorted(source.iterdir())[0])
    assert first.SeriesDescription == chosen
    assert len([*source.iterdir()]) == 4


PNG = b"\x89PNG\r\n\x1a\n"
HOSTILE = {
    "climbing": ("a.zip", zipped({"../evil.png": PNG}), "'evil.png' cannot be read"),
    "absolute": ("a.zip", zipped({"/tmp/evil.png": PNG}), "'evil.png' cannot be read"),
    "link": (
        "a.zip",
        zipped({"a.png": b"/etc/passwd"}, stat.S_IFLNK | 0o777),
        "'a.png' cannot be read",
    ),
    "bomb": ("a.zip", zipped({"a.nii": bytes(9 * MOST)}), "unpacks to more than"),
    "many": ("a.zip", zipped({f"{n}.png": b"" for n in range(4097)}), "unpacks to more than"),
    "no zip": ("a.zip", b"PK\x03\x04 and nothing", "cannot be read as a zip file"),
    "deep": ("a.zip", zipped({"a/" * 400 + "a.png": PNG}), "unpacks to more than"),
    "only damaged": ("a.zip", zipped({"y.png": PNG[:60]}), "y.png"),
    "no images": ("a.zip", zipped({"letter.txt": b"text"}), "holds no image for this model"),
    "a letter": ("letter.txt", b"text", "unknown suffix '.txt'"),
    "another kind": ("a.nii.gz", PNG, "cannot be read as NIfTI"),
    "empty": ("a.nii", b"", "is empty"),
    "two volumes": (
        "a.nii",
        nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.uint8), np.eye(4)).to_bytes(),
        "Allowed: one 2-D or 3-D image.",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_one_message(service, tmp_path, kind):
    from gantk_serve.app.page import Events

    name, content, words = HOSTILE[kind]
    (tmp_path / "place").mkdir()
    (tmp_path / name).write_bytes(content)
    told = Events(service, tmp_path / "place").take(str(tmp_path / name), None)

    assert told[0] is None
    assert words in unescape(told[3])
    assert str(tmp_path) not in told[3]
    assert not [*(tmp_path / "place").iterdir()]


@pytest.mark.parametrize(("name", "to"), [("a_T1w", "T2"), ("a_T2w", "T1"), ("a_FLAIR", "T2")])
def test_an_upload_chooses_its_direction_and_is_compared(service, tmp_path, name, to):
    scan = volume(tmp_path / f"{name}.nii.gz", values=dicom_files.head(12, 40, 36).T)
    check = service.check(scan)

    assert check.to == to
    assert (check.fits == "no") == (name == "a_FLAIR")
    assert any("says FLAIR" in text for _, text in check.said) == (name == "a_FLAIR")
    assert service.check(scan, "T1").to == "T1"
    told = [text for _, text in check.said]
    assert not {*told} & {text for _, text in service.translate(check).notes}  # each is said once


def test_page_begins_with_the_verdict_of_the_report(address, service):
    sentence, tone = judgement(service.model.run)
    config = requests.get(f"{address}/config", timeout=60).json()
    (top,) = [each for each in config["components"] if each["props"].get("elem_id") == "top"]
    shown = unescape(top["props"]["value"])

    assert sentence
    assert f'<p class="verdict {tone}">{sentence}</p>' in shown


def test_shipped_example_fits_the_shipped_model(gradio):
    from gantk_serve.app.page import EXAMPLE
    from gantk_serve.app.service import Service

    assert Service("t1t2", MOST, "cpu").check(EXAMPLE).fits in ("yes", "partly")


def test_requests_of_others_are_refused(address):
    upload = f"{address}/gradio_api/upload"

    def post(content=PNG, **headers):
        return requests.post(
            upload, headers=headers, files={"files": ("a.nii", content)}, timeout=60
        )

    assert post(Host="other.org").status_code == 400
    assert post(bytes(MOST + 1)).status_code == 413
    answer = post(Origin="http://other.org")
    assert (
        "access-control-allow-origin" not in answer.headers
    )  # a browser shows it to no other page
    assert requests.get(f"{address}/gradio_api/file=/etc/passwd", timeout=60).status_code == 403


def test_an_upload_that_is_broken_off_leaves_nothing(service, tmp_path, capfd):
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.nii"\r\n\r\n'
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: {}\r\nContent-Length: 500000\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"

    def files():
        return [path for path in (tmp_path / "place").rglob("*") if path.is_file()]

    with served(service, tmp_path / "place") as address:
        host = address.partition("//")[2]
        name, _, port = host.partition(":")
        before = files()
        for _ in range(3):
            with socket.create_connection((name, int(port))) as sender:
                sender.sendall(head.format(host).encode() + part + bytes(100_000))
                wait_until(lambda: files() != before)
            wait_until(lambda: files() == before)
    assert "Traceback" not in "".join(capfd.readouterr())


def result_of(address, values):
    """The last message of Gradio's queue for a call of /translate, as no page sends it."""
    config = requests.get(f"{address}/config", timeout=60).json()
    (number,) = [each["id"] for each in config["dependencies"] if each["api_name"] == "translate"]
    asked = {"data": values, "fn_index": number, "session_hash": "no-heartbeat"}
    requests.post(f"{address}/gradio_api/queue/join", json=asked, timeout=60).raise_for_status()
    query = f"{address}/gradio_api/queue/data?session_hash=no-heartbeat"
    with requests.get(query, stream=True, timeout=60) as answer:
        for line in answer.iter_lines():
            message = json.loads(line.removeprefix(b"data: ") or b"{}")
            if message.get("msg") == "process_completed":
                return message


def test_files_that_were_not_uploaded_are_out_of_reach(address, tmp_path):
    (victim := tmp_path / "letter.nii").write_bytes(b"secret")
    for named in (
        str(victim),
        f"{tmp_path}/../{tmp_path.name}/letter.nii",
        "http://127.0.0.1/a.nii",
    ):
        given = {"path": named, "meta": {"_type": "gradio.FileData"}}
        message = result_of(address, [given, "T2", ""])
        assert not message["success"], named
        assert "NIfTI" not in json.dumps(message), named  # it was not even read
    assert victim.read_bytes() == b"secret"


def test_a_used_port_is_one_message(gantk, tiny_run):
    pytest.importorskip("gradio", reason='gradio is not installed: pip install "gantk[app]"')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = gantk("app", tiny_run, "--port", taken.getsockname()[1])

    assert outcome.code == 2
    assert "port 0 is a free one" in outcome.err


@pytest.mark.parametrize("model", ["missing"])
def test_a_model_of_several_contrasts_is_refused_with_a_command(gantk, gradio, model):
    told = gantk("app", model, "--port", 0).refused()

    assert f"'{model}' does not translate one image to another" in told
    assert "gantk translate" in told


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_browser_translates_and_saves_the_example(gantk, tmp_path, gradio, monkeypatch):
    from gantk_serve.app.page import EXAMPLE
    from gantk_serve.app.service import Service

    monkeypatch.setenv("GRADIO_IS_E2E_TEST", "1")  # a closed session ends after a second
    slices = read(EXAMPLE).pixels.shape[1]
    gantk("translate", "t1t2", EXAMPLE, tmp_path / "cli.nii.gz", "--to", "T2").ok()
    with served(Service("t1t2", MOST, "cpu"), tmp_path / "place") as address:
        with Browser(tmp_path, address, gpu=True) as page:
            page.until("document.querySelector('#example button, #example td, .gallery-item')")
            verdict = page.js("document.querySelector('#top .verdict').textContent")
            page.js("document.querySelector('#example button, #example td, .gallery-item').click()")
            page.until("document.querySelector('#go:not([disabled])')")
            fit = page.js("document.querySelector('#fit h2').textContent")
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
            page.js(
                "(() => { const planes = document.querySelector('#viewer [data-at=planes]');"
                " planes.value = '0'; planes.dispatchEvent(new Event('change')); })()"
            )
            page.js("document.querySelector('canvas[data-kind=output]').scrollIntoView()")
            page.drag("canvas[data-kind=output]", dy=30)
            page.until(f"String({values}) != '{','.join(f'{value:g}' for value in before)}'")
            saved = page.js(
                "fetch(document.querySelector('#save').href).then((a) => a.arrayBuffer())"
                ".then((b) => { let s = ''; for (const c of new Uint8Array(b)) s +="
                " String.fromCharCode(c); return btoa(s); })"
            )
            asked = page.js("performance.getEntriesByType('resource').map((each) => each.name)")
            errors = page.errors
        assert [*(tmp_path / "place").rglob("result")]
        wait_until(lambda: not [*(tmp_path / "place").rglob("result")])  # the window was closed

    assert "ahead of" in verdict
    assert "fits the training data" in fit.lower()
    assert kinds == ["input", "output", "difference"]
    assert place.endswith(f" of {slices}")
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
