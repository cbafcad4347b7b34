"""The worker beside an Orthanc: follows its changes, translates complete series, and gives it the
derived series.

All state is Orthanc's. What became of a series is in its record (see `orthanc.py`); the UIDs of
derived series are functions of their source (see `images.py`), so that a translation that was cut
off, or that two workers have made, is the same series. Here is only the number of the last change.

A series passes these outcomes:

1. translating: a worker has begun; `attempts` counts how often.
2. posting: `derived` names all series that may have been made of it, before they are stored.
3. sending: they are stored; `send` names the modalities that do not have them yet. Orthanc sends,
   and the worker waits for it.
4. done; or refused, failed, left out, each with a reason.

What cannot be done now, such as on a full disk, is waiting.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any

from gantk import __version__
from gantk.errors import (
    GantkError,
    UserError,
    importing,
    machine_failure,
    may_pass,
    note_in,
    one_line,
)
from gantk.files import lock_folder, make_folder, restrict, write_file
from gantk.formats.image import MARK
from gantk.runs.results import Table
from gantk.runs.schemas import read
from gantk.terminal import Say
from gantk_serve.orthanc import (
    RECORD,
    Away,
    Json,
    Orthanc,
    Refused,
    WrongAnswer,
    connect,
    record_of,
    unless_deleted,
)
from gantk_serve.rules import Rules, RuleTable, facts_of, load_rules, matches

FOLLOWED = ("NewInstance", "StableSeries", "UpdatedMetadata")  # kinds of changes
SETTLED = ("done", "refused", "failed", "left out")  # outcomes that are the last
WORK = "work"  # folder of a translation
MARK_FILE = "changes.json"  # how far this has come in Orthanc's changes
POLL_SECONDS = 0.2  # between two looks at the changes
WORK_SECONDS = 5.0  # after which a worker that has much to do looks at the changes
RETRY_SECONDS = 30.0  # until another try
MAX_ATTEMPTS = 10  # translations that end the worker, after which a series has failed
MAX_REASON = 400  # characters


class Changed(Exception):
    """The source of a translation has changed meanwhile: it is looked at again."""


@dataclass
class Waiting:
    """A series that is not settled."""

    number: int  # of the change before the first one that named it
    stable: str = ""  # when Orthanc last called it stable
    update: str = ""  # when it got its last instance
    seen: float = 0.0  # when this was seen first
    ready: float = 0.0  # when it may be tried again

    def delay(self) -> None:
        """Let it wait after a failure."""
        self.ready = time.monotonic() + RETRY_SECONDS


@dataclass(frozen=True)
class Source:
    """What one translation is made of."""

    name: str  # the identifier of the series
    uid: str  # its SeriesInstanceUID
    state: str  # its state, which another instance changes
    instances: list[Json]


class Mark(Table):
    """The content of MARK_FILE."""

    read: int = 0  # number of a change; up to it nothing is left to do
    # the last change that was read: where it is gone, the numbers are those of another database
    last: dict[str, Any] = {}


class Worker:
    """Translates what an Orthanc has received, as rules say."""

    def __init__(self, rules: Rules, orthanc: Orthanc, say: Say):
        self.rules = rules
        self.orthanc = orthanc
        self.say = say
        self.folder = Path(rules.service.folder)
        self.written = Mark()
        with suppress(UserError):  # a damaged one: all changes are read again
            self.written = read(self.folder, MARK_FILE, Mark) or Mark()
        self.mark = self.written.model_copy()
        self.name = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.waiting: dict[str, Waiting] = {}
        self.stopping = Event()
        self.model = lru_cache(maxsize=2)(self._load)  # (model, identity) by name or folder

    def _load(self, model: str) -> tuple[Any, dict[str, str]]:
        from gantk import load

        found = load(model, device=self.rules.service.device or None)
        return found, found.identity()

    def run(self) -> None:
        """Work until `stopping` is set. Where Orthanc is away, wait for it."""
        self._clear()  # those of a killed worker
        while not self.stopping.is_set():
            try:
                self.step()
            except (Away, Refused, OSError) as error:
                if isinstance(error, OSError) and not may_pass(error):
                    raise  # the worker's own folder is broken
                self.log("waiting", reason=self._reason(error))
                self.stopping.wait(RETRY_SECONDS)
            else:
                self.stopping.wait(POLL_SECONDS)

    def step(self) -> None:
        """Look at the changes, do what is ready, and note how far this has come."""
        self.follow()
        self.work()
        numbers = [each.number for each in self.waiting.values()]
        done = Mark(read=min(numbers, default=self.mark.read), last=self.mark.last)
        if done != self.written:
            write_file(self.folder / MARK_FILE, json.dumps(done.dump()).encode(), private=True)
            self.written = done

    # ---- what is to be done

    def follow(self) -> None:
        """Add the series of new changes to those that wait."""
        last = self.mark.last
        if last and self.orthanc.changes(last["Seq"] - 1, limit=1)[0] != [last]:
            # the change has gone with its series, or Orthanc has another database
            self.mark = Mark()
            self.waiting.clear()

        done = False
        while not done:
            changes, done = self.orthanc.changes(self.mark.read)
            done = done or not changes
            named = [each["ID"] for each in changes if each["ChangeType"] in FOLLOWED]
            for series in self.orthanc.series(named):
                self.waiting.setdefault(series["ID"], Waiting(self.mark.read))
            for change in changes:
                if change["ChangeType"] == "StableSeries" and change["ID"] in self.waiting:
                    self.waiting[change["ID"]].stable = change["Date"]
            if changes:
                self.mark.read = changes[-1]["Seq"]
                self.mark.last = changes[-1]

    def work(self) -> None:
        """Do what is ready, for some seconds."""
        found = {each["ID"]: each for each in self.orthanc.series(self.waiting)}
        for name in [*self.waiting]:
            if name not in found or record_of(found[name]).get("outcome") == "derived":
                del self.waiting[name]  # it was deleted, or is one of ours
                found.pop(name, None)

        end = time.monotonic() + WORK_SECONDS
        for series in sorted(found.values(), key=self._order):
            if self.stopping.is_set() or time.monotonic() > end:
                break
            if self._is_due(series):
                self._try(series["ID"])

    def _order(self, series: Json) -> tuple[bool, int, int]:
        """First those at which no other worker is; among them, last those that have ended one."""
        record = record_of(series)
        begun = record.get("outcome") == "translating"
        elsewhere = begun and record.get("worker") != self.name
        attempts = record.get("attempts", 0) if begun else 0
        return elsewhere, attempts, self.waiting[series["ID"]].number

    def _is_due(self, series: Json) -> bool:
        """Whether a series is complete, and may be tried now.

        An Orthanc that was restarted calls all its series stable.
        """
        waiting = self.waiting[series["ID"]]
        now = time.monotonic()
        if waiting.update != series["LastUpdate"]:
            waiting.update = series["LastUpdate"]
            waiting.seen = now
        announced = waiting.stable >= series["LastUpdate"]
        quiet = now - waiting.seen >= self.rules.service.quiet
        return series["IsStable"] and (announced or quiet) and now >= waiting.ready

    def _try(self, name: str) -> None:
        """Do what is next for a series; what cannot be done now is tried again later."""
        waiting = self.waiting[name]
        try:
            if self._advance(name):
                del self.waiting[name]
        except Changed:
            waiting.delay()
        except Exception as error:
            if isinstance(error, Away) and not isinstance(error, WrongAnswer):
                raise
            if not isinstance(error, (Refused, WrongAnswer)) and not may_pass(error):
                raise
            waiting.delay()
            self._note_failure(name, self._reason(error))
        finally:
            self._clear()

    def _clear(self) -> None:
        """Delete the temporary files of a translation."""
        shutil.rmtree(self.folder / WORK, ignore_errors=True)

    def _note_failure(self, name: str, reason: str) -> None:
        """Note why a series waits, or what was made of it is not sent yet."""
        self.log("waiting", name, reason=reason)

        def change(before: Json) -> Json:
            outcome = "sending" if before.get("outcome") == "sending" else "waiting"
            return before | {"outcome": outcome, "reason": reason, "attempts": 0}

        with unless_deleted():
            self.orthanc.update_record(name, change)

    def _advance(self, name: str) -> bool:
        """Do what is next for a series; returns whether it is settled."""
        (series,) = self.orthanc.series([name]) or [None]
        if series is None:
            return True
        record = record_of(series)
        if not record and str(RECORD) in series["Metadata"]:
            self.log("ignored", name, reason="its record has a shape that gantk does not write")
        if record.get("outcome") == "derived":  # since the changes were read
            return True
        instances = self.orthanc.instances(name)
        tags = series["MainDicomTags"]
        source = Source(name, tags["SeriesInstanceUID"], state_of(instances), instances)
        if record.get("state") == source.state:
            if record["outcome"] in SETTLED:
                return True
            if record["outcome"] == "sending":
                return self._send(source, record)

        if tags.get("SeriesDescription", "").endswith(MARK):  # a result that a PACS sends back
            self._settle(source, "left out", "it is synthetic")
            return True
        facts = facts_of(series)
        rule = next((rule for rule in self.rules.rules if matches(rule.when, facts)), None)
        if rule is None:
            self._settle(source, "left out", "no rule is for it")
            return True
        self._translate(rule, source)
        return False

    # ---- a translation

    def _translate(self, rule: RuleTable, source: Source) -> None:
        """Translate a source, give Orthanc the result and send it, or note why there is none."""
        if self._begin(source) > MAX_ATTEMPTS:
            reason = f"{MAX_ATTEMPTS} translations of it have ended the worker"
            self._settle(source, "failed", reason)
            return
        try:
            made, facts = self._make(rule, source)
        except (Away, Refused, Changed):
            raise
        except Exception as error:
            if may_pass(error):
                raise
            # another error is a defect of a model or a plugin: the next series may be well
            outcome = "refused" if isinstance(error, GantkError) else "failed"
            self._withdraw(source, set())
            self._settle(source, outcome, self._reason(error), derived=[])
        else:
            facts["send"] = rule.modalities
            self._send(source, self._deliver(source, made, facts))

    def _begin(self, source: Source) -> int:
        """Note that a translation begins; returns how many have begun without an end."""

        def change(before: Json) -> Json:
            same = before.get("state") == source.state
            ended = before.get("outcome") == "translating" and before.get("worker") != self.name
            attempts = before.get("attempts", 0) if same else 0
            if ended or not attempts:
                attempts += 1
            return before | self._facts_of_now(source, "translating", attempts=attempts, notes="")

        return self.orthanc.update_record(source.name, change)["attempts"]

    def _make(self, rule: RuleTable, source: Source) -> tuple[dict[str, dict[str, Path]], Json]:
        """Translate a source in a folder; returns the files of each derived series by their UIDs, and
        for the record the model and the notes: whether the source fits the training data, and why not.
        """
        from gantk import translate
        from gantk.inference.frame import FIT, FITS
        from gantk_serve.images import (
            expect_one_acquisition,
            name_results,
            source_digest,
            translation_key,
            worst_fit,
        )

        model, identity = self.model(rule.model)
        self._clear()
        work = make_folder(self.folder / WORK, private=True)
        inputs = make_folder(work / "series", private=True)
        same = self.orthanc.find_series(source.uid)
        if len(same) > 1:
            raise UserError(
                f"its SeriesInstanceUID is of {len(same)} patients or studies",
                remedy="send each with a SeriesInstanceUID of its own",
            )
        self._fetch(source.instances, inputs)
        expect_one_acquisition(inputs)

        notes = []

        def note(line: str) -> None:
            text = note_in(line)
            if text:
                notes.append(text)
                if FIT in text:  # other notes may quote a header
                    self.log("translating", source.name, note=text)

        key = translation_key(source_digest(inputs), identity, rule.to, rule.label)
        translate(
            model,
            inputs,
            work / "derived",
            to=rule.to or None,
            label=rule.label or None,
            say=note,
        )
        fits = worst_fit(notes)
        if FITS.index(fits) > FITS.index(rule.fits):
            raise UserError(f"{FIT}: {fits}, but the rule asks for {rule.fits}; {'; '.join(notes)}")
        facts = {"notes": self._without_places("; ".join(notes))}
        return name_results(work / "derived", key), facts

    def _fetch(self, instances: list[Json], folder: Path) -> None:
        """Write the files of a series, named by their instance numbers, which messages quote."""
        for each in instances:
            number = str(each["MainDicomTags"].get("InstanceNumber", "")).strip()
            stem = f"instance {number}" if number.isdecimal() else "instance"
            path = folder / f"{stem}.dcm"
            if path.exists():
                path = folder / f"{stem} {each['ID'][:8]}.dcm"
            path.write_bytes(self.orthanc.file(each["ID"]))

    def _deliver(self, source: Source, made: dict[str, dict[str, Path]], facts: Json) -> Json:
        """Give Orthanc the derived series, and withdraw earlier ones; returns the record."""
        if state_of(self.orthanc.instances(source.name)) != source.state:
            raise Changed

        new = set(made)
        self.orthanc.update_record(
            source.name,
            lambda before: (
                before
                | self._facts_of_now(source, "posting")
                | {"derived": sorted({*before.get("derived", []), *new})}
            ),
        )
        for uid, files in made.items():
            self._store(uid, files, source)
        earlier = self._withdraw(source, new)
        send = facts["send"]
        if earlier and send:
            facts["note"] = f"{', '.join(send)} may still have {', '.join(sorted(earlier))}"
        return self._settle(source, "sending", "", **facts, derived=sorted(new))

    def _store(self, uid: str, files: dict[str, Path], source: Source) -> None:
        """Give Orthanc those files of a derived series, by their UIDs, that it does not have."""
        there = {
            each["MainDicomTags"]["SOPInstanceUID"]
            for name in self.orthanc.find_series(uid)
            for each in self.orthanc.instances(name)
        }
        for instance, file in files.items():
            if instance not in there:
                self.orthanc.store(file.read_bytes())
        for name in self.orthanc.find_series(uid):
            record = {"outcome": "derived", "of": [source.name]}
            self.orthanc.update_record(name, lambda before, record=record: record)

    def _withdraw(self, source: Source, new: set[str]) -> set[str]:
        """Delete what was made of an earlier state of a source; returns its UIDs."""
        records = map(record_of, self.orthanc.series([source.name]))
        old = {uid for record in records for uid in record.get("derived", [])} - new
        for uid in old:
            for name in self.orthanc.find_series(uid):
                self.orthanc.delete(name)
        return old

    def _send(self, source: Source, record: Json) -> bool:
        """Let Orthanc send a derived series to the modalities that lack it; returns whether all have
        it.
        """
        series = [name for uid in record["derived"] for name in self.orthanc.find_series(uid)]
        left = []
        reason = ""
        for modality in record["send"]:
            try:
                self.orthanc.send(series, modality)
            except Refused as error:
                left.append(modality)
                reason = one_line(f"{modality}: {error}", MAX_REASON)
        if left:
            self.waiting[source.name].delay()
        if not left or (left, reason) != (record["send"], record.get("reason")):
            self._settle(source, "sending" if left else "done", reason, send=left)
        return not left

    # ---- what is noted

    def _facts_of_now(self, source: Source, outcome: str, **facts: Any) -> Json:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        own = {"gantk": __version__, "worker": self.name, "time": now, "state": source.state}
        return own | {"outcome": outcome, "reason": ""} | facts

    def _settle(self, source: Source, outcome: str, reason: str, **facts: Any) -> Json:
        """Note what became of a series; returns its record."""
        found = self._facts_of_now(source, outcome, reason=reason, attempts=0, **facts)
        self.log(outcome, source.name, reason=reason)
        return self.orthanc.update_record(source.name, lambda before: before | found)

    def log(self, event: str, series: str = "", **facts: object) -> None:
        """Say what happened, without a word of a header."""
        shown = [f"{name}={value}" for name, value in facts.items() if value not in ("", None)]
        self.say("  ".join([f"{event:11}", *filter(None, [series]), *shown]))

    def _reason(self, error: BaseException) -> str:
        """An error without the worker's paths, and without what it may quote of a header."""
        known = (GantkError, OSError, MemoryError, Away, Refused)
        failure = machine_failure(error)
        if failure is None and not isinstance(error, known):
            # without its text, which may quote a header
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}"
            return f"an unexpected error: {type(error).__name__} in {where}"
        return self._without_places(str(failure or error))

    def _without_places(self, text: str) -> str:
        """A message in one line, without the worker's paths and arguments of a command."""
        text = text.replace(f"{self.folder / WORK}{os.sep}", "")
        return one_line(text.replace("  (INPUT)", ""), MAX_REASON)


