"""Translates uploads with one model, and prepares what the page shows. The queue is Gradio's."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np

from gantk import unpack
from gantk.errors import GantkError, UserError, join_first, reading_file
from gantk.files import WRITTEN, make_folder, write_file
from gantk.formats.files import read, sidecar_of, stem_of, suffix_of
from gantk.formats.image import Scan, nifti_of_levels
from gantk.inference.frame import FIT, FITS, TranslateOptions
from gantk.inference.translation import Translation
from gantk_serve.trust import Answer, answer_for, quality_on_unseen

LOOPBACK = ("127.0.0.1", "localhost")
MAX_ZIP_FILES = 4096  # of an upload: all others wait while it is translated
MAX_ZIP_SECONDS = 120.0  # of a zip's translation, after which no further image begins
MAX_VIEWS = 8  # translations of a zip that the page shows
IDLE_S = 3600.0  # seconds after which what no open window and no translation uses is deleted
SESSIONS = "sessions"  # folder with one folder for each browser session, with one for each upload:
SENT = "in"  # the upload, by its sender's name
CONTENT = "input"  # what a zip holds
RESULTS = "made"  # what was made of it
TERMINAL_WORDS = r"--\w|data\.\w"  # of a remedy: an option, or a key of a recipe
Tell = Callable[[float, str], None]  # receives (finished share, current operation)


class Result(NamedTuple):
    """The result of one translation."""

    file: Path  # the translated image or zip
    sidecar: Path | None  # the JSON file about it; a picture has none, a zip holds its own
    notes: list[tuple[str, str]]  # (warning, note or clipped; text)
    trust: Answer
    views: list[dict[str, Any]]  # data for the viewer, see `view`


class Service:
    """One trained model, and the folder of all uploads and results."""

    def __init__(self, run: str, folder: Path, max_bytes: int, device: str | None = None):
        """`max_bytes`: of an upload, also after unzipping."""
        from gantk import load

        self.run = run
        self.folder = folder
        self.max_bytes = max_bytes
        self.sessions = make_folder(folder / SESSIONS, private=True)
        self._key = secrets.token_bytes(32)
        self.model = load(run, device=device)
        try:
            frames = self.model.frames.values()
        except UserError:
            raise UserError(
                f"'{run}' generates images from noise; it cannot translate images",
                where="RUN",
                remedy="name a run of an image-to-image method",
            ) from None
        for frame in frames:
            if len(frame.sources) > 1:
                first, second, *_ = (f"--{name.lower()}" for name in frame.sources)
                raise UserError(
                    f"'{run}' needs several contrasts of a patient ({', '.join(frame.sources)}), and"
                    " the app takes one scan",
                    where="RUN",
                    remedy=f"use the command line: gantk translate {run} {first} A {second} B OUTPUT",
                )
        self.directions = {frame.target: frame.source for frame in frames}

    # ---- where files are

    def session_folder(self, session: str) -> Path:
        """The folder of a session, which only who has the server's key can name."""
        return self.sessions / blake2b(session.encode(), digest_size=16, key=self._key).hexdigest()

    def place(self, session: str, name: str) -> Path:
        """The path for an upload of this name, in a new folder of its session."""
        folder = self.session_folder(session) / secrets.token_urlsafe(16) / SENT
        make_folder(folder, private=True)
        _, _, last = name.replace("\\", "/").rpartition("/")
        plain = re.sub(r"[^\w. #()+-]", "_", last).lstrip(".")
        return folder / (plain.encode()[-200:].decode("utf-8", "ignore") or "file")

    def forget(self, session: str) -> None:
        """Delete all uploads and results of a session."""
        shutil.rmtree(self.session_folder(session), ignore_errors=True)

    def forget_input(self, upload: Path) -> None:
        """Delete an upload and its content, but not what was made of it."""
        for folder in (upload.parent, upload.parent.parent / CONTENT):
            shutil.rmtree(folder, ignore_errors=True)

    def touch(self, session: str) -> None:
        """Note that a session is in use."""
        with suppress(OSError):  # it has no files
            os.utime(self.session_folder(session))

    def delete_idle(self) -> None:
        """Delete sessions, and uploads that none has taken, which nothing used for `IDLE_S`."""
        for path in {*self.folder.iterdir(), *self.sessions.iterdir()} - {self.sessions}:
            with suppress(OSError):  # it is deleted just now
                if time.time() - path.stat().st_mtime < IDLE_S:
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    # ---- what is said of a scan

    def look(self, upload: Path) -> tuple[str, Answer]:
        """The target whose training images an upload, made with `place`, fits best; and whether it
        can be trusted. UserError for a bad file.
        """
        said: list[str] = []
        with self._names_as_sent():
            source = self._content_of(upload)
            first = next(iter(self.model.images_in(source)), None) if source.is_dir() else upload
            best = next(iter(self.directions))
            if first is None:
                return best, self._answer(said, best)

            image = read(first)
            fits = {to: FITS.index(self.model.check(image, to)[1].fits) for to in self.directions}
            best = min(fits, key=fits.__getitem__)
            any_class = next(iter(self.model.classes()), None)  # the page asks for one afterwards
            options = TranslateOptions(label=any_class)
            translation = Translation(self.model, best, options, None, said.append)
            translation.compare(source, upload.parent.parent / RESULTS / source.name)
            acquired = self.model.acquired_in(source, best) if source.is_dir() else []
            if acquired:
                said.append(
                    f"warning  the zip has an acquired {best} already: '{acquired[0].name}'. Use that"
                    " instead"
                )
            return best, self._answer(said, best)

    def _answer(self, said: Sequence[str], to: str) -> Answer:
        """Whether a scan of which this was said can be trusted to be translated well."""
        notes = self._notes_of(said)
        if self.model.run is None:
            return answer_for(notes, "")
        return answer_for(notes, *quality_on_unseen(self.model.run, self.directions[to], to))

    def _notes_of(self, said: Sequence[str]) -> list[tuple[str, str]]:
        """What a translation said of its inputs and results, without paths of the server."""
        notes = []
        for line in said:
            kind, _, text = line.partition(" ")
            if kind in ("warning", "note", "clipped"):
                notes.append((kind, self._without_places(text.strip())))
        return notes

    # ---- a translation

    def translate(
        self,
        upload: Path,
        to: str,
        *,
        label: str | None = None,
        show: bool = False,
        tell: Tell = lambda *_: None,
    ) -> Result:
        """Translate an upload made with `place`; `show` adds data for the viewer. UserError for a bad
        file. An earlier result of the upload is replaced.
        """
        options = TranslateOptions(label=label or None)
        results = upload.parent.parent / RESULTS

        def report(share: float, what: str) -> None:
            if not upload.exists():
                raise UserError("the scan was deleted, because its window was closed")
            os.utime(upload.parents[2])  # its session is in use
            tell(share, what)

        with self._names_as_sent():
            report(0.0, "Reading the scan and comparing it with the training data")
            source = self._content_of(upload)
            shutil.rmtree(results, ignore_errors=True)
            out = make_folder(results / "out", private=True)
            target = out if source.is_dir() else out / source.name
            said = self._translate_into(target, source, to, options, report)

            report(1.0, "Preparing the pictures")
            pairs = self._pairs_of(source, target, to, options) if show else ()
            views = [
                view(*pair, results, number) for number, pair in enumerate(islice(pairs, MAX_VIEWS))
            ]
            file = results / f"{stem_of(upload)}_synthetic_{to}{suffix_of(upload)}"
            sidecar = None
            if source.is_dir():
                shutil.make_archive(str(file.with_suffix("")), "zip", out)
            else:
                target.rename(file)
                if sidecar_of(target).exists():
                    sidecar = sidecar_of(target).rename(sidecar_of(file))

        return Result(file, sidecar, self._notes_of(said), self._answer(said, to), views)

    def _translate_into(
        self, target: Path, source: Path, to: str, options: TranslateOptions, tell: Tell
    ) -> list[str]:
        """Translate a file to a file, or the images of a folder into a folder; returns what was
        said.
        """
        from gantk import translate

        said: list[str] = []
        begun = time.monotonic()
        current = ""

        def progress(share: float, line: str) -> None:
            nonlocal current
            name = line.partition("  ")[0]
            begins_another = current not in ("", name)
            if begins_another and source.is_dir() and time.monotonic() - begun > MAX_ZIP_SECONDS:
                what = "others wait, and this zip has taken its time"
                raise UserError(what, remedy="send the scans that are left in another zip")
            current = name
            tell(share, f"To {to}: {line}")

        try:
            translate(
                self.model,
                source,
                target,
                to=to or None,
                label=options.label,
                say=said.append,
                progress=progress,
            )
        except GantkError as error:
            if isinstance(error, UserError) or not any(target.rglob("*")):
                raise
            # some of a zip's files failed
            failures = join_first(str(error).splitlines(), "\n", MAX_VIEWS)
            said += [f"warning  {FIT}: no", f"warning  {failures}"]
        for record in [*target.rglob(WRITTEN)]:  # is no result
            record.unlink()
        return said

    def _pairs_of(
        self, source: Path, target: Path, to: str, options: TranslateOptions
    ) -> Iterator[tuple[Scan, Path]]:
        """The images of a translation, each with the path of its result, those that exist."""
        jobs, _ = Translation(self.model, to, options, None, lambda line: None).jobs_of(
            source, target
        )
        for job in jobs:
            for scan in job.scans.values():
                if job.outputs[0].path.exists():
                    yield scan, job.outputs[0].path

    def _content_of(self, upload: Path) -> Path:
        """An upload, or the folder of a zip's content; UserError where the zip is damaged, unpacks to
        more than `max_bytes`, or has paths outside of it.
        """
        if upload.suffix.lower() != ".zip":
            return upload
        folder = upload.parent.parent / CONTENT
        if folder.exists():
            return folder
        try:
            make_folder(folder, private=True)
            allowed = "a zip of DICOM series or images"
            with reading_file(upload.name, "a zip file", allowed=allowed, remedy="pack it again"):
                with ZipFile(upload) as archive:
                    if len(archive.infolist()) > MAX_ZIP_FILES:
                        raise ValueError(f"it holds more than {MAX_ZIP_FILES:,} files")
                unpack(upload, folder, most=self.max_bytes)
        except (GantkError, OSError):
            shutil.rmtree(folder, ignore_errors=True)  # else it would be taken for the whole
            raise
        return folder

    # ---- messages

    @contextmanager
    def _names_as_sent(self) -> Iterator[None]:
        """Errors that a user of the page may see, as UserErrors without paths of the server, options
        and keys of a recipe.
        """
        try:
            yield
        except UserError as error:
            is_of_terminal = re.search(TERMINAL_WORDS, error.remedy or "")
            raise UserError(
                self._without_places(error.what),
                allowed=error.allowed,
                remedy=None if is_of_terminal else error.remedy,
            ) from None
        except GantkError as error:
            raise UserError(self._without_places(str(error))) from None

    def _without_places(self, text: str) -> str:
        """A message that names files as their sender did, and no options."""
        root = re.escape(f"{self.sessions}{os.sep}") + "[^/']+/[^/']+/"
        text = re.sub(rf"'{root}{CONTENT}'|{root}{CONTENT}(?=:)", "the zip", text)
        text = re.sub(rf"{root}({SENT}|{CONTENT}|{RESULTS})/", "", text)
        return re.sub(r" \(--[^)]*\)", "", text)


