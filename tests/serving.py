"""`gantk serve`, Orthancs and senders in processes of their own, for its tests."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pydicom
import requests
from dicom_files import head, series
from tiny import PATCHGAN, ROOT, UNET, small_run, write_json, write_toml

START_SECONDS = 120.0  # for a process to listen, on a busy machine
POLL_SECONDS = 0.05
PACS = "PACS"  # the modality that derived series are sent to
ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))


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


class Worker(Process):
    """`gantk serve` with these rules."""

    def __init__(self, folder: Path, rules: Mapping[str, Any], name: str = "worker"):
        self.folder = folder / name
        self.rules = folder / f"{name}.toml"
        super().__init__(folder, name, [sys.executable, "-m", "gantk", "serve", self.rules])
        service = {"folder": str(self.folder), "device": "cpu"} | dict(rules.get("service", {}))
        write_toml(self.rules, dict(rules) | {"service": service})

    def start(self) -> None:  # type: ignore[override]
        """Start it, and wait until it follows its Orthanc."""
        super().start(lambda: "orthanc " in self.out.read_text())


class OrthancServer(Process):
    """An Orthanc that keeps all in `folder`; `pacs` is the DICOM port of its modality PACS."""

    def __init__(self, folder: Path, name: str = "orthanc", pacs: int = 0, **settings: Any):
        self.port, self.dicom = free_ports(2)
        self.storage = folder / name
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = folder / f"{name}.json"
        super().__init__(folder, name, [ORTHANC or "Orthanc", self.settings])
        own = {
            "Name": name,
            "DicomAet": name.upper(),
            "DicomPort": self.dicom,
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "StorageDirectory": str(self.storage),
            "IndexDirectory": str(self.storage),
            "StableAge": 1,
            "OverwriteInstances": True,
            "CheckRevisions": True,
            "DicomAlwaysAllowStore": True,
            "DicomModalities": {PACS: [PACS, "127.0.0.1", pacs or 1]},
        }
        write_json(self.settings, own | settings)

    def start(self) -> None:  # type: ignore[override]
        """Start it, and wait until it listens."""
        super().start(lambda: self.get("/system"))

    def get(self, path: str) -> Any:
        """The JSON value at a path; None where it is away or has none."""
        with suppress(requests.RequestException, ValueError):
            answer = requests.get(self.url + path, timeout=60)
            return answer.json() if answer.ok else None

    def store(self, file: Path) -> bool:
        """Give it a file; returns whether it has acknowledged it."""
        with suppress(requests.RequestException):
            content = file.read_bytes()
            return requests.post(f"{self.url}/instances", data=content, timeout=60).ok
        return False

    def series(self) -> list[dict[str, Any]]:
        """All series with their metadata."""
        wanted = {"Resources": self.get("/series") or [], "Level": "Series", "Metadata": True}
        return requests.post(f"{self.url}/tools/bulk-content", json=wanted, timeout=60).json()

    def record(self, series: str) -> dict[str, Any]:
        """What gantk has noted about a series."""
        return self.get(f"/series/{series}/metadata/4268") or {}

    def records(self) -> list[dict[str, Any]]:
        """What gantk has noted about all series that it has not made."""
        found = [json.loads(each["Metadata"].get("4268", "{}")) for each in self.series()]
        return [each for each in found if each.get("outcome") != "derived"]

    def derived(self) -> dict[str, dict[str, dict[str, str]]]:
        """source SOPInstanceUID -> derived SeriesInstanceUID -> derived SOPInstanceUID -> MD5 of its
        pixels.
        """
        found: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
        for each in self.series():
            tags = each["MainDicomTags"]
            if not tags.get("SeriesDescription", "").endswith("(gantk)"):
                continue
            for name in each["Instances"]:
                answer = requests.get(f"{self.url}/instances/{name}/file", timeout=60)
                if not answer.ok:  # it was deleted meanwhile
                    continue
                made = pydicom.dcmread(io.BytesIO(answer.content))
                source = made.SourceImageSequence[0].ReferencedSOPInstanceUID
                pixels = hashlib.md5(made.PixelData).hexdigest()
                found[source][made.SeriesInstanceUID][made.SOPInstanceUID] = pixels
        return found


# ---- models and studies


def tiny_model(folder: Path) -> Path:
    """A run of T1 and T2 whose weights are those drawn: it translates a slice in milliseconds."""
    method = {"name": "cyclegan", "generator": UNET, "discriminator": PATCHGAN}
    return small_run(folder, method)


def study(
    folder: Path,
    number: int,
    contrasts: Sequence[str] = ("T1",),
    slices: int = 3,
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
        pixels = head(slices, seed=97 * number + each)
        paths += series(folder / f"{number}-{each}", pixels, **header | elements)
    return paths


def store_until_kept(orthanc: OrthancServer, files: Sequence[Path], stop: threading.Event) -> bool:
    """Give an Orthanc files, and after some time again those that were not acknowledged, as a PACS
    does; False if stopped.
    """
    left = list(files)
    while left and not stop.is_set():
        missing = []
        for file in left:
            if not orthanc.store(file):
                missing.append(file)
        left = missing
        if left:
            stop.wait(0.1)
    return not left
