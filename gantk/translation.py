"""Files and folders through a trained model: what comes in decides the format of what goes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gantk.data.contrasts import contrast_files
from gantk.data.image import Image
from gantk.data.io import READABLE, is_image, list_images, read, stem_of, suffix_of, write
from gantk.errors import GantkError, UserError
from gantk.inference import Look, Translator

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One image to translate: the files of its contrasts in order (None: missing), and the name of the result."""

    files: tuple[Path | None, ...]
    target: Path


def translate_path(model: Translator, source: Path, target: Path, to: str | None, look: Look, say: Say) -> list[Path]:
    """A file to a file, or a folder to a folder; one broken file of a folder does not stop the others.

    A run with several contrasts takes a patient's folder with one file for each, or a folder of such folders.
    """
    letter = model.domain(to)
    contrasts = model.contrasts("a" if letter == "b" else "b")
    if not source.exists():
        raise UserError(f"there is no file or folder '{source}'", where="INPUT", remedy="check the path")
    if not source.is_dir():
        return _translated(model, Job((source,), _target_file(source, target)), contrasts, to, look, say)
    if target.exists() and not target.is_dir():
        raise UserError(f"'{target}' is a file", where="OUTPUT", remedy="INPUT is a folder, so name a folder")
    if target.resolve() == source.resolve():
        raise UserError("OUTPUT is INPUT itself", where=str(target), remedy="name another folder")
    if len(contrasts) > 1:
        jobs = _patients(source, target, contrasts, model.model.data.domains["ab".index(letter)])
    else:
        files = list_images(source, recursive=True)
        jobs = [Job((file,), target / file.relative_to(source)) for file in files]
        if not jobs:
            raise UserError(f"no images in the folder '{source}'", where="INPUT", allowed=READABLE)
    written, broken = [], []
    for job in jobs:
        try:
            written += _translated(model, job, contrasts, to, look, lambda line: None)
        except UserError as error:
            broken.append(f"{next(filter(None, job.files))}: {error}")
    say(f"written  {len(written)} files to {target}")
    if broken:
        kind = "files" if len(contrasts) == 1 else "patients"
        raise GantkError(f"{len(broken)} of {len(jobs)} {kind} could not be translated:\n  " + "\n  ".join(broken))
    return written


def _translated(model: Translator, job: Job, contrasts: list[str], to, look: Look, say: Say) -> list[Path]:
    image = _stacked(job.files, contrasts, model.model.data.missing) if len(job.files) > 1 else read(job.files[0])
    results = model.images(image, to, look)
    written = []
    for number, result in enumerate(results, 1):
        path = job.target if look.variants is None else _with_tail(job.target, f"-{number}")
        for part, name in _channels(result, model.contrasts(model.domain(to))):
            written.append(_with_tail(path, f"_{name}") if name else path)
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            write(written[-1], part)
            say(f"written  {written[-1]}")
    return written


def _stacked(files: Sequence[Path | None], contrasts: list[str], missing: str) -> Image:
    """A patient's contrasts as the channels of one image, nan where one is missing."""
    absent = [contrast for contrast, file in zip(contrasts, files, strict=True) if file is None]
    there = [read(file) for file in files if file is not None]
    if absent and missing == "refuse":
        remedy = 'add the files, or train with data.missing = "mask"'
        raise UserError(f"{' and '.join(absent)} missing in '{there[0].path.parent}'", where="INPUT", remedy=remedy)
    for image in there:
        same = image.affine is there[0].affine or np.allclose(image.affine, there[0].affine, atol=1e-3)
        if image.pixels.shape != there[0].pixels.shape or not same or image.channels != 1:
            what = f"'{image.path}' is not on the grid of '{there[0].path}'"
            raise UserError(what, where="INPUT", remedy="resample all contrasts of a patient onto one of them")
    blank, rest = np.full_like(there[0].pixels, np.nan), iter(there)
    return replace(there[0], pixels=np.concatenate([blank if file is None else next(rest).pixels for file in files]))


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
            jobs.append(Job(tuple(files[contrast] for contrast in contrasts), place / name))
    if not jobs:
        what = f"no folder in '{source}' holds files named after {', '.join(contrasts)}"
        raise UserError(what, where="INPUT", remedy="name a patient's folder with one file for each")
    return jobs


def _target_file(source: Path, target: Path) -> Path:
    """Where the translation of one file goes; UserError where it cannot be written."""
    if not is_image(source):
        raise UserError(f"'{source.name}' is not an image that gantk reads", where="INPUT", allowed=READABLE)
    if target.is_dir() or not target.suffix:
        target = target / source.name
    if target.exists() and target.samefile(source):
        raise UserError("OUTPUT is INPUT itself", where=str(target), remedy="name another file")
    if not is_image(target):
        raise UserError(f"'{target.name}' has no suffix that gantk writes", where="OUTPUT", allowed=suffix_of(source))
    if _is_nifti(source) != _is_nifti(target):
        raise UserError(f"'{source.name}' cannot become '{target.name}'", where="OUTPUT", allowed=suffix_of(source))
    return target


def _with_tail(path: Path, tail: str) -> Path:
    """`scan.nii.gz` with the tail "-1" is `scan-1.nii.gz`."""
    stem = stem_of(path)
    return path.with_name(f"{stem}{tail}{path.name[len(stem) :]}")


def _is_nifti(path: Path) -> bool:
    return suffix_of(path) in (".nii", ".nii.gz")
