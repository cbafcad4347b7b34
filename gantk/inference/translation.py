"""Files and folders through a trained model: what comes in decides the format of what goes out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gantk.data.sources.patients import contrast_files
from gantk.errors import GantkError, UserError
from gantk.formats.dicom import is_dicom, remarks
from gantk.formats.files import Scan, is_image, is_volume, read, readable, scans, stem_of, suffix_of, write
from gantk.formats.image import Image
from gantk.inference.ledger import Ledger
from gantk.inference.pipeline import Look
from gantk.inference.stages import staged

Say = Callable[[str], None]
Progress = Callable[[float, str], None]  # (share done, what is at work)
FAILURES = (GantkError, OSError, MemoryError)  # of one file, which stop no other


@dataclass(frozen=True)
class Job:
    """One image to translate: what holds its contrasts, in order (None: missing), and where the result goes."""

    scans: tuple[Scan | None, ...]
    target: Path
    name: str  # of the input, below the folder asked for

    @property
    def files(self) -> list[Path]:
        """All files that it reads."""
        return [file for scan in self.scans if scan is not None for file in scan.files]


class Translation:
    """Files and folders through one direction of a model.

    Args:
        model: a `Translator` or an `OnnxModel`.
        to: the domain to make, by its name.
        look: which of the model's answers is wanted.
        volume: which volume of files that hold several, counted from 0.
        say, progress: where lines of text, and the share that is done, go.
    """

    def __init__(self, model, to: str | None, look: Look, volume: int | None, say: Say, progress: Progress | None):
        self.model, self.to, self.look, self.volume = model, to, look, volume
        self.say, self.progress = say, progress or (lambda share, name: None)
        letter = model.domain(to)
        self.frame, self.target_contrasts = model.frame(letter), model.contrasts(letter)
        self.contrasts = model.contrasts("a" if letter == "b" else "b")

    def path(self, source: Path, target: Path) -> list[Path]:
        """A file to a file, a DICOM series to a folder, or a folder to a folder, whatever it holds; the paths written.

        One broken file of a folder does not stop the others: GantkError at the end, which lists them. What an earlier
        call of the same kind has finished is not done again.
        """
        if not source.exists():
            raise UserError(f"there is no file or folder '{source}'", where="INPUT", remedy="check the path")
        if not source.is_dir():
            scan = Scan(source, (source,), source.name)
            return self._one(Job((scan,), _target_file(source, target), source.name))
        if target.exists() and not target.is_dir() and is_image(target) is False:
            raise UserError(f"'{target}' is a file", where="OUTPUT", remedy="INPUT is a folder, so name a folder")
        if target.resolve() == source.resolve():
            raise UserError("OUTPUT is INPUT itself", where=str(target), remedy="name another folder")
        if len(self.contrasts) > 1:
            jobs = _patients(source, target, self.contrasts, self.frame.target)
        else:
            below = [scan for scan in scans(source) if not scan.path.resolve().is_relative_to(target.resolve())]
            if len(below) == 1 and below[0].path == source:  # one DICOM series
                return self._one(Job((below[0],), target, source.name))
            jobs = [Job((scan,), target / scan.name, scan.name) for scan in below]
        if target.is_file() or is_image(target):
            raise UserError(f"'{target}' is no folder", where="OUTPUT", remedy="INPUT is a folder, so name a folder")
        if not jobs:
            raise UserError(f"no images in the folder '{source}'", where="INPUT", allowed=readable())
        return self._all(jobs, target)

    def _one(self, job: Job) -> list[Path]:
        results = self._made(job, self._read(job), lambda share: self.progress(share, job.name))
        written = self._put(job, results)
        for path in written:
            self.say(f"written  {path}")
        return written

    def _all(self, jobs: Sequence[Job], folder: Path) -> list[Path]:
        ledger = Ledger(folder, self.model.identity(), self._asked())
        outcomes: list[Any] = [_known(ledger, job) for job in jobs]
        new = [(number, job) for number, job in enumerate(jobs) if outcomes[number] is None]
        kept = len(jobs) - len(new)

        def make(item: tuple[int, Job], image: Image) -> list[Image]:
            number, job = item
            self.progress(number / len(jobs), job.name)
            return self._made(job, image, lambda share: self.progress((number + share) / len(jobs), job.name))

        def put(item: tuple[int, Job], results: list[Image]) -> list[Path]:
            written = self._put(item[1], results)
            ledger.add(item[1].name, item[1].files, written)
            return written

        done = staged(
            new, lambda item: self._read(item[1]), make, put,
            ahead=int(self.frame.pipelined), size=lambda image: image.pixels.nbytes, expected=FAILURES,
        )  # fmt: skip
        for (number, _), outcome in done:
            outcomes[number] = outcome
        written, broken = [], []
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, Exception):
                broken.append(f"{job.files[0]}: {outcome or type(outcome).__name__}")
            else:
                written += outcome
        self.progress(1.0, "")
        earlier = f", {kept} of {len(jobs)} inputs done before" if kept else ""
        self.say(f"written  {len(written)} files to {folder}{earlier}")
        if broken:
            kind = "files" if len(self.contrasts) == 1 else "patients"
            raise GantkError(f"{len(broken)} of {len(jobs)} {kind} could not be translated:\n  " + "\n  ".join(broken))
        ledger.close()
        return written

    def _asked(self) -> dict[str, Any]:
        """What the results depend on beside model and input, as JSON."""
        look = {key: value for key, value in vars(self.look).items() if key != "example"}
        example = self.look.example
        style = None if example is None else hashlib.sha256(example.pixels.tobytes()).hexdigest()
        return {"to": self.model.domain(self.to), "volume": self.volume, "style": style} | look

    def _read(self, job: Job) -> Image:
        if len(job.scans) > 1:
            return _stacked(job.scans, self.contrasts, self.frame.missing)
        return read(job.scans[0], self.volume)

    def _made(self, job: Job, image: Image, step: Callable[[float], None]) -> list[Image]:
        if len(job.scans) == 1:
            for line in remarks(image):
                self.say(f"note     {line}")
        return self.model.images(image, self.to, self.look, lambda done, total: step(done / total))

    def _put(self, job: Job, results: Sequence[Image]) -> list[Path]:
        written, domain = [], self.frame.target
        for tail, result in zip(self._tails(), results, strict=True):
            for part, name in _channels(result, self.target_contrasts):
                path = _with_tail(job.target, tail + (f"_{name}" if name else ""))
                path.parent.mkdir(parents=True, exist_ok=True)
                said = f"uncertainty of {name or domain}" if tail == "_uncertainty" else name or domain
                write(path, part, description=said)
                written.append(path)
        return written

    def _tails(self) -> list[str]:
        """What the names of an image's results end with."""
        if self.look.variants is not None:
            return [f"-{number}" for number in range(1, self.look.variants + 1)]
        return ["", "_uncertainty"] if self.look.uncertainty else [""]


