"""Runs translations for several users: one at a time, each in its own folder, with readable error
messages.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Full
from typing import Any, NamedTuple

import nibabel
import numpy as np

from gantk.errors import GantkError, UserError, one_line
from gantk.files import make_folder, temporary_beside, write_file
from gantk.formats.files import formats, read, scans, stem_of, suffix_of
from gantk.formats.image import Scan
from gantk.formats.voxels import to_levels

MAX_VIEWS = 8  # translations of a zip that the page shows
MAX_WAITING = 16  # translations that run or wait; a further one is refused
Tell = Callable[[float, str], None]  # receives (finished share, current operation)


class Result(NamedTuple):
    """The result of one translation."""

    file: Path  # the translated image or zip
    notes: list[tuple[str, str]]  # (warning, note or clipped; text)
    views: list[dict[str, Any]]  # data for the viewer, see `view`
    waited: int  # translations ahead of it in the queue


class Service:
    """One trained model, its queue, and the folder of all uploads and results."""

    def __init__(self, run: str, folder: Path, most: int, device: str | None = None):
        from gantk import load

        # most: bytes of an upload
        self.run = run
        self.folder = folder
        self.most = most
        self.device = device
        self.queue = []
        self.moved = threading.Condition()
        self.model = load(run, device=device)
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

    def place(self, name: str) -> Path:
        """The path for an upload of this name, in a new folder whose name cannot be guessed."""
        folder = self.folder / secrets.token_urlsafe(16) / "in"
        make_folder(folder, private=True, new=True)
        _, _, last = name.replace("\\", "/").rpartition("/")
        plain = re.sub(r"[^\w. #()+-]", "_", last).lstrip(".")
        return folder / (plain.encode()[-200:].decode("utf-8", "ignore") or "file")

    @contextmanager
    def turn(self, tell: Tell) -> Iterator[int]:
        """Wait for one's turn in the queue; yields how many were ahead. queue.Full where too many
        are waiting.
        """
        ticket = object()
        with self.moved:
            before = len(self.queue)
            if before >= MAX_WAITING:
                raise Full(
                    f"{MAX_WAITING} translations are already waiting. Try again in a few minutes."
                )
            self.queue.append(ticket)

        try:
            with self.moved:
                while self.queue[0] is not ticket:
                    tell(0.0, f"Waiting: {self.queue.index(ticket)} translations run first")
                    self.moved.wait()
            yield before
        finally:
            with self.moved:
                self.queue.remove(ticket)
                self.moved.notify_all()

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
        bad file.
        """
        from gantk import translate

        messages: list[str] = []
        packed = upload.suffix.lower() == ".zip"
        made = upload.parent.parent / "made"
        out = made / "out"
        content = made / "content"

        def without_paths(text: str) -> str:
            text = text.replace(f"'{content}'", f"'{upload.name}'")
            for hidden in (
                "  (INPUT)",
                "  (--to)",
                "  (--label)",
                f"{content}/",
                f"{out}/",
                f"{upload.parent}/",
            ):
                text = text.replace(hidden, "")
            return text

        try:
            with self.turn(tell) as waited:
                shutil.rmtree(made, ignore_errors=True)
                make_folder(out, private=True, new=True)
                source = self._unpack_zip(upload, content) if packed else upload
                try:
                    translate(
                        self.run,
                        source,
                        out if packed else out / upload.name,
                        to=to,
                        label=label,
                        uncertainty="auto" if uncertainty else None,
                        device=self.device,
                        say=messages.append,
                        progress=lambda share, name: tell(share, f"Translating to {to}"),
                    )
                except GantkError as error:
                    has_results = out.is_dir() and any(out.iterdir())
                    if isinstance(error, UserError) or not has_results:
                        raise
                    messages.append(f"warning  {error}")  # only some of the zip's files failed

                tell(1.0, "Preparing the view")
                inputs = scans(source) if packed else [Scan(upload, (upload,), upload.name)]
                views = _views(inputs, out, MAX_VIEWS if show else 0, uncertainty=uncertainty)
                file = made / f"{stem_of(upload)}_synthetic_{to}{suffix_of(upload)}"
                if packed:
                    shutil.make_archive(str(file.with_suffix("")), "zip", out)
                else:
                    (out / upload.name).rename(file)
        except GantkError as error:
            shown = type(error)(without_paths(str(error)))
            shown.exit_code = error.exit_code
            raise shown from error

        notes = []
        for message in messages:
            kind, _, text = message.partition(" ")
            if message.startswith(("warning", "note", "clipped")):
                notes.append((kind, without_paths(text.strip())))

        return Result(file, notes, views, waited)

    def _unpack_zip(self, archive: Path, folder: Path) -> Path:
        """Unpack a zip and return the folder; UserError where it is damaged, too large, or has
        paths outside of it.
        """
        from gantk.formats.archives import unpack

        try:
            with zipfile.ZipFile(archive) as opened:
                sizes = [each.file_size for each in opened.infolist()]
            if len(sizes) > 20_000 or sum(sizes) > self.most:
                raise ValueError(f"it holds more than 20,000 files or {self.most >> 20} MB")
            make_folder(folder, private=True, new=True)
            unpack(archive, folder)
        # zipfile and its decompressors raise any exception for a malicious file
        except Exception as error:
            what = f"the zip file '{archive.name}' cannot be unpacked: {one_line(error)}"
            raise UserError(
                what, allowed="a zip of DICOM series or images", remedy="pack it again"
            ) from None

        return folder


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

        from gantk_app.server import LOOPBACK, application
    except ModuleNotFoundError as error:
        what = f"gantk app needs the package {error.name}, which is not installed"
        raise UserError(what, remedy='install it: pip install "gantk[app]"') from None

    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        what = f"the server cannot listen on {host}, port {port}: {error.strerror}"
        raise UserError(
            what,
            where="--host, --port",
            remedy="choose another address or port; --port 0 chooses a free port",
        ) from None

    # also deletes those of killed processes
    folder = temporary_beside(Path(tempfile.gettempdir()) / "gantk-app")
    make_folder(folder, private=True, new=True)
    try:
        # so that `finally` deletes uploads
        for stop in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            signal.signal(stop, signal.default_int_handler)

        served = application(Service(run, folder, max_mb << 20, device), host)
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
        shutil.rmtree(folder, ignore_errors=True)
