"""`gantk serve`, archives and senders in processes of their own, for its tests and its benchmarks.

python tests/serving.py FOLDER PORT    an archive: keeps in FOLDER what it is sent
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pydicom
import tomli_w
from dicom_files import head, series
from pynetdicom import AE, AllStoragePresentationContexts, evt
from tiny import PATCHGAN, ROOT, UNET, small_run

START_SECONDS = 120.0  # for a process to listen, on a busy machine
POLL_SECONDS = 0.05
GANTK = "GANTK"  # AE titles
ARCHIVE = "ARCHIVE"
SENDER = "SENDER"
RECEIVED = "received.jsonl"  # what an archive has got: a line for each instance, again and again
SUCCESS = 0x0000


# ---- conditions and ports


def wait_for(condition: Callable[[], Any], seconds: float, what: str = "") -> Any:
    """What the condition returns once that is true; AssertionError after so many seconds, or None
    where `what` is not given.
    """
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            assert not what, f"not within {seconds:g} s: {what}"
            return None
        time.sleep(POLL_SECONDS)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on."""
    with ExitStack() as open_sockets:
        found = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


def listens(port: int) -> bool:
    """Whether somebody listens on a port of the loopback address."""
    with socket.socket() as each:
        return each.connect_ex(("127.0.0.1", port)) == 0


def json_lines(text: str) -> list[dict[str, Any]]:
    """The values of all lines that are complete: the last one may still be written."""
    whole, _, _ = text.rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


# ---- processes


class Process:
    """A process that can be killed and started again; it ends with the test."""

    def __init__(self, folder: Path, name: str, command: Sequence[object]):
        self.name = name
        self.command = [str(part) for part in command]
        self.out = folder / f"{name}.out"
        self.err = folder / f"{name}.err"
        self.process: subprocess.Popen | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, ready: Callable[[], Any]) -> None:
        """Start it, and wait until it is ready."""
        places = [ROOT, ROOT / "plugins", ROOT / "tests"]
        given = filter(None, [os.environ.get("PYTHONPATH")])
        path = os.pathsep.join([*given, *map(str, places)])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self.out.write_text("")  # what an earlier process has said
        with open(self.out, "ab") as out, open(self.err, "ab") as err:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=err, env=environment)
        wait_for(lambda: ready() or self.process.poll() is not None, START_SECONDS, self.name)
        assert self.process.poll() is None, self.err.read_text("utf-8", "replace")[-3000:]

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM; returns the exit code, after SIGKILL where it does not end."""
        self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()


class Server(Process):
    """`gantk serve` with these rules; its queue and its log."""

    def __init__(self, folder: Path, rules: Mapping[str, Any]):
        self.rules = folder / "rules.toml"
        self.folder = folder / rules.get("service", {}).get("folder", "serve")
        super().__init__(folder, "server", [sys.executable, "-m", "gantk", "serve", self.rules])
        self.rules.write_text(tomli_w.dumps(rules), "utf-8")

    def start(self) -> None:  # type: ignore[override]
        """Start it, and wait until it listens."""
        super().start(lambda: "http " in self.out.read_text())  # its last line

    def workers(self) -> list[int]:
        """The process ids of its workers."""
        parent = self.process.pid
        found = Path(f"/proc/{parent}/task/{parent}/children")
        return [int(word) for word in found.read_text().split()] if found.exists() else []

    def kill_workers(self) -> None:
        """SIGKILL of its workers."""
        for each in self.workers():
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)

    @cached_property
    def queue(self) -> Any:
        """Its queue, once it has started."""
        from gantk_serve.store import Store

        return Store(self.folder)

    def jobs(self) -> list[Any]:
        """The jobs of its queue."""
        return self.queue.jobs()

    def counts(self) -> dict[str, int]:
        """The numbers of incomplete studies and of jobs by state."""
        return self.queue.counts()

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines of its log; those of one event where it is named."""
        file = self.folder / "log.jsonl"
        text = file.read_text("utf-8") if file.exists() else ""
        return [line for line in json_lines(text) if event in (None, line["event"])]