def state_of(instances: Iterable[Json]) -> str:
    """The state of a series: a digest of the identifiers of its files."""
    files = sorted(each["FileUuid"] for each in instances)
    return sha256(" ".join(files).encode()).hexdigest()[:16]


def serve(rules: str | Path, *, say: Say = print) -> None:
    """Run the worker of a rules file until Ctrl-C or a signal to stop.

    Args:
        rules: the path of a TOML file; the keys are those of `gantk_serve.rules.Rules`.
        say: called with a line for each event.

    Raises:
        UserError: the rules are wrong, Orthanc does not answer, another process has the worker's
            folder, a model cannot be loaded, or a package is missing.
    """
    loaded = load_rules(Path(rules))
    with importing("`gantk serve`", "serve"):
        from gantk_serve import images  # noqa: F401 (a package is missing before anything runs)

    warnings.simplefilter("ignore")  # those about DICOM quote headers
    orthanc = connect(loaded)
    folder = make_folder(Path(loaded.service.folder), private=True)
    restrict(folder, private=True)  # also one that was there
    with lock_folder(folder):
        worker = Worker(loaded, orthanc, say)
        for rule in loaded.rules:
            worker.model(rule.model)  # a wrong name is an error now
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stopping.set())
        say(f"orthanc     {orthanc.url}   (Ctrl-C stops the worker)")
        worker.run()
