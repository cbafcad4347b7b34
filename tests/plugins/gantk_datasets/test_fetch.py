"""Public data sets: fetched whole, checked, resumed and unpacked safely, from a server on the
loopback address.
"""

import csv
import gzip
import hashlib
import io
import re
import tarfile
import zipfile
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import nibabel as nib
import numpy as np
import pytest
import scipy.io
from servers import Handler, Server, serve

import gantk
from gantk import downloads, unpack
from gantk.data.sources.table import Manifest
from gantk.errors import GantkError, UserError
from gantk.progress import progress_to
from gantk.recipe.load import load_recipe
from gantk_datasets.public import download

PICTURES = {f"set/train/{n}.png": bytes([n]) * 70_000 for n in range(4)}


def some_of(files: dict[str, bytes]):
    """Answers with files and parts of them, that misbehave as the server's attributes say."""

    def reply(handler: Handler) -> None:
        server = handler.server
        path = handler.path.lstrip("/")
        wanted = handler.headers.get("Range")
        server.log.append((path, wanted))
        body = files.get(path, b"")
        status = (server.answers.pop(0) if server.answers else 200) if path in files else 404
        if status == 200 and wanted:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            status = 206 if start < len(body) else 416
            body = body[start:]

        handler.start(status, {"Content-Length": str(len(body))})
        cut = server.cuts.pop(0) if server.cuts and status in (200, 206) else None
        handler.wfile.write(body[:cut])
        handler.close_connection = cut is not None

    return reply


