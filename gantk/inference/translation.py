"""Translates files and folders with a trained model: read, call, write. Results have the format of
their input, unless an option changes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gantk.catalog.catalog import Catalog, unread_note
from gantk.catalog.image_table import read_table
from gantk.errors import GantkError, UserError, count_noun, join_first
from gantk.files import json_object, make_folder, sweep, write_output
from gantk.formats import files
from gantk.formats.files import expect_file_of, outline, read, suffix_of
from gantk.guest import Say
from gantk.inference.case import Case, contrasts_to_make
from gantk.inference.frame import TranslateOptions
from gantk.inference.jobs import (
    Job,
    Output,
    inputs_below,
    job_of_files,
    jobs_of_cases,
    jobs_of_images,
)
from gantk.inference.ledger import Ledger
from gantk.inference.model import Model
from gantk.inference.notes import Note
from gantk.inference.result_format import ResultFormat, with_suffix, with_tail
from gantk.inference.sidecar import ResultFile
from gantk.plugin.loader import load
from gantk.progress import Work

# of one file: the others are still translated
FAILURES = (GantkError, OSError, MemoryError)
Outcomes = dict[Job, Any]  # the paths written for each job, or its error (one of FAILURES)
ABOUT_SPREAD = (
    "the uncertainty is how much the models differ. An error that all of them make is not in it: in"
    " tumours such maps did not show the errors"
)
MAX_LISTED = 3  # files in a message
NUMBER = re.compile(r"(?<![\w.,'-])\d+(?:\.\d+)?(?![\w']|[.,]\d)")  # not one in a name
TABLES = (".csv", ".tsv")  # suffixes of tables of images
# of an image, at most, for reading and writing others while the network runs
OVERLAP_BYTES = 1 << 28


@dataclass
class Translation:
    """Translates files and folders in one direction of a model; see `gantk.api.translate`."""

    model: Model
    to: str | None
    options: TranslateOptions
    volume: int | None
    say: Say
    _: KW_ONLY
    suffix: str = ""  # of results; "": the input's
    overwrite: bool = False  # whether to replace what gantk did not write
    input_layout: str = ""  # whose each file of a folder is; "": gantk finds it
    tested: str = ""  # how good the model is, for the JSON files

    def __post_init__(self) -> None:
        self._set_direction()
        self.count = 1  # of inputs
        # (kind, *texts between numbers) -> (name of an input it applies to, *numbers)
        self.notes: dict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
        self.shared_sidecars: set[Path] = set()  # that several results would have
        self.layout: Any = None  # a plugin's names of results, see `gantk_name_results`
        if self.options.uncertainty:
            self.say(f"note     {ABOUT_SPREAD}")

    def _set_direction(self) -> None:
        letter = self.model.domain(self.to)
        self.model.network_of(letter, self.options)  # refuses what the model cannot do
        self.frame = self.model.frame(self.to)
        self.contrasts = self.frame.sources
        self.outputs = self.frame.targets  # the contrasts to write
        self.format = ResultFormat(self.model.pipelines[letter], self.frame, self.suffix)
        self.noun = "patients" if len(self.contrasts) > 1 else "images"  # of jobs

    def path(self, source: Path | Mapping[str, Path], target: Path) -> list[Path]:
        """Translate a file to a file, a DICOM series to a folder, or a folder to a folder; returns
        the paths written. A mapping holds the files of one patient by contrast.

        A file of a folder that cannot be translated does not stop the others: a GantkError at the
        end lists all failures. Results that an earlier call with the same options has written are
        kept.
        """
        jobs, is_folder = self._jobs_of(source, target)
        self._say_notes()
        ledger = Ledger(target, self._identity()) if is_folder else None
        # an error leaves the ledger, so that a next call goes on
        with ledger or contextlib.nullcontext():
            places = {file.parent for job in jobs for file in self._files_of(job)}
            for place in places | ({target, target.absolute().parent} if is_folder else set()):
                sweep(place)  # what killed calls left half-written
            self._expect_own_names(jobs)
            outcomes: Outcomes = {}
            for job in jobs:
                results = [output.path for output in job.outputs]
                written = self._files_of(job)
                if ledger and ledger.has(results, written, job.files):
                    outcomes[job] = results
                else:
                    files.expect_writable(written, self.overwrite)

            if ledger:
                ledger.begin()
            done_before = len(outcomes)
            new = [job for job in jobs if job not in outcomes]
            outcomes |= self._translate_jobs(new, done_before)
            outcomes = {job: outcomes[job] for job in jobs}
            return self._finish(outcomes, target if is_folder else None, done_before)

    # ---- what is translated

    def _jobs_of(
        self, source: Path | Mapping[str, Path], target: Path
    ) -> tuple[Sequence[Job], bool]:
        """What is to be translated, and whether `target` is a folder of many results."""
        job = None
        if isinstance(source, Mapping):
            job = job_of_files(source, self.contrasts)
            source = job.first
        if job is None or len(self.contrasts) == 1:
            if not source.exists():
                raise UserError(
                    f"there is no file or folder '{source}'", where="INPUT", remedy="check the path"
                )
            if target.resolve() == source.resolve():
                raise UserError(
                    "OUTPUT is the same as INPUT", where=str(target), remedy="name another folder"
                )
            if source.is_dir() or source.suffix.lower() in TABLES:
                return self._jobs_below(source, target)
            if not files.is_image(source) and not files.series_format(source):
                raise files.unread_error(source).at("INPUT")
            if job is None and self.to is None:
                self._choose_direction([outline(source, self.volume)], source)
            scan = files.scan_of(source)
            job = Job(scan.name, {self.frame.source: [scan]})

        is_file = bool(target.suffix) and not target.is_dir()
        if is_file:
            expect_file_of(job.files[0], target, self.suffix)
        return self._with_outputs([job], target, is_file=is_file), False

    def _jobs_below(self, source: Path, target: Path) -> tuple[Sequence[Job], bool]:
        """The jobs of a folder or a table, as `_jobs_of`; what is not used is said."""
        several = len(self.contrasts) > 1
        if source.is_dir():
            root = source
            stripped = several and self.frame.stripped
            layout = self.input_layout
            catalog = inputs_below(source, target, self.contrasts, stripped=stripped, layout=layout)
        else:
            root = source.parent
            catalog = read_table(source, self.contrasts)
        if self.to is None and not several:
            usual = self.contrasts
            self._choose_direction(catalog.of_kind("image"), source)
            if self.contrasts != usual:
                return self._jobs_below(source, target)
        if catalog.in_words:
            self.say(f"layout   {catalog.in_words}")

        if several:
            jobs = jobs_of_cases(catalog, root, self.contrasts)
        else:
            jobs = jobs_of_images(catalog, root, self.contrasts[0])
        self._say_unused(catalog, root, jobs)
        if not jobs:
            raise UserError(
                f"the folder '{source}' contains no images", where="INPUT", allowed=files.readable()
            )

        if [scan.path for job in jobs for scan in job.scans.values()] == [source]:  # one series
            if suffix_of(target) not in files.formats():
                target = with_suffix(target, self.suffix)
            return self._with_outputs(
                [replace(jobs[0], name=source.name)], target, is_file=True
            ), False
        if target.is_file() or files.is_image(target):
            raise UserError(
                f"'{target}' is not a folder",
                where="OUTPUT",
                remedy="name a folder, because INPUT is a folder",
            )
        self.count = len(jobs)
        return self._with_outputs(jobs, target), True

    def _choose_direction(self, images: Iterable[Any], source: Path) -> None:
        """Take the direction that headers or names of images state, see `Model.domain_stated`."""
        self.to, notes = self.model.domain_stated(images, f"'{source}'")
        for kind, line in notes:
            self.say(f"{kind:9}{line}")
        self._set_direction()

    def _say_unused(self, catalog: Catalog, root: Path, jobs: Sequence[Job]) -> None:
        """Say which images of a folder are not translated, for each reason in a line, and how to name
        one.
        """
        used = {  # those of a table have other names
            (scan.files, scan.volume)
            for job in jobs
            for scans in job.candidates.values()
            for scan in scans
        }
        several = len(self.contrasts) > 1
        unused = defaultdict(list)  # names by the reason
        for row in catalog:
            scan = row.scan_below(root)
            is_silent = row.kind == "other" or (several and row.kind == "mask")
            if not is_silent and (scan.files, scan.volume) not in used:
                why = row.why or (
                    f"shows {row.contrast}" if row.contrast else "nothing says what it shows"
                )
                if row.kind == "no scan":
                    why = f"the header says that it is {why}"
                unused[why].append(f"'{scan.name}'")

        how = f"--from {self.contrasts[0]}=FILE ..." if several else "INPUT"
        for why, names in unused.items():
            self.say(
                f"note     {count_noun(names, 'image')} not used ({why}):"
                f" {join_first(names, most=MAX_LISTED)} (to translate one, name it: {how})"
            )
        if unread := unread_note(catalog):
            self.say(f"note     {unread}")

    # ---- which files this gives

    def _with_outputs(
        self, jobs: Sequence[Job], target: Path, *, is_file: bool = False
    ) -> list[Job]:
        """The jobs with their results, in the folder `target` or in this file; UserError where
        nothing is to be made of any.
        """
        wanted = {}  # the contrasts to make
        complete = None
        for job in jobs:
            wanted[job] = self.outputs
            try:
                if self.frame.completes:
                    given = job.candidates
                    wanted[job] = contrasts_to_make(self.outputs, given, self.to, f"'{job.name}'")
            except UserError as error:
                del wanted[job]
                complete = error
                self._keep(job, [("note", "left out, because no contrast is missing")])
                continue
            line = "{} is there, but is made from the others, because --to asks for it"
            self._keep(job, [("note", line.format(n)) for n in wanted[job] if n in job.candidates])
        if complete and not wanted:
            raise complete

        if not is_file:
            self.layout = load().hook.gantk_name_results(
                files=[file for job in wanted for file in job.files],
                target=target,
                frame=self.frame,
                model=self.identity,
            )
        with_outputs = []
        for job, contrasts in wanted.items():
            outputs = tuple(self._outputs_of(job, target, contrasts, is_file))
            if outputs:
                with_outputs.append(replace(job, outputs=outputs))
            else:
                line = f"left out, because the name does not contain {self.frame.source}"
                self._keep(job, [("note", line)])
        return with_outputs

    def _outputs_of(
        self, job: Job, target: Path, contrasts: Sequence[str], is_file: bool
    ) -> Iterator[Output]:
        """The results of a job: one for each contrast that is made, and for each variant or map.

        A file `x.nii` is x.nii or, of several contrasts, x_T2.nii; in a folder a plugin names it, or it
        is named after the input. Variants end in -1, -2, ..., the map of an uncertainty in
        _uncertainty.
        """
        if is_file:
            ends = [f"_{name}" if len(contrasts) > 1 else "" for name in contrasts]
            paths = [with_tail(target, end) for end in ends]
        else:
            is_one = [*job.scans] == [self.frame.source]
            paths = job.result_paths(target, contrasts, is_one)
            paths = [with_suffix(path, self.suffix) for path in paths]
        for tail in self.options.tails:
            for contrast, path in zip(contrasts, paths, strict=True):
                name = self.layout and self.layout.name(job.files, tail, contrast)
                if name:
                    yield Output(target / f"{name}{suffix_of(path)}", contrast, tail)
                elif not self.layout:
                    yield Output(with_tail(path, tail), contrast, tail)

    def _files_of(self, job: Job) -> list[Path]:
        """All files that a job writes: results, and JSON files beside them."""
        paths = [output.path for output in job.outputs]
        return paths + [files.sidecar_of(path) for path in paths if self._has_sidecar(path)]

    def _has_sidecar(self, path: Path) -> bool:
        """Whether a JSON file beside a result describes it: beside scans, not beside pictures."""
        if files.sidecar_of(path) in self.shared_sidecars:
            return False
        is_picture = files.is_image(path) and not files.is_volume(path)
        return bool(self.layout) or self.frame.completes or not is_picture

    def _expect_own_names(self, jobs: Sequence[Job]) -> None:
        """UserError where two results would have one file, or that of an input. A JSON file that would
        describe several results, as of `p1.nii.gz` and `p1.nrrd`, is not written.
        """
        counts = Counter(path for job in jobs for path in self._files_of(job))
        results = {output.path for job in jobs for output in job.outputs}
        self.shared_sidecars = {path for path in counts.keys() - results if counts[path] > 1}
        if self.shared_sidecars:
            names = sorted(f"'{path.name}'" for path in self.shared_sidecars)
            listed = join_first(names, most=MAX_LISTED)
            self.say(f"note     not written, because several results would share it: {listed}")
        inputs = {file.resolve() for job in jobs for file in job.files}
        for path, count in counts.items():
            if path in self.shared_sidecars:
                continue
            if count > 1:
                raise UserError(
                    f"{count} images would be written to the same file '{path.name}'",
                    where="OUTPUT",
                    remedy="translate them into different folders",
                )
            if path.resolve() in inputs:
                raise UserError(
                    "OUTPUT is the same as INPUT", where=str(path), remedy="name another file"
                )

    @cached_property
    def identity(self) -> dict[str, str]:
        """As of the model, which reads all weights for it."""
        return self.model.identity()

    def _identity(self) -> dict[str, Any]:
        """What two calls must have in common, so that one's results are the other's."""
        example = self.options.example
        style = None if example is None else hashlib.sha256(example.pixels.tobytes()).hexdigest()
        return {
            "to": self.frame.target,
            "volume": self.volume,
            **vars(self.options),
            "example": style,
            "format": self.suffix,
            "model": self.identity,
        }

    # ---- read, call, write

    def _translate_jobs(self, jobs: Sequence[Job], done_before: int) -> Outcomes:
        """Translate jobs; returns for each job its paths, or its error (one of FAILURES).

        While the network runs, the next job is read and the last one written, unless images are
        large. Any other error, and Ctrl-C, stop all jobs once the current result is written.
        """
        outcomes: Outcomes = {}
        writing = {}
        unwritten: list[Future] = []  # the last of them
        ahead: Future | None = None  # the next job, being read
        with (
            Work("translating", done_before + len(jobs), "file") as work,
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as writer,
        ):
            for number, job in enumerate(jobs):
                work.advance(done_before + number, f"translating {job.name}")
                reading = ahead or reader.submit(self._read, job)
                ahead = None
                try:
                    case = reading.result()
                    is_small = case.image.pixels.nbytes <= OVERLAP_BYTES
                    if is_small and job is not jobs[-1]:
                        ahead = reader.submit(self._read, jobs[number + 1])
                    results = self._results(job, case)
                    # the input takes no memory while its result is written
                    del reading, case
                    wait(unwritten)
                    writing[job] = writer.submit(self._write, job, results)
                    unwritten = [writing[job]]
                    del results
                    if not is_small:
                        wait(unwritten)
                except FAILURES as error:
                    outcomes[job] = error

        for job, future in writing.items():
            try:
                outcomes[job] = future.result()
            except FAILURES as error:
                outcomes[job] = error
        return outcomes

    def _read(self, job: Job) -> Case:
        """The images of a job; what is said about them is kept as notes."""
        job.expect_single_scans()
        images = {name: read(scan, self.volume) for name, scan in job.scans.items()}
        case = Case(self.model, images, self.to, f"'{job.first.parent}'")
        for check in case.checks.values():
            self._keep(job, check.said)
        if self.count == 1:
            self._say_notes()  # before the work starts
        return case

    def _results(self, job: Job, case: Case) -> list[ResultFile]:
        """The results of a job as their files will hold them."""
        contrasts = [*dict.fromkeys(output.contrast for output in job.outputs)]
        made = dict(zip(self.options.tails, case.translate(contrasts, self.options), strict=True))
        self._keep(job, case.notes)
        fitted = []
        for output in job.outputs:
            # nothing that completes a patient is made of itself
            of_others = self.frame.completes and output.contrast
            given = {name: check for name, check in case.checks.items() if name != of_others}
            sources = [job.scans[name].path for name in given]
            result = case.part(made[output.tail], output.contrast)
            file = ResultFile(
                output, result, given, sources, self.identity, case.notes, self.tested
            )
            result = replace(result, notes=file.lines())
            image = self.format.fit(output.path, result, job.files[0])
            fitted.append(replace(file, image=image))
        return fitted

    def _write(self, job: Job, results: Sequence[ResultFile]) -> list[Path]:
        """Write the results of a job, with the JSON files beside them; returns their paths."""
        files.expect_writable([result.path for result in results], self.overwrite)
        for result in results[1:]:  # a kill must not leave parts of two calls
            if self._has_sidecar(result.path):
                files.sidecar_of(result.path).unlink(missing_ok=True)
            files.writer_of(result.path, result.image).withdraw(result.path)
        for result in results:
            path = result.path
            make_folder(path.parent)
            content = None
            if self._has_sidecar(path):
                content = result.content()
                if self.layout:
                    content = self.layout.describe(result.facts(), result.sources, job.first)
                sidecar = files.sidecar_of(path)
                if json_object(sidecar) != content:  # none is better than a wrong one
                    sidecar.unlink(missing_ok=True)

            files.write(path, result.image, result.description(), overwrite=self.overwrite)
            if content:
                text = json.dumps(content, indent=2) + "\n"  # ASCII: names need not be UTF-8
                write_output(files.sidecar_of(path), text.encode())
            if self.layout:
                self.layout.after_writing(path, result.sources, result.output.contrast)
        return [result.path for result in results]

    # ---- what is said

    def _keep(self, job: Job, notes: Iterable[Note]) -> None:
        """Keep notes on a job until `_say_notes`."""
        for kind, line in notes:
            found = (job.name, *NUMBER.findall(line))
            self.notes[kind, *NUMBER.split(line)].append(found)

    def _say_notes(self) -> None:
        """Say the notes that were kept, each with the inputs that it applies to; of those that differ
        only in numbers one, with their ranges.
        """
        for (kind, text, *rest), found in self.notes.items():
            names, *numbers = zip(*found, strict=True)
            for each, after in zip(numbers, rest, strict=True):
                ends = min(each, key=float), max(each, key=float)
                text += " to ".join(dict.fromkeys(ends)) + after
            which = (
                f"({len(names)} of {self.count} {self.noun}: {join_first(names, most=MAX_LISTED)})"
            )
            self.say(f"{kind:9}{text} {which if self.count > 1 else ''}".rstrip())
        self.notes.clear()

    def _finish(self, outcomes: Outcomes, folder: Path | None, done_before: int) -> list[Path]:
        """Say what was written and return it; the first error is raised, or one that counts those of
        a folder.
        """
        failed = {job: found for job, found in outcomes.items() if isinstance(found, Exception)}
        if failed and not folder:
            raise next(iter(failed.values()))
        written = [path for job in outcomes if job not in failed for path in outcomes[job]]

        self._say_notes()
        if line := self.format.clipped_line():
            self.say(line)
        direction = ""
        if len(self.model.frames) > 1:
            direction = f", {self.frame.target} made of {self.frame.source}"
        if self.frame.fit != "crop":
            direction += f", by a network of {' x '.join(map(str, self.frame.size))} pixels"
            if self.frame.detail == "guided":
                direction += "; finer detail comes from the input"
        if folder:
            line = f"written  {count_noun(written, 'file')} to {folder}{direction}"
            if done_before:
                line += f"; {done_before} of {len(outcomes)} inputs were already translated"
            self.say(line)
        else:
            for path in written:
                self.say(f"written  {path}{direction}")
        if failed:
            raise self._failure(failed, len(outcomes))
        return written

    def _failure(self, failed: Mapping[Job, Exception], count: int) -> GantkError:
        """The error that lists the failed jobs of this count; exit code 2 where the user is at fault
        for all.
        """
        lines = [f"{len(failed)} of {count} {self.noun} could not be translated:"]
        for job, error in failed.items():
            # of a series the folder: no file is at fault
            lines.append(f"{job.first}: {error or type(error).__name__}")
        failure = GantkError("\n  ".join(lines))
        if len(failed) == count and all(isinstance(each, UserError) for each in failed.values()):
            failure.exit_code = 2
        return failure
