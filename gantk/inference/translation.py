"""Files and folders through a trained model: what comes in decides the format of what goes out."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import GantkError, UserError
from gantk.files import write_file
from gantk.formats import files
from gantk.formats.files import Scan, read, suffix_of
from gantk.formats.image import Image, same_grid
from gantk.inference.pipeline import OTHER, Look, TrainedModel

FAILURES = (GantkError, OSError, MemoryError)  # of one file, which stop no other
ROOM = 1 << 30  # bytes that the images of three files may hold for reading and writing to overlap with the network


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
    """Files and folders through one direction of a model; see `gantk.api.translate`."""

    def __init__(
        self,
        model: TrainedModel,
        to: str | None,
        look: Look,
        volume: int | None,
        say: Callable[[str], None],
        progress: Callable[[float, str], None] | None,
    ):
        self.model, self.to, self.look, self.volume = model, to, look, volume
        self.say, self.progress = say, progress or (lambda share, name: None)
        self.letter = model.domain(to)
        self.frame, self.made = model.frame(self.letter), model.contrasts(self.letter)
        self.contrasts = model.contrasts(OTHER[self.letter])

    def path(self, source: Path, target: Path) -> list[Path]:
        """A file to a file, a DICOM series to a folder, or a folder to a folder, whatever it holds; the paths written.

        One broken file of a folder does not stop the others: GantkError at the end, which lists them. What an earlier
        call of the same kind has finished is not done again.
        """
        if not source.exists():
            raise UserError(f"there is no file or folder '{source}'", where="INPUT", remedy="check the path")
        if not source.is_dir():
            return self._all([Job((Scan(source, (source,), source.name),), _target_file(source, target), source.name)])
        if target.resolve() == source.resolve():
            raise UserError("OUTPUT is INPUT itself", where=str(target), remedy="name another folder")
        if len(self.contrasts) > 1:
            jobs = _patients(source, target, self.contrasts, self.frame.target)
        else:
            below = [scan for scan in files.scans(source) if not scan.path.resolve().is_relative_to(target.resolve())]
            if len(below) == 1 and below[0].path == source:  # one DICOM series
                return self._all([Job((below[0],), target, source.name)])
            jobs = [Job((scan,), target / scan.name, scan.name) for scan in below]
        if target.is_file() or files.is_image(target):
            raise UserError(f"'{target}' is no folder", where="OUTPUT", remedy="INPUT is a folder, so name a folder")
        if not jobs:
            raise UserError(f"no images in the folder '{source}'", where="INPUT", allowed=files.readable())
        return self._all(jobs, target)

    def _all(self, jobs: Sequence[Job], folder: Path | None = None) -> list[Path]:
        """Translate the jobs of a folder of results; without a folder there is one job, whose error is raised."""
        example = self.look.example
        style = None if example is None else hashlib.sha256(example.pixels.tobytes()).hexdigest()
        asked = {"to": self.letter, "volume": self.volume} | vars(self.look) | {"example": style}
        ledger = Ledger(folder, {"model": self.model.identity(), "asked": asked}) if folder else None
        outcomes: dict[Job, Any] = {job: ledger.results(job) if ledger else None for job in jobs}
        new = [job for job in jobs if outcomes[job] is None]
        outcomes |= self._overlapped(new, {job: number / len(jobs) for number, job in enumerate(jobs)}, ledger)
        broken = [job for job in jobs if isinstance(outcomes[job], Exception)]
        if broken and not ledger:
            raise outcomes[broken[0]]
        written = [path for job in jobs if job not in broken for path in outcomes[job]]
        self.progress(1.0, "")
        earlier = f", {len(jobs) - len(new)} of {len(jobs)} inputs done before" if len(new) < len(jobs) else ""
        for line in [f"{len(written)} files to {folder}{earlier}"] if ledger else written:
            self.say(f"written  {line}")
        if broken:
            kind = "files" if len(self.contrasts) == 1 else "patients"
            rows = [f"{job.files[0]}: {outcomes[job] or type(outcomes[job]).__name__}" for job in broken]
            raise GantkError("\n  ".join([f"{len(broken)} of {len(jobs)} {kind} could not be translated:", *rows]))
        if ledger:
            ledger.path.unlink(missing_ok=True)
        return written

    def _overlapped(self, jobs: list[Job], shares: dict[Job, float], ledger: Ledger | None) -> dict[Job, Any]:
        """The paths that each job became, or the FAILURE that it met.

        While the network computes, the next job is read and the last one written, where three fit into ROOM. Any other
        error and Ctrl-C end all, once what is being written has been.
        """
        outcomes: dict[Job, Any] = {}
        ahead: dict[Job, Future] = {}
        writing: dict[Job, Future] = {}
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            for job, following in zip(jobs, [*jobs[1:], None], strict=True):
                try:
                    image = (ahead.pop(job, None) or reader.submit(self._read, job)).result()
                    overlap = self.frame.pipelined and 3 * image.pixels.nbytes <= ROOM
                    if overlap and following:
                        ahead[following] = reader.submit(self._read, following)
                    made = self._translated(job, image, shares[job], len(shares))
                    wait(list(writing.values())[-1:])
                    writing[job] = writer.submit(self._write, job, made, ledger)
                    if not overlap:
                        wait([writing[job]])
                except FAILURES as error:
                    outcomes[job] = error
        for job, future in writing.items():
            try:
                outcomes[job] = future.result()
            except FAILURES as error:
                outcomes[job] = error
        return outcomes

    def _read(self, job: Job) -> Image:
        if len(job.scans) > 1:
            return _stacked(job.scans, self.contrasts, self.frame.missing)
        return read(job.scans[0], self.volume)

    def _translated(self, job: Job, image: Image, begun: float, jobs: int) -> list[Image]:
        self.progress(begun, job.name)
        for line in image.remarks if len(job.scans) == 1 else ():
            self.say(f"note     {line}")
        share = lambda done, total: self.progress(begun + done / total / jobs, job.name)  # noqa: E731
        return self.model.images(image, self.to, self.look, share)

    def _write(self, job: Job, results: Sequence[Image], ledger: Ledger | None) -> list[Path]:
        tails = ["", "_uncertainty"] if self.look.uncertainty else [""]
        if self.look.variants is not None:
            tails = [f"-{number}" for number in range(1, self.look.variants + 1)]
        written = []
        for tail, result in zip(tails, results, strict=True):
            several = len(self.made) > 1 and result.channels == len(self.made)  # one file for each contrast
            parts = zip(result.pixels[:, None], self.made, strict=True) if several else [(result.pixels, "")]
            for pixels, name in parts:
                path = _with_tail(job.target, tail + (f"_{name}" if name else ""))
                path.parent.mkdir(parents=True, exist_ok=True)
                shown = name or self.frame.target
                said = f"uncertainty of {shown}" if tail == "_uncertainty" else shown
                files.write(path, replace(result, pixels=pixels), description=said)
                written.append(path)
        if ledger:
            ledger.add(job, written)
        return written


class Ledger:
    """`.NAME.translation.json` beside a folder NAME of results, so that the same command goes on where it stopped.

    It says which results came from which inputs, and in its `head` by which model and how. An entry counts while its
    inputs have the same size and time of change and its results are there; with another head all is done anew.
    """

    def __init__(self, folder: Path, head: dict[str, Any]):
        self.folder, self.head, self.done = folder, head, {}
        self.path = folder.absolute().parent / f".{folder.absolute().name}.translation.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # there is none, or it is no such list
            known = json.loads(self.path.read_text("utf-8"))
            if known["head"] == json.loads(json.dumps(head)):
                self.done = dict(known["done"])

    def results(self, job: Job) -> list[Path] | None:
        """What an earlier call made of a job; None where that is not so any more."""
        with contextlib.suppress(OSError, KeyError):
            entry = self.done[job.name]
            results = [self.folder / name for name in entry["results"]]
            if entry["inputs"] == _times(job) and all(path.exists() for path in results):
                return results
        return None

    def add(self, job: Job, results: Sequence[Path]) -> None:
        """Write down what the job became."""
        names = [path.relative_to(self.folder).as_posix() for path in results]
        with contextlib.suppress(OSError):  # a folder that may not be written to costs the list, not the results
            self.done[job.name] = {"inputs": _times(job), "results": names}
            write_file(self.path, (json.dumps({"head": self.head, "done": self.done}, indent=1) + "\n").encode())


def _times(job: Job) -> list[list[int]]:
    """Size and time of change of each file that a job reads."""
    return [[status.st_size, status.st_mtime_ns] for status in (file.stat() for file in job.files)]


def _stacked(parts: Sequence[Scan | None], contrasts: list[str], missing: str) -> Image:
    """A patient's contrasts as the channels of one image, nan where one is missing."""
    absent = [contrast for contrast, scan in zip(contrasts, parts, strict=True) if scan is None]
    there = [read(scan) for scan in parts if scan is not None]
    first = there[0]
    if absent and missing == "refuse":
        remedy = 'add the files, or train with data.missing = "mask"'
        raise UserError(f"{' and '.join(absent)} missing in '{first.path.parent}'", where="INPUT", remedy=remedy)
    for image in there:
        if not same_grid(image, first) or image.channels != 1:
            what = f"'{image.path}' is not on the grid of '{first.path}'"
            raise UserError(what, where="INPUT", remedy="resample all contrasts of a patient onto one of them")
    blank, rest = np.full_like(first.pixels, np.nan), iter(there)
    return replace(first, pixels=np.concatenate([blank if scan is None else next(rest).pixels for scan in parts]))


