"""The data source over DICOM trees: series told apart by what their headers, or else their folders, call them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gantk.data.items import Record, contrast_names, domain_letters
from gantk.data.resample import SamplingGrid
from gantk.data.sources.contrast_names import MEANING, contrast_in, plain, same_contrast
from gantk.data.sources.file_names import SPLIT_WORD, split_of, words_of
from gantk.data.sources.reading import expected_records, needed_path, patient_of, patient_pattern
from gantk.data.sources.volumes import Item, Onto, Reader, paired
from gantk.errors import UserError
from gantk.formats import dicom
from gantk.formats import files as io

MODALITIES = {"ct": "CT", "mr": "MR", "pet": "PT"}  # domains that a series' modality decides
# What sequences that are always of one contrast are called.
SEQUENCES = {"mprage": "t1", "bravo": "t1", "spgr": "t1", "fspgr": "t1", "darkfluid": "flair", "darkfl": "flair"}
AGENT = {"gd", "gad", "gado", "post", "km", "ce", "contrast", "postcontrast"}  # words that say that one was given
LOOKED_AT = 2000  # files of a tree that `accepts` looks at before it gives up
OWN = "(gantk)"  # how descriptions of series end that gantk wrote
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture Image Storage, and its multi-frame kinds
ASIDE = re.compile(r"locali[sz]er|scout|survey|topogram|dose.?report|screen.?save", re.IGNORECASE)


@dataclass(frozen=True)
class Series:
    """One scan of a tree, and what its header says."""

    scan: io.Scan
    place: tuple[str, ...]  # its folders below the root
    modality: str = ""
    description: str = ""
    protocol: str = ""
    patient: str = ""
    aside: bool = False  # written by gantk, a localizer, or a picture of the screen: only taken where asked for
    study: str = ""  # the study and frame of reference that registered scans share; "" where either is not known

    @property
    def shown(self) -> str:
        """What it is, for messages."""
        words = self.description or self.protocol or "no description"
        return f"'{self.scan.name}' ({self.modality} {words})".replace("( ", "(")

    def means(self, domain: str) -> bool:
        """Whether it is of a domain: CT, MR and PET by its modality, others by the first name that says a contrast."""
        wanted = plain(domain)
        modality = MODALITIES.get(MEANING.get(wanted, ""))
        if modality:
            return self.modality == modality
        for text in (self.description, self.protocol, *reversed(self.place)):
            words = {word.lower() for word in words_of(text)} | {plain(text)}
            said = contrast_of(text)
            if said or wanted in words:
                return same_contrast(said or "", wanted) or (said is None and wanted in words)
        return False


class Dicom:
    """DICOM trees as archives and scanners export them: every series is a scan, whatever its files are called.

    A series belongs to a domain by its modality (CT, MR, PET), or by the contrast that its description, protocol or
    folders name. Patients are those of the header. A T1 and a T2 of one study and frame of reference are a registered
    pair where they lie on one grid, or with `onto`, which brings them onto one by their headers. Localizers, screen
    captures, what gantk itself wrote, and what is no image, are left alone.
    """

    def __init__(
        self,
        domains: tuple[str, ...],
        dims: int,
        size: tuple[int, ...],
        *,
        path: str = "",  # folder below which the DICOM files lie
        a: str = "",  # word or regex found in description, protocol or folder of the first domain; "" = its name
        b: str = "",  # the same for the second domain
        onto: Onto = "none",  # resample a study's other image onto the grid of this one, by their headers
        patient: str = "",  # regex whose group is the patient, searched in the folder, then PatientID; "" = PatientID
        planes: tuple[float, float] = (0.25, 0.75),  # which slices of a volume 2-D networks see, as shares of its stack
    ):
        for name in domains:
            if len(contrast_names(name)) > 1:
                what = f"'{name}' is {len(contrast_names(name))} contrasts, and 'dicom' gives one for each domain"
                raise UserError(what, where="data.domains", remedy="convert the series to NIfTI, or use one contrast")
        self.root, self.onto, self.planes = needed_path(path, "dicom"), onto, planes
        self.domains = dict(zip(domain_letters(domains), domains, strict=True))
        self.asked = {"a": _pattern(a, "a"), "b": _pattern(b, "b"), "image": _pattern(a, "a")}
        self.patient, self.reader = patient_pattern(patient), Reader(dims)

    @classmethod
    def accepts(cls, path: Path) -> dict | None:
        """`{"path": ...}` where all images below `path` are DICOM, or those are of two modalities or contrasts."""
        kinds: set[str] = set()
        try:
            for file in islice(_files(path), LOOKED_AT):
                series = _series(io.Scan(file, (file,), file.name), path)
                texts = (series.description, series.protocol, *reversed(series.place))
                said = next(filter(None, map(contrast_of, texts)), "") if series.modality == "MR" else ""
                kinds.add(f"{series.modality} {said}")
                if len(kinds - {" ", "MR "}) > 1:
                    return {"path": str(path)}
            return {"path": str(path)} if kinds and not io.list_images(path, recursive=True) else None
        except (UserError, OSError):
            return None

    def sees(self, view: SamplingGrid) -> None:
        """Take the slices of volumes along this plane, at this spacing: asked for before `records`."""
        self.reader.view = view

    def records(self) -> list[Record]:
        """One record for every scan, or for every plane of it; UserError where a domain has no series."""
        dicom.installed()
        found = series_below(self.root)
        chosen = [(letter, each) for letter in self.domains for each in self._of(letter, found)]
        twice = {each.scan.name for letter, each in chosen if letter == "a"}
        twice &= {each.scan.name for letter, each in chosen if letter == "b"}
        if twice:
            what = f"'{min(twice)}' belongs to both domains, {' and '.join(self.domains.values())}"
            raise UserError(what, where="data.source", remedy="make data.source.a and data.source.b more exact")
        splits = {split_of(each.place) for _, each in chosen} - {None}
        items = [self._item(letter, each, said=len(splits) > 1) for letter, each in chosen]
        return expected_records(paired(items, self.onto), self.reader, self.planes, self.domains, self.root)

    def _of(self, letter: str, found: Sequence[Series]) -> list[Series]:
        pattern, name = self.asked[letter], self.domains[letter]
        if pattern is not None:
            chosen = [each for each in found if any(map(pattern.search, (*_texts(each), "/".join(each.place))))]
        else:
            chosen = [each for each in found if not each.aside]
            chosen = [each for each in chosen if each.means(name)] or (chosen if len(self.domains) == 1 else [])
        if not chosen:
            some = ", ".join(each.shown for each in found[:4]) + (", ..." if len(found) > 4 else "")
            there = f"; there are {some}" if found else f" ({io.DICOM[0]}): it holds none at all"
            raise UserError(
                f"no DICOM series of {name} in '{self.root}'{there}",
                where=f"data.source.{'a' if letter == 'image' else letter}",
                allowed="a word or regular expression found in SeriesDescription, ProtocolName or the folder",
            )
        return chosen

    def _item(self, letter: str, each: Series, said: bool) -> Item:
        name = each.scan.name if each.scan.name != "." else self.root.resolve().name
        subject = each.patient or _subject_of(each.place) or name
        if self.patient is not None:
            place = "/".join((*each.place, each.scan.path.name))
            subject = patient_of(place if self.patient.search(place) else each.patient or place, self.patient)
        return Item(
            letter=letter,
            source=each.scan,
            key=name,
            subject=subject,
            study=f"{subject}/{each.study}" if each.study else "",
            split=split_of(each.place) if said else None,
        )


def series_below(root: Path) -> list[Series]:
    """The DICOM scans below a folder, in natural order; files that cannot be read belong to nobody."""
    found = []
    for scan in io.scans(root):
        if scan.files and not io.is_image(scan.path):
            with suppress(UserError):
                found.append(_series(scan, root))
    return found


def contrast_of(text: str) -> str | None:
    """The contrast that a description names, None where it names none.

    T2 FLAIR is FLAIR, and T1 FLAIR is T1; T1 with a word for a contrast agent is T1ce.
    """
    words = [word.lower() for word in words_of(text)]
    both = [one + other for one, other in zip(words, words[1:], strict=False)]
    means = [MEANING.get(word) or SEQUENCES.get(word) for word in (*words, *both)]
    known = [meaning for meaning in means if meaning and meaning not in MODALITIES]
    if "t1" in known or "t1ce" in known:
        agent = "t1ce" in known or AGENT & set(words) or re.search(r"\+ ?c\b|\bc ?\+", text.lower())
        return "t1ce" if agent else "t1"
    return "flair" if "flair" in known else known[0] if known else None


def _series(scan: io.Scan, root: Path) -> Series:
    words = dicom.summary(scan.files[0])
    study = (words["StudyInstanceUID"], words["FrameOfReferenceUID"])
    return Series(
        scan=scan,
        place=scan.files[0].parent.relative_to(root).parts,
        modality=words["Modality"],
        description=words["SeriesDescription"],
        protocol=words["ProtocolName"],
        patient=words["PatientID"],
        aside=_aside(words),
        study="/".join(study) if all(study) else "",
    )


def _aside(words: dict[str, str]) -> bool:
    names = f"{words['SeriesDescription']} {words['ProtocolName']}"
    capture = words["SOPClassUID"].startswith(CAPTURE) and words["Modality"] in MODALITIES.values()
    own = words["SeriesDescription"].endswith(OWN)
    return own or capture or "LOCALIZER" in words["ImageType"] or bool(ASIDE.search(names))


def _texts(each: Series) -> tuple[str, str]:
    return each.description, each.protocol


def _files(root: Path) -> Iterator[Path]:
    """The DICOM files below a folder, as they come."""
    for place, folders, names in os.walk(root):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=io.natural)
        for name in sorted(names, key=io.natural):
            if dicom.is_dicom(Path(place, name)):
                yield Path(place, name)


def _subject_of(place: tuple[str, ...]) -> str:
    """The first numbered folder, else all that name neither contrast nor split."""
    kept = [part for part in place if not SPLIT_WORD.fullmatch(part)]
    rests = [rest for rest in (contrast_in(part, set())[1] for part in kept) if rest]
    numbered = [rest for rest in rests if any(map(str.isdigit, rest))]
    return numbered[0] if numbered else "/".join(rests)


def _pattern(text: str, option: str) -> re.Pattern | None:
    try:
        return re.compile(text, re.IGNORECASE) if text else None
    except re.error as error:
        raise UserError(f"'{text}' is no regular expression: {error}", where=f"data.source.{option}") from error
