"""Received instances: files on the disk that the queue knows, studies that become complete, and the
translations that rules ask for.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

from gantk import __version__
from gantk.catalog.contrasts import one_word, same_contrast
from gantk.files import make_folder, sweep, write_file
from gantk.formats.files import outline
from gantk.formats.image import Scan
from gantk_serve.journal import Journal
from gantk_serve.rules import Rules, RuleTable, WhenTable
from gantk_serve.store import Instance, Job, Store, now

INPUTS = "inputs"
MAX_META_BYTES = 2**16  # of a file, in which its transfer syntax is stated
MAX_PAUSE_SECONDS = 600.0  # of a sender within an association
TRIED_HEADERS = 5  # of a series, some of which may be damaged
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
HEADER = [*UIDS, "Modality", "SyntheticData"]


class Refused(Exception):
    """An instance that is not taken; the text says why and names nobody."""


class Inbox:
    """Takes instances for the service in `folder`, and makes translations of complete studies."""

    def __init__(self, folder: Path, rules: Rules, store: Store, journal: Journal):
        self.folder = folder
        self.rules = rules
        self.store = store
        self.journal = journal
        self._lock = threading.Lock()  # of the files of inputs and their entries in the queue
        # by association and study, the time of the last instance
        self._open: dict[tuple[Hashable, str], float] = {}
        # (study, instance) of those that could not be kept, which their sender will send again
        self._unkept: set[tuple[str, str]] = set()
        make_folder(folder / INPUTS, private=True)

    def take(self, content: bytes, sender: str, link: Hashable = None) -> Instance:
        """Keep an instance, given as a DICOM file. When this returns, it is on the disk and in the
        queue. While the association `link` is open, its study does not become complete.

        Raises:
            Refused: the content is no instance, or too large.
            OSError: it cannot be written.
        """
        if len(content) > self.rules.service.max_mb << 20:
            raise Refused(f"larger than {self.rules.service.max_mb} MB")

        header = _header(content)
        study, series, instance = (str(header.get(name) or "") for name in UIDS)
        if not (study and series and instance):
            raise Refused("the study, the series or the instance has no UID")

        path = Path(INPUTS, _name(study), _name(series), f"{_name(instance)}.dcm")
        new = Instance(instance, study, series, path.as_posix(), len(content))
        try:
            with self._lock:
                self._keep(new, content, sender)
        except OSError:
            self._unkept.add((study, instance))
            raise
        self._unkept.discard((study, instance))
        if link is not None:
            self._open[link, study] = now()
        return new

    def close(self, link: Hashable) -> None:
        """Note that an association has ended."""
        for each in self._open.copy():
            if each[0] == link:
                self._open.pop(each, None)

    def _keep(self, new: Instance, content: bytes, sender: str) -> None:
        path = self.folder / new.path
        known = path.exists()
        make_folder(path.parent, private=True)
        write_file(path, content, private=True)
        try:
            self.store.add_instance(new, sender, now())
        except OSError:
            if not known:
                path.unlink()
            raise

    def complete_quiet(self) -> None:
        """Make studies complete that have been quiet for long enough, and that nobody is sending."""
        last = now() - self.rules.service.quiet
        # a translation would lack slices
        lacking = {study for study, _ in self._unkept.copy()}
        for (link, study), time in self._open.copy().items():
            if now() - time < MAX_PAUSE_SECONDS:
                lacking.add(study)
            else:
                self._open.pop((link, study), None)
        for study in self.store.quiet_studies(last):
            if study not in lacking:
                self.complete(study, last)

    def complete(self, study: str, last: float) -> None:
        """Make a study complete unless an instance has come after the time `last`, and add the
        translations that rules ask for.
        """
        instances = self.store.instances(study)
        sender = self.store.sender_of(study)
        jobs = list(self._jobs(study, instances, sender))
        added = self.store.complete(study, last, jobs)
        series = len({each.series for each in instances})
        facts = {"series": series, "instances": len(instances), "sender": sender}
        self.journal.say("complete", study=study, **facts, translations=len(added))
        for job in added:
            self.journal.say("waiting", study=study, job=job.job, model=job.model_name)

    def _jobs(self, study: str, instances: Sequence[Instance], sender: str) -> Iterator[Job]:
        """The translations that the first matching rule asks for, of each series or of the study."""
        by_series: dict[str, list[Instance]] = defaultdict(list)
        for each in instances:
            by_series[each.series].append(each)

        together: dict[int, list[Instance]] = defaultdict(list)
        for own in by_series.values():
            facts = self._facts(own)
            number = first_match(self.rules.rules, facts | {"sender": sender})
            if facts.get("synthetic"):  # else a result that a PACS sends back would be translated
                self.journal.say("synthetic, left out", study=study)
            elif number is None:
                self.journal.say("no rule", study=study, modality=facts.get("modality"))
            elif self.rules.rules[number].each == "study":
                together[number] += own
            else:
                yield self._job(study, own, self.rules.rules[number])

        for number, own in together.items():
            yield self._job(study, own, self.rules.rules[number])

    def _facts(self, instances: Sequence[Instance]) -> dict[str, Any]:
        """Modality, description and contrast of a series, and whether it is synthetic, by the header
        of its first instance that is not damaged.
        """
        facts: dict[str, Any] = {}
        for each in instances[:TRIED_HEADERS]:
            facts = self._facts_of(self.folder / each.path)
            if facts.get("modality") and "contrast" in facts:
                break
        return facts

    def _facts_of(self, path: Path) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        with suppress(Exception):  # pydicom raises any exception for damaged values
            header = _header(path.read_bytes())
            facts["modality"] = str(header.get("Modality") or "")
            facts["synthetic"] = header.get("SyntheticData") == "YES"
        with suppress(Exception):
            facts |= outline(Scan(path, (path,), path.name)).facts
        return facts

    def _job(self, study: str, instances: Sequence[Instance], rule: RuleTable) -> Job:
        named = sorted(each.instance for each in instances)
        number = job_number(named, rule.model, rule.to, rule.label)
        files = [each.path for each in instances]
        return Job(
            number,
            study,
            files,
            rule.model,
            rule.to,
            rule.label,
            list(rule.peers),
            created=now(),
        )

    def forget(self, study: str) -> None:
        """Delete a complete study and its files."""
        folder = self.folder / INPUTS / _name(study)
        with self._lock:
            forgotten = self.store.forget_study(study)
            if forgotten:
                shutil.rmtree(folder, ignore_errors=True)
        if forgotten:
            self.journal.say("inputs deleted", study=study)

    def sweep(self) -> None:
        """Delete files that a killed process has left without an entry in the queue."""
        root = self.folder / INPUTS
        for study in root.iterdir():
            known: set[str] | None = None
            for series in filter(Path.is_dir, study.iterdir()):
                sweep(series)
                for file in series.iterdir():
                    if known is None:
                        known = self._paths_of_study(file)
                    if file.relative_to(self.folder).as_posix() not in known:
                        file.unlink()

    def _paths_of_study(self, file: Path) -> set[str]:
        """The paths that the queue has of the study of a file."""
        with suppress(Exception):
            study = str(_header(file.read_bytes())["StudyInstanceUID"].value)
            return {each.path for each in self.store.instances(study)}
        return set()


def first_match(rules: Sequence[RuleTable], facts: Mapping[str, Any]) -> int | None:
    """The number of the first rule that a series matches."""
    for number, rule in enumerate(rules):
        if matches(rule.when, facts):
            return number
    return None


def matches(when: WhenTable, facts: Mapping[str, Any]) -> bool:
    """Whether a series, described by `modality`, `contrast`, `description` and `sender`, matches all
    keys that are given.
    """
    contrast = str(facts.get("contrast") or "")
    if when.modality and when.modality.upper() != str(facts.get("modality") or "").upper():
        return False
    if when.contrast and not same_contrast(one_word(when.contrast), one_word(contrast)):
        return False
    if when.description.lower() not in str(facts.get("description") or "").lower():
        return False
    return not when.sender or when.sender == facts.get("sender")


def job_number(inputs: Sequence[str], model: str, to: str, label: str) -> str:
    """The number of a translation: a function of its inputs, its model and its settings."""
    parts = [*inputs, model, to, label, __version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _header(content: bytes) -> pydicom.Dataset:
    """The elements of an instance that tell where it belongs. Deflated ones are refused: a small
    file can hold any number of bytes.
    """
    if DeflatedExplicitVRLittleEndian.encode() in content[:MAX_META_BYTES]:
        raise Refused("deflated, which is not taken")
    try:
        return pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=HEADER)
    except Exception as error:  # pydicom raises any exception for damaged files
        raise Refused(f"no DICOM that can be read ({type(error).__name__})") from None


def _name(uid: str) -> str:
    """A file name for a UID, which may hold anything."""
    return hashlib.sha256(uid.encode("utf-8", "surrogateescape")).hexdigest()[:24]
