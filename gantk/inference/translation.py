"""Translates files and folders with a trained model; results have the format of their input unless
told otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import GantkError, UserError, counted
from gantk.files import sweep
from gantk.formats import files
from gantk.formats.files import Scan, read, suffix_of
from gantk.formats.image import Image, same_grid
from gantk.inference.ledger import Ledger
from gantk.inference.pipeline import OTHER, Look, TrainedModel
from gantk.plugin.loader import load

FAILURES = (GantkError, OSError, MemoryError)  # of one file: the others are still translated
STEPS = 64  # least span of whole numbers for a domain whose files held fractions
LONGEST = 255  # bytes of a name, at most, on common file systems
SEEN = 200_000  # about how many pixels of an image are compared with its translation
ROOM = 1 << 30  # bytes of three images, at most, for reading and writing while the network runs


@dataclass(frozen=True)
class Job:
    """One image to translate: the scans of its contrasts, in order (None: missing), and the path of
    the result.
    """

    scans: tuple[Scan | None, ...]
    target: Path
    name: str  # of the input, relative to the input folder

    @property
    def files(self) -> list[Path]:
        """All files of the input."""
        return [file for scan in self.scans if scan is not None for file in scan.files]


class Translation:
    """Translates files and folders in one direction of a model; see `gantk.api.translate`."""

    def __init__(
        self,
        model: TrainedModel,
        to: str | None,
        look: Look,
        volume: int | None,
        say: Callable[[str], None],
        progress: Callable[[float, str], None] | None,
        clip: bool = True,
        suffix: str = "",
        keep_header: bool = False,
        workers: Callable[..., None] | None = None,
    ):
        self.model = model
        self.to = to
        self.look = look
        self.volume = volume
        self.say = say
        self.progress = progress or (lambda share, name: None)
        self.letter = model.domain(to)
        self.frame = model.frame(self.letter)
        names = model.contrasts(self.letter)
        self.outputs = names[model.part(self.letter, to)]  # the contrasts to write
        if self.outputs != names:
            self.frame = replace(self.frame, target=self.outputs[0])
        self.contrasts = model.contrasts(OTHER[self.letter])
        if look.uncertainty:
            factor, patients = model.spread_scale(self.letter, look.uncertainty)
            if factor:
                scaled = f"by {factor:.3g}, as fitted on {counted(patients, 'validation patient')}"
            else:
                scaled = ""
            say(
                "note     the uncertainty is"
                f" {f'scaled {scaled}' if scaled else 'not scaled: a spread, not an error'}"
            )
        self.workers = workers  # see `_shared_out`
        # whether to clip overshoot; to copy header texts
        self.clip = clip
        self.keep_header = keep_header
        self.suffix = suffix  # of results, "" for the input's
        # (kind, line) -> the images it applies to
        self.notes: dict[tuple[str, str], list[str]] = defaultdict(list)
        # clipped, all, lowest, highest, limits
        self.clipped: list[tuple[int, int, float, float, str]] = []
        self.targets: set[Path] = set()  # in a folder of results
        self.count = 1  # images of INPUT
        self.layout: Any = None  # a plugin's names of results, see `gantk_name_results`

    def path(self, source: Path, target: Path) -> list[Path]:
        """Translate a file to a file, a DICOM series to a folder, or a folder to a folder; returns
        the paths written.

        A file of a folder that cannot be translated does not stop the others: a GantkError at the
        end lists all failures. Results that an earlier call with the same options has written are
        kept.
        """
        if not source.exists():
            raise UserError(
                f"there is no file or folder '{source}'", where="INPUT", remedy="check the path"
            )
        if not source.is_dir():
            job = Job(
                (Scan(source, (source,), source.name),),
                _target_file(source, target, self.suffix),
                source.name,
            )
            return self._translate_all(
                [job] if job.target == target else self._named([job], target)
            )
        if target.resolve() == source.resolve():
            raise UserError(
                "OUTPUT is INPUT itself", where=str(target), remedy="name another folder"
            )
        if len(self.contrasts) > 1:
            jobs = _patients(source, target, self.contrasts, self.frame.target)
        else:
            if target.resolve().is_relative_to(source.resolve()):
                inside = target.resolve()
            else:
                inside = Path()
            below = [
                scan
                for scan in files.scans(source)
                if not scan.path.resolve().is_relative_to(inside)
            ]
            if len(below) == 1 and below[0].path == source:  # one DICOM series
                if suffix_of(target) not in files.formats():
                    target = _with_suffix(target, self.suffix)
                return self._translate_all([Job((below[0],), target, source.name)])
            jobs = [Job((scan,), target / scan.name, scan.name) for scan in below]
        jobs = self._named(
            [replace(job, target=_with_suffix(job.target, self.suffix)) for job in jobs], target
        )
        if target.is_file() or files.is_image(target):
            raise UserError(
                f"'{target}' is no folder",
                where="OUTPUT",
                remedy="INPUT is a folder, so name a folder",
            )
        if not jobs:
            raise UserError(
                f"no images in the folder '{source}'", where="INPUT", allowed=files.readable()
            )
        return self._translate_all(jobs, target)

    def _named(self, jobs: Sequence[Job], target: Path) -> list[Job]:
        """The jobs with result names from a plugin, without those it gives no name; unchanged
        without such a plugin.
        """
        files = [file for job in jobs for file in job.files]
        model = self.model.identity()
        self.count = len(jobs)
        self.layout = load().hook.gantk_name_results(
            files=files, target=target, frame=self.frame, model=model
        )
        if not self.layout:
            return list(jobs)
        self.folder, names = (
            target,
            {job: self.layout.name(job.files, "", self.frame.target) for job in jobs},
        )
        if out := [job.name for job, name in names.items() if not name]:
            self.notes["note", f"left out, not called {self.frame.source}"] = out
        return [
            replace(job, target=target / f"{name}{suffix_of(job.target)}")
            for job, name in names.items()
            if name
        ]

    def _translate_all(self, jobs: Sequence[Job], folder: Path | None = None) -> list[Path]:
        """Translate jobs whose results go into `folder`; without a folder there is one job, whose
        error is raised.
        """
        example = self.look.example
        style = None if example is None else hashlib.sha256(example.pixels.tobytes()).hexdigest()
        to = self.letter if self.outputs == self.model.contrasts(self.letter) else self.frame.target
        options = {"to": to, "volume": self.volume} | vars(self.look) | {"example": style}
        options |= {"clip": self.clip, "format": self.suffix, "keep_header": self.keep_header}
        options |= {"model": self.model.identity()}
        ledger = Ledger(folder, options) if folder else None
        with ledger or contextlib.nullcontext():
            return self._unfinished(jobs, folder, ledger)

    def _unfinished(self, jobs: Sequence[Job], folder: Path | None, ledger: Any) -> list[Path]:
        """Translate the jobs that have no results in the ledger yet; returns the paths of all
        results.
        """
        for place in {job.target.parent for job in jobs} | (
            {folder, folder.absolute().parent} if folder else set()
        ):
            sweep(place)
        outcomes: dict[Job, Any] = {job: ledger and ledger.results(job) for job in jobs}
        self.targets = {job.target for job in jobs if folder}.union(
            *filter(None, outcomes.values())
        )
        new = [job for job in jobs if outcomes[job] is None]
        parts = self.outputs if len(self.outputs) > 1 else [""]
        paths = Counter(
            self._path(job, tail, part) for job in jobs for tail in self._tails for part in parts
        )
        if twice := [
            f"{count} images would become '{path.name}'"
            for path, count in paths.items()
            if count > 1
        ]:
            raise UserError(
                twice[0], where="OUTPUT", remedy="translate one of them into another folder"
            )
        if long := [path.name for path in paths if len(os.fsencode(path.name)) > LONGEST]:
            what = (
                f"{counted(long, 'result')} would have a name of more than {LONGEST} bytes, such as"
                f" '{long[0]}'"
            )
            raise UserError(
                what,
                where="OUTPUT",
                remedy="shorten the names of the inputs: no disk holds such names",
            )
        shares = {job: number / len(jobs) for number, job in enumerate(jobs)}
        outcomes |= (
            self._shared_out(new, len(jobs), ledger)
            if self.workers
            else self._overlapped(new, shares, ledger)
        )
        failed = [job for job in jobs if isinstance(outcomes[job], Exception)]
        if failed and not folder:
            raise outcomes[failed[0]]
        written = [path for job in jobs if job not in failed for path in outcomes[job]]
        self.progress(1.0, "")
        for (kind, line), names in self.notes.items():
            self.say(f"{kind:9}{line}{_of(names, self.count) if folder else ''}")
        if any(beyond for beyond, *_ in self.clipped):
            beyond, values, low, high, ends = zip(*self.clipped, strict=True)
            some = (
                f"{100 * sum(beyond) / sum(values):.2g} % of all values to"
                f" {' or '.join(sorted(set(ends)))}"
            )
            ran = f"which run from {min(low):.4g} to {max(high):.4g} (--format tif keeps them)"
            self.say(
                f"clipped  {some} in {np.count_nonzero(beyond)} of {len(beyond)} images, {ran}"
            )
        if len(new) < len(jobs):
            earlier = f", {len(jobs) - len(new)} of {len(jobs)} inputs done before"
        else:
            earlier = ""
        for line in [f"{counted(written, 'file')} to {folder}{earlier}"] if folder else written:
            self.say(f"written  {line}")
        if failed:
            kind = "files" if len(self.contrasts) == 1 else "patients"
            lines = [f"{len(failed)} of {len(jobs)} {kind} could not be translated:"]
            lines += _reasons({job: outcomes[job] for job in failed}, len(jobs))
            failure = GantkError("\n  ".join(lines))
            if all(isinstance(outcomes[job], UserError) for job in jobs):
                failure.exit_code = 2
            else:
                failure.exit_code = 1
            raise failure
        return written

    def one(self, job: Job) -> tuple[Any, dict, list]:
        """Translate one job; returns its paths or its error (one of FAILURES), its messages, and
        what was clipped.
        """
        self.notes = defaultdict(list)
        self.clipped = []
        (outcome,) = self._overlapped([job], {job: 0.0}, None).values()
        return outcome, dict(self.notes), self.clipped

    def _shared_out(self, jobs: list[Job], count: int, ledger: Any) -> dict[Job, Any]:
        """Let workers translate the jobs; returns what `_overlapped` returns.

        Workers get a copy of this object without its model, call `one` for a job, and pass job and
        results to `done`.
        """
        clone = copy(self)
        results = {}
        clone.model = None
        clone.workers = None
        clone.say = print
        clone.progress = lambda share, name: None

        def done(job: Job, outcome: Any, texts: dict, clipped: list) -> None:
            results[job] = outcome, texts, clipped  # texts and numbers
            if ledger and not isinstance(outcome, Exception):
                ledger.add(job, outcome)
            self.progress(1 - (len(jobs) - len(results)) / count, job.name)

        self.workers(self, clone, jobs, done)
        for _, texts, clipped in map(results.get, jobs):
            self.clipped += clipped
            for line, names in texts.items():
                self.notes[line] += names
        return {job: results[job][0] for job in jobs}

    def _overlapped(self, jobs: list[Job], shares: dict[Job, float], ledger: Any) -> dict[Job, Any]:
        """Translate jobs; returns for each job its paths, or its error (one of FAILURES).

        While the network runs, the next job is read and the last one written, if three images fit
        into ROOM. Any other error, and Ctrl-C, stop all jobs once the current result is written.
        """
        outcomes: dict[Job, Any] = {}
        ahead: dict[Job, Future] = {}
        writing: dict[Job, Future] = {}
        last: list[Future] = []
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            for job, following in zip_longest(jobs, jobs[1:]):
                try:
                    image = (ahead.pop(job, None) or reader.submit(self._read, job)).result()
                    overlap = self.frame.pipelined and 3 * image.pixels.nbytes <= ROOM
                    if overlap and following:
                        ahead[following] = reader.submit(self._read, following)
                    made = self._translated(job, image, shares[job], len(shares))
                    wait(last)
                    writing[job] = writer.submit(self._write, job, made, ledger)
                    last = [writing[job]]
                    if not overlap:
                        wait(last)
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
            if [
                name for name, scan in zip(self.contrasts, job.scans, strict=True) if scan
            ] == self.outputs:
                raise UserError(
                    f"nothing but {self.outputs[0]} to make it from",
                    where="INPUT",
                    allowed=self.contrasts,
                )
            return _stacked(job.scans, self.contrasts, self.frame.missing)
        return read(job.scans[0], self.volume)

    def _translated(self, job: Job, image: Image, begun: float, jobs: int) -> list[Image]:
        self.progress(begun, job.name)
        single = len(job.scans) == 1  # plugins check single contrasts only
        for line in image.remarks if single else ():
            self.notes["note", line.removeprefix(f"'{image.path}'").lstrip(": ")].append(job.name)
        if single and {image.channels, self.frame.channels} == {1, 3} and image.affine is None:
            image = self._recoloured(image, job)
        if np.ptp(image.pixels) == 0:
            self.notes[
                "note", f"blank, of one value throughout, as is their {self.frame.target}"
            ].append(job.name)
        self._warn(
            job, load().hook.gantk_image_warning(image=image, frame=self.frame) if single else ()
        )
        share = lambda done, total: self.progress(begun + done / total / jobs, job.name)  # noqa: E731
        spill = next(folder for folder in job.target.absolute().parents if folder.is_dir())
        every = slice(None, None, max(1, round((image.pixels[0].size / SEEN) ** (1 / image.dims))))
        some = (slice(None), *[every] * image.dims)
        given = image.pixels[some].copy() if single else None  # the image may be overwritten
        made = self.model.images(replace(image, own=True, spill=spill), self.to, self.look, share)
        if single:
            self._warn(
                job,
                load().hook.gantk_translation_warning(
                    given=given, made=made[0].pixels[some], frame=self.frame
                ),
            )
        return made

    def _warn(self, job: Job, lines: Iterable[str]) -> None:
        """Keep plugins' warnings for the end, and pass them to the plugin that names results (BIDS
        sidecars).
        """
        for line in lines:
            self.notes["warning", line].append(job.name)
            if hasattr(self.layout, "warned"):
                self.layout.warned(job.files, line)

    @cached_property
    def _tails(self) -> list[str]:
        """The endings of the names of one input's results."""
        if self.look.variants is not None:
            return [f"-{number}" for number in range(1, self.look.variants + 1)]
        return ["", "_uncertainty"] if self.look.uncertainty else [""]

    def _path(self, job: Job, tail: str, contrast: str) -> Path:
        """The path of a result; `contrast` is "" if it is the only one."""
        if self.layout:
            name = self.layout.name(job.files, tail, contrast or self.frame.target)
            return self.folder / f"{name}{suffix_of(job.target)}"
        stem = _stem(job.target)
        tail += f"_{contrast}" if contrast else ""
        # "scan-1.nii.gz"
        return job.target.with_name(f"{stem}{tail}{job.target.name[len(stem) :]}")

    def _write(self, job: Job, results: Sequence[Image], ledger: Any) -> list[Path]:
        pending = []
        for tail, result in zip(self._tails, results, strict=True):
            # one file for each contrast
            several = len(self.outputs) > 1 and result.channels == len(self.outputs)
            if several:
                parts = zip(result.pixels[:, None], self.outputs, strict=True)
            else:
                parts = [(result.pixels, "")]
            for pixels, name in parts:
                path = self._path(job, tail, name)
                image = replace(result, pixels=pixels, keep_header=self.keep_header)
                if self.suffix and suffix_of(path) != suffix_of(job.files[0]):
                    image = replace(image, dtype=None)
                fitted = self._fitted(path, image, job) if self.clip else (path, image, [])
                pending.append((*fitted, name or self.frame.target, tail))
        for path, *_ in pending[1:]:  # deletes what an earlier call has left of these
            files.writer_of(path, pending[0][1]).withdraw(path)
        for path, image, clipped, shown, tail in pending:
            path.parent.mkdir(parents=True, exist_ok=True)
            if writing := getattr(self.layout, "writing", None):
                writing(path, job.files, shown)
            files.write(
                path,
                image,
                description=f"uncertainty of {shown}" if tail == "_uncertainty" else shown,
            )
            self.clipped += clipped
            if self.layout:
                self.layout.written(path, job.files, shown)
        written = [path for path, *_ in pending]
        if ledger:
            ledger.add(job, written)
        return written

    @cached_property
    def _range(self) -> tuple[float, float, bool]:
        """The least and the largest value of the target's training images, and whether these were
        whole numbers.
        """
        if known := self.frame.values.get("target"):
            return known["low"], known["high"], known["whole"]
        mapping = self.model.pipeline(self.letter, self.look).target  # older runs do not hold them
        lines = getattr(mapping, "lines", [mapping])
        ends = [float(line.inverse(np.array(end))) for line in lines for end in line.range]
        return min(ends), max(ends), True

    def _fitted(self, path: Path, image: Image, job: Job) -> tuple[Path, Image, list]:
        """Clip overshoot to the whole numbers that a file holds; returns path, image, and the entry
        for `clipped`.

        If these cannot hold the target's range either, a file in a folder becomes a TIFF; else
        UserError.
        """
        low, high, whole = self._range
        limits = files.writer_of(path, image).limits(path, image)
        if not whole and high - low < STEPS:  # rounding would leave too few levels
            limits = [ends for ends in limits if ends[1] == np.inf]
        fits = [ends for ends in limits if ends[0] <= low + 0.05 * (high - low) and high <= ends[1]]
        if not fits:
            what = (
                f"{self.frame.target} runs from {low:g} to {high:g}, which no {suffix_of(path)}"
                " file holds"
            )
            other = _with_suffix(path, ".tif")
            if (
                self.suffix
                or path == other
                or not self.targets
                or other in self.targets
                or image.channels > 1
            ):
                raise UserError(
                    what, where=str(path), remedy="write another kind: --format tif, or nii.gz"
                )
            self.targets.add(other)
            self.notes["note", f"{what}: written as .tif"].append(job.name)
            return self._fitted(other, replace(image, dtype=None), job)
        least, most = fits[0]
        if most == np.inf:
            return path, image, []
        rounded = np.rint(image.pixels)
        beyond = np.count_nonzero((rounded < least) | (rounded > most))
        low = float(image.pixels.min())
        high = float(image.pixels.max())
        ends = f"{least:g} .. {most:g}"
        return (
            path,
            replace(image, pixels=np.clip(rounded, least, most)),
            [(beyond, rounded.size, low, high, ends)],
        )

    def _recoloured(self, image: Image, job: Job) -> Image:
        """Convert a colour picture to gray for a model of gray ones, and gray to colour for one of
        colour ones.
        """
        from gantk.data.sources.reader import LUMA

        # (channels after, channels before)
        weights = np.ones((3, 1)) if image.channels == 1 else LUMA[None]
        self.notes[
            "note", "colour, taken as gray" if len(weights) == 1 else "gray, taken as colour"
        ].append(job.name)
        return replace(image, pixels=np.tensordot(weights, image.pixels, 1).astype(np.float32))


