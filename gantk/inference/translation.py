"""Translates files and folders with a trained model: read, call, write. Results have the format of
their input, unless an option changes it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from gantk.catalog.catalog import Catalog, Row, unread_note
from gantk.catalog.image_table import read_table
from gantk.errors import GantkError, UserError, count_noun, join_first
from gantk.files import json_object, make_folder, sweep
from gantk.formats import files
from gantk.formats.files import read, suffix_of
from gantk.formats.image import Image
from gantk.inference.frame import TranslateOptions
from gantk.inference.jobs import (
    Job,
    Output,
    contrasts_to_make,
    expect_sources,
    inputs_below,
    job_of_files,
    jobs_of_cases,
    jobs_of_images,
    stack_on_one_grid,
)
from gantk.inference.ledger import Ledger
from gantk.inference.model import Model
from gantk.inference.notes import InputCheck, Note, check_result
from gantk.inference.result_format import ResultFormat, expect_file_of, with_suffix, with_tail
from gantk.inference.sidecar import MadeOf, write_sidecar
from gantk.plugin.loader import load
from gantk.progress import Work

# of one file: the others are still translated
FAILURES = (GantkError, OSError, MemoryError)
ABOUT_SPREAD = (
    "the uncertainty is how much the models differ. An error that all of them make is not in it: in"
    " tumours such maps did not show the errors"
)
MAX_LISTED = 3  # files in a message
TABLES = (".csv", ".tsv")  # suffixes of tables of images
# of an image, at most, for reading and writing others while the network runs
OVERLAP_BYTES = 1 << 28


class ResultFile(NamedTuple):
    """A result as its file will hold it."""

    path: Path
    image: Image
    made_of: MadeOf


@dataclass
class Translation:
    """Translates files and folders in one direction of a model; see `gantk.api.translate`."""

    model: Model
    to: str | None
    options: TranslateOptions
    volume: int | None
    say: Callable[[str], None]
    _: KW_ONLY
    suffix: str = ""  # of results; "": the input's
    overwrite: bool = False  # whether to replace what gantk did not write
    input_layout: str = ""  # whose each file of a folder is; "": gantk finds it

    def __post_init__(self) -> None:
        self.letter = self.model.domain(self.to)
        self.pipeline = self.model.pipelines[self.letter]
        self.model.network_of(self.letter, self.options)  # refuses what the model cannot do
        frame = self.pipeline.frame
        self.contrasts = frame.sources
        self.outputs = frame.targets[frame.part(self.to)]  # the contrasts to write
        self.frame = replace(frame, target="+".join(self.outputs))
        if self.options.uncertainty:
            self.say(f"note     {ABOUT_SPREAD}")

        self.noun = "patients" if len(self.contrasts) > 1 else "images"  # of jobs
        # (kind, line) -> the inputs it applies to
        self.notes: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.format = ResultFormat(self.pipeline, self.frame, self.suffix)
        self.shared_sidecars: set[Path] = set()  # that several results would have
        self.count = 1  # of inputs
        self.layout: Any = None  # a plugin's names of results, see `gantk_name_results`

    def path(self, source: Path | Mapping[str, Path], target: Path) -> list[Path]:
        """Translate a file to a file, a DICOM series to a folder, or a folder to a folder; returns
        the paths written. A mapping holds the files of one patient by contrast.

        A file of a folder that cannot be translated does not stop the others: a GantkError at the
        end lists all failures. Results that an earlier call with the same options has written are
        kept.
        """
        jobs, is_folder = self._jobs_of(source, target)
        ledger = Ledger(target, self._identity()) if is_folder else None
        # an error leaves the ledger, so that a next call goes on
        with ledger or contextlib.nullcontext():
            places = {file.parent for job in jobs for file in self._files_of(job)}
            if is_folder:
                places |= {target, target.absolute().parent}
            for place in places:
                sweep(place)  # what killed calls left half-written
            self._expect_own_names(jobs)
            outcomes: dict[Job, Any] = {}
            for job in jobs:
                results = [output.path for output in job.outputs]
                written = self._files_of(job)
                is_done = ledger is not None and ledger.has(results, written, job.files)
                outcomes[job] = results if is_done else None
                if not is_done:
                    files.expect_writable(written, self.overwrite)

            new = [job for job in jobs if outcomes[job] is None]
            if ledger:
                ledger.begin()
            outcomes |= self._translate_jobs(new, len(jobs) - len(new))
            return self._finish(outcomes, target if is_folder else None, len(jobs) - len(new))

    # ---- what is translated

    def _jobs_of(
        self, source: Path | Mapping[str, Path], target: Path
    ) -> tuple[Sequence[Job], bool]:
        """What is to be translated, and whether `target` is a folder of many results."""
        if isinstance(source, Mapping):
            job = job_of_files(source, self.contrasts)
            if len(self.contrasts) > 1:
                return self._one_job(job, target), False
            source = next(iter(job.scans.values())).path
        if not source.exists():
            what = f"there is no file or folder '{source}'"
            raise UserError(what, where="INPUT", remedy="check the path")
        if target.resolve() == source.resolve():
            what = "OUTPUT is the same as INPUT"
            raise UserError(what, where=str(target), remedy="name another folder")

        if not source.is_dir() and source.suffix.lower() not in TABLES:
            if not files.is_image(source) and not files.series_format(source):
                raise files.unread_error(source).at("INPUT")
            scan = files.scan_of(source)
            return self._one_job(Job(scan.name, {self.frame.source: [scan]}), target), False

        jobs = self._jobs_below(source, target)
        if [scan.path for job in jobs for scan in job.scans.values()] == [source]:  # one series
            if suffix_of(target) not in files.formats():
                target = with_suffix(target, self.suffix)
            series = replace(jobs[0], name=source.name)
            return self._with_outputs([series], target, is_file=True), False
        if target.is_file() or files.is_image(target):
            what = f"'{target}' is not a folder"
            remedy = "name a folder, because INPUT is a folder"
            raise UserError(what, where="OUTPUT", remedy=remedy)
        return self._with_outputs(jobs, target), True

    def _one_job(self, job: Job, target: Path) -> list[Job]:
        """The job of one input to the file `target`, or into this folder."""
        is_file = bool(target.suffix) and not target.is_dir()
        if is_file:
            expect_file_of(job.files[0], target, self.suffix)
        return self._with_outputs([job], target, is_file=is_file)

    def _jobs_below(self, source: Path, target: Path) -> list[Job]:
        """The jobs of a folder or a table, not yet with their results; what is not used is said."""
        root = source if source.is_dir() else source.parent
        if source.is_dir():
            stripped = len(self.contrasts) > 1 and self.frame.stripped
            layout = self.input_layout
            catalog = inputs_below(source, target, self.contrasts, stripped=stripped, layout=layout)
        else:
            catalog = read_table(source, self.contrasts)
        if catalog.in_words:
            self.say(f"layout   {catalog.in_words}")

        if len(self.contrasts) > 1:
            jobs = jobs_of_cases(catalog, root, self.contrasts)
        else:
            jobs = jobs_of_images(catalog, root, self.contrasts[0])
        self._say_unused(catalog, root, jobs)
        if not jobs:
            what = f"the folder '{source}' contains no images"
            raise UserError(what, where="INPUT", allowed=files.readable())
        return jobs

    def _say_unused(self, catalog: Catalog, root: Path, jobs: Sequence[Job]) -> None:
        """Say which images of a folder are not translated, for each reason in a line, and how to name
        one.
        """
        used = {
            (scan.files, scan.volume)  # the images of a table have other names
            for job in jobs
            for found in job.candidates.values()
            for scan in found
        }
        several = len(self.contrasts) > 1
        silent = ("other", "mask") if several else ("other",)
        unused: dict[str, list[str]] = defaultdict(list)  # names by the reason
        for row in catalog:
            scan = row.scan_below(root)
            if row.kind not in silent and (scan.files, scan.volume) not in used:
                unused[_why_unused(row)].append(f"'{scan.name}'")

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
        complete: dict[str, UserError] = {}  # why nothing is made, by patient
        with_outputs = []
        for job in jobs:
            contrasts = self.outputs
            try:
                if self.frame.completes:
                    contrasts = contrasts_to_make(
                        contrasts, job.candidates, self.to, f"'{job.name}'"
                    )
            except UserError as nothing_missing:
                complete[job.name] = nothing_missing
                continue

            for name in contrasts:
                if name in job.candidates:
                    line = f"{name} is there, but is made from the others, because --to asks for it"
                    self.notes["note", line].append(job.name)
            outputs = self._outputs_of(job, target, contrasts, is_file)
            with_outputs.append(replace(job, outputs=outputs))

        if complete and not with_outputs:
            raise complete.popitem()[1]
        if complete:
            which = self._which_inputs([*complete], len(jobs))
            self.say(f"note     left out, because no contrast is missing{which}")
        return with_outputs if is_file else self._named_by_plugin(with_outputs, target)

    def _outputs_of(
        self, job: Job, target: Path, contrasts: Sequence[str], is_file: bool
    ) -> tuple[Output, ...]:
        """The results of a job, the same for a file and for a folder: one for each contrast that is
        made, and for each variant or map.

        A file `x.nii` is x.nii or, of several contrasts, x_T2.nii; in a folder it is named after the
        input. Variants end in -1, -2, ..., the map of an uncertainty in _uncertainty.
        """
        if is_file:
            tails = [f"_{name}" if len(contrasts) > 1 else "" for name in contrasts]
            paths = [with_tail(target, tail) for tail in tails]
        else:
            paths = job.result_paths(target, contrasts, self._is_one_image(job))
            paths = [with_suffix(path, self.suffix) for path in paths]
        return tuple(
            Output(with_tail(path, tail), contrast, tail)
            for tail in self.options.tails
            for contrast, path in zip(contrasts, paths, strict=True)
        )

    def _named_by_plugin(self, jobs: list[Job], target: Path) -> list[Job]:
        """The jobs with result names from a plugin, without those it gives no name; unchanged
        without such a plugin.
        """
        self.count = len(jobs)
        self.layout = load().hook.gantk_name_results(
            files=[file for job in jobs for file in job.files],
            target=target,
            frame=self.frame,
            model=self._model_identity,
        )
        if not self.layout:
            return jobs

        named = []
        for job in jobs:
            outputs = []
            for output in job.outputs:
                name = self.layout.name(job.files, output.tail, output.contrast)
                if name:
                    path = target / f"{name}{suffix_of(output.path)}"
                    outputs.append(replace(output, path=path))
            if outputs:
                named.append(replace(job, outputs=tuple(outputs)))
            else:
                line = f"left out, because the name does not contain {self.frame.source}"
                self.notes["note", line].append(job.name)
        return named

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
                what = f"{count} images would be written to the same file '{path.name}'"
                remedy = "translate them into different folders"
                raise UserError(what, where="OUTPUT", remedy=remedy)
            if path.resolve() in inputs:
                what = "OUTPUT is the same as INPUT"
                raise UserError(what, where=str(path), remedy="name another file")

    @cached_property
    def _model_identity(self) -> dict[str, str]:
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
            "model": self._model_identity,
        }

    # ---- read, call, write

    def _translate_jobs(self, jobs: Sequence[Job], done_before: int) -> dict[Job, Any]:
        """Translate jobs; returns for each job its paths, or its error (one of FAILURES).

        While the network runs, the next job is read and the last one written, unless images are
        large. Any other error, and Ctrl-C, stop all jobs once the current result is written.
        """
        outcomes: dict[Job, Any] = {}
        writing: dict[Job, Future] = {}
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
                    image, checks = reading.result()
                    is_small = image.pixels.nbytes <= OVERLAP_BYTES
                    if is_small and job is not jobs[-1]:
                        ahead = reader.submit(self._read, jobs[number + 1])
                    made = self.model(image, self.to, self._options_of(job))
                    results = self._as_files(job, image, checks, made)
                    # the input takes no memory while its result is written
                    del reading, image, made
                    wait(writing.values())
                    writing[job] = writer.submit(self._write, job, results)
                    del results
                    if not is_small:
                        wait(writing.values())
                except FAILURES as error:
                    outcomes[job] = error

        for job, future in writing.items():
            try:
                outcomes[job] = future.result()
            except FAILURES as error:
                outcomes[job] = error
        return outcomes

    def _read(self, job: Job) -> tuple[Image, dict[str, InputCheck]]:
        """The image of one file, or of the contrasts of a patient on one grid, as in the training;
        and what is said about each contrast, which is kept as notes.
        """
        job.expect_single_scans()
        is_one = self._is_one_image(job)
        if not is_one:
            whose = f"'{next(iter(job.scans.values())).path.parent}'"
            missing = self.frame.missing
            expect_sources([*job.scans], self.contrasts, self.outputs, missing, whose)
        images = {}
        checks = {}
        for name, scan in job.scans.items():
            image = read(scan, self.volume)
            images[name], checks[name] = self.model.check(image, self.to, "" if is_one else name)
            self._keep_notes(job, checks[name].said)
        if self.count == 1:
            self._say_notes()  # before the work starts
        if is_one:
            return images.popitem()[1], checks

        image, resampled = stack_on_one_grid(images, self.contrasts)
        for name in resampled:
            line = f"{name} is resampled onto the grid of {next(iter(images))} by the headers"
            self.notes["note", line].append(job.name)
        return image, checks

    def _options_of(self, job: Job) -> TranslateOptions:
        """The options for one job, which may make some contrasts only."""
        made = [*dict.fromkeys(output.contrast for output in job.outputs)]
        if made == self.outputs:
            return self.options
        return replace(self.options, contrasts=tuple(made))

    def _as_files(
        self,
        job: Job,
        image: Image,
        checks: Mapping[str, InputCheck],
        results: Sequence[Image],
    ) -> list[ResultFile]:
        """The results of a job as their files will hold them. Plugins may warn of the result of a
        single image.
        """
        said: list[Note] = []
        if self._is_one_image(job):
            said = check_result(image, results[0], self.pipeline, self.frame)
        said += self.model.notes_on_results(image, self.letter, self._options_of(job))
        self._keep_notes(job, said)

        fitted = []
        for output in job.outputs:
            # nothing that completes a patient is made of itself
            of_others = self.frame.completes and output.contrast
            made_of = MadeOf(
                output.contrast,
                {name: check for name, check in checks.items() if name != of_others},
                self._model_identity,
                is_uncertainty=output.tail == "_uncertainty",
                said=tuple(said),
            )
            result = results[self.options.tails.index(output.tail)]
            pixels = result.pixels
            if len(self.outputs) > 1:
                pixels = pixels[[self.outputs.index(output.contrast)]]
            result = replace(result, pixels=pixels, notes=made_of.lines())
            written = self.format.fit(output.path, result, job.files[0])
            fitted.append(ResultFile(output.path, written, made_of))
        return fitted

    def _write(self, job: Job, results: Sequence[ResultFile]) -> list[Path]:
        """Write the results of a job, with the JSON files beside them; returns their paths."""
        files.expect_writable([result.path for result in results], self.overwrite)
        for path, image, _ in results[1:]:  # a kill must not leave parts of two calls
            if self._has_sidecar(path):
                files.sidecar_of(path).unlink(missing_ok=True)
            files.writer_of(path, image).withdraw(path)
        for path, image, made_of in results:
            make_folder(path.parent)
            sources = [job.scans[name].path for name in made_of.given]
            content = None
            if self._has_sidecar(path):
                content = made_of.content(path, sources)
                if self.layout:
                    grid = next(iter(job.scans.values())).path
                    content = self.layout.describe(made_of.facts(), sources, grid)
                sidecar = files.sidecar_of(path)
                if json_object(sidecar) != content:  # none is better than a wrong one
                    sidecar.unlink(missing_ok=True)

            files.write(path, image, made_of.description(), overwrite=self.overwrite)
            if content:
                write_sidecar(path, content)
            if self.layout:
                self.layout.after_writing(path, sources, made_of.contrast)
        return [result.path for result in results]

    def _is_one_image(self, job: Job) -> bool:
        """Whether a job has one image of all contrasts."""
        return [*job.scans] == [self.frame.source]

    # ---- what is said

    def _keep_notes(self, job: Job, notes: Iterable[Note]) -> None:
        """Keep notes on a job, which are said at the end."""
        for kind, line in notes:
            self.notes[kind, line].append(job.name)

    def _say_notes(self) -> None:
        """Say the notes that were kept, each with the inputs that it applies to."""
        for (kind, line), names in self.notes.items():
            which = self._which_inputs(names, self.count) if self.count > 1 else ""
            self.say(f"{kind:9}{line}{which}")
        self.notes.clear()

    def _which_inputs(self, names: Sequence[str], count: int) -> str:
        """Text with the number of inputs that a line applies to, of `count`, and the first names."""
        return f" ({len(names)} of {count} {self.noun}: {join_first(names, most=MAX_LISTED)})"

    def _finish(
        self, outcomes: dict[Job, Any], folder: Path | None, done_before: int
    ) -> list[Path]:
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
        if folder:
            line = f"written  {count_noun(written, 'file')} to {folder}"
            if done_before:
                line += f"; {done_before} of {len(outcomes)} inputs were already translated"
            self.say(line)
        else:
            for path in written:
                self.say(f"written  {path}")
        if failed:
            raise self._failure(failed, len(outcomes))
        return written

    def _failure(self, failed: dict[Job, Exception], count: int) -> GantkError:
        """One error for all inputs, of `count`, that could not be translated."""
        lines = [f"{len(failed)} of {count} {self.noun} could not be translated:"]
        for job, error in failed.items():
            scan = next(iter(job.scans.values()))  # of a series the folder: no file is at fault
            lines.append(f"{scan.path}: {error or type(error).__name__}")
        failure = GantkError("\n  ".join(lines))
        users_fault = all(isinstance(error, UserError) for error in failed.values())
        failure.exit_code = 2 if users_fault and len(failed) == count else 1
        return failure


def _why_unused(row: Row) -> str:
    """Why an image of a folder is not translated."""
    if row.kind == "no scan":
        return f"the header says that it is {row.why}"
    says = f"shows {row.contrast}" if row.contrast else "nothing says what it shows"
    return row.why or says