@pytest.fixture
def loopback(monkeypatch):
    """Servers of this machine are asked, and asked again at once."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0)


@pytest.fixture
def server(loopback):
    """A server of `files`; `cuts`: bytes after which it hangs up, one an answer; `answers`:
    statuses to begin with.
    """
    files = {}
    with serve(some_of(files)) as running:
        running.files = files
        running.log = []
        running.cuts = []
        running.answers = []
        yield running


ABOUT = {"about": "heads", "licence": "CC BY 4.0", "cite": "Somebody 2020"}


def known(server: Server, files: dict[str, dict]) -> dict[str, dict]:
    """The table of the set "heads" on a server, and that of one which has to be asked for."""
    own = ABOUT | {"use": "--data {folder}", "base": server.url, "files": files}
    return {"heads": own, "guarded": ABOUT | {"ask": "https://example.org/ask"}}


@pytest.fixture
def offer(server, monkeypatch):
    """`offer(content, name)` puts one archive on the server as the set "heads",
    `offer(files={...})` several files.
    """

    def make(
        content: bytes = b"", name: str = "heads.tar", files: dict | None = None, **changes
    ) -> bytes:
        if files is None:
            server.files[name] = content
            files = {name: {"size": len(content), "checksum": sha256(content)} | changes}

        monkeypatch.setattr(download, "known_sets", lambda: known(server, files))
        return content

    return make


def packed(members: dict[str, bytes], name: str = "heads.tar") -> bytes:
    """An archive of the kind that its name says."""
    buffer = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in members.items():
                archive.writestr(path, content)
        return buffer.getvalue()

    with tarfile.open(fileobj=buffer, mode="w:gz" if name.endswith(".gz") else "w") as archive:
        for path, content in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            info.mode = 0o6666
            archive.addfile(info, io.BytesIO(content))

    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def quietly(folder: Path, name: str = "heads", **options) -> Path:
    return gantk.fetch(name, out=folder, **{"say": lambda line: None} | options)


def wrong(
    words: str, folder: Path, *name: str, kind: type[GantkError] = GantkError, **options
) -> GantkError:
    with pytest.raises(kind, match=words) as caught:
        quietly(folder, *name, **options)
    return caught.value


PLAIN = packed(PICTURES)


@pytest.mark.parametrize("name", ["heads.tar", "heads.tar.gz", "heads.zip"])
def test_fetched_sets_are_whole_and_state_their_terms(server, offer, tmp_path, name):
    offer(packed(PICTURES, name), name)
    said = []
    seen = []
    with progress_to(lambda *now: seen.append(now)):
        folder = quietly(tmp_path / "d" / "heads", say=said.append)
    found = {f"set/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*.png")}

    assert {name: path.read_bytes() for name, path in found.items()} == PICTURES
    assert all(path.stat().st_mode & 0o7111 == 0 for path in found.values()), "ordinary permissions"
    assert {path.name for path in folder.parent.iterdir()} == {"heads", "heads.fetched.json"}
    assert "licence  CC BY 4.0" in said
    assert f"use      --data {folder}" in said
    shares = [share for share, line in seen if line.startswith(f"downloading {name}")]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    server.log.clear()
    assert quietly(folder) == folder
    assert not server.log, "what is there is not asked for again"


def test_a_broken_download_goes_on_where_it_stopped(server, offer, tmp_path):
    offer(PLAIN)

    def stop(share, what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress_to(stop):
        quietly(tmp_path / "heads")

    kept = (tmp_path / ".heads.fetching" / "heads.tar.part").stat().st_size

    assert kept > 0
    assert not (tmp_path / "heads").exists()

    server.cuts = [len(PLAIN) // 3]
    server.answers = [503, 429]

    assert len(names(quietly(tmp_path / "heads"))) == 4
    starts = [int(wanted[6:-1]) for _, wanted in server.log[1:]]
    assert starts[:3] == [kept] * 3
    assert starts[3] > kept


def test_changed_files_are_never_mixed(server, offer, tmp_path):
    offer(PLAIN, size=0)
    server.cuts = [len(PLAIN) // 2] + [0] * downloads.TRIES
    wrong("resumes from there", tmp_path / "heads")
    server.cuts = []
    server.files["heads.tar"] = PLAIN[::-1]
    wrong("differs from the published file", tmp_path / "heads")
    offer(PLAIN, size=17)
    wrong("differs from the published file", tmp_path / "heads")

    assert not list(tmp_path.iterdir())


def test_git_checksums_and_archives_keep_their_places(server, offer, tmp_path):
    bodies = {"p1/T1.nii.gz": b"one", "p2/T 1.nii.gz": b"two"}
    blobs = {
        path: hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        for path, body in bodies.items()
    }
    server.files |= {path.replace(" ", "%20"): body for path, body in bodies.items()}
    server.files["T1.tar"] = packed({"a": b"1"})
    offer(
        files={path: {"checksum": f"git:{blob}"} for path, blob in blobs.items()}
        | {"T1.tar": {"into": "T1", "checksum": sha256(packed({"a": b"1"}))}}
    )
    folder = quietly(tmp_path / "heads")

    assert {path: (folder / path).read_bytes() for path in names(folder)} == bodies | {"T1/a": b"1"}


@pytest.mark.parametrize("status", [404, 503, None])
def test_what_a_server_refuses_is_one_sentence_with_a_way_out(server, offer, tmp_path, status):
    offer(PLAIN)
    server.answers = [status] * downloads.TRIES
    url = None if status else "http://127.0.0.1:9/"
    error = wrong(str(status or "Connection refused"), tmp_path / "heads", base_url=url)

    assert "--from" in str(error)
    assert "\n" not in str(error)
    assert error.exit_code == 1
    assert not list(tmp_path.iterdir())


def member(**kind) -> bytes:
    """A tar archive with one member that is no plain file."""
    info = tarfile.TarInfo("set/odd")
    for name, value in kind.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def flipped(content: bytes, at: int) -> bytes:
    """With one bit changed."""
    at %= len(content)
    return content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


NOISE = {f"set/{n}.raw": hashlib.sha256(b"%d" % n).digest() * 99 for n in range(9)}
BAD = {
    "symlink.tar": member(type=tarfile.SYMTYPE, linkname="../../.."),
    "hard link.tar": member(type=tarfile.LNKTYPE, linkname="x"),
    "pipe.tar": member(type=tarfile.FIFOTYPE),
    "device.tar": member(type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    "cut.tar.gz": packed(PICTURES, ".gz")[:500],
    "text.zip": b"<html>sorry</html>" * 99,
    "flipped.zip": flipped(packed(NOISE, ".zip"), 60),
    "flipped.tar.gz": flipped(packed(NOISE, ".gz"), -100),
    "checksum.tar.gz": flipped(packed(NOISE, ".gz"), -7),
    "bomb.zip": packed({f"{n}": bytes(10**6) for n in range(40)}, ".zip"),
    "bomb.tar.gz": packed({f"{n}": bytes(10**6) for n in range(40)}, ".gz"),
    "folders.tar.gz": gzip.compress(
        packed({f"{n}/" + "a/" * 40 + "x": b"x" for n in range(120)}) + PLAIN
    ),
    "one folder again.tar.gz": gzip.compress(
        packed({"a/b": b"x"})[:1024] + member(type=tarfile.DIRTYPE)[:512] * 5000 + PLAIN
    ),
    "overlong.tar": packed({"a" * 300: b"x"}),
    "file and folder.tar": packed({"a": b"x", "a/b": b"y"}),
    "file without a name.zip": packed({".": b"x"}, ".zip"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_or_hostile_archives_leave_nothing(offer, tmp_path, name):
    served = name.replace(" ", "-")
    offer(BAD[name], served)
    said = str(wrong("is damaged or unsafe", tmp_path / "deep" / "heads"))

    assert said.isprintable()
    assert len(said) < 400
    assert [path.name for path in tmp_path.rglob("*")] == ["deep"]

    offer(packed(PICTURES, name), served)

    assert names(quietly(tmp_path / "deep" / "heads"))


@pytest.mark.parametrize("kind", [".zip", ".tar"])
@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_no_name_leads_out_of_the_folder(tmp_path, kind, name):
    (tmp_path / f"a{kind}").write_bytes(packed({name: b"x"}, kind))
    (tmp_path / "in").mkdir()
    with suppress(tarfile.TarError):
        unpack(tmp_path / f"a{kind}", tmp_path / "in")

    assert {path.name for path in tmp_path.iterdir()} == {f"a{kind}", "in"}
    assert not Path("/evil").exists()


def test_a_tar_that_ends_with_a_zip_is_a_tar(offer, tmp_path):
    offer(packed(PICTURES | {"set/zz.zip": packed({"other": b"x"}, ".zip")}))

    assert "zz.zip" in names(quietly(tmp_path / "heads"))


@pytest.mark.parametrize("name", ["heads.tar.part", "heads.tar", "unpacked", "scratch"])
def test_links_among_unfinished_files_are_not_followed(offer, tmp_path, name):
    offer(PLAIN)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    staging = tmp_path / ".heads.fetching"
    staging.mkdir()
    (staging / name).symlink_to(outside / "mine.txt" if name.startswith("heads") else outside)

    assert names(quietly(tmp_path / "heads"))
    assert names(outside) == {"mine.txt"}
    assert (outside / "mine.txt").read_text() == "mine"


def test_what_the_user_got_wrong_touches_nothing(server, offer, tmp_path):
    offer(PLAIN)
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "mine.txt").write_text("mine")
    wrong("Did you mean 'heads'", tmp_path / "x", "haeds", kind=UserError)
    wrong("https://example.org/ask", tmp_path / "x", "guarded", kind=UserError)
    wrong("is not a valid address", tmp_path / "x", kind=UserError, base_url="ftp://127.0.0.1/")
    wrong("is not a download of the set", tmp_path / "heads", kind=UserError)

    assert not server.log
    assert names(tmp_path) == {"heads/mine.txt"}


PUBLISHED = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


@pytest.fixture
def t1t2_set(tmp_path):
    """The prepared set, of volumes that all hold the same numbers, and its tables by name."""
    thick = np.diag([1.0, 1.0, 3.0, 1.0])
    # of points, to the left, in mm
    transform = (
        "#Insight Transform File V1.0\n#Transform 0\n"
        "Transform: MatrixOffsetTransformBase_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 1 {} 0 0\nFixedParameters: 5 6 7\n"
    )
    for path, facts in download.known_sets()["t1t2"]["files"].items():
        file = tmp_path / facts["as"]
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".txt"):
            file.write_text(transform.format(2 if "T2W" in path else 0))
        elif path.endswith(".mat"):
            scipy.io.savemat(file, {"image": PUBLISHED.astype(float)})
        elif path.endswith(".gz"):
            nib.save(nib.Nifti1Image(PUBLISHED, thick), file)

    download.prepare_set("t1t2", tmp_path)
    tables = {}
    for path in tmp_path.glob("*.csv"):
        with path.open() as file:
            tables[path.stem] = list(csv.DictReader(file))

    return tmp_path, tables


def test_t1t2_tables_leave_nobody_on_two_sides(t1t2_set):
    _, tables = t1t2_set
    counts = {name: len(rows) for name, rows in tables.items()}

    assert counts == {"whole": 12, "whole_train": 8, "hku": 4, "stripped": 4, "tumour": 14}
    sides = {(row["patient"], row["split"]) for rows in tables.values() for row in rows}
    assert len(sides) == 28
    assert len({patient for patient, _ in sides}) == 28
    assert [split for _, split in sides].count("test") == 6


def pairs_of_t1t2(t1t2_set):
    """(patient, T1, T2) of every pair of volumes."""
    folder, tables = t1t2_set
    for row in tables["whole"] + tables["stripped"] + tables["tumour"]:
        yield row["patient"], nib.load(folder / row["T1"]), nib.load(folder / row["T2"])


def test_t1t2_pairs_keep_voxels_and_places(t1t2_set):
    for patient, t1, t2 in pairs_of_t1t2(t1t2_set):
        assert np.array_equal(t1.dataobj, t2.dataobj)
        if not patient.startswith(("lesjak-lo", "hku")):
            assert np.array_equal(t1.affine, t2.affine)


def test_t1t2_pairs_lie_where_published_transforms_say(t1t2_set):
    moved = [pair for pair in pairs_of_t1t2(t1t2_set) if pair[0].startswith("lesjak-lo")]
    assert moved

    for _, t1, t2 in moved:
        assert np.array_equal(t2.dataobj, PUBLISHED)
        # ITK's transform says where in T2 a point lies: 2 mm too far left
        assert np.allclose(t2.affine[:3, 3] - t1.affine[:3, 3], [2, 0, 0])


def test_t1t2_pairs_of_matrices_get_a_grid(t1t2_set):
    of_matrices = [t1 for name, t1, _ in pairs_of_t1t2(t1t2_set) if name.startswith("hku")]
    assert of_matrices

    for t1 in of_matrices:
        # rows run to the back, columns to the left, slices down; 230 mm in all
        assert nib.aff2axcodes(t1.affine) == ("L", "P", "I")
        assert t1.shape == (3, 2, 4)
        middle = nib.affines.apply_affine(t1.affine, (np.array(t1.shape) - 1) / 2)
        assert np.allclose(middle, 0, atol=1e-4)
        assert np.isclose(t1.header.get_zooms()[2], 10)


ENHANCING = {"BraTS2021": 4, "BraTS-GLI": 3}  # as published, by the name of the set


def published_missing() -> dict[str, bytes]:
    """Files at the paths of the set `missing`: images of different numbers, and labels."""
    bodies = {}
    for number, path in enumerate(download.known_sets()["missing"]["files"]):
        values = np.full(4, number, dtype=np.int16)
        if "seg" in path:
            values = np.array([0, 1, 2, ENHANCING[Path(path).name[:9]]], dtype=np.float32)
        image = nib.Nifti1Image(values.reshape(1, 2, 2), np.eye(4))
        bodies[path] = gzip.compress(image.to_bytes(), 1)

    return bodies


@pytest.fixture
def missing_set(tmp_path):
    """The prepared set, and the published bodies by path."""
    bodies = published_missing()
    for path, body in bodies.items():
        file = tmp_path / download.known_sets()["missing"]["files"][path]["as"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)

    download.prepare_set("missing", tmp_path)
    return tmp_path, bodies


def test_missing_keeps_images_and_agrees_on_labels(missing_set):
    folder, bodies = missing_set
    published = {body for path, body in bodies.items() if "seg" not in path}
    images = [path for path in folder.rglob("*.nii.gz") if "seg" not in path.name]

    assert {path.read_bytes() for path in images} == published
    for path in folder.rglob("*_seg.nii.gz"):
        assert np.asarray(nib.load(path).dataobj).ravel().tolist() == [0, 1, 2, 4]


def test_missing_holds_out_people_by_its_table(missing_set):
    folder, _ = missing_set
    data = load_recipe("missing").check().data
    source = Manifest(data.domains, 3, (8, 8, 8), path=str(folder / "patients.csv"))
    rows = source.find_rows()
    side_of = {row.subject: row.split for row in rows}
    assert sum(row.mask is not None for row in rows) == 2 * 26
    for row in rows:
        assert [*row.contrasts] == ["T1", "T1CE", "T2", "FLAIR"]
        assert all(
            scan.path.name.endswith(f"_{x.lower()}.nii.gz") for x, scan in row.contrasts.items()
        )

    assert set(side_of) == {path.name for path in folder.iterdir() if path.is_dir()}
    held_out = {patient for patient, side in side_of.items() if side == "test"}
    assert len(held_out) == 5
    # who is held out from t1t2 stays held out
    assert {"BraTS-GLI-00028", "BraTS2021_01484"} <= held_out


# ---- hostile servers


@pytest.fixture
def hostile(loopback, monkeypatch):
    """`hostile(reply, **facts)` offers the set "heads", one file of these facts, from a server that
    answers so; yields the server.
    """
    with ExitStack() as stack:

        def start(reply, name: str = "heads.tar", **facts) -> Server:
            server = stack.enter_context(serve(reply))
            files = {name: {"size": 0, "checksum": sha256(b"")} | facts}
            monkeypatch.setattr(download, "known_sets", lambda: known(server, files))
            return server

        yield start


def sends(content: bytes, **headers: str):
    """A server that answers everything with this content."""
    return lambda handler: handler.answer(content, headers=headers)


# bytes that the kernel may hold between a server and a reader that has hung up
IN_FLIGHT = 16 * 10**6
MORE = {
    "no length": Handler.endless,
    "false length": lambda handler: handler.drip(bytes(10**6), {"Content-Length": str(10**12)}),
    "gzip": lambda handler: handler.endless({"Content-Encoding": "gzip"}),
    "gzip bomb": sends(gzip.compress(bytes(10**8)), **{"Content-Encoding": "gzip"}),
    "close": lambda handler: handler.until_closed(bytes(10**7)),
    "length of no digits": lambda handler: handler.drip(
        bytes(10**7), {"Content-Length": "1e9", "Connection": "close"}
    ),
}


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("kind", MORE)
def test_no_byte_past_the_limit_is_kept(hostile, monkeypatch, tmp_path, kind, published):
    facts = {"size": 3 * 10**6} if published else {"most": 3 * 10**6}
    server = hostile(MORE[kind], **facts)
    monkeypatch.setattr(downloads, "PIECE_SECONDS", 5.0)
    wrong("3,000,000 |encodes the content", tmp_path / "heads")

    assert names(tmp_path) == set()
    assert server.sent < 3 * 10**6 + IN_FLIGHT
    assert len(server.asked) == 1, "an answer that is refused is not asked for again"


@pytest.mark.parametrize("size", [0, 2**30])
def test_single_bytes_now_and_then_are_given_up(hostile, monkeypatch, tmp_path, size):
    monkeypatch.setattr(downloads, "PIECE_SECONDS", 0.2)
    monkeypatch.setattr(downloads, "TRIES", 2)
    told = []
    hostile(Handler.drip, size=size, most=2**31)
    wrong("less than 65,536 bytes in", tmp_path / "heads", say=told.append)

    assert any(line.startswith("retry    heads.tar: ") for line in told)


def test_another_part_than_the_one_asked_for_is_refused(hostile, tmp_path):
    def other(handler: Handler) -> None:
        if "Range" not in handler.headers:
            handler.start(200, {"Content-Length": str(len(PLAIN))})
            handler.wfile.write(PLAIN[:100_000])
            handler.close_connection = True
        else:
            handler.answer(PLAIN[:9], 206, {"Content-Range": f"bytes 0-8/{len(PLAIN)}"})

    hostile(other, size=len(PLAIN), checksum=sha256(PLAIN))
    wrong("another part of the file", tmp_path / "heads")


@pytest.mark.parametrize("secret", ["user:hunter2", "hunter2", "u:hunter2%40x", "a@b:hunter2"])
def test_credentials_are_masked_everywhere(hostile, tmp_path, secret):
    server = hostile(sends(PLAIN), size=len(PLAIN), checksum=sha256(PLAIN))
    said = []
    base = server.url.replace("://", f"://{secret}@")
    folder = quietly(tmp_path / "heads", base_url=base, say=said.append)

    assert names(folder)
    assert any("***@127.0.0.1" in line for line in said)
    record = (tmp_path / "heads.fetched.json").read_text()
    assert "hunter2" not in record + "\n".join(said)


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{}/heads.tar", "file:///etc/passwd", "http://["]
)
def test_redirects_into_this_machine_are_not_followed(hostile, tmp_path, target):
    with serve(sends(PLAIN)) as other:
        place = target.format(other.server_port)
        hostile(lambda handler: handler.answer(status=302, headers={"Location": place}))
        wrong("which gantk does not follow", tmp_path / "heads")
        assert other.asked == []


@pytest.mark.parametrize(
    ("start", "target", "allowed"),
    [
        ("https://zenodo.org/a", "https://files.zenodo.org/b", True),
        ("https://zenodo.org/a", "https://zenodo.org/b", True),
        ("http://zenodo.org/a", "https://zenodo.org/b", True),
        ("https://zenodo.org/a", "http://zenodo.org/b", False),
        ("https://zenodo.org/a", "http://other.org/b", False),
        ("https://zenodo.org/a", "https://10.0.0.1/b", False),
        ("https://zenodo.org/a", "https://2130706433/b", False),
        ("https://zenodo.org/a", "https://0x7f.1/b", False),
        ("https://zenodo.org/a", "https://localhost/b", False),
        ("https://zenodo.org/a", "https://printer.local/b", False),
        ("https://zenodo.org/a", "https://[::1]/b", False),
        ("http://127.0.0.1:8000/a", "http://127.0.0.1:8000/b", True),
        ("http://127.0.0.1:8000/a", "http://127.0.0.1:22/b", False),
    ],
)
def test_redirects_stay_on_their_host_or_are_encrypted(start, target, allowed):
    assert downloads.same_host_or_public(urlsplit(start), urlsplit(target)) is allowed
