"""Kills `gantk serve`, its Orthanc and the PACS again and again while studies arrive, and counts what
is lost, doubled or changed afterwards.

    python benchmarks/serve_kills.py [--kills 300] [--seed 0] [--minutes M] [--workers 1]
        [--each series] [--json FILE]

Studies of a T1 and a T2 series of 2 to 4 small slices arrive all the time; the sender sends again
what was not acknowledged. Two rules translate each series, or with `--each study` one rule makes a
FLAIR of both; the results go to the PACS, another Orthanc. One or more of the workers, Orthanc and
the PACS are killed by SIGKILL at a seeded moment, and started again. The workers' calls pass a relay,
which kills before or after Orthanc has done what a call asks for. At the end, what every series, or
study, became must be in Orthanc and in the PACS exactly once: one derived series with an instance for
each slice, with the same pixels in both.
"""

import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import requests

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from serving import (
    PACS,
    OrthancServer,
    Worker,
    free_ports,
    store_until_kept,
    study,
    tiny_model,
    wait_for,
)
from tiny import PATCHGAN, UNET, small_run

VICTIMS = (  # what is killed at a time
    ("worker",),
    ("worker",),
    ("orthanc",),
    ("pacs",),
    ("worker", "orthanc"),
    ("worker", "orthanc", "pacs"),
)
VICTIMS_OF_TWO = (*VICTIMS, ("worker 2",), ("worker", "worker 2"), ("worker 2", "orthanc"))
# the worker's call at which a kill of this moment comes; "": the moment is no call
MOMENTS = {
    "receiving": "",
    "fetching": "GET /instances/[^/]+/file",
    "translating": "",
    "posting": "POST /instances",
    "noting": "PUT /series/[^/]+/metadata/",
    "sending": "POST /modalities/",
}
OPEN_STUDIES = 8  # that are on their way at a time
STABLE_SECONDS = 4  # until Orthanc calls a series stable
QUIET_SECONDS = 8.0  # until the worker does, after a restart of Orthanc
PAUSE_SECONDS = 1.0  # at most, of a sender after each instance
AGAIN_SECONDS = 2.5  # at most, until a sender sends again what was not acknowledged
MOMENT_SECONDS = 60.0  # after which a kill does not wait for its moment any longer
SPREAD_SECONDS = 0.2  # at most, of a kill after a moment that is no call begins
CALL_SECONDS = 120.0
KEPT_HEADERS = ("Authorization", "Content-Type", "If-Match")
DRAIN_SECONDS = 900.0


@dataclass
class Kill:
    """What was killed, at which moment, and whether that moment came."""

    second: float
    victims: tuple[str, ...]
    moment: str
    reached: bool


@dataclass
class Outcome:
    """What is in Orthanc and in the PACS at the end."""

    sources: int  # series, or studies
    lost: list[str]
    doubled: list[str]
    changed: list[str]
    failed: list[str]
    kills: list[Kill]

    def sentence(self) -> str:
        """The numbers."""
        by_victim = Counter(victim for kill in self.kills for victim in kill.victims)
        shown = ", ".join(f"{count} of the {victim}" for victim, count in sorted(by_victim.items()))
        moments = Counter(kill.moment for kill in self.kills if kill.reached)
        reached = ", ".join(f"{count} times {moment}" for moment, count in moments.items())
        return (
            f"{by_victim.total()} kills ({shown}; while {reached}), {self.sources} sources,"
            f" {len(self.lost)} lost, {len(self.doubled)} doubled, {len(self.changed)} changed,"
            f" {len(self.failed)} failed"
        )

    def is_right(self) -> bool:
        """Whether every series is there once."""
        return not (self.lost or self.doubled or self.changed or self.failed)


class Relay(ThreadingHTTPServer):
    """Passes the worker's calls on to Orthanc. At the first call that `aim` names it kills."""

    daemon_threads = True

    def __init__(self, orthanc: OrthancServer):
        (port,) = free_ports(1)
        super().__init__(("127.0.0.1", port), RelayedCall)
        self.url = f"http://127.0.0.1:{port}"
        self.orthanc = orthanc
        self._aim: tuple[str, bool, Callable[[], None]] | None = None
        self._lock = threading.Lock()
        self._killed = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def aim(self, call: str, after: bool, kill: Callable[[], None]) -> bool:
        """Kill before or after the next call that a pattern describes; returns whether one came."""
        self._killed.clear()
        with self._lock:
            self._aim = (call, after, kill)
        self._killed.wait(MOMENT_SECONDS)
        with self._lock:
            missed = self._aim is not None
            self._aim = None
        if not missed:
            self._killed.wait()  # the kill has begun
        return not missed

    def passes(self, call: str, after: bool) -> None:
        """Kill, if this is what is waited for."""
        with self._lock:
            if self._aim is None or self._aim[1] != after or not re.match(self._aim[0], call):
                return
            kill = self._aim[2]
            self._aim = None
        kill()
        self._killed.set()

    def handle_error(self, *_: object) -> None:
        """Say nothing of a worker that was killed."""