class Archive(Process):
    """A PACS that keeps what it is sent in `folder`, and acknowledges what it has kept."""

    def __init__(self, folder: Path, port: int):
        self.folder = folder / "archive"
        self.port = port
        super().__init__(folder, "archive", [sys.executable, __file__, self.folder, port])

    def start(self) -> None:  # type: ignore[override]
        """Start it, and wait until it listens."""
        super().start(lambda: "listens" in self.out.read_text())

    def derived(self) -> dict[str, dict[str, set[str]]]:
        """source SOPInstanceUID -> derived SeriesInstanceUID -> derived SOPInstanceUIDs."""
        found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for line in self.received():
            found[line["source"]][line["series"]].add(line["instance"])
        return found

    def received(self) -> list[dict[str, str]]:
        """What it has kept, instance by instance, with repetitions."""
        file = self.folder / RECEIVED
        text = file.read_text("utf-8") if file.exists() else ""
        return json_lines(text)


def keep_all(folder: Path, port: int) -> None:
    """Be an archive until the process is killed."""
    folder.mkdir(parents=True, exist_ok=True)

    def keep(event: evt.Event) -> int:
        made = event.dataset
        content = event.encoded_dataset()
        path = folder / f"{made.SOPInstanceUID}.dcm"
        path.with_suffix(".tmp").write_bytes(content)
        path.with_suffix(".tmp").replace(path)
        sources = made.get("SourceImageSequence") or [pydicom.Dataset()]
        line = {
            "instance": made.SOPInstanceUID,
            "series": made.SeriesInstanceUID,
            "study": made.StudyInstanceUID,
            "source": sources[0].get("ReferencedSOPInstanceUID", ""),
            "pixels": hashlib.sha256(made.PixelData).hexdigest(),
            "time": time.time(),
        }
        with open(folder / RECEIVED, "ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")
        return SUCCESS

    entity = AE(ae_title=ARCHIVE)
    entity.maximum_associations = 50
    entity.supported_contexts = AllStoragePresentationContexts
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    print(f"listens on {server.server_address[1]}", flush=True)
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    server.shutdown()


# ---- studies and their senders


def tiny_model(folder: Path) -> Path:
    """A run of T1 and T2 whose weights are those drawn: it translates a slice in milliseconds."""
    method = {"name": "cyclegan", "generator": UNET, "discriminator": PATCHGAN}
    return small_run(folder, method)


def study(
    folder: Path,
    number: int,
    contrasts: Sequence[str] = ("T1",),
    slices: int = 3,
    size: tuple[int, int] = (24, 20),
    **elements: Any,
) -> list[Path]:
    """The files of a study of small series, one for each contrast; `number` makes its UIDs."""
    root = f"1.2.826.0.1.3680043.8.498.{number + 1000}"
    paths = []
    for each, contrast in enumerate(contrasts):
        header = {
            "PatientName": f"Zweifel^Amalie{number}",
            "PatientID": f"MRN-77-{number}",
            "PatientBirthDate": "19431207",
            "StudyInstanceUID": root,
            "SeriesInstanceUID": f"{root}.{each + 1}",
            "FrameOfReferenceUID": f"{root}.99",
            "SeriesDescription": f"{contrast} tse tra",
            "ProtocolName": f"{contrast} tse tra",
            "SeriesNumber": each + 1,
        }
        pixels = head(slices, *size, seed=97 * number + each)
        paths += series(folder / f"{number}-{each}", pixels, **header | elements)
    return paths


def store(
    files: Sequence[Path],
    port: int,
    sender: str = SENDER,
    called: str = GANTK,
    pause: Callable[[], object] = lambda: None,
) -> list[Path]:
    """Send files over one association, with a pause after each; returns those that were not
    acknowledged.
    """
    datasets = [(file, pydicom.dcmread(file)) for file in files]
    entity = AE(ae_title=sender)
    for kind in {made.SOPClassUID for _, made in datasets}:
        entity.add_requested_context(kind)
    link = entity.associate("127.0.0.1", port, ae_title=called)
    if not link.is_established:
        return list(files)

    left = []
    for file, made in datasets:
        try:
            answer = link.send_c_store(made)
        except (RuntimeError, ValueError):  # the association has ended meanwhile
            left.append(file)
            continue
        if answer.get("Status") != SUCCESS:
            left.append(file)
        pause()
    link.release()
    return left


def store_until_kept(
    files: Sequence[Path],
    port: int,
    stop: threading.Event,
    pause_seconds: float = 0.0,
    again_seconds: float = 0.1,
) -> bool:
    """Send files, with a pause after each, and after some time again those that were not
    acknowledged, as a PACS does; False if stopped.
    """
    left = list(files)
    while left and not stop.is_set():
        left = store(left, port, pause=lambda: stop.wait(pause_seconds))
        if left:
            stop.wait(again_seconds)
    return not left


if __name__ == "__main__":
    keep_all(Path(sys.argv[1]), int(sys.argv[2]))
