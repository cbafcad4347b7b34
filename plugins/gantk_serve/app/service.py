"""Translates uploads with one model, and prepares what the page shows. The queue is Gradio's."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gantk.errors import GantkError, UserError, reading_file
from gantk.files import WRITTEN, make_folder, write_file
from gantk.formats.files import read, sidecar_of, stem_of, suffix_of
from gantk.formats.image import Scan, nifti_of_levels
from gantk.inference.frame import FIT, FITS, TranslateOptions
from gantk.inference.translation import Translation
from gantk.terminal import time_left
from gantk_serve.trust import Answer, answer_for, quality_on_unseen

MAX_VIEWS = 8  # translations of a zip that the page shows
TAKEN = "taken"  # folder of the uploads that a session has taken, and of their results
SENT = "in"  # folder of a file with its sender's name, within that of an upload
CONTENT = "input"  # folder of what a zip holds, beside it
RESULTS = "made"  # folder of what was made of an upload, beside it
TERMINAL_WORDS = r"--\w|data\.\w"  # of a remedy: an option, or a key of a recipe
LOOPBACK = ("127.0.0.1", "localhost")
Tell = Callable[[float, str], None]  # receives (finished share, current operation)


class Result(NamedTuple):
    """The result of one translation."""

    file: Path  # the translated image or zip
    sidecar: (
        Path | None
    )  # the JSON file about it; None of a picture, and of a zip, which holds its own
    notes: list[tuple[str, str]]  # (warning, note or clipped; text)
    trust: Answer
    views: list[dict[str, Any]]  # data for the viewer, see `view`


class Service:
    """One trained model, and the folder of all uploads and results."""

    def __init__(self, run: str, folder: Path, most: int, device: str | None = None):
        """`most`: bytes of an upload, also after unzipping."""
        from gantk import load

        self.run = run
        self.folder = folder
        self.most = most
        make_folder(folder / TAKEN, private=True)
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

    def place(self, name: str) -> Path:
        """The path for an upload of this name, in a new folder whose name cannot be guessed."""
        folder = self.folder / TAKEN / secrets.token_urlsafe(16) / SENT
        make_folder(folder, private=True, new=True)
        _, _, last = name.replace("\\", "/").rpartition("/")
        plain = re.sub(r"[^\w. #()+-]", "_", last).lstrip(".")
        return folder / (plain.encode()[-200:].decode("utf-8", "ignore") or "file")

    def results_folder(self, folder: str) -> Path:
        """Where the results of the upload with this folder's name lie."""
        return self.folder / TAKEN / folder / RESULTS

    def forget(self, upload: Path) -> None:
        """Delete an upload that was made with `place`, and its result."""
        shutil.rmtree(upload.parent.parent, ignore_errors=True)

    def look(self, upload: Path) -> tuple[str, Answer]:
        """The target whose training images an upload, made with `place`, fits best; and whether it
        can be trusted. UserError for a bad file.
        """
        with self._names_as_sent():
            return self._look(upload)

    def _look(self, upload: Path) -> tuple[str, Answer]:
        """As `look`; errors name files by their paths."""
        source = self._content_of(upload) if is_zip(upload) else upload
        first = next(iter(self.model.images_in(source)), None) if source.is_dir() else upload
        if first is None:
            to = next(iter(self.directions))
            return to, self._answer([], to)
        image = read(first)
        fits = {to: FITS.index(self.model.check(image, to).fits) for to in self.directions}
        best = min(fits, key=fits.__getitem__)
        said: list[str] = []
        any_class = next(iter(self.model.classes()), None)  # the page asks for one afterwards
        options = TranslateOptions(label=any_class)
        translation = Translation(self.model, best, options, None, said.append)
        translation.compare(source, self.results_folder(upload.parts[-3]) / source.name)
        acquired = self.model.acquired_in(source, best) if source.is_dir() else []
        if acquired:
            line = f"the zip has an acquired {best} already: '{acquired[0].name}'. Use that instead"
            said.append(f"warning  {line}")
        return best, self._answer(self._notes_of(said), best)

    def _answer(self, notes: list[tuple[str, str]], to: str) -> Answer:
        """Whether a scan with these notes can be trusted to be translated well."""
        if self.model.run is None:
            return answer_for(notes, "")
        return answer_for(notes, *quality_on_unseen(self.model.run, self.directions[to], to))

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
        with self._names_as_sent():
            return self._translate(upload, to, options, show, tell)

    def _translate(
        self, upload: Path, to: str, options: TranslateOptions, show: bool, tell: Tell
    ) -> Result:
        """As `translate`; errors name files by their paths."""
        source = self._content_of(upload) if is_zip(upload) else upload
        tell(0.0, "Reading the scan and comparing it with the training data")
        made = self.results_folder(upload.parts[-3])
        shutil.rmtree(made, ignore_errors=True)
        make_folder(made, private=True, new=True)
        packed = source.is_dir()
        out = make_folder(made / "out", private=True)
        target = out if packed else out / source.name
        said = self._translate_into(target, source, to, options, tell)
        tell(1.0, "Preparing the pictures")
        results = self._results_of(source, target, to, options)
        views = _views(results, made, MAX_VIEWS if show else 0)
        file = made / f"{stem_of(upload)}_synthetic_{to}{suffix_of(upload)}"
        sidecar = None
        if packed:
            shutil.make_archive(str(file.with_suffix("")), "zip", out)
        else:
            target.rename(file)
            if sidecar_of(target).exists():
                sidecar = sidecar_of(target).rename(sidecar_of(file))

        notes = self._notes_of(said)
        return Result(file, sidecar, notes, self._answer(notes, to), views)

    def _notes_of(self, said: Sequence[str]) -> list[tuple[str, str]]:
        """What a translation said of its inputs and results, without paths of the server."""
        notes = []
        for line in said:
            kind, _, text = line.partition(" ")
            if kind in ("warning", "note", "clipped"):
                notes.append((kind, self._without_places(text.strip())))
        return notes

    def _results_of(
        self, source: Path, target: Path, to: str, options: TranslateOptions
    ) -> dict[Scan, list[Path]]:
        """The images of a translation, each with the paths of its results."""
        translation = Translation(self.model, to, options, None, lambda line: None)
        jobs, _ = translation.jobs_of(source, target)
        results = {}
        for job in jobs:
            for scan in job.scans.values():
                results[scan] = [output.path for output in job.outputs]
        return results

    def _translate_into(
        self,
        target: Path,
        source: Path,
        to: str,
        options: TranslateOptions,
        tell: Tell,
    ) -> list[str]:
        """Translate a file to a file, or the images of a folder into a folder; returns what was
        said.
        """
        from gantk import translate

        said: list[str] = []
        begun = time.monotonic()

        def progress(share: float, name: str) -> None:
            left = time_left(share, time.monotonic() - begun)
            tell(share, f"Translating to {to}, {share:.0%} done{left}")

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
            said += [f"warning  {FIT}: no", f"warning  {error}"]
        for record in [*target.rglob(WRITTEN)]:  # is no result
            record.unlink()
        return said

    @contextmanager
    def _names_as_sent(self) -> Iterator[None]:
        """Errors that a user of the page may see, as UserErrors without paths of the server."""
        try:
            yield
        except GantkError as error:
            if isinstance(error, UserError) and re.search(TERMINAL_WORDS, error.remedy or ""):
                error.remedy = None
            raise UserError(self._without_places(str(error))) from None

    def _without_places(self, text: str) -> str:
        """A message that names files as their sender did, and no arguments of a command."""
        root = rf"{re.escape(f'{self.folder}{os.sep}')}{TAKEN}/[^/']+/"
        text = re.sub(rf"'{root}{CONTENT}'|{root}{CONTENT}(?=:)", "the zip", text)
        text = re.sub(rf"{root}(?:(?:{SENT}|{CONTENT}|{RESULTS})(?:/|(?=')))?", "", text)
        for argument in ("INPUT", "--to", "--label"):
            text = text.replace(f"  ({argument})", "")
        return re.sub(r" \(--[^)]*\)", "", text)

    def _content_of(self, upload: Path) -> Path:
        """The folder of a zip's content; UserError as of `unpack_upload`."""
        folder = upload.parent.parent / CONTENT
        if folder.exists():
            return folder
        try:
            return unpack_upload(upload, folder, self.most)
        except (GantkError, OSError):
            shutil.rmtree(folder, ignore_errors=True)  # else it would be taken for the whole
            raise


