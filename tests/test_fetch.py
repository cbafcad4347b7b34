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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gantk.data import fetch
from gantk.data.fetch import PublicSet, Remote
from gantk.errors import GantkError, UserError

PICTURES = {f"set/train/{n}.png": bytes([n]) * 70_000 for n in range(4)}


class Handler(BaseHTTPRequestHandler):
    """Files with ranges and tags; misbehaves as the server's attributes say."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server, path = self.server, self.path.lstrip("/")
        wanted = self.headers.get("Range")
        server.log.append((path, wanted))
        status = server.answers.pop(0) if server.answers else 200
        content = server.files.get(path)
        if content is None or status != 200:
            self._send(404 if content is None else status, b"<html>no</html>")
            return
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        same = self.headers.get("If-Range", tag) == tag
        headers = {"ETag": tag} if server.tags else {}
        if wanted and server.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            headers |= {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            self._send(206, content[start:], headers)
        else:
            self._send(200, content, headers)

    def _send(self, status, body, headers=None):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts and status in (200, 206) else None
        self.wfile.write(body[:cut])
        self.server.sent += len(body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of `files`; `cuts`: bytes after which it hangs up, one an answer; `answers`: statuses to begin with."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "PAUSE", 0)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.files, running.log, running.cuts, running.answers = {}, [], [], []
    running.ranges = running.tags = True
    running.sent = 0
    running.url = f"http://127.0.0.1:{running.server_address[1]}/"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def known(server, monkeypatch):
    """`known(remote, ...)` makes these files, on the server, the public set "heads"."""

    def make(*files: Remote, name: str = "heads") -> None:
        own = PublicSet(name, "heads", "CC BY 4.0", "Somebody 2020", "--data {folder}", server.url, files)
        asked = PublicSet("guarded", "scans", "terms", "Somebody 2021", ask="https://example.org/ask")
        monkeypatch.setattr(fetch, "public_sets", lambda: {name: own, "guarded": asked})

    return make


def tarred(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def offered(server, known, content: bytes, name: str = "heads.tar", **changes) -> bytes:
    """One archive on the server, known with its true size and checksum unless `changes` say otherwise."""
    server.files[name] = content
    known(Remote(name, **{"size": len(content), "checksum": sha256(content)} | changes))
    return content


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def quietly(folder: Path, **options) -> Path:
    return fetch.fetch("heads", folder, say=lambda line: None, **options)


PLAIN = tarred(PICTURES, "w")


@pytest.mark.parametrize("name", ["heads.tar", "heads.tar.gz", "heads.zip"])
def test_a_set_comes_whole_without_the_folder_around_it_and_says_its_terms(server, known, tmp_path, name):
    content = zipped(PICTURES) if name.endswith("zip") else tarred(PICTURES, "w:gz" if name.endswith("gz") else "w")
    offered(server, known, content, name)
    said, seen = [], []
    folder = fetch.fetch("heads", tmp_path / "d" / "heads", say=said.append, progress=lambda *now: seen.append(now))
    assert names(folder) == {path.removeprefix("set/") for path in PICTURES}
    assert all((folder / path.removeprefix("set/")).read_bytes() == body for path, body in PICTURES.items())
    assert {path.name for path in folder.parent.iterdir()} == {"heads", "heads.fetched.json"}
    assert "licence  CC BY 4.0" in said and f"use      --data {folder}" in said
    shares = [share for share, what in seen if what == name]
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_a_set_that_is_there_is_not_asked_for_again(server, known, tmp_path):
    offered(server, known, PLAIN)
    quietly(tmp_path / "heads")
    server.log.clear()
    assert quietly(tmp_path / "heads") == tmp_path / "heads" and not server.log


def test_a_cut_connection_is_taken_up_where_it_broke(server, known, tmp_path):
    content = offered(server, known, PLAIN)
    server.cuts = [len(content) // 3, len(content) // 3]
    assert len(names(quietly(tmp_path / "heads"))) == 4
    starts = [int(wanted[6:-1]) for _, wanted in server.log if wanted]
    assert len(starts) == 2 and 0 < starts[0] < starts[1]
    assert server.sent < len(content) + 3 * fetch.PIECE, "it was sent anew"


def test_an_interrupted_fetch_leaves_a_part_that_the_next_one_completes(server, known, tmp_path):
    offered(server, known, PLAIN)

    def stop(share, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quietly(tmp_path / "heads", progress=stop)
    part = tmp_path / ".heads.fetching" / "heads.tar.part"
    kept = part.stat().st_size
    assert kept > 0 and not (tmp_path / "heads").exists()
    quietly(tmp_path / "heads")
    assert server.log[-1] == ("heads.tar", f"bytes={kept}-") and len(names(tmp_path / "heads")) == 4


@pytest.mark.parametrize("tags", [True, False])
def test_a_server_without_ranges_sends_it_from_the_start(server, known, tmp_path, tags):
    content = offered(server, known, PLAIN, size=0)
    server.ranges, server.tags, server.cuts = False, tags, [len(content) // 2]
    assert len(names(quietly(tmp_path / "heads"))) == 4 and len(server.log) == 2


def test_a_file_that_changed_between_two_attempts_is_never_mixed(server, known, tmp_path):
    content = offered(server, known, PLAIN, size=0, checksum="")
    other = tarred({name: body[::-1] + b"!" for name, body in PICTURES.items()}, "w")
    server.cuts = [len(content) // 2] + [0] * fetch.TRIES
    with pytest.raises(GantkError, match="goes on from there"):
        quietly(tmp_path / "heads")
    server.cuts, server.files["heads.tar"] = [], other
    folder = quietly(tmp_path / "heads")
    assert {path: (folder / path).read_bytes() for path in names(folder)} == {
        name.removeprefix("set/"): body + b"!" for name, body in PICTURES.items()
    }


def test_a_wrong_checksum_leaves_nothing(server, known, tmp_path):
    offered(server, known, PLAIN, checksum=sha256(b"something else"))
    with pytest.raises(GantkError, match="not the file that was published"):
        quietly(tmp_path / "heads")
    assert not list(tmp_path.iterdir())


def test_another_size_is_refused_before_it_is_downloaded(server, known, tmp_path):
    offered(server, known, PLAIN, size=17)
    with pytest.raises(GantkError, match=r"has [\d,]+ bytes, and 17 were published"):
        quietly(tmp_path / "heads")
    assert not list(tmp_path.iterdir())


def test_a_file_without_checksum_is_trusted_once_and_held_against_later(server, known, tmp_path):
    content = offered(server, known, PLAIN, checksum="")
    said = []
    fetch.fetch("heads", tmp_path / "heads", say=said.append)
    assert any(line.startswith("trusted") and sha256(content) in line for line in said)
    record = json.loads((tmp_path / "heads.fetched.json").read_text())
    assert record["files"][0]["checksum"] == sha256(content) and record["files"][0]["published"] is False
    shutil.rmtree(tmp_path / "heads")
    server.files["heads.tar"] = content[:-1] + b"!"
    with pytest.raises(GantkError, match="not the file that was fetched here before"):
        quietly(tmp_path / "heads")
    assert {path.name for path in tmp_path.iterdir()} == {"heads.fetched.json"}
    server.files["heads.tar"] = content
    assert len(names(quietly(tmp_path / "heads"))) == 4


def test_single_files_with_git_checksums_and_archives_keep_their_places(server, known, tmp_path):
    bodies = {"p1/T1.nii.gz": b"one", "p2/T 1.nii.gz": b"two"}
    blobs = {path: hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest() for path, body in bodies.items()}
    server.files = {path.replace(" ", "%20"): body for path, body in bodies.items()}
    flat = {"a.nii.gz": b"1", "b.nii.gz": b"2"}
    server.files |= {"T1.tar": tarred(flat, "w"), "T2.tar": tarred(flat, "w")}
    known(Remote("T1.tar", into="T1"), Remote("T2.tar", into="T2"))
    assert names(quietly(tmp_path / "two")) == {"T1/a.nii.gz", "T1/b.nii.gz", "T2/a.nii.gz", "T2/b.nii.gz"}
    known(*(Remote(path, checksum=f"git:{blob}") for path, blob in blobs.items()))
    folder = quietly(tmp_path / "heads")
    assert {path: (folder / path).read_bytes() for path in names(folder)} == bodies
    shutil.rmtree(folder)
    server.files["p2/T%201.nii.gz"] = b"TWO"
    with pytest.raises(GantkError, match="not the file that was published"):
        quietly(folder)
    assert not folder.exists()


@pytest.mark.parametrize("status", [404, 403, 401, 418, None])
def test_what_a_server_refuses_is_one_sentence_with_a_way_out(server, known, tmp_path, status):
    offered(server, known, PLAIN)
    server.answers = [status]
    address = None if status else "http://127.0.0.1:9/"
    with pytest.raises(GantkError, match=str(status) if status else "refuses the connection") as caught:
        quietly(tmp_path / "heads", base_url=address)
    assert "--from" in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 1
    assert len(server.log) == bool(status) and not list(tmp_path.iterdir())


def test_a_busy_server_is_asked_again(server, known, tmp_path):
    offered(server, known, PLAIN)
    server.answers = [503, 429]
    assert len(names(quietly(tmp_path / "heads"))) == 4 and len(server.log) == 3


def test_two_fetches_of_one_set_download_it_once(server, known, tmp_path):
    offered(server, known, PLAIN)
    done, failed = [], []

    def work():
        try:
            done.append(quietly(tmp_path / "heads"))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and done == [tmp_path / "heads"] * 4
    assert len(server.log) == 1 and len(names(tmp_path / "heads")) == 4


def _tar_with(kind: bytes, name: str = "set/x", link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        archive.addfile(info)
    return buffer.getvalue()


def _zip_with_link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("set/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def _greedy_header() -> bytes:
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 10**9
    return info.tobuf(tarfile.USTAR_FORMAT) + b"0" * 4096


EVIL = {
    "absolute.tar": tarred({"/tmp/gantk-evil": b"x"}, "w"),
    "parent.tar": tarred({"set/../../evil": b"x"}, "w"),
    "symlink.tar": _tar_with(tarfile.SYMTYPE, link="../../.."),
    "hardlink.tar": _tar_with(tarfile.LNKTYPE, link="/etc/passwd"),
    "device.tar": _tar_with(tarfile.CHRTYPE),
    "fifo.tar": _tar_with(tarfile.FIFOTYPE),
    "greedy.tar": _greedy_header(),
    "parent.zip": zipped({"../evil": b"x"}),
    "absolute.zip": zipped({"/evil": b"x"}),
    "drive.zip": zipped({"C:evil": b"x"}),
    "backslash.zip": zipped({"..\\evil": b"x"}),
    "symlink.zip": _zip_with_link(),
    "bomb.zip": zipped({"set/zeros": bytes(2**20)}),
    "bomb.tar.gz": tarred({"set/zeros": bytes(2**20)}),
}


@pytest.mark.parametrize("name", EVIL)
def test_an_archive_that_is_not_to_be_trusted_leaves_nothing(server, known, tmp_path, monkeypatch, name):
    monkeypatch.setattr(fetch, "LEAST", 2**17)
    offered(server, known, EVIL[name], name, checksum="")
    with pytest.raises(GantkError, match="not to be trusted|is damaged"):
        quietly(tmp_path / "deep" / "heads")
    assert not list((tmp_path / "deep").iterdir()) and {path.name for path in tmp_path.iterdir()} == {"deep"}


@pytest.mark.parametrize("name", ["cut.tar.gz", "cut.zip", "text.zip", "text.tar", "flipped.zip"])
def test_a_damaged_archive_is_one_sentence_and_leaves_nothing(server, known, tmp_path, name):
    whole = zipped(PICTURES) if name.endswith("zip") else tarred(PICTURES)
    content = b"<html>sorry</html>" * 99 if name.startswith("text") else whole[: len(whole) // 2]
    if name == "flipped.zip":
        content = bytearray(whole)
        content[60:70] = b"0123456789"
    offered(server, known, bytes(content), name)
    with pytest.raises(GantkError, match="is damaged") as caught:
        quietly(tmp_path / "heads")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_foreign_folder_is_left_alone(server, known, tmp_path):
    offered(server, known, PLAIN)
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not the set"):
        quietly(tmp_path / "heads")
    assert not server.log and names(tmp_path) == {"heads/mine.txt"}


def test_names_are_suggested_and_guarded_sets_name_their_keeper(server, known, tmp_path):
    offered(server, known, PLAIN)
    with pytest.raises(UserError, match="Did you mean 'heads'"):
        fetch.fetch("haeds", tmp_path / "x")
    with pytest.raises(UserError, match="https://example.org/ask"):
        fetch.fetch("guarded", tmp_path / "x")
    with pytest.raises(UserError, match="is no address"):
        quietly(tmp_path / "x", base_url="ftp://127.0.0.1/")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", fetch.public_sets())
def test_a_known_set_says_what_it_is_and_how_it_is_checked(name):
    own = fetch.public_sets()[name]
    assert own.about and own.licence and own.cite and bool(own.ask) != bool(own.files)
    assert (own.ask or own.base).startswith("https://")
    if own.files:
        assert own.use and "{folder}" in own.use or name == "cmp-facades"
        archives = [file for file in own.files if file.path.endswith(fetch.ARCHIVES)]
        assert len(archives) <= 1 or len({file.into for file in archives} - {""}) == len(archives)
    for file in own.files:
        assert re.fullmatch(r"(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|git:[0-9a-f]{40})?", file.checksum)


def test_the_table_names_size_licence_and_place_of_every_set():
    table = {row[0]: row for row in fetch.rows()}
    assert table["horse2zebra"][2] == "116.9 MB" and table["ixi"][3] == "CC BY-SA 3.0"
    assert table["brats"][2] == "on request" and all(len(row) == 5 and all(row) for row in table.values())