class RelayedCall(BaseHTTPRequestHandler):
    """A call of the worker."""

    server: Relay
    protocol_version = "HTTP/1.1"

    def relay(self) -> None:
        """Ask Orthanc, and answer what it answers; nothing where it is away."""
        call = f"{self.command} {self.path}"
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: self.headers[name] for name in KEPT_HEADERS if name in self.headers}
        self.server.passes(call, after=False)
        self.close_connection = True
        with suppress(requests.RequestException):
            answer = requests.request(
                self.command,
                self.server.orthanc.url + self.path,
                data=content,
                headers=headers,
                timeout=CALL_SECONDS,
            )
            self.server.passes(call, after=True)
            self._answer(answer)

    do_GET = do_POST = do_PUT = do_DELETE = relay

    def _answer(self, answer: requests.Response) -> None:
        self.close_connection = False
        self.send_response(answer.status_code)
        for name in ("Content-Type", "ETag"):
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None:
        """Say nothing of each call."""


class Trial:
    """Workers, an Orthanc, a PACS and a sender in `folder`, of which all but the last are killed."""

    def __init__(self, folder: Path, model: Path, seed: int, workers: int, each: str):
        self.folder = folder
        self.seed = seed
        self.random = random.Random(seed)
        self.pacs = OrthancServer(folder, "pacs")
        self.orthanc = OrthancServer(folder, pacs=self.pacs.dicom, StableAge=STABLE_SECONDS)
        rules = [{"when": {"modality": "MR"}, "to": "FLAIR", "each": "study"}]
        if each == "series":
            ways = ("T1", "T2"), ("T2", "T1")
            rules = [{"when": {"contrast": one}, "to": other} for one, other in ways]
        rules = [rule | {"model": str(model), "send": PACS} for rule in rules]
        self.relay = Relay(self.orthanc)
        told = {"service": {"quiet": QUIET_SECONDS}, "orthanc": {"url": self.relay.url}}
        names = ["worker", "worker 2"][:workers]
        self.workers = [Worker(folder, told | {"rules": rules}, name) for name in names]
        own = dict(zip(names, self.workers, strict=True))
        self.parts = own | {"orthanc": self.orthanc, "pacs": self.pacs}
        self.victims = VICTIMS if workers == 1 else VICTIMS_OF_TWO
        self.each = each
        self.sent: dict[str, list[str]] = {}  # series, or study -> SOPInstanceUIDs
        self.slices: dict[str, int] = {}  # of its derived series
        self.stop = threading.Event()  # no more studies
        self.give_up = threading.Event()  # none at all, after an error

    def run(self, kills: int, minutes: float, say: Callable[[str], None]) -> Outcome:
        """Kill so many times, or for so long; then let everything arrive, and look."""
        begun = time.monotonic()
        done: list[Kill] = []
        with ExitStack() as stack:
            for part in (self.pacs, self.orthanc, *self.workers):
                stack.enter_context(part).start()
            threads = stack.enter_context(ThreadPoolExecutor(OPEN_STUDIES + 1))
            feeder = threads.submit(self._feed, threads)
            try:
                while killed(done) < kills and time.monotonic() < begun + 60 * minutes:
                    done.append(self._kill(time.monotonic() - begun, done))
                    say(f"{killed(done)}  {done[-1]}")
            except BaseException:
                self.give_up.set()
                raise
            finally:
                self.stop.set()
            feeder.result()
            wait_for(lambda: not self._on_the_way(), DRAIN_SECONDS)
            return self._look(done)

    def _feed(self, threads: ThreadPoolExecutor) -> None:
        """Send study after study; few are on their way at a time."""
        senders = []
        sizes = random.Random(self.seed + 1)
        number = 0
        while not self.stop.is_set():
            slices = sizes.randint(2, 4)
            files = study(self.folder / "studies", number, ("T1", "T2"), slices)
            for file in files:
                name = file.parent.name if self.each == "series" else str(number)
                self.sent.setdefault(name, []).append(uid_of(file))
                self.slices[name] = slices
            waits = sizes.uniform(0.0, PAUSE_SECONDS), sizes.uniform(0.1, AGAIN_SECONDS)
            given = self.orthanc, files, self.give_up, *waits
            senders.append(threads.submit(store_until_kept, *given))
            number += 1
            wait_for(lambda: self.stop.is_set() or self._on_the_way() < OPEN_STUDIES, 3600.0)
            self.stop.wait(0.5)
        for sender in senders:
            sender.result()

    def _records(self) -> list[dict[str, Any]]:
        """The records of all series; none where Orthanc is away."""
        try:
            return self.orthanc.records()
        except (OSError, ValueError):
            return []

    def _outcomes(self) -> Counter[str]:
        """The number of series by outcome."""
        return Counter(each.get("outcome", "") for each in self._records())

    def _has_begun(self) -> bool:
        """Whether a worker that runs now has done something."""
        names = [f"-{worker.process.pid}-" for worker in self.workers]
        records = self._records()
        return any(name in each.get("worker", "") for each in records for name in names)

    def _receives(self) -> bool:
        return self._has_begun() and self._outcomes()[""] > 0

    def _translates(self) -> bool:
        return any((worker.folder / "work" / "derived").exists() for worker in self.workers)

    def _on_the_way(self) -> int:
        """Studies of which the PACS does not have all."""
        done = self._outcomes()["done"]  # of series
        series = len(self.sent) * (1 if self.each == "series" else 2)
        return (series - done + 1) // 2

    def _kill(self, second: float, before: Sequence[Kill]) -> Kill:
        """Kill some parts at the moment that came least often before, and start them again."""
        victims = self.random.choice(self.victims)
        times = Counter(kill.moment for kill in before if kill.reached)
        moment = min(self.random.sample([*MOMENTS], len(MOMENTS)), key=lambda name: times[name])

        def kill() -> None:
            for name in victims:
                self.parts[name].kill()

        call = MOMENTS[moment]
        after = self.random.random() < 0.5
        delay = self.random.uniform(0.0, SPREAD_SECONDS)
        if call:
            reached = self.relay.aim(call, after, kill)
        else:
            is_now = self._receives if moment == "receiving" else self._translates
            reached = bool(wait_for(is_now, MOMENT_SECONDS))
            threading.Event().wait(delay)
        if not (call and reached):
            kill()
        for name in reversed(victims):
            self.parts[name].start()
        return Kill(round(second, 2), victims, moment, reached)

    def _look(self, kills: list[Kill]) -> Outcome:
        derived = {"orthanc": self.orthanc.derived(), "pacs": self.pacs.derived()}
        lost = []
        doubled = []
        changed = []
        for name, sources in self.sent.items():
            for place, found in derived.items():
                here = [found.get(uid, {}) for uid in sources]
                made = {series for each in here for series in each}
                instances = sum(len(each) for one in here for each in one.values())
                if instances < self.slices[name]:
                    lost.append(f"{name} in {place}")
                if len(made) > 1 or instances > self.slices[name]:
                    doubled.append(f"{name} in {place}")
            if any(derived["orthanc"].get(uid) != derived["pacs"].get(uid) for uid in sources):
                changed.append(name)

        failed = []
        for record in self.orthanc.records():
            if record.get("outcome") != "done":
                failed.append(f"{record.get('outcome')}: {record.get('reason')}")
        return Outcome(len(self.sent), lost, doubled, changed, failed, kills)


