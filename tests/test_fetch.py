"""Public data sets: fetched whole, checked, resumed and unpacked safely, from a server on the loopback address."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import gantk
from gantk.errors import GantkError, UserError
from gantk_datasets import download

PICTURES = {f"set/train/{n}.png": bytes([n]) * 70_000 for n in range(4)}


class Handler(BaseHTTPRequestHandler):
    """Files with ranges; misbehaves as the server's attributes say."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, path, wanted = self.server, self.path.lstrip("/"), self.headers.get("Range")
        server.log.append((path, wanted))
        status = server.answers.pop(0) if server.answers else 200
        content = server.files.get(path)
        if content is None or status != 200:
            return self.answer(404 if content is None else status, b"<html>no</html>")
        if not (wanted and server.ranges):
            return self.answer(200, content)
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
        return self.answer(206 if start < len(content) else 416, content[start:])

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts and status in (200, 206) else None
        self.wfile.write(body[:cut])
        self.close_connection = cut is not None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of `files`; `cuts`: bytes after which it hangs up, one an answer; `answers`: statuses to begin with."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.files, running.log, running.cuts, running.answers, running.ranges = {}, [], [], [], True
        running.url = f"http://127.0.0.1:{running.server_address[1]}/"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def offer(server, monkeypatch):
    """`offer(content, name)` puts one archive on the server, `offer(files={...})` makes these the set "heads"."""

    def make(content: bytes = b"", name: str = "heads.tar", files: dict | None = None, **changes) -> bytes:
        if files is None:
            server.files[name] = content
            files = {name: {"size": len(content), "checksum": sha256(content)} | changes}
        about = {"about": "heads", "licence": "CC BY 4.0", "cite": "Somebody 2020"}
        own = about | {"use": "--data {folder}", "base": server.url, "files": files}
        asked = about | {"ask": "https://example.org/ask"}
        monkeypatch.setattr(download, "known_sets", lambda: {"heads": own, "guarded": asked})
        return content

    return make


