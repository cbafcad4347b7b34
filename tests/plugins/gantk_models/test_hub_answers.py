"""Models from a hub whose answers are hostile or broken: one message, and nothing outside of the
hub's cache.
"""

from pathlib import Path

import pytest
from servers import Handler, hub_reply, serve

from gantk.errors import GantkError, UserError
from gantk.runs.models import find_model

constants = pytest.importorskip(
    "huggingface_hub.constants", reason="needs huggingface_hub: pip install gantk[hub]"
)

COMMIT = "0123456789abcdef" * 2 + "01234567"
WEIGHTS = "checkpoints/step-000003/weights.safetensors"
FILES = {
    "recipe.toml": b"format = 1\n[method]\nname = 'cyclegan'\n",
    "card.md": b"# A model\n\n## Limits\n\nNone.\n",
    "checkpoints/step-000003/meta.json": b"{}",
    WEIGHTS: b"weights",
    "setup.py": b"raise SystemExit('executed')",
}
SENT = set(FILES) - {"setup.py"}


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """`fetch(reply)` fetches a model from a hub that answers so; returns its folder, whose parent
    of parents is the hub's cache.
    """
    cache = tmp_path / "home" / "a" / "b" / "hub"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("gantk.downloads.PAUSE_SECONDS", 0.0, raising=False)

    def call(reply, address="hf://me/tiny"):
        with serve(reply) as server:
            monkeypatch.setattr(constants, "ENDPOINT", server.url)
            call.server = server
            return find_model(address, call.said.append)

    call.said = []
    return call


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def refused(fetch, tmp_path, reply, words: str, address: str = "hf://me/tiny") -> str:
    """The one message of a fetch that leaves no file."""
    with pytest.raises(GantkError, match=words) as caught:
        fetch(reply, address)

    assert files_of(tmp_path) == set()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert "hf_secret" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "etag", ["../../../../pwn", "/tmp/gantk-pwn", "..", "a/b", "x" * 5000, "\x1b[2J", ".", ""]
)
def test_headers_of_a_hub_name_no_path(fetch, tmp_path, etag):
    headers = {
        "ETag": f'"{etag}"',
        "X-Linked-ETag": f'W/"{etag}"',
        "X-Repo-Commit": etag,
        "X-Xet-Hash": 64 * "a",
        "Link": "<http://127.0.0.1:9/>; rel=xet-auth",
    }
    folder = fetch(hub_reply(FILES, COMMIT, headers))

    assert folder.name == COMMIT
    assert {path: (folder / path).read_bytes() for path in files_of(folder)} == {
        path: FILES[path] for path in SENT
    }
    outside = {path for path in files_of(tmp_path) if f"/snapshots/{COMMIT}/" not in path}
    assert outside == {"home/a/b/hub/models--me--tiny/refs/main"}


@pytest.mark.parametrize(
    "sha",
    ["../../../pwn", "..", "", "0123", COMMIT.upper(), f"{COMMIT}\n", f"{COMMIT}/..", "\x1b[2J"]
    + [None, 5, [COMMIT], {"sha": COMMIT}],
)
def test_a_commit_is_forty_hexadecimal_digits(fetch, tmp_path, sha):
    refused(fetch, tmp_path, hub_reply(FILES, sha, {}), "40 hexadecimal digits")


def test_the_answer_to_a_commit_is_of_this_commit(fetch, tmp_path):
    words = "the hub's answer is of the commit"
    refused(fetch, tmp_path, hub_reply(FILES, COMMIT, {}), words, f"hf://me/tiny@{40 * 'b'}")


@pytest.mark.parametrize(
    "address",
    ["u/m@../../pwn", "u/m@..", "u/m@a/../b", "u/m@/x", "u/m@a//b", "u/m@a/", "u/m@.x", "u/m@"]
    + [
        "u/..",
        "../m",
        "u/m/x",
        "u--x/m",
        "u/a..b",
        "u/m@a.lock",
        "u/m@é",
        "ú/m",
        "u/m@a\n",
        "u/m?x",
    ]
    + ["u/m@" + "a/" * 40 + "b", "u/m@" + 300 * "a", "u" * 300 + "/m", "u/m@%2e%2e/x", "u/m@a b"],
)
def test_a_bad_address_asks_nobody(fetch, tmp_path, address):
    with pytest.raises(UserError, match="is not a valid address of a model"):
        fetch(hub_reply(FILES, COMMIT, {}), f"hf://{address}")

    assert fetch.server.asked == []
    assert files_of(tmp_path) == set()