def _reasons(errors: dict[Job, Exception], count: int) -> list[str]:
    """Lines on jobs that failed, of `count`: one for all whose messages differ in names and numbers
    alone.
    """
    # by the message without names and numbers: the first one, and the jobs
    messages = {}
    names = defaultdict(list)
    for job, error in errors.items():
        text = message = f"{job.files[0]}: {error or type(error).__name__}"
        for name in (str(job.files[0]), str(job.target), job.target.name):
            text = text.replace(name, "")
        text = re.sub(r"-?\d[\d.]*", "", text)
        messages.setdefault(text, message)
        names[text].append(job.name)
    return [
        f"{line} The same{_of(names[text], count)}" if names[text][1:] else line
        for text, line in messages.items()
    ]


def _stacked(parts: Sequence[Scan | None], contrasts: list[str], missing: str) -> Image:
    """Read a patient's contrasts as the channels of one image; a missing contrast is nan."""
    absent = [contrast for contrast, scan in zip(contrasts, parts, strict=True) if scan is None]
    images = [read(scan) for scan in parts if scan is not None]
    first = images[0]
    if absent and missing == "refuse":
        remedy = 'add the files, or train with data.missing = "mask"'
        raise UserError(
            f"{' and '.join(absent)} missing in '{first.path.parent}'", where="INPUT", remedy=remedy
        )
    for image in images:
        if not same_grid(image, first) or image.channels != 1:
            what = f"'{image.path}' is not on the grid of '{first.path}'"
            raise UserError(
                what, where="INPUT", remedy="resample all contrasts of a patient onto one of them"
            )
    blank = np.full_like(first.pixels, np.nan)
    remaining = iter(images)
    return replace(
        first,
        pixels=np.concatenate(
            [blank if scan is None else next(remaining).pixels for scan in parts]
        ),
    )