def _patients(source: Path, target: Path, contrasts: list[str], domain: str) -> list[Job]:
    """A job for each folder that holds files named after the contrasts."""
    from gantk.data.sources.file_names import contrast_files

    jobs = []
    for folder, found in contrast_files(files.list_images(source, recursive=True), contrasts).items():
        first = next(filter(None, found.values()))
        name = f"{folder.name}_{domain.replace('+', '-')}{suffix_of(first)}"
        place = target if folder == source else target / folder.parent.relative_to(source)
        parts = tuple(file and Scan(file, (file,), file.name) for file in found.values())
        jobs.append(Job(parts, place / name, folder.name))
    if not jobs:
        what = f"no folder in '{source}' holds files named after {', '.join(contrasts)}"
        raise UserError(what, where="INPUT", remedy="name a patient's folder with one file for each")
    return jobs


def _target_file(source: Path, target: Path) -> Path:
    """Where the translation of one file goes; UserError where it cannot be written."""
    part = files.series_format(source)
    kind = part.suffixes[0] if part else suffix_of(source)
    if not files.is_image(source) and not part:
        raise UserError(f"'{source.name}' is not an image that gantk reads", where="INPUT", allowed=files.readable())
    if target.is_dir() or not target.suffix:
        target = target / source.name
    if target.exists() and target.samefile(source):
        raise UserError("OUTPUT is INPUT itself", where=str(target), remedy="name another file")
    if suffix_of(target) not in files.formats():
        raise UserError(f"'{target.name}' has no suffix that gantk writes", where="OUTPUT", allowed=kind)
    if files.is_volume(source) != files.is_volume(target):
        raise UserError(f"'{source.name}' cannot become '{target.name}'", where="OUTPUT", allowed=kind)
    return target


def _with_tail(path: Path, tail: str) -> Path:
    """`scan.nii.gz` with the tail "-1" is `scan-1.nii.gz`."""
    stem = files.stem_of(path) if suffix_of(path) in files.formats() else path.name  # a series is a folder
    return path.with_name(f"{stem}{tail}{path.name[len(stem) :]}")
