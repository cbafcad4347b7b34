"""Models to and from a hub: a real server on this machine, asked by the library as the Hugging Face hub is."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from gantk.files import sha256_of


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload and a download ask for; `commits` are the files of each, `asked` all requests."""

    commits: list[dict[str, bytes]] = []
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        _, *parts = self.path.partition("?")[0].split("/")
        revision = parts[5:6] if parts[:2] == ["api", "models"] else parts[3:4]
        files, oid = (self.commits or [{}])[-1], f"{len(self.commits):040x}"
        with suppress(ValueError, IndexError):
            number = int(revision[0], 16)
            files, oid = self.commits[number - 1], f"{number:040x}"
        if "gone" in self.path:
            return self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        if "resolve" in parts:
            content = files["/".join(parts[4:])]
            return self.answer(content, 200, {"ETag": f'"{hash(content)}"', "X-Repo-Commit": oid})
        if parts[-1] == "create":
            told = {"url": f"http://{self.headers['Host']}/me/tiny"}
        elif "preupload" in parts:
            sent = json.loads(body)["files"]
            told = {"files": [{"path": e["path"], "uploadMode": "regular", "shouldIgnore": False} for e in sent]}
        elif "commit" in parts:
            lines = [json.loads(line) for line in body.splitlines()]
            sent = {e["value"]["path"]: e["value"].get("content") for e in lines if e["key"] in ("file", "deletedFile")}
            merged = files | {path: base64.b64decode(content or "") for path, content in sent.items()}
            self.commits.append({path: merged[path] for path in merged if sent.get(path, "") is not None})
            told = {
                "commitUrl": f"http://{self.headers['Host']}/me/tiny/commit/{1:040x}",
                "commitOid": f"{len(self.commits):040x}",
                "success": True,
            }
        elif "tree" in parts:
            told = [{"type": "file", "path": p, "size": len(c), "oid": f"{hash(c):x}"} for p, c in files.items()]
        else:
            told = {"id": "me/tiny", "sha": oid, "siblings": [{"rfilename": path} for path in files]}
        self.answer(json.dumps(told).encode(), 200, {"Content-Type": "application/json"})

    do_POST = do_HEAD = do_GET

    def answer(self, content: bytes, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content if self.command != "HEAD" else b"")

    def log_message(self, *words) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`hub("push", ...)` runs the command line in a process of its own whose hub is the server; its output."""
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: pip install gantk[hub]")
    monkeypatch.setattr(Hub, "commits", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_me", "HF_HUB_OFFLINE": "0"}
    own |= {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}

    def call(*words: object) -> tuple[int, str]:
        Hub.asked = []
        command = [sys.executable, "-m", "gantk", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    yield call
    server.shutdown()
    server.server_close()


def test_what_is_pushed_is_translated_with_by_its_address_and_fetched_once(hub, tiny_run, pictures, tmp_path):
    (picture,) = pictures(tmp_path / "in", 1)
    code, said = hub("push", tiny_run, "me/tiny", "--license", "cc-by-4.0")
    assert code == 0 and f"pushed   hf://me/tiny@{1:040x}, weights sha256 " in said, said
    (files,) = Hub.commits
    saved = "checkpoints/step-000004"
    names = {
        "README.md",
        "card.md",
        "recipe.toml",
        "metrics.json",
        f"{saved}/meta.json",
        f"{saved}/weights.safetensors",
    }
    assert set(files) == names and files["README.md"].startswith(b"---\nlibrary_name: gantk\n")
    assert b"\nlicense: cc-by-4.0\n---\n" in files["README.md"] and files["README.md"].endswith(files["card.md"])
    files["setup.py"] = b"raise SystemExit('executed')"  # what somebody else put there is not even fetched
    code, said = hub("translate", "hf://me/tiny", picture, "one.png", "--device", "cpu")
    (weights,) = (tmp_path / "hf").rglob("weights.safetensors")
    assert code == 0 and f"model    hf://me/tiny@{1:040x}, weights sha256 {sha256_of(weights)}\nlimits " in said, said
    assert len([each for each in Hub.asked if "weights.safetensors" in each and each.startswith("GET")]) == 1
    assert not list((tmp_path / "hf").rglob("setup.py"))
    code, said = hub("translate", f"hf://me/tiny@{1:040x}", picture, "two.png", "--device", "cpu")
    assert code == 0 and Hub.asked == [], said
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_mistake_is_one_message(hub, gantk):
    code, said = hub("translate", "hf://me/gone", "in.png", "out.png")
    assert code == 1 and said.startswith("error  'hf://me/gone' cannot be fetched: 404") and "Traceback" not in said
    for words, told in (
        (("translate", "hf://me", "in.png", "out.png"), "'hf://me' is no address of a model. Allowed: hf://USER/NAME"),
        (("push", "nowhere", "me/tiny"), "there is no folder 'nowhere', and no model of that name"),
        (("push", "nowhere", "tiny"), "'tiny' is no name of a model on the hub. Allowed: USER/NAME"),
    ):
        done = gantk(*words)
        assert done.code == 2 and done.err.startswith(f"error  {told}")


def test_without_its_library_the_extra_is_named(gantk, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    done = gantk("translate", "hf://me/tiny", Path("in.png"), Path("out.png"))
    assert done.code == 2 and 'not installed. Pip install "gantk[hub]"' in done.err