def view(scan: Scan, result: Path, folder: Path, number: int) -> dict[str, Any]:
    """Write NIfTI files of input, output and their difference in %; returns their names and
    windows.
    """
    image = read(scan)
    sides = (-1, *image.pixels.shape[-2:])
    volumes = {
        "input": image.pixels.mean(axis=0).reshape(sides),
        "output": read(result).pixels.mean(axis=0).reshape(sides),
    }
    windows = {}
    scaled = []
    for kind, volume in volumes.items():
        low, high = (float(value) for value in np.percentile(volume, [0.5, 99.5]))
        windows[kind] = [low, high]
        scaled.append((volume - low) / ((high - low) or 1.0))
    volumes["difference"] = 100 * abs(scaled[1] - scaled[0])
    windows["difference"] = [0.0, 100.0]

    # keep every n-th voxel above 2**25; the page says so
    thin = int(np.ceil((scaled[0].size / 2**25) ** (1 / 3)))
    z, y, x = (1.0, *image.spacing)[-3:]
    # array axes point to the patient's left, back and head
    affine = np.diag([-x, -y, z, 1.0])
    files = {}
    for kind, volume in volumes.items():
        files[kind] = f"{number}-{kind}.nii"
        content = nifti_of_levels(volume.transpose(2, 1, 0), affine, thin)
        write_file(folder / files[kind], content)

    return {
        "name": scan.path.name if scan.name == "." else scan.name,
        "slices": len(scaled[0]),
        "thin": thin,
        "oriented": image.states_orientation and image.dims == 3,
        "files": files,
        "windows": windows,
    }