def is_zip(upload: Path) -> bool:
    """Whether an upload is to be unpacked."""
    return upload.suffix.lower() == ".zip"


def unpack_upload(upload: Path, folder: Path, most: int) -> Path:
    """Unpack a zip into a new folder and return it; UserError where it is damaged, holds more than
    `most` bytes, or has paths outside of it.
    """
    from gantk import unpack

    make_folder(folder, private=True)
    allowed = "a zip of DICOM series or images"
    with reading_file(upload.name, "a zip file", allowed=allowed, remedy="pack it again"):
        unpack(upload, folder, most=most)
    return folder


def _views(results: dict[Scan, list[Path]], folder: Path, most: int) -> list[dict[str, Any]]:
    """Data for the viewer, in a folder, of the first `most` translations, by scan."""
    views = []
    for scan, paths in results.items():
        existing = [
            path
            for path in paths
            if path.exists() and path.resolve().is_relative_to(folder.resolve())
        ]
        if existing and len(views) < most:
            views.append(view((scan, *existing), folder, len(views)))

    return views


def view(parts: tuple[Scan | Path, ...], folder: Path, number: int) -> dict[str, Any]:
    """Write NIfTI files of input, output and their difference in %; returns their names and
    windows.
    """
    images = [read(each) for each in parts]
    volumes = [image.pixels.mean(axis=0).reshape(-1, *image.pixels.shape[-2:]) for image in images]
    windows = [[float(value) for value in np.percentile(volume, [0.5, 99.5])] for volume in volumes]
    scaled = []
    for volume, (low, high) in zip(volumes, windows, strict=True):
        scaled.append((volume - low) / ((high - low) or 1.0))

    volumes.append(100 * abs(scaled[1] - scaled[0]))
    windows.append([0.0, 100.0])
    # keep every n-th voxel above 2**25; the page says so
    thin = int(np.ceil((volumes[0].size / 2**25) ** (1 / 3)))
    z, y, x = (1.0, *images[0].spacing)[-3:]
    # array axes point to the patient's left, back and head
    affine = np.diag([-x, -y, z, 1.0])
    files = {}
    for kind, volume in zip(("input", "output", "difference"), volumes, strict=True):
        files[kind] = f"{number}-{kind}.nii"
        content = nifti_of_levels(volume.transpose(2, 1, 0), affine, thin)
        write_file(folder / files[kind], content)

    scan = parts[0]
    return {
        "name": scan.path.name if scan.name == "." else scan.name,
        "slices": len(volumes[0]),
        "thin": thin,
        "oriented": images[0].states_orientation and images[0].dims == 3,
        "files": files,
        "windows": dict(zip(files, windows, strict=True)),
    }
