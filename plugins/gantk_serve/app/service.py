"""Translates for several users by the queue and the worker of `gantk_serve`, one upload at a time,
and prepares what the page shows.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np

from gantk.errors import GantkError, UserError
from gantk.files import make_folder, temporary_beside, write_file
from gantk.formats.files import formats, read, scans, stem_of, suffix_of
from gantk.formats.image import Scan
from gantk.formats.voxels import to_levels
from gantk_serve.addresses import listen
from gantk_serve.journal import Journal
from gantk_serve.store import Job, now
from gantk_serve.worker import (
    CONTENT,
    DEFECT,
    RESULTS,
    SENT,
    TEMPORARY,
    UPLOADS,
    Worker,
    is_zip,
    unpack_upload,
)

MAX_VIEWS = 8  # translations of a zip that the page shows
MAX_WAITING = 16  # translations that run or wait; a further one is refused
LOOK_SECONDS = 0.1  # between two looks at the state of a job
Tell = Callable[[float, str], None]  # receives (finished share, current operation)


class Result(NamedTuple):
    """The result of one translation."""

    file: Path  # the translated image or zip
    notes: list[tuple[str, str]]  # (warning, note or clipped; text)
    views: list[dict[str, Any]]  # data for the viewer, see `view`
    waited: int  # translations ahead of it in the queue


class Service:
    """One trained model, the queue of its translations, and the folder of all uploads and results."""

    def __init__(self, run: str, folder: Path, most: int, device: str | None = None):
        """`most`: bytes of an upload, also after unzipping."""
        self.run = run
        self.folder = folder
        self.most = most
        for name in (UPLOADS, RESULTS, TEMPORARY):
            make_folder(folder / name, private=True)
        self.worker = Worker(
            folder,
            "app",
            device,
            most=most,
            journal=Journal(folder, quiet=True),
            show_defect=traceback.print_exception,
        )
        self.store = self.worker.store
        self.model = self.worker.model(run)
        self.directions = {}
        for letter in "ba":
            with suppress(UserError):  # the model lacks this direction
                frame = self.model.frame(self.model.domain(letter))
                self.directions.setdefault(frame.target, frame.source)

        if not self.directions:
            raise UserError(
                f"'{run}' generates images from noise; it cannot translate images",
                where="RUN",
                remedy="name a run of an image-to-image method",
            )
        self._unpacking = threading.Lock()
        threading.Thread(target=self._work, name="translate", daemon=True).start()

    def _work(self) -> None:
        """Translate one upload after another until `close`."""
        while not self.worker.stop.is_set():
            with suppress(OSError):  # a full disk: the queue cannot be written
                self.worker.run()
            self.worker.stop.wait(LOOK_SECONDS)

    def close(self) -> None:
        """Begin no further translation."""
        self.worker.stop.set()

    def place(self, name: str) -> Path:
        """The path for an upload of this name, in a new folder whose name cannot be guessed."""
        folder = self.folder / UPLOADS / secrets.token_urlsafe(16) / SENT
        make_folder(folder, private=True, new=True)
        _, _, last = name.replace("\\", "/").rpartition("/")
        plain = re.sub(r"[^\w. #()+-]", "_", last).lstrip(".")
        return folder / (plain.encode()[-200:].decode("utf-8", "ignore") or "file")

    def results_folder(self, folder: str) -> Path:
        """Where the results of the upload with this folder's name lie."""
        return self.folder / UPLOADS / folder / "made"

    def translate(
        self,
        upload: Path,
        to: str,
        *,
        label: str | None = None,
        show: bool = False,
        uncertainty: bool = False,
        tell: Tell = lambda *_: None,
    ) -> Result:
        """Translate an upload made with `place`; `show` adds data for the viewer. UserError for a
        bad file, queue.Full where too many are waiting.
        """
        source = self._content_of(upload) if is_zip(upload) else upload
        job = Job(
            secrets.token_urlsafe(16),
            None,
            [source.relative_to(self.folder).as_posix()],
            self.run,
            to,
            label or "",
            uncertainty="auto" if uncertainty else "",
            created=now(),
        )
        waited = self.store.enqueue(job, MAX_WAITING)
        try:
            ended = self._wait(job, tell)
            tell(1.0, "Preparing the view")
            made = self.results_folder(upload.parts[-3])
            shutil.rmtree(made, ignore_errors=True)
            make_folder(made, private=True, new=True)
            out = (self.folder / ended.result).rename(made / "out")
        finally:
            self.store.cancel(job.job, now())
            self.store.forget_job(job.job)
            shutil.rmtree(self.folder / RESULTS / job.job, ignore_errors=True)

        packed = source.is_dir()
        inputs = scans(source) if packed else [Scan(upload, (upload,), upload.name)]
        views = _views(inputs, out, MAX_VIEWS if show else 0, uncertainty=uncertainty)
        file = made / f"{stem_of(upload)}_synthetic_{to}{suffix_of(upload)}"
        if packed:
            shutil.make_archive(str(file.with_suffix("")), "zip", out)
        else:
            (out / upload.name).rename(file)

        notes = []
        for line in ended.notes:
            kind, _, text = line.partition(" ")
            notes.append((kind, text.strip()))
        return Result(file, notes, views, waited)

    def _content_of(self, upload: Path) -> Path:
        """The folder of a zip's content; UserError as of `unpack_upload`."""
        folder = upload.parent.parent / CONTENT
        with self._unpacking:
            if folder.exists():
                return folder
            try:
                return unpack_upload(upload, folder, self.most)
            except (GantkError, OSError):
                shutil.rmtree(folder, ignore_errors=True)  # else it would be taken for the whole
                raise

    def _wait(self, job: Job, tell: Tell) -> Job:
        """The job once its translation is done; GantkError with the reason where it fails."""
        while True:
            found = self.store.job(job.job)
            if found is None or found.state in ("done", "failed", "cancelled"):
                break
            if found.state == "waiting" and found.attempts:  # such as a full disk
                raise GantkError(found.reason)
            ahead = self.store.ahead(job)
            if ahead:
                tell(0.0, f"Waiting: {ahead} translations run first")
            else:
                tell(found.progress, f"Translating to {job.target}")
            time.sleep(LOOK_SECONDS)

        if found is not None and found.state == "done":
            return found
        if found is None or found.reason.startswith(DEFECT):
            raise GantkError(
                "An unexpected error occurred. The terminal that runs gantk app shows it."
            )
        raise UserError(found.reason)