def tarred(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o6666
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: dict[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def quietly(folder: Path, **options) -> Path:
    return gantk.fetch("heads", out=folder, **{"say": lambda line: None} | options)


PLAIN = tarred(PICTURES)


@pytest.mark.parametrize("name", ["heads.tar", "heads.tar.gz", "heads.zip"])
def test_a_set_comes_whole_without_the_folder_around_it_and_says_its_terms(server, offer, tmp_path, name):
    offer(zipped(PICTURES) if name.endswith("zip") else tarred(PICTURES, "w:gz" if name.endswith("gz") else "w"), name)
    said, seen = [], []
    folder = quietly(tmp_path / "d" / "heads", say=said.append, progress=lambda *now: seen.append(now))
    assert names(folder) == {path.removeprefix("set/") for path in PICTURES}
    assert all((folder / path.removeprefix("set/")).read_bytes() == body for path, body in PICTURES.items())
    assert all(path.stat().st_mode & 0o7111 == 0 for path in folder.rglob("*.png")), "ordinary permissions"
    assert {path.name for path in folder.parent.iterdir()} == {"heads", "heads.fetched.json"}
    assert "licence  CC BY 4.0" in said and f"use      --data {folder}" in said
    shares = [share for share, what in seen if what == name]
    assert shares == sorted(shares) and shares[-1] == 1.0
    server.log.clear()
    assert quietly(folder) == folder and not server.log, "what is there is not asked for again"


def test_a_broken_download_goes_on_where_it_stopped(server, offer, tmp_path):
    offer(PLAIN)

    def stop(share, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quietly(tmp_path / "heads", progress=stop)
    kept = (tmp_path / ".heads.fetching" / "heads.tar.part").stat().st_size
    assert kept > 0 and not (tmp_path / "heads").exists()
    server.cuts, server.answers = [len(PLAIN) // 3], [503, 429]
    assert len(names(quietly(tmp_path / "heads"))) == 4
    starts = [int(wanted[6:-1]) for _, wanted in server.log[1:]]
    assert starts[:3] == [kept] * 3 and starts[3] > kept


def test_a_file_that_changed_meanwhile_is_never_mixed_and_leaves_nothing(server, offer, tmp_path):
    offer(PLAIN, size=0)
    server.cuts = [len(PLAIN) // 2] + [0] * download.TRIES
    with pytest.raises(GantkError, match="goes on from there"):
        quietly(tmp_path / "heads")
    server.cuts, server.files["heads.tar"] = [], PLAIN[::-1]
    with pytest.raises(GantkError, match="not the file that was published"):
        quietly(tmp_path / "heads")
    offer(PLAIN, size=17)
    with pytest.raises(GantkError, match="not the file that was published"):
        quietly(tmp_path / "heads")
    assert not list(tmp_path.iterdir())


def test_a_server_without_ranges_and_checksums_sends_it_from_the_start(server, offer, tmp_path):
    offer(PLAIN, size=0, checksum="")
    server.ranges, server.cuts = False, [len(PLAIN) // 2]
    assert len(names(quietly(tmp_path / "heads"))) == 4 and len(server.log) == 2


def test_a_file_without_checksum_is_trusted_once_and_compared_later(server, offer, tmp_path):
    content = offer(PLAIN, checksum="")
    said = []
    quietly(tmp_path / "heads", say=said.append)
    assert any(line.startswith("trusted") and sha256(content) in line for line in said)
    record = json.loads((tmp_path / "heads.fetched.json").read_text())
    assert record["files"][0]["checksum"] == sha256(content) and record["files"][0]["published"] is False
    shutil.rmtree(tmp_path / "heads")
    server.files["heads.tar"] = content[:-1] + b"!"
    with pytest.raises(GantkError, match="not the file that was fetched here before"):
        quietly(tmp_path / "heads")
    assert {path.name for path in tmp_path.iterdir()} == {"heads.fetched.json"}


def test_single_files_with_git_checksums_and_archives_keep_their_places(server, offer, tmp_path):
    bodies = {"p1/T1.nii.gz": b"one", "p2/T 1.nii.gz": b"two"}
    blobs = {path: hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest() for path, body in bodies.items()}
    server.files = {path.replace(" ", "%20"): body for path, body in bodies.items()} | {"T1.tar": tarred({"a": b"1"})}
    offer(files={path: {"checksum": f"git:{blob}"} for path, blob in blobs.items()} | {"T1.tar": {"into": "T1"}})
    folder = quietly(tmp_path / "heads")
    assert {path: (folder / path).read_bytes() for path in names(folder)} == bodies | {"T1/a": b"1"}


@pytest.mark.parametrize("status", [404, 503, None])
def test_what_a_server_refuses_is_one_sentence_with_a_way_out(server, offer, tmp_path, status):
    offer(PLAIN)
    server.answers = [status] * download.TRIES
    with pytest.raises(GantkError, match=str(status) if status else "Connection refused") as caught:
        quietly(tmp_path / "heads", base_url=None if status else "http://127.0.0.1:9/")
    assert "--from" in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_fetches_of_one_set_at_a_time_download_it_once(server, offer, tmp_path):
    offer(PLAIN)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(quietly, [tmp_path / "heads"] * 4))
    assert done == [tmp_path / "heads"] * 4 and len(server.log) == 1 and len(names(tmp_path / "heads")) == 4


LINK = tarfile.TarInfo("set/link")
LINK.type, LINK.linkname = tarfile.SYMTYPE, "../../.."
BAD = {
    "parent.tar": tarred({"set/../../evil": b"x"}),
    "symlink.tar": LINK.tobuf(tarfile.USTAR_FORMAT) + bytes(1024),
    "cut.tar.gz": tarred(PICTURES, "w:gz")[:500],
    "text.zip": b"<html>sorry</html>" * 99,
    "flipped.zip": zipped(PICTURES)[:60] + b"0123456789" + zipped(PICTURES)[70:],
}


@pytest.mark.parametrize("name", BAD)
def test_an_archive_that_is_damaged_or_not_to_be_trusted_leaves_nothing(offer, tmp_path, name):
    offer(BAD[name], name, checksum="")
    with pytest.raises(GantkError, match="is damaged or not to be trusted"):
        quietly(tmp_path / "deep" / "heads")
    assert not list((tmp_path / "deep").iterdir()) and {path.name for path in tmp_path.iterdir()} == {"deep"}


@pytest.mark.parametrize("name", ["../evil", "/evil"])
def test_nothing_of_a_zip_lands_outside_of_its_folder(offer, tmp_path, name):
    offer(zipped({name: b"x", "a.png": b"y"}), "heads.zip")
    quietly(tmp_path / "deep" / "heads")
    assert {path.name for path in tmp_path.iterdir()} == {"deep"} and len(names(tmp_path / "deep")) == 2


def test_what_the_user_got_wrong_touches_nothing(server, offer, tmp_path):
    offer(PLAIN)
    for name, options, words in (("haeds", {}, "Did you mean 'heads'"), ("guarded", {}, "https://example.org/ask"),
                                 ("heads", {"base_url": "ftp://127.0.0.1/"}, "is no address")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            gantk.fetch(name, out=tmp_path / "x", **options)
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not the set"):
        quietly(tmp_path / "heads")
    assert not server.log and names(tmp_path) == {"heads/mine.txt"}


def test_a_known_set_says_what_it_is_and_how_it_is_checked():
    for own in download.known_sets().values():
        assert own["about"] and own["licence"] and own["cite"] and ("ask" in own) != ("files" in own)
        assert (own.get("ask") or own["base"]).startswith("https://") and ("use" in own or "ask" in own)
        archives = [file for path, file in own.get("files", {}).items() if path.endswith(download.ARCHIVES)]
        assert len(archives) <= 1 or len({file["into"] for file in archives} - {""}) == len(archives)
        for file in own.get("files", {}).values():
            assert re.fullmatch(r"(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|git:[0-9a-f]{40})?", file["checksum"])
    table = {row[0]: row for row in gantk.public_sets()}
    assert table["horse2zebra"][2] == "116.9 MB" and table["ixi"][3] == "CC BY-SA 3.0"
    assert table["brats"][2] == "on request" and all(len(row) == 5 and all(row) for row in table.values())