def _patients(source: Path, target: Path, contrasts: list[str], domain: str) -> list[Job]:
    """A job for each folder that holds files named after the contrasts."""
    from gantk.data.names.domains import contrast_files

    jobs = []
    for folder, found in contrast_files(
        files.list_images(source, recursive=True), contrasts
    ).items():
        first = next(filter(None, found.values()))
        name = f"{folder.name}_{domain.replace('+', '-')}{suffix_of(first)}"
        place = target if folder == source else target / folder.parent.relative_to(source)
        parts = tuple(file and Scan(file, (file,), file.name) for file in found.values())
        jobs.append(Job(parts, place / name, folder.name))
    if not jobs:
        what = f"no folder in '{source}' holds files named after {', '.join(contrasts)}"
        raise UserError(
            what, where="INPUT", remedy="name a patient's folder with one file for each"
        )
    return jobs


def _target_file(source: Path, target: Path, suffix: str) -> Path:
    """The path for the translation of one file; UserError if it cannot be written."""
    part = files.series_format(source)
    kind = part.suffixes[0] if part else suffix_of(source)
    if not files.is_image(source) and not part:
        raise UserError(
            f"'{source.name}' is not an image that gantk reads",
            where="INPUT",
            allowed=files.readable(),
        )
    if target.is_dir() or not target.suffix:
        target = _with_suffix(target / source.name, suffix)
    if suffix and suffix_of(target) != suffix:
        raise UserError(
            f"'{target.name}' is no {suffix} file", where="OUTPUT, --format", remedy="name a folder"
        )
    if target.exists() and target.samefile(source):
        raise UserError("OUTPUT is INPUT itself", where=str(target), remedy="name another file")
    if suffix_of(target) not in files.formats():
        raise UserError(
            f"'{target.name}' has no suffix that gantk writes", where="OUTPUT", allowed=kind
        )
    if files.is_volume(source) != files.is_volume(target) and not suffix:
        raise UserError(
            f"'{source.name}' cannot become '{target.name}'", where="OUTPUT", allowed=kind
        )
    return target


def _with_suffix(path: Path, suffix: str) -> Path:
    """`scan.png` with the suffix ".nii.gz" is `scan.nii.gz`; without one it is left as it is."""
    return path.with_name(_stem(path) + suffix) if suffix else path


def _stem(path: Path) -> str:
    # a series is a folder
    return files.stem_of(path) if suffix_of(path) in files.formats() else path.name


def _of(names: Sequence[str], count: int) -> str:
    """Text with the number of images that a line applies to, of `count`, and the first three names."""
    return (
        f" ({len(names)} of {count} images:"
        f" {', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
    )