def _views(
    inputs: Iterable[Scan], out: Path, most: int, *, uncertainty: bool
) -> list[dict[str, Any]]:
    """Data for the viewer of the first `most` translations; deletes the uncertainty maps, which
    are shown and not saved.
    """
    views = []
    for scan in inputs:
        paths = results(scan, out)
        if not uncertainty:
            paths = paths[:1]
        if paths and len(views) < most:
            views.append(view((scan, *paths), out.parent, len(views)))

        for path in paths[1:]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    return views


def results(scan: Scan, out: Path) -> list[Path]:
    """The existing ones of a scan's translation below the folder `out` and its uncertainty map."""
    # a series that is the whole input is written to `out`
    target = out if scan.name == "." else out / scan.name
    stem = stem_of(target) if suffix_of(target) in formats() else target.name
    spread = target.with_name(f"{stem}_uncertainty{target.name[len(stem) :]}")
    return [
        path
        for path in (target, spread)
        if path.exists() and path.resolve().is_relative_to(out.parent.resolve())
    ]


def view(parts: tuple[Scan | Path, ...], folder: Path, number: int) -> dict[str, Any]:
    """Write NIfTI files of input, output, their difference in % and uncertainty; returns their
    names and windows.
    """
    images = [read(each) for each in parts]
    volumes = [image.pixels.mean(axis=0).reshape(-1, *image.pixels.shape[-2:]) for image in images]
    windows = [[float(value) for value in np.percentile(volume, [0.5, 99.5])] for volume in volumes]
    scaled = []
    for volume, (low, high) in zip(volumes[:2], windows[:2], strict=True):
        scaled.append((volume - low) / ((high - low) or 1.0))

    volumes.insert(2, 100 * abs(scaled[1] - scaled[0]))
    windows[2:] = [[0.0, 100.0], *([0.0, high] for _, high in windows[2:])]
    # keep every n-th voxel above 2**25; the page says so
    thin = int(np.ceil((volumes[0].size / 2**25) ** (1 / 3)))
    z, y, x = (1.0, *images[0].spacing)[-3:]
    # array axes point to the patient's left, back and head
    affine = np.diag([-thin * x, -thin * y, thin * z, 1.0])
    files = {}
    kinds = ("input", "output", "difference", "uncertainty")
    for kind, volume in zip(kinds, volumes, strict=False):
        files[kind] = f"{number}-{kind}.nii"
        levels, step, low = to_levels(volume, thin)
        image = nibabel.Nifti1Image(levels.transpose(2, 1, 0), affine)
        image.header.set_slope_inter(step, low)
        write_file(folder / files[kind], image.to_bytes())

    scan = parts[0]
    return {
        "name": scan.path.name if scan.name == "." else scan.name,
        "slices": len(volumes[0]),
        "thin": thin,
        "files": files,
        "windows": dict(zip(files, windows, strict=True)),
    }


def app(
    run: str = "t1t2",
    *,
    port: int = 7860,
    host: str = "127.0.0.1",
    max_mb: int = 512,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve a web page and POST /translate, which translate scans with `run`, until Ctrl-C.

    Args:
        run: as in `gantk.load`.
        port: the port; 0 chooses a free one.
        host: the address to listen on. Any address but 127.0.0.1 lets other machines connect.
        max_mb: the largest upload in MB, also after unzipping.
        device: as in `gantk.run`.
        say: called with each line of output.
    """
    try:
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GANTK_MAX_GIB": os.environ.get("GANTK_MAX_GIB", "2"),
        }
        import uvicorn

        from gantk_serve.app.server import LOOPBACK, application
    except ModuleNotFoundError as error:
        what = f"gantk app needs the package {error.name}, which is not installed"
        raise UserError(what, remedy='install it: pip install "gantk[app]"') from None

    listener = listen(host, port, "--host, --port")
    # also deletes those of killed processes
    folder = temporary_beside(Path(tempfile.gettempdir()) / "gantk-app")
    make_folder(folder, private=True, new=True)
    service = None
    try:
        # so that `finally` deletes uploads
        for stop in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            signal.signal(stop, signal.default_int_handler)

        service = Service(run, folder, max_mb << 20, device)
        served = application(service, host)
        say(f"open     http://{host}:{listener.getsockname()[1]}   (Ctrl-C stops the server)")
        if host not in LOOPBACK:
            say(
                "warning  anyone who can reach this address can use the server: there is no"
                " password and no encryption"
            )

        uvicorn.Server(uvicorn.Config(served, log_level="warning", access_log=False)).run(
            sockets=[listener]
        )
    finally:
        listener.close()
        if service is not None:
            service.close()
        shutil.rmtree(folder, ignore_errors=True)