def _known(ledger: Ledger, job: Job) -> list[Path] | None:
    """What an earlier call made of a job; None where there is no such thing, or an input cannot be looked at."""
    try:
        return ledger.results(job.name, job.files)
    except OSError:
        return None


def _stacked(scans: Sequence[Scan | None], contrasts: list[str], missing: str) -> Image:
    """A patient's contrasts as the channels of one image, nan where one is missing."""
    absent = [contrast for contrast, scan in zip(contrasts, scans, strict=True) if scan is None]
    there = [read(scan) for scan in scans if scan is not None]
    if absent and missing == "refuse":
        remedy = 'add the files, or train with data.missing = "mask"'
        raise UserError(f"{' and '.join(absent)} missing in '{there[0].path.parent}'", where="INPUT", remedy=remedy)
    for image in there:
        same = image.affine is there[0].affine or np.allclose(image.affine, there[0].affine, atol=1e-3)
        if image.pixels.shape != there[0].pixels.shape or not same or image.channels != 1:
            what = f"'{image.path}' is not on the grid of '{there[0].path}'"
            raise UserError(what, where="INPUT", remedy="resample all contrasts of a patient onto one of them")
    blank, rest = np.full_like(there[0].pixels, np.nan), iter(there)
    return replace(there[0], pixels=np.concatenate([blank if scan is None else next(rest).pixels for scan in scans]))


def _channels(image: Image, contrasts: list[str]) -> list[tuple[Image, str]]:
    """One image, or one for each contrast with its name where a domain has several."""
    if len(contrasts) == 1 or image.channels != len(contrasts):
        return [(image, "")]
    return [(replace(image, pixels=image.pixels[i : i + 1]), name) for i, name in enumerate(contrasts)]


def _patients(source: Path, target: Path, contrasts: list[str], domain: str) -> list[Job]:
    folders = [source, *sorted(path for path in source.rglob("*") if path.is_dir())]
    jobs = []
    for folder in folders:
        files = contrast_files(folder, contrasts)
        first = next(filter(None, files.values()), None)
        if first is not None:
            name = f"{folder.name}_{domain.replace('+', '-')}{suffix_of(first)}"
            place = target if folder == source else target / folder.parent.relative_to(source)
            found = [files[contrast] for contrast in contrasts]
            jobs.append(
                Job(tuple(file and Scan(file, (file,), file.name) for file in found), place / name, folder.name)
            )
    if not jobs:
        what = f"no folder in '{source}' holds files named after {', '.join(contrasts)}"
        raise UserError(what, where="INPUT", remedy="name a patient's folder with one file for each")
    return jobs


def _target_file(source: Path, target: Path) -> Path:
    """Where the translation of one file goes; UserError where it cannot be written."""
    kind = suffix_of(source) if not is_dicom(source) else ".dcm"
    if not is_image(source) and kind != ".dcm":
        raise UserError(f"'{source.name}' is not an image that gantk reads", where="INPUT", allowed=readable())
    if target.is_dir() or not target.suffix:
        target = target / source.name
    if target.exists() and target.samefile(source):
        raise UserError("OUTPUT is INPUT itself", where=str(target), remedy="name another file")
    if not is_image(target) and suffix_of(target) != ".dcm":
        raise UserError(f"'{target.name}' has no suffix that gantk writes", where="OUTPUT", allowed=kind)
    if is_volume(source) != is_volume(target):
        raise UserError(f"'{source.name}' cannot become '{target.name}'", where="OUTPUT", allowed=kind)
    return target


def _with_tail(path: Path, tail: str) -> Path:
    """`scan.nii.gz` with the tail "-1" is `scan-1.nii.gz`."""
    stem = stem_of(path) if is_image(path) or suffix_of(path) == ".dcm" else path.name  # a series is a folder
    return path.with_name(f"{stem}{tail}{path.name[len(stem) :]}")