def tiny_model_of_studies(folder: Path) -> Path:
    """As `tiny_model`, but it makes that of T1, T2 and FLAIR which a study lacks."""
    method = {"name": "anytoany", "generator": UNET, "discriminator": PATCHGAN}
    return small_run(folder, method, domains=["T1+T2+FLAIR"] * 2, missing="mask")


def killed(kills: Sequence[Kill]) -> int:
    """The number of processes that were killed."""
    return sum(len(kill.victims) for kill in kills)


def uid_of(file: Path) -> str:
    """The SOPInstanceUID of a file."""
    return str(pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def main(arguments: list[str] | None = None) -> None:
    from gantk.machine.runtime import start
    from gantk_bench.harness import parser, record, write

    cli = parser(__doc__)
    cli.add_argument("--kills", type=int, default=300, help="default %(default)s")
    cli.add_argument("--seed", type=int, default=0, help="default %(default)s")
    cli.add_argument("--minutes", type=float, default=600.0, help="at most; default %(default)g")
    cli.add_argument("--workers", type=int, choices=(1, 2), default=1, help="default %(default)s")
    cli.add_argument(
        "--each", choices=("series", "study"), default="series", help="default %(default)s"
    )
    options = cli.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_model = tiny_model if options.each == "series" else tiny_model_of_studies
        given = options.seed, options.workers, options.each
        trial = Trial(folder / "trial", make_model(folder), *given)
        outcome = trial.run(options.kills, options.minutes, print)
    print(outcome.sentence())
    found = asdict(outcome)
    found |= {"seed": options.seed, "workers": options.workers, "each": options.each}
    write(options.json, record(start("cpu"), **found))
    sys.exit(0 if outcome.is_right() else 1)


if __name__ == "__main__":
    main()