@pytest.mark.parametrize(
    "name",
    [
        "../../pwn",
        "/tmp/gantk-pwn",
        "checkpoints/step-000009/../../../pwn",
        "a\\..\\b",
        "card.md/../x",
    ]
    + [
        "checkpoints/step-1/weights.safetensors/x",
        "recipe.toml/",
        "checkpoints/step-9/meta.json\n",
    ],
)
def test_other_files_of_a_repository_are_not_asked_for(fetch, tmp_path, name):
    folder = fetch(hub_reply(FILES | {name: b"pwn"}, COMMIT, {}))

    assert files_of(folder) == SENT
    assert not any("pwn" in request for request in fetch.server.asked)


@pytest.mark.parametrize("listing", [b"[]", b"5", b"{", b"[" * 10**5, b"\xff", b""])
def test_a_listing_that_is_none_is_one_message(fetch, tmp_path, listing):
    refused(fetch, tmp_path, lambda handler: handler.answer(listing), "cannot be downloaded")


def hub_with(path: str, special):
    """A hub that answers to one file, or to its listing (""), as `special` does."""
    ordinary = hub_reply(FILES, COMMIT, {})

    def reply(handler: Handler) -> None:
        is_file = "/resolve/" in handler.path
        (
            special
            if is_file and handler.path.endswith(path) or not is_file and not path
            else ordinary
        )(handler)

    return reply


MAX_SENT = 80e6  # the largest JSON, 2**26 bytes, and what is on its way


@pytest.mark.parametrize("path", ["", "recipe.toml", "card.md", "meta.json"])
@pytest.mark.parametrize("stated", [True, False])
def test_large_answers_are_not_read_to_their_end(fetch, tmp_path, path, stated):
    special = Handler.endless
    if stated:
        special = lambda handler: handler.drip(headers={"Content-Length": "300000000"})  # noqa: E731
        if not path:
            pytest.skip("a listing is read until it is too long")

    with pytest.raises(GantkError, match=r"bytes"):
        fetch(hub_with(path, special))

    assert fetch.server.sent < MAX_SENT
    assert not any(name.endswith((path or "json", ".tmp")) for name in files_of(tmp_path))


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1:{port}/x", "http://localhost:{port}/x", "//127.0.0.1:{port}/x"]
    + ["file:///etc/hostname", "ftp://127.0.0.1/x", "http://[", "http://169.254.169.254/latest"]
    + ["https://evil.example/x", "https://hf.co.evil.example/x", "https://evil-hf.co/x"]
    + ["http://huggingface.co/x", "https://user@127.0.0.1:{port}/hf.co", "https://10.0.0.1/x"],
)
@pytest.mark.parametrize("path", ["", WEIGHTS])
def test_redirects_to_other_addresses_are_not_followed(fetch, tmp_path, target, path):
    with serve(lambda handler: handler.answer(b"secret")) as other:
        place = target.format(port=other.server_port)
        special = lambda handler: handler.answer(status=302, headers={"Location": place})  # noqa: E731
        with pytest.raises(GantkError, match="redirects to"):
            fetch(hub_with(path, special))

        assert other.asked == []
    assert not any(name.endswith("weights.safetensors") for name in files_of(tmp_path))


def test_redirects_on_the_hub_itself_are_followed_a_few_times(fetch):
    ordinary = hub_reply(FILES, COMMIT, {})

    def moved(handler: Handler) -> None:
        if "/old/" in handler.path:
            place = handler.path.replace("/old/", "/me/")
            handler.answer(status=307, headers={"Location": place})
        else:
            ordinary(handler)

    assert files_of(fetch(moved, "hf://old/tiny")) == SENT

    endless = lambda handler: handler.answer(status=302, headers={"Location": handler.path})  # noqa: E731
    with pytest.raises(GantkError, match="redirects more than"):
        fetch(endless, "hf://me/other")

    assert len(fetch.server.asked) < 10


def test_without_an_answer_the_last_commit_is_used(fetch):
    folder = fetch(hub_reply(FILES, COMMIT, {}))

    def hang_up(handler: Handler) -> None:
        handler.close_connection = True

    assert fetch(hang_up) == folder
    assert any(line.startswith("note     the hub is not asked") for line in fetch.said)
    assert fetch(lambda handler: handler.answer(status=503)) == folder
    with pytest.raises(GantkError, match="404"):
        fetch(lambda handler: handler.answer(status=404))
    with pytest.raises(GantkError, match="40 hexadecimal digits"):
        fetch(hub_reply(FILES, "..", {}))
