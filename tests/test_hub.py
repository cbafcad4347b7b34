"""Models to and from a hub: a real server on this machine, asked by the library as the Hugging Face hub is."""

import base64
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from gantk.files import sha256_of

COMMIT = 40 * "1"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload and a download ask for, with one commit; `asked` are all requests."""

    files: dict[str, bytes] = {}
    asked: list[str] = []

    def do_GET(self):
        self.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts, files = self.path.partition("?")[0].split("/"), self.files
        host = f"http://{self.headers['Host']}/me/tiny"
        code, headers, told = 200, {"X-Repo-Commit": COMMIT, "ETag": f'"etag-{parts[-1]}"'}, {}
        if "gone" in parts:
            code, headers = 404, {"X-Error-Code": "RepoNotFound"}
        elif parts[-1] == "create":
            told = {"url": host}
        elif "preupload" in parts:
            paths = [each["path"] for each in json.loads(body)["files"]]
            told = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
        elif "commit" in parts:
            sent = [json.loads(line) for line in body.splitlines()]
            files |= {e["value"]["path"]: base64.b64decode(e["value"]["content"]) for e in sent if e["key"] == "file"}
            told = {"commitUrl": f"{host}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
        elif "tree" in parts:
            told = [{"type": "file", "path": path, "size": len(each), "oid": "0"} for path, each in files.items()]
        else:
            told = {"id": "me/tiny", "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]}
        content = files["/".join(parts[5:])] if "resolve" in parts else json.dumps(told).encode()
        self.send_response(code)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content if self.command != "HEAD" else b"")

    do_POST = do_HEAD = do_GET

    def log_message(self, *words) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`hub("push", ...)` runs the command line in a process of its own whose hub is the server; its output."""
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub: pip install gantk[hub]")
    monkeypatch.setattr(Hub, "files", {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_TOKEN": "hf_me", "HF_HUB_OFFLINE": "0"}
    own |= {"HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}

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
    assert code == 0 and f"pushed   hf://me/tiny@{COMMIT}, weights sha256 " in said, said
    files, names = (
        Hub.files,
        ["README.md", "card.md", "meta.json", "metrics.json", "recipe.toml", "weights.safetensors"],
    )
    assert sorted(path.rpartition("/")[2] for path in files) == names and files["README.md"].startswith(
        b"---\nlibrary_name: gantk\n"
    )
    assert b"\nlicense: cc-by-4.0\n---\n" in files["README.md"] and files["README.md"].endswith(files["card.md"])
    files["setup.py"] = b"raise SystemExit('executed')"  # what somebody else put there is not even fetched
    code, said = hub("translate", "hf://me/tiny", picture, "one.png", "--device", "cpu")
    (weights,) = (tmp_path / "hf").rglob("weights.safetensors")
    assert code == 0 and f"model    hf://me/tiny@{COMMIT}, weights sha256 {sha256_of(weights)}\nlimits " in said, said
    assert len([each for each in Hub.asked if "weights.safetensors" in each and each.startswith("GET")]) == 1
    assert not list((tmp_path / "hf").rglob("setup.py"))
    code, said = hub("translate", f"hf://me/tiny@{COMMIT}", picture, "two.png", "--device", "cpu")
    assert code == 0 and Hub.asked == [], said
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    code, said = hub("translate", "hf://me/gone", picture, "three.png")
    assert code == 1 and said.startswith("error  'hf://me/gone' cannot be fetched: 404") and "Traceback" not in said


def test_a_mistake_is_one_message_and_without_its_library_the_extra_is_named(gantk, monkeypatch):
    images, no_model = ("in.png", "out.png"), "there is no folder 'nowhere', and no model of that name"
    for words, told in (
        (("translate", "hf://me", *images), "'hf://me' is no address of a model. Allowed: hf://USER/NAME"),
        (("push", "nowhere", "me/tiny"), no_model),
        (("push", "nowhere", "tiny"), "'tiny' is no name of a model on the hub. Allowed: USER/NAME"),
        (("translate", "hf://me/tiny", *images), "huggingface_hub is needed for models on the hub, and it is not inst"),
    ):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None) if told.startswith("hugg") else None
        done = gantk(*words)
        assert done.code == 2 and done.err.startswith(f"error  {told}")
    assert 'Pip install "gantk[hub]"' in done.err
